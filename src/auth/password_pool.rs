//! Verifies passwords against slow hashes, with a few threads, a short queue and a cache of
//! verdicts. All cores share the verifier. Only the request with the password waits for the
//! verdict.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::credentials::{CredentialDigest, PasswordCheck};
use super::failed_logins::address_prefix;
use crate::limits::{
    AUTH_CHECKS_PER_ADDRESS_MAX, AUTH_QUEUE_MAX, AUTH_THREADS, AUTH_TIMEOUT, AUTH_WAITERS_MAX,
    CACHED_PASSWORDS_MAX, PASSWORD_NEGATIVE_TTL, PASSWORD_TTL,
};
use crate::lru::Lru;
use crate::runtime::clock::monotonic_micros;
use crate::runtime::oneshot;
use crate::sync::Mutex;

/// The verdict of a password check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordVerdict {
    /// The password is correct. Contains the user name.
    Correct(Arc<str>),
    Wrong,
    /// Not checked, because too many checks are in flight.
    Overloaded,
}

pub struct PasswordVerifier {
    state: Arc<Mutex<State>>,
    /// The queue. `None` until the threads are started.
    queue: Mutex<Option<Sender<Job>>>,
}

struct State {
    /// Correct passwords, each with its user and its expiry in microseconds of the monotonic clock.
    correct: Lru<CredentialDigest, (Arc<str>, u64)>,
    /// Wrong passwords with their expiry. A separate cache, so that many guesses do not evict
    /// correct passwords.
    wrong: Lru<CredentialDigest, u64>,
    in_flight: HashMap<CredentialDigest, InFlightCheck>,
    /// In-flight checks, by the address prefix of the first request.
    by_address: HashMap<IpAddr, usize>,
}

struct InFlightCheck {
    waiters: Vec<oneshot::Sender<PasswordVerdict>>,
    address: Option<IpAddr>,
}

struct Job {
    digest: CredentialDigest,
    check: PasswordCheck,
    queued_at: u64,
}

impl Default for PasswordVerifier {
    fn default() -> Self {
        let state = State {
            correct: Lru::new(CACHED_PASSWORDS_MAX as u64, CACHED_PASSWORDS_MAX),
            wrong: Lru::new(CACHED_PASSWORDS_MAX as u64, CACHED_PASSWORDS_MAX),
            in_flight: HashMap::new(),
            by_address: HashMap::new(),
        };
        PasswordVerifier {
            state: Arc::new(Mutex::new(state)),
            queue: Mutex::new(None),
        }
    }
}

impl PasswordVerifier {
    /// Starts the threads once. Must be called from a thread that may run on any CPU.
    ///
    /// # Errors
    ///
    /// A thread cannot be started.
    pub fn start(&self) -> io::Result<()> {
        let mut queue = self.queue.lock();
        if queue.is_some() {
            return Ok(());
        }
        let (sender, jobs) = crossbeam_channel::bounded(AUTH_QUEUE_MAX);
        for number in 0..AUTH_THREADS {
            let (state, jobs) = (self.state.clone(), jobs.clone());
            std::thread::Builder::new()
                .name(format!("auth-{number}"))
                .spawn(move || work(&state, &jobs))?;
        }
        *queue = Some(sender);
        Ok(())
    }

    /// Clears the cached verdicts.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        state.correct.clear();
        state.wrong.clear();
    }

    /// Verifies the credentials with this `digest`. Without a cached verdict, `check` runs once for
    /// all concurrent requests with an equal digest. `address` is the address of the client.
    ///
    /// # Cancellation
    ///
    /// The check continues, and its verdict is cached.
    pub async fn verify(
        &self,
        digest: CredentialDigest,
        check: PasswordCheck,
        address: Option<IpAddr>,
    ) -> PasswordVerdict {
        let receiver = match self.cached_or_queued(digest, check, address.map(address_prefix)) {
            Ok(outcome) => return outcome,
            Err(receiver) => receiver,
        };
        match receiver.recv_within(AUTH_TIMEOUT).await {
            Some(Ok(outcome)) => outcome,
            Some(Err(oneshot::Lost)) | None => PasswordVerdict::Overloaded,
        }
    }

    /// Returns the cached verdict, or the receiver of the verdict of a queued check.
    fn cached_or_queued(
        &self,
        digest: CredentialDigest,
        check: PasswordCheck,
        address: Option<IpAddr>,
    ) -> Result<PasswordVerdict, oneshot::Receiver<PasswordVerdict>> {
        let now = monotonic_micros();
        let mut state = self.state.lock();
        if let Some(outcome) = state.cached(&digest, now) {
            return Ok(outcome);
        }
        if let Some(in_flight) = state.in_flight.get_mut(&digest) {
            if in_flight.waiters.len() >= AUTH_WAITERS_MAX {
                return Ok(PasswordVerdict::Overloaded);
            }
            let (sender, receiver) = oneshot::channel();
            in_flight.waiters.push(sender);
            return Err(receiver);
        }
        if address.is_some_and(|address| state.count(address) >= AUTH_CHECKS_PER_ADDRESS_MAX) {
            return Ok(PasswordVerdict::Overloaded);
        }
        let job = Job {
            digest,
            check,
            queued_at: now,
        };
        let queue = self.queue.lock();
        match queue.as_ref().map(|queue| queue.try_send(job)) {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => {
                return Ok(PasswordVerdict::Overloaded);
            }
        }
        drop(queue);
        let (sender, receiver) = oneshot::channel();
        if let Some(address) = address {
            *state.by_address.entry(address).or_default() += 1;
        }
        let in_flight = InFlightCheck {
            waiters: vec![sender],
            address,
        };
        state.in_flight.insert(digest, in_flight);
        Err(receiver)
    }
}

