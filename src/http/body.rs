//! Response bodies: their sources, independent of the transport.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use super::range::Span;
use crate::shared_file::SharedFile;

/// The body of a response.
pub enum Body {
    Empty,
    /// Bytes in memory.
    Bytes(Bytes),
    /// A part of a committed file.
    File {
        file: SharedFile,
        span: Span,
    },
    /// Several parts of a committed file, each after its part head (`multipart/byteranges`).
    Parts {
        file: SharedFile,
        parts: Vec<(Vec<u8>, Span)>,
        tail: Vec<u8>,
    },
    /// Bytes that are still arriving.
    Growing(Box<dyn Growing>),
}

/// The next bytes of a growing body.
#[derive(Debug)]
pub enum Piece {
    Memory(Bytes),
    /// At least one byte of a file that no longer changes.
    File {
        file: SharedFile,
        span: Span,
    },
}

/// The source of a body failed before the end. The sent bytes must not look like a complete
/// response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aborted;

/// The future of [`Growing::next`]. `None` is the end of a complete and verified body.
pub type NextPiece<'a> = Pin<Box<dyn Future<Output = Result<Option<Piece>, Aborted>> + 'a>>;

/// A body whose bytes become available over time.
pub trait Growing {
    /// Waits for the next bytes.
    ///
    /// # Cancellation
    ///
    /// Cancel-safe. Bytes not yet returned remain for the next call.
    fn next(&mut self) -> NextPiece<'_>;
}
