//! HTTP/1.1 on the wire, with clients and with registries.

/// Valid and invalid HTTP/1.1 requests. The parser's unit tests also include this file.
#[allow(dead_code, reason = "only the unit tests of the parser use the bounds")]
mod corpus;

/// The corpus against the running server, pipelining, and the order of closing.
mod wire;

/// The corpus, parsed by another HTTP server.
mod wire_twice;

/// Valid, borderline and invalid upstream responses.
mod upstream_wire;
