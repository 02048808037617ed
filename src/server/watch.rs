//! Deadlines of a core's connections, checked four times a second.
//!
//! A deadline costs a request one store. When it passes, the socket is shut down, which wakes its connection;
//! nothing is cancelled and no timer is armed per request.

use std::cell::RefCell;
use std::net::Shutdown;
use std::rc::Rc;

use super::stream::Stream;
use crate::runtime::clock::monotonic_seconds;
use crate::sys::Local;

/// What a connection is waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// For the next request; ends also when the server drains.
    Idle,
    /// For the rest of a head, or of what is thrown away after a refusal.
    Input,
    /// For the client to take bytes.
    Output,
    /// For ourselves.
    Nothing,
}

struct Slot {
    local: Local,
    waiting: Waiting,
    deadline: u32,
    expired: bool,
}

/// The deadlines of one core.
#[derive(Clone, Default)]
pub struct WatchList(Rc<RefCell<Slots>>);

#[derive(Default)]
struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
}

/// One connection's deadline. Must be dropped before its socket.
pub struct Watch {
    list: WatchList,
    index: usize,
}

impl WatchList {
    pub fn add(&self, stream: &Stream) -> Watch {
        let mut slots = self.0.borrow_mut();
        let slot = Slot {
            local: stream.local(),
            waiting: Waiting::Nothing,
            deadline: 0,
            expired: false,
        };
        let index = slots.free.pop().unwrap_or_else(|| {
            slots.slots.push(None);
            slots.slots.len() - 1
        });
        slots.slots[index] = Some(slot);
        drop(slots);
        Watch {
            list: self.clone(),
            index,
        }
    }

    /// Connections being watched.
    pub fn count(&self) -> usize {
        let slots = self.0.borrow();
        slots.slots.len() - slots.free.len()
    }

    /// Ends the waits that have lasted too long, and the idle ones when the server drains.
    pub fn sweep(&self, draining: bool) {
        let now = monotonic_seconds();
        for slot in self.0.borrow_mut().slots.iter_mut().flatten() {
            let overdue = now > slot.deadline;
            let how = match slot.waiting {
                Waiting::Idle if overdue || draining => Shutdown::Read,
                Waiting::Input if overdue => Shutdown::Read,
                Waiting::Output if overdue => Shutdown::Both,
                _ => continue,
            };
            slot.expired = true;
            slot.waiting = Waiting::Nothing;
            slot.local.shutdown(how);
        }
    }
}

impl Watch {
    /// Starts a wait of at most `seconds` (and up to one more).
    pub fn set(&self, waiting: Waiting, seconds: u32) {
        self.with(|slot| {
            slot.waiting = waiting;
            // What ended an earlier wait does not concern this one: a request that came in the same moment
            // is answered.
            slot.expired = false;
            slot.deadline = monotonic_seconds().saturating_add(seconds);
        });
    }

    /// Ends the wait in time.
    pub fn clear(&self) {
        self.with(|slot| slot.waiting = Waiting::Nothing);
    }

    /// Whether a deadline has passed and the socket was shut down for it.
    pub fn expired(&self) -> bool {
        self.with(|slot| slot.expired)
    }

    fn with<R>(&self, f: impl FnOnce(&mut Slot) -> R) -> R {
        let mut slots = self.list.0.borrow_mut();
        f(slots.slots[self.index]
            .as_mut()
            .expect("a watch owns its slot until it is dropped"))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut slots = self.list.0.borrow_mut();
        slots.slots[self.index] = None;
        slots.free.push(self.index);
    }
}
