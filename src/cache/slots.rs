//! Places among the fetches under way. Each registry has a share of them, and so has each class of fetches; a fetch that
//! finds no place waits, and registries with waiting fetches are served in turn.
//!
//! A fetch that no client waits for keeps its place only as long as no other fetch needs it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::shares::{Ledger, Party};
use crate::limits::{
    BACKGROUND_FETCHES_MAX, BLOB_FETCHES_MAX, FETCHES_WAITING_MAX, MANIFEST_FETCHES_MAX, UNPROVEN_WAITING_MAX,
};

/// What a place is for. No class takes the places of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Blob,
    /// Manifests, lists, and questions about who may read what.
    Manifest,
    /// Questions whether what is held is still right.
    Background,
}

/// All places.
#[derive(Clone)]
pub struct Slots(Arc<[Mutex<Pool>; 3]>);

/// A place; given back on drop.
pub struct Place {
    slots: Slots,
    class: Class,
    id: u64,
    standing: Arc<Standing>,
}

/// What decides whether a fetch keeps its place when others need it.
#[derive(Default, Debug)]
pub struct Standing {
    /// No client waits for it.
    deserted: AtomicBool,
    /// Its upstream sends less than the minimum.
    slow: AtomicBool,
    /// Bytes a second, lately.
    rate: AtomicU64,
    /// It was told to give its place back.
    evicted: AtomicBool,
    told: Notify,
}

struct Pool {
    size: u64,
    ledger: Ledger,
    held: HashMap<u64, (Party, Arc<Standing>)>,
    /// Parties with waiting fetches, in the order in which they are served.
    turns: VecDeque<Party>,
    waiting: HashMap<Party, VecDeque<Waiting>>,
    count: usize,
    next_id: u64,
}

struct Waiting {
    id: u64,
    grant: oneshot::Sender<()>,
}

impl Default for Slots {
    fn default() -> Self {
        Slots(Arc::new(
            [BLOB_FETCHES_MAX, MANIFEST_FETCHES_MAX, BACKGROUND_FETCHES_MAX]
                .map(|size| Mutex::new(Pool::new(size as u64))),
        ))
    }
}

impl Slots {
    /// A place for a fetch of `party`, within `limit`; `None` when there is none in time, or too many wait.
    ///
    /// # Cancellation
    ///
    /// The fetch leaves the queue.
    pub async fn take(&self, class: Class, party: &Party, limit: Duration) -> Option<Place> {
        let (grant, granted) = oneshot::channel();
        let (id, queued) = self.pool(class).enter(party, grant)?;
        // From here on its drop gives back the place, or leaves the queue.
        let mut place = Place {
            slots: self.clone(),
            class,
            id,
            standing: Arc::default(),
        };
        if queued && !matches!(tokio::time::timeout(limit, granted).await, Ok(Ok(()))) {
            return None;
        }
        place.standing = self.pool(class).held.get(&id)?.1.clone();
        Some(place)
    }

