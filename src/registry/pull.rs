//! The story of a request: route → lookup → hit, or a fill that everybody who asks follows → respond.

use std::sync::Arc;

use bytes::Bytes;

use super::error::{Challenges, Kind, PullError, Wanted};
use super::respond::{self, Description, Life, Part};
use super::response_cache::CachedTagTerms;
use super::route::{Route, What};
use super::{Registry, plain};
use crate::auth::{Identity, forwarding};
use crate::cache::{
    Approach, Caller, FetchError, Fill, Follower, FoundBlob, Head, HeldContent, ManifestAnswer, ManifestKey,
    Permit,
};
use crate::config::{Access, Named};
use crate::fail_point::hit;
use crate::http::{Body, CacheResult, ContentRange, Fields, Method, RequestHead, Response};
use crate::limits::MEMORY_OBJECT_BYTES_MAX;
use crate::oci::{Accept, Digest, Origin, Reference, is_manifest_type};
use crate::runtime::clock::{unix_millis, unix_seconds};
use crate::runtime::single_flight::Role;
use crate::store::{Entry, Key, Meta};
use crate::upstream::{Credentials, Target};

/// A fill that lost its disk may have to be joined anew; more than a few times is a bug.
const JOINS_MAX: usize = 4;

impl Registry {
    /// Answers one request.
    pub(super) async fn pull(&self, head: &RequestHead<'_>) -> Response {
        hit("request");
        let mut wanted = Wanted::default();
        self.route(head, &mut wanted).await.unwrap_or_else(|error| {
            let response = error.response(&wanted);
            // Clients with another place to go to report the error of that one.
            if matches!(response.status, 502 | 504) {
                tracing::info!(target = head.target, status = response.status, %error, "a pull has failed");
            } else {
                tracing::debug!(target = head.target, status = response.status, %error, "refused");
            }
            response
        })
    }

    async fn route(&self, head: &RequestHead<'_>, wanted: &mut Wanted) -> Result<Response, PullError> {
        let (head, identity) = &self.authenticate(head).await?;
        if *identity == Identity::Anonymous {
            return self.anonymous(head, wanted).await;
        }
        self.dispatch(head, identity, wanted).await
    }

    /// Answers an anonymous client: with content that rules allow to `anonymous`, and with a rejection otherwise.
    async fn anonymous(&self, head: &RequestHead<'_>, wanted: &mut Wanted) -> Result<Response, PullError> {
        match self.find_route(head) {
            Ok(Route::Content(requested, _))
                if self.authorize(&Identity::Anonymous, &requested.origin).is_ok() =>
            {
                self.dispatch(head, &Identity::Anonymous, wanted).await
            }
            _ => Err(self.authenticator.rejection().into()),
        }
    }

    async fn dispatch(
        &self,
        head: &RequestHead<'_>,
        identity: &Identity,
        wanted: &mut Wanted,
    ) -> Result<Response, PullError> {
        if head.method == Method::Other {
            return Err(PullError::ReadOnly);
        }
        let (requested, what) = match self.find_route(head)? {
            Route::Ping
                if self.options.client_login
                    && head.authorization.is_none()
                    && !self.authenticator.is_enabled() =>
            {
                return Err(PullError::Login);
            }
            Route::Ping => return Ok(plain(200, "application/json", "{}")),
            Route::Health(probe) => return self.health(probe),
            Route::Stats => return self.stats().await,
            Route::Content(requested, what) => (requested, what),
        };
        self.authorize(identity, &requested.origin)?;
        *wanted = Wanted {
            subject: Some(what.subject(&requested.origin)),
            challenges: self.challenges(&requested.origin),
            origin: Some(requested.origin.clone()),
            kind: match what {
                // Who finds no referrers looks for a manifest in their place.
                What::Manifest(_) | What::Referrers(..) => Kind::Manifest,
                What::Blob(_) => Kind::Blob,
                What::Tags(_) => Kind::Other,
            },
        };
        // As long as it is held, what we ask for this request names those it has come through.
        let _on_behalf = self.on_behalf(head, &requested, &what)?;
        let ns = requested.ns.as_deref();
        match what {
            What::Manifest(reference) => self.manifest(head, requested.origin.clone(), reference, ns).await,
            What::Blob(digest) => self.blob(head, &requested.origin, digest, ns).await,
            What::Tags(query) => self.tags(head, &requested, query).await,
            What::Referrers(digest, query) => {
                let target = Target::Referrers(digest, query);
                self.referrers(head, &requested, target).await
            }
        }
    }

