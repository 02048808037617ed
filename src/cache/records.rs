//! Answers about referrers that outlive the process: pages of lists, and 404s by which clients learn that there are none.
//!
//! Kept are answers that were given without credentials, and those of registries that the operator shares. They are given
//! only while the registry is unavailable, and marked stale.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde_json::value::RawValue;

use super::access::Caller;
use super::listing::ListingKey;
use super::listing::parse::{self, Listed};
use super::{Cache, Shared};
use crate::limits::{BUCKET_LOOKUP_TIMEOUT, LISTING_REPOSITORIES_MAX};
use crate::oci::{Digest, ListQuery, Origin, Reference, Tag, pairs};
use crate::runtime::helper::blocking;
use crate::store::{RecordName, ReferrersRecord, S3Error, S3Store, StoreError};
use crate::upstream::Target;

/// What is kept for a list.
pub(super) enum Kept {
    List(Arc<Listed>),
    /// The repository had no referrers API at the time of the request, in milliseconds since 1970.
    Unsupported(u64),
    Nothing,
}

/// What an answer changes in the store. Done after the client has its answer.
#[derive(Clone, Default)]
pub(super) struct Changes {
    set: Option<(RecordName, ReferrersRecord)>,
    remove: Vec<RecordName>,
}

/// When repositories last listed referrers, in milliseconds since 1970. A 404 before that may reach the disk later.
#[derive(Default)]
pub(super) struct ListingRepositories(Mutex<HashMap<Origin, u64>>);

impl ListingRepositories {
    pub fn record(&self, key: &ListingKey, requested_ms: u64) {
        if !matches!(key.target, Target::Referrers(..)) {
            return;
        }
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() >= LISTING_REPOSITORIES_MAX && !table.contains_key(&key.origin) {
            // What is forgotten matters for the moment that a write to the disk takes.
            table.clear();
        }
        table.insert(key.origin.clone(), requested_ms);
    }

    fn has_listed_since(&self, origin: &Origin, requested_ms: u64) -> bool {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table
            .get(origin)
            .is_some_and(|listed_ms| *listed_ms >= requested_ms)
    }
}

impl Caller {
    /// Whether answers to this caller may be kept for others.
    pub(super) fn speaks_for_others(&self) -> bool {
        self.is_anonymous() || self.is_operator()
    }
}

impl Changes {
    #[cfg(test)]
    pub fn of(set: Option<(RecordName, ReferrersRecord)>, remove: Vec<RecordName>) -> Self {
        Changes { set, remove }
    }

    /// Bytes of memory, about.
    pub fn bytes(&self) -> u64 {
        let index = self.set.as_ref().and_then(|(_, record)| record.index.as_ref());
        1_024 + index.map_or(0, |index| index.get().len() as u64)
    }

    /// A page as the registry gave it.
    pub fn page(key: &ListingKey, listed: &Listed) -> Self {
        let Target::Referrers(subject, query) = &key.target else {
            return Changes::default();
        };
        if !listed.public && !key.caller.is_operator() {
            return Changes::default();
        }
        let text = std::str::from_utf8(&listed.body).ok();
        let index = text.and_then(|text| RawValue::from_string(text.to_owned()).ok());
        let Some(index) = index else {
            return Changes::default();
        };
        let record = ReferrersRecord {
            checked_at_ms: listed.requested_ms,
            public: listed.public,
            query: query.as_str().to_owned(),
            next: listed.next.as_ref().map(|next| next.as_str().to_owned()),
            filtered: listed.filtered,
            index: Some(index),
        };
        Changes {
            set: Some((page(subject, query), record)),
            remove: vec![RecordName::Unsupported],
        }
    }

    /// The registry does not list referrers.
    pub fn unsupported(key: &ListingKey, requested_ms: u64) -> Self {
        Changes {
            set: Some((
                RecordName::Unsupported,
                ReferrersRecord::absent(requested_ms, key.caller.is_anonymous()),
            )),
            remove: pages(&key.target),
        }
    }

