// Signs and verifies with notation-go, the library of the notation command, like the command does. Replaces the command if
// the command cannot be built.
//
//	notation-library sign   DIRECTORY REGISTRY/REPOSITORY@DIGEST
//	notation-library verify DIRECTORY REGISTRY/REPOSITORY:TAG
//
// DIRECTORY contains the trust store. `sign` generates a key, signs with the key, and adds its certificate to the store.
package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/notaryproject/notation-core-go/testhelper"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/dir"
	"github.com/notaryproject/notation-go/registry"
	"github.com/notaryproject/notation-go/signer"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	"oras.land/oras-go/v2/registry/remote"
)

const store = "test.example"

func main() {
	if len(os.Args) != 4 {
		fail(fmt.Errorf("usage: notation-library sign|verify DIRECTORY REFERENCE"))
	}
	command, directory, reference := os.Args[1], os.Args[2], os.Args[3]
	remote, err := remote.NewRepository(reference)
	if err != nil {
		fail(err)
	}
	remote.PlainHTTP = true
	dir.UserConfigDir = directory
	switch command {
	case "sign":
		err = sign(remote, directory, reference)
	case "verify":
		err = verify(remote, reference)
	default:
		err = fmt.Errorf("unknown command %q; expected sign or verify", command)
	}
	if err != nil {
		fail(err)
	}
}

func sign(remote *remote.Repository, directory, reference string) error {
	pair := testhelper.GetRSASelfSignedSigningCertTuple(store)
	signer, err := signer.NewGenericSigner(pair.PrivateKey, []*x509.Certificate{pair.Cert})
	if err != nil {
		return err
	}
	trusted := filepath.Join(directory, "truststore", "x509", "ca", store)
	if err := os.MkdirAll(trusted, 0o700); err != nil {
		return err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Cert.Raw})
	if err := os.WriteFile(filepath.Join(trusted, "test.pem"), block, 0o600); err != nil {
		return err
	}
	_, err = notation.Sign(context.Background(), signer, registry.NewRepository(remote), notation.SignOptions{
		SignerSignOptions: notation.SignerSignOptions{SignatureMediaType: jws.MediaTypeEnvelope},
		ArtifactReference: reference,
	})
	return err
}

func verify(remote *remote.Repository, reference string) error {
	policy := trustpolicy.Document{
		Version: "1.0",
		TrustPolicies: []trustpolicy.TrustPolicy{{
			Name:                  "all",
			RegistryScopes:        []string{"*"},
			SignatureVerification: trustpolicy.SignatureVerification{VerificationLevel: trustpolicy.LevelStrict.Name},
			TrustStores:           []string{"ca:" + store},
			TrustedIdentities:     []string{"*"},
		}},
	}
	verifier, err := verifier.New(&policy, truststore.NewX509TrustStore(dir.ConfigFS()), nil)
	if err != nil {
		return err
	}
	ctx, repository := context.Background(), registry.NewRepository(remote)
	// Like the notation command, resolves a tag first and verifies by digest.
	subject, err := repository.Resolve(ctx, reference)
	if err != nil {
		return err
	}
	parsed := remote.Reference
	parsed.Reference = subject.Digest.String()
	_, outcomes, err := notation.Verify(ctx, verifier, repository, notation.VerifyOptions{
		ArtifactReference:    parsed.String(),
		MaxSignatureAttempts: 100,
	})
	if err != nil {
		return err
	}
	fmt.Printf("verified %s: %d signatures\n", parsed, len(outcomes))
	return nil
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "notation-library:", err)
	os.Exit(1)
}
