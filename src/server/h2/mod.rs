//! HTTP/2 (RFC 9113), for clients that begin with it: the `h2` crate between our sockets and our handler.
//!
//! One task per connection drives the crate and answers what is in memory; everything else is a task per stream. Not
//! here: `Upgrade: h2c`, which nobody needs to be offered, pushes and extended CONNECT.

mod body;
mod chunk;
mod connection;
mod count;
mod exchange;
#[cfg(any(test, fuzzing))]
#[path = "tests/fuzz.rs"]
pub mod fuzz;
mod request;
mod unread;
mod wire;

pub use connection::{Begun, serve};
pub use count::PREFACE;
