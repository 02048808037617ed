//! Which mirrors have begun to give content and not given it: wrong bytes, or a body that broke off or stalled.
//!
//! A good head says nothing about the body behind it. Who reads the body says what became of it, and the mirror is passed
//! over for that content for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Request, Target};
use crate::oci::{Digest, Namespace, Reference, Repository};

/// How long a mirror is not asked for content of which it gave wrong bytes: what is stored there wrongly stays so until an
/// operator sees to it.
const WRONG_REST: Duration = Duration::from_secs(3_600);

/// How long a mirror is asked last for content of which its body broke off or stalled: longer than the attempts for one
/// body take, so that the next ones go to the next place.
const BROKEN_REST: Duration = Duration::from_secs(60);

/// Faults remembered, at 300 bytes each: 1.2 MiB. Forgetting costs an attempt each.
const FAULTS_MAX: usize = 4_096;

/// What was wrong with a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Its bytes are not what was asked for.
    Wrong,
    /// It broke off or stalled.
    Broken,
}

/// What a body was of. Content with a digest is the same in every repository.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Content(Digest),
    Named(Namespace, Repository, Target),
}

impl Subject {
    pub fn of(request: &Request) -> Self {
        match &request.target {
            Target::Blob(digest) | Target::Manifest(Reference::Digest(digest)) => Subject::Content(*digest),
            named => Subject::Named(
                request.namespace.clone(),
                request.repository.clone(),
                named.clone(),
            ),
        }
    }
}

/// The faults of mirrors, by their base URLs.
#[derive(Default)]
pub(super) struct Faults(Mutex<Entries>);

/// By the mirror's base URL: the newest fault, and until when it counts.
type Entries = HashMap<(Arc<str>, Subject), (Fault, Instant)>;

impl Faults {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        // The table is whole between any two statements, so a panic elsewhere leaves it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of `mirror` and `subject`.
    pub fn of(&self, mirror: &Arc<str>, subject: &Subject, now: Instant) -> Option<Fault> {
        let entries = self.entries();
        if entries.is_empty() {
            return None;
        }
        let (fault, until) = entries.get(&(mirror.clone(), subject.clone()))?;
        (now < *until).then_some(*fault)
    }

    /// Notes a fault; whether it is news.
    pub fn note(&self, mirror: &Arc<str>, subject: Subject, fault: Fault, now: Instant) -> bool {
        let rest = match fault {
            Fault::Wrong => WRONG_REST,
            Fault::Broken => BROKEN_REST,
        };
        let mut entries = self.entries();
        let key = (mirror.clone(), subject);
        let known = entries.get(&key).filter(|(_, until)| now < *until).copied();
        if known.is_none() && entries.len() >= FAULTS_MAX {
            entries.retain(|_, (_, until)| now < *until);
            if entries.len() >= FAULTS_MAX {
                entries.clear();
            }
        }
        // Wrong bytes stay wrong, also when the next body breaks off.
        if known.is_none_or(|(known, _)| known == fault || fault == Fault::Wrong) {
            entries.insert(key, (fault, now + rest));
        }
        known.is_none_or(|(known, _)| known != fault && fault == Fault::Wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(n: u64) -> Subject {
        Subject::Content(format!("sha256:{n:064x}").parse().unwrap())
    }

    #[test]
    fn a_fault_is_news_once_and_wrong_outlasts_broken() {
        let (faults, now) = (Faults::default(), Instant::now());
        let mirror: Arc<str> = "https://m.example/".into();
        let of = |at| faults.of(&mirror, &subject(1), at);
        assert_eq!(of(now), None);
        assert!(faults.note(&mirror, subject(1), Fault::Broken, now));
        assert!(!faults.note(&mirror, subject(1), Fault::Broken, now));
        assert_eq!(
            (of(now), of(now + BROKEN_REST)),
            (Some(Fault::Broken), None),
            "the same mirror is asked first again"
        );
        assert!(faults.note(&mirror, subject(1), Fault::Wrong, now));
        assert!(!faults.note(&mirror, subject(1), Fault::Broken, now));
        assert_eq!(of(now + BROKEN_REST), Some(Fault::Wrong));
        assert_eq!(of(now + WRONG_REST), None);
        assert_eq!(faults.of(&mirror, &subject(2), now), None);
    }

    #[test]
    fn the_faults_remembered_are_bounded() {
        let (faults, now) = (Faults::default(), Instant::now());
        let mirror: Arc<str> = "https://m.example/".into();
        for n in 0..2 * FAULTS_MAX as u64 {
            faults.note(&mirror, subject(n), Fault::Wrong, now);
        }
        assert!(faults.entries().len() <= FAULTS_MAX);
    }
}
