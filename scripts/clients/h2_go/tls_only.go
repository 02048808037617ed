//go:build !go1.24

// Earlier releases have HTTP/2 over TLS only.

package main

import "net/http"

func withoutTLS(*http.Transport) {}
