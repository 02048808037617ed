//! Tests of the lines of `top`.

use super::*;
use crate::admin::{CacheView, FillView, JobKind, JobState};
use crate::cli::top::counters::Counters;
use crate::cli::top::view::Snapshot;
use crate::manage::ProgressCounts;
use crate::store::{StoreStats, StoresStats};

fn fill(repository: &str, bytes: u64) -> FillView {
    FillView {
        registry: "quay.io".to_owned(),
        repository: repository.to_owned(),
        digest: format!("sha256:{}", "0123456789abcdef".repeat(4)),
        source: "upstream".to_owned(),
        upstream: Some("mirror.test:5000".to_owned()),
        bytes,
        bytes_total: Some(10_000_000),
        followers: 2,
    }
}

fn snapshot(at: u64, counters: Counters, fills: Vec<FillView>) -> Snapshot {
    let stores = StoresStats {
        default: StoreStats {
            bytes: 25_000_000,
            bytes_max: Some(100_000_000),
            ..StoreStats::default()
        },
        registry_stores: Vec::new(),
    };
    let upstreams = vec![UpstreamView {
        registry: "quay.io".to_owned(),
        state: "limited".to_owned(),
        rate_limit: Some(RateLimitView {
            limit: Some(100),
            remaining: Some(3),
            reset_seconds: Some(60),
        }),
    }];
    let job = |id, state| JobStatus {
        job: id,
        kind: JobKind::Load,
        state,
        began_at: 0,
        progress: ProgressCounts {
            objects: 1,
            objects_total: 4,
            bytes: 1_000,
            bytes_total: 4_000,
        },
        images: Vec::new(),
        result: None,
        error: None,
    };
    let cache = CacheView {
        metrics: String::new(),
        stores,
        upstreams,
        fills,
        jobs: vec![job(7, JobState::Running), job(6, JobState::Completed)],
    };
    Snapshot { at, counters, cache }
}

fn counters(factor: u64) -> Counters {
    Counters {
        requests: 20 * factor,
        sent_bytes: 3_000_000 * factor,
        received_bytes: 500_000 * factor,
        lookups: 10 * factor * factor,
        hits: 9 * factor,
        connections: 5,
        connections_max: 20_000,
    }
}

/// Two seconds with a fill that has grown by 3 MB.
fn two_seconds() -> View {
    let before = snapshot(1_000, counters(1), vec![fill("org/app", 1_000_000)]);
    let after = snapshot(3_000, counters(2), vec![fill("org/app", 4_000_000)]);
    View::between(&before, &after)
}

#[test]
fn lines_without_a_terminal_have_all_figures() {
    let expected = "\
clients    10.0 requests/s, 1.50 MB/s, 5 of 20000 connections
hit ratio  45.0 % in total, 30.0 % since the last refresh
upstreams  250.00 kB/s
store      25.00 MB of 100.00 MB (25.0 %), 0 B reserved

1: fills in progress
FILL             DIGEST        PROGRESS  BYTES                RATE       CLIENTS  UPSTREAM
quay.io/org/app  0123456789ab  40 %      4.00 MB of 10.00 MB  1.50 MB/s  2        mirror.test:5000

1: upstreams
REGISTRY  STATE    BUDGET         RESET
quay.io   limited  3 of 100 left  in 60 s

1: running jobs
JOB  KIND  OBJECTS  BYTES
7    load  1 of 4   1.00 kB of 4.00 kB";
    assert_eq!(lines(&two_seconds(), None).join("\n"), expected);
}

#[test]
fn lines_fit_every_terminal_and_count_the_hidden_rows() {
    let fills = |count| (0..count).map(|n| fill(&format!("org/team/application-{n}"), n));
    for count in [0, 1, 5, 40] {
        let snapshot = snapshot(0, counters(1), fills(count).collect());
        let view = View::between(&snapshot, &snapshot);
        for (columns, rows) in [(1, 1), (20, 5), (80, 24), (100, 30), (300, 100)] {
            let lines = lines(&view, Some(Size { columns, rows }));
            assert!(lines.len() <= rows, "{rows} rows: {lines:?}");
            for line in &lines {
                assert!(line.chars().count() <= columns, "{columns} columns: {line}");
            }
        }
    }
    let snapshot = snapshot(0, counters(1), fills(40).collect());
    let shown = lines(
        &View::between(&snapshot, &snapshot),
        Some(Size {
            columns: 80,
            rows: 24,
        }),
    );
    // The names are shortened to their end.
    let rows = shown.iter().filter(|line| line.contains("ication-")).count();
    assert_eq!(shown.len(), 24, "{shown:?}");
    assert!(shown.contains(&format!("{} more", 40 - rows)), "{shown:?}");
    assert!(
        shown.iter().any(|line| line.starts_with("7    load")),
        "{shown:?}"
    );
}

#[test]
fn long_repository_shrinks_to_its_end() {
    assert_eq!(ended("quay.io/org/app", 15), "quay.io/org/app");
    assert_eq!(ended("quay.io/org/app", 10), "...org/app");
}

#[test]
fn absent_figures_are_dashes() {
    let mut counters = counters(1);
    (counters.lookups, counters.hits) = (0, 0);
    let unknown = FillView {
        upstream: None,
        bytes_total: None,
        ..fill("org/app", 5)
    };
    let snapshot = snapshot(0, counters, vec![unknown]);
    let text = lines(&View::between(&snapshot, &snapshot), None).join("\n");
    assert!(
        text.contains("clients    - requests/s, -, ") && text.contains("hit ratio  - in total, - since"),
        "{text}"
    );
    assert!(text.contains("-         5 B of ?  -     2        -"), "{text}");
}

#[test]
fn restart_between_the_snapshots_counts_from_zero() {
    let before = snapshot(0, counters(100), Vec::new());
    let after = snapshot(1_000, counters(1), Vec::new());
    let view = View::between(&before, &after);
    assert_eq!(view.requests_per_second, Some(20.0));
    assert_eq!(view.sent_bytes_per_second, Some(3_000_000));
}
