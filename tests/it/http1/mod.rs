//! HTTP/1.1 on the wire, with clients and with registries.

/// Requests on the edge of HTTP/1.1; the parser's unit tests read this file too.
#[allow(dead_code, reason = "only the parser's unit tests use its bounds")]
mod corpus;

/// The corpus against the running server, pipelining, and the order of closing.
mod wire;

/// The corpus, parsed by another HTTP server.
mod wire_twice;

/// Upstream responses on the edge of HTTP/1.1.
mod upstream_wire;
