//! Counts the unread bytes of open ranges: bytes that the client has received but its program has
//! not read. WINDOW_UPDATE frames report the reads (RFC 9113, 6.9.1).
//!
//! A client that fetches a blob in parts requests open ranges and resets each stream after its
//! part. The stream window (4 MiB for a Go client) lets the server send bytes beyond the part,
//! which are wasted.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::limits::H2_OPEN_RANGE_UNREAD_BYTES;

/// The open ranges that one connection sends.
pub struct OpenRanges {
    streams: RefCell<Vec<Stream>>,
    unread_max: Cell<u64>,
    /// The client has granted window for an open range.
    granted: Cell<bool>,
}

struct Stream {
    id: u32,
    read: u64,
    waker: Option<Waker>,
}

/// An entry of [`OpenRanges`], removed on drop.
pub struct OpenRange {
    all: Rc<OpenRanges>,
    id: u32,
}

impl Default for OpenRanges {
    fn default() -> Self {
        OpenRanges {
            streams: RefCell::default(),
            unread_max: Cell::new(H2_OPEN_RANGE_UNREAD_BYTES),
            granted: Cell::new(false),
        }
    }
}

impl OpenRanges {
    /// Starts to count the bytes that the client reads from stream `id`.
    pub fn begin(self: &Rc<Self>, id: u32) -> OpenRange {
        self.streams.borrow_mut().push(Stream {
            id,
            read: 0,
            waker: None,
        });
        OpenRange {
            all: self.clone(),
            id,
        }
    }

    pub fn has(&self, id: u32) -> bool {
        self.streams.borrow().iter().any(|stream| stream.id == id)
    }

    /// Records that the client has read `bytes` more from stream `id`.
    pub fn read(&self, id: u32, bytes: u32) {
        let mut streams = self.streams.borrow_mut();
        if let Some(stream) = streams.iter_mut().find(|stream| stream.id == id) {
            stream.read += u64::from(bytes);
            self.granted.set(true);
            if let Some(waker) = stream.waker.take() {
                waker.wake();
            }
        }
    }

    /// Returns the limit of unread bytes per open range.
    pub fn unread_max(&self) -> u64 {
        self.unread_max.get()
    }

    /// Doubles [`Self::unread_max`] after a wait in which the client granted no window. If the
    /// client has never granted window, removes the limit. Such a client grants window only after
    /// half of its window is used, and the server does not know the window size.
    pub fn raise_unread_max(&self) {
        let raised = match self.granted.get() {
            true => self.unread_max.get().saturating_mul(2),
            false => u64::MAX,
        };
        self.unread_max.set(raised);
    }
}

impl OpenRange {
    /// Returns the number of bytes that the client has read.
    pub fn read(&self) -> u64 {
        let streams = self.all.streams.borrow();
        let own = streams.iter().find(|stream| stream.id == self.id);
        own.map_or(0, |stream| stream.read)
    }

    /// Waits until the client has read more than `before` bytes.
    ///
    /// # Cancellation
    ///
    /// Cancel-safe.
    pub async fn read_more_than(&self, before: u64) {
        poll_fn(|cx| {
            let mut streams = self.all.streams.borrow_mut();
            match streams.iter_mut().find(|stream| stream.id == self.id) {
                Some(stream) if stream.read <= before => {
                    stream.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
        .await;
    }
}

impl Drop for OpenRange {
    fn drop(&mut self) {
        let mut streams = self.all.streams.borrow_mut();
        streams.retain(|stream| stream.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn a_range_counts_the_bytes_of_its_own_stream_until_it_ends() {
        let ranges = Rc::new(OpenRanges::default());
        let (one, three) = (ranges.begin(1), ranges.begin(3));
        ranges.read(1, 5);
        ranges.read(3, 7);
        ranges.read(1, 6);
        ranges.read(5, 9);
        assert_eq!((one.read(), three.read()), (11, 7));
        drop(one);
        assert!(!ranges.has(1) && ranges.has(3) && !ranges.has(5));
    }

    #[test]
    fn the_limit_doubles_for_a_client_that_grants_window_and_ends_for_one_that_does_not() {
        let silent = Rc::new(OpenRanges::default());
        let _range = silent.begin(1);
        silent.raise_unread_max();
        assert_eq!(silent.unread_max(), u64::MAX);
        let ranges = Rc::new(OpenRanges::default());
        let _range = ranges.begin(1);
        ranges.read(1, 5);
        ranges.raise_unread_max();
        assert_eq!(ranges.unread_max(), 2 * H2_OPEN_RANGE_UNREAD_BYTES);
    }

    #[test]
    fn a_wait_ends_with_the_next_byte_read() {
        let ranges = Rc::new(OpenRanges::default());
        let range = ranges.begin(1);
        ranges.read(1, 5);
        let mut wait = pin!(range.read_more_than(5));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(wait.as_mut().poll(&mut cx).is_pending());
        ranges.read(1, 1);
        assert!(wait.as_mut().poll(&mut cx).is_ready());
    }
}
