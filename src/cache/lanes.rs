//! A queue of jobs that takes one party after the other. A party with many jobs delays its own jobs only.

use std::collections::{HashMap, VecDeque};

use super::shares::Party;

pub(super) struct Lanes<J> {
    lanes: HashMap<Party, Lane<J>>,
    /// Parties with jobs that wait, the next one first.
    turns: VecDeque<Party>,
    /// Jobs that wait.
    waiting: usize,
    waiting_max: usize,
    /// Jobs of one party that may be under way at once.
    under_way_max: usize,
}

struct Lane<J> {
    waiting: VecDeque<J>,
    under_way: usize,
}

impl<J> Lanes<J> {
    pub fn new(waiting_max: usize, under_way_max: usize) -> Self {
        Lanes {
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
            waiting_max,
            under_way_max,
        }
    }

    /// Jobs that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The jobs of `party` that wait.
    pub fn of<'a>(&'a self, party: &Party) -> impl Iterator<Item = &'a J> {
        let lane = self.lanes.get(party);
        lane.into_iter().flat_map(|lane| &lane.waiting)
    }

    /// Whether `party` has as many jobs as it leaves to others.
    pub fn is_full_for(&self, party: &Party) -> bool {
        let own = self.lanes.get(party).map_or(0, |lane| lane.waiting.len());
        own >= self.waiting_max - self.waiting
    }

    pub fn push(&mut self, party: Party, job: J) {
        let lane = self.lanes.entry(party.clone()).or_insert_with(|| Lane {
            waiting: VecDeque::new(),
            under_way: 0,
        });
        if lane.waiting.is_empty() {
            self.turns.push_back(party);
        }
        lane.waiting.push_back(job);
        self.waiting += 1;
    }

    /// Whether there is a job to be taken.
    pub fn has_next(&self) -> bool {
        self.turns
            .iter()
            .any(|party| self.lanes[party].under_way < self.under_way_max)
    }

    /// Takes the next job; [`Lanes::done`] is to be called when it ends.
    pub fn next(&mut self) -> Option<(Party, J)> {
        let at = self
            .turns
            .iter()
            .position(|party| self.lanes[party].under_way < self.under_way_max)?;
        let party = self.turns.remove(at)?;
        let lane = self.lanes.get_mut(&party)?;
        let job = lane.waiting.pop_front()?;
        lane.under_way += 1;
        if !lane.waiting.is_empty() {
            self.turns.push_back(party.clone());
        }
        self.waiting -= 1;
        Some((party, job))
    }

    /// Notes the end of a job of `party`.
    pub fn done(&mut self, party: &Party) {
        if let Some(lane) = self.lanes.get_mut(party) {
            lane.under_way -= 1;
            if lane.under_way == 0 && lane.waiting.is_empty() {
                self.lanes.remove(party);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(name: &str) -> Party {
        Party::Named(name.into())
    }

    fn taken(lanes: &mut Lanes<u32>) -> Option<u32> {
        lanes.next().map(|(_, job)| job)
    }

    #[test]
    fn parties_take_turns_and_one_alone_does_not_take_all_workers() {
        let mut lanes = Lanes::new(100, 3);
        for job in 0..10 {
            lanes.push(party("a"), job);
        }
        lanes.push(party("b"), 100);
        lanes.push(party("b"), 101);
        let first: Vec<_> = (0..5).map(|_| taken(&mut lanes).unwrap()).collect();
        assert_eq!(first, [0, 100, 1, 101, 2]);
        assert!(!lanes.has_next() && taken(&mut lanes).is_none());
        lanes.push(party("c"), 200);
        assert_eq!(taken(&mut lanes), Some(200));
        lanes.done(&party("a"));
        assert!(lanes.has_next());
        assert_eq!(taken(&mut lanes), Some(3));
        assert_eq!(lanes.waiting(), 6);
    }

    #[test]
    fn a_party_leaves_to_others_as_many_places_as_it_takes() {
        let mut lanes = Lanes::new(8, 1);
        for job in 0..4 {
            assert!(!lanes.is_full_for(&party("a")));
            lanes.push(party("a"), job);
        }
        assert!(lanes.is_full_for(&party("a")) && !lanes.is_full_for(&party("b")));
        lanes.push(party("b"), 9);
        assert_eq!(lanes.of(&party("b")).copied().collect::<Vec<_>>(), [9]);
    }

    #[test]
    fn nothing_is_kept_of_a_party_without_jobs() {
        let mut lanes = Lanes::new(8, 1);
        lanes.push(party("a"), 1);
        assert!(lanes.next().is_some());
        lanes.done(&party("a"));
        assert!(lanes.lanes.is_empty() && lanes.turns.is_empty() && lanes.waiting() == 0);
    }
}
