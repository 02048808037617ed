//! Simulates caches of images on seeded traces of weeks, and compares their hit ratios.

#[path = "eviction_simulator/caches.rs"]
mod caches;
#[path = "eviction_simulator/trace.rs"]
mod trace;

use std::fmt::Write as _;
use std::sync::OnceLock;

use self::caches::{Cache, FileCache, ImageCache, Order, S3Fifo};
use self::trace::{CI_ONE_SHOTS, DAY, NIGHTLY_SCAN, Trace};
use crate::limits::METADATA_BLOB_BYTES_MAX;
use crate::store::eviction::Kind;

/// The bound of the caches, in percent of the bytes of all objects of a trace.
const BOUND_PERCENT: u64 = 10;

/// The result of a cache on a trace.
#[derive(Clone, Copy, Default)]
struct Outcome {
    requested: u64,
    served: u64,
    /// Bytes that came from the bucket.
    from_bucket: u64,
    /// Images with blobs of their own, and the complete ones of these. Counted once a day.
    images: u64,
    complete: u64,
}

impl Outcome {
    /// Percent of the bytes of blobs that came from the cache.
    fn hit(&self) -> f64 {
        100.0 * self.served as f64 / self.requested as f64
    }

    /// Percent of the bytes of blobs that came from the cache or the bucket.
    fn hit_with_bucket(&self) -> f64 {
        100.0 * (self.served + self.from_bucket) as f64 / self.requested as f64
    }

    fn coherence(&self) -> f64 {
        100.0 * self.complete as f64 / self.images.max(1) as f64
    }
}

fn run(trace: &Trace, mut cache: impl Cache) -> Outcome {
    let mut outcome = Outcome::default();
    let mut was_complete = vec![false; trace.images.len()];
    let mut day = 0;
    for &request in &trace.requests {
        if day != request.minute / DAY {
            day = request.minute / DAY;
            count_images(trace, &cache, &was_complete, &mut outcome);
        }
        let is_hit = cache.serve(request);
        if trace.kinds[request.object as usize] == Kind::Blob {
            let bytes = trace.bytes[request.object as usize];
            outcome.requested += bytes;
            outcome.served += u64::from(is_hit) * bytes;
            outcome.from_bucket += u64::from(!is_hit && cache.was_in_bucket()) * bytes;
        }
        for victim in cache.evicted() {
            forget_image_without_blobs(trace, &cache, &mut was_complete, victim);
        }
        let image = request.image as usize;
        was_complete[image] = was_complete[image] || is_complete(trace, &cache, image);
    }
    count_images(trace, &cache, &was_complete, &mut outcome);
    outcome
}

fn is_complete(trace: &Trace, cache: &impl Cache, image: usize) -> bool {
    let image = &trace.images[image];
    cache.holds(image.manifest) && image.blobs.iter().all(|&blob| cache.holds(blob))
}

/// An image whose last own blob leaves has left. A later pull by a host with some of the layers
/// does not make the image complete again.
fn forget_image_without_blobs(trace: &Trace, cache: &impl Cache, was_complete: &mut [bool], victim: u32) {
    let [image] = trace.images_of[victim as usize][..] else {
        return;
    };
    let is_own = |blob: u32| is_large(trace, blob) && trace.images_of[blob as usize].len() == 1;
    let blobs = &trace.images[image as usize].blobs;
    if !blobs.iter().any(|&blob| is_own(blob) && cache.holds(blob)) {
        was_complete[image as usize] = false;
    }
}

/// Smaller blobs are metadata and stay with their manifest.
fn is_large(trace: &Trace, blob: u32) -> bool {
    trace.bytes[blob as usize] > METADATA_BLOB_BYTES_MAX
}

/// Counts the images that were complete and have a held blob that no other held image names.
fn count_images(trace: &Trace, cache: &impl Cache, was_complete: &[bool], outcome: &mut Outcome) {
    let is_held = |image: usize| cache.holds(trace.images[image].manifest);
    for number in (0..trace.images.len()).filter(|&number| was_complete[number] && is_held(number)) {
        let is_own = |&blob: &u32| {
            let mut images = trace.images_of[blob as usize].iter();
            let is_shared = images.any(|&other| other as usize != number && is_held(other as usize));
            cache.holds(blob) && is_large(trace, blob) && !is_shared
        };
        if trace.images[number].blobs.iter().any(is_own) {
            outcome.images += 1;
            outcome.complete += u64::from(is_complete(trace, cache, number));
        }
    }
}

/// The outcomes of all caches on a trace.
struct Row {
    name: &'static str,
    seed: u64,
    policy: Outcome,
    lru: Outcome,
    fifo: Outcome,
    s3_fifo: Outcome,
    belady: Outcome,
}

impl Row {
    /// The bound of the caches is `percent` of the bytes of the trace.
    fn new(trace: &Trace, percent: u64) -> Self {
        let bound = trace.unique_bytes() * percent / 100;
        let file_cache = |order| run(trace, FileCache::new(trace, bound, order));
        Row {
            name: trace.name,
            seed: trace.seed,
            policy: run(trace, ImageCache::new(trace, bound)),
            lru: file_cache(Order::Lru),
            fifo: file_cache(Order::Fifo),
            s3_fifo: run(trace, S3Fifo::new(trace, bound)),
            belady: file_cache(Order::Belady),
        }
    }
}

