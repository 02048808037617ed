//! Random ids of traces and spans.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::num::{NonZeroU64, NonZeroU128};

use crate::http::{SpanId, TraceId};
use crate::runtime::split_mix::mixed;

thread_local! {
    /// The states of the two generators of this thread. The keys of `RandomState` are random, so the
    /// ids of different threads and processes differ.
    static STATES: [Cell<u64>; 2] = [seed(), seed()];
}

/// The increment of SplitMix64.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn seed() -> Cell<u64> {
    Cell::new(RandomState::new().hash_one(std::process::id()))
}

pub(super) fn trace_id() -> TraceId {
    let number = u128::from(random(0)) << 64 | u128::from(random(1));
    TraceId(NonZeroU128::new(number).unwrap_or(NonZeroU128::MIN))
}

pub(super) fn span_id() -> SpanId {
    // The second generator also makes the end of each trace id. SplitMix64 returns each number once.
    SpanId(NonZeroU64::new(random(1)).unwrap_or(NonZeroU64::MIN))
}

/// Returns the next number of a generator, by SplitMix64.
fn random(generator: usize) -> u64 {
    STATES.with(|states| {
        let state = &states[generator];
        state.set(state.get().wrapping_add(STEP));
        mixed(state.get())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_differ_on_one_thread_and_between_threads() {
        let make = || -> Vec<_> { (0..1_000).map(|_| (trace_id(), span_id())).collect() };
        let threads: Vec<_> = (0..3).map(|_| std::thread::spawn(make)).collect();
        let made: Vec<_> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        let traces: HashSet<_> = made.iter().map(|(trace, _)| trace).collect();
        let spans: HashSet<_> = made.iter().map(|(_, span)| span).collect();
        assert_eq!((traces.len(), spans.len()), (3_000, 3_000));
    }
}
