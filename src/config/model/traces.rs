//! Settings of traces.

use std::time::Duration;

use ::http::{HeaderName, HeaderValue};
use reqwest::Url;

/// The number of samples of a ratio of 1: all values of 63 bits.
const ALL: u64 = 1 << 63;

/// The export of traces by OTLP over http/protobuf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSettings {
    /// The URL of the requests, without user and fragment.
    pub endpoint: Url,
    /// Further header fields of the requests. The values are marked as sensitive, so `Debug` hides
    /// the values.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The deadline of a request.
    pub timeout: Duration,
    /// The attributes of the process, `service.name` among them.
    pub resource: Vec<(String, String)>,
    pub sampler: Sampler,
}

/// Decides which traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// The number of sampled values among all values of 63 bits.
    sampled: u64,
    /// Whether the decision of a parent counts.
    follows_parent: bool,
}

#[cfg(test)]
impl Sampler {
    /// Returns a sampler that records every trace.
    pub fn all() -> Self {
        Sampler {
            sampled: ALL,
            follows_parent: false,
        }
    }

    /// Returns a sampler that records no trace.
    pub fn none() -> Self {
        Sampler {
            sampled: 0,
            follows_parent: false,
        }
    }
}

impl Sampler {
    /// Returns the sampler of this name with its argument. `None` for an unknown name, and for an
    /// argument that is no ratio from 0 to 1.
    pub(in crate::config) fn parse(name: &str, argument: Option<&str>) -> Option<Self> {
        let (root, follows_parent) = match name.strip_prefix("parentbased_") {
            Some(root) => (root, true),
            None => (name, false),
        };
        let sampled = match root {
            "always_on" => ALL,
            "always_off" => 0,
            "traceidratio" => share_of(argument.unwrap_or("1"))?,
            _ => return None,
        };
        Some(Sampler {
            sampled,
            follows_parent,
        })
    }

    /// Returns whether a trace with this id is recorded. `parent` is the decision of the parent.
    pub fn samples(self, trace: u128, parent: Option<bool>) -> bool {
        match parent {
            Some(decision) if self.follows_parent => decision,
            // The last 63 bits, as in other implementations: equal ratios then record equal traces.
            _ => trace as u64 >> 1 < self.sampled,
        }
    }
}

/// Returns the number of sampled values for a ratio from 0 to 1.
fn share_of(ratio: &str) -> Option<u64> {
    let ratio: f64 = ratio.parse().ok()?;
    // The product is at most `ALL`, which a `u64` represents.
    (0.0..=1.0)
        .contains(&ratio)
        .then_some((ratio * ALL as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(name: &str, argument: Option<&str>) -> Sampler {
        Sampler::parse(name, argument).unwrap()
    }

    /// The largest and the smallest id for a ratio.
    const LAST: u128 = u128::MAX;
    const FIRST: u128 = 1;

    #[test]
    fn sampler_without_parents_decides_by_the_id_alone() {
        for parent in [None, Some(false), Some(true)] {
            assert!(sampler("always_on", None).samples(LAST, parent));
            assert!(!sampler("always_off", None).samples(FIRST, parent));
            let half = sampler("traceidratio", Some("0.5"));
            assert!(half.samples(u128::from(u64::MAX / 2), parent));
            assert!(!half.samples(u128::from(u64::MAX / 2 + 1), parent));
            assert!(sampler("traceidratio", None).samples(LAST, parent));
            assert!(!sampler("traceidratio", Some("0")).samples(FIRST, parent));
        }
    }

    #[test]
    fn sampler_with_parents_decides_roots_only() {
        for (name, argument, root) in [
            ("parentbased_always_on", None, true),
            ("parentbased_always_off", None, false),
            ("parentbased_traceidratio", Some("1"), true),
            ("parentbased_traceidratio", Some("0.0"), false),
        ] {
            let sampler = sampler(name, argument);
            assert_eq!(sampler.samples(LAST, None), root, "{name}");
            assert!(sampler.samples(LAST, Some(true)), "{name}");
            assert!(!sampler.samples(FIRST, Some(false)), "{name}");
        }
    }

    #[test]
    fn unknown_name_and_ratio_outside_of_0_to_1_are_rejected() {
        for (name, argument) in [
            ("sometimes", None),
            ("parentbased_", None),
            ("", None),
            ("traceidratio", Some("1.1")),
            ("traceidratio", Some("-0.1")),
            ("traceidratio", Some("NaN")),
            ("parentbased_traceidratio", Some("half")),
        ] {
            assert_eq!(Sampler::parse(name, argument), None, "{name} {argument:?}");
        }
    }
}
