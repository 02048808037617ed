//! Frame limits. Inspects the frame heads of both directions, and the first payload bytes of some
//! received frames. Detects malformed frames, with the error code of the RFC, and frame floods.
//! Performs no I/O.
//!
//! The `h2` crate decodes the frames. The crate does not limit frames that it answers without a
//! stream.

use std::rc::Rc;

use h2::Reason;

use super::unread::OpenRanges;
use crate::limits::{
    H2_FRAME_CREDIT_MAX, H2_FRAMES_PER_DATA, H2_FRAMES_PER_REQUEST, H2_IDLE_FRAMES_AT_ONCE,
    H2_IDLE_FRAMES_PER_SECOND, H2_RESETS_AT_ONCE, H2_RESETS_PER_SECOND,
};

/// The connection preface of an HTTP/2 client (RFC 9113, 3.4).
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
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITIZED: u8 = 0x20;

/// The head of a frame (RFC 9113, 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Head {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Finds the frame heads in a byte stream, independent of its division into reads.
#[derive(Default)]
struct Heads {
    partial: [u8; HEAD_BYTES],
    have: usize,
    /// The remaining payload bytes of the current frame.
    payload: usize,
    /// The first bytes of the payload that the connection inspects.
    prefix: PayloadPrefix,
}

/// The first bytes of one payload.
#[derive(Default)]
struct PayloadPrefix {
    bytes: [u8; PAYLOAD_PREFIX_BYTES_MAX],
    have: usize,
    wanted: usize,
}

/// The length of the padding, a priority, and the first bytes of a field block. The field block
/// bytes show whether the first name starts with a colon.
const PAYLOAD_PREFIX_BYTES_MAX: usize = 1 + 5 + 3;

impl Heads {
    /// Returns the next head in `bytes` and advances `bytes` past it. Returns `None` at the end of
    /// `bytes`.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        let skipped = self.payload.min(bytes.len());
        self.prefix.take(&bytes[..skipped]);
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

impl PayloadPrefix {
    fn take(&mut self, payload: &[u8]) {
        let more = (self.wanted - self.have).min(payload.len());
        self.bytes[self.have..self.have + more].copy_from_slice(&payload[..more]);
        self.have += more;
    }
}

impl Heads {
    /// Requests the first bytes of the payload after the last head.
    fn look_at(&mut self, bytes: usize) {
        self.prefix.have = 0;
        self.prefix.wanted = bytes.min(self.payload);
    }

    /// Returns the requested bytes once all of them have arrived. Returns them only once.
    fn looked_at(&mut self) -> Option<&[u8]> {
        let wanted = self.prefix.wanted;
        if wanted == 0 || self.prefix.have < wanted {
            return None;
        }
        self.prefix.wanted = 0;
        self.prefix.have = 0;
        Some(&self.prefix.bytes[..wanted])
    }
}

/// Returns whether a field block starts with a pseudo-field (RFC 7541, 6). Detects only names of
/// the static table and literal names, because other names need the dynamic table.
fn begins_with_pseudo_field(block: &[u8]) -> bool {
    /// The names of the static table that start with a colon.
    const STATIC: std::ops::RangeInclusive<u8> = 1..=14;
    let Some(&first) = block.first() else {
        return false;
    };
    let index = match first {
        0x80.. => first & 0x7f,
        0x40.. => first & 0x3f,
        0x20.. => return false,
        _ => first & 0x0f,
    };
    match block {
        [_, length, name, ..] if index == 0 && *length & 0x80 == 0 => *name == b':',
        // The Huffman code of a colon has seven bits.
        [_, _, name, ..] if index == 0 => name >> 1 == 0x5c,
        _ => STATIC.contains(&index),
    }
}

/// The streams that the client has ended most recently, by END_STREAM or RST_STREAM.
#[derive(Default)]
struct Ended {
    streams: [u32; 16],
    next: usize,
}

impl Ended {
    fn has(&self, stream: u32) -> bool {
        self.streams.contains(&stream)
    }

    fn add(&mut self, stream: u32) {
        self.streams[self.next] = stream;
        self.next = (self.next + 1) % self.streams.len();
    }
}

/// A token bucket, refilled over time up to `at_once`.
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
        let elapsed = now.saturating_sub(self.refilled);
        if elapsed > 0 {
            self.refilled = now;
            let full = self.left.saturating_add(elapsed.saturating_mul(self.per_second));
            // Earned credit above `at_once` remains.
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
        if self.left < H2_FRAME_CREDIT_MAX {
            self.left += more;
        }
    }
}

