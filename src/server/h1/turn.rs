//! The time and the bytes that a connection may use before the core runs other tasks.

use crate::limits::SEND_TURN_TIME;
use crate::runtime::clock::monotonic_micros;

/// The calls of a connection before the core runs other tasks.
pub struct Turn<'a> {
    /// The start, in monotonic microseconds.
    began: u64,
    sent: u64,
    /// The largest number of bytes in a call and in a turn.
    pub bytes_max: u64,
    /// The sent bytes of the whole body.
    total: &'a mut u64,
}

impl<'a> Turn<'a> {
    pub fn new(bytes_max: u64, total: &'a mut u64) -> Self {
        Turn {
            began: monotonic_micros(),
            sent: 0,
            bytes_max,
            total,
        }
    }

    /// Begins after a wait, in which the core has run other tasks.
    pub fn begin(&mut self) {
        self.began = monotonic_micros();
        self.sent = 0;
    }

    /// Limits this turn and all further turns.
    pub fn limit_to(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    pub fn count(&mut self, sent: u64) {
        *self.total += sent;
        self.sent += sent;
    }

    pub fn is_over(&self) -> bool {
        let is_long = || monotonic_micros().saturating_sub(self.began) >= SEND_TURN_TIME.as_micros() as u64;
        self.sent > 0 && (self.sent >= self.bytes_max || is_long())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{COLD_READ_BYTES, SEND_TURN_BYTES};

    #[test]
    fn turn_ends_after_its_bytes_or_its_time() {
        let mut total = 0;
        let mut turn = Turn::new(SEND_TURN_BYTES, &mut total);
        // In the future, so that no delay of this thread ends the turn.
        turn.began = u64::MAX;
        turn.count(SEND_TURN_BYTES - 1);
        assert!(!turn.is_over(), "one byte is left");
        turn.count(1);
        assert!(turn.is_over(), "no byte is left");
        turn.begin();
        turn.began -= SEND_TURN_TIME.as_micros() as u64;
        assert!(!turn.is_over(), "a turn has at least one call");
        turn.count(1);
        assert!(turn.is_over(), "no time is left");
        turn.limit_to(COLD_READ_BYTES);
        turn.begin();
        turn.began = u64::MAX;
        turn.count(COLD_READ_BYTES);
        assert!(turn.is_over(), "no byte of the smaller limit is left");
        assert_eq!(total, SEND_TURN_BYTES + 1 + COLD_READ_BYTES);
    }
}
