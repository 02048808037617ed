//! Decides whether a fill keeps its fetch slot. A fill with clients keeps the slot, unless the fill
//! is slow and another registry needs a slot. A fill without clients keeps the slot within limits
//! of rate, size and time.

use std::sync::Arc;
use std::time::Duration;

use super::{Fill, FillState};
use crate::cache::FetchError;
use crate::cache::slots::FetchSlot;
use crate::limits::{
    DESERTED_BYTES_MAX, DESERTED_FILL_TIMEOUT, DESERTED_GRACE_TIME, DESERTED_UNSIZED_BYTES_MAX,
    FETCH_CHECK_INTERVAL, FILL_RATE_MIN, FILL_RATE_WINDOW, FIRST_CLIENT_TIMEOUT,
};

/// A snapshot of a fill.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// A client waits for the fill or reads from it.
    followed: bool,
    /// A client has followed the fill before.
    was_followed: bool,
    /// The fill can no longer be stored.
    lost: bool,
    received: u64,
    /// The upstream declared the length, or has not sent the head.
    sized: bool,
}

/// The decision about a fill.
#[derive(PartialEq, Eq, Debug)]
enum FillDecision {
    Go { deserted: bool, slow: bool, rate: u64 },
    End(&'static str),
}

/// The history of a fill between two checks. Times count from the start of the fill.
#[derive(Default)]
struct Record {
    /// Time and received bytes when the fill lost its last client.
    alone_since: Option<(Duration, u64)>,
    /// Time and received bytes at the start of the rate measurement.
    span: (Duration, u64),
    /// Bytes per second in the last complete measurement.
    rate: Option<u64>,
}

impl Record {
    fn look(&mut self, now: Duration, seen: Seen) -> FillDecision {
        let mut spanned = false;
        let (began, before) = self.span;
        if now.saturating_sub(began) >= FILL_RATE_WINDOW {
            let millis = u64::try_from(now.saturating_sub(began).as_millis()).unwrap_or(u64::MAX);
            self.rate = Some((seen.received - before).saturating_mul(1_000) / millis.max(1));
            self.span = (now, seen.received);
            spanned = true;
        }
        let slow = self.rate.is_some_and(|rate| rate < FILL_RATE_MIN);
        let rate = self.rate.unwrap_or(u64::MAX);
        if seen.followed {
            self.alone_since = None;
            return FillDecision::Go {
                deserted: false,
                slow,
                rate,
            };
        }
        let Some((since, had)) = self.alone_since else {
            self.alone_since = Some((now, seen.received));
            // The rate with clients does not count against the fill.
            self.span = (now, seen.received);
            return FillDecision::Go {
                deserted: false,
                slow,
                rate,
            };
        };
        let alone = now.saturating_sub(since);
        let grace = if seen.was_followed {
            DESERTED_GRACE_TIME
        } else {
            FIRST_CLIENT_TIMEOUT
        };
        if alone < grace {
            return FillDecision::Go {
                deserted: false,
                slow,
                rate,
            };
        }
        let bytes_max = if seen.sized {
            DESERTED_BYTES_MAX
        } else {
            DESERTED_UNSIZED_BYTES_MAX
        };
        if seen.lost {
            FillDecision::End("no client left, and the content cannot be stored")
        } else if spanned && slow {
            FillDecision::End("no client left, and the download is too slow")
        } else if seen.received - had > bytes_max {
            FillDecision::End("no client left, and the content is too large")
        } else if alone > DESERTED_FILL_TIMEOUT {
            FillDecision::End("no client left, and the download takes too long")
        } else {
            FillDecision::Go {
                deserted: true,
                slow,
                rate,
            }
        }
    }
}

impl FillState {
    fn seen(&self) -> Seen {
        Seen {
            followed: self.callers() > 0,
            was_followed: self.was_wanted || self.next_follower > 0,
            lost: self.disk.is_lost(),
            received: self.window.end(),
            sized: self.head.as_ref().is_none_or(|head| head.size.is_some()),
        }
    }
}

/// Waits until `fill`, which has no slot yet, has no clients. Returns the reason to end the fill.
pub async fn deserted(fill: &Arc<Fill>) -> &'static str {
    let began = tokio::time::Instant::now();
    let mut record = Record::default();
    loop {
        tokio::time::sleep(FETCH_CHECK_INTERVAL).await;
        let seen = fill.lock().seen();
        match record.look(began.elapsed(), seen) {
            FillDecision::Go { deserted: false, .. } => {}
            FillDecision::Go { .. } => return "no client left",
            FillDecision::End(why) => return why,
        }
    }
}

