//! The command `top`: the figures of a running cache.

use serde_json::Value;

use super::{fails, pull, run, send_json, started};
use crate::harness::*;

const MIB: u64 = 1024 * 1024;

/// A cache with a blob that waits for `gate` in the middle of its download.
struct Stalled {
    cache: Server,
    upstream: Registry,
    gate: Gate,
    digest: String,
}

fn stalled() -> Stalled {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream));
    let size = 4 * MIB;
    let digest = upstream.blob(PseudoRandom::new(fresh_seed(), size));
    let gate = Gate::new();
    upstream.on(On::path(&digest).get(), Reply::new().hold_at(size / 2, &gate));
    Stalled {
        cache,
        upstream,
        gate,
        digest: digest.to_string(),
    }
}

impl Stalled {
    /// Runs `work` while a client waits for the second half of the blob.
    fn during_fill(&self, work: impl FnOnce()) {
        let path = self.upstream.blob_url("org/stalled", &self.digest);
        std::thread::scope(|scope| {
            let client = scope.spawn(|| self.cache.client().get(&path));
            self.gate.wait_arrived(1);
            // An assertion that fails opens the gate, and the client ends.
            let opened = OpenAtEnd(&self.gate);
            eventually("the fill has the first half", || {
                let (_, fills) = send_json(&self.cache, "GET", "/api/v1/fills", "");
                fills["fills"][0]["bytes"] == 2 * MIB
            });
            work();
            drop(opened);
            assert_eq!(client.join().expect("a client").status, 200);
        });
    }

    fn short_digest(&self) -> &str {
        &self.digest["sha256:".len()..][..12]
    }

    /// Pulls an image twice: each lookup of the second pull is a hit.
    fn pull_twice(&self) {
        let image = Image::small(&self.upstream, "org/app", "v1", fresh_seed());
        for _ in 0..2 {
            pull(&self.cache, &self.upstream, "org/app", "v1", &image);
        }
    }
}

struct OpenAtEnd<'a>(&'a Gate);

impl Drop for OpenAtEnd<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

fn output(cache: &Server, arguments: &[&str]) -> String {
    let output = run(cache, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("the output is text")
}

#[test]
fn top_once_shows_the_fill_its_percentage_and_the_hit_ratio() {
    let stalled = stalled();
    stalled.pull_twice();
    stalled.during_fill(|| {
        let text = output(&stalled.cache, &["top", "--once", "--interval", "100ms"]);
        let fill = text
            .lines()
            .find(|line| line.contains("org/stalled"))
            .unwrap_or_else(|| panic!("{text}"));
        let upstream = stalled.upstream.addr().to_string();
        for part in [
            stalled.short_digest(),
            "50 %",
            "2.10 MB of 4.19 MB",
            "0 B/s",
            &upstream,
        ] {
            assert!(fill.contains(part), "{part}: {text}");
        }
        assert!(text.contains("1: fills in progress"), "{text}");
        let json = output(&stalled.cache, &["top", "--json", "--interval", "100ms"]);
        let view: Value = serde_json::from_str(&json).expect("JSON");
        let ratio = view["hitRatio"].as_f64().expect("a ratio");
        assert!(ratio > 0.0 && ratio < 1.0, "{json}");
        assert!(
            text.contains(&format!("hit ratio  {:.1} % in total", ratio * 100.0)),
            "{text}{json}"
        );
        let row = &view["fills"][0];
        assert_eq!(row["percent"], 50, "{json}");
        assert_eq!(row["digest"], *stalled.digest, "{json}");
        assert_eq!(row["followers"], 1, "{json}");
    });
}

#[test]
fn top_without_a_cache_and_with_a_wrong_interval_fails() {
    let upstream = Registry::new();
    let mut cache = started(Server::options(&upstream));
    for interval in ["1ms", "2h", "soon"] {
        fails(
            &cache,
            2,
            "expected a duration from 100ms to 1h",
            &["top", "--once", "--interval", interval],
        );
    }
    fails(&cache, 2, "table, wide or json", &["top", "--output", "name"]);
    cache.stop();
    fails(&cache, 1, "no cache runs with this FS_ROOT", &["top", "--once"]);
}
