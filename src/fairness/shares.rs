//! Shares of resources that all registries use: fetch slots, memory and disk space.
//!
//! A party may take more only while holding less than the amount left to the party. A single party
//! can hold half, and two parties a third each. Each further party can take half of the rest, so
//! that about fifteen parties use up everything. So each registry with a configuration entry has a
//! small reserve (`cache/slots.rs`, and `memory_for` in `cache/mod.rs`).
//!
//! Clients can name any public registry in a path. So registries without an entry have a common
//! limit, and registries that never delivered verified content have a smaller limit.

use std::collections::HashMap;
use std::sync::Arc;

use super::Party;
use crate::sync::Mutex;

/// The amount that each party holds.
#[derive(Default, Debug)]
pub struct Ledger {
    parties: HashMap<Party, u64>,
    /// Total of all parties.
    held: u64,
    /// Total of registries without an entry, proven or not.
    unlisted: u64,
    /// Total of unproven registries.
    unproven: u64,
}

impl Ledger {
    /// Returns the amount that all parties hold.
    pub fn held(&self) -> u64 {
        self.held
    }

    pub fn held_by(&self, party: &Party) -> u64 {
        self.parties.get(party).copied().unwrap_or_default()
    }

    /// Returns whether `party` may take more, with `free` left of the whole. The party must hold
    /// less than `weight` times the amount left to it. Registries without an entry may hold three
    /// quarters of the whole together, and unproven registries a quarter.
    pub fn admits(&self, party: &Party, free: u64, weight: u64) -> bool {
        let left = self.left_to(party, free);
        self.held_by(party) < left.saturating_mul(weight)
    }

    /// Returns whether `party` may take `amount` more, with `free` left of the whole. The party
    /// must then hold at most `weight` times the amount left to it. Large amounts are limited like
    /// many small amounts.
    pub fn has_room_for(&self, party: &Party, amount: u64, free: u64, weight: u64) -> bool {
        let left = self.left_to(party, free).checked_sub(amount);
        left.is_some_and(|left| self.held_by(party) + amount <= left.saturating_mul(weight))
    }

    /// Returns whether `party` has reached the common limit of its group.
    pub fn is_group_full(&self, party: &Party, free: u64) -> bool {
        self.left_to(party, free) == 0
    }

    fn left_to(&self, party: &Party, free: u64) -> u64 {
        let whole = self.held.saturating_add(free);
        let unlisted = || (whole - whole / 4).saturating_sub(self.unlisted).min(free);
        match party {
            Party::Named(_) => free,
            Party::Proven(_) => unlisted(),
            // Rounded up, so that even a whole of less than four leaves a unit to unproven
            // registries.
            Party::Unproven(_) => whole.div_ceil(4).saturating_sub(self.unproven).min(unlisted()),
        }
    }

    pub fn take(&mut self, party: &Party, amount: u64) {
        *self.parties.entry(party.clone()).or_default() += amount;
        self.held += amount;
        if !matches!(party, Party::Named(_)) {
            self.unlisted += amount;
        }
        if matches!(party, Party::Unproven(_)) {
            self.unproven += amount;
        }
    }

    /// Releases an amount that was taken.
    pub fn give(&mut self, party: &Party, amount: u64) {
        let Some(held) = self.parties.get_mut(party) else {
            return;
        };
        *held -= amount;
        if *held == 0 {
            self.parties.remove(party);
        }
        self.held -= amount;
        if !matches!(party, Party::Named(_)) {
            self.unlisted -= amount;
        }
        if matches!(party, Party::Unproven(_)) {
            self.unproven -= amount;
        }
    }
}

/// A ledger of bytes, shared by threads.
#[derive(Clone, Default, Debug)]
pub struct SharedLedger(Arc<Mutex<Ledger>>);

/// Bytes of a party's share; released on drop.
#[derive(Debug)]
pub struct Lease {
    ledger: SharedLedger,
    party: Party,
    bytes: u64,
}

impl SharedLedger {
    /// Creates an empty lease.
    pub fn lease(&self, party: &Party) -> Lease {
        Lease {
            ledger: self.clone(),
            party: party.clone(),
            bytes: 0,
        }
    }

    pub fn held_by(&self, party: &Party) -> u64 {
        self.0.lock().held_by(party)
    }
}

impl Lease {
    /// Grows to `bytes`, unless the party's share is exhausted with `free` left of the whole.
    /// Returns whether the lease now covers `bytes`. A party may exceed its share by one step, so
    /// all steps of a resource must be equal.
    pub fn grow_to(&mut self, bytes: u64, free: u64, weight: u64) -> bool {
        self.grow(bytes, |ledger, party, _| ledger.admits(party, free, weight))
    }

