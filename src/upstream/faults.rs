//! Mirrors with bad bodies: wrong bytes, or a body that broke off or stalled.
//!
//! A good response head says nothing about the body. The reader of the body records the fault, and
//! the mirror is skipped for this content for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Target, UpstreamRequest};
use crate::oci::{Digest, Namespace, Reference, Repository};
use crate::sync::Mutex;

/// The time without requests to a mirror after wrong bytes. Wrong content stays on the mirror until
/// an operator replaces it.
const WRONG_COOLDOWN: Duration = Duration::from_secs(3_600);

/// The time a mirror comes last after a broken or stalled body. Longer than all attempts for one
/// body, so the next attempts use the next endpoint.
const BROKEN_COOLDOWN: Duration = Duration::from_secs(60);

/// The maximum number of recorded faults, at 300 bytes each: 1.2 MiB. A dropped fault costs one
/// attempt.
const FAULTS_MAX: usize = 4_096;

/// The fault of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The bytes do not match the request.
    Wrong,
    /// The body broke off or stalled.
    Broken,
}

/// The subject of a body. Content with a digest is identical in every repository.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum FaultSubject {
    Content(Digest),
    Named(Namespace, Repository, Target),
}

impl FaultSubject {
    pub fn of(request: &UpstreamRequest) -> Self {
        match &request.target {
            Target::Blob(digest) | Target::Manifest(Reference::Digest(digest)) => {
                FaultSubject::Content(*digest)
            }
            named => FaultSubject::Named(
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

/// By base URL of the mirror: the newest fault and its end.
type Entries = HashMap<(Arc<str>, FaultSubject), (Fault, Instant)>;

impl Faults {
    /// Returns the current fault of `mirror` for `subject`.
    pub fn of(&self, mirror: &Arc<str>, subject: &FaultSubject, now: Instant) -> Option<Fault> {
        let entries = self.0.lock();
        if entries.is_empty() {
            return None;
        }
        let (fault, until) = entries.get(&(mirror.clone(), subject.clone()))?;
        (now < *until).then_some(*fault)
    }

    /// Records a fault. Returns whether the fault is new.
    pub fn record(&self, mirror: &Arc<str>, subject: FaultSubject, fault: Fault, now: Instant) -> bool {
        let cooldown = match fault {
            Fault::Wrong => WRONG_COOLDOWN,
            Fault::Broken => BROKEN_COOLDOWN,
        };
        let mut entries = self.0.lock();
        let key = (mirror.clone(), subject);
        let known = entries.get(&key).filter(|(_, until)| now < *until).copied();
        if known.is_none() && entries.len() >= FAULTS_MAX {
            entries.retain(|_, (_, until)| now < *until);
            if entries.len() >= FAULTS_MAX {
                entries.clear();
            }
        }
        // A broken body does not replace a record of wrong bytes.
        if known.is_none_or(|(known, _)| known == fault || fault == Fault::Wrong) {
            entries.insert(key, (fault, now + cooldown));
        }
        known.is_none_or(|(known, _)| known != fault && fault == Fault::Wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(n: u64) -> FaultSubject {
        FaultSubject::Content(format!("sha256:{n:064x}").parse().unwrap())
    }

    #[test]
    fn fault_is_reported_once_and_wrong_content_lasts_longer_than_a_break() {
        let (faults, now) = (Faults::default(), Instant::now());
        let mirror: Arc<str> = "https://m.example/".into();
        let of = |at| faults.of(&mirror, &subject(1), at);
        assert_eq!(of(now), None);
        assert!(faults.record(&mirror, subject(1), Fault::Broken, now));
        assert!(!faults.record(&mirror, subject(1), Fault::Broken, now));
        assert_eq!(
            (of(now), of(now + BROKEN_COOLDOWN)),
            (Some(Fault::Broken), None),
            "the cooldown of a broken mirror ends"
        );
        assert!(faults.record(&mirror, subject(1), Fault::Wrong, now));
        assert!(!faults.record(&mirror, subject(1), Fault::Broken, now));
        assert_eq!(of(now + BROKEN_COOLDOWN), Some(Fault::Wrong));
        assert_eq!(of(now + WRONG_COOLDOWN), None);
        assert_eq!(faults.of(&mirror, &subject(2), now), None);
    }

    #[test]
    fn the_faults_remembered_are_bounded() {
        let (faults, now) = (Faults::default(), Instant::now());
        let mirror: Arc<str> = "https://m.example/".into();
        for n in 0..2 * FAULTS_MAX as u64 {
            faults.record(&mirror, subject(n), Fault::Wrong, now);
        }
        assert!(faults.0.lock().len() <= FAULTS_MAX);
    }
}
