//! Remembers recent 404s of registries, so that repeated lookups do not cost a request each.
//!
//! Only 404s are remembered, for seconds, and separately for each caller. A successful fetch of a
//! manifest removes all 404s of the repository. A successful fetch of a blob removes the 404s of
//! this blob.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::access::{Caller, CallerId};
use super::{FetchError, Shared};
use crate::limits::{ABSENCE_TTL, ABSENCES_BYTES_MAX, ABSENCES_MAX};
use crate::oci::Origin;
use crate::runtime::clock::monotonic_micros;
use crate::sync::Mutex;
use crate::upstream::{ResponseVerdict, Target, UpstreamError};

/// Memory of a recorded 404 besides its texts: keys, slots, allocations.
const OVERHEAD_BYTES: usize = 256;

/// The largest recorded 404, header fields and body together. Registries send less.
const ANSWER_BYTES_MAX: usize = 2_048;

/// Number of change counters. Repositories share counters, so a change in one repository may
/// discard the 404 of another.
const COUNTERS: usize = 256;

/// The 404s of the last seconds, shared by all cores.
pub(super) struct Absences {
    table: Mutex<Table>,
    hasher: RandomState,
    /// The configuration generation in which the 404s were received.
    generation: AtomicU64,
}

struct Table {
    repositories: HashMap<Origin, HashMap<AbsenceKey, Remembered>>,
    count: usize,
    bytes: u64,
    /// Each counter increases with every change of one of its repositories.
    changes: Vec<u32>,
}

#[derive(PartialEq, Eq, Hash)]
struct AbsenceKey {
    target: Target,
    caller: CallerId,
}

struct Remembered {
    /// The response with its body. Each client receives the same text.
    answer: UpstreamError,
    until_micros: u64,
    bytes: u64,
}

/// Change count of a repository before a request. [`Absences::record`] discards a 404 if the count
/// has changed since.
#[derive(Clone, Copy, Debug)]
pub struct ChangeCount(u32);

impl Shared {
    /// Returns the 404s of the current configuration. A new configuration may move a registry, so
    /// older 404s are removed.
    pub(super) fn absences(&self) -> &Absences {
        self.absences.follow(self.live.generation());
        &self.absences
    }
}

impl Default for Absences {
    fn default() -> Self {
        Absences {
            table: Mutex::new(Table {
                repositories: HashMap::new(),
                count: 0,
                bytes: 0,
                changes: vec![0; COUNTERS],
            }),
            hasher: RandomState::new(),
            generation: AtomicU64::new(0),
        }
    }
}

impl Absences {
    /// Removes all 404s if the configuration has changed.
    fn follow(&self, generation: u64) {
        if self.generation.load(Ordering::Relaxed) == generation {
            return;
        }
        let mut table = self.table.lock();
        table.retain(|_| false);
        for change in &mut table.changes {
            *change = change.wrapping_add(1);
        }
        self.generation.store(generation, Ordering::Relaxed);
    }

    /// Returns the 404 that `caller` received for `target` a moment ago.
    pub fn last(&self, origin: &Origin, target: &Target, caller: &Caller) -> Option<FetchError> {
        let table = self.table.lock();
        // Most repositories have no entry, and then `target` is not copied.
        let absences = table.repositories.get(origin)?;
        let key = AbsenceKey::new(target, caller);
        let found = absences.get(&key)?;
        (monotonic_micros() < found.until_micros).then(|| found.answer.clone().into())
    }

    pub fn change_count(&self, origin: &Origin) -> ChangeCount {
        ChangeCount(self.table.lock().changes[self.counter(origin)])
    }

    /// Records `error` if it is a 404, for at most `life` and [`ABSENCE_TTL`].
    pub fn record(
        &self,
        before: ChangeCount,
        (origin, target, caller): (&Origin, &Target, &Caller),
        error: &FetchError,
        life: Duration,
    ) {
        let life = life.min(ABSENCE_TTL);
        let FetchError::Upstream(UpstreamError::Status {
            host,
            phase,
            status: 404,
            verdict: ResponseVerdict::Gone,
            headers,
            body,
        }) = error
        else {
            return;
        };
        if life.is_zero() || header_bytes(headers) + body.len() > ANSWER_BYTES_MAX {
            return;
        }
        let answer = UpstreamError::Status {
            host: host.clone(),
            phase: *phase,
            status: 404,
            verdict: ResponseVerdict::Gone,
            headers: headers.clone(),
            body: Bytes::copy_from_slice(body),
        };
        let now = monotonic_micros();
        let until_micros = now + u64::try_from(life.as_micros()).unwrap_or(u64::MAX);
        let counter = self.counter(origin);
        let mut table = self.table.lock();
        if table.changes[counter] == before.0 {
            table.insert(origin, AbsenceKey::new(target, caller), answer, now, until_micros);
        }
    }

