//! Cores share new connections. A core with more connections than its share hands new ones over,
//! and no connection is lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::client::Why;
use crate::harness::*;

const CORES: usize = 4;

/// Returns the connections per core from the last log lines.
pub fn shares(cache: &Server) -> BTreeMap<usize, usize> {
    let log = cache.stderr();
    let number = |line: &str, name: &str| -> Option<usize> {
        let (_, rest) = line.split_once(name)?;
        rest.split_whitespace().next()?.parse().ok()
    };
    log.lines()
        .filter(|line| line.contains("msg=\"open connections\" core="))
        .filter_map(|line| Some((number(line, "core=")?, number(line, "count=")?)))
        .collect()
}

fn start() -> Server {
    Server::bare()
        .cores(CORES as u32)
        .env("LOG_LEVEL", "debug")
        .start()
}

#[test]
fn few_connections_are_spread_over_all_cores() {
    for clients in [8, 16, 40] {
        let cache = start();
        let mut connections: Vec<_> = (0..clients).map(|_| cache.client().open()).collect();
        for connection in &mut connections {
            connection.request("GET", "/v2/", &[]).unwrap();
            connection.read("GET").unwrap().expect(b"{}");
        }
        eventually("the connection counts of the cores add up", || {
            shares(&cache).values().sum::<usize>() == clients
        });
        let shares = shares(&cache);
        let most = shares.values().max().copied().unwrap_or_default();
        assert!(
            2 * most * CORES <= 3 * clients,
            "a core has more than 1.5 times the mean: {shares:?}"
        );
        // Connections that moved to another core are served as usual.
        for connection in &mut connections {
            connection.request("GET", "/v2/", &[]).unwrap();
            connection.read("GET").unwrap().expect(b"{}");
        }
        drop(connections);
        eventually("no core counts a connection", || {
            self::shares(&cache).values().all(|share| *share == 0)
        });
    }
}

/// Eight threads open and close connections that move between cores, until the server stops. Every
/// client is served or sees the connection close. No client hangs, and the server exits.
#[test]
fn connections_moving_between_cores_are_served_or_closed_at_shutdown() {
    let mut cache = start();
    let (served, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let addr = cache.addr();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    // Several connections at a time per thread, for different cores.
                    let connections: Vec<_> = (0..6).map_while(|_| Connection::open(addr).ok()).collect();
                    for mut connection in connections {
                        let _ = connection.request("GET", "/v2/", &[("Connection", "close")]);
                        match connection.read("GET") {
                            Ok(response) => {
                                response.expect(b"{}");
                                served.fetch_add(1, Ordering::SeqCst);
                            }
                            // The connection arrived shortly before the listener closed.
                            Err(broken) => {
                                assert!(matches!(broken.why, Why::NoResponse | Why::Reset), "{broken:?}");
                                stop.store(true, Ordering::SeqCst);
                            }
                        }
                    }
                }
            });
        }
        eventually("a thousand requests are served", || {
            served.load(Ordering::SeqCst) >= 1_000
        });
        cache.sigterm();
        let status = cache.wait_exit(Duration::from_secs(25));
        stop.store(true, Ordering::SeqCst);
        assert!(
            status.is_some_and(|status| status.success()),
            "the server did not exit with 0: {status:?}"
        );
    });
    assert!(cache.stderr().contains("shutdown finished"), "{}", cache.stderr());
}
