//! Chunks of bodies that pass through the `h2` crate, and the budget for queued chunks.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use bytes::{Buf, Bytes};

use crate::limits::H2_STREAM_UNSENT_BYTES_MAX;

/// The size of one file read. A stream holds at most one such buffer.
pub const BUFFER_BYTES: usize = H2_STREAM_UNSENT_BYTES_MAX;

/// The number of idle buffers per core: 2 MiB.
const IDLE_BUFFERS_MAX: usize = 32;

thread_local! {
    static IDLE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of this core. Returned to the core on drop.
pub struct Buffer(Option<Box<[u8]>>);

impl Buffer {
    /// Takes [`BUFFER_BYTES`] with arbitrary contents.
    pub fn take() -> Self {
        let idle = IDLE.with_borrow_mut(Vec::pop);
        Buffer(Some(
            idle.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice()),
        ))
    }

    pub fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(buffer) = self.0.take() {
            IDLE.with_borrow_mut(|idle| {
                if idle.len() < IDLE_BUFFERS_MAX {
                    idle.push(buffer);
                }
            });
        }
    }
}

enum Data {
    Shared(Bytes),
    Lent {
        buffer: Buffer,
        start: usize,
        end: usize,
    },
}

/// A chunk of a body. Its charge is released after the chunk is sent or discarded.
pub struct Chunk {
    data: Data,
    _charge: Option<Charge>,
}

impl Chunk {
    /// Creates a chunk of bytes that stay in memory anyway and are not charged to the connection.
    pub fn free(bytes: Bytes) -> Self {
        Chunk {
            data: Data::Shared(bytes),
            _charge: None,
        }
    }

    pub fn shared(bytes: Bytes, charge: Charge) -> Self {
        Chunk {
            data: Data::Shared(bytes),
            _charge: Some(charge),
        }
    }

    /// Creates a chunk of the first `len` bytes of `buffer`.
    pub fn lent(buffer: Buffer, len: usize, charge: Charge) -> Self {
        Chunk {
            data: Data::Lent {
                buffer,
                start: 0,
                end: len,
            },
            _charge: Some(charge),
        }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        match &self.data {
            Data::Shared(bytes) => bytes.len(),
            Data::Lent { start, end, .. } => end - start,
        }
    }

    fn chunk(&self) -> &[u8] {
        match &self.data {
            Data::Shared(bytes) => bytes,
            Data::Lent { buffer, start, end } => &buffer.bytes()[*start..*end],
        }
    }

    fn advance(&mut self, count: usize) {
        match &mut self.data {
            Data::Shared(bytes) => bytes.advance(count),
            Data::Lent { start, end, .. } => {
                assert!(count <= *end - *start, "no more than there is");
                *start += count;
            }
        }
    }
}

/// The bytes that the streams of one connection may hold together.
#[derive(Clone)]
pub struct SendBudget(Rc<BudgetState>);

struct BudgetState {
    left: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
}

/// A part of a [`SendBudget`].
pub struct Charge {
    budget: Rc<BudgetState>,
    bytes: usize,
}

impl SendBudget {
    pub fn new(bytes: usize) -> Self {
        SendBudget(Rc::new(BudgetState {
            left: Cell::new(bytes),
            waiting: RefCell::default(),
        }))
    }

    /// Takes `bytes` (at most the part of one stream) if the budget allows.
    pub fn take(&self, bytes: usize) -> Option<Charge> {
        let left = self.0.left.get().checked_sub(bytes)?;
        self.0.left.set(left);
        Some(Charge {
            budget: self.0.clone(),
            bytes,
        })
    }

    /// Waits until `bytes` are left. Another stream may take them first.
    ///
    /// # Cancellation
    ///
    /// Cancel-safe.
    pub async fn wait(&self, bytes: usize) {
        poll_fn(|cx| {
            if self.0.left.get() >= bytes {
                return Poll::Ready(());
            }
            self.0.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.left.set(self.budget.left.get() + self.bytes);
        let waiting = std::mem::take(&mut *self.budget.waiting.borrow_mut());
        for waker in waiting {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::H2_CONNECTION_UNSENT_BYTES_MAX;

    #[test]
    fn a_connection_has_no_more_than_its_budget_and_gets_it_back() {
        let budget = SendBudget::new(H2_CONNECTION_UNSENT_BYTES_MAX);
        let all: Vec<Charge> = std::iter::from_fn(|| budget.take(BUFFER_BYTES)).collect();
        assert_eq!(all.len() * BUFFER_BYTES, H2_CONNECTION_UNSENT_BYTES_MAX);
        assert!(budget.take(1).is_none());
        drop(all);
        assert!(budget.take(H2_CONNECTION_UNSENT_BYTES_MAX).is_some());
    }

    #[test]
    fn lent_chunk_contains_its_part_of_the_buffer() {
        let budget = SendBudget::new(H2_CONNECTION_UNSENT_BYTES_MAX);
        let mut buffer = Buffer::take();
        buffer.bytes_mut()[..5].copy_from_slice(b"abcde");
        let mut chunk = Chunk::lent(buffer, 4, budget.take(4).unwrap());
        chunk.advance(1);
        assert_eq!((chunk.remaining(), chunk.chunk()), (3, &b"bcd"[..]));
    }
}
