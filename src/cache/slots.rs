//! Fetch slots. Each registry and each class of fetches has a share of the slots. A fetch without a
//! free slot waits, and registries with waiting fetches are served in turn.
//!
//! Each registry with an entry in the configuration also has a few own slots, in addition to the
//! common slots. So the registry can start a fetch at once, even if other registries hold all
//! common slots.
//!
//! A fetch without clients keeps its slot only until another fetch needs a slot.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::fairness::{Ledger, Party};
use crate::limits::{
    BACKGROUND_FETCHES_MAX, BLOB_FETCHES_MAX, DESCRIPTORS_RESERVED, FETCHES_MIN, FETCHES_WAITING_MAX,
    MANIFEST_FETCHES_MAX, RESERVED_FETCHES_MAX, RESERVED_FETCHES_TOTAL_MAX, UNPROVEN_WAITING_MAX,
};
use crate::sync::{Mutex, MutexGuard};

/// The purpose of a fetch slot. A class never uses the slots of another class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Blob,
    /// Manifests, lists, and access checks.
    Manifest,
    /// Revalidations of cached content.
    Background,
}

/// All fetch slots.
#[derive(Clone)]
pub struct FetchSlots(Arc<[Mutex<Pool>; 3]>);

/// A fetch slot; released on drop.
pub struct FetchSlot {
    slots: FetchSlots,
    class: Class,
    id: u64,
    standing: Arc<Standing>,
}

/// State that decides whether a fetch keeps its slot when other fetches need a slot.
#[derive(Default, Debug)]
pub struct Standing {
    /// No client waits for the fetch.
    deserted: AtomicBool,
    /// The upstream sends less than the minimum rate.
    slow: AtomicBool,
    /// Recent rate in bytes per second.
    rate: AtomicU64,
    /// The fetch must release its slot.
    evicted: AtomicBool,
    eviction: Notify,
}

struct Pool {
    /// Number of common slots.
    size: u64,
    /// Common slots in use.
    ledger: Ledger,
    /// Own slots in use, by registry. Only registries with an entry have own slots.
    own: HashMap<Party, u64>,
    held: HashMap<u64, Held>,
    /// Parties with waiting fetches, in the order in which they are served.
    turns: VecDeque<Party>,
    waiting: HashMap<Party, VecDeque<Waiting>>,
    count: usize,
    next_id: u64,
}

struct Held {
    party: Party,
    kind: Kind,
    standing: Arc<Standing>,
}

/// The kind of a fetch's slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Common,
    /// A slot that only its registry can use.
    Own,
}

struct Waiting {
    id: u64,
    grant: oneshot::Sender<()>,
}

impl FetchSlots {
    /// Creates the slots of a process with a limit of `descriptors`. A blob needs two descriptors,
    /// for its connection and file. Other fetches need one. Content gets a fifth of the
    /// descriptors: three quarters of the fifth for fetches, and the rest for open files.
    pub fn new(descriptors: u64) -> Self {
        let content = descriptors.saturating_sub(DESCRIPTORS_RESERVED as u64) / 5;
        let size = |part: u64, most: usize| (content / part).clamp(FETCHES_MIN, most as u64);
        let sizes = [
            size(4, BLOB_FETCHES_MAX),
            size(8, MANIFEST_FETCHES_MAX),
            size(8, BACKGROUND_FETCHES_MAX),
        ];
        FetchSlots(Arc::new(sizes.map(|size| Mutex::new(Pool::new(size)))))
    }

    /// Takes a slot for a fetch of `party`. Returns `None` if no slot is free within `limit`, or if
    /// too many fetches wait.
    ///
    /// # Cancellation
    ///
    /// The fetch leaves the queue.
    pub async fn take(&self, class: Class, party: &Party, limit: Duration) -> Option<FetchSlot> {
        let (grant, granted) = oneshot::channel();
        let (id, queued) = self.pool(class).enter(party, grant)?;
        // Dropping the slot from here on releases it, or leaves the queue.
        let mut slot = FetchSlot {
            slots: self.clone(),
            class,
            id,
            standing: Arc::default(),
        };
        if queued && !matches!(tokio::time::timeout(limit, granted).await, Ok(Ok(()))) {
            return None;
        }
        slot.standing = self.pool(class).held.get(&id)?.standing.clone();
        Some(slot)
    }

    fn pool(&self, class: Class) -> MutexGuard<'_, Pool> {
        self.0[class as usize].lock()
    }
}

