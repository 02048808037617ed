//! Checks tags at their registries for the cache itself, although the stored tags may be fresh. A check
//! changes nothing until [`Cache::confirm_tag`], so clients get the stored image while a new image arrives.

use std::sync::Arc;

use super::fetch::{fetch, resolve};
use super::tag::{CachedTag, count_check, failed_check, known};
use super::{ManifestKey, announce, stored};
use crate::cache::freshness::terms;
use crate::cache::{Cache, Caller, Class, FetchError, Priority, Shared};
use crate::metrics::TagCheck;
use crate::oci::{Accept, Digest, Origin, Reference, Tag};
use crate::runtime::clock::{monotonic_micros, unix_millis};
use crate::storage::TagKey;
use crate::upstream::Purpose;

/// The answer of a registry about a tag.
#[derive(Clone, Debug)]
pub struct CheckedTag {
    tag: TagKey,
    caller: Caller,
    /// The time of the request: the monotonic clock, and milliseconds since 1970.
    requested_at: u64,
    requested_ms: u64,
    /// The digest of the stored tag, before the check.
    before: Option<Digest>,
    pub digest: Digest,
}

impl CheckedTag {
    /// Returns whether the tag is new in the store, or has another digest there.
    pub fn has_moved(&self) -> bool {
        self.before != Some(self.digest)
    }

    /// Returns the result for the metrics. `None` for a tag that was not stored.
    fn result(&self) -> Option<TagCheck> {
        self.before?;
        Some(match self.has_moved() {
            true => TagCheck::Changed,
            false => TagCheck::Unchanged,
        })
    }
}

/// A tag to check for one caller.
struct Check {
    key: ManifestKey,
    tag: TagKey,
    known: Option<CachedTag>,
}

impl Check {
    async fn new(shared: &Arc<Shared>, origin: Origin, tag: Tag, caller: Caller) -> Result<Self, FetchError> {
        let registries = shared.live.registries();
        let rules = &registries.settings(&origin.namespace).0.tag_rules;
        let terms = terms(&shared.policy, rules, &tag);
        let key = ManifestKey {
            origin: origin.clone(),
            reference: Reference::Tag(tag.clone()),
            accept: Accept::Native,
            caller,
        };
        let class = key.accept.class_name().ok_or(FetchError::Lost)?;
        let tag = TagKey { origin, tag, class };
        let known = known(shared, &tag, terms).await;
        Ok(Check { key, tag, known })
    }

    /// Returns the answer to a request that was sent at `requested`.
    fn answered(&self, digest: Digest, (requested_at, requested_ms): (u64, u64)) -> CheckedTag {
        CheckedTag {
            tag: self.tag.clone(),
            caller: self.key.caller.clone(),
            requested_at,
            requested_ms,
            before: self.known.as_ref().map(|known| known.pointer.digest),
            digest,
        }
    }

    fn purpose(&self) -> Purpose {
        match self.known {
            Some(_) => Purpose::Revalidate,
            None => Purpose::Pull,
        }
    }

    fn count_failure(&self, error: &FetchError) {
        if self.known.is_some() {
            count_check(&self.key.origin, failed_check(error));
        }
    }

    async fn resolve(self, shared: &Arc<Shared>) -> Result<Option<CheckedTag>, FetchError> {
        let held = self.known.as_ref().map(|known| &known.pointer);
        if shared.upstreams.is_head_in_vain(&self.key.origin.namespace) {
            return Ok(None);
        }
        let requested = (monotonic_micros(), unix_millis());
        let meaning = resolve(shared, &self.key, self.purpose()).await;
        let meaning = meaning.inspect_err(|error| self.count_failure(error))?;
        let digest = meaning.digest_like(held);
        Ok(digest.map(|(digest, _)| self.answered(digest, requested)))
    }

    async fn fetch(self, shared: &Arc<Shared>) -> Result<(CheckedTag, u64), FetchError> {
        let requested = (monotonic_micros(), unix_millis());
        let fetched = fetch(shared, &self.key, self.purpose()).await;
        let fetched = fetched.inspect_err(|error| self.count_failure(error))?;
        let (manifest, storing) = announce(shared, &self.key.origin, fetched.manifest, fetched.verified);
        storing.store().await;
        let bytes = manifest.body.len() as u64;
        Ok((self.answered(manifest.digest, requested), bytes))
    }
}

impl Cache {
    /// Returns whether the registry has confirmed the stored tag at `since_ms` or later, in milliseconds
    /// since 1970. Sends no request. Call on a core.
    pub async fn is_confirmed(&self, (origin, tag): (Origin, Tag), since_ms: u64) -> bool {
        let shared = self.0.clone();
        let work = async move {
            let check = Check::new(&shared, origin, tag, Caller::ANYBODY).await;
            let known = check.ok().and_then(|check| check.known);
            known.is_some_and(|known| known.pointer.checked_at_ms >= since_ms)
        };
        self.0.helper.ask(work).await.unwrap_or(false)
    }

