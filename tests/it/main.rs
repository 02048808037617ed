//! The server, tested from outside: a fake upstream on one side, byte-exact clients on the other.
//!
//! Each folder is a feature, each file a theme, each test a sentence that is true of the running binary; the table of
//! features and the environment variables are in `tests/README.md`. Every test starts an upstream, a server and a store of
//! its own, so tests run in any order and in parallel.

#![allow(
    clippy::disallowed_methods,
    reason = "tests run on threads of their own, read their settings from the environment, and wait for processes"
)]

/// The fake upstream, the client, the server's process, the store checker.
mod harness;

mod client_auth;
mod config;
mod house;
mod http1;
mod http2;
mod lifecycle;
mod overload;
mod pull;
mod s3;
mod storage;
mod tags;
mod tls;
mod upstream;
mod upstream_auth;
