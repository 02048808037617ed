//! HTTP/2 (RFC 9113) for clients that send its preface. Uses the `h2` crate between the socket and
//! the handler.
//!
//! A task per connection drives the crate and sends responses from memory. Each other response runs
//! in a separate task per stream. Not supported: `Upgrade: h2c` (no client needs it), server push
//! and extended CONNECT.

mod body;
mod connection;
mod frame_limits;
#[cfg(any(test, fuzzing))]
#[path = "tests/fuzz.rs"]
pub mod fuzz;
mod io;
mod request;
mod send_buffer;
mod shared;
mod stream;
mod unread;

pub use connection::{AcceptedH2, serve};
pub use frame_limits::PREFACE;
