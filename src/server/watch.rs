//! Deadlines of a core's connections, checked four times a second, and who goes first when there are too many.
//!
//! A deadline costs a request one store. When it passes, the connection's task is woken, or its socket shut down, which
//! wakes it too; nothing is cancelled and no timer is armed per request.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::crowd::Place;
use super::stream::Stream;
use crate::limits::{HEAD_PATIENCE_MILLIS, IDLE_PATIENCE_MILLIS, SEND_RATE_MIN, SEND_STALL_SECONDS};
use crate::runtime::clock::monotonic_millis;
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
    /// When the wait began and when it ends, on the clock of [`monotonic_millis`].
    since: u64,
    deadline: u64,
    expired: bool,
    /// Of who is woken when a wait for the client's bytes ends. Without one the socket is shut down for reading, after which
    /// nobody can tell what still comes from the end.
    waker: Option<Waker>,
    /// How often it has waited for a request, up to a few: more than once is, with one in between.
    idles: u8,
    /// Bytes the kernel still held for the client when this wait for it was first looked at.
    unsent: Option<u64>,
    /// What it is counted by; gone when it was told to go.
    place: Option<Place>,
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
    pace: Pace,
}

/// How fast a client takes what it asked for: bytes and waiting of the window that runs. A new one begins when it was
/// waited for as long as a client may take nothing.
#[derive(Default)]
struct Pace {
    bytes: Cell<u64>,
    waited_ms: Cell<u64>,
}

impl WatchList {
    pub fn add(&self, stream: &Stream, place: Place) -> Watch {
        let mut slots = self.0.borrow_mut();
        let slot = Slot {
            local: stream.local(),
            waiting: Waiting::Nothing,
            since: 0,
            deadline: 0,
            expired: false,
            waker: None,
            idles: 0,
            unsent: None,
            place: Some(place),
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
            pace: Pace::default(),
        }
    }

    /// Ends the waits that have lasted too long, and the idle ones when the server drains.
    pub fn sweep(&self, draining: bool) {
        let now = monotonic_millis();
        for slot in self.0.borrow_mut().slots.iter_mut().flatten() {
            let overdue = now > slot.deadline;
            let waiting = slot.waiting;
            match waiting {
                Waiting::Idle if overdue || draining => slot.end_input(),
                Waiting::Input if overdue => slot.end_input(),
                Waiting::Output if overdue && !slot.goes_on(now) => slot.end(Shutdown::Both),
                Waiting::Output if slot.unsent.is_none() => slot.unsent = slot.local.unsent(),
                _ => {}
            }
        }
    }

    /// Ends up to `count` connections, the longest waiting first, so that a new connection finds room: the first of these
    /// groups that has members, and at most an eighth of its members. The ended connections are not counted any more.
    /// Returns their number.
    ///
    /// 1. Connections that have been idle for [`IDLE_PATIENCE_MILLIS`].
    /// 2. Connections that have not sent a request yet.
    /// 3. Connections whose request head has been incomplete for [`HEAD_PATIENCE_MILLIS`].
    pub fn make_room(&self, count: usize) -> usize {
        self.end_longest(count, &[Slot::is_long_idle, Slot::is_new, Slot::has_slow_head])
    }

    /// As [`Self::make_room`], when no new connection waits for the room: connections that came a moment ago are left alone.
    pub fn make_spare_room(&self, count: usize) -> usize {
        self.end_longest(count, &[Slot::is_long_idle, Slot::has_slow_head])
    }

    fn end_longest(&self, count: usize, groups: &[fn(&Slot, u64) -> bool]) -> usize {
        let now = monotonic_millis();
        let mut slots = self.0.borrow_mut();
        let mut members = groups.iter().map(|group| slots.waiting(|slot| group(slot, now)));
        let mut victims = members.find(|members| !members.is_empty()).unwrap_or_default();
        drop(members);
        let count = count.min(victims.len().div_ceil(8));
        if count > 0 {
            victims.select_nth_unstable(count - 1);
        }
        for (_, index) in &victims[..count] {
            if let Some(slot) = &mut slots.slots[*index] {
                slot.place = None;
                slot.end_input();
            }
        }
        count
    }
}

impl Slots {
    /// Those that `which` chooses and that have not been told to go: since when they wait, and their numbers.
    fn waiting(&self, which: impl Fn(&Slot) -> bool) -> Vec<(u64, usize)> {
        let slots = self.slots.iter().enumerate();
        slots
            .filter_map(|(index, slot)| Some((slot.as_ref()?, index)))
            .filter(|(slot, _)| slot.place.is_some() && which(slot))
            .map(|(slot, index)| (slot.since, index))
            .collect()
    }
}

impl Slot {
    fn is_long_idle(&self, now: u64) -> bool {
        self.waiting == Waiting::Idle && self.has_waited(now, IDLE_PATIENCE_MILLIS)
    }

    fn is_new(&self, _now: u64) -> bool {
        self.waiting == Waiting::Idle && self.idles < 2
    }

    fn has_slow_head(&self, now: u64) -> bool {
        self.waiting == Waiting::Input && self.has_waited(now, HEAD_PATIENCE_MILLIS)
    }

    fn has_waited(&self, now: u64, millis: u64) -> bool {
        now.saturating_sub(self.since) >= millis
    }

    fn end(&mut self, how: Shutdown) {
        self.expired = true;
        self.waiting = Waiting::Nothing;
        self.local.shutdown(how);
    }