    /// Which of an upstream's challenges are for our client.
    fn challenges(&self, origin: &Origin) -> Challenges {
        let registries = self.registries();
        let (settings, named) = registries.settings(&origin.namespace);
        if self.authenticator.is_enabled() || settings.access() == Access::Shared {
            // What the client sends is not asked for there.
            Challenges::None
        } else if named == Named::Exactly {
            Challenges::All
        } else {
            Challenges::Tokens
        }
    }

    /// On whose behalf the upstream is asked.
    pub(super) fn approach(&self, origin: &Origin, head: &RequestHead<'_>) -> Approach {
        let registries = self.registries();
        let (settings, named) = registries.settings(&origin.namespace);
        let known = named != Named::No || self.options.default_registry.as_ref() == Some(&origin.namespace);
        let authorization = head
            .authorization
            .filter(|value| !self.options.client_login || forwarding::may_forward(value, known));
        self.cache.approach(origin, settings.access(), authorization)
    }

    async fn blob(
        &self,
        head: &RequestHead<'_>,
        origin: &Origin,
        digest: Digest,
        ns: Option<&str>,
    ) -> Result<Response, PullError> {
        let callers = match self.approach(origin, head) {
            Approach::Callers(callers) => callers,
            Approach::Passthrough(credentials) => {
                return Ok(self
                    .pass_through(head, origin, Target::Blob(digest), credentials, ns)
                    .await?);
            }
        };
        let mut refused = FetchError::Lost;
        for caller in &callers {
            match self.blob_for(head, origin, digest, caller, ns).await {
                Err(error) if error.is_refusal() => refused = error,
                outcome => return Ok(outcome?),
            }
        }
        Err(refused.into())
    }

    /// Answers with a blob that is stored, or follows the fill that brings it.
    async fn blob_for(
        &self,
        head: &RequestHead<'_>,
        origin: &Origin,
        digest: Digest,
        caller: &Caller,
        ns: Option<&str>,
    ) -> Result<Response, FetchError> {
        let mut not = None;
        // A fill that came from there and failed is tried with the upstream.
        let mut try_bucket = true;
        for _ in 0..JOINS_MAX {
            if let Some(found) = self.find_blob(&digest, origin).await {
                let meta = &found.entry.meta;
                let held = HeldContent {
                    digest: &digest,
                    public: meta.public,
                };
                if !self.cache.is_authority(origin, meta) {
                    // Who may read it there is known when it has come from there.
                    self.files.borrow_mut().remove(&digest);
                    let credentials = caller.credentials();
                    return self
                        .pass_through(head, origin, Target::Blob(digest), credentials, ns)
                        .await;
                }
                let permit = self.cache.permit(origin, held, Target::Blob, caller).await?;
                return Ok(self.blob_hit(head, found, permit, (origin, caller), ns));
            }
            let mut shared = None;
            if try_bucket && (not.is_some() || !self.cache.is_filling(&digest, origin)) {
                shared = self.cache.find_in_bucket(Key::Blob(digest)).await;
            }
            if let Some(meta) = &shared {
                if !self.cache.is_authority(origin, meta) {
                    let credentials = caller.credentials();
                    return self
                        .pass_through(head, origin, Target::Blob(digest), credentials, ns)
                        .await;
                }
                let held = HeldContent {
                    digest: &digest,
                    public: meta.public,
                };
                let permit = self.cache.permit(origin, held, Target::Blob, caller).await?;
                if let Some(response) = self.bucket_hit(head, origin, meta, permit, caller, ns).await {
                    return Ok(response);
                }
                if self.cache.is_bucket_only() {
                    // It has it and does not give it.
                    shared = None;
                }
            }
            let (fill, role) = self.cache.fill(digest, origin, caller, not.as_ref(), shared);
            let is_for_caller = fill.is_request_of(origin, caller);
            if !is_for_caller {
                self.cache
                    .permit(origin, fill.held(), Target::Blob, caller)
                    .await?;
            }
            match self.follow(head, &fill, origin, role, ns).await {
                Ok(Some(response)) => return Ok(response),
                // Somebody else's fill was committed meanwhile: it is a hit now.
                Ok(None) => {}
                Err(FetchError::Gone) => not = Some(fill),
                Err(_) if fill.is_from_bucket() => {
                    try_bucket = false;
                    not = Some(fill);
                }
                // Another repository, or another caller, was refused.
                Err(error) if error.is_refusal() && !is_for_caller => not = Some(fill),
                Err(error) => return Err(error),
            }
        }
        Err(FetchError::Gone)
    }

