//! All parsers of untrusted bytes, as functions that must not panic for any input. Used by `fuzz/`
//! and by the tests.
//!
//! `cargo +nightly fuzz run` searches with coverage. The tests here replay the inputs in
//! `fuzz/seeds` and change the inputs at random, without a nightly compiler. `FUZZ_RUNS` sets the
//! number of runs per target.

pub use crate::cache::fuzz::manifest;
pub use crate::manage::fuzz::{archive, image_list};
pub use crate::registry::fuzz::route;
pub use crate::server::fuzz::frames;
pub use crate::upstream::fuzz::{challenge, token};

use crate::http::multipart::{self, Boundary};
use crate::http::{Ranges, conditional, parse_range};
use crate::oci::{Algorithm, Digest};
use crate::store::{Meta, TagPointer};

/// Parses a `Range` value for content of several sizes.
pub fn range(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let _ = conditional::if_none_match(text.lines(), "\"sha256:00\"");
    let _ = conditional::if_range(text, "\"sha256:00\"");
    for size in [0, 1, 2, 1_000, u64::MAX] {
        let spans = match parse_range(text, size) {
            Ranges::Full | Ranges::Unsatisfiable => continue,
            Ranges::One(span) => vec![span],
            Ranges::Many(spans) => {
                assert!(spans.len() > 1);
                spans
            }
        };
        assert!(spans.iter().all(|span| span.start < span.end && span.end <= size));
        let sum: u128 = spans.iter().map(|span| u128::from(span.size())).sum();
        assert!(sum <= 2 * u128::from(size), "more than twice the content");
        let plan = multipart::plan(&spans, size, text, Boundary::new(7));
        let heads: usize = plan.parts.iter().map(|part| part.head.len()).sum();
        let stated = u128::from(plan.content_length);
        let sent = sum + heads as u128 + plan.tail.len() as u128;
        assert!(stated == sent || stated == u128::from(u64::MAX));
    }
}

/// Parses a sidecar and a tag pointer of a store.
pub fn sidecar(bytes: &[u8]) {
    let digest = Digest::of(Algorithm::Sha256, b"x");
    if let Some(meta) = Meta::parse(digest, bytes) {
        let written = meta.to_json();
        let again = Meta::parse(digest, &written).expect("a written sidecar is valid");
        assert_eq!(again.to_json(), written);
        assert_eq!(
            (again.size, again.verified, again.public),
            (meta.size, meta.verified, meta.public)
        );
    }
    if let Ok(pointer) = serde_json::from_slice::<TagPointer>(bytes) {
        let written = serde_json::to_vec(&pointer).expect("a pointer is strings and numbers");
        assert_eq!(serde_json::from_slice::<TagPointer>(&written).ok(), Some(pointer));
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    /// The default number of runs per target in the tests.
    const RUNS: u64 = 40_000;

    const INPUT_BYTES_MAX: usize = 8 * 1024;

    struct Random(u64);

    impl Random {
        /// splitmix64
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn below(&mut self, bound: usize) -> usize {
            (self.next() % bound.max(1) as u64) as usize
        }
    }

    fn seeds(name: &str) -> Vec<Vec<u8>> {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/seeds")
            .join(name);
        let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.expect("a directory that can be read").path())
            .collect();
        paths.sort();
        paths
            .iter()
            .map(|path| std::fs::read(path).expect("a seed"))
            .collect()
    }

    /// Cuts, doubles, splices and changes bytes.
    fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
        const MARKS: &[u8] = b"\0\t\n\r \"%&,-./0:;=?@[\\]{}~\x7f\x80\xff";
        for _ in 0..=random.below(6) {
            let at = random.below(input.len());
            let end = at + random.below((input.len() - at).min(64) + 1);
            match random.below(7) {
                0 => drop(input.drain(at..end)),
                1 => {
                    let piece = input[at..end].to_vec();
                    input.splice(at..at, piece);
                }
                2 => input.insert(at, MARKS[random.below(MARKS.len())]),
                3 if at < input.len() => input[at] = MARKS[random.below(MARKS.len())],
                4 if at < input.len() => input[at] ^= 1 << random.below(8),
                5 if at < input.len() => input[at] = random.next() as u8,
                _ => {
                    let other = &seeds[random.below(seeds.len())];
                    let from = random.below(other.len());
                    let to = from + random.below((other.len() - from).min(64) + 1);
                    input.splice(at..end, other[from..to].iter().copied());
                }
            }
        }
        input.truncate(INPUT_BYTES_MAX);
    }

    #[allow(clippy::disallowed_methods, reason = "the setting of this test")]
    fn runs() -> u64 {
        std::env::var("FUZZ_RUNS").map_or(RUNS, |text| text.parse().expect("FUZZ_RUNS is a number"))
    }

    fn search(name: &str, target: fn(&[u8])) {
        let mut seeds = seeds(name);
        seeds.push(Vec::new());
        let mut random = Random(0x5eed);
        for seed in &seeds {
            target(seed);
        }
        for run in 0..runs() {
            let mut input = seeds[random.below(seeds.len())].clone();
            change(&mut input, &seeds, &mut random);
            let outcome = std::panic::catch_unwind(|| target(&input));
            assert!(outcome.is_ok(), "{name}, run {run}: {}", input.escape_ascii());
        }
    }

    #[test]
    fn routes_of_any_bytes_are_names_or_refused() {
        search("route", super::route);
    }

    #[test]
    fn ranges_of_any_bytes_lie_within_the_content() {
        search("range", super::range);
    }

    #[test]
    fn challenges_of_any_bytes_are_bounded() {
        search("challenge", super::challenge);
    }

    #[test]
    fn token_answers_of_any_bytes_give_a_sendable_token_or_none() {
        search("token", super::token);
    }

    #[test]
    fn sidecars_of_any_bytes_are_read_as_they_are_written() {
        search("sidecar", super::sidecar);
    }

    #[test]
    fn manifests_and_lists_of_any_bytes_become_json_or_nothing() {
        search("manifest", super::manifest);
    }

    #[test]
    fn archives_of_any_bytes_are_read_or_refused() {
        search("archive", super::archive);
    }

    #[test]
    fn lists_of_any_bytes_are_names_or_refused() {
        search("image_list", super::image_list);
    }

    #[test]
    fn frames_are_counted_the_same_however_they_are_cut() {
        search("frames", super::frames);
    }
}
