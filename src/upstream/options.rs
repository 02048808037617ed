//! Deadlines of upstream requests, and the resolver of host names.

use std::sync::Arc;
use std::time::Duration;

use super::resolve;

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// For the addresses of a name. glibc queries the next name server after five seconds: two may be down.
    pub resolve: Duration,
    /// TCP and TLS together.
    pub connect: Duration,
    /// From sending a request to its response head, for each hop.
    pub head: Duration,
    /// For each few KiB of a body.
    pub idle: Duration,
    /// For a token, all of it.
    pub token: Duration,
    /// For all requests to one mirror, before the next mirror; and for each few KiB of its bodies.
    pub mirror: Duration,
    /// For the registry itself, whatever its mirrors took. Hops and rounds have deadlines of their own, but an upstream
    /// that uses each of them up would keep a client for minutes.
    pub exchange: Duration,
    /// The same for [`Purpose::Revalidate`](super::Purpose::Revalidate): the client could get the held copy.
    pub revalidate: Duration,
    /// For a request slot (`max_concurrency`).
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
    /// For the addresses of a registry of which something is held: a failed lookup leaves time for the error.
    pub(super) fn resolve_to_revalidate(&self) -> Duration {
        self.resolve.min(self.revalidate / 2)
    }
}

/// The environment of [`Upstreams`](super::Upstreams), for tests to replace.
#[derive(Clone)]
pub struct Options {
    pub deadlines: Deadlines,
    /// Where names are looked up; what it answers is filtered all the same.
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
