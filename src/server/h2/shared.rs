//! Shared state of the streams of one HTTP/2 connection.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Waker};

use super::io::WeakH2Io;
use super::send_buffer::SendBudget;
use super::unread::OpenRanges;
use crate::http::Certificate;
use crate::server::Server;

pub struct Shared<H> {
    pub server: Rc<Server<H>>,
    pub peer: Option<SocketAddr>,
    /// The verified certificate of the client.
    pub certificate: Option<Certificate>,
    pub is_tls: bool,
    pub budget: SendBudget,
    /// The budget for bytes that helper threads read for streams, until [`Shared::budget`] covers
    /// them.
    pub reads: SendBudget,
    /// Body bytes passed to `h2`.
    pub sent: Cell<u64>,
    pub open_ranges: Rc<OpenRanges>,
    pub io: WeakH2Io,
    /// The number of streams with a separate task.
    pub(super) tasks: Cell<usize>,
    /// The waker of the connection task.
    pub(super) waker: RefCell<Option<Waker>>,
}

/// Counts one stream task for its lifetime.
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
        // The connection is now idle, so its task must set the idle deadline.
        if left == 0
            && let Some(waker) = &*self.0.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}
