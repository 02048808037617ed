//! The deadline table. A sweep checks the deadlines of a core's connections four times a second.
//! The table also orders connections for eviction above the connection limit.
//!
//! A deadline costs a request one store. At the deadline, the sweep wakes the connection's task or
//! shuts down its socket, which also wakes the task. No future is cancelled, and no timer is armed
//! per request.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::connection_limits::ConnectionSlot;
use crate::limits::{IDLE_EVICTION_AGE, SEND_RATE_MIN, SEND_STALL_TIMEOUT, SLOW_HEAD_EVICTION_AGE};
use crate::runtime::clock::monotonic_millis;
use crate::sys::Local;

/// The reason why a connection waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitReason {
    /// The next request. A drain of the server also ends the wait.
    Idle,
    /// The rest of a request head, or the input discarded after a rejection.
    Input,
    /// Room to send to the client.
    Output,
    /// No wait for the client; the cache itself is busy.
    Nothing,
}

struct Slot {
    local: Local,
    wait_reason: WaitReason,
    /// The start and end of the wait, on the clock of [`monotonic_millis`].
    since: u64,
    deadline: u64,
    expired: bool,
    /// The waker for the end of a wait for input. Without a waker, the sweep shuts down the socket
    /// for reading. Afterwards, late input cannot be distinguished from the end of the stream.
    waker: Option<Waker>,
    /// The number of waits for a request, saturating. From 2 on, the client has sent a request.
    idle_waits: u8,
    /// Bytes that the kernel still held for the client at the first sweep of this wait.
    unsent: Option<u64>,
    /// The connection slot. `None` after an eviction.
    connection_slot: Option<ConnectionSlot>,
}

/// The deadlines of one core.
#[derive(Clone, Default)]
pub struct DeadlineTable(Rc<RefCell<Slots>>);

#[derive(Default)]
struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
}

/// The deadline of one connection. Must be dropped before the socket.
pub struct ConnectionDeadline {
    table: DeadlineTable,
    index: usize,
    throughput: Throughput,
}

/// The throughput of a client: bytes sent and time waited in the current window. A window ends
/// after [`SEND_STALL_TIMEOUT`] of waiting.
#[derive(Default)]
struct Throughput {
    bytes: Cell<u64>,
    waited_ms: Cell<u64>,
}

impl DeadlineTable {
    pub fn add(&self, local: Local, connection_slot: ConnectionSlot) -> ConnectionDeadline {
        let mut slots = self.0.borrow_mut();
        let slot = Slot {
            local,
            wait_reason: WaitReason::Nothing,
            since: 0,
            deadline: 0,
            expired: false,
            waker: None,
            idle_waits: 0,
            unsent: None,
            connection_slot: Some(connection_slot),
        };
        let index = slots.free.pop().unwrap_or_else(|| {
            slots.slots.push(None);
            slots.slots.len() - 1
        });
        slots.slots[index] = Some(slot);
        drop(slots);
        ConnectionDeadline {
            table: self.clone(),
            index,
            throughput: Throughput::default(),
        }
    }

    /// Ends overdue waits. If the server drains, also ends idle waits.
    pub fn sweep(&self, draining: bool) {
        let now = monotonic_millis();
        for slot in self.0.borrow_mut().slots.iter_mut().flatten() {
            let overdue = now > slot.deadline;
            let reason = slot.wait_reason;
            match reason {
                WaitReason::Idle if overdue || draining => slot.end_input(),
                WaitReason::Input if overdue => slot.end_input(),
                WaitReason::Output if overdue && !slot.makes_progress(now) => slot.end(Shutdown::Both),
                WaitReason::Output if slot.unsent.is_none() => slot.unsent = slot.local.unsent(),
                _ => {}
            }
        }
    }

    /// Evicts up to `count` connections to make room for a new connection, the longest waiting
    /// first. Evicts from the first group below that has members, and at most an eighth of its
    /// members. Evicted connections are no longer counted. Returns their number.
    ///
    /// 1. Connections that have been idle for [`IDLE_EVICTION_AGE`].
    /// 2. Connections that have not sent a request yet.
    /// 3. Connections whose request head has been incomplete for [`SLOW_HEAD_EVICTION_AGE`].
    pub fn evict_idle(&self, count: usize) -> usize {
        self.end_longest_waiting(count, &[Slot::is_long_idle, Slot::is_new, Slot::has_slow_head])
    }

    /// Evicts like [`Self::evict_idle`], but never new connections. Used when no new connection
    /// waits.
    pub fn evict_long_idle(&self, count: usize) -> usize {
        self.end_longest_waiting(count, &[Slot::is_long_idle, Slot::has_slow_head])
    }

    fn end_longest_waiting(&self, count: usize, groups: &[fn(&Slot, u64) -> bool]) -> usize {
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
                slot.connection_slot = None;
                slot.end_input();
            }
        }
        count
    }
}

impl Slots {
    /// Returns the connections selected by `which` and not yet evicted, as start of the wait and
    /// index.
    fn waiting(&self, which: impl Fn(&Slot) -> bool) -> Vec<(u64, usize)> {
        let slots = self.slots.iter().enumerate();
        slots
            .filter_map(|(index, slot)| Some((slot.as_ref()?, index)))
            .filter(|(slot, _)| slot.connection_slot.is_some() && which(slot))
            .map(|(slot, index)| (slot.since, index))
            .collect()
    }
}

impl Slot {
    fn is_long_idle(&self, now: u64) -> bool {
        self.wait_reason == WaitReason::Idle && self.has_waited(now, IDLE_EVICTION_AGE)
    }