    /// Resolves a tag at its registry with `HEAD`, although the stored tag may be fresh. `None` if the response
    /// names no digest, or if the registry answers only `GET`. Call on a core.
    ///
    /// # Errors
    ///
    /// The registry denies access or fails. [`FetchError::Overloaded`] if no slot is spare for this
    /// priority.
    pub async fn check_tag(
        &self,
        (origin, tag): (Origin, Tag),
        caller: Caller,
        priority: Priority,
    ) -> Result<Option<CheckedTag>, FetchError> {
        self.require_spare_slot(&origin, priority)?;
        let shared = self.0.clone();
        let work = async move {
            let check = Check::new(&shared, origin, tag, caller).await?;
            check.resolve(&shared).await
        };
        self.0.helper.ask(work).await.unwrap_or(Err(FetchError::Lost))
    }

    /// Fetches the manifest of a tag into the store with `GET`. Also returns the fetched bytes. Call on a
    /// core.
    ///
    /// # Errors
    ///
    /// As for [`Cache::check_tag`], or the response is no manifest.
    pub async fn fetch_tag(
        &self,
        (origin, tag): (Origin, Tag),
        caller: Caller,
        priority: Priority,
    ) -> Result<(CheckedTag, u64), FetchError> {
        self.require_spare_slot(&origin, priority)?;
        let shared = self.0.clone();
        let work = async move {
            let check = Check::new(&shared, origin, tag, caller).await?;
            check.fetch(&shared).await
        };
        self.0.helper.ask(work).await.unwrap_or(Err(FetchError::Lost))
    }

    fn require_spare_slot(&self, origin: &Origin, priority: Priority) -> Result<(), FetchError> {
        let is_spare = self
            .0
            .has_spare_slot(Class::Manifest, &origin.namespace, priority);
        is_spare.then_some(()).ok_or(FetchError::Overloaded)
    }

    /// Stores the answer of the registry about a tag. Later requests get the manifest of the answer, which is
    /// in the store. A newer answer to a client stays. Call on a core.
    ///
    /// # Errors
    ///
    /// The manifest is not stored.
    pub async fn confirm_tag(&self, checked: CheckedTag) -> Result<(), FetchError> {
        let shared = self.0.clone();
        let work = async move { confirm(&shared, checked).await };
        self.0.helper.ask(work).await.unwrap_or(Err(FetchError::Lost))
    }

    /// Returns whether the store has a manifest. Call on a core.
    pub async fn has_manifest(&self, origin: &Origin, digest: Digest) -> bool {
        let (shared, origin) = (self.0.clone(), origin.clone());
        let is_stored = async move { stored(&shared, &origin, &digest).await.is_some() };
        self.0.helper.ask(is_stored).await.unwrap_or(false)
    }

    /// Returns whether the store has a blob. Call on a core.
    pub async fn has_blob(&self, origin: &Origin, digest: Digest) -> bool {
        let storage = self.0.storage(&origin.namespace).clone();
        let is_stored = async move { storage.has_blob(&digest).await };
        self.0.helper.ask(is_stored).await.unwrap_or(false)
    }
}

async fn confirm(shared: &Arc<Shared>, checked: CheckedTag) -> Result<(), FetchError> {
    let origin = checked.tag.origin.clone();
    let manifest = stored(shared, &origin, &checked.digest).await;
    let manifest = manifest.ok_or(FetchError::NotStored)?;
    shared.record_manifest_grant(&origin, &manifest, &checked.caller, checked.requested_at);
    if let Some(result) = checked.result() {
        count_check(&origin, result);
    }
    let again = Check::new(
        shared,
        origin.clone(),
        checked.tag.tag.clone(),
        checked.caller.clone(),
    )
    .await;
    let known = again.ok().and_then(|again| again.known);
    if known.is_some_and(|known| known.pointer.checked_at_ms >= checked.requested_ms) {
        return Ok(());
    }
    let pointer = checked.tag.pointer(&manifest, checked.requested_ms);
    shared.remember(&checked.tag, &pointer);
    if checked.has_moved() {
        shared.absences().clear(&origin);
        // The cores hold fresh answers with the old manifest.
        if let (Some(before), Some(removals)) = (checked.before, shared.storages.removals()) {
            removals.add(before.prefix());
        }
    }
    shared.save_pointer(&checked.tag, pointer).await;
    Ok(())
}