    /// The registry has answered with something that is no list. Lists it gave before stay: a page that says "back soon" is
    /// no word about them.
    pub fn not_an_index(key: &ListingKey, requested_ms: u64) -> Self {
        Changes {
            remove: Vec::new(),
            ..Self::unsupported(key, requested_ms)
        }
    }

    /// The registry refuses what it gave before.
    pub fn refused(key: &ListingKey) -> Self {
        let mut remove = pages(&key.target);
        remove.push(RecordName::Unsupported);
        Changes { set: None, remove }
    }

    /// A tag does not exist.
    pub fn absent_tag(tag: &Tag, caller: &Caller, requested_ms: u64) -> Self {
        let record = ReferrersRecord::absent(requested_ms, caller.is_anonymous());
        Changes {
            set: Some((RecordName::AbsentTag(tag.clone()), record)),
            remove: Vec::new(),
        }
    }

    /// A tag exists, or is refused.
    pub fn not_absent_tag(tag: &Tag) -> Self {
        Changes {
            set: None,
            remove: vec![RecordName::AbsentTag(tag.clone())],
        }
    }
}

/// The record of a page, and that of the whole list.
fn pages(target: &Target) -> Vec<RecordName> {
    let Target::Referrers(subject, query) = target else {
        return Vec::new();
    };
    let mut names = vec![page(subject, &ListQuery::default())];
    if !query.is_empty() {
        names.push(page(subject, query));
    }
    names
}

fn page(subject: &Digest, query: &ListQuery) -> RecordName {
    RecordName::Page {
        subject: *subject,
        query: query.as_str().to_owned(),
    }
}

impl Shared {
    /// What is kept for a list: the page itself; else the whole list, filtered as the query wants; else that there is none.
    pub(super) async fn kept_list(&self, key: &ListingKey) -> Kept {
        let Target::Referrers(subject, query) = &key.target else {
            return Kept::Nothing;
        };
        let (origin, caller) = (&key.origin, &key.caller);
        if let Some(record) = self.record(origin, caller, page(subject, query)).await
            && let Some(listed) = listed_of(record)
        {
            return Kept::List(Arc::new(listed));
        }
        if only_filters(query)
            && let Some(wanted) = query.get("artifactType")
            && let Some(record) = self
                .record(origin, caller, page(subject, &ListQuery::default()))
                .await
            && let Some(whole) = listed_of(record)
            && whole.next.is_none()
            && let Ok(body) = parse::referrers(&whole.body, Some(&wanted))
        {
            return Kept::List(Arc::new(Listed {
                body,
                filtered: true,
                ..whole
            }));
        }
        match self.record(origin, caller, RecordName::Unsupported).await {
            Some(record) => Kept::Unsupported(record.checked_at_ms),
            None => Kept::Nothing,
        }
    }

    /// When a registry last answered 404 for a tag that is derived from a digest, in milliseconds since 1970.
    pub(super) async fn kept_absence(&self, origin: &Origin, tag: &Tag, caller: &Caller) -> Option<u64> {
        let record = self.record(origin, caller, RecordName::AbsentTag(tag.clone()));
        Some(record.await?.checked_at_ms)
    }

    /// A record that `caller` may have.
    async fn record(&self, origin: &Origin, caller: &Caller, name: RecordName) -> Option<ReferrersRecord> {
        if !self.policy.cache_tags || !caller.speaks_for_others() {
            return None;
        }
        let record = self.newest_record(origin, name).await?;
        (record.public || caller.is_operator()).then_some(record)
    }

    /// The newest of the records that the local store and the bucket have under a name.
    pub(super) async fn newest_record(&self, origin: &Origin, name: RecordName) -> Option<ReferrersRecord> {
        let (here, there) = (
            self.local_record(origin, &name),
            self.shared_record(origin, &name),
        );
        let (here, there) = futures_util::future::join(here, there).await;
        here.into_iter()
            .chain(there)
            .max_by_key(|record| record.checked_at_ms)
    }

