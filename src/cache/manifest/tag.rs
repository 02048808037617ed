//! Answers manifest requests by tag: finds the cached pointer, revalidates it, and fetches the
//! manifest if needed.

use std::sync::Arc;
use std::time::Duration;

use super::fetch::{fetch, resolve};
use super::{Manifest, ManifestAnswer, ManifestKey, SharedFetch, announce, permitted, stored};
use crate::cache::access::Caller;
use crate::cache::freshness::{TagTerms, is_fresh, terms};
use crate::cache::{Absence, FetchError, Shared};
use crate::fail_point::hit;
use crate::http::CacheResult;
use crate::metrics::{self, TagCheck};
use crate::oci::{Accept, Digest, Origin, Reference, Tag};
use crate::runtime::clock::{monotonic_micros, unix_millis};
use crate::storage::{RecordChanges, TagKey, TagPointer};
use crate::trace::{self, Attribute, OpenSpan, Operation};
use crate::upstream::{Purpose, ResponseVerdict, Target};

/// The cached pointer of a tag, and its stored manifest.
pub(super) struct CachedTag {
    pub pointer: TagPointer,
    manifest: Arc<Manifest>,
}

pub(super) async fn by_tag(shared: &Arc<Shared>, key: &ManifestKey, tag: &Tag, completer: &SharedFetch) {
    let Some(class) = key.accept.class_name() else {
        return unkept(shared, key, completer).await;
    };
    let tag_key = TagKey {
        origin: key.origin.clone(),
        tag: tag.clone(),
        class,
    };
    let registries = shared.live.registries();
    let rules = &registries.settings(&key.origin.namespace).0.tag_rules;
    let terms = terms(&shared.policy, rules, tag);
    let known = known(shared, &tag_key, terms).await;
    let request = TagRequest {
        key,
        tag: &tag_key,
        terms,
    };
    if let Some(known) = &known {
        let (checked, now) = (known.pointer.checked_at_ms, unix_millis());
        if is_fresh(checked, now, terms.lifetime_ms) {
            let permit = permitted(shared, key, &known.manifest).await;
            let answer = || terms.answer(known.manifest.clone(), CacheResult::Hit, checked, None);
            return completer.complete(permit.map(|()| answer()));
        }
        if is_fresh(checked, now, terms.lifetime_ms.saturating_add(terms.grace_ms))
            && permitted(shared, key, &known.manifest).await.is_ok()
        {
            completer.complete(Ok(terms.stale(
                &known.manifest,
                checked,
                "a revalidation is in progress",
                None,
            )));
            // Later requests get the same stale answer, and only one request revalidates the tag.
            if let Some(_revalidation) = shared.revalidating.begin(&tag_key) {
                let answer = request.send(shared, Some(known), None, &|_| {}).await;
                if let Err(NoAnswer { error, remembered }) = answer {
                    if !remembered {
                        request.write_absence(shared, &error).await;
                    }
                    tracing::info!(registry = %key.origin.namespace, repository = %key.origin.repository, %tag, %error, "background revalidation of a tag failed");
                }
            }
            return;
        }
    }
    let kept_ms = request.kept_absence(shared).await;
    let complete = |answer: ManifestAnswer| completer.complete(Ok(answer));
    let answer = request.send(shared, known.as_ref(), kept_ms, &complete).await;
    if let Err(NoAnswer { error, remembered }) = answer {
        let checked_ms = known.as_ref().map(|known| known.pointer.checked_at_ms);
        let stale = kept_ms.filter(|kept_ms| {
            serves_stale(&error)
                && checked_ms.is_none_or(|checked_ms| checked_ms < *kept_ms && !terms.keep_on_404)
        });
        completer.complete(match (stale, known) {
            (Some(kept_ms), _) => {
                let absence = Absence::new(&key.origin, kept_ms, &error);
                Err(FetchError::Absent(absence))
            }
            (None, Some(known)) => last_resort(shared, key, &known, terms, error.clone()).await,
            (None, None) => Err(error.clone()),
        });
        if !remembered {
            request.write_absence(shared, &error).await;
        }
    }
}