impl FetchSlot {
    /// Records the progress of the fetch. A fetch without clients may lose its slot to a fetch with
    /// clients.
    pub fn record_progress(&self, deserted: bool, slow: bool, rate: u64) {
        let standing = &self.standing;
        standing.rate.store(rate, Ordering::Relaxed);
        let before = standing.deserted.swap(deserted, Ordering::Relaxed);
        let slow_before = standing.slow.swap(slow, Ordering::Relaxed);
        if (deserted && !before) || (slow && !slow_before) {
            self.slots.pool(self.class).relieve();
        }
    }

    /// Waits until the slot is needed for another fetch.
    pub async fn evicted(&self) {
        loop {
            let notified = self.standing.eviction.notified();
            if self.standing.evicted.load(Ordering::Relaxed) {
                return;
            }
            notified.await;
        }
    }
}

impl Drop for FetchSlot {
    fn drop(&mut self) {
        self.slots.pool(self.class).leave(self.id);
    }
}

impl Pool {
    fn new(size: u64) -> Self {
        Pool {
            size,
            ledger: Ledger::default(),
            own: HashMap::new(),
            held: HashMap::new(),
            turns: VecDeque::new(),
            waiting: HashMap::new(),
            count: 0,
            next_id: 0,
        }
    }

    /// Returns the number of free common slots.
    fn free(&self) -> u64 {
        self.size - self.ledger.held()
    }

    /// Returns the number of slots that `party` holds.
    fn held_by(&self, party: &Party) -> u64 {
        self.ledger.held_by(party) + self.own.get(party).copied().unwrap_or_default()
    }

    /// Returns the kind of slot that `party` may take now.
    fn admits(&self, party: &Party) -> Option<Kind> {
        let own = self.own.get(party).copied().unwrap_or_default();
        let together = || self.own.values().sum::<u64>();
        // The configuration limits the number of first own slots. Registries without an entry have
        // no own slots, because clients can invent their names.
        let has_own = matches!(party, Party::Named(_))
            && (own == 0
                || (own < RESERVED_FETCHES_MAX && together() < RESERVED_FETCHES_TOTAL_MAX.min(self.size)));
        if has_own {
            Some(Kind::Own)
        } else {
            self.ledger.admits(party, self.free(), 1).then_some(Kind::Common)
        }
    }

