//! Single-flight calls. Concurrent callers with the same key share one run of the work.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use crate::runtime::helper::Helper;
use crate::runtime::oneshot::Lost;
use crate::runtime::waker::{CoreNotify, RemoteWaker};
use crate::sync::Mutex;

/// Whether a caller started the work or joined a call in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Leader,
    Follower,
}

/// The calls in flight, by key. Shared by all cores. A cache hit makes no call.
pub struct SingleFlight<K, V>(Arc<Mutex<HashMap<K, Arc<InFlight<V>>>>>);

struct InFlight<V> {
    state: Mutex<State<V>>,
    /// Notified when the last waiter leaves.
    left: tokio::sync::Notify,
}

struct State<V> {
    result: Option<Result<V, Lost>>,
    wakers: Vec<RemoteWaker>,
    /// The number of waiting callers.
    waiters: usize,
    /// Whether the work has ended. The work may go on after its result.
    is_over: bool,
}

/// The moment until which a caller waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    Result,
    End,
}

/// A waiting caller. Counted until dropped.
struct Waiter<V>(Arc<InFlight<V>>);

/// The leader's end. Completes the call with the result for all waiters. A later caller starts a
/// new call, so a result is never older than its request.
pub struct Completer<K: Hash + Eq, V> {
    calls: SingleFlight<K, V>,
    key: K,
    call: Arc<InFlight<V>>,
}

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        SingleFlight(Arc::default())
    }
}

impl<K, V> Clone for SingleFlight<K, V> {
    fn clone(&self) -> Self {
        SingleFlight(self.0.clone())
    }
}

impl<K, V> SingleFlight<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + 'static,
{
    /// Returns the result for `key`. Joins the call in flight, or starts `work` on the helper pool.
    ///
    /// # Errors
    ///
    /// Returns [`Lost`] if the work panics.
    ///
    /// # Cancellation
    ///
    /// The work continues for the other callers. Work that waits for [`Completer::deserted`] ends
    /// after the last caller has left.
    pub async fn join<F>(
        &self,
        helper: &Helper,
        key: K,
        work: impl FnOnce(Completer<K, V>) -> F,
    ) -> (Result<V, Lost>, Role)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.join_until(Until::Result, helper, key, work).await
    }

    /// Joins a call like [`SingleFlight::join`], and waits until its work has ended. The work may go on
    /// after its result, for example to store it.
    ///
    /// # Errors
    ///
    /// Returns [`Lost`] if the work panics before its result.
    ///
    /// # Cancellation
    ///
    /// The work continues.
    pub async fn join_to_end<F>(
        &self,
        helper: &Helper,
        key: K,
        work: impl FnOnce(Completer<K, V>) -> F,
    ) -> (Result<V, Lost>, Role)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.join_until(Until::End, helper, key, work).await
    }

    async fn join_until<F>(
        &self,
        until: Until,
        helper: &Helper,
        key: K,
        work: impl FnOnce(Completer<K, V>) -> F,
    ) -> (Result<V, Lost>, Role)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (call, role, _joined) = {
            let mut calls = self.0.lock();
            let (call, role) = match calls.get(&key) {
                Some(call) => (call.clone(), Role::Follower),
                None => {
                    let call = Arc::new(InFlight {
                        state: Mutex::new(State {
                            result: None,
                            wakers: Vec::new(),
                            waiters: 0,
                            is_over: false,
                        }),
                        left: tokio::sync::Notify::new(),
                    });
                    calls.insert(key.clone(), call.clone());
                    (call, Role::Leader)
                }
            };
            // Counted under the lock of the table. `deserted` removes a call under the same lock,
            // so no caller joins an ending call.
            let joined = Waiter::new(&call);
            (call, role, joined)
        };
        if role == Role::Leader {
            let completer = Completer {
                calls: self.clone(),
                key,
                call: call.clone(),
            };
            helper.spawn(work(completer));
        }
        let notify = CoreNotify::new();
        loop {
            {
                let mut state = call.state.lock();
                if let Some(result) = &state.result
                    && (until == Until::Result || state.is_over)
                {
                    return (result.clone(), role);
                }
                state.wakers.push(notify.waker());
            }
            notify.wait().await;
        }
    }
}