    fn end_input(&mut self) {
        match self.waker.take() {
            Some(waker) => {
                self.expired = true;
                self.waiting = Waiting::Nothing;
                waker.wake();
            }
            None => self.end(Shutdown::Read),
        }
    }

    /// Whether the client has taken enough of what the kernel holds for it to be waited for once more. The kernel
    /// says that there is room only when a third of its buffer is free, which may take a slow client minutes.
    fn goes_on(&mut self, now: u64) -> bool {
        let unsent = self.local.unsent();
        let taken = match (self.unsent, unsent) {
            (Some(before), Some(now)) => before.saturating_sub(now),
            _ => 0,
        };
        let enough = taken >= SEND_RATE_MIN * u64::from(SEND_STALL_SECONDS);
        if enough {
            self.unsent = unsent;
            self.deadline = now + 1_000 * u64::from(SEND_STALL_SECONDS);
        }
        enough
    }
}

impl Watch {
    /// Starts a wait of at most `seconds` (and up to a sweep more).
    pub fn set(&self, waiting: Waiting, seconds: u32) {
        let now = monotonic_millis();
        self.with(|slot| {
            slot.idles = slot.idles.saturating_add(u8::from(waiting == Waiting::Idle));
            slot.waiting = waiting;
            slot.since = now;
            slot.unsent = None;
            // What ended an earlier wait does not concern this one: a request that came in the same moment
            // is answered.
            slot.expired = false;
            slot.deadline = now + 1_000 * u64::from(seconds);
        });
    }

    /// Waits for `ready`; `None` when the wait for the client's bytes that was set is ended first. The socket stays as it is:
    /// what comes in the same moment can still be received.
    ///
    /// # Cancellation
    ///
    /// With the connection only: a later wait would not be ended.
    pub fn unless_ended<T>(
        &self,
        mut ready: Pin<&mut impl Future<Output = T>>,
    ) -> impl Future<Output = Option<T>> {
        poll_fn(move |cx| {
            let outcome = match ready.as_mut().poll(cx) {
                Poll::Ready(done) => Some(done),
                Poll::Pending if self.expired() => None,
                Poll::Pending => {
                    self.wake_by(Some(cx.waker()));
                    return Poll::Pending;
                }
            };
            self.wake_by(None);
            Poll::Ready(outcome)
        })
    }

    /// Has `waker` woken when a wait for the client's bytes is ended, from now on and until another is given; with `None` the
    /// socket is shut down.
    pub fn wake_by(&self, waker: Option<&Waker>) {
        self.with(|slot| match (waker, &slot.waker) {
            (Some(new), Some(old)) if old.will_wake(new) => {}
            (new, _) => slot.waker = new.cloned(),
        });
    }

    /// Notes that the client's side has taken `bytes` of a response.
    pub fn sent(&self, bytes: usize) {
        self.pace.sent(bytes);
    }

    /// Notes that there is room for more after a wait for the client. Says whether it has taken [`SEND_RATE_MIN`]:
    /// it is asked when it was waited for long enough, however short each wait was.
    pub fn keeps_pace(&self) -> bool {
        let waited = self.with(|slot| monotonic_millis().saturating_sub(slot.since));
        self.pace.waited(waited)
    }

    /// Bytes given to the kernel that the client's kernel has not confirmed; `None` when the kernel cannot tell.
    pub fn unconfirmed(&self) -> Option<u64> {
        self.with(|slot| slot.local.unsent())
    }

    /// Ends the wait in time.
    pub fn clear(&self) {
        self.with(|slot| slot.waiting = Waiting::Nothing);
    }

    /// Whether the wait was ended: its deadline has passed, or the connection was idle and should go.
    pub fn expired(&self) -> bool {
        self.with(|slot| slot.expired)
    }

    /// Whether it was told to go for another, who has its place already.
    pub fn evicted(&self) -> bool {
        self.with(|slot| slot.place.is_none())
    }

    fn with<R>(&self, f: impl FnOnce(&mut Slot) -> R) -> R {
        let mut slots = self.list.0.borrow_mut();
        f(slots.slots[self.index]
            .as_mut()
            .expect("a watch owns its slot until it is dropped"))
    }
}

impl Pace {
    fn sent(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
    }

    /// Notes a wait for the client; false when it has taken too little in the window that ends with it.
    fn waited(&self, millis: u64) -> bool {
        let waited = self.waited_ms.get() + millis;
        self.waited_ms.set(waited);
        if waited < 1_000 * u64::from(SEND_STALL_SECONDS) {
            return true;
        }
        self.waited_ms.set(0);
        self.bytes.take() >= SEND_RATE_MIN * waited / 1_000
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut slots = self.list.0.borrow_mut();
        slots.slots[self.index] = None;
        slots.free.push(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_is_judged_when_a_client_was_waited_for_a_minute() {
        let pace = Pace::default();
        let minute = 1_000 * u64::from(SEND_STALL_SECONDS);
        // Fast for a minute, in many short waits.
        for _ in 0..60 {
            pace.bytes.set(pace.bytes.get() + SEND_RATE_MIN);
            assert!(pace.waited(minute / 60));
        }
        // Then slow: what was taken before does not count.
        assert!(pace.waited(minute / 2));
        pace.bytes.set(SEND_RATE_MIN * 59);
        assert!(!pace.waited(minute / 2));
    }
}