    /// Takes a slot or joins the queue. Returns the id and whether the fetch waits, or `None` if
    /// the queue is full.
    fn enter(&mut self, party: &Party, grant: oneshot::Sender<()>) -> Option<(u64, bool)> {
        let id = self.next_id;
        self.next_id += 1;
        // Waiting fetches of the same party come first.
        if !self.waiting.contains_key(party)
            && let Some(kind) = self.admits(party)
        {
            self.hold(id, party, kind);
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

    fn hold(&mut self, id: u64, party: &Party, kind: Kind) {
        match kind {
            Kind::Common => self.ledger.take(party, 1),
            Kind::Own => *self.own.entry(party.clone()).or_default() += 1,
        }
        let held = Held {
            party: party.clone(),
            kind,
            standing: Arc::default(),
        };
        self.held.insert(id, held);
    }

    /// Releases the slot of `id`. Returns `false` if `id` has no slot.
    fn release(&mut self, id: u64) -> bool {
        let Some(Held { party, kind, .. }) = self.held.remove(&id) else {
            return false;
        };
        if kind == Kind::Own {
            // Another fetch of the registry moves to the own slot, which frees a common slot for
            // other registries.
            let common = |held: &&mut Held| held.kind == Kind::Common && held.party == party;
            if self.ledger.held_by(&party) > 0
                && let Some(other) = self.held.values_mut().find(common)
            {
                other.kind = Kind::Own;
            } else {
                if let Some(own) = self.own.get_mut(&party) {
                    *own -= 1;
                }
                self.own.retain(|_, own| *own > 0);
                return true;
            }
        }
        self.ledger.give(&party, 1);
        true
    }

    /// Removes `id` from its slot or from the queue.
    fn leave(&mut self, id: u64) {
        if !self.release(id) {
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

    /// Grants free slots to waiting fetches, in turn: one to each party that may take a slot.
    fn serve(&mut self) {
        let mut skipped = 0;
        while skipped < self.turns.len() {
            let Some(party) = self.turns.pop_front() else {
                return;
            };
            let Some(kind) = self.admits(&party) else {
                self.turns.push_back(party);
                skipped += 1;
                continue;
            };
            skipped = 0;
            if let Some(waiting) = self.waiting.get_mut(&party)
                && let Some(Waiting { id, grant }) = waiting.pop_front()
            {
                self.count -= 1;
                if waiting.is_empty() {
                    self.waiting.remove(&party);
                } else {
                    self.turns.push_back(party.clone());
                }
                self.hold(id, &party, kind);
                if grant.send(()).is_err() {
                    // The fetch has just left the queue.
                    self.release(id);
                }
            }
        }
    }

    /// Evicts fetches without clients, one for each party with waiting fetches. If the slots that
    /// registries share are exhausted, a slow fetch is evicted too. A registry with an entry loses
    /// a slow fetch only to a registry with an entry that holds fewer slots.
    fn relieve(&mut self) {
        let evicted = |standing: &Standing| standing.evicted.load(Ordering::Relaxed);
        let evicting = self.held.values().filter(|held| evicted(&held.standing)).count();
        for turn in 0..self.turns.len() {
            if turn < evicting {
                continue;
            }
            let party = &self.turns[turn];
            let exhausted = match party {
                Party::Named(_) => self.free() == 0,
                _ => self.ledger.is_group_full(party, self.free()),
            };
            let mine = self.held_by(party);
            let worst = self
                .held
                .values()
                .filter(|held| {
                    let (holder, standing) = (&held.party, &held.standing);
                    let deserted = standing.deserted.load(Ordering::Relaxed);
                    let slow = standing.slow.load(Ordering::Relaxed);
                    let outside = holder != party
                        && match (holder, party) {
                            (Party::Named(_), Party::Named(_)) => self.held_by(holder) > mine + 1,
                            (Party::Named(_), _) => false,
                            _ => true,
                        };
                    // A registry that holds only own slots cannot free a common slot.
                    let gives = holder == party || self.ledger.held_by(holder) > 0;
                    gives && !evicted(standing) && (deserted || (slow && exhausted && outside))
                })
                .min_by_key(|held| {
                    let standing = &held.standing;
                    (
                        !standing.deserted.load(Ordering::Relaxed),
                        held.party != *party,
                        standing.rate.load(Ordering::Relaxed),
                    )
                });
            let Some(Held { standing, .. }) = worst else {
                return;
            };
            standing.evicted.store(true, Ordering::Relaxed);
            standing.eviction.notify_one();
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

    /// Takes slots until none is free.
    async fn take_all(slots: &FetchSlots, class: Class, party: &Party) -> Vec<FetchSlot> {
        let mut taken = Vec::new();
        while let Some(slot) = slots.take(class, party, AT_ONCE).await {
            taken.push(slot);
        }
        taken
    }

    /// Takes all common slots for numbered registries, and then the own slots of all `others`.
    async fn take_every_slot(slots: &FetchSlots, class: Class, others: &[&str]) -> Vec<FetchSlot> {
        let mut taken = Vec::new();
        for n in 0..20 {
            taken.extend(take_all(slots, class, &named(&n.to_string())).await);
        }
        assert_eq!(slots.pool(class).free(), 0);
        for other in others {
            let own = take_all(slots, class, &named(other)).await;
            assert!(!own.is_empty());
            taken.extend(own);
        }
        taken
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(test);
    }

    #[test]
    fn one_registry_or_class_leaves_slots_to_the_others() {
        run(async {
            let slots = FetchSlots::new(u64::MAX);
            let held = take_all(&slots, Class::Blob, &named("busy")).await;
            assert_eq!(
                held.len() as u64,
                BLOB_FETCHES_MAX as u64 / 2 + RESERVED_FETCHES_MAX
            );
            assert!(slots.take(Class::Blob, &named("other"), AT_ONCE).await.is_some());
            assert!(
                slots
                    .take(Class::Manifest, &named("busy"), AT_ONCE)
                    .await
                    .is_some()
            );
        });
    }

    #[test]
    fn a_registry_with_an_entry_has_slots_when_all_others_take_what_they_can() {
        run(async {
            let slots = FetchSlots::new(u64::MAX);
            let mut held = Vec::new();
            for n in 0..300 {
                held.extend(take_all(&slots, Class::Blob, &named(&n.to_string())).await);
            }
            assert_eq!(slots.pool(Class::Blob).free(), 0);
            assert!(slots.take(Class::Blob, &named("other"), AT_ONCE).await.is_some());
            // Each of the 300 registries has its first own slot. Further own slots are limited.
            let most = BLOB_FETCHES_MAX as u64 + RESERVED_FETCHES_TOTAL_MAX + 300;
            assert!(held.len() as u64 <= most, "{}", held.len());
            held.clear();
            assert!(slots.pool(Class::Blob).own.is_empty());
        });
    }

    #[test]
    fn registries_without_an_entry_have_no_slots_of_their_own() {
        run(async {
            let slots = FetchSlots::new(u64::MAX);
            let mut held = Vec::new();
            for n in 0..300 {
                let party = Party::Unproven(format!("r{n}.example").parse().unwrap());
                held.extend(take_all(&slots, Class::Blob, &party).await);
            }
            assert_eq!(held.len(), BLOB_FETCHES_MAX / 4);
        });
    }

    #[test]
    fn fetches_leave_descriptors_to_connections_and_files() {
        run(async {
            for descriptors in [0, 256, 600, 1_024, 4_096, 20_000, u64::MAX] {
                let slots = FetchSlots::new(descriptors);
                let size = |class| slots.pool(class).size;
                let (blobs, manifests) = (size(Class::Blob), size(Class::Manifest));
                let all = 2 * blobs + manifests + size(Class::Background);
                let content = descriptors.saturating_sub(DESCRIPTORS_RESERVED as u64) / 5;
                assert!(all <= content.max(4 * FETCHES_MIN), "{descriptors}");
                let busy = take_all(&slots, Class::Blob, &named("busy")).await;
                let together: u64 = slots.pool(Class::Blob).own.values().sum();
                assert!(
                    busy.len() as u64 <= blobs.div_ceil(2) + together && together <= RESERVED_FETCHES_MAX
                );
                assert!(slots.take(Class::Blob, &named("other"), AT_ONCE).await.is_some());
            }
            let size = |class| FetchSlots::new(20_000).pool(class).size as usize;
            assert_eq!(
                [Class::Blob, Class::Manifest, Class::Background].map(size),
                [BLOB_FETCHES_MAX, MANIFEST_FETCHES_MAX, BACKGROUND_FETCHES_MAX]
            );
        });
    }

    #[test]
    fn an_own_slot_that_is_released_frees_a_common_one() {
        run(async {
            let slots = FetchSlots::new(u64::MAX);
            let mut held = take_all(&slots, Class::Blob, &named("a")).await;
            let free = slots.pool(Class::Blob).free();
            held.remove(0);
            assert_eq!(slots.pool(Class::Blob).free(), free + 1);
            held.clear();
            let pool = slots.pool(Class::Blob);
            assert!(pool.own.is_empty() && pool.free() == BLOB_FETCHES_MAX as u64);
        });
    }

    #[test]
    fn a_released_slot_goes_to_a_waiting_fetch_and_registries_take_turns() {
        run(async {
            let slots = FetchSlots::new(u64::MAX);
            let mut held = take_every_slot(&slots, Class::Manifest, &["x", "y"]).await;
            let order = Arc::new(Mutex::new(Vec::new()));
            let wait = |party: &'static str| {
                let (slots, order) = (slots.clone(), order.clone());
                tokio::spawn(async move {
                    let slot = slots.take(Class::Manifest, &named(party), PATIENCE).await;
                    order.lock().push(party);
                    slot
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
            held.drain(..8);
            for task in waiting {
                assert!(task.await.unwrap().is_some());
            }
            assert_eq!(*order.lock(), ["x", "y", "x", "x"]);
        });
    }

    #[test]
    fn a_fetch_that_leaves_the_queue_takes_no_slot() {
        run(async {
            let slots = FetchSlots::new(u64::MAX);
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
    fn a_fetch_no_client_waits_for_loses_its_slot_and_the_slowest_first() {
        run(async {
            let slots = FetchSlots::new(u64::MAX);
            let mut held = take_all(&slots, Class::Blob, &named("a")).await;
            held[3].record_progress(true, false, 500);
            held[5].record_progress(true, false, 100);
            let waiting = tokio::spawn({
                let slots = slots.clone();
                async move { slots.take(Class::Blob, &named("a"), PATIENCE).await }
            });
            held[5].evicted().await;
            assert!(
                !held[3].standing.evicted.load(Ordering::Relaxed),
                "one fetch is evicted"
            );
            held.remove(5);
            assert!(waiting.await.unwrap().is_some());
        });
    }

    #[test]
    fn a_slow_fetch_of_a_registry_that_holds_more_gives_way_when_all_slots_are_taken() {
        run(async {
            let slots = FetchSlots::new(u64::MAX);
            let mut held = take_every_slot(&slots, Class::Blob, &["other"]).await;
            held[7].record_progress(false, true, 1);
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
            let slots = FetchSlots::new(u64::MAX);
            let party = |n: usize| Party::Unproven(format!("r{n}.example").parse().unwrap());
            let mut held = Vec::new();
            for n in 0..100 {
                held.extend(slots.take(Class::Blob, &party(n), AT_ONCE).await);
            }
            held[7].record_progress(false, true, 1);
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