    /// Grows to `bytes`, unless the total would exceed the party's share. Returns whether the lease
    /// now covers `bytes`. The step may be large.
    pub fn reserve_to(&mut self, bytes: u64, free: u64, weight: u64) -> bool {
        self.grow(bytes, |ledger, party, more| {
            ledger.has_room_for(party, more, free, weight)
        })
    }

    fn grow(&mut self, bytes: u64, may: impl FnOnce(&Ledger, &Party, u64) -> bool) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        let mut ledger = self.ledger.0.lock();
        if !may(&ledger, &self.party, more) {
            return false;
        }
        ledger.take(&self.party, more);
        self.bytes += more;
        true
    }

    pub fn shrink_to(&mut self, bytes: u64) {
        let back = self.bytes.saturating_sub(bytes);
        self.bytes -= back;
        self.ledger.0.lock().give(&self.party, back);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Party {
        Party::Named(name.into())
    }

    fn unproven(n: usize) -> Party {
        Party::Unproven(format!("r{n}.example").parse().unwrap())
    }

    fn proven(n: usize) -> Party {
        Party::Proven(format!("p{n}.example").parse().unwrap())
    }

    /// Takes units until no more is admitted.
    fn take_all(ledger: &mut Ledger, whole: u64, party: &Party) -> u64 {
        while ledger.admits(party, whole - ledger.held, 1) {
            ledger.take(party, 1);
        }
        ledger.held_by(party)
    }

    #[test]
    fn one_party_takes_half_and_the_next_half_of_the_rest() {
        let mut ledger = Ledger::default();
        assert_eq!(take_all(&mut ledger, 160, &named("first")), 80);
        assert_eq!(take_all(&mut ledger, 160, &named("second")), 40);
        assert_eq!(take_all(&mut ledger, 160, &named("third")), 20);
    }

    #[test]
    fn any_number_of_unproven_registries_takes_a_quarter() {
        let mut ledger = Ledger::default();
        let taken: u64 = (0..1_000).map(|n| take_all(&mut ledger, 160, &unproven(n))).sum();
        assert_eq!(taken, 40);
        assert!(take_all(&mut ledger, 160, &proven(0)) >= 40);
        assert!(take_all(&mut ledger, 160, &named("configured")) >= 40);
    }

    #[test]
    fn any_number_of_registries_without_an_entry_leaves_a_quarter_to_those_with_one() {
        let mut ledger = Ledger::default();
        let taken: u64 = (0..1_000).map(|n| take_all(&mut ledger, 160, &proven(n))).sum();
        assert_eq!(taken, 120);
        assert_eq!(take_all(&mut ledger, 160, &unproven(0)), 0);
        assert_eq!(take_all(&mut ledger, 160, &named("configured")), 20);
    }

    #[test]
    fn returned_shares_leave_an_empty_ledger() {
        let mut ledger = Ledger::default();
        for party in [named("a"), proven(1), unproven(2)] {
            let taken = take_all(&mut ledger, 16, &party);
            ledger.give(&party, taken);
            assert_eq!((ledger.held, ledger.unlisted, ledger.unproven), (0, 0, 0));
            assert!(ledger.parties.is_empty());
        }
    }

    #[test]
    fn a_lease_grows_within_the_share_and_ends_with_its_drop() {
        let ledger = SharedLedger::default();
        let mut lease = ledger.lease(&named("a"));
        assert!(lease.grow_to(40, 100, 1));
        assert!(lease.grow_to(60, 60, 1));
        assert!(!lease.grow_to(61, 40, 1), "the lease exceeds the free amount");
        assert!(
            lease.grow_to(61, 40, 7),
            "the lease is below seven times the free amount"
        );
        let mut other = ledger.lease(&named("b"));
        assert!(other.grow_to(10, 39, 1));
        drop(lease);
        assert_eq!(ledger.0.lock().held, 10);
    }

    #[test]
    fn no_step_takes_more_than_the_share_however_large_it_is() {
        for weight in [1, 7] {
            for step in 1..=64 {
                let ledger = SharedLedger::default();
                let mut lease = ledger.lease(&named("a"));
                let mut held = 0;
                while lease.reserve_to(held + step, 64 - held, weight) {
                    held += step;
                }
                let share = 64 * weight / (weight + 1);
                assert!(
                    held <= share && held + step > share,
                    "{held} of {share} in steps of {step}"
                );
            }
        }
        let ledger = SharedLedger::default();
        let mut lease = ledger.lease(&unproven(1));
        assert!(lease.reserve_to(15, 100, 7));
        assert!(
            !lease.reserve_to(26, 85, 7),
            "the reservation exceeds the share of all unproven registries"
        );
    }
}
