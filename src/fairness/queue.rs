//! A fair queue of jobs. Parties are served in turn, so a party with many jobs delays only its own
//! jobs.

use std::collections::{HashMap, VecDeque};

use super::Party;

pub struct FairQueue<J> {
    parties: HashMap<Party, PartyQueue<J>>,
    /// Parties with waiting jobs; the front is served next.
    turns: VecDeque<Party>,
    /// Number of waiting jobs.
    waiting: usize,
    waiting_max: usize,
    /// Concurrent jobs of one party at most.
    running_max: usize,
}

struct PartyQueue<J> {
    waiting: VecDeque<J>,
    running: usize,
}

impl<J> FairQueue<J> {
    pub fn new(waiting_max: usize, running_max: usize) -> Self {
        FairQueue {
            parties: HashMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
            waiting_max,
            running_max,
        }
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns the waiting jobs of `party`.
    pub fn of<'a>(&'a self, party: &Party) -> impl Iterator<Item = &'a J> {
        let queue = self.parties.get(party);
        queue.into_iter().flat_map(|queue| &queue.waiting)
    }

    /// Returns whether `party` has at least as many waiting jobs as the queue has free places.
    pub fn is_full_for(&self, party: &Party) -> bool {
        let own = self.parties.get(party).map_or(0, |queue| queue.waiting.len());
        own >= self.waiting_max - self.waiting
    }

    pub fn push(&mut self, party: Party, job: J) {
        let queue = self.parties.entry(party.clone()).or_insert_with(|| PartyQueue {
            waiting: VecDeque::new(),
            running: 0,
        });
        if queue.waiting.is_empty() {
            self.turns.push_back(party);
        }
        queue.waiting.push_back(job);
        self.waiting += 1;
    }

    /// Returns whether a job can start now.
    pub fn has_next(&self) -> bool {
        self.turns
            .iter()
            .any(|party| self.parties[party].running < self.running_max)
    }

    /// Takes the next job. Call [`FairQueue::done`] when the job ends.
    pub fn take(&mut self) -> Option<(Party, J)> {
        let at = self
            .turns
            .iter()
            .position(|party| self.parties[party].running < self.running_max)?;
        let party = self.turns.remove(at)?;
        let queue = self.parties.get_mut(&party)?;
        let job = queue.waiting.pop_front()?;
        queue.running += 1;
        if !queue.waiting.is_empty() {
            self.turns.push_back(party.clone());
        }
        self.waiting -= 1;
        Some((party, job))
    }

    /// Records the end of a job of `party`.
    pub fn done(&mut self, party: &Party) {
        if let Some(queue) = self.parties.get_mut(party) {
            queue.running -= 1;
            if queue.running == 0 && queue.waiting.is_empty() {
                self.parties.remove(party);
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

    fn taken(queue: &mut FairQueue<u32>) -> Option<u32> {
        queue.take().map(|(_, job)| job)
    }

    #[test]
    fn parties_take_turns_and_one_alone_does_not_take_all_workers() {
        let mut queue = FairQueue::new(100, 3);
        for job in 0..10 {
            queue.push(party("a"), job);
        }
        queue.push(party("b"), 100);
        queue.push(party("b"), 101);
        let first: Vec<_> = (0..5).map(|_| taken(&mut queue).unwrap()).collect();
        assert_eq!(first, [0, 100, 1, 101, 2]);
        assert!(!queue.has_next() && taken(&mut queue).is_none());
        queue.push(party("c"), 200);
        assert_eq!(taken(&mut queue), Some(200));
        queue.done(&party("a"));
        assert!(queue.has_next());
        assert_eq!(taken(&mut queue), Some(3));
        assert_eq!(queue.waiting(), 6);
    }

    #[test]
    fn a_party_leaves_to_others_as_much_of_the_queue_as_it_takes() {
        let mut queue = FairQueue::new(8, 1);
        for job in 0..4 {
            assert!(!queue.is_full_for(&party("a")));
            queue.push(party("a"), job);
        }
        assert!(queue.is_full_for(&party("a")) && !queue.is_full_for(&party("b")));
        queue.push(party("b"), 9);
        assert_eq!(queue.of(&party("b")).copied().collect::<Vec<_>>(), [9]);
    }

    #[test]
    fn queue_drops_a_party_without_jobs() {
        let mut queue = FairQueue::new(8, 1);
        queue.push(party("a"), 1);
        assert!(queue.take().is_some());
        queue.done(&party("a"));
        assert!(queue.parties.is_empty() && queue.turns.is_empty() && queue.waiting() == 0);
    }
}
