//! The state that the streams of one HTTP/2 connection share.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Waker};

use super::io::WeakH2Io;
use super::send_buffer::SendBudget;
use super::unread::OpenRanges;
use crate::http::Certificate;
use crate::server::Server;

/// What the streams of a connection share.
pub struct Shared<H> {
    pub server: Rc<Server<H>>,
    pub peer: Option<SocketAddr>,
    /// The certificate the client has proved to be its own.
    pub certificate: Option<Certificate>,
    pub budget: SendBudget,
    /// What helper threads read for streams, until it has its part of the budget.
    pub reads: SendBudget,
    /// Bytes of bodies handed over.
    pub sent: Cell<u64>,
    pub open_ranges: Rc<OpenRanges>,
    pub io: WeakH2Io,
    /// Streams with a task of their own.
    pub(super) tasks: Cell<usize>,
    /// Of the connection's task.
    pub(super) waker: RefCell<Option<Waker>>,
}

/// Counts one task of a stream as long as it lives.
pub struct Running<H: 'static>(Rc<Shared<H>>);

impl<H> Shared<H> {
    pub fn count(self: &Rc<Self>) -> Running<H> {
        self.tasks.set(self.tasks.get() + 1);
        Running(self.clone())
    }

    pub(super) fn record_waker(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }
}

impl<H> Drop for Running<H> {
    fn drop(&mut self) {
        let left = self.0.tasks.get() - 1;
        self.0.tasks.set(left);
        // The connection is idle from now on, which is a deadline.
        if left == 0
            && let Some(waker) = &*self.0.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}
