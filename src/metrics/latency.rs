//! Histograms of durations with fixed buckets.

use std::time::Duration;

use super::cell::Cell64;

/// The upper bounds of the buckets, in microseconds: 0.25 ms to 10 minutes. The last bucket of a
/// histogram has no bound.
pub(super) const BOUNDS_MICROS: [u64; 16] = [
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    1_000_000,
    2_500_000,
    10_000_000,
    30_000_000,
    120_000_000,
    600_000_000,
];

const BUCKETS: usize = BOUNDS_MICROS.len() + 1;

/// A histogram that one core writes: 18 cells of 8 bytes.
#[derive(Debug, Default)]
pub(super) struct CoreLatency {
    buckets: [Cell64; BUCKETS],
    micros: Cell64,
}

/// The sums of equal histograms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LatencyTotals {
    buckets: [u64; BUCKETS],
    sum: Duration,
}

impl CoreLatency {
    pub fn observe(&self, micros: u64) {
        let bucket = BOUNDS_MICROS.iter().position(|&bound| micros <= bound);
        self.buckets[bucket.unwrap_or(BUCKETS - 1)].add(1);
        self.micros.add(micros);
    }
}

impl LatencyTotals {
    pub(super) fn add(&mut self, core: &CoreLatency) {
        for (total, cell) in self.buckets.iter_mut().zip(&core.buckets) {
            *total += cell.get();
        }
        self.sum += Duration::from_micros(core.micros.get());
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub fn sum_seconds(&self) -> f64 {
        self.sum.as_secs_f64()
    }

    /// Returns the upper bound of each bucket in seconds, with the count of the bucket alone. The last
    /// bound is infinite.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS_MICROS.iter().map(|&bound| seconds(bound));
        bounds.chain([f64::INFINITY]).zip(self.buckets).collect()
    }
}

/// Returns the bounds in seconds, without the infinite bound.
pub(super) fn bounds_seconds() -> impl Iterator<Item = f64> {
    BOUNDS_MICROS.into_iter().map(seconds)
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_is_counted_in_the_first_bucket_with_a_bound_that_is_not_lower() {
        for (micros, bucket) in [(0, 0), (250, 0), (251, 1), (600_000_000, 15), (600_000_001, 16)] {
            let core = CoreLatency::default();
            core.observe(micros);
            let mut totals = LatencyTotals::default();
            totals.add(&core);
            let counted = totals.buckets().iter().position(|&(_, count)| count == 1);
            assert_eq!(counted, Some(bucket), "{micros} us");
            assert_eq!(totals.sum, Duration::from_micros(micros));
        }
    }

    #[test]
    fn totals_are_the_sums_over_all_cores() {
        let cores = [CoreLatency::default(), CoreLatency::default()];
        cores.iter().for_each(|core| core.observe(3_000));
        let mut totals = LatencyTotals::default();
        cores.iter().for_each(|core| totals.add(core));
        assert_eq!((totals.count(), totals.sum), (2, Duration::from_millis(6)));
    }
}
