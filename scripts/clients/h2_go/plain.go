//go:build go1.24

// HTTP/2 without TLS, by prior knowledge.

package main

import "net/http"

func withoutTLS(transport *http.Transport) {
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetUnencryptedHTTP2(true)
}