/// The error of a tag request without a new answer.
struct NoAnswer {
    error: FetchError,
    /// The error is a recorded 404 of a moment ago, and no request was sent.
    remembered: bool,
}

/// A request to resolve a tag for one caller.
struct TagRequest<'a> {
    key: &'a ManifestKey,
    tag: &'a TagKey,
    terms: TagTerms,
}

impl TagRequest<'_> {
    /// Sends the request to the upstream, unless the upstream answered 404 a moment ago.
    async fn send(
        &self,
        shared: &Arc<Shared>,
        known: Option<&CachedTag>,
        kept_ms: Option<u64>,
        complete: &(dyn Fn(ManifestAnswer) + Sync),
    ) -> Result<(), NoAnswer> {
        let TagRequest { key, tag, terms } = *self;
        // A 404 for one set of types does not apply to another set.
        let native = key.accept == Accept::Native;
        let target = Target::Manifest(key.reference.clone());
        if native && let Some(error) = shared.absences().last(&key.origin, &target, &key.caller) {
            let remembered = true;
            return Err(NoAnswer { error, remembered });
        }
        let before = shared.absences().change_count(&key.origin);
        let mut span = known.and_then(|_| trace::child(Operation::Revalidate));
        let work = revalidate_or_fetch(shared, key, tag, known, kept_ms.is_some(), terms, complete);
        let answer = trace::under(&span, work).await;
        if let Some(span) = &mut span {
            self.describe(span, answer.is_ok());
        }
        drop(span);
        if known.is_some()
            && let Err(error) = &answer
        {
            count_check(&key.origin, failed_check(error));
        }
        match &answer {
            Ok(()) if kept_ms.is_some() => {
                let changes = RecordChanges::not_absent_tag(&tag.tag);
                shared.write_records(&key.origin, changes).await;
            }
            Err(error) if native => {
                let request = (&key.origin, &target, &key.caller);
                let life = Duration::from_millis(terms.lifetime_ms);
                shared.absences().record(before, request, error, life);
            }
            _ => {}
        }
        answer.map_err(|error| NoAnswer {
            error,
            remembered: false,
        })
    }

    /// Adds the tag and the result of a revalidation to its span.
    fn describe(&self, span: &mut OpenSpan, is_ok: bool) {
        let Origin {
            namespace,
            repository,
        } = &self.key.origin;
        span.add(Attribute::Registry(namespace.as_str().into()));
        span.add(Attribute::Repository(repository.as_str().into()));
        span.add(Attribute::Tag(self.tag.tag.to_string().into()));
        if !is_ok {
            span.fail();
        }
    }

    /// Returns whether 404s of this tag are kept. Clients conclude from such a 404 that an image
    /// has no signatures.
    fn is_kept(&self, shared: &Shared) -> bool {
        self.tag.tag.is_derived()
            && self.key.accept == Accept::Native
            && self.key.caller.speaks_for_others()
            && shared.policy.cache_tags
    }

    /// Returns the time of the registry's 404, if that was its last answer.
    async fn kept_absence(&self, shared: &Arc<Shared>) -> Option<u64> {
        if !self.is_kept(shared) {
            return None;
        }
        shared
            .kept_absence(&self.key.origin, &self.tag.tag, &self.key.caller)
            .await
    }

    /// Keeps a 404. Removes a kept 404 if the registry now denies access. Called after the client
    /// received its answer.
    async fn write_absence(&self, shared: &Arc<Shared>, error: &FetchError) {
        if !self.is_kept(shared) {
            return;
        }
        let changes = match error.verdict() {
            Some(ResponseVerdict::Gone) => {
                RecordChanges::absent_tag(&self.tag.tag, &self.key.caller, unix_millis())
            }
            Some(ResponseVerdict::Challenge | ResponseVerdict::Forbidden) => {
                RecordChanges::not_absent_tag(&self.tag.tag)
            }
            _ => return,
        };
        shared.write_records(&self.key.origin, changes).await;
    }
}

