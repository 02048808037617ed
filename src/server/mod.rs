//! The HTTP server: accepts connections, parses requests and sends responses. Independent of OCI
//! registries.

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
mod request_ids;
mod request_span;
mod stream;
pub mod tls;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use crate::http::{Ready, RequestDetails, RequestHead, Response};

pub use accept::serve;
pub use access_log::AccessLog;
pub use connection_limits::{ConnectionLimits, default_max};
pub use core::{CoreResources, Server};
#[cfg(any(test, fuzzing))]
pub use h2::fuzz;
pub use listen::{BIND_WAIT, Listener, bind};
pub use rebalance::HandoffQueues;

/// Answers the requests of one core.
pub trait Handler: 'static {
    /// Returns the response if this core's memory holds an encoded copy. Called for every request,
    /// and must not allocate or wait.
    fn ready(&self, head: &RequestHead<'_>) -> Option<Rc<Ready>>;

    /// Answers a request that [`Handler::ready`] did not answer. Adds facts for the access log to
    /// `details`.
    ///
    /// # Cancellation
    ///
    /// Dropped if the client closes the connection or resets the HTTP/2 stream, and by a panic.
    /// Must then leave no state behind.
    fn answer<'a>(
        &'a self,
        head: &'a RequestHead<'a>,
        details: &'a RequestDetails,
    ) -> Pin<Box<dyn Future<Output = Response> + 'a>>;

    /// Called every [`CONNECTION_SWEEP_INTERVAL`](crate::limits::CONNECTION_SWEEP_INTERVAL), for
    /// periodic work. Must not wait.
    fn tick(&self);

    /// Called when the file of a response to `head` was unreadable or too short. The connection or
    /// stream of the client has been reset. The next client should receive a complete response.
    fn file_failed(&self, head: &RequestHead<'_>);
}