    /// Removes the 404s of a changed repository, and discards the 404s of its requests in flight.
    pub fn clear(&self, origin: &Origin) {
        let counter = self.counter(origin);
        let mut table = self.table.lock();
        table.changes[counter] = table.changes[counter].wrapping_add(1);
        if let Some(absences) = table.repositories.remove(origin) {
            table.count -= absences.len();
            table.bytes -= absences.values().map(|found| found.bytes).sum::<u64>();
        }
    }

    /// Removes the 404s of `target` for every caller, and discards the 404s of the repository's
    /// requests in flight.
    pub fn forget(&self, origin: &Origin, target: &Target) {
        let counter = self.counter(origin);
        let mut table = self.table.lock();
        table.changes[counter] = table.changes[counter].wrapping_add(1);
        table.forget(origin, target);
    }

    fn counter(&self, origin: &Origin) -> usize {
        // The remainder is below `COUNTERS`.
        (self.hasher.hash_one(origin) % COUNTERS as u64) as usize
    }
}

impl Table {
    fn insert(
        &mut self,
        origin: &Origin,
        key: AbsenceKey,
        answer: UpstreamError,
        now: u64,
        until_micros: u64,
    ) {
        let bytes = origin.namespace.as_str().len()
            + origin.repository.as_str().len()
            + key.target_bytes()
            + answer_bytes(&answer)
            + OVERHEAD_BYTES;
        let bytes = bytes as u64;
        let full = |table: &Table| table.count >= ABSENCES_MAX || table.bytes + bytes > ABSENCES_BYTES_MAX;
        if full(self) {
            self.retain(|found| now < found.until_micros);
        }
        if full(self) {
            // Each removed 404 costs at most one request.
            self.retain(|_| false);
        }
        let remembered = Remembered {
            answer,
            until_micros,
            bytes,
        };
        let absences = self.repositories.entry(origin.clone()).or_default();
        match absences.insert(key, remembered) {
            Some(before) => self.bytes -= before.bytes,
            None => self.count += 1,
        }
        self.bytes += bytes;
    }

    fn forget(&mut self, origin: &Origin, target: &Target) {
        let Some(absences) = self.repositories.get_mut(origin) else {
            return;
        };
        let (mut count, mut bytes) = (0, 0);
        absences.retain(|key, found| {
            let kept = key.target != *target;
            if !kept {
                count += 1;
                bytes += found.bytes;
            }
            kept
        });
        if absences.is_empty() {
            self.repositories.remove(origin);
        }
        self.count -= count;
        self.bytes -= bytes;
    }

    fn retain(&mut self, keep: impl Fn(&Remembered) -> bool) {
        self.repositories.retain(|_, absences| {
            absences.retain(|_, found| keep(found));
            !absences.is_empty()
        });
        let absences = || self.repositories.values().flat_map(HashMap::values);
        self.count = absences().count();
        self.bytes = absences().map(|found| found.bytes).sum();
    }
}

impl AbsenceKey {
    fn new(target: &Target, caller: &Caller) -> Self {
        AbsenceKey {
            target: target.clone(),
            caller: caller.id(),
        }
    }

    fn target_bytes(&self) -> usize {
        match &self.target {
            Target::Manifest(_) | Target::Blob(_) => 128,
            Target::Tags(query) | Target::Referrers(_, query) => 128 + query.as_str().len(),
        }
    }
}

/// Returns the size of a response with a status. Other errors are not recorded.
fn answer_bytes(answer: &UpstreamError) -> usize {
    match answer {
        UpstreamError::Status { headers, body, .. } => header_bytes(headers) + body.len(),
        _ => 0,
    }
}