impl State {
    fn cached(&mut self, digest: &CredentialDigest, now: u64) -> Option<PasswordVerdict> {
        if let Some((name, until)) = self.correct.get(digest)
            && now < *until
        {
            return Some(PasswordVerdict::Correct(name.clone()));
        }
        let wrong = self.wrong.get(digest).is_some_and(|until| now < *until);
        wrong.then_some(PasswordVerdict::Wrong)
    }

    fn count(&self, address: IpAddr) -> usize {
        self.by_address.get(&address).copied().unwrap_or_default()
    }

    /// Caches a verdict, and returns the senders of its waiters.
    fn finish(
        &mut self,
        digest: CredentialDigest,
        outcome: &PasswordVerdict,
        now: u64,
    ) -> Vec<oneshot::Sender<PasswordVerdict>> {
        match outcome {
            PasswordVerdict::Correct(name) => {
                let until = now + PASSWORD_TTL.as_micros() as u64;
                self.correct.insert(digest, (name.clone(), until), 1);
            }
            PasswordVerdict::Wrong => {
                self.wrong
                    .insert(digest, now + PASSWORD_NEGATIVE_TTL.as_micros() as u64, 1);
            }
            PasswordVerdict::Overloaded => {}
        }
        let Some(InFlightCheck { waiters, address }) = self.in_flight.remove(&digest) else {
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
        waiters
    }
}

/// Runs password checks until the process ends.
fn work(state: &Mutex<State>, jobs: &Receiver<Job>) {
    // Password guesses must not slow down authenticated clients. If the kernel denies the call, the
    // priority stays unchanged.
    let _ = rustix::process::nice(10);
    for job in jobs {
        let Job {
            digest,
            check,
            queued_at,
        } = job;
        let waited = monotonic_micros().saturating_sub(queued_at);
        let outcome = if u128::from(waited) > AUTH_TIMEOUT.as_micros() {
            // Every waiter has timed out.
            PasswordVerdict::Overloaded
        } else {
            match std::panic::catch_unwind(AssertUnwindSafe(|| check.is_right())) {
                Ok(true) => PasswordVerdict::Correct(check.name.as_str().into()),
                Ok(false) => PasswordVerdict::Wrong,
                Err(_) => PasswordVerdict::Overloaded,
            }
        };
        let waiters = state.lock().finish(digest, &outcome, monotonic_micros());
        for waiter in waiters {
            waiter.send(outcome.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let verifier = PasswordVerifier::default();
        Arc::into_inner(verifier.state).unwrap().into_inner()
    }

    #[test]
    fn verdicts_are_cached_for_their_ttl() {
        let mut state = state();
        let (right, wrong) = ([1; 32], [2; 32]);
        assert!(
            state
                .finish(right, &PasswordVerdict::Correct("alice".into()), 0)
                .is_empty()
        );
        state.finish(wrong, &PasswordVerdict::Wrong, 0);
        state.finish([3; 32], &PasswordVerdict::Overloaded, 0);
        let (yes, no) = (
            PASSWORD_TTL.as_micros() as u64,
            PASSWORD_NEGATIVE_TTL.as_micros() as u64,
        );
        assert_eq!(
            state.cached(&right, yes - 1),
            Some(PasswordVerdict::Correct("alice".into()))
        );
        assert_eq!(state.cached(&right, yes), None);
        assert_eq!(state.cached(&wrong, no - 1), Some(PasswordVerdict::Wrong));
        assert_eq!(state.cached(&wrong, no), None);
        assert_eq!(state.cached(&[3; 32], 0), None);
    }

    #[test]
    fn many_wrong_passwords_do_not_evict_a_right_one() {
        let mut state = state();
        state.finish([0; 32], &PasswordVerdict::Correct("alice".into()), 0);
        for n in 0..2 * CACHED_PASSWORDS_MAX {
            let mut digest = [1; 32];
            digest[..8].copy_from_slice(&n.to_be_bytes());
            state.finish(digest, &PasswordVerdict::Wrong, 0);
        }
        assert!(matches!(
            state.cached(&[0; 32], 1),
            Some(PasswordVerdict::Correct(_))
        ));
    }
}
