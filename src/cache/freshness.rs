//! Is a tag pointer fresh? Pure: times in, verdict out.

/// Whether a pointer checked at `checked_ms` may be served at `now_ms` without asking.
///
/// A check in the future means that the clock was set back: the pointer is stale, which costs one question.
pub fn is_fresh(checked_ms: u64, now_ms: u64, lifetime_ms: u64) -> bool {
    now_ms
        .checked_sub(checked_ms)
        .is_some_and(|age| age < lifetime_ms)
}

#[cfg(test)]
mod tests {
    use super::is_fresh;

    #[test]
    fn a_pointer_is_fresh_for_its_lifetime_and_never_longer() {
        assert!(is_fresh(1_000, 1_000, 60_000));
        assert!(is_fresh(1_000, 60_999, 60_000));
        assert!(!is_fresh(1_000, 61_000, 60_000));
        assert!(!is_fresh(1_000, 1_000, 0));
    }

    #[test]
    fn a_clock_that_jumps_back_makes_it_stale() {
        assert!(!is_fresh(1_000_000, 999_999, 60_000));
        assert!(!is_fresh(u64::MAX, 0, u64::MAX));
    }
}