    /// The blob this core has open, or that is stored.
    async fn find_blob(&self, digest: &Digest, origin: &Origin) -> Option<FoundBlob> {
        let open = self.files.borrow_mut().get(digest).map(|entry| entry.clone());
        if let Some(entry) = open {
            return Some(FoundBlob {
                entry,
                small: None,
                lasting: true,
            });
        }
        // A fill in progress is not on disk, and a disk lookup would cost each follower a thread.
        if self.cache.is_filling(digest, origin) {
            return None;
        }
        let found = self.cache.find_blob(Key::Blob(*digest)).await?;
        // Small content is read and hashed on each miss of the response cache.
        if found.lasting && found.small.is_none() {
            self.files.borrow_mut().insert(*digest, found.entry.clone(), 1);
        }
        Some(found)
    }

    fn blob_hit(
        &self,
        head: &RequestHead<'_>,
        found: FoundBlob,
        permit: Permit,
        (origin, caller): (&Origin, &Caller),
        ns: Option<&str>,
    ) -> Response {
        let FoundBlob {
            mut entry,
            small,
            lasting,
        } = found;
        let digest = entry.meta.digest;
        if permit.public && !entry.meta.public {
            entry.meta = Arc::new(Meta {
                public: true,
                ..(*entry.meta).clone()
            });
            if lasting && small.is_none() {
                self.files.borrow_mut().insert(digest, entry.clone(), 1);
            }
        }
        // What not everybody may have is not remembered by its target.
        if entry.meta.public || caller.is_operator() {
            match &small {
                Some(small) => {
                    let fields = respond::fields(&describe_blob(&entry.meta, origin, ns));
                    let readers = self.readers(origin);
                    self.responses
                        .borrow_mut()
                        .remember(head.target, fields, small.clone(), None, readers);
                }
                None if lasting => self.remember_file(head, &entry, origin, ns),
                None => {}
            }
        }
        respond::blob(
            head,
            &entry,
            small.as_ref(),
            &describe_blob(&entry.meta, origin, ns),
        )
    }

    /// Keeps the head of a file's answer, encoded, for the next request with the same target.
    fn remember_file(&self, head: &RequestHead<'_>, entry: &Entry, origin: &Origin, ns: Option<&str>) {
        if head.range.is_none() && entry.meta.size > MEMORY_OBJECT_BYTES_MAX {
            let fields = respond::fields(&describe_blob(&entry.meta, origin, ns));
            let (file, readers) = (entry.file.clone(), self.readers(origin));
            self.responses
                .borrow_mut()
                .remember_file(head.target, fields, file, entry.meta.size, readers);
        }
    }

