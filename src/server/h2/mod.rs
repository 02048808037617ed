//! HTTP/2 (RFC 9113) for clients that send its preface: the `h2` crate between our sockets and our handler.
//!
//! One task per connection drives the crate and answers what is in memory; everything else is a task per stream. Not
//! here: `Upgrade: h2c`, which nobody needs to be offered, pushes and extended CONNECT.

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