/// Revalidates a cached pointer, and fetches the manifest if the tag has moved. Calls `complete` as
/// soon as an answer exists, and stores the results afterwards.
async fn revalidate_or_fetch(
    shared: &Arc<Shared>,
    key: &ManifestKey,
    tag: &TagKey,
    known: Option<&CachedTag>,
    kept: bool,
    terms: TagTerms,
    complete: &(dyn Fn(ManifestAnswer) + Sync),
) -> Result<(), FetchError> {
    let purpose = if known.is_some() || kept {
        Purpose::Revalidate
    } else {
        Purpose::Pull
    };
    // A `HEAD` is useless if no cached manifest could match, or if the registry answers only `GET`.
    if (known.is_some() || !shared.policy.cache_tags)
        && !shared.upstreams.is_head_in_vain(&key.origin.namespace)
    {
        let (requested_at, requested_ms) = (monotonic_micros(), unix_millis());
        let held = known.map(|known| &known.pointer);
        if let Some((digest, status)) = resolve(shared, key, purpose).await?.digest_like(held) {
            // The tag is unchanged, or has moved to a manifest that is already stored.
            if let Some(manifest) = stored(shared, &key.origin, &digest).await {
                shared.record_manifest_grant(&key.origin, &manifest, &key.caller, requested_at);
                if known.is_some_and(|known| known.pointer.digest != digest) {
                    shared.absences().clear(&key.origin);
                }
                count_check(&key.origin, check_of(known, &digest));
                let pointer = tag.pointer(&manifest, requested_ms);
                shared.remember(tag, &pointer);
                let answer = terms.answer(manifest, CacheResult::Revalidated, requested_ms, Some(status));
                complete(answer);
                shared.save_pointer(tag, pointer).await;
                return Ok(());
            }
        }
    }
    let requested_ms = unix_millis();
    let fetched = fetch(shared, key, purpose).await?;
    hit("manifest-fetched");
    let status = Some(fetched.status);
    let (manifest, storing) = announce(shared, &key.origin, fetched.manifest, fetched.verified);
    if known.is_some() {
        count_check(&key.origin, check_of(known, &manifest.digest));
    }
    let pointer = tag.pointer(&manifest, requested_ms);
    shared.remember(tag, &pointer);
    complete(terms.answer(manifest, CacheResult::Miss, requested_ms, status));
    storing.store().await;
    shared.save_pointer(tag, pointer).await;
    Ok(())
}

/// Returns the result of a check of the tag `known`, which has `digest` now.
fn check_of(known: Option<&CachedTag>, digest: &Digest) -> TagCheck {
    match known.is_some_and(|known| known.pointer.digest == *digest) {
        true => TagCheck::Unchanged,
        false => TagCheck::Changed,
    }
}

pub(super) fn failed_check(error: &FetchError) -> TagCheck {
    match error.verdict() {
        Some(ResponseVerdict::Gone) => TagCheck::Gone,
        _ => TagCheck::Failed,
    }
}

/// Counts a check of a stored tag for the metrics.
pub(super) fn count_check(origin: &Origin, result: TagCheck) {
    metrics::count_tag_check(origin.namespace.as_str(), result);
}

/// Serves the stored manifest if the upstream's error permits a stale answer. Otherwise returns the
/// error.
async fn last_resort(
    shared: &Arc<Shared>,
    key: &ManifestKey,
    known: &CachedTag,
    terms: TagTerms,
    error: FetchError,
) -> Result<ManifestAnswer, FetchError> {
    let gone = error.verdict() == Some(ResponseVerdict::Gone);
    let serves = serves_stale(&error) || (gone && terms.keep_on_404);
    if !serves {
        return Err(error);
    }
    match permitted(shared, key, &known.manifest).await {
        Ok(()) => Ok(terms.stale(
            &known.manifest,
            known.pointer.checked_at_ms,
            &error.to_string(),
            error.upstream_status(),
        )),
        // The caller's permission cannot be verified.
        Err(_) => Err(error),
    }
}

/// Answers a request for unknown types with a fetch, and saves no tag pointer.
async fn unkept(shared: &Arc<Shared>, key: &ManifestKey, completer: &SharedFetch) {
    match fetch(shared, key, Purpose::Pull).await {
        Err(error) => completer.complete(Err(error)),
        Ok(fetched) => {
            let status = Some(fetched.status);
            let (manifest, storing) = announce(shared, &key.origin, fetched.manifest, fetched.verified);
            let now = unix_millis();
            completer.complete(Ok(ManifestAnswer {
                checked_ms: Some(now),
                fresh_until_ms: Some(now),
                ..ManifestAnswer::content(manifest, CacheResult::Miss, status)
            }));
            storing.store().await;
        }
    }
}