    fn is_new(&self, _now: u64) -> bool {
        self.wait_reason == WaitReason::Idle && self.idle_waits < 2
    }

    fn has_slow_head(&self, now: u64) -> bool {
        self.wait_reason == WaitReason::Input && self.has_waited(now, SLOW_HEAD_EVICTION_AGE)
    }

    fn has_waited(&self, now: u64, time: Duration) -> bool {
        now.saturating_sub(self.since) >= time.as_millis() as u64
    }

    fn end(&mut self, how: Shutdown) {
        self.expired = true;
        self.wait_reason = WaitReason::Nothing;
        self.local.shutdown(how);
    }

    fn end_input(&mut self) {
        match self.waker.take() {
            Some(waker) => {
                self.expired = true;
                self.wait_reason = WaitReason::Nothing;
                waker.wake();
            }
            None => self.end(Shutdown::Read),
        }
    }

    /// Returns whether the client has taken enough of the bytes in the kernel to extend the
    /// deadline. The kernel reports a socket as writable only when a third of its buffer is free. A
    /// slow client may need minutes for a third.
    fn makes_progress(&mut self, now: u64) -> bool {
        let unsent = self.local.unsent();
        let taken = match (self.unsent, unsent) {
            (Some(before), Some(now)) => before.saturating_sub(now),
            _ => 0,
        };
        let enough = taken >= SEND_RATE_MIN * SEND_STALL_TIMEOUT.as_secs();
        if enough {
            self.unsent = unsent;
            self.deadline = now + SEND_STALL_TIMEOUT.as_millis() as u64;
        }
        enough
    }
}

impl ConnectionDeadline {
    /// Starts a wait of at most `limit`, plus up to one sweep interval.
    pub fn set(&self, reason: WaitReason, limit: Duration) {
        let now = monotonic_millis();
        self.with(|slot| {
            slot.idle_waits = slot
                .idle_waits
                .saturating_add(u8::from(reason == WaitReason::Idle));
            slot.wait_reason = reason;
            slot.since = now;
            slot.unsent = None;
            // An expiry of an earlier wait does not apply to this wait. A request that arrived at
            // that moment is answered.
            slot.expired = false;
            slot.deadline = now + limit.as_millis() as u64;
        });
    }

    /// Waits for `ready`. Returns `None` if the current wait for input ends first. The socket stays
    /// open, so late bytes can still be received.
    ///
    /// # Cancellation
    ///
    /// Only together with the connection. Otherwise the waker stays set, and a later wait never ends.
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

    /// Sets the waker for the end of waits for input, until the next call. With `None`, the end of
    /// a wait shuts down the socket.
    pub fn wake_by(&self, waker: Option<&Waker>) {
        self.with(|slot| match (waker, &slot.waker) {
            (Some(new), Some(old)) if old.will_wake(new) => {}
            (new, _) => slot.waker = new.cloned(),
        });
    }

    /// Records that the client's socket has accepted `bytes` of a response.
    pub fn sent(&self, bytes: usize) {
        self.throughput.sent(bytes);
    }

    /// Records the end of a wait for the client. Returns false after a full window below
    /// [`SEND_RATE_MIN`].
    pub fn meets_minimum_rate(&self) -> bool {
        let waited = self.with(|slot| monotonic_millis().saturating_sub(slot.since));
        self.throughput.waited(waited)
    }

    /// Returns the bytes passed to the kernel but not acknowledged by the client. `None` if the
    /// kernel cannot report them.
    pub fn unconfirmed(&self) -> Option<u64> {
        self.with(|slot| slot.local.unsent())
    }

    /// Ends the wait before its deadline.
    pub fn clear(&self) {
        self.with(|slot| slot.wait_reason = WaitReason::Nothing);
    }

    /// Returns whether the wait was ended by its deadline, a drain or an eviction.
    pub fn expired(&self) -> bool {
        self.with(|slot| slot.expired)
    }

    /// Returns whether the connection was evicted. Its connection slot is already free for another
    /// connection.
    pub fn evicted(&self) -> bool {
        self.with(|slot| slot.connection_slot.is_none())
    }

    fn with<R>(&self, f: impl FnOnce(&mut Slot) -> R) -> R {
        let mut slots = self.table.0.borrow_mut();
        f(slots.slots[self.index]
            .as_mut()
            .expect("a deadline owns its slot until the drop"))
    }
}

impl Throughput {
    fn sent(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
    }

    /// Records a wait for the client. Returns false if the window ends and the client took too
    /// little in it.
    fn waited(&self, millis: u64) -> bool {
        let waited = self.waited_ms.get() + millis;
        self.waited_ms.set(waited);
        if waited < SEND_STALL_TIMEOUT.as_millis() as u64 {
            return true;
        }
        self.waited_ms.set(0);
        self.bytes.take() >= SEND_RATE_MIN * waited / 1_000
    }
}

impl Drop for ConnectionDeadline {
    fn drop(&mut self) {
        let mut slots = self.table.0.borrow_mut();
        slots.slots[self.index] = None;
        slots.free.push(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throughput_is_checked_after_a_minute_of_waiting() {
        let throughput = Throughput::default();
        let minute = SEND_STALL_TIMEOUT.as_millis() as u64;
        // Sends fast for a minute, in many short waits.
        for _ in 0..60 {
            throughput.bytes.set(throughput.bytes.get() + SEND_RATE_MIN);
            assert!(throughput.waited(minute / 60));
        }
        // Then sends slowly. Earlier bytes do not count.
        assert!(throughput.waited(minute / 2));
        throughput.bytes.set(SEND_RATE_MIN * 59);
        assert!(!throughput.waited(minute / 2));
    }
}