/// The purpose of the inspected payload bytes.
#[derive(Clone, Copy)]
enum LooksFor {
    /// Detects a pseudo-field at the start of trailers, after the given number of bytes.
    PseudoField(usize),
    /// Reads the window increment of the given stream, which carries an open range.
    WindowUpdate(u32),
}

/// The frames that one client sends.
pub struct Incoming {
    heads: Heads,
    /// Received bytes of the preface.
    preface: usize,
    /// `settings_started`: the head of the client's SETTINGS has arrived. `greeted`: the whole
    /// SETTINGS frame has arrived.
    settings_started: bool,
    greeted: bool,
    /// A field block is in progress, which no other frame may interrupt (RFC 9113, 6.10).
    in_block: bool,
    /// The highest stream that the client has started.
    highest: u32,
    ended: Ended,
    looks_for: LooksFor,
    open_ranges: Rc<OpenRanges>,
    resets: Allowance,
    others: Allowance,
}

impl Incoming {
    pub fn new(now: u32) -> Self {
        Incoming {
            heads: Heads::default(),
            preface: 0,
            settings_started: false,
            greeted: false,
            in_block: false,
            highest: 0,
            ended: Ended::default(),
            looks_for: LooksFor::PseudoField(0),
            open_ranges: Rc::default(),
            resets: Allowance::new(H2_RESETS_AT_ONCE, H2_RESETS_PER_SECOND, now),
            others: Allowance::new(H2_IDLE_FRAMES_AT_ONCE, H2_IDLE_FRAMES_PER_SECOND, now),
        }
    }

    /// Inspects the next received bytes. `now` is the time in seconds.
    ///
    /// # Errors
    ///
    /// The caller must close the connection with the returned reason.
    pub fn inspect(&mut self, mut bytes: &[u8], now: u32) -> Result<(), Reason> {
        let preface = (PREFACE.len() - self.preface).min(bytes.len());
        self.preface += preface;
        bytes = &bytes[preface..];
        loop {
            let head = self.heads.next(&mut bytes);
            if let Some(payload) = self.heads.looked_at() {
                match self.looks_for {
                    LooksFor::PseudoField(skip) => {
                        if payload.get(skip..).is_some_and(begins_with_pseudo_field) {
                            return Err(Reason::PROTOCOL_ERROR);
                        }
                    }
                    LooksFor::WindowUpdate(stream) => {
                        if let Ok(increment) = <[u8; 4]>::try_from(payload) {
                            // The first bit is reserved (RFC 9113, 6.9).
                            let bytes = u32::from_be_bytes(increment) & 0x7fff_ffff;
                            self.open_ranges.read(stream, bytes);
                        }
                    }
                }
            }
            let Some(head) = head else { break };
            self.check(head, now)?;
        }
        self.greeted |= self.settings_started && self.heads.payload == 0;
        Ok(())
    }

    /// Returns whether the client has sent its whole connection preface, including SETTINGS.
    pub fn greeted(&self) -> bool {
        self.greeted
    }

    pub fn open_ranges(&self) -> &Rc<OpenRanges> {
        &self.open_ranges
    }

    /// Records sent DATA frames, which entitle the client to send WINDOW_UPDATE frames.
    pub fn answered(&mut self, frames: u32) {
        if frames > 0 {
            self.others.earn(frames.saturating_mul(H2_FRAMES_PER_DATA));
        }
    }