impl<K: Hash + Eq, V> Completer<K, V> {
    /// Returns the key of the call.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// Waits until the call has had no waiter for `grace`, then closes the call for new callers.
    /// Never returns after the call has completed.
    pub async fn deserted(&self, grace: Duration) {
        loop {
            let left = self.call.left.notified();
            if !self.call.is_deserted() {
                left.await;
                continue;
            }
            tokio::time::sleep(grace).await;
            let mut calls = self.calls.0.lock();
            if self.call.is_deserted() {
                calls.remove(&self.key);
                return;
            }
        }
    }

    /// Completes the call. Sends the result to all waiters and closes the call for new callers.
    pub fn complete(&self, result: V) {
        self.end(Ok(result));
    }

    fn end(&self, result: Result<V, Lost>) {
        let mut calls = self.calls.0.lock();
        if calls
            .get(&self.key)
            .is_some_and(|current| Arc::ptr_eq(current, &self.call))
        {
            calls.remove(&self.key);
        }
        drop(calls);
        self.call.set(result);
    }
}

impl<V> Waiter<V> {
    fn new(call: &Arc<InFlight<V>>) -> Self {
        call.state.lock().waiters += 1;
        Waiter(call.clone())
    }
}

impl<V> Drop for Waiter<V> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.waiters -= 1;
        let last = state.waiters == 0;
        drop(state);
        if last {
            self.0.left.notify_one();
        }
    }
}

impl<V> InFlight<V> {
    fn is_deserted(&self) -> bool {
        let state = self.state.lock();
        state.waiters == 0 && state.result.is_none()
    }

    fn set(&self, result: Result<V, Lost>) {
        self.change(|state| {
            state.result.get_or_insert(result);
        });
    }

    fn change(&self, change: impl FnOnce(&mut State<V>)) {
        let waiting = {
            let mut state = self.state.lock();
            change(&mut state);
            std::mem::take(&mut state.wakers)
        };
        for remote in waiting {
            remote.wake();
        }
    }
}

impl<K: Hash + Eq, V> Drop for Completer<K, V> {
    fn drop(&mut self) {
        // No effect on a completed call. After a panic, the waiters get an error.
        self.end(Err(Lost));
        self.call.change(|state| state.is_over = true);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::runtime::core;

    #[test]
    fn result_is_returned_before_the_end_of_the_work_and_the_end_can_be_awaited() {
        let helper = Helper::start(NonZeroUsize::MIN).unwrap();
        let calls: SingleFlight<u32, u32> = SingleFlight::default();
        let (completed, gate) = (
            Arc::new(tokio::sync::Notify::new()),
            Arc::new(tokio::sync::Notify::new()),
        );
        core::run_test(async {
            let work = |completer: Completer<u32, u32>| {
                let (completed, gate) = (completed.clone(), gate.clone());
                async move {
                    completer.complete(7);
                    completed.notify_one();
                    gate.notified().await;
                }
            };
            let mut to_end = Box::pin(calls.join_to_end(&helper, 1, work));
            assert!((&mut to_end).now_or_never().is_none());
            // The call is closed for new callers once it has its result.
            let completed = completed.clone();
            // Only the pool can wake a core.
            helper
                .ask(async move { completed.notified().await })
                .await
                .unwrap();
            assert!((&mut to_end).now_or_never().is_none(), "the work has not ended");
            let (result, role) = calls.join(&helper, 1, work).await;
            assert!(matches!((result, role), (Ok(7), Role::Leader)));
            gate.notify_waiters();
            gate.notify_one();
            let (result, role) = to_end.await;
            assert!(matches!((result, role), (Ok(7), Role::Leader)));
        });
    }

    #[test]
    fn panic_of_the_work_ends_the_wait_for_its_end() {
        let helper = Helper::start(NonZeroUsize::MIN).unwrap();
        let calls: SingleFlight<u32, u32> = SingleFlight::default();
        core::run_test(async {
            let work = |completer: Completer<u32, u32>| async move {
                let _completer = completer;
                panic!("a bug");
            };
            let (result, _) = calls.join_to_end(&helper, 1, work).await;
            assert!(matches!(result, Err(Lost)));
        });
    }
}
