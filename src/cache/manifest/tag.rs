//! The story of a tag: what we know → whether that is still so → the manifest it means.

use std::sync::Arc;

use super::fetch::{Meaning, fetch, resolve};
use super::{Flown, Manifest, ManifestAnswer, ManifestKey, announce, permitted, stored};
use crate::cache::access::Caller;
use crate::cache::freshness::{TagTerms, is_fresh, terms};
use crate::cache::tags::TagKey;
use crate::cache::upload::Cargo;
use crate::cache::{FetchError, Origin, Shared};
use crate::fail_point::reach;
use crate::http::CacheResult;
use crate::limits::BUCKET_LOOKUP_MAX;
use crate::oci::{Reference, Tag};
use crate::runtime::clock::{monotonic_micros, unix_millis};
use crate::runtime::helper::blocking;
use crate::store::TagPointer;
use crate::upstream::{Purpose, Target, UpstreamError};

/// What we hold of a tag: its pointer, and the manifest the caller may have for it.
struct Known {
    pointer: TagPointer,
    manifest: Arc<Manifest>,
}

pub(super) async fn by_tag(shared: &Arc<Shared>, key: &ManifestKey, tag: &Tag, landing: &Flown) {
    let Some(class) = key.accept.class_name() else {
        return unkept(shared, key, landing).await;
    };
    let tag_key = TagKey {
        origin: key.origin.clone(),
        tag: tag.clone(),
        class,
    };
    let registries = shared.upstreams.registries();
    let rules = &registries.settings(&key.origin.namespace).0.tag_rules;
    let terms = terms(&shared.policy, rules, tag);
    let known = known(shared, &tag_key, terms).await;
    if let Some(known) = &known {
        let (checked, now) = (known.pointer.checked_at_ms, unix_millis());
        if is_fresh(checked, now, terms.lifetime_ms) {
            let permit = permitted(shared, key, &known.manifest).await;
            let answer = || terms.answer(known.manifest.clone(), CacheResult::Hit, checked);
            return landing.land(permit.map(|()| answer()));
        }
        if is_fresh(checked, now, terms.lifetime_ms.saturating_add(terms.grace_ms))
            && permitted(shared, key, &known.manifest).await.is_ok()
        {
            landing.land(Ok(terms.stale(&known.manifest, checked, "it is being asked")));
            // Newcomers are answered likewise meanwhile; one of them asks.
            if let Some(_asking) = shared.revalidating.begin(&tag_key) {
                let answer = ask(shared, key, &tag_key, Some(known), terms, &|_| {}).await;
                if let Err(error) = answer {
                    tracing::info!(registry = %key.origin.namespace, repository = %key.origin.repository, %tag, %error, "a tag could not be asked in the background");
                }
            }
            return;
        }
    }
    let land = |answer: ManifestAnswer| landing.land(Ok(answer));
    if let Err(error) = ask(shared, key, &tag_key, known.as_ref(), terms, &land).await {
        landing.land(match known {
            Some(known) => last_resort(shared, key, &known, terms, error).await,
            None => Err(error),
        });
    }
}

/// Asks the upstream: whether what we hold is still right, and for the manifest if not. The answer goes to `land` as soon
/// as there is one; storing follows.
async fn ask(
    shared: &Arc<Shared>,
    key: &ManifestKey,
    tag: &TagKey,
    known: Option<&Known>,
    terms: TagTerms,
    land: &(dyn Fn(ManifestAnswer) + Sync),
) -> Result<(), FetchError> {
    let purpose = if known.is_some() {
        Purpose::Revalidate
    } else {
        Purpose::Pull
    };
    // With nothing held that could be right, a HEAD would only cost a request more.
    if known.is_some() || !shared.policy.cache_tags {
        let (asked, asked_ms) = (monotonic_micros(), unix_millis());
        if let Meaning::Digest(digest) = resolve(shared, key, purpose).await? {
            // The same, or moved to what we hold anyway.
            if let Some(manifest) = stored(shared, &key.origin, &digest).await {
                shared.heard_yes(&key.origin, &manifest, &key.caller, asked);
                let pointer = tag.pointer(&manifest, asked_ms);
                shared.remember(tag, &pointer);
                land(terms.answer(manifest, CacheResult::Revalidated, asked_ms));
                shared.save_pointer(tag, pointer).await;
                return Ok(());
            }
        }
    }
    let asked_ms = unix_millis();
    let fetched = fetch(shared, key, purpose).await?;
    reach("manifest-fetched");
    let (manifest, storing) = announce(shared, &key.origin, fetched);
    let pointer = tag.pointer(&manifest, asked_ms);
    shared.remember(tag, &pointer);
    land(terms.answer(manifest, CacheResult::Miss, asked_ms));
    storing.store().await;
    shared.save_pointer(tag, pointer).await;
    Ok(())
}

