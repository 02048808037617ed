//! HTTP/2: requests, grammar, floods.

/// Requests and bodies over concurrent streams, compared with HTTP/1.1.
mod streams;

/// Floods. The server closes the flooding connection.
mod flood;

/// RFC 9113 and RFC 7541, case by case.
mod spec;