    async fn local_record(&self, origin: &Origin, name: &RecordName) -> Option<ReferrersRecord> {
        let (origin, name) = (origin.clone(), name.clone());
        self.look(move |store| {
            let record = store.record(&origin.namespace, &origin.repository, &name);
            record
                .inspect_err(|error| tracing::warn!(%error, "a record of referrers cannot be read"))
                .ok()?
        })
        .await
    }

    async fn shared_record(&self, origin: &Origin, name: &RecordName) -> Option<ReferrersRecord> {
        let bucket = self.storage.bucket()?;
        let (store, origin, name) = (bucket.store().clone(), origin.clone(), name.clone());
        let finding = async move {
            store
                .find_record(&origin.namespace, &origin.repository, &name)
                .await
        };
        bucket.within_deadline(BUCKET_LOOKUP_TIMEOUT, finding).await?
    }

    /// Writes what an answer changes.
    pub(super) async fn write_records(self: &Arc<Self>, origin: &Origin, changes: Changes) {
        if changes.set.is_none() && changes.remove.is_empty() {
            return;
        }
        self.share_records(origin, &changes);
        let Some(store) = self.storage.local().cloned() else {
            return;
        };
        if !self.health.writable() {
            return;
        }
        let (shared, origin) = (self.clone(), origin.clone());
        let written = blocking(move || {
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
            // A list that came meanwhile has removed the record before it was written.
            if let Some((RecordName::Unsupported, record)) = &changes.set
                && shared
                    .listing_repositories
                    .has_listed_since(&origin, record.checked_at_ms)
            {
                store.remove_record(namespace, repository, &RecordName::Unsupported)?;
            }
            Ok::<_, StoreError>(())
        })
        .await;
        if let Ok(Err(error)) = written {
            self.health.failed(&error);
        }
    }

    /// The same in the bucket.
    pub(super) async fn write_shared_records(
        &self,
        store: &S3Store,
        origin: &Origin,
        changes: &Changes,
    ) -> Result<(), S3Error> {
        let Origin {
            namespace,
            repository,
        } = origin;
        for name in &changes.remove {
            store.remove_record(namespace, repository, name).await?;
        }
        let Some((name, record)) = &changes.set else {
            return Ok(());
        };
        // A list has come since the 404.
        if *name == RecordName::Unsupported
            && self
                .listing_repositories
                .has_listed_since(origin, record.checked_at_ms)
        {
            return Ok(());
        }
        store.put_record(namespace, repository, name, record).await
    }
}

impl Cache {
    /// Whether the manifest that `target` is about is held and public, so that answers without credentials are the whole
    /// truth about it.
    pub async fn is_subject_public(&self, origin: &Origin, target: &Target) -> bool {
        let subject = match target {
            Target::Referrers(subject, _) => Some(*subject),
            Target::Manifest(Reference::Tag(tag)) => tag.subject(),
            _ => None,
        };
        let Some(subject) = subject else { return false };
        let (shared, origin) = (self.0.clone(), origin.clone());
        let held = self
            .0
            .helper
            .ask(async move { super::manifest::stored(&shared, &origin, &subject).await })
            .await;
        held.is_ok_and(|held| held.is_some_and(|manifest| manifest.public))
    }
}

fn listed_of(record: ReferrersRecord) -> Option<Listed> {
    let next = match &record.next {
        Some(next) => {
            let mut query = ListQuery::default();
            for (key, value) in pairs(next) {
                query.push(&key, value).ok()?;
            }
            Some(query)
        }
        None => None,
    };
    let body = Bytes::from(String::from(Box::<str>::from(record.index?)));
    Some(Listed {
        body,
        next,
        filtered: record.filtered,
        public: record.public,
        requested_ms: record.checked_at_ms,
    })
}

/// Whether a query names a filter and no page.
fn only_filters(query: &ListQuery) -> bool {
    pairs(query.as_str()).all(|(key, _)| key == "artifactType")
}
