//! Arbitrary bytes as what a client of HTTP/2 sends, counted as they pass.

use super::count::{Incoming, PREFACE};

/// The verdict does not depend on how the bytes were cut. The first byte is the length of the pieces.
pub fn frames(bytes: &[u8]) {
    let Some((&step, bytes)) = bytes.split_first() else {
        return;
    };
    let pass = |step: usize| {
        let mut incoming = Incoming::new(0);
        incoming.pass(PREFACE, 0)?;
        for piece in bytes.chunks(step.max(1)) {
            incoming.pass(piece, 0)?;
        }
        Ok::<bool, h2::Reason>(incoming.greeted())
    };
    assert_eq!(
        pass(usize::from(step)),
        pass(bytes.len()),
        "the verdict depends on the cuts"
    );
}
