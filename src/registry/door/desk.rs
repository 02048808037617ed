//! Where passwords are checked that take long to check: a few threads of their own, a short queue in front of them, and
//! what they found out, remembered for a while. Shared by all cores; nothing here waits but who asks.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::attempts::neighbourhood;
use super::locks::{Proof, Question};
use crate::cache::Lru;
use crate::limits::{
    DOOR_ASKERS_MAX, DOOR_PER_ADDRESS_MAX, DOOR_QUEUE_MAX, DOOR_THREADS, DOOR_WAIT, PASSWORD_NO,
    PASSWORD_YES, PASSWORDS_MAX,
};
use crate::runtime::clock::monotonic_micros;
use crate::runtime::reply;

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Right, and whose it is.
    Yes(Arc<str>),
    No,
    /// Not looked at: too many are waiting.
    Busy,
}

pub struct Desk {
    state: Arc<Mutex<State>>,
    /// The queue; none before the threads were needed.
    queue: Mutex<Option<Sender<Job>>>,
}

struct State {
    /// Moments are microseconds of the clock that never jumps, until which it is believed.
    right: Lru<Proof, (Arc<str>, u64)>,
    /// Apart from the right ones: whoever tries many must not have those forgotten.
    wrong: Lru<Proof, u64>,
    under_way: HashMap<Proof, UnderWay>,
    /// Checks under way by the address that asked first.
    by_address: HashMap<IpAddr, usize>,
}

struct UnderWay {
    askers: Vec<reply::Sender<Outcome>>,
    address: Option<IpAddr>,
}

struct Job {
    proof: Proof,
    question: Question,
    asked: u64,
}

impl Default for Desk {
    fn default() -> Self {
        let state = State {
            right: Lru::new(PASSWORDS_MAX as u64, PASSWORDS_MAX),
            wrong: Lru::new(PASSWORDS_MAX as u64, PASSWORDS_MAX),
            under_way: HashMap::new(),
            by_address: HashMap::new(),
        };
        Desk {
            state: Arc::new(Mutex::new(state)),
            queue: Mutex::new(None),
        }
    }
}

impl Desk {
    /// Starts the threads, once. To be called from a thread that may run on any CPU.
    ///
    /// # Errors
    ///
    /// When a thread cannot be had.
    pub fn open(&self) -> io::Result<()> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.is_some() {
            return Ok(());
        }
        let (sender, jobs) = crossbeam_channel::bounded(DOOR_QUEUE_MAX);
        for number in 0..DOOR_THREADS {
            let (state, jobs) = (self.state.clone(), jobs.clone());
            std::thread::Builder::new()
                .name(format!("door-{number}"))
                .spawn(move || work(&state, &jobs))?;
        }
        *queue = Some(sender);
        Ok(())
    }

    /// Forgets what was found out.
    pub fn forget(&self) {
        let mut state = lock(&self.state);
        state.right.clear();
        state.wrong.clear();
    }

    /// Whether the credentials that `proof` stands for are right. `question` is asked when nobody knows yet: once, however
    /// many want to know. `address` is whoever asks.
    ///
    /// # Cancellation
    ///
    /// The check goes on, and is remembered.
    pub async fn ask(&self, proof: Proof, question: Question, address: Option<IpAddr>) -> Outcome {
        let receiver = match self.find_or_queue(proof, question, address.map(neighbourhood)) {
            Ok(outcome) => return outcome,
            Err(receiver) => receiver,
        };
        match receiver.recv_within(DOOR_WAIT).await {
            Some(Ok(outcome)) => outcome,
            Some(Err(reply::Lost)) | None => Outcome::Busy,
        }
    }

    /// What is known, or where it will be told.
    fn find_or_queue(
        &self,
        proof: Proof,
        question: Question,
        address: Option<IpAddr>,
    ) -> Result<Outcome, reply::Receiver<Outcome>> {
        let now = monotonic_micros();
        let mut state = lock(&self.state);
        if let Some(outcome) = state.known(&proof, now) {
            return Ok(outcome);
        }
        if let Some(under_way) = state.under_way.get_mut(&proof) {
            if under_way.askers.len() >= DOOR_ASKERS_MAX {
                return Ok(Outcome::Busy);
            }
            let (sender, receiver) = reply::channel();
            under_way.askers.push(sender);
            return Err(receiver);
        }
        if address.is_some_and(|address| state.count(address) >= DOOR_PER_ADDRESS_MAX) {
            return Ok(Outcome::Busy);
        }
        let job = Job {
            proof,
            question,
            asked: now,
        };
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.as_ref().map(|queue| queue.try_send(job)) {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => {
                return Ok(Outcome::Busy);
            }
        }
        drop(queue);
        let (sender, receiver) = reply::channel();
        if let Some(address) = address {
            *state.by_address.entry(address).or_default() += 1;
        }
        let under_way = UnderWay {
            askers: vec![sender],
            address,
        };
        state.under_way.insert(proof, under_way);
        Err(receiver)
    }
}

