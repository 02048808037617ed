//go:build !go1.24

// Earlier releases support HTTP/2 only over TLS.

package main

import "net/http"

func withoutTLS(*http.Transport) {}