fn header_bytes(headers: &http::HeaderMap) -> usize {
    let lengths = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    lengths.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Digest};
    use crate::upstream::Phase;

    fn origin(repository: &str) -> Origin {
        Origin {
            namespace: "r.example".parse().unwrap(),
            repository: repository.parse().unwrap(),
        }
    }

    fn blob(n: usize) -> Target {
        Target::Blob(Digest::of(Algorithm::Sha256, &n.to_le_bytes()))
    }

    fn answer(status: u16) -> FetchError {
        FetchError::Upstream(UpstreamError::Status {
            host: "r.example".into(),
            phase: Phase::Head,
            status,
            verdict: ResponseVerdict::of_status(status),
            headers: Box::default(),
            body: Bytes::new(),
        })
    }

    fn record(absences: &Absences, origin: &Origin, target: &Target, status: u16) {
        let before = absences.change_count(origin);
        let request = (origin, target, &Caller::ANYBODY);
        absences.record(before, request, &answer(status), ABSENCE_TTL);
    }

    #[test]
    fn only_a_404_is_cached_and_only_for_its_repository_and_target() {
        let absences = Absences::default();
        let (a, b) = (origin("a"), origin("b"));
        for status in [400, 401, 403, 405, 408, 410, 429, 500, 501, 503] {
            record(&absences, &a, &blob(1), status);
        }
        let last = |origin: &Origin, n| absences.last(origin, &blob(n), &Caller::ANYBODY);
        assert!(last(&a, 1).is_none());
        record(&absences, &a, &blob(1), 404);
        let found = last(&a, 1).expect("the recorded 404");
        assert_eq!(found.to_string(), answer(404).to_string());
        assert!(last(&a, 2).is_none() && last(&b, 1).is_none());
    }

    #[test]
    fn absence_with_zero_ttl_is_not_cached() {
        let absences = Absences::default();
        let a = origin("a");
        let before = absences.change_count(&a);
        absences.record(
            before,
            (&a, &blob(1), &Caller::ANYBODY),
            &answer(404),
            Duration::ZERO,
        );
        assert!(absences.last(&a, &blob(1), &Caller::ANYBODY).is_none());
    }

    #[test]
    fn clear_drops_cached_and_in_flight_404s_of_a_repository() {
        let absences = Absences::default();
        let a = origin("a");
        record(&absences, &a, &blob(1), 404);
        let before = absences.change_count(&a);
        absences.clear(&a);
        assert!(absences.last(&a, &blob(1), &Caller::ANYBODY).is_none());
        absences.record(
            before,
            (&a, &blob(2), &Caller::ANYBODY),
            &answer(404),
            ABSENCE_TTL,
        );
        assert!(absences.last(&a, &blob(2), &Caller::ANYBODY).is_none());
        let table = absences.table.lock();
        assert_eq!((table.count, table.bytes), (0, 0));
    }

    #[test]
    fn arrival_of_a_blob_drops_its_cached_and_in_flight_404s() {
        let absences = Absences::default();
        let (a, b) = (origin("a"), origin("b"));
        for origin in [&a, &b] {
            record(&absences, origin, &blob(1), 404);
            record(&absences, origin, &blob(2), 404);
        }
        let before = absences.change_count(&a);
        absences.forget(&a, &blob(1));
        let last = |origin: &Origin, n| absences.last(origin, &blob(n), &Caller::ANYBODY);
        assert!(last(&a, 1).is_none());
        assert!(last(&a, 2).is_some() && last(&b, 1).is_some());
        let request = (&a, &blob(1), &Caller::ANYBODY);
        absences.record(before, request, &answer(404), ABSENCE_TTL);
        assert!(last(&a, 1).is_none());
        absences.forget(&a, &blob(2));
        absences.forget(&a, &blob(3));
        let table = absences.table.lock();
        let counted: usize = table.repositories.values().map(HashMap::len).sum();
        assert_eq!((table.count, table.repositories.len()), (counted, 1));
        let bytes = table.repositories.values().flat_map(HashMap::values);
        assert_eq!(table.bytes, bytes.map(|found| found.bytes).sum::<u64>());
    }

    #[test]
    fn there_are_never_more_than_the_bounds() {
        let absences = Absences::default();
        let many = ABSENCES_MAX + 10;
        for n in 0..many {
            record(&absences, &origin("a"), &blob(n), 404);
            let table = absences.table.lock();
            assert!(table.count <= ABSENCES_MAX && table.bytes <= ABSENCES_BYTES_MAX);
        }
        assert!(
            absences
                .last(&origin("a"), &blob(many - 1), &Caller::ANYBODY)
                .is_some()
        );
        record(&absences, &origin("a"), &blob(many - 1), 404);
        let table = absences.table.lock();
        let counted: usize = table.repositories.values().map(HashMap::len).sum();
        assert_eq!(table.count, counted);
    }
}
