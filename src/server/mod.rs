//! Bytes to HTTP messages and back. Knows HTTP, knows nothing about registries.

mod accept;
mod access_log;
mod connection;
mod connection_limits;
mod core;
mod deadlines;
pub mod h1;
mod h2;
mod listen;
mod pages;
mod rebalance;
mod stream;
pub mod tls;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use crate::http::{Ready, RequestHead, Response};

pub use accept::serve;
pub use access_log::AccessLog;
pub use connection_limits::{ConnectionLimits, default_max};
pub use core::{CoreResources, Server};
#[cfg(any(test, fuzzing))]
pub use h2::fuzz;
pub use listen::{BIND_WAIT, Listener, bind};

/// What answers requests on one core.
pub trait Handler: 'static {
    /// The answer, when it lies encoded in this core's memory. Called for every request, so it must not
    /// allocate or wait.
    fn ready(&self, head: &RequestHead<'_>) -> Option<Rc<Ready>>;

    /// The answer to anything else.
    ///
    /// # Cancellation
    ///
    /// Dropped when the client resets its stream of HTTP/2, and by a panic. Must leave nothing behind.
    fn answer<'a>(&'a self, head: &'a RequestHead<'a>) -> Pin<Box<dyn Future<Output = Response> + 'a>>;

    /// Told when the file of an answer to `head` could not be read, or ended early. The client has been cut off;
    /// the next one should do better.
    fn file_failed(&self, head: &RequestHead<'_>);
}
