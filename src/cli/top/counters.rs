//! The sums of the metrics that `top` shows.

/// The prefix of all metrics.
const PREFIX: &str = "oci_pull_through_";

/// The results of lookups that the cache answered without a fetch of the content.
const HITS: [&str; 4] = ["memory", "hit", "revalidated", "stale"];

/// Sums over all labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub requests: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Lookups without those of requests that bypass the store.
    pub lookups: u64,
    pub hits: u64,
    pub connections: u64,
    pub connections_max: u64,
}

impl Counters {
    /// Sums the samples of a text in the OpenMetrics format. Other lines are skipped.
    pub fn parse(metrics: &str) -> Self {
        let mut sums = Counters::default();
        for line in metrics.lines().filter_map(|line| line.strip_prefix(PREFIX)) {
            let Some((sample, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
            let value = value.parse().unwrap_or(0);
            sums.add(name, labels, value);
        }
        sums
    }

    fn add(&mut self, name: &str, labels: &str, value: u64) {
        match name {
            "http_requests_total" => self.requests += value,
            "http_response_bytes_total" => self.sent_bytes += value,
            "upstream_received_bytes_total" => self.received_bytes += value,
            "http_connections" => self.connections = value,
            "http_connections_max" => self.connections_max = value,
            "cache_lookups_total" => {
                let is = |result: &str| labels.contains(&format!("result=\"{result}\""));
                if !is("bypass") {
                    self.lookups += value;
                }
                if HITS.into_iter().any(is) {
                    self.hits += value;
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_sums_over_the_labels() {
        let text = "\
# TYPE oci_pull_through_http_requests counter
oci_pull_through_http_requests_total{route=\"manifest\",code=\"200\"} 7
oci_pull_through_http_requests_total{route=\"blob\",code=\"404\"} 2
oci_pull_through_http_response_bytes_total{route=\"blob\",result=\"hit\"} 4096
oci_pull_through_upstream_received_bytes_total{registry=\"quay.io\"} 5
oci_pull_through_upstream_received_bytes_total{registry=\"other\"} 6
oci_pull_through_http_connections 3
oci_pull_through_http_connections_max 20000
oci_pull_through_cache_lookups_total{registry=\"quay.io\",kind=\"tag\",result=\"memory\"} 5
oci_pull_through_cache_lookups_total{registry=\"quay.io\",kind=\"blob\",result=\"hit\"} 3
oci_pull_through_cache_lookups_total{registry=\"quay.io\",kind=\"blob\",result=\"joined\"} 1
oci_pull_through_cache_lookups_total{registry=\"quay.io\",kind=\"blob\",result=\"bypass\"} 9
# EOF
";
        let expected = Counters {
            requests: 9,
            sent_bytes: 4096,
            received_bytes: 11,
            lookups: 9,
            hits: 8,
            connections: 3,
            connections_max: 20_000,
        };
        assert_eq!(Counters::parse(text), expected);
    }
}
