//! Response bodies: what they are made of, not how they are sent.

use std::fs::File;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use super::range::Span;

/// The bytes of a response.
pub enum Body {
    Empty,
    /// In memory.
    Bytes(Bytes),
    /// A part of a committed file.
    File {
        file: Arc<File>,
        span: Span,
    },
    /// Several parts of a committed file, each after its own head (`multipart/byteranges`).
    Parts {
        file: Arc<File>,
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
    /// Bytes of a file that will not change any more; at least one.
    File {
        file: Arc<File>,
        span: Span,
    },
}

/// The rest of a body will never come. What was sent must not look complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aborted;

/// What a [`Growing`] body promises for its next bytes: `None` is a clean and verified end.
pub type NextPiece<'a> = Pin<Box<dyn Future<Output = Result<Option<Piece>, Aborted>> + 'a>>;

/// A body of which more bytes become available over time.
pub trait Growing {
    /// Waits for the next bytes.
    ///
    /// # Cancellation
    ///
    /// Free: bytes not returned stay for the next call.
    fn next(&mut self) -> NextPiece<'_>;
}