    fn check(&mut self, head: Head, now: u32) -> Result<(), Reason> {
        if !self.settings_started {
            // The preface includes SETTINGS (RFC 9113, 3.4).
            if head.kind != SETTINGS || head.flags & ACK != 0 {
                return Err(Reason::PROTOCOL_ERROR);
            }
            self.settings_started = true;
        } else {
            self.greeted = true;
        }
        let sizes = match head.kind {
            PRIORITY => head.length == 5,
            RST_STREAM | WINDOW_UPDATE => head.length == 4,
            PING => head.length == 8,
            GOAWAY => head.length >= 8,
            SETTINGS if head.flags & ACK != 0 => head.length == 0,
            SETTINGS => head.length.is_multiple_of(6),
            _ => true,
        };
        if !sizes {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        let stream_is_valid = match head.kind {
            SETTINGS | PING | GOAWAY => head.stream == 0,
            DATA | HEADERS | PRIORITY | RST_STREAM | CONTINUATION => head.stream != 0,
            _ => true,
        };
        if !stream_is_valid {
            return Err(Reason::PROTOCOL_ERROR);
        }
        self.follow(head)?;
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

impl Incoming {
    /// Records the start and the end of streams. For frames after the end of a stream, `h2` reports
    /// another error than RFC 9113, 5.1. `h2` also accepts pseudo-fields in trailers as fields.
    fn follow(&mut self, head: Head) -> Result<(), Reason> {
        if self.in_block && head.kind != CONTINUATION {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if matches!(head.kind, HEADERS | CONTINUATION) {
            self.in_block = head.flags & END_HEADERS == 0;
        }
        if head.kind == WINDOW_UPDATE && self.open_ranges.has(head.stream) {
            self.looks_for = LooksFor::WindowUpdate(head.stream);
            self.heads.look_at(4);
        }
        if !matches!(head.kind, DATA | HEADERS | RST_STREAM) {
            return Ok(());
        }
        let ended = self.ended.has(head.stream);
        if head.kind == RST_STREAM {
            if !ended {
                self.ended.add(head.stream);
            }
            return Ok(());
        }
        if ended {
            return Err(Reason::STREAM_CLOSED);
        }
        if head.kind == HEADERS {
            if head.stream <= self.highest {
                let before = usize::from(head.flags & PADDED != 0);
                let before = before + 5 * usize::from(head.flags & PRIORITIZED != 0);
                self.looks_for = LooksFor::PseudoField(before);
                self.heads.look_at(before + 3);
            } else {
                self.highest = head.stream;
            }
        }
        if head.flags & END_STREAM != 0 {
            self.ended.add(head.stream);
        }
        Ok(())
    }
}

/// The frames that the server sends.
#[derive(Default)]
pub struct Outgoing {
    heads: Heads,
}

impl Outgoing {
    /// Inspects the next sent bytes. Returns the number of DATA frames that start there.
    pub fn count_data_frames(&mut self, mut bytes: &[u8]) -> u32 {
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

    fn greeted() -> Incoming {
        let mut incoming = Incoming::new(0);
        incoming.inspect(PREFACE, 0).unwrap();
        incoming.inspect(&frame(SETTINGS, 0, 0, &[]), 0).unwrap();
        incoming
    }

    #[test]
    fn frame_heads_are_found_for_every_read_size() {
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
    fn first_client_frame_other_than_settings_is_a_protocol_error() {
        for (kind, flags) in [(PING, 0), (HEADERS, 4), (SETTINGS, ACK)] {
            let mut incoming = Incoming::new(0);
            let length = if kind == PING { 8 } else { 0 };
            let bytes = [
                &PREFACE[..],
                &frame(kind, flags, u32::from(kind == HEADERS), &vec![0; length]),
            ]
            .concat();
            assert_eq!(
                incoming.inspect(&bytes, 0),
                Err(Reason::PROTOCOL_ERROR),
                "{kind} {flags}"
            );
            assert!(!incoming.greeted());
        }
        assert!(greeted().greeted());
    }

    #[test]
    fn frames_of_a_wrong_size_or_stream_have_their_own_error() {
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
            let got = greeted().inspect(&frame(kind, flags, stream, &vec![0; length]), 0);
            assert_eq!(got.err(), wanted, "type {kind}, flags {flags}, {length} bytes");
        }
    }

    #[test]
    fn preface_is_complete_at_the_last_byte_of_the_settings_frame() {
        let hello = [&PREFACE[..], &frame(SETTINGS, 0, 0, &[0; 12])].concat();
        let mut incoming = Incoming::new(0);
        for byte in &hello {
            assert!(!incoming.greeted());
            incoming.inspect(&[*byte], 0).unwrap();
        }
        assert!(incoming.greeted());
        // The state remains during the next frame.
        incoming.inspect(&frame(PING, 0, 0, &[0; 8])[..12], 0).unwrap();
        assert!(incoming.greeted());
    }

    #[test]
    fn frames_behind_the_end_of_a_stream_have_their_own_error() {
        for end in [
            frame(HEADERS, END_STREAM | END_HEADERS, 1, b"x"),
            [
                frame(HEADERS, END_HEADERS, 1, b"x"),
                frame(DATA, END_STREAM, 1, b"x"),
            ]
            .concat(),
            [
                frame(HEADERS, END_HEADERS, 1, b"x"),
                frame(RST_STREAM, 0, 1, &[0; 4]),
            ]
            .concat(),
        ] {
            for kind in [DATA, HEADERS] {
                let mut incoming = greeted();
                incoming.inspect(&end, 0).unwrap();
                // Frames that are still valid, and another stream.
                incoming.inspect(&frame(WINDOW_UPDATE, 0, 1, &[0; 4]), 0).unwrap();
                incoming.inspect(&frame(RST_STREAM, 0, 1, &[0; 4]), 0).unwrap();
                incoming
                    .inspect(&frame(HEADERS, END_HEADERS, 3, b"x"), 0)
                    .unwrap();
                incoming.inspect(&frame(DATA, END_STREAM, 3, b"x"), 0).unwrap();
                let behind = frame(kind, 0, 1, b"x");
                assert_eq!(incoming.inspect(&behind, 0), Err(Reason::STREAM_CLOSED), "{kind}");
            }
        }
    }

    #[test]
    fn trailers_that_begin_with_a_pseudo_field_are_an_error_and_others_are_not() {
        let bad: [&[u8]; 7] = [
            &[0x83],
            &[0x42, 3, b'P', b'U', b'T'],
            &[0x02, 3, b'P', b'U', b'T'],
            &[0x14, 1, b'/'],
            &[0x40, 7, b':', b'm', b'e'],
            &[0x00, 7, b':', b'm', b'e'],
            &[0x10, 0x85, 0x5c << 1 | 1, 0xff],
        ];
        let good: [&[u8]; 6] = [
            &[],
            &[0x8f],
            &[0x4f, 1, b'x'],
            &[0x00, 3, b'x', b'-', b'y'],
            &[0x00, 0x83, 0xf0, 0],
            &[0xbe],
        ];
        let cases = bad.map(|block| (block, Err(Reason::PROTOCOL_ERROR)));
        for (block, wanted) in cases.into_iter().chain(good.map(|block| (block, Ok(())))) {
            for (flags, before) in [
                (0, &[][..]),
                (PADDED, &[0]),
                (PRIORITIZED, &[0; 5]),
                (PADDED | PRIORITIZED, &[0; 6]),
            ] {
                let head = frame(HEADERS, END_HEADERS, 5, &[0x83]);
                let trailers = frame(
                    HEADERS,
                    flags | END_STREAM | END_HEADERS,
                    5,
                    &[before, block].concat(),
                );
                let all = [head, trailers, frame(PING, 0, 0, &[0; 8])].concat();
                for cut in [1, 2, 5, all.len()] {
                    let mut incoming = greeted();
                    let got = all.chunks(cut).try_for_each(|piece| incoming.inspect(piece, 0));
                    assert_eq!(
                        got, wanted,
                        "{block:x?} with flags {flags:x}, {cut} bytes at once"
                    );
                }
            }
        }
    }

    #[test]
    fn window_updates_of_an_open_range_are_counted_for_every_read_size() {
        let frames = [
            frame(WINDOW_UPDATE, 0, 1, &0x8000_0005_u32.to_be_bytes()),
            frame(WINDOW_UPDATE, 0, 0, &100_u32.to_be_bytes()),
            frame(WINDOW_UPDATE, 0, 3, &100_u32.to_be_bytes()),
            frame(PING, 0, 0, &[9; 8]),
            frame(WINDOW_UPDATE, 0, 1, &6_u32.to_be_bytes()),
        ]
        .concat();
        for cut in 1..=frames.len() {
            let mut incoming = greeted();
            let range = incoming.open_ranges().begin(1);
            for piece in frames.chunks(cut) {
                incoming.inspect(piece, 0).unwrap();
            }
            assert_eq!(range.read(), 11, "cut {cut}");
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
            let mut incoming = greeted();
            let one = frame(kind, 0, stream, &vec![0; length]);
            let many = (0..5_000)
                .take_while(|_| incoming.inspect(&one, 0).is_ok())
                .count();
            assert!((900..=1_100).contains(&many), "type {kind}: {many}");
        }
        // Two window updates for each DATA frame, for hours.
        let mut incoming = greeted();
        let update = frame(WINDOW_UPDATE, 0, 1, &[0; 4]);
        for _ in 0..1_000_000 {
            incoming.answered(1);
            incoming.inspect(&update, 0).unwrap();
            incoming.inspect(&update, 0).unwrap();
        }
        // 90 frames of each kind per second, for an hour.
        let mut incoming = greeted();
        let reset = frame(RST_STREAM, 0, 1, &[0; 4]);
        let ping = frame(PING, 0, 0, &[0; 8]);
        for second in 1..3_600 {
            for _ in 0..90 {
                incoming.inspect(&reset, second).unwrap();
                incoming.inspect(&ping, second).unwrap();
            }
        }
    }

    #[test]
    fn outgoing_data_frames_are_counted() {
        let mut outgoing = Outgoing::default();
        let bytes = [
            frame(HEADERS, 4, 1, b"x"),
            frame(DATA, 0, 1, b"xyz"),
            frame(DATA, 1, 1, b""),
        ]
        .concat();
        assert_eq!(
            bytes
                .chunks(5)
                .map(|piece| outgoing.count_data_frames(piece))
                .sum::<u32>(),
            2
        );
    }
}
