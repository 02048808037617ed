//! Fuzz target: arbitrary bytes of an HTTP/2 client through the frame limits.

use super::frame_limits::{Incoming, PREFACE};

/// Checks that the verdict does not depend on the division of the bytes. The first byte is the
/// length of the pieces.
pub fn frames(bytes: &[u8]) {
    let Some((&step, bytes)) = bytes.split_first() else {
        return;
    };
    let inspect_in_pieces = |step: usize| {
        let mut incoming = Incoming::new(0);
        incoming.inspect(PREFACE, 0)?;
        for piece in bytes.chunks(step.max(1)) {
            incoming.inspect(piece, 0)?;
        }
        Ok::<bool, h2::Reason>(incoming.greeted())
    };
    assert_eq!(
        inspect_in_pieces(usize::from(step)),
        inspect_in_pieces(bytes.len()),
        "the result does not depend on the cuts"
    );
}