    /// Answers from a fill in progress; `None` when the blob is stored already.
    async fn follow(
        &self,
        head: &RequestHead<'_>,
        fill: &Arc<Fill>,
        origin: &Origin,
        role: Role,
        ns: Option<&str>,
    ) -> Result<Option<Response>, FetchError> {
        let head_only = head.method == Method::Head;
        let upstream = match fill.ready(head_only).await? {
            crate::cache::FillReady::Head(upstream) => upstream,
            crate::cache::FillReady::Stored => return Ok(None),
        };
        let digest = *fill.digest();
        let mut size = upstream.size;
        if size.is_none() && head.range.is_some() {
            // An upstream that does not tell the size: ranges can be counted when all is here.
            match fill.ended().await? {
                Some(known) => size = Some(known),
                None => return Ok(None),
            }
        }
        let description = Description {
            stored: fill.has_fields_of(origin).then_some(&upstream.headers),
            ..describe_fill(fill, &upstream, role, ns)
        };
        let cache = description.cache;
        let part = size.map_or(Part::Whole, |size| respond::part(head, &digest, size));
        Ok(Some(match (part, size) {
            (Part::NotModified, _) => respond::not_modified(respond::fields(&description), cache),
            (Part::Unsatisfiable, Some(size)) => respond::unsatisfiable(size, cache),
            (Part::One(span), Some(size)) => Response {
                status: 206,
                fields: respond::fields(&description)
                    .with("Content-Range", ContentRange::part(span, size).to_string()),
                length: Some(span.size()),
                body: Body::Growing(Box::new(Follower::join(fill, Some(span))?)),
                cache,
            },
            // Several ranges of what is still arriving: the whole is a right answer too (RFC 9110, 14.2).
            _ => Response {
                status: 200,
                fields: respond::fields(&description),
                length: size,
                body: if head_only {
                    Body::Empty
                } else {
                    Body::Growing(Box::new(Follower::join(fill, None)?))
                },
                cache,
            },
        }))
    }

