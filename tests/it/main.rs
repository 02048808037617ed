//! End-to-end tests of the server, with a fake upstream and byte-exact clients.
//!
//! Each folder is a feature, each file a topic, each test a statement about the running binary.
//! `tests/README.md` lists the features and the environment variables. Every test starts a separate
//! upstream, server and store, so tests run in any order and in parallel.

#![allow(
    clippy::disallowed_methods,
    reason = "tests run on separate threads, read settings from the environment, and wait for processes"
)]
#![allow(
    clippy::disallowed_types,
    reason = "a poisoned lock fails the test, and condition variables need the locks of the standard library"
)]

/// The fake upstream, the client, the server's process, the store checker.
mod harness;

mod client_auth;
mod config;
mod house;
mod http1;
mod http2;
mod lifecycle;
mod manage;
mod overload;
mod pull;
mod s3;
mod storage;
mod tags;
mod tls;
mod traces;
mod upstream;
mod upstream_auth;