/// Waits until `fill` must release its `slot`. Returns the error for its callers.
pub async fn unworthy(fill: &Arc<Fill>, slot: &FetchSlot) -> FetchError {
    let began = tokio::time::Instant::now();
    let mut record = Record::default();
    loop {
        if tokio::time::timeout(FETCH_CHECK_INTERVAL, slot.evicted())
            .await
            .is_ok()
        {
            return match fill.lock().is_canceled {
                true => FetchError::Abandoned("no client has requested a blob of the image"),
                false => FetchError::Displaced,
            };
        }
        let (seen, priority, unused) = {
            let mut state = fill.lock();
            (state.seen(), state.update_priority(), state.take_unused_file())
        };
        if unused.is_some() {
            // Dropping the last reference to a large file without a name frees its blocks, which
            // takes a while.
            tokio::task::spawn_blocking(move || drop(unused));
        }
        match record.look(began.elapsed(), seen) {
            FillDecision::Go { deserted, slow, rate } => slot.record_progress(priority, deserted, slow, rate),
            FillDecision::End(why) => return FetchError::Abandoned(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    const ALONE: Seen = Seen {
        followed: false,
        was_followed: true,
        lost: false,
        received: 0,
        sized: true,
    };

    /// Returns when a fill that receives `rate` bytes per second ends, and the reason, within
    /// `seconds`.
    fn end(seen: Seen, rate: u64, seconds: u64) -> Option<(u64, &'static str)> {
        let mut record = Record::default();
        (1..=seconds).find_map(|second| {
            let received = seen.received + second * rate;
            match record.look(Duration::from_secs(second), Seen { received, ..seen }) {
                FillDecision::End(why) => Some((second, why)),
                FillDecision::Go { .. } => None,
            }
        })
    }

    #[test]
    fn a_fill_that_clients_follow_goes_on_however_slow_it_is() {
        let followed = Seen {
            followed: true,
            lost: true,
            ..ALONE
        };
        assert_eq!(end(followed, 1, 10_000), None);
    }

    #[test]
    fn a_deserted_fill_that_is_fast_is_finished() {
        assert_eq!(end(ALONE, 10 * MIB, 500), None);
    }

    #[test]
    fn a_deserted_fill_that_dribbles_or_is_silent_ends() {
        for rate in [0, 200, FILL_RATE_MIN - 1] {
            let (second, why) = end(ALONE, rate, 100).unwrap();
            assert!(second <= 12 && why.ends_with("too slow"), "{second} {why}");
        }
    }

    #[test]
    fn a_deserted_fill_that_cannot_be_stored_ends_at_once() {
        let lost = Seen { lost: true, ..ALONE };
        assert_eq!(end(lost, 10 * MIB, 10).unwrap().0, 2);
        let new = Seen {
            was_followed: false,
            ..lost
        };
        assert!(
            end(new, 10 * MIB, 10).unwrap().0 >= FIRST_CLIENT_TIMEOUT.as_secs(),
            "a fill waits for the first client"
        );
    }

    #[test]
    fn a_deserted_fill_is_bounded_in_bytes_and_time() {
        let unsized_one = Seen {
            sized: false,
            ..ALONE
        };
        let (second, why) = end(unsized_one, 100 * MIB, 100).unwrap();
        assert!(second <= 5 && why.ends_with("too large"), "{second} {why}");
        let (second, why) = end(ALONE, 100 * MIB, 1_000).unwrap();
        assert!(second < 200 && why.ends_with("too large"), "{second} {why}");
        let (second, why) = end(ALONE, 2 * FILL_RATE_MIN, 1_000).unwrap();
        assert!(second < 610 && why.ends_with("too long"), "{second} {why}");
    }

    #[test]
    fn a_client_that_comes_back_in_time_finds_its_fill() {
        let mut record = Record::default();
        for second in 1..1_000 {
            let seen = Seen {
                followed: second % 8 == 0,
                ..ALONE
            };
            let verdict = record.look(Duration::from_secs(second), seen);
            assert!(matches!(verdict, FillDecision::Go { .. }), "{second} {verdict:?}");
        }
    }
}
