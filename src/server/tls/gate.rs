//! Handshakes of one core, a few milliseconds of them at a time.
//!
//! A handshake is the dearest thing a client can ask for before it has asked for anything: with an RSA key a millisecond
//! and more. When hundreds begin at once, the core's other connections must not wait for all of them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::limits::HANDSHAKE_TURN_MICROS;
use crate::runtime::clock::monotonic_micros;
use crate::runtime::doorbell::Signal;

/// Lets steps of handshakes through, one after the other. When they have taken [`HANDSHAKE_TURN_MICROS`] together, the
/// next waits until the core has asked its driver and everybody else whose client is there has had a turn.
#[derive(Clone, Default)]
pub struct Gate(Rc<State>);

#[derive(Default)]
struct State {
    /// Microseconds spent since the last turn.
    spent: Cell<u64>,
    /// A turn has been asked for.
    turning: Cell<bool>,
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
}

#[derive(Default)]
struct Waiter {
    waker: RefCell<Option<Waker>>,
    called: Cell<bool>,
    gone: Cell<bool>,
}

/// The right to one step. Ends with the step; must not be held across an await.
pub struct Step<'a> {
    gate: &'a Gate,
    began: u64,
}

impl Gate {
    /// Waits for the right to a step.
    ///
    /// # Cancellation
    ///
    /// Free.
    pub async fn enter(&self) -> Step<'_> {
        let state = &self.0;
        if state.spent.get() >= HANDSHAKE_TURN_MICROS || !state.waiting.borrow().is_empty() {
            let place = Place {
                gate: self,
                waiter: Rc::default(),
            };
            state.waiting.borrow_mut().push_back(place.waiter.clone());
            poll_fn(|cx| {
                if place.waiter.called.get() {
                    return Poll::Ready(());
                }
                *place.waiter.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
            // From here on it is the step that calls the next.
            place.waiter.called.set(false);
        }
        Step {
            gate: self,
            began: monotonic_micros(),
        }
    }

    /// Calls whoever has waited longest.
    fn call_next(&self) {
        loop {
            let next = self.0.waiting.borrow_mut().pop_front();
            match next {
                Some(waiter) if waiter.gone.get() => {}
                Some(waiter) => {
                    waiter.called.set(true);
                    if let Some(waker) = waiter.waker.take() {
                        waker.wake();
                    }
                    return;
                }
                None => return,
            }
        }
    }

    /// Begins anew when the core has been through its driver. The doorbell is answered by way of it, which a task that
    /// wakes itself is not.
    fn ask_for_turn(&self) {
        if self.0.turning.replace(true) {
            return;
        }
        let signal = Signal::new();
        signal.remote().fire();
        let gate = self.clone();
        drop(monoio::spawn(async move {
            signal.wait().await;
            gate.0.turning.set(false);
            gate.0.spent.set(0);
            gate.call_next();
        }));
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        let state = &self.gate.0;
        let took = monotonic_micros().saturating_sub(self.began);
        state.spent.set(state.spent.get() + took);
        if state.spent.get() >= HANDSHAKE_TURN_MICROS {
            self.gate.ask_for_turn();
        } else {
            self.gate.call_next();
        }
    }
}

/// A place in the queue.
struct Place<'a> {
    gate: &'a Gate,
    waiter: Rc<Waiter>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiter.gone.set(true);
        if self.waiter.called.get() {
            // Called and gone without a step.
            self.gate.call_next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::doorbell;

    /// Runs `test` as a core would, until no turn is under way.
    fn on_a_core(test: impl AsyncFnOnce(Gate)) {
        let mut runtime = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new()
            .enable_timer()
            .build()
            .unwrap();
        runtime.block_on(async {
            doorbell::install().unwrap();
            let gate = Gate::default();
            test(gate.clone()).await;
            while gate.0.turning.get() {
                monoio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        });
    }

    fn spend(micros: u64) {
        let end = monotonic_micros() + micros;
        while monotonic_micros() < end {}
    }

    #[test]
    fn others_have_a_turn_between_handshakes() {
        on_a_core(async |gate| {
            let order = Rc::new(RefCell::new(Vec::new()));
            // A connection whose client's bytes arrive while handshakes go on.
            let bystander = Signal::new();
            let remote = bystander.remote();
            let mut tasks = Vec::new();
            for number in 0..4 {
                let (gate, order, remote) = (gate.clone(), order.clone(), remote.clone());
                tasks.push(monoio::spawn(async move {
                    let step = gate.enter().await;
                    if number == 0 {
                        remote.fire();
                    }
                    spend(HANDSHAKE_TURN_MICROS);
                    drop(step);
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
    fn who_gives_up_waiting_does_not_hold_up_the_others() {
        on_a_core(async |gate| {
            let step = gate.enter().await;
            spend(HANDSHAKE_TURN_MICROS);
            drop(step);
            let given_up = {
                let gate = gate.clone();
                monoio::time::timeout(std::time::Duration::ZERO, async move {
                    drop(gate.enter().await);
                })
            };
            let waiting = {
                let gate = gate.clone();
                monoio::spawn(async move { drop(gate.enter().await) })
            };
            let _ = given_up.await;
            waiting.await;
            // And the gate is open again.
            drop(gate.enter().await);
        });
    }
}
