//! Handshake limiter of one core. Grants a few milliseconds of handshakes at a time.
//!
//! A handshake is the most expensive operation that a client can start before its first request. An
//! RSA key takes a millisecond or more. Hundreds of concurrent handshakes must not delay the other
//! connections of the core.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::limits::HANDSHAKE_TURN_TIME;

use crate::runtime::clock::monotonic_micros;
use crate::runtime::waker::CoreNotify;

const TURN_MICROS: u64 = HANDSHAKE_TURN_TIME.as_micros() as u64;

/// Grants handshake turns one after the other. After [`HANDSHAKE_TURN_TIME`] in total, the next
/// handshake waits until the core has polled its driver and has run all other ready tasks.
#[derive(Clone, Default)]
pub struct HandshakeLimiter(Rc<State>);

#[derive(Default)]
struct State {
    /// Microseconds of handshakes since the last reset.
    spent_micros: Cell<u64>,
    /// A reset has been scheduled.
    reset_scheduled: Cell<bool>,
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
}

#[derive(Default)]
struct Waiter {
    waker: RefCell<Option<Waker>>,
    admitted: Cell<bool>,
    cancelled: Cell<bool>,
}

/// A handshake turn: the permission to process input once. Must not be held across an await.
pub struct HandshakeTurn<'a> {
    limiter: &'a HandshakeLimiter,
    began: u64,
}

impl HandshakeLimiter {
    /// Waits for a handshake turn.
    ///
    /// # Cancellation
    ///
    /// Cancel-safe.
    pub async fn acquire(&self) -> HandshakeTurn<'_> {
        let state = &self.0;
        if state.spent_micros.get() >= TURN_MICROS || !state.waiting.borrow().is_empty() {
            let queued = QueuedHandshake {
                limiter: self,
                waiter: Rc::default(),
            };
            state.waiting.borrow_mut().push_back(queued.waiter.clone());
            poll_fn(|cx| {
                if queued.waiter.admitted.get() {
                    return Poll::Ready(());
                }
                *queued.waiter.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
            // From here on, the drop of the turn wakes the next handshake.
            queued.waiter.admitted.set(false);
        }
        HandshakeTurn {
            limiter: self,
            began: monotonic_micros(),
        }
    }

    /// Wakes the handshake that has waited longest.
    fn wake_next(&self) {
        loop {
            let next = self.0.waiting.borrow_mut().pop_front();
            match next {
                Some(waiter) if waiter.cancelled.get() => {}
                Some(waiter) => {
                    waiter.admitted.set(true);
                    if let Some(waker) = waiter.waker.take() {
                        waker.wake();
                    }
                    return;
                }
                None => return,
            }
        }
    }

    /// Resets the limiter after the core has polled its driver. The driver delivers a
    /// [`CoreNotify`]. A task that wakes itself would run before the driver is polled.
    fn schedule_reset(&self) {
        if self.0.reset_scheduled.replace(true) {
            return;
        }
        let notify = CoreNotify::new();
        notify.waker().wake();
        let limiter = self.clone();
        drop(monoio::spawn(async move {
            notify.wait().await;
            limiter.0.reset_scheduled.set(false);
            limiter.0.spent_micros.set(0);
            limiter.wake_next();
        }));
    }
}

impl Drop for HandshakeTurn<'_> {
    fn drop(&mut self) {
        let state = &self.limiter.0;
        let took = monotonic_micros().saturating_sub(self.began);
        state.spent_micros.set(state.spent_micros.get() + took);
        if state.spent_micros.get() >= TURN_MICROS {
            self.limiter.schedule_reset();
        } else {
            self.limiter.wake_next();
        }
    }
}

struct QueuedHandshake<'a> {
    limiter: &'a HandshakeLimiter,
    waiter: Rc<Waiter>,
}

impl Drop for QueuedHandshake<'_> {
    fn drop(&mut self) {
        self.waiter.cancelled.set(true);
        if self.waiter.admitted.get() {
            // The handshake was woken and dropped without a turn.
            self.limiter.wake_next();
        }
    }
}

#[cfg(test)]
impl HandshakeLimiter {
    /// Returns a limiter that grants no turn.
    pub fn closed() -> Self {
        let limiter = Self::default();
        limiter.0.spent_micros.set(TURN_MICROS);
        limiter
    }

    pub fn waiting(&self) -> usize {
        self.0.waiting.borrow().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::core;

    /// Runs `test` like a core, until no reset is scheduled.
    fn on_a_core(test: impl AsyncFnOnce(HandshakeLimiter)) {
        core::run_test(async {
            let limiter = HandshakeLimiter::default();
            test(limiter.clone()).await;
            while limiter.0.reset_scheduled.get() {
                monoio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        });
    }

    fn spend(micros: u64) {
        let end = monotonic_micros() + micros;
        while monotonic_micros() < end {}
    }

    #[test]
    fn other_tasks_run_between_handshakes() {
        on_a_core(async |limiter| {
            let order = Rc::new(RefCell::new(Vec::new()));
            // A connection with input during the handshakes.
            let bystander = CoreNotify::new();
            let remote = bystander.waker();
            let mut tasks = Vec::new();
            for number in 0..4 {
                let (limiter, order, remote) = (limiter.clone(), order.clone(), remote.clone());
                tasks.push(monoio::spawn(async move {
                    let turn = limiter.acquire().await;
                    if number == 0 {
                        remote.wake();
                    }
                    spend(TURN_MICROS);
                    drop(turn);
                    order.borrow_mut().push("handshake");
                }));
            }
            let theirs = order.clone();
            tasks.push(monoio::spawn(async move {
                bystander.wait().await;
                theirs.borrow_mut().push("bystander");
            }));
            for task in tasks {
                task.await;
            }
            let order = order.borrow();
            let at = order.iter().position(|who| *who == "bystander").unwrap();
            assert!(at <= 2, "{order:?}");
            assert_eq!(order.len(), 5);
        });
    }

    #[test]
    fn cancelled_handshake_does_not_block_the_queue() {
        on_a_core(async |limiter| {
            let turn = limiter.acquire().await;
            spend(TURN_MICROS);
            drop(turn);
            let given_up = {
                let limiter = limiter.clone();
                monoio::time::timeout(std::time::Duration::ZERO, async move {
                    drop(limiter.acquire().await);
                })
            };
            let waiting = {
                let limiter = limiter.clone();
                monoio::spawn(async move { drop(limiter.acquire().await) })
            };
            let _ = given_up.await;
            waiting.await;
            // The limiter grants turns again.
            drop(limiter.acquire().await);
        });
    }
}
