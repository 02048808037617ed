//! What every scenario is built from: a fake upstream that can be told to misbehave, a client that believes
//! nothing, and the cache under test between them.
//!
//! Blocking sockets and threads on purpose: the harness shares no code, no runtime and no HTTP library with the
//! server, so a mistake there cannot hide a mistake here.
#![allow(
    dead_code,
    reason = "a toolbox; not every tool is used by a scenario at every time"
)]

pub mod bucket;
pub mod client;
pub mod content;
pub mod disk;
pub mod h2;
pub mod hpack;
pub mod image;
pub mod jwt;
pub mod metadata;
pub mod pki;
pub mod real;
pub mod registry;
pub mod server;
pub mod tokens;
pub mod volume;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use bucket::{Bucket, Trouble};
pub use client::{Broken, Client, Connection, Response};
pub use content::{Content, PseudoRandom};
pub use image::{Flavor, Image};
pub use metadata::Metadata;
pub use pki::{Authority, Issued};
pub use registry::access::basic;
pub use registry::{Auth, Budget, Cut, Framing, Gate, Kind, On, Preset, Range, Registry, Reply, Scheme};
pub use server::Server;

/// Header fields in wire order; names as written, values raw.
pub type Fields = Vec<(String, Vec<u8>)>;

/// How long anything in the harness waits before it gives up and fails the test.
///
/// Generous, because it is spent only by failing tests: two cores may be running eight of them.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The first value of `name`, as text.
pub fn field<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a str> {
    fields
        .iter()
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .and_then(|(_, value)| std::str::from_utf8(value).ok())
}

/// An upstream with one blob of `size` bytes that a cache has pulled and stored, and its path there.
pub fn stored(size: u64) -> (Registry, Server, PseudoRandom, String) {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), size);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    cache.client().pull(&path, &content);
    cache.wait_stored(&content.digest());
    (upstream, cache, content, path)
}

/// Calls `condition` every few milliseconds until it holds.
///
/// For states that raise no event, such as another process's files; where there is an event, wait for that.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lets this process (and servers started later) open as many files as the system allows it to.
///
/// The usual soft limit of 1,024 is for programs that call `select`; a test with a thousand connections is not one.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the soft limit may rise to the hard one");
}

/// A small seeded generator (splitmix64); a test prints its seed and can be repeated with `SEED`.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// Seeded from `SEED`, or else from the clock; prints what it took.
    pub fn for_test(name: &str) -> Self {
        let seed = match std::env::var("SEED") {
            Ok(text) => text.parse().expect("SEED is a number"),
            Err(_) => fresh_seed(),
        };
        eprintln!("{name}: SEED={seed}");
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        content::mix(self.0)
    }

    /// Uniform enough in `0..bound`; `bound` must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// A seed no other call in this process returned.
pub fn fresh_seed() -> u64 {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    content::mix(now.as_nanos() as u64 ^ CALLS.fetch_add(1, Ordering::Relaxed).rotate_left(40))
}
