//! Tools of the integration tests: a fake upstream registry with scripted failures, a strict
//! client, and the cache under test between the two.
//!
//! Uses blocking sockets and threads. The harness shares no code, no runtime and no HTTP library
//! with the server, so a bug in the server cannot be hidden by an equal bug in the harness.
#![allow(dead_code, reason = "not every scenario uses every part of the harness")]

pub mod bucket;
pub mod client;
pub mod collector;
pub mod content;
pub mod disk;
pub mod h2;
pub mod hpack;
pub mod htpasswd;
pub mod image;
pub mod jwt;
pub mod metadata;
pub mod pki;
pub mod port;
pub mod real;
pub mod registry;
pub mod server;
pub mod tokens;
pub mod volume;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use bucket::{Bucket, Fault};
pub use client::{Broken, Client, Connection, Response};
pub use collector::{Answering, Collector, Span};
pub use content::{Content, PseudoRandom};
pub use image::{Flavor, Image};
pub use metadata::Metadata;
pub use pki::{Authority, Issued};
pub use port::Port;
pub use registry::access::basic;
pub use registry::{Auth, Budget, Cut, Framing, Gate, Kind, On, Preset, Range, Registry, Reply, Scheme};
pub use server::Server;

/// Header fields in wire order; names as written, values raw.
pub type Fields = Vec<(String, Vec<u8>)>;

/// The longest time that the harness waits before a test fails.
///
/// Only failing tests spend the full time. Two cores may run eight tests concurrently.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The first value of `name`, as text.
pub fn field<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a str> {
    fields
        .iter()
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .and_then(|(_, value)| std::str::from_utf8(value).ok())
}

/// Returns an upstream with a stored blob of `size` bytes, the cache, the content and the blob's
/// path.
pub fn stored(size: u64) -> (Registry, Server, PseudoRandom, String) {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), size);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    cache.client().pull(&path, &content);
    eventually("the blob is stored", || {
        // On a slow disk, the cache continues a pull without storing. The next pull stores again.
        if cache.stderr().contains("pull continues without storing") {
            cache.client().pull(&path, &content);
        }
        cache.is_stored(&content.digest())
    });
    (upstream, cache, content, path)
}

/// Waits until `path`, whose content is stored, is served from the store. Requests join a fill until
/// its end, which is after the commit.
#[track_caller]
pub fn wait_hit(cache: &Server, path: &str) {
    eventually("stored content is a hit", || {
        cache.client().get(path).x_cache() == "HIT"
    });
}

/// Repeats a call while the system interrupts the call. With a read timeout, a pause of the machine
/// also interrupts a `read`.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Returns the number of kills of a test that kills a cache many times: `KILLS`, or else 100.
pub fn kills() -> usize {
    std::env::var("KILLS").map_or(100, |text| text.parse().expect("KILLS is a number"))
}

/// Calls `condition` every 5 ms until the condition holds.
///
/// For states without an event, such as files of another process. If there is an event, wait for
/// the event.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Raises the soft limit on open files to the hard limit, for this process and servers started
/// later.
///
/// The usual soft limit of 1,024 exists for programs that call `select`. Some tests open a thousand
/// connections.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the soft limit is raised to the hard limit");
}

/// A small seeded generator (splitmix64). A test prints the seed and can be repeated with `SEED`.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// Takes the seed from `SEED`, or else from the clock, and prints the seed.
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

/// Returns a new seed on each call within this process.
pub fn fresh_seed() -> u64 {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    content::mix(now.as_nanos() as u64 ^ CALLS.fetch_add(1, Ordering::Relaxed).rotate_left(40))
}