    async fn manifest(
        &self,
        head: &RequestHead<'_>,
        origin: Origin,
        reference: Reference,
        ns: Option<&str>,
    ) -> Result<Response, PullError> {
        let target = Target::Manifest(reference.clone());
        let callers = match self.approach(&origin, head) {
            Approach::Callers(callers) => callers,
            Approach::Passthrough(credentials) => {
                return Ok(self.pass_through(head, &origin, target, credentials, ns).await?);
            }
        };
        let mut refused = FetchError::Lost;
        for caller in callers {
            let credentials = caller.credentials();
            let native = ManifestKey {
                origin: origin.clone(),
                reference: reference.clone(),
                accept: Accept::Native,
                caller,
            };
            match self.manifest_answer(head, native).await {
                Ok((key, answer, role)) => return Ok(self.manifest_response(head, &key, &answer, role, ns)),
                Err(error) if error.is_refusal() => refused = error,
                // Without credentials the registry had no such tag, and nothing of its subject is private.
                Err(error)
                    if error.is_outage()
                        && refused.is_stale_absence()
                        && self.cache.is_subject_public(&origin, &target).await =>
                {
                    return Err(refused.into());
                }
                Err(FetchError::Schema1) => {
                    return Ok(self.pass_through(head, &origin, target, credentials, ns).await?);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(refused.into())
    }

    /// The manifest, and under which key it is the answer: the client may not take what the upstream has.
    async fn manifest_answer(
        &self,
        head: &RequestHead<'_>,
        native: ManifestKey,
    ) -> Result<(ManifestKey, ManifestAnswer, Role), FetchError> {
        let (answer, role) = self.cache.manifest(native.clone()).await;
        let answer = answer?;
        let by_tag = matches!(native.reference, Reference::Tag(_));
        if !by_tag || answer.manifest.accepted_by(head.accept()) {
            return Ok((native, answer, role));
        }
        // It may have another form for it.
        let other = ManifestKey {
            accept: Accept::of_client(head.accept()),
            ..native
        };
        let (answer, role) = self.cache.manifest(other.clone()).await;
        Ok((other, answer?, role))
    }

    fn manifest_response(
        &self,
        head: &RequestHead<'_>,
        key: &ManifestKey,
        answer: &ManifestAnswer,
        role: Role,
        ns: Option<&str>,
    ) -> Response {
        let manifest = &answer.manifest;
        let life = if answer.checked_ms.is_some() {
            Life::Tag
        } else {
            Life::Immutable
        };
        let cache = match (answer.cache, role) {
            (CacheResult::Miss, Role::Follower) => CacheResult::Collapsed,
            (cache, _) => cache,
        };
        let description = Description {
            digest: &manifest.digest,
            content_type: &manifest.media_type,
            stored: Some(&manifest.headers),
            life,
            public: manifest.public,
            ranges: false,
            ns,
            cache,
        };
        // What not everybody may have, or wants, is not remembered by its target.
        if key.accept == Accept::Native && (manifest.public || key.caller.is_operator()) {
            self.remember(head, answer, &description, &key.origin);
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
        respond::manifest(head, manifest.body.clone(), &description, more)
    }

    /// Keeps a small answer, encoded, for the next request with the same target.
    fn remember(
        &self,
        head: &RequestHead<'_>,
        answer: &ManifestAnswer,
        description: &Description<'_>,
        origin: &Origin,
    ) {
        let body: &Bytes = &answer.manifest.body;
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
        let readers = self.readers(origin);
        self.responses
            .borrow_mut()
            .remember(head.target, fields, body.clone(), tag, readers);
    }

    /// Passes a request through to the upstream for this client alone. Nothing of the response is cached.
    async fn pass_through(
        &self,
        head: &RequestHead<'_>,
        origin: &Origin,
        target: Target,
        credentials: Credentials,
        ns: Option<&str>,
    ) -> Result<Response, FetchError> {
        let accept = match &target {
            Target::Manifest(_) => head.accept().map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        let head_only = head.method == Method::Head;
        let is_blob = matches!(target, Target::Blob(_));
        let wanted = match &target {
            Target::Blob(digest) | Target::Manifest(Reference::Digest(digest)) => Some(*digest),
            _ => None,
        };
        let (upstream, body) = self
            .cache
            .pass_through(origin, target, head_only, accept, credentials)
            .await?;
        let named = || {
            upstream
                .headers
                .get("Docker-Content-Digest")
                .and_then(|v| v.first())
                .and_then(|d| d.parse().ok())
        };
        let digest = wanted.or_else(named);
        let content_type = match &upstream.content_type {
            Some(content_type) if !is_blob && is_manifest_type(content_type) => content_type,
            _ => "application/octet-stream",
        };
        let mut fields = respond::common()
            .with("Content-Type", content_type)
            .with("Cache-Control", "private")
            .with("X-Cache", "MISS")
            .with("Cache-Status", "oci-pull-through; fwd=bypass");
        if let Some(digest) = digest {
            fields.add("Docker-Content-Digest", digest.to_string());
            fields.add("ETag", format!("\"{digest}\""));
        }
        if let Some(ns) = ns {
            fields.add("OCI-Namespace", ns);
        }
        Ok(Response {
            status: 200,
            fields,
            length: upstream.size,
            body: if head_only {
                Body::Empty
            } else {
                Body::Growing(Box::new(body))
            },
            cache: CacheResult::Bypass,
        })
    }
}

pub(super) fn describe_blob<'a>(meta: &'a Meta, origin: &Origin, ns: Option<&'a str>) -> Description<'a> {
    Description {
        digest: &meta.digest,
        content_type: "application/octet-stream",
        stored: meta.is_filled_from(origin).then_some(&meta.headers),
        life: Life::Immutable,
        public: meta.public,
        ranges: true,
        ns,
        cache: CacheResult::Hit,
    }
}

fn describe_fill<'a>(fill: &'a Fill, upstream: &'a Head, role: Role, ns: Option<&'a str>) -> Description<'a> {
    Description {
        digest: fill.digest(),
        content_type: "application/octet-stream",
        stored: None,
        life: Life::Immutable,
        public: upstream.public,
        ranges: true,
        ns,
        cache: match role {
            _ if fill.is_from_bucket() => CacheResult::Hit,
            Role::Leader => CacheResult::Miss,
            Role::Follower => CacheResult::Collapsed,
        },
    }
}
