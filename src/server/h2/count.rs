//! Frames as they pass, in both directions: only their heads are looked at. Which of them are mistakes that a client
//! should hear about by their name, and which are a flood. Pure.
//!
//! The `h2` crate decodes what passes here; it does not count what it can answer without a stream.

use h2::Reason;

use crate::limits::{
    H2_FRAMES_PER_DATA, H2_FRAMES_PER_REQUEST, H2_FRAMES_SAVED_MAX, H2_IDLE_FRAMES_AT_ONCE,
    H2_IDLE_FRAMES_PER_SECOND, H2_RESETS_AT_ONCE, H2_RESETS_PER_SECOND,
};

/// What a client that knows HTTP/2 sends first (RFC 9113, 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;

/// The head of a frame (RFC 9113, 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Head {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Finds the heads in a stream of frames, however it is cut.
#[derive(Default)]
struct Heads {
    partial: [u8; HEAD_BYTES],
    have: usize,
    /// Bytes of the current frame's payload that are still to come.
    payload: usize,
}

impl Heads {
    /// The next head in `bytes`, which is moved behind it; `None` when `bytes` is used up.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        let skipped = self.payload.min(bytes.len());
        *bytes = &bytes[skipped..];
        self.payload -= skipped;
        let taken = (HEAD_BYTES - self.have).min(bytes.len());
        self.partial[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
        self.have += taken;
        *bytes = &bytes[taken..];
        if self.have < HEAD_BYTES {
            return None;
        }
        self.have = 0;
        let [a, b, c, kind, flags, d, e, f, g] = self.partial;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.payload = length as usize;
        Some(Head {
            length,
            kind,
            flags,
            stream: u32::from_be_bytes([d & 0x7f, e, f, g]),
        })
    }
}

/// What may be spent, refilled by time up to what may be spent at once.
struct Allowance {
    left: u32,
    at_once: u32,
    per_second: u32,
    refilled: u32,
}

impl Allowance {
    fn new(at_once: u32, per_second: u32, now: u32) -> Self {
        Allowance {
            left: at_once,
            at_once,
            per_second,
            refilled: now,
        }
    }

