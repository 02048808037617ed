//! Deadlines of upstream requests, and the resolver of host names.

use std::sync::Arc;
use std::time::Duration;

use super::resolve;

/// The deadlines of upstream requests.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// A name lookup. glibc queries the next name server after five seconds, so two servers may be
    /// down.
    pub resolve: Duration,
    /// TCP and TLS together.
    pub connect: Duration,
    /// From sending a request to its response head, per hop.
    pub head: Duration,
    /// Every few KiB of a body.
    pub idle: Duration,
    /// The whole request for a token.
    pub token: Duration,
    /// All requests to one mirror, before the next mirror is used. Also every few KiB of its
    /// bodies.
    pub mirror: Duration,
    /// The whole exchange with the registry, not counting its mirrors. Hops and rounds have their
    /// own deadlines, but an upstream using all of them would block a client for minutes.
    pub exchange: Duration,
    /// The exchange for [`Purpose::Revalidate`](super::Purpose::Revalidate). Shorter, because the
    /// held copy is an alternative.
    pub revalidate: Duration,
    /// The wait for a request slot (`max_concurrency`).
    pub queue: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            resolve: Duration::from_secs(12),
            connect: Duration::from_secs(5),
            head: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            token: Duration::from_secs(10),
            mirror: Duration::from_secs(10),
            exchange: Duration::from_secs(60),
            revalidate: Duration::from_secs(5),
            queue: Duration::from_secs(30),
        }
    }
}

impl Deadlines {
    /// Returns the lookup deadline of a revalidation. A failed lookup leaves time for its error.
    pub(super) fn resolve_to_revalidate(&self) -> Duration {
        self.resolve.min(self.revalidate / 2)
    }
}

/// The environment of [`Upstreams`](super::Upstreams), for tests to replace.
#[derive(Clone)]
pub struct Options {
    pub deadlines: Deadlines,
    /// The resolver of host names. The policy filters its addresses.
    pub resolver: Arc<dyn reqwest::dns::Resolve>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            deadlines: Deadlines::default(),
            resolver: Arc::new(resolve::SystemResolver::default()),
        }
    }
}
