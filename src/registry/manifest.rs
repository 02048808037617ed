//! Responses with a manifest.

use bytes::Bytes;

use super::Registry;
use super::error::PullError;
use super::pull::Pull;
use super::respond::{self, Description, Life};
use super::response_cache::{CachedContent, CachedTagTerms};
use crate::cache::{Approach, Caller, FetchError, ManifestAnswer, ManifestKey};
use crate::http::{CacheResult, Fields, Method, Response};
use crate::limits::MEMORY_OBJECT_BYTES_MAX;
use crate::oci::{Accept, Digest, Origin, Reference};
use crate::runtime::clock::{unix_millis, unix_seconds};
use crate::runtime::single_flight::Role;
use crate::upstream::Target;

impl Registry {
    pub(super) async fn manifest(
        &self,
        pull: &Pull<'_>,
        reference: Reference,
    ) -> Result<Response, PullError> {
        let target = Target::Manifest(reference.clone());
        let callers = match self.approach(pull) {
            Approach::Callers(callers) => callers,
            Approach::Passthrough(credentials) => {
                return Ok(self.pass_through(pull, target, credentials).await?);
            }
        };
        let origin = pull.origin();
        let request = async |caller| self.manifest_for(pull, origin, &reference, caller).await;
        let answer = self.for_first_allowed(callers, origin, &target, request);
        let mut answer = answer.await;
        if let (Err(error), Reference::Digest(digest)) = (&answer, &reference)
            && error.is_air_gap()
            && let Some(response) = self.manifest_of_another_repository(pull, digest).await
        {
            answer = Ok(response);
        }
        if let Err(error) = &answer {
            self.cache.record_missing(origin, &reference, error);
        }
        Ok(answer?)
    }

    /// Answers from the manifest `digest` of another repository of the registry, which the client may also
    /// read. In the air gap, the registry cannot confirm that the requested repository has the manifest.
    async fn manifest_of_another_repository(&self, pull: &Pull<'_>, digest: &Digest) -> Option<Response> {
        let Approach::Callers(callers) = self.approach(pull) else {
            return None;
        };
        let reference = Reference::Digest(*digest);
        let target = Target::Manifest(reference.clone());
        let places = self.cache.repositories_with(&pull.origin().namespace, digest);
        for origin in places.await {
            if self.registries().authorize(pull.identity, &origin).is_err() {
                continue;
            }
            // Private content of the other repository needs a permit for the other repository.
            let request = async |caller| self.manifest_for(pull, &origin, &reference, caller).await;
            let answer = self.for_first_allowed(callers.clone(), &origin, &target, request);
            if let Ok(response) = answer.await {
                return Some(response);
            }
        }
        None
    }

    /// Returns the manifest of the repository `origin`.
    async fn manifest_for(
        &self,
        pull: &Pull<'_>,
        origin: &Origin,
        reference: &Reference,
        caller: Caller,
    ) -> Result<Response, FetchError> {
        let credentials = caller.credentials();
        let native = ManifestKey {
            origin: origin.clone(),
            reference: reference.clone(),
            accept: Accept::Native,
            caller,
        };
        match self.accepted_manifest(pull, native).await {
            Ok((key, mut answer, role)) => {
                // A client that has the whole image sends HEAD only, and needs no blob.
                if pull.head.method == Method::Get {
                    answer = self.cache.complete(key.clone(), answer).await?;
                }
                self.cache.prefetch(pull.head.method, &key, &answer, role);
                Ok(self.manifest_response(pull, &key, &answer, role))
            }
            Err(FetchError::Schema1) => {
                let target = Target::Manifest(reference.clone());
                self.pass_through(pull, target, credentials).await
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the manifest in a form that the client accepts, with the key of the form.
    async fn accepted_manifest(
        &self,
        pull: &Pull<'_>,
        native: ManifestKey,
    ) -> Result<(ManifestKey, ManifestAnswer, Role), FetchError> {
        let head = pull.head;
        let (answer, role) = self.cache.manifest(native.clone()).await;
        let answer = answer?;
        let by_tag = matches!(native.reference, Reference::Tag(_));
        if !by_tag || answer.manifest.accepted_by(head.accept()) {
            return Ok((native, answer, role));
        }
        // The upstream may have another form for the client's media types.
        let other = ManifestKey {
            accept: Accept::of_client(head.accept()),
            ..native
        };
        let (answer, role) = self.cache.manifest(other.clone()).await;
        Ok((other, answer?, role))
    }

    fn manifest_response(
        &self,
        pull: &Pull<'_>,
        key: &ManifestKey,
        answer: &ManifestAnswer,
        role: Role,
    ) -> Response {
        let manifest = &answer.manifest;
        // The upstream responded to the request of the leader.
        let status = answer.upstream_status.filter(|_| role == Role::Leader);
        pull.details.upstream_status.set(status);
        let life = if answer.checked_ms.is_some() {
            Life::Tag
        } else {
            Life::Immutable
        };
        let cache = match (answer.cache, role) {
            (CacheResult::Miss, Role::Follower) => CacheResult::Collapsed,
            (cache, _) => cache,
        };
        let is_of_origin = key.origin == *pull.origin();
        let description = Description {
            digest: &manifest.digest,
            content_type: &manifest.media_type,
            // Header fields of another repository may have its name.
            stored: is_of_origin.then_some(&manifest.headers),
            life,
            public: manifest.public,
            ranges: false,
            ns: pull.ns(),
            cache,
        };
        // The target alone is the cache key, so all readers must receive equal responses.
        if is_of_origin && key.accept == Accept::Native && (manifest.public || key.caller.is_operator()) {
            self.remember_manifest(pull, answer, &description);
        }
        let mut more = Fields::default();
        if let Some(checked_ms) = answer.checked_ms {
            more.add(
                "Age",
                unix_seconds().saturating_sub(checked_ms / 1000).to_string(),
            );
        }
        if let Some(why) = &answer.stale {
            respond::add_stale(&mut more, &key.origin.namespace, why);
        }
        respond::manifest(pull.head, manifest.body.clone(), &description, more)
    }

    /// Keeps a small response, encoded, for the next request with the same target.
    fn remember_manifest(&self, pull: &Pull<'_>, answer: &ManifestAnswer, description: &Description<'_>) {
        let body: &Bytes = &answer.manifest.body;
        let Origin {
            namespace,
            repository,
        } = pull.origin();
        // While the registry gets no requests, each use of the manifest depends on its blobs.
        if answer.needs.is_none() && self.cache.upstreams().is_suspended(namespace, repository) {
            return;
        }
        if body.len() as u64 > MEMORY_OBJECT_BYTES_MAX {
            return;
        }
        let tag = match (answer.checked_ms, answer.fresh_until_ms) {
            (Some(checked_ms), Some(fresh_until_ms)) if fresh_until_ms > unix_millis() => {
                Some(CachedTagTerms {
                    media_type: answer.manifest.media_type.clone(),
                    checked_ms,
                    fresh_until_ms,
                })
            }
            (Some(_), _) => return,
            (None, _) => None,
        };
        let fields = respond::fields(&Description {
            cache: CacheResult::Hit,
            ..*description
        });
        let content = CachedContent {
            needs: answer.needs.clone(),
            ..pull.cached(&answer.manifest.digest)
        };
        let mut responses = self.responses.borrow_mut();
        responses.remember(pull.head.target, &fields, body, tag, content);
    }
}
