//! The bytes of removed content that the file system has not freed yet.

use std::time::Instant;

use crate::limits::RELEASE_TIME;

/// Bytes of content that was removed within one to two [`RELEASE_TIME`]. The file system frees them
/// when the last open file is closed: cores close their files within a sweep, and a thread closes
/// large files. Without these bytes, an eviction for free space would go on meanwhile.
#[derive(Debug, Default)]
pub(super) struct Releasing {
    /// The start of the present interval.
    began: Option<Instant>,
    present: u64,
    previous: u64,
}

impl Releasing {
    pub fn bytes(&mut self, now: Instant) -> u64 {
        let passed = self.began.map(|began| now.duration_since(began));
        if passed.is_none_or(|passed| passed >= RELEASE_TIME) {
            let is_next = passed.is_some_and(|passed| passed < 2 * RELEASE_TIME);
            self.previous = if is_next { self.present } else { 0 };
            self.present = 0;
            self.began = Some(now);
        }
        self.previous + self.present
    }

    pub fn add(&mut self, bytes: u64, now: Instant) {
        self.bytes(now);
        self.present += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_bytes_count_for_one_to_two_intervals() {
        let mut releasing = Releasing::default();
        let began = Instant::now();
        let after = |tenths: u32| began + RELEASE_TIME * tenths / 10;
        releasing.add(5, after(0));
        releasing.add(7, after(9));
        assert_eq!(releasing.bytes(after(9)), 12);
        releasing.add(1, after(12));
        assert_eq!(releasing.bytes(after(21)), 13);
        assert_eq!(releasing.bytes(after(22)), 1);
        assert_eq!(releasing.bytes(after(50)), 0);
    }
}