/// What is left when the upstream gave no answer we can use: what we hold, if that is better than the error.
async fn last_resort(
    shared: &Arc<Shared>,
    key: &ManifestKey,
    known: &Known,
    terms: TagTerms,
    error: FetchError,
) -> Result<ManifestAnswer, FetchError> {
    let gone = matches!(
        &error,
        FetchError::Upstream(UpstreamError::Status {
            status: 404 | 410,
            ..
        })
    );
    let serves = serves_stale(&error) || (gone && terms.keep_on_404);
    if !serves {
        return Err(error);
    }
    match permitted(shared, key, &known.manifest).await {
        Ok(()) => Ok(terms.stale(&known.manifest, known.pointer.checked_at_ms, &error.to_string())),
        // Nobody can say whether this caller may have it.
        Err(_) => Err(error),
    }
}

/// Types we do not know: the client's own question, its own answer, under no pointer.
async fn unkept(shared: &Arc<Shared>, key: &ManifestKey, landing: &Flown) {
    match fetch(shared, key, Purpose::Pull).await {
        Err(error) => landing.land(Err(error)),
        Ok(fetched) => {
            let (manifest, storing) = announce(shared, &key.origin, fetched);
            let now = unix_millis();
            landing.land(Ok(ManifestAnswer {
                checked_ms: Some(now),
                fresh_until_ms: Some(now),
                ..ManifestAnswer::content(manifest, CacheResult::Miss)
            }));
            storing.store().await;
        }
    }
}

async fn known(shared: &Arc<Shared>, tag: &TagKey, terms: TagTerms) -> Option<Known> {
    let pointer = shared.pointer(tag, terms).await?;
    let manifest = stored(shared, &tag.origin, &pointer.digest).await?;
    Some(Known { pointer, manifest })
}

/// Whether an upstream that answers so is having a bad day, rather than saying something about the tag.
fn serves_stale(error: &FetchError) -> bool {
    match error {
        FetchError::Upstream(error) => error.is_outage(),
        FetchError::DigestMismatch { .. }
        | FetchError::NotManifest { .. }
        | FetchError::ManifestTooLarge
        | FetchError::Overloaded => true,
        FetchError::Schema1 | FetchError::Gone | FetchError::Lost => false,
    }
}

impl TagKey {
    fn pointer(&self, manifest: &Manifest, checked_at_ms: u64) -> TagPointer {
        TagPointer {
            digest: manifest.digest,
            media_type: manifest.media_type.clone(),
            size: manifest.body.len() as u64,
            checked_at_ms,
            etag: manifest
                .headers
                .get("Etag")
                .and_then(|values| values.first())
                .cloned(),
            accept_class: self.class.clone(),
            headers: manifest.headers.clone(),
        }
    }
}

impl TagTerms {
    fn answer(self, manifest: Arc<Manifest>, cache: CacheResult, checked_ms: u64) -> ManifestAnswer {
        ManifestAnswer {
            manifest,
            cache,
            checked_ms: Some(checked_ms),
            fresh_until_ms: Some(checked_ms.saturating_add(self.lifetime_ms)),
            stale: None,
        }
    }