    fn spend(&mut self, now: u32) -> bool {
        let passed = now.saturating_sub(self.refilled);
        if passed > 0 {
            self.refilled = now;
            let full = self.left.saturating_add(passed.saturating_mul(self.per_second));
            // What was earned otherwise is not lost when time passes.
            self.left = full.min(self.at_once).max(self.left);
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    fn earn(&mut self, more: u32) {
        if self.left < H2_FRAMES_SAVED_MAX {
            self.left += more;
        }
    }
}

/// What one client sends.
pub struct Incoming {
    heads: Heads,
    /// Bytes of the preface that have passed.
    preface: usize,
    /// The client's SETTINGS have come.
    greeted: bool,
    resets: Allowance,
    others: Allowance,
}

impl Incoming {
    pub fn new(now: u32) -> Self {
        Incoming {
            heads: Heads::default(),
            preface: 0,
            greeted: false,
            resets: Allowance::new(H2_RESETS_AT_ONCE, H2_RESETS_PER_SECOND, now),
            others: Allowance::new(H2_IDLE_FRAMES_AT_ONCE, H2_IDLE_FRAMES_PER_SECOND, now),
        }
    }

    /// Looks at the next bytes received, in the second `now`.
    ///
    /// # Errors
    ///
    /// The connection must be closed, and the client be told why.
    pub fn pass(&mut self, mut bytes: &[u8], now: u32) -> Result<(), Reason> {
        let preface = (PREFACE.len() - self.preface).min(bytes.len());
        self.preface += preface;
        bytes = &bytes[preface..];
        while let Some(head) = self.heads.next(&mut bytes) {
            self.check(head, now)?;
        }
        Ok(())
    }

    /// The client has said all that it must say before its first request.
    pub fn greeted(&self) -> bool {
        self.greeted
    }

    /// We have sent DATA frames, for which the client may send WINDOW_UPDATEs.
    pub fn answered(&mut self, frames: u32) {
        if frames > 0 {
            self.others.earn(frames.saturating_mul(H2_FRAMES_PER_DATA));
        }
    }

    fn check(&mut self, head: Head, now: u32) -> Result<(), Reason> {
        if !self.greeted {
            // The preface is not whole without it (RFC 9113, 3.4).
            if head.kind != SETTINGS || head.flags & ACK != 0 {
                return Err(Reason::PROTOCOL_ERROR);
            }
            self.greeted = true;
        }
        let sizes = match head.kind {
            PRIORITY => head.length == 5,
            RST_STREAM | WINDOW_UPDATE => head.length == 4,
            PING => head.length == 8,
            GOAWAY => head.length >= 8,
            SETTINGS if head.flags & ACK != 0 => head.length == 0,
            SETTINGS => head.length % 6 == 0,
            _ => true,
        };
        if !sizes {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        let place = match head.kind {
            SETTINGS | PING | GOAWAY => head.stream == 0,
            DATA | HEADERS | PRIORITY | RST_STREAM | CONTINUATION => head.stream != 0,
            _ => true,
        };
        if !place {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let within = match head.kind {
            HEADERS => {
                self.others.earn(H2_FRAMES_PER_REQUEST);
                true
            }
            RST_STREAM => self.resets.spend(now),
            _ => self.others.spend(now),
        };
        if within {
            Ok(())
        } else {
            Err(Reason::ENHANCE_YOUR_CALM)
        }
    }
}

/// What we send.
#[derive(Default)]
pub struct Outgoing {
    heads: Heads,
}

impl Outgoing {
    /// Looks at the next bytes sent; the number of DATA frames that begin there.
    pub fn pass(&mut self, mut bytes: &[u8]) -> u32 {
        let mut data = 0;
        while let Some(head) = self.heads.next(&mut bytes) {
            data += u32::from(head.kind == DATA);
        }
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend_from_slice(&[kind, flags]);
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    fn begun() -> Incoming {
        let mut incoming = Incoming::new(0);
        incoming.pass(PREFACE, 0).unwrap();
        incoming.pass(&frame(SETTINGS, 0, 0, &[]), 0).unwrap();
        incoming
    }

    #[test]
    fn heads_are_found_however_the_bytes_are_cut() {
        let frames = [
            frame(HEADERS, 5, 1, b"abc"),
            frame(PING, 0, 0, &[0; 8]),
            frame(DATA, 1, 0x8000_0001, &[7; 300]),
        ]
        .concat();
        for cut in 1..=frames.len() {
            let mut heads = Heads::default();
            let mut found = Vec::new();
            for mut piece in frames.chunks(cut) {
                while let Some(head) = heads.next(&mut piece) {
                    found.push((head.kind, head.length, head.stream));
                }
            }
            assert_eq!(
                found,
                [(HEADERS, 3, 1), (PING, 8, 0), (DATA, 300, 1)],
                "cut {cut}"
            );
        }
    }

    #[test]
    fn a_client_begins_with_settings_of_its_own() {
        for (kind, flags) in [(PING, 0), (HEADERS, 4), (SETTINGS, ACK)] {
            let mut incoming = Incoming::new(0);
            let length = if kind == PING { 8 } else { 0 };
            let bytes = [
                &PREFACE[..],
                &frame(kind, flags, u32::from(kind == HEADERS), &vec![0; length]),
            ]
            .concat();
            assert_eq!(
                incoming.pass(&bytes, 0),
                Err(Reason::PROTOCOL_ERROR),
                "{kind} {flags}"
            );
            assert!(!incoming.greeted());
        }
        assert!(begun().greeted());
    }

    #[test]
    fn frames_of_a_wrong_size_or_place_are_told_by_their_name() {
        use Reason as R;
        let cases: [(u8, u8, u32, usize, Option<Reason>); 16] = [
            (PING, 0, 0, 8, None),
            (PING, 0, 0, 6, Some(R::FRAME_SIZE_ERROR)),
            (PING, 0, 1, 8, Some(R::PROTOCOL_ERROR)),
            (SETTINGS, 0, 0, 5, Some(R::FRAME_SIZE_ERROR)),
            (SETTINGS, ACK, 0, 6, Some(R::FRAME_SIZE_ERROR)),
            (SETTINGS, 0, 1, 6, Some(R::PROTOCOL_ERROR)),
            (PRIORITY, 0, 1, 4, Some(R::FRAME_SIZE_ERROR)),
            (PRIORITY, 0, 0, 5, Some(R::PROTOCOL_ERROR)),
            (RST_STREAM, 0, 1, 3, Some(R::FRAME_SIZE_ERROR)),
            (RST_STREAM, 0, 0, 4, Some(R::PROTOCOL_ERROR)),
            (WINDOW_UPDATE, 0, 0, 3, Some(R::FRAME_SIZE_ERROR)),
            (GOAWAY, 0, 3, 8, Some(R::PROTOCOL_ERROR)),
            (DATA, 0, 0, 1, Some(R::PROTOCOL_ERROR)),
            (HEADERS, 0, 0, 1, Some(R::PROTOCOL_ERROR)),
            (CONTINUATION, 0, 0, 1, Some(R::PROTOCOL_ERROR)),
            (0xbe, 0, 0, 77, None),
        ];
        for (kind, flags, stream, length, wanted) in cases {
            let got = begun().pass(&frame(kind, flags, stream, &vec![0; length]), 0);
            assert_eq!(got.err(), wanted, "type {kind}, flags {flags}, {length} bytes");
        }
    }

    #[test]
    fn a_flood_of_any_kind_ends_and_a_busy_client_does_not() {
        for (kind, stream, length) in [
            (PING, 0, 8),
            (SETTINGS, 0, 0),
            (PRIORITY, 1, 5),
            (WINDOW_UPDATE, 0, 4),
            (RST_STREAM, 1, 4),
            (DATA, 1, 0),
            (CONTINUATION, 1, 0),
            (0xbe, 0, 0),
        ] {
            let mut incoming = begun();
            let one = frame(kind, 0, stream, &vec![0; length]);
            let many = (0..5_000).take_while(|_| incoming.pass(&one, 0).is_ok()).count();
            assert!((900..=1_100).contains(&many), "type {kind}: {many}");
        }
        // Two windows for each DATA frame, for hours.
        let mut incoming = begun();
        let update = frame(WINDOW_UPDATE, 0, 1, &[0; 4]);
        for _ in 0..1_000_000 {
            incoming.answered(1);
            incoming.pass(&update, 0).unwrap();
            incoming.pass(&update, 0).unwrap();
        }
        // A hundred a second, for an hour.
        let mut incoming = begun();
        let reset = frame(RST_STREAM, 0, 1, &[0; 4]);
        let ping = frame(PING, 0, 0, &[0; 8]);
        for second in 1..3_600 {
            for _ in 0..90 {
                incoming.pass(&reset, second).unwrap();
                incoming.pass(&ping, second).unwrap();
            }
        }
    }

    #[test]
    fn our_data_frames_are_counted() {
        let mut outgoing = Outgoing::default();
        let bytes = [
            frame(HEADERS, 4, 1, b"x"),
            frame(DATA, 0, 1, b"xyz"),
            frame(DATA, 1, 1, b""),
        ]
        .concat();
        assert_eq!(bytes.chunks(5).map(|piece| outgoing.pass(piece)).sum::<u32>(), 2);
    }
}
