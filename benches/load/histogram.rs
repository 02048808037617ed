//! A histogram of latencies. The width of its buckets grows with the value.

use std::time::Duration;

/// Each power of two nanoseconds has 2^6 buckets. A value read back is at most 1/64 (1.6 %) too
/// high.
const PRECISION_BITS: u32 = 6;
const SUB_BUCKETS: usize = 1 << PRECISION_BITS;
/// 2^42 ns is 73 minutes, longer than any run. Larger values count in the last bucket.
const POWERS: usize = 42;

pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    pub fn new() -> Self {
        Self {
            counts: vec![0; POWERS * SUB_BUCKETS],
            total: 0,
            max: 0,
        }
    }

    pub fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let bucket = Self::bucket(nanoseconds).min(self.counts.len() - 1);
        self.counts[bucket] += 1;
        self.total += 1;
        self.max = self.max.max(nanoseconds);
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// Returns the given quantile (0 to 1) in milliseconds. Returns 0 without any values.
    pub fn quantile_ms(&self, part: f64) -> f64 {
        let rank = (part * self.total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Self::upper_edge(bucket).min(self.max) as f64 / 1e6;
            }
        }
        self.max_ms()
    }

    pub fn max_ms(&self) -> f64 {
        self.max as f64 / 1e6
    }

    /// Adds the values of `other`.
    pub fn add(&mut self, other: &Self) {
        for (mine, more) in self.counts.iter_mut().zip(&other.counts) {
            *mine += more;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// Returns the quantiles of a report, in milliseconds.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "p50": self.quantile_ms(0.5),
            "p90": self.quantile_ms(0.9),
            "p95": self.quantile_ms(0.95),
            "p98": self.quantile_ms(0.98),
            "p99": self.quantile_ms(0.99),
            "p99.9": self.quantile_ms(0.999),
            "max": self.max_ms(),
        })
    }

    fn bucket(nanoseconds: u64) -> usize {
        if nanoseconds < SUB_BUCKETS as u64 {
            return nanoseconds as usize;
        }
        let power = nanoseconds.ilog2() - PRECISION_BITS;
        // The leading bit selects the power, and the next six bits select the bucket.
        (power as usize) * SUB_BUCKETS + (nanoseconds >> power) as usize
    }

    fn upper_edge(bucket: usize) -> u64 {
        if bucket < 2 * SUB_BUCKETS {
            return bucket as u64;
        }
        let power = bucket / SUB_BUCKETS - 1;
        let leading = (bucket % SUB_BUCKETS + SUB_BUCKETS) as u64;
        ((leading + 1) << power) - 1
    }
}