    fn pool(&self, class: Class) -> MutexGuard<'_, Pool> {
        self.0[class as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Notes how the fetch stands; one that no client waits for may lose its place to one that a client waits for.
    pub fn note(&self, deserted: bool, slow: bool, rate: u64) {
        let standing = &self.standing;
        standing.rate.store(rate, Ordering::Relaxed);
        let before = standing.deserted.swap(deserted, Ordering::Relaxed);
        let slow_before = standing.slow.swap(slow, Ordering::Relaxed);
        if (deserted && !before) || (slow && !slow_before) {
            self.slots.pool(self.class).relieve();
        }
    }

    /// Waits until the place is needed for another fetch.
    pub async fn evicted(&self) {
        loop {
            let told = self.standing.told.notified();
            if self.standing.evicted.load(Ordering::Relaxed) {
                return;
            }
            told.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.slots.pool(self.class).leave(self.id);
    }
}

impl Pool {
    fn new(size: u64) -> Self {
        Pool {
            size,
            ledger: Ledger::default(),
            held: HashMap::new(),
            turns: VecDeque::new(),
            waiting: HashMap::new(),
            count: 0,
            next_id: 0,
        }
    }

    fn free(&self) -> u64 {
        self.size - self.held.len() as u64
    }

    /// Takes a place or joins the queue, and says which. `None` when the queue is full.
    fn enter(&mut self, party: &Party, grant: oneshot::Sender<()>) -> Option<(u64, bool)> {
        let id = self.next_id;
        self.next_id += 1;
        // Fetches of the same party that wait come first.
        if !self.waiting.contains_key(party) && self.ledger.admits(party, self.free(), 1) {
            self.hold(id, party);
            return Some((id, false));
        }
        let unproven = |party: &Party| matches!(party, Party::Unproven(_));
        let of_party = self.waiting.get(party).map_or(0, VecDeque::len);
        let full = of_party >= FETCHES_WAITING_MAX
            || (!matches!(party, Party::Named(_)) && self.count >= 4 * FETCHES_WAITING_MAX)
            || (unproven(party) && self.unproven_waiting() >= UNPROVEN_WAITING_MAX);
        if full {
            return None;
        }
        if of_party == 0 {
            self.turns.push_back(party.clone());
        }
        self.waiting
            .entry(party.clone())
            .or_default()
            .push_back(Waiting { id, grant });
        self.count += 1;
        self.relieve();
        Some((id, true))
    }

    fn unproven_waiting(&self) -> usize {
        let unproven = self.waiting.iter();
        unproven
            .filter(|(party, _)| matches!(party, Party::Unproven(_)))
            .map(|(_, waiting)| waiting.len())
            .sum()
    }

    fn hold(&mut self, id: u64, party: &Party) {
        self.ledger.take(party, 1);
        self.held.insert(id, (party.clone(), Arc::default()));
    }

    /// Ends the stay of `id`, in a place or in the queue.
    fn leave(&mut self, id: u64) {
        if let Some((party, _)) = self.held.remove(&id) {
            self.ledger.give(&party, 1);
        } else {
            for waiting in self.waiting.values_mut() {
                let before = waiting.len();
                waiting.retain(|waiting| waiting.id != id);
                self.count -= before - waiting.len();
            }
            self.forget_empty();
        }
        self.serve();
    }

    fn forget_empty(&mut self) {
        self.waiting.retain(|_, waiting| !waiting.is_empty());
        let waiting = &self.waiting;
        self.turns.retain(|party| waiting.contains_key(party));
    }

    /// Gives free places to waiting fetches: one to each party that may have one, in turn.
    fn serve(&mut self) {
        let mut passed = 0;
        while passed < self.turns.len() && self.free() > 0 {
            let Some(party) = self.turns.pop_front() else {
                return;
            };
            if !self.ledger.admits(&party, self.free(), 1) {
                self.turns.push_back(party);
                passed += 1;
                continue;
            }
            passed = 0;
            if let Some(waiting) = self.waiting.get_mut(&party)
                && let Some(Waiting { id, grant }) = waiting.pop_front()
            {
                self.count -= 1;
                if waiting.is_empty() {
                    self.waiting.remove(&party);
                } else {
                    self.turns.push_back(party.clone());
                }
                self.hold(id, &party);
                if grant.send(()).is_err()
                    && let Some((party, _)) = self.held.remove(&id)
                {
                    // It has left in this moment.
                    self.ledger.give(&party, 1);
                }
            }
        }
    }

    /// Tells fetches that no client waits for to give their places back, as many as others wait for. Where a bound that
    /// registries have together is reached, a fetch that is too slow gives way too, to a registry that holds less.
    fn relieve(&mut self) {
        let evicted = |standing: &Standing| standing.evicted.load(Ordering::Relaxed);
        let under_way = self
            .held
            .values()
            .filter(|(_, standing)| evicted(standing))
            .count();
        for turn in 0..self.turns.len() {
            if turn < under_way {
                continue;
            }
            let party = &self.turns[turn];
            let crowded = match party {
                Party::Named(_) => self.free() == 0,
                _ => self.ledger.is_group_full(party, self.free()),
            };
            let mine = self.ledger.held_by(party);
            let worst = self
                .held
                .values()
                .filter(|(holder, standing)| {
                    let deserted = standing.deserted.load(Ordering::Relaxed);
                    let slow = standing.slow.load(Ordering::Relaxed);
                    let outside = holder != party
                        && match (holder, party) {
                            (Party::Named(_), Party::Named(_)) => self.ledger.held_by(holder) > mine + 1,
                            (Party::Named(_), _) => false,
                            _ => true,
                        };
                    !evicted(standing) && (deserted || (slow && crowded && outside))
                })
                .min_by_key(|(holder, standing)| {
                    (
                        !standing.deserted.load(Ordering::Relaxed),
                        holder != party,
                        standing.rate.load(Ordering::Relaxed),
                    )
                });
            let Some((_, standing)) = worst else { return };
            standing.evicted.store(true, Ordering::Relaxed);
            standing.told.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const AT_ONCE: Duration = Duration::from_millis(1);

    fn named(name: &str) -> Party {
        Party::Named(name.into())
    }

    /// As many places as there are at once.
    async fn take_all(slots: &Slots, class: Class, party: &Party) -> Vec<Place> {
        let mut places = Vec::new();
        while let Some(place) = slots.take(class, party, AT_ONCE).await {
            places.push(place);
        }
        places
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(test);
    }

    #[test]
    fn one_registry_or_class_leaves_places_to_the_others() {
        run(async {
            let slots = Slots::default();
            let held = take_all(&slots, Class::Blob, &named("greedy")).await;
            assert_eq!(held.len(), BLOB_FETCHES_MAX / 2);
            assert!(slots.take(Class::Blob, &named("other"), AT_ONCE).await.is_some());
            assert!(
                slots
                    .take(Class::Manifest, &named("greedy"), AT_ONCE)
                    .await
                    .is_some()
            );
        });
    }

    #[test]
    fn a_place_given_back_goes_to_who_waits_and_registries_take_turns() {
        run(async {
            let slots = Slots::default();
            let mut held = Vec::new();
            for n in 0..200 {
                held.extend(take_all(&slots, Class::Manifest, &named(&n.to_string())).await);
            }
            assert_eq!(held.len(), MANIFEST_FETCHES_MAX);
            let order = Arc::new(Mutex::new(Vec::new()));
            let wait = |party: &'static str| {
                let (slots, order) = (slots.clone(), order.clone());
                tokio::spawn(async move {
                    let place = slots.take(Class::Manifest, &named(party), PATIENCE).await;
                    order.lock().unwrap().push(party);
                    place
                })
            };
            let mut waiting = Vec::new();
            for party in ["x", "x", "x", "y"] {
                let before = slots.pool(Class::Manifest).count;
                waiting.push(wait(party));
                while slots.pool(Class::Manifest).count == before {
                    tokio::task::yield_now().await;
                }
            }
            held.truncate(MANIFEST_FETCHES_MAX - 8);
            for task in waiting {
                assert!(task.await.unwrap().is_some());
            }
            assert_eq!(*order.lock().unwrap(), ["x", "y", "x", "x"]);
        });
    }

    #[test]
    fn who_leaves_the_queue_takes_no_place() {
        run(async {
            let slots = Slots::default();
            let held = take_all(&slots, Class::Blob, &named("a")).await;
            assert!(slots.take(Class::Blob, &named("a"), AT_ONCE).await.is_none());
            {
                let pool = slots.pool(Class::Blob);
                assert_eq!((pool.count, pool.turns.len(), pool.waiting.len()), (0, 0, 0));
            }
            drop(held);
            let pool = slots.pool(Class::Blob);
            assert!(pool.held.is_empty());
            assert_eq!(pool.free(), BLOB_FETCHES_MAX as u64);
        });
    }

    #[test]
    fn a_fetch_no_client_waits_for_loses_its_place_and_the_slowest_first() {
        run(async {
            let slots = Slots::default();
            let mut held = take_all(&slots, Class::Blob, &named("a")).await;
            held[3].note(true, false, 500);
            held[5].note(true, false, 100);
            let waiting = tokio::spawn({
                let slots = slots.clone();
                async move { slots.take(Class::Blob, &named("a"), PATIENCE).await }
            });
            held[5].evicted().await;
            assert!(!held[3].standing.evicted.load(Ordering::Relaxed), "one is enough");
            held.remove(5);
            assert!(waiting.await.unwrap().is_some());
        });
    }

    #[test]
    fn a_slow_fetch_of_a_registry_that_holds_more_gives_way_when_all_places_are_taken() {
        run(async {
            let slots = Slots::default();
            let mut held = Vec::new();
            for n in 0..200 {
                held.extend(take_all(&slots, Class::Blob, &named(&n.to_string())).await);
            }
            assert_eq!(held.len(), BLOB_FETCHES_MAX);
            held[7].note(false, true, 1);
            let waiting = tokio::spawn({
                let slots = slots.clone();
                async move { slots.take(Class::Blob, &named("other"), PATIENCE).await }
            });
            held[7].evicted().await;
            held.remove(7);
            assert!(waiting.await.unwrap().is_some());
        });
    }

    #[test]
    fn a_slow_fetch_of_a_registry_without_an_entry_gives_way_when_their_bound_is_reached() {
        run(async {
            let slots = Slots::default();
            let party = |n: usize| Party::Unproven(format!("r{n}.example").parse().unwrap());
            let mut held = Vec::new();
            for n in 0..100 {
                held.extend(slots.take(Class::Blob, &party(n), AT_ONCE).await);
            }
            held[7].note(false, true, 1);
            let waiting = tokio::spawn({
                let slots = slots.clone();
                async move { slots.take(Class::Blob, &party(2_000), PATIENCE).await }
            });
            held[7].evicted().await;
            held.remove(7);
            assert!(waiting.await.unwrap().is_some());
        });
    }
}
