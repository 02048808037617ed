//! A channel for one value from the helper pool to a task of a core.

use std::sync::Arc;
use std::time::Duration;

use super::waker::{CoreNotify, RemoteWaker};
use crate::sync::Mutex;

enum Slot<T> {
    Waiting(RemoteWaker),
    Answered(T),
    /// The helper panicked and sent no value.
    Lost,
    Taken,
}

/// The helper's end. If the helper drops the sender without a value, the receiver returns [`Lost`].
pub struct Sender<T>(Arc<Mutex<Slot<T>>>);

/// The core's end.
pub struct Receiver<T> {
    slot: Arc<Mutex<Slot<T>>>,
    notify: CoreNotify,
}

/// The helper ended without a value. A panic has been logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the helper task ended without a result")]
pub struct Lost;

/// Creates a channel for one value. Must be called on the receiving core.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let notify = CoreNotify::new();
    let slot = Arc::new(Mutex::new(Slot::Waiting(notify.waker())));
    (Sender(slot.clone()), Receiver { slot, notify })
}

impl<T> Sender<T> {
    pub fn send(self, answer: T) {
        self.put(Slot::Answered(answer));
    }

    /// Returns whether the receiver still exists.
    pub fn is_awaited(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn put(&self, answer: Slot<T>) {
        let mut slot = self.0.lock();
        if let Slot::Waiting(remote) = &*slot {
            let remote = remote.clone();
            *slot = answer;
            drop(slot);
            remote.wake();
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.put(Slot::Lost);
    }
}

impl<T> Receiver<T> {
    /// Waits like [`Receiver::recv`], for at most `limit`. Returns `None` on timeout.
    pub async fn recv_within(self, limit: Duration) -> Option<Result<T, Lost>> {
        monoio::time::timeout(limit, self.recv()).await.ok()
    }

    /// Waits for the value.
    ///
    /// # Cancellation
    ///
    /// The helper's work continues, and its value is dropped.
    pub async fn recv(self) -> Result<T, Lost> {
        loop {
            {
                let mut slot = self.slot.lock();
                match std::mem::replace(&mut *slot, Slot::Taken) {
                    waiting @ Slot::Waiting(_) => *slot = waiting,
                    Slot::Answered(answer) => return Ok(answer),
                    Slot::Lost | Slot::Taken => return Err(Lost),
                }
            }
            self.notify.wait().await;
        }
    }
}