    fn stale(self, manifest: &Arc<Manifest>, checked_ms: u64, why: &str) -> ManifestAnswer {
        ManifestAnswer {
            manifest: manifest.clone(),
            cache: CacheResult::Stale,
            checked_ms: Some(checked_ms),
            fresh_until_ms: Some(checked_ms),
            stale: Some(why.to_owned()),
        }
    }
}

impl Shared {
    /// Notes that the upstream answered `caller` with this manifest.
    fn heard_yes(self: &Arc<Self>, origin: &Origin, manifest: &Manifest, caller: &Caller, asked: u64) {
        if manifest.public {
            return;
        }
        self.access.heard_yes(origin, &manifest.digest, caller, asked);
        if caller.is_anybody() {
            self.vouch(
                &Target::Manifest(Reference::Digest(manifest.digest)),
                origin,
                true,
            );
        }
    }

    /// Makes `pointer` what all cores know of the tag, unless tags are not cached.
    pub(in crate::cache) fn remember(&self, tag: &TagKey, pointer: &TagPointer) {
        if self.policy.cache_tags {
            self.tags.set(tag, pointer.clone());
        }
    }

    /// What is known of a tag. Unless that is fresh, the bucket is looked at: another machine may have asked since.
    pub(in crate::cache) async fn pointer(&self, tag: &TagKey, terms: TagTerms) -> Option<TagPointer> {
        if !self.policy.cache_tags {
            return None;
        }
        let mut known = self.tags.get(tag);
        if known.is_none() {
            known = self.local_pointer(tag).await;
            if let Some(pointer) = &known {
                self.tags.set(tag, pointer.clone());
            }
        }
        let now = unix_millis();
        let checked = known.as_ref().map(|pointer| pointer.checked_at_ms);
        if checked.is_some_and(|checked| is_fresh(checked, now, terms.lifetime_ms)) {
            return known;
        }
        // A check in the future is the word of a clock that is wrong, here and there.
        let checked = checked.filter(|checked| *checked <= now);
        let newer = |pointer: &TagPointer| {
            pointer.checked_at_ms <= now && checked.is_none_or(|checked| checked < pointer.checked_at_ms)
        };
        match self.shared_pointer(tag).await.filter(newer) {
            Some(pointer) => {
                self.tags.set(tag, pointer.clone());
                Some(pointer)
            }
            None => known,
        }
    }

    async fn local_pointer(&self, tag: &TagKey) -> Option<TagPointer> {
        let TagKey {
            origin,
            tag: name,
            class,
        } = tag.clone();
        let found = self
            .look(move |store| Some(store.tag(&origin.namespace, &origin.repository, &name, &class)))
            .await?;
        found
            .inspect_err(|error| tracing::warn!(%error, "a tag pointer cannot be read"))
            .ok()?
    }

    async fn shared_pointer(&self, tag: &TagKey) -> Option<TagPointer> {
        let bucket = self.storage.bucket()?;
        let (store, TagKey { origin, tag, class }) = (bucket.store().clone(), tag.clone());
        let finding = async move {
            let Origin {
                namespace,
                repository,
            } = &origin;
            store.find_tag(namespace, repository, &tag, &class).await
        };
        bucket.in_time(BUCKET_LOOKUP_MAX, finding).await?
    }

    pub(in crate::cache) async fn save_pointer(self: &Arc<Self>, tag: &TagKey, pointer: TagPointer) {
        if !self.policy.cache_tags {
            return;
        }
        if self.storage.bucket().is_some() {
            self.upload(Cargo::Tag {
                tag: tag.clone(),
                pointer: pointer.clone(),
            });
        }
        let Some(store) = self.storage.local().cloned() else {
            return;
        };
        if self.health.writable() {
            let TagKey { origin, tag, .. } = tag.clone();
            let saved =
                blocking(move || store.set_tag(&origin.namespace, &origin.repository, &tag, &pointer)).await;
            if let Ok(Err(error)) = saved {
                self.health.failed(&error);
            }
        }
    }
}
