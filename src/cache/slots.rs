//! Fetch slots. Each registry and each class of fetches has a share of the slots. A fetch without a
//! free slot waits, and registries with waiting fetches are served in turn.
//!
//! Each registry with an entry in the configuration also has a few own slots, in addition to the
//! common slots. So the registry can start a fetch at once, even if other registries hold all
//! common slots.
//!
//! A fetch without clients keeps its slot only until another fetch needs a slot. A fetch of the cache
//! itself ([`Priority`]) takes only a common slot beyond a reserve, and never waits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::fairness::{Ledger, Party};
use crate::limits::{
    BACKGROUND_FETCHES_MAX, BLOB_FETCHES_MAX, DESCRIPTORS_RESERVED, FETCHES_MIN, FETCHES_WAITING_MAX,
    MANIFEST_FETCHES_MAX, RESERVED_FETCHES_MAX, RESERVED_FETCHES_TOTAL_MAX, UNPROVEN_WAITING_MAX,
};
use crate::sync::{Mutex, MutexGuard};

use super::priority::Priority;

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
#[derive(Debug)]
pub struct Standing {
    /// The number of the [`Priority`].
    priority: AtomicU8,
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

impl Standing {
    fn new(priority: Priority) -> Arc<Self> {
        Arc::new(Standing {
            priority: AtomicU8::new(priority as u8),
            deserted: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            rate: AtomicU64::new(0),
            evicted: AtomicBool::new(false),
            eviction: Notify::new(),
        })
    }

    fn priority(&self) -> Priority {
        Priority::of_number(self.priority.load(Ordering::Relaxed))
    }

    /// Raises the priority of a fetch whose content another caller needs.
    pub fn raise(&self, priority: Priority) {
        self.priority.fetch_max(priority as u8, Ordering::Relaxed);
    }

    /// Ends the fetch.
    pub fn evict(&self) {
        self.evicted.store(true, Ordering::Relaxed);
        self.eviction.notify_one();
    }

    fn is_deserted(&self) -> bool {
        self.deserted.load(Ordering::Relaxed)
    }
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

/// A fetch of [`Priority::Client`] in the queue.
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
    /// too many fetches wait. Below [`Priority::Client`], the fetch does not wait.
    ///
    /// # Cancellation
    ///
    /// The fetch leaves the queue.
    pub async fn take(
        &self,
        class: Class,
        party: &Party,
        priority: Priority,
        limit: Duration,
    ) -> Option<FetchSlot> {
        let (grant, granted) = oneshot::channel();
        let (id, queued) = self.pool(class).enter(party, priority, grant)?;
        // Dropping the slot from here on releases it, or leaves the queue.
        let mut slot = FetchSlot {
            slots: self.clone(),
            class,
            id,
            standing: Standing::new(priority),
        };
        if queued && !matches!(tokio::time::timeout(limit, granted).await, Ok(Ok(()))) {
            return None;
        }
        slot.standing = self.pool(class).held.get(&id)?.standing.clone();
        Some(slot)
    }

    /// Returns whether a fetch below [`Priority::Client`] gets a slot now.
    pub fn has_spare(&self, class: Class, party: &Party, priority: Priority) -> bool {
        self.pool(class).has_spare(party, priority)
    }

    fn pool(&self, class: Class) -> MutexGuard<'_, Pool> {
        self.0[class as usize].lock()
    }
}

impl FetchSlot {
    /// Returns the state that decides whether the fetch keeps the slot.
    pub fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    /// Records the progress of the fetch. A fetch without clients may lose its slot to a fetch with
    /// clients.
    pub fn record_progress(&self, priority: Priority, deserted: bool, slow: bool, rate: u64) {
        let standing = &self.standing;
        standing.rate.store(rate, Ordering::Relaxed);
        let priority_before = standing.priority.swap(priority as u8, Ordering::Relaxed);
        let before = standing.deserted.swap(deserted, Ordering::Relaxed);
        let slow_before = standing.slow.swap(slow, Ordering::Relaxed);
        if (deserted && !before) || (slow && !slow_before) || priority_before > priority as u8 {
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

    /// Returns whether `party` may take a common slot for a fetch below [`Priority::Client`]. No
    /// client waits, and a reserve stays free for clients and for higher priorities.
    fn has_spare(&self, party: &Party, priority: Priority) -> bool {
        let free = self.free();
        self.count == 0 && free > priority.reserve(self.size) && self.ledger.admits(party, free, 1)
    }

    /// Takes a slot or joins the queue. Returns the id and whether the fetch waits. `None` if the
    /// queue is full, or if a fetch below [`Priority::Client`] gets no slot.
    fn enter(
        &mut self,
        party: &Party,
        priority: Priority,
        grant: oneshot::Sender<()>,
    ) -> Option<(u64, bool)> {
        let id = self.next_id;
        self.next_id += 1;
        if priority.is_background() {
            if !self.has_spare(party, priority) {
                return None;
            }
            self.hold(id, party, Kind::Common, priority);
            return Some((id, false));
        }
        // Waiting fetches of the same party come first.
        if !self.waiting.contains_key(party)
            && let Some(kind) = self.admits(party)
        {
            self.hold(id, party, kind, priority);
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

    fn hold(&mut self, id: u64, party: &Party, kind: Kind, priority: Priority) {
        match kind {
            Kind::Common => self.ledger.take(party, 1),
            Kind::Own => *self.own.entry(party.clone()).or_default() += 1,
        }
        let held = Held {
            party: party.clone(),
            kind,
            standing: Standing::new(priority),
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
            // other registries. Own slots stay free for clients.
            let common = |held: &&mut Held| {
                held.kind == Kind::Common && held.party == party && !held.standing.priority().is_background()
            };
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
                self.hold(id, &party, kind, Priority::Client);
                if grant.send(()).is_err() {
                    // The fetch has just left the queue.
                    self.release(id);
                }
            }
        }
    }

    /// Evicts fetches without clients, one for each party with waiting fetches: first deserted
    /// fetches, then fetches of the cache itself, the least important first. If the slots that
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
                    let alone = standing.is_deserted() || standing.priority().is_background();
                    let slow = standing.slow.load(Ordering::Relaxed);
                    let outside = holder != party
                        && match (holder, party) {
                            (Party::Named(_), Party::Named(_)) => self.held_by(holder) > mine + 1,
                            (Party::Named(_), _) => false,
                            _ => true,
                        };
                    // A registry that holds only own slots cannot free a common slot.
                    let gives = holder == party || self.ledger.held_by(holder) > 0;
                    gives && !evicted(standing) && (alone || (slow && exhausted && outside))
                })
                .min_by_key(|held| {
                    let standing = &held.standing;
                    (
                        !standing.is_deserted(),
                        standing.priority(),
                        held.party != *party,
                        standing.rate.load(Ordering::Relaxed),
                    )
                });
            let Some(Held { standing, .. }) = worst else {
                return;
            };
            standing.evict();
        }
    }
}

#[cfg(test)]
mod tests;
