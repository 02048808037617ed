//! Persistent answers about referrers: pages of lists, and 404s. From a 404, clients conclude that
//! there are no referrers.
//!
//! Only answers to requests without credentials, and answers of registries that the operator
//! shares, are kept. The answers are served only while the registry is unavailable, and are marked
//! stale.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::access::Caller;
use super::listing::key::ListingKey;
use super::listing::parse::{self, Listed};
use super::{Cache, Shared};
use crate::limits::LISTING_REPOSITORIES_MAX;
use crate::oci::{Digest, ListQuery, Origin, Reference, Tag, pairs};
use crate::storage::{RecordChanges, RecordName, ReferrersRecord};
use crate::sync::Mutex;
use crate::upstream::Target;

/// The kept answer for a list.
pub(super) enum Kept {
    List(Arc<Listed>),
    /// The repository had no referrers API at the time of the request, in milliseconds since 1970.
    Unsupported(u64),
    Nothing,
}

/// Times of the last referrers lists by repository, in milliseconds since 1970. An older 404 may
/// reach the disk later.
#[derive(Default)]
pub(super) struct ListingRepositories(Mutex<HashMap<Origin, u64>>);

impl ListingRepositories {
    pub fn record(&self, key: &ListingKey, requested_ms: u64) {
        if !matches!(key.target, Target::Referrers(..)) {
            return;
        }
        let mut table = self.0.lock();
        if table.len() >= LISTING_REPOSITORIES_MAX && !table.contains_key(&key.origin) {
            // An entry matters only for the duration of a disk write.
            table.clear();
        }
        table.insert(key.origin.clone(), requested_ms);
    }

    fn has_listed_since(&self, origin: &Origin, requested_ms: u64) -> bool {
        let table = self.0.lock();
        table
            .get(origin)
            .is_some_and(|listed_ms| *listed_ms >= requested_ms)
    }
}

impl Caller {
    /// Returns whether answers to this caller may be kept for other callers.
    pub(super) fn speaks_for_others(&self) -> bool {
        self.is_anonymous() || self.is_operator()
    }
}

impl RecordChanges {
    /// Keeps a page that the registry returned.
    pub fn page(key: &ListingKey, listed: &Listed) -> Self {
        let Target::Referrers(subject, query) = &key.target else {
            return RecordChanges::default();
        };
        if !listed.public && !key.caller.is_operator() {
            return RecordChanges::default();
        }
        let text = std::str::from_utf8(&listed.body).ok();
        let index = text.and_then(|text| RawValue::from_string(text.to_owned()).ok());
        let Some(index) = index else {
            return RecordChanges::default();
        };
        let record = ReferrersRecord {
            checked_at_ms: listed.requested_ms,
            public: listed.public,
            query: query.as_str().to_owned(),
            next: listed.next.as_ref().map(|next| next.as_str().to_owned()),
            filtered: listed.filtered,
            index: Some(index),
        };
        RecordChanges {
            set: Some((page(subject, query), record)),
            remove: vec![RecordName::Unsupported],
        }
    }

    /// Records that the registry does not list referrers.
    pub fn unsupported(key: &ListingKey, requested_ms: u64) -> Self {
        RecordChanges {
            set: Some((
                RecordName::Unsupported,
                ReferrersRecord::absent(requested_ms, key.caller.is_anonymous()),
            )),
            remove: pages(&key.target),
        }
    }

    /// Records that the registry returned something other than a list. Earlier lists stay, because
    /// a maintenance page does not invalidate a list.
    pub fn not_an_index(key: &ListingKey, requested_ms: u64) -> Self {
        RecordChanges {
            remove: Vec::new(),
            ..Self::unsupported(key, requested_ms)
        }
    }

    /// Removes the records of a list to which the registry now denies access.
    pub fn refused(key: &ListingKey) -> Self {
        let mut remove = pages(&key.target);
        remove.push(RecordName::Unsupported);
        RecordChanges { set: None, remove }
    }

    /// Records that a tag does not exist.
    pub fn absent_tag(tag: &Tag, caller: &Caller, requested_ms: u64) -> Self {
        let record = ReferrersRecord::absent(requested_ms, caller.is_anonymous());
        RecordChanges {
            set: Some((RecordName::AbsentTag(tag.clone()), record)),
            remove: Vec::new(),
        }
    }

    /// Removes the record of an absent tag. The tag exists, or access is denied.
    pub fn not_absent_tag(tag: &Tag) -> Self {
        RecordChanges {
            set: None,
            remove: vec![RecordName::AbsentTag(tag.clone())],
        }
    }
}

/// Returns the names of a page and of the whole list.
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
    /// Returns the kept answer for a list. The answer is the page, the whole list with the query's
    /// filter, or the record of a missing referrers API.
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

    /// Returns the time of the registry's last 404 for a tag derived from a digest, in milliseconds
    /// since 1970.
    pub(super) async fn kept_absence(&self, origin: &Origin, tag: &Tag, caller: &Caller) -> Option<u64> {
        let record = self.record(origin, caller, RecordName::AbsentTag(tag.clone()));
        Some(record.await?.checked_at_ms)
    }

    /// Returns a record that `caller` may read.
    async fn record(&self, origin: &Origin, caller: &Caller, name: RecordName) -> Option<ReferrersRecord> {
        if !self.policy.cache_tags || !caller.speaks_for_others() {
            return None;
        }
        let record = self.storage(&origin.namespace).record(origin, &name).await?;
        (record.public || caller.is_operator()).then_some(record)
    }

    /// Writes the changes that an answer makes.
    pub(super) async fn write_records(self: &Arc<Self>, origin: &Origin, changes: RecordChanges) {
        let (shared, repository) = (self.clone(), origin.clone());
        // A later list contradicts the 404.
        let is_outdated = move |name: &RecordName, record: &ReferrersRecord| {
            *name == RecordName::Unsupported
                && shared
                    .listing_repositories
                    .has_listed_since(&repository, record.checked_at_ms)
        };
        let storage = self.storage(&origin.namespace);
        storage.write_records(origin, changes, is_outdated).await;
    }
}

impl Cache {
    /// Returns whether the subject manifest of `target` is cached and public, so that answers
    /// without credentials are complete.
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

/// Returns whether a query has only filters and selects no page.
fn only_filters(query: &ListQuery) -> bool {
    pairs(query.as_str()).all(|(key, _)| key == "artifactType")
}
