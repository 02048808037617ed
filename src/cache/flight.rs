//! One piece of work for everybody who wants its result at the same time.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::runtime::doorbell::{Remote, Signal};
use crate::runtime::helper::Helper;
use crate::runtime::reply::Lost;

/// Whether a caller started the work or joined it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Leader,
    Follower,
}

/// The work under way, by key. Shared by all cores; a hit does not come here.
pub struct Flights<K, V>(Arc<Mutex<HashMap<K, Arc<Flight<V>>>>>);

struct Flight<V> {
    state: Mutex<State<V>>,
    /// Tells that the last one who waited has left.
    left: tokio::sync::Notify,
}

struct State<V> {
    result: Option<Result<V, Lost>>,
    waiting: Vec<Remote>,
    /// How many wait for the result.
    joined: usize,
}

/// One who waits for the result, counted as long as it lives.
struct Joined<V>(Arc<Flight<V>>);

/// The leader's end: gives the result to everybody who waits. Whoever asks after that starts anew: a result is
/// never older than the question it answers.
pub struct Landing<K: Hash + Eq, V> {
    flights: Flights<K, V>,
    key: K,
    flight: Arc<Flight<V>>,
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Flights(Arc::default())
    }
}

impl<K, V> Clone for Flights<K, V> {
    fn clone(&self) -> Self {
        Flights(self.0.clone())
    }
}

impl<K, V> Flights<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + 'static,
{
    /// The result for `key`: of the work under way, or of `work`, started on the helper pool.
    ///
    /// # Errors
    ///
    /// [`Lost`] when the work panicked.
    ///
    /// # Cancellation
    ///
    /// The work goes on for the others. Work that looks at [`Landing::deserted`] ends when there are none.
    pub async fn join<F>(
        &self,
        helper: &Helper,
        key: K,
        work: impl FnOnce(Landing<K, V>) -> F,
    ) -> (Result<V, Lost>, Role)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (flight, role, _joined) = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (flight, role) = match flights.get(&key) {
                Some(flight) => (flight.clone(), Role::Follower),
                None => {
                    let flight = Arc::new(Flight {
                        state: Mutex::new(State {
                            result: None,
                            waiting: Vec::new(),
                            joined: 0,
                        }),
                        left: tokio::sync::Notify::new(),
                    });
                    flights.insert(key.clone(), flight.clone());
                    (flight, Role::Leader)
                }
            };
            // Under the lock that a deserted flight is removed under: nobody joins one that ends.
            let joined = Joined::new(&flight);
            (flight, role, joined)
        };
        if role == Role::Leader {
            let landing = Landing {
                flights: self.clone(),
                key,
                flight: flight.clone(),
            };
            helper.spawn(work(landing));
        }
        let signal = Signal::new();
        loop {
            {
                let mut state = flight.state.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(result) = &state.result {
                    return (result.clone(), role);
                }
                state.waiting.push(signal.remote());
            }
            signal.wait().await;
        }
    }
}

impl<K: Hash + Eq, V> Landing<K, V> {
    /// What is being worked on.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// Waits until nobody has waited for the result for `grace`, and ends the flight for newcomers. Never after it has landed.
    pub async fn deserted(&self, grace: Duration) {
        loop {
            let left = self.flight.left.notified();
            if !self.flight.is_deserted() {
                left.await;
                continue;
            }
            tokio::time::sleep(grace).await;
            let mut flights = self.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
            if self.flight.is_deserted() {
                flights.remove(&self.key);
                return;
            }
        }
    }

    /// Gives the result to everybody waiting, and ends the flight for newcomers.
    pub fn land(&self, result: V) {
        self.end(Ok(result));
    }

    fn end(&self, result: Result<V, Lost>) {
        let mut flights = self.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
        if flights
            .get(&self.key)
            .is_some_and(|current| Arc::ptr_eq(current, &self.flight))
        {
            flights.remove(&self.key);
        }
        drop(flights);
        self.flight.set(result);
    }
}

impl<V> Joined<V> {
    fn new(flight: &Arc<Flight<V>>) -> Self {
        flight.lock().joined += 1;
        Joined(flight.clone())
    }
}

impl<V> Drop for Joined<V> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.joined -= 1;
        let last = state.joined == 0;
        drop(state);
        if last {
            self.0.left.notify_one();
        }
    }
}

impl<V> Flight<V> {
    fn lock(&self) -> std::sync::MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_deserted(&self) -> bool {
        let state = self.lock();
        state.joined == 0 && state.result.is_none()
    }

    fn set(&self, result: Result<V, Lost>) {
        let waiting = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.result.get_or_insert(result);
            std::mem::take(&mut state.waiting)
        };
        for remote in waiting {
            remote.fire();
        }
    }
}

impl<K: Hash + Eq, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        // Without effect after a landing; after a panic it frees who waits.
        self.end(Err(Lost));
    }
}
