//! Records of referrers in the tiers.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore};

use super::{RecordName, ReferrersRecord, Storage};
use crate::limits::{BUCKET_LOOKUP_TIMEOUT, RECORD_WRITERS, RECORD_WRITES_WAITING_MAX};
use crate::oci::{Namespace, Origin};
use crate::store::{S3Error, S3Store, StoreError};

/// The changes to the records of a repository after an answer of the registry.
#[derive(Clone, Default)]
pub struct RecordChanges {
    pub set: Option<(RecordName, ReferrersRecord)>,
    pub remove: Vec<RecordName>,
}

/// Writes records to one tier. The changes of one registry are written in order.
#[derive(Default)]
pub(super) struct RecordWriters([RecordWriter; RECORD_WRITERS]);

struct RecordWriter {
    turn: Arc<Mutex<()>>,
    permits: Arc<Semaphore>,
}

impl Default for RecordWriter {
    fn default() -> Self {
        RecordWriter {
            turn: Arc::default(),
            permits: Arc::new(Semaphore::new(RECORD_WRITES_WAITING_MAX)),
        }
    }
}

impl RecordWriters {
    fn of(&self, namespace: &Namespace) -> &RecordWriter {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        &self.0[(hasher.finish() % RECORD_WRITERS as u64) as usize]
    }

    /// Returns whether every change was written or dropped.
    #[cfg(test)]
    pub fn are_idle(&self) -> bool {
        let idle = |writer: &RecordWriter| writer.permits.available_permits() == RECORD_WRITES_WAITING_MAX;
        self.0.iter().all(idle)
    }
}

impl RecordChanges {
    fn is_empty(&self) -> bool {
        self.set.is_none() && self.remove.is_empty()
    }

    fn are_outdated(&self, is_outdated: &impl Fn(&RecordName, &ReferrersRecord) -> bool) -> bool {
        let set = self.set.as_ref();
        set.is_some_and(|(name, record)| is_outdated(name, record))
    }

    /// The approximate number of bytes in memory.
    fn bytes(&self) -> u64 {
        let index = self.set.as_ref().and_then(|(_, record)| record.index.as_ref());
        1_024 + index.map_or(0, |index| index.get().len() as u64)
    }
}

impl Storage {
    /// Returns the newest record of a name among the tiers. Call on the helper pool.
    pub async fn record(&self, origin: &Origin, name: &RecordName) -> Option<ReferrersRecord> {
        let lookups = (self.local_record(origin, name), self.bucket_record(origin, name));
        let (local, remote) = futures_util::future::join(lookups.0, lookups.1).await;
        local
            .into_iter()
            .chain(remote)
            .max_by_key(|record| record.checked_at_ms)
    }

    /// Writes `changes` to every tier. `is_outdated` returns whether a later answer contradicts the
    /// new record. Outdated changes are dropped, so that the records of the later answer stay. Call
    /// on the helper pool.
    pub async fn write_records(
        &self,
        origin: &Origin,
        changes: RecordChanges,
        is_outdated: impl Fn(&RecordName, &ReferrersRecord) -> bool + Clone + Send + Sync + 'static,
    ) {
        if changes.is_empty() {
            return;
        }
        self.write_bucket_records(origin, &changes, is_outdated.clone());
        // A later answer is written after these changes.
        let _turn = self.0.record_writers.of(&origin.namespace).turn.lock().await;
        let origin = origin.clone();
        self.write_local(move |store| {
            if changes.are_outdated(&is_outdated) {
                return Ok(());
            }
            let Origin {
                namespace,
                repository,
            } = &origin;
            for name in &changes.remove {
                store.remove_record(namespace, repository, name)?;
            }
            if let Some((name, record)) = &changes.set {
                store.set_record(namespace, repository, name, record)?;
            }
            Ok::<_, StoreError>(())
        })
        .await;
    }

    /// Writes `changes` to the bucket in the background. If too many changes wait, `changes` are
    /// dropped.
    fn write_bucket_records(
        &self,
        origin: &Origin,
        changes: &RecordChanges,
        is_outdated: impl Fn(&RecordName, &ReferrersRecord) -> bool + Send + Sync + 'static,
    ) {
        let Some(bucket) = self.bucket().filter(|bucket| bucket.store().is_available()) else {
            return;
        };
        let writer = bucket.record_writers.of(&origin.namespace);
        let permit = writer.permits.clone().try_acquire_owned().ok();
        let memory = self.0.memory.take(changes.bytes());
        let (Some(permit), Some(memory)) = (permit, memory) else {
            tracing::debug!(
                reason = "too many changes are waiting",
                "referrers record change dropped"
            );
            return;
        };
        let (turn, store) = (writer.turn.clone(), bucket.store().clone());
        let (origin, changes) = (origin.clone(), changes.clone());
        tokio::spawn(async move {
            let _counted = (permit, memory);
            let _turn = turn.lock().await;
            if let Err(error) = write(&store, &origin, &changes, &is_outdated).await {
                tracing::debug!(%error, "referrers record not written to the bucket");
            }
        });
    }

    async fn local_record(&self, origin: &Origin, name: &RecordName) -> Option<ReferrersRecord> {
        let (origin, name) = (origin.clone(), name.clone());
        self.look(move |store| {
            let record = store.record(&origin.namespace, &origin.repository, &name);
            record
                .inspect_err(|error| tracing::warn!(%error, "referrers record unreadable"))
                .ok()?
        })
        .await
    }

    async fn bucket_record(&self, origin: &Origin, name: &RecordName) -> Option<ReferrersRecord> {
        let bucket = self.bucket()?;
        let (store, origin, name) = (bucket.store().clone(), origin.clone(), name.clone());
        let finding = async move {
            store
                .find_record(&origin.namespace, &origin.repository, &name)
                .await
        };
        bucket.within_deadline(BUCKET_LOOKUP_TIMEOUT, finding).await?
    }
}

async fn write(
    store: &S3Store,
    origin: &Origin,
    changes: &RecordChanges,
    is_outdated: &(impl Fn(&RecordName, &ReferrersRecord) -> bool + Sync),
) -> Result<(), S3Error> {
    let Origin {
        namespace,
        repository,
    } = origin;
    if changes.are_outdated(is_outdated) {
        return Ok(());
    }
    for name in &changes.remove {
        store.remove_record(namespace, repository, name).await?;
    }
    match &changes.set {
        Some((name, record)) => store.put_record(namespace, repository, name, record).await,
        None => Ok(()),
    }
}
