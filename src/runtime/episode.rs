//! Something that goes wrong for a while: counted each time, told of when it begins and when it is over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::limits::EPISODE_QUIET_SECONDS;

/// One kind of trouble. Any thread counts; whoever looks now and then is given the news.
#[derive(Debug, Default)]
pub struct Episode {
    times: AtomicU64,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// What was counted when this was last looked at.
    seen: u64,
    /// What had been counted before the episode that goes on.
    before: u64,
    under_way: bool,
    last_second: u32,
}

/// A change worth a line in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    Begun,
    /// It has not happened for [`EPISODE_QUIET_SECONDS`]; how often it had.
    Over(u64),
}

impl Episode {
    /// Counts `times` more.
    pub fn happened(&self, times: u64) {
        self.times.fetch_add(times, Ordering::Relaxed);
    }

    /// How often it has happened since the start.
    pub fn times(&self) -> u64 {
        self.times.load(Ordering::Relaxed)
    }

    /// What has changed since the last look. Several threads may look; each piece of news is given once.
    pub fn look(&self, now_seconds: u32) -> Option<News> {
        let times = self.times();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if times > told.seen {
            let before = std::mem::replace(&mut told.seen, times);
            told.last_second = now_seconds;
            if !told.under_way {
                told.under_way = true;
                told.before = before;
                return Some(News::Begun);
            }
        } else if told.under_way && now_seconds.saturating_sub(told.last_second) >= EPISODE_QUIET_SECONDS {
            told.under_way = false;
            return Some(News::Over(times - told.before));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginning_and_end_are_told_once_each() {
        let episode = Episode::default();
        assert_eq!(episode.look(100), None);
        for round in 0..2 {
            let now = 200 + 100 * round;
            episode.happened(3);
            assert_eq!(episode.look(now), Some(News::Begun));
            episode.happened(1);
            assert_eq!(episode.look(now + EPISODE_QUIET_SECONDS), None);
            assert_eq!(episode.look(now + 2 * EPISODE_QUIET_SECONDS - 1), None);
            assert_eq!(episode.look(now + 2 * EPISODE_QUIET_SECONDS), Some(News::Over(4)));
            assert_eq!(episode.look(now + 2 * EPISODE_QUIET_SECONDS), None);
        }
        assert_eq!(episode.times(), 8);
    }
}
