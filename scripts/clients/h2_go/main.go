// Fetches all objects of a list concurrently with Go's HTTP/2 client, and compares digests.
// Arguments: URL CA LIST. CA is empty without TLS.
package main

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
)

// get fetches an object and compares its digest.
func get(client *http.Client, url, digest string) error {
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, response.Body); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	if response.StatusCode != 200 || response.ProtoMajor != 2 {
		return fmt.Errorf("%s: status %s over %s; expected 200 over HTTP/2", url, response.Status, response.Proto)
	}
	if found := fmt.Sprintf("sha256:%x", hash.Sum(nil)); found != digest {
		return fmt.Errorf("%s: digest %s; expected %s", url, found, digest)
	}
	return nil
}

func run(url, ca, list string) error {
	transport := &http.Transport{ForceAttemptHTTP2: true}
	if ca == "" {
		withoutTLS(transport)
	} else {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	client := &http.Client{Transport: transport}
	text, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	// Several times the limit of concurrent streams. The client may open a connection for each request
	// before the protocol is known, and max_connections_per_client is 1000.
	small := lines[len(lines)-1]
	for i := 0; i < 500; i++ {
		lines = append(lines, small)
	}
	errors := make(chan error, len(lines))
	var all sync.WaitGroup
	for _, line := range lines {
		digest, path, _ := strings.Cut(line, " ")
		all.Add(1)
		go func() {
			defer all.Done()
			errors <- get(client, url+path, digest)
		}()
	}
	all.Wait()
	close(errors)
	for err := range errors {
		if err != nil {
			return err
		}
	}
	return nil
}

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