impl State {
    fn known(&mut self, proof: &Proof, now: u64) -> Option<Outcome> {
        if let Some((name, until)) = self.right.get(proof)
            && now < *until
        {
            return Some(Outcome::Yes(name.clone()));
        }
        let wrong = self.wrong.get(proof).is_some_and(|until| now < *until);
        wrong.then_some(Outcome::No)
    }

    fn count(&self, address: IpAddr) -> usize {
        self.by_address.get(&address).copied().unwrap_or_default()
    }

    /// Notes what was found out; gives whoever waits for it.
    fn finish(&mut self, proof: Proof, outcome: &Outcome, now: u64) -> Vec<reply::Sender<Outcome>> {
        match outcome {
            Outcome::Yes(name) => {
                let until = now + PASSWORD_YES.as_micros() as u64;
                self.right.insert(proof, (name.clone(), until), 1);
            }
            Outcome::No => self.wrong.insert(proof, now + PASSWORD_NO.as_micros() as u64, 1),
            Outcome::Busy => {}
        }
        let Some(UnderWay { askers, address }) = self.under_way.remove(&proof) else {
            return Vec::new();
        };
        if let Some(address) = address
            && let Some(count) = self.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
        askers
    }
}

/// One thread: checks, until the process ends.
fn work(state: &Mutex<State>, jobs: &Receiver<Job>) {
    // Whoever tries passwords must not slow down those who are inside. A refusal of the kernel costs just that.
    let _ = rustix::process::nice(10);
    for job in jobs {
        let Job {
            proof,
            question,
            asked,
        } = job;
        let waited = monotonic_micros().saturating_sub(asked);
        let outcome = if u128::from(waited) > DOOR_WAIT.as_micros() {
            // Nobody waits for it any more.
            Outcome::Busy
        } else {
            match std::panic::catch_unwind(AssertUnwindSafe(|| question.is_right())) {
                Ok(true) => Outcome::Yes(question.name.as_str().into()),
                Ok(false) => Outcome::No,
                Err(_) => Outcome::Busy,
            }
        };
        let askers = lock(state).finish(proof, &outcome, monotonic_micros());
        for asker in askers {
            asker.send(outcome.clone());
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let desk = Desk::default();
        Arc::into_inner(desk.state).unwrap().into_inner().unwrap()
    }

    #[test]
    fn what_was_found_out_is_believed_for_its_time() {
        let mut state = state();
        let (right, wrong) = ([1; 32], [2; 32]);
        assert!(state.finish(right, &Outcome::Yes("alice".into()), 0).is_empty());
        state.finish(wrong, &Outcome::No, 0);
        state.finish([3; 32], &Outcome::Busy, 0);
        let (yes, no) = (PASSWORD_YES.as_micros() as u64, PASSWORD_NO.as_micros() as u64);
        assert_eq!(state.known(&right, yes - 1), Some(Outcome::Yes("alice".into())));
        assert_eq!(state.known(&right, yes), None);
        assert_eq!(state.known(&wrong, no - 1), Some(Outcome::No));
        assert_eq!(state.known(&wrong, no), None);
        assert_eq!(state.known(&[3; 32], 0), None);
    }

    #[test]
    fn many_wrong_ones_do_not_have_a_right_one_forgotten() {
        let mut state = state();
        state.finish([0; 32], &Outcome::Yes("alice".into()), 0);
        for n in 0..2 * PASSWORDS_MAX {
            let mut proof = [1; 32];
            proof[..8].copy_from_slice(&n.to_be_bytes());
            state.finish(proof, &Outcome::No, 0);
        }
        assert!(matches!(state.known(&[0; 32], 1), Some(Outcome::Yes(_))));
    }
}