/// Returns the cached pointer of a tag, if its manifest is stored.
pub(super) async fn known(shared: &Arc<Shared>, tag: &TagKey, terms: TagTerms) -> Option<CachedTag> {
    let pointer = shared.pointer(tag, terms).await?;
    let manifest = stored(shared, &tag.origin, &pointer.digest).await?;
    Some(CachedTag { pointer, manifest })
}

/// Returns whether the error is a fault or an outage, and not an answer about the tag.
fn serves_stale(error: &FetchError) -> bool {
    match error {
        FetchError::Upstream(error) => error.is_outage(),
        FetchError::DigestMismatch { .. }
        | FetchError::NotManifest { .. }
        | FetchError::ManifestTooLarge { .. }
        | FetchError::Overloaded => true,
        FetchError::Schema1
        | FetchError::Unproven(_)
        | FetchError::Incomplete { .. }
        | FetchError::Abandoned(_)
        | FetchError::Displaced
        | FetchError::Gone
        | FetchError::NotStored
        | FetchError::Lost
        | FetchError::Absent(_) => false,
    }
}

impl TagKey {
    pub(super) fn pointer(&self, manifest: &Manifest, checked_at_ms: u64) -> TagPointer {
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
    fn answer(
        self,
        manifest: Arc<Manifest>,
        cache: CacheResult,
        checked_ms: u64,
        upstream_status: Option<u16>,
    ) -> ManifestAnswer {
        ManifestAnswer {
            checked_ms: Some(checked_ms),
            fresh_until_ms: Some(checked_ms.saturating_add(self.lifetime_ms)),
            ..ManifestAnswer::content(manifest, cache, upstream_status)
        }
    }

    fn stale(
        self,
        manifest: &Arc<Manifest>,
        checked_ms: u64,
        why: &str,
        upstream_status: Option<u16>,
    ) -> ManifestAnswer {
        ManifestAnswer {
            checked_ms: Some(checked_ms),
            fresh_until_ms: Some(checked_ms),
            stale: Some(why.to_owned()),
            ..ManifestAnswer::content(manifest.clone(), CacheResult::Stale, upstream_status)
        }
    }
}

impl Shared {
    /// Records that the upstream granted `caller` access to this manifest.
    pub(super) fn record_manifest_grant(
        self: &Arc<Self>,
        origin: &Origin,
        manifest: &Manifest,
        caller: &Caller,
        requested_at: u64,
    ) {
        if manifest.public {
            return;
        }
        self.access
            .record_grant(origin, &manifest.digest, caller, requested_at);
        if caller.is_anonymous() {
            self.record_source(
                &Target::Manifest(Reference::Digest(manifest.digest)),
                origin,
                true,
            );
        }
    }

    /// Publishes `pointer` to all cores, unless tags are not cached.
    pub(super) fn remember(&self, tag: &TagKey, pointer: &TagPointer) {
        if self.policy.cache_tags {
            self.tags.set(tag, pointer.clone());
        }
    }

    /// Returns the newest known pointer of a tag: in memory, or in the storage.
    async fn pointer(&self, tag: &TagKey, terms: TagTerms) -> Option<TagPointer> {
        if !self.policy.cache_tags {
            return None;
        }
        let known = self.tags.get(tag);
        let is_current =
            |pointer: &TagPointer| is_fresh(pointer.checked_at_ms, unix_millis(), terms.lifetime_ms);
        let storage = self.storage(&tag.origin.namespace);
        let newer = storage.newer_tag(tag, known.as_ref(), is_current).await;
        if let Some(pointer) = &newer {
            self.tags.set(tag, pointer.clone());
        }
        newer.or(known)
    }

    pub(super) async fn save_pointer(&self, tag: &TagKey, pointer: TagPointer) {
        if self.policy.cache_tags {
            self.storage(&tag.origin.namespace).set_tag(tag, pointer).await;
        }
    }
}
