//! Finds the end of a TLS record by lengths only (RFC 8446, 5.1). Before a switch to kTLS, a
//! handshake must not read beyond a record, because the kernel reads the following bytes.

/// The progress of the current record.
#[derive(Default)]
pub struct Record {
    header: [u8; 5],
    /// Received bytes of the header.
    have: usize,
    /// Missing bytes after the header.
    left: usize,
}

impl Record {
    /// Returns the number of bytes up to the end of the header, or of the record after a complete
    /// header.
    pub fn room(&self) -> usize {
        match (self.have, self.left) {
            (5, 0) => 5,
            (5, left) => left,
            (have, _) => 5 - have,
        }
    }

    /// Adds received bytes, at most [`Self::room`].
    pub fn add(&mut self, received: &[u8]) {
        if self.is_over() {
            self.have = 0;
        }
        if self.have == 5 {
            self.left = self.left.saturating_sub(received.len());
            return;
        }
        let new = received.len().min(5 - self.have);
        self.header[self.have..self.have + new].copy_from_slice(&received[..new]);
        self.have += new;
        if self.have == 5 {
            self.left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
        }
    }

    pub fn is_over(&self) -> bool {
        (self.have, self.left) == (5, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_record_reader_stops_at_the_end_of_a_record() {
        // Two records, the first without content, and the start of a third.
        let bytes = [&[22, 3, 1, 0, 0][..], &[22, 3, 3, 1, 2], &[7; 258], &[23, 3]].concat();
        for step in [1, 3, 300] {
            let mut record = Record::default();
            let (mut at, mut ends) = (0, Vec::new());
            while at < bytes.len() {
                let read = record.room().min(step).min(bytes.len() - at);
                record.add(&bytes[at..at + read]);
                at += read;
                if record.is_over() {
                    ends.push(at);
                }
            }
            assert_eq!(ends, [5, 268], "{step} bytes at a time");
            assert_eq!(record.room(), 3);
        }
    }
}