fn traces() -> [Trace; 5] {
    [
        trace::steady_zipf(1),
        trace::rollout_waves(2),
        trace::ci_one_shots(3),
        trace::nightly_scan(4),
        trace::tag_churn(5),
    ]
}

/// Returns the outcomes on all traces, with a bound of [`BOUND_PERCENT`], and prints the table.
fn rows() -> &'static [Row] {
    static ROWS: OnceLock<Vec<Row>> = OnceLock::new();
    let rows = ROWS.get_or_init(|| {
        traces()
            .iter()
            .map(|trace| Row::new(trace, BOUND_PERCENT))
            .collect()
    });
    println!("{}", table(rows));
    rows
}

fn table(rows: &[Row]) -> String {
    let mut table = String::from(
        "| trace | seed | this policy | LRU | FIFO | S3-FIFO | Belady | complete, this policy | complete, LRU |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let _ = write!(table, "| {} | {} ", row.name, row.seed);
        for outcome in [row.policy, row.lru, row.fifo, row.s3_fifo, row.belady] {
            let _ = write!(table, "| {:.1} ", outcome.hit());
        }
        let _ = writeln!(
            table,
            "| {:.1} | {:.1} |",
            row.policy.coherence(),
            row.lru.coherence()
        );
    }
    table
}

#[test]
fn policy_hits_at_least_as_many_bytes_as_lru_on_every_trace() {
    for row in rows() {
        let gain = row.policy.hit() - row.lru.hit();
        assert!(gain >= -0.5, "{}, seed {}: {gain:+.2} points", row.name, row.seed);
    }
}

#[test]
fn policy_hits_five_points_more_bytes_than_lru_beside_one_shots_and_scans() {
    for row in rows()
        .iter()
        .filter(|row| [CI_ONE_SHOTS, NIGHTLY_SCAN].contains(&row.name))
    {
        let gain = row.policy.hit() - row.lru.hit();
        assert!(gain >= 5.0, "{}, seed {}: {gain:+.2} points", row.name, row.seed);
    }
}

#[test]
fn policy_is_within_twelve_points_of_belady_on_every_trace() {
    for row in rows() {
        let loss = row.belady.hit() - row.policy.hit();
        assert!(loss <= 12.0, "{}, seed {}: {loss:.2} points", row.name, row.seed);
    }
}

#[test]
fn policy_leaves_complete_images_on_every_trace() {
    for row in rows() {
        let share = row.policy.coherence();
        assert!(
            row.policy.images > 0,
            "{}, seed {}: no images",
            row.name,
            row.seed
        );
        assert!(
            share >= 95.0,
            "{}, seed {}: {share:.2} % complete",
            row.name,
            row.seed
        );
    }
}

/// A new process knows the first and the last use of an object, but not the number of uses.
#[test]
fn policy_hits_at_least_as_many_bytes_as_lru_with_a_restart_each_week() {
    for (trace, row) in [trace::ci_one_shots(3), trace::tag_churn(5)]
        .iter()
        .zip([&rows()[2], &rows()[4]])
    {
        let bound = trace.unique_bytes() * BOUND_PERCENT / 100;
        let outcome = run(trace, ImageCache::new(trace, bound).restart_each(7 * DAY));
        let gain = outcome.hit() - row.lru.hit();
        println!(
            "{}, seed {}: {:.1} %, {gain:+.1} points",
            trace.name,
            trace.seed,
            outcome.hit()
        );
        assert!(
            gain >= -0.5,
            "{}, seed {}: {gain:+.2} points",
            trace.name,
            trace.seed
        );
    }
}

/// A bucket that took uploads on each second day only. Its reads are hits of second class. The directory
/// alone has fewer hits, because unused content without a copy stays.
#[test]
fn policy_that_knows_the_copies_in_a_bucket_downloads_at_most_half_a_percent_more_bytes() {
    println!(
        "| trace | seed | hits | with the bucket | hits, copies unknown | with the bucket, copies unknown |"
    );
    println!("|---|---|---|---|---|---|");
    for trace in [trace::steady_zipf(1), trace::ci_one_shots(3), trace::tag_churn(5)] {
        let bound = trace.unique_bytes() * BOUND_PERCENT / 100;
        let [known, unknown] =
            [true, false].map(|is_known| run(&trace, ImageCache::new(&trace, bound).before_bucket(is_known)));
        println!(
            "| {} | {} | {:.1} | {:.1} | {:.1} | {:.1} |",
            trace.name,
            trace.seed,
            known.hit(),
            known.hit_with_bucket(),
            unknown.hit(),
            unknown.hit_with_bucket()
        );
        let gain = known.hit_with_bucket() - unknown.hit_with_bucket();
        assert!(
            gain >= -0.5,
            "{}, seed {}: {gain:+.2} points",
            trace.name,
            trace.seed
        );
    }
}
