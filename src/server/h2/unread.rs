//! Bytes of open ranges that a client has received and its program has not read, as WINDOW_UPDATE frames tell (RFC 9113,
//! 6.9.1).
//!
//! A client that fetches a blob in parts requests ranges without an end, and resets a stream when it has its part. All bytes
//! that the stream's window (4 MiB for a client in Go) let the server send beyond the part were sent in vain.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::limits::H2_OPEN_RANGE_UNREAD_BYTES;

/// The open ranges that one connection sends.
pub struct OpenRanges {
    streams: RefCell<Vec<Stream>>,
    unread_max: Cell<u64>,
    /// The client has granted window of an open range.
    granted: Cell<bool>,
}

struct Stream {
    id: u32,
    read: u64,
    waker: Option<Waker>,
}

/// One of [`OpenRanges`], until it is dropped.
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
    /// Counts the bytes that the client reads of the stream `id` from now on.
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

    /// The client has read `bytes` more of the stream `id`.
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

    /// Bytes of each open range that the client may have unread.
    pub fn unread_max(&self) -> u64 {
        self.unread_max.get()
    }

    /// Doubles [`Self::unread_max`] after a wait in which the client granted no window. The limit ends for a client that has
    /// granted none at all: it grants window when half of it is used, and its window is unknown here.
    pub fn raise_unread_max(&self) {
        let raised = match self.granted.get() {
            true => self.unread_max.get().saturating_mul(2),
            false => u64::MAX,
        };
        self.unread_max.set(raised);
    }
}

impl OpenRange {
    /// Bytes that the client has read.
    pub fn read(&self) -> u64 {
        let streams = self.all.streams.borrow();
        let own = streams.iter().find(|stream| stream.id == self.id);
        own.map_or(0, |stream| stream.read)
    }

    /// Waits until the client has read more than `before`.
    ///
    /// # Cancellation
    ///
    /// Free.
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
