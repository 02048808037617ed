//! Decides which callers may read stored content.
//!
//! Content that was seen without credentials is public. Other content requires a [`Permit`]. For a
//! permit, the upstream must have recently granted the caller access to the repository, and the
//! repository must have the content. Requests to a registry that the operator shares use the
//! operator's credentials for every client.
//!
//! Not here: the challenges of the upstream that the client receives (`registry`).

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use ring::hmac;
use ring::rand::SystemRandom;

use super::manifest::response::{may_be_manifest, read_whole, type_of};
use super::{Cache, Class, FetchError, Shared};
use crate::config::{Access, Named};
use crate::limits::{ANONYMOUS_DENIAL_TTL, GRANT_TTL, GRANTS_MAX};
use crate::oci::{Accept, Digest, Origin, Reference};
use crate::runtime::clock::monotonic_micros;
use crate::runtime::single_flight::{Completer, SingleFlight};
use crate::storage::{Key, Meta, Source};
use crate::sync::Mutex;
use crate::trace::{self, Attribute, Operation};
use crate::upstream::{
    Credentials, Purpose, ResponseVerdict, Secret, Target, UpstreamError, UpstreamMethod, UpstreamRequest,
};

/// The requester at an upstream. Callers are equal when their credentials are equal. The
/// credentials are never shown.
#[derive(Clone, Debug)]
pub struct Caller {
    id: CallerId,
    credentials: Credentials,
}

/// The key for credentials in tables. Client credentials are kept only as a keyed hash, with a key
/// of this process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum CallerId {
    Anonymous,
    /// The operator, whose credentials serve all clients of a shared registry.
    Operator,
    Client([u8; 32]),
}

/// A grant to read an object through a repository.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permit {
    /// Whether the content is public.
    pub public: bool,
}

/// The properties of stored content that determine access.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldContent<'a> {
    pub digest: &'a Digest,
    /// Whether the content was seen without credentials.
    pub public: bool,
    /// Whether the sidecar records no access rights, as of an older store.
    pub is_unproven: bool,
}

/// Recorded grants and denials of upstreams. Times are microseconds of the monotonic clock.
pub(super) struct AccessTable {
    key: hmac::Key,
    /// Callers that may read a repository, with the expiry of each grant.
    callers: Mutex<HashMap<(CallerId, Origin), u64>>,
    /// Content that a repository has.
    content: Mutex<HashMap<(Origin, Digest), u64>>,
    /// Repositories that deny anonymous access. The table saves requests that the upstream would
    /// reject.
    anonymous_denials: Mutex<HashMap<Origin, u64>>,
    /// Probes in flight.
    probes: SingleFlight<(Caller, Origin, Digest), Result<(), FetchError>>,
}

impl Default for AccessTable {
    fn default() -> Self {
        // Without random bytes nothing is secure, not even TLS. Random bytes are available once the
        // system has booted.
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .expect("the system gives random bytes");
        AccessTable {
            key,
            callers: Mutex::default(),
            content: Mutex::default(),
            anonymous_denials: Mutex::default(),
            probes: SingleFlight::default(),
        }
    }
}

impl PartialEq for Caller {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Caller {}

impl Hash for Caller {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl Caller {
    /// The anonymous caller. Receives only public content.
    pub const ANYBODY: Caller = Caller {
        id: CallerId::Anonymous,
        credentials: Credentials::None,
    };

    /// The operator, with the credentials of the configuration.
    pub(super) const OPERATOR: Caller = Caller {
        id: CallerId::Operator,
        credentials: Credentials::Operator,
    };

    /// Returns whether responses to this caller may serve all clients of the cache.
    pub fn is_operator(&self) -> bool {
        self.id == CallerId::Operator
    }

    pub fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    pub(super) fn id(&self) -> CallerId {
        self.id
    }

    pub(super) fn is_anonymous(&self) -> bool {
        self.id == CallerId::Anonymous
    }
}

/// The way to request a registry's content for a client.
#[derive(Debug)]
pub enum Approach {
    /// On behalf of each caller in turn, until a caller is not refused.
    Callers(Vec<Caller>),
    /// With the client's credentials or none, in a request per pull. Nothing is stored.
    Passthrough(Credentials),
}

impl Cache {
    /// Selects how to request the content of `origin` under `access`, for a client that sent
    /// `authorization`.
    ///
    /// The first request has no credentials, because public content can be shared. If the upstream
    /// has recently denied anonymous access, the first request already has credentials.
    pub fn approach(&self, origin: &Origin, access: Access, authorization: Option<&str>) -> Approach {
        let shared = &*self.0;
        // The request parser has rejected values that are invalid in a header field.
        let secret = authorization.and_then(|value| Secret::new(value.as_bytes()));
        match (access, secret) {
            (Access::Shared, _) => Approach::Callers(vec![Caller::OPERATOR]),
            (Access::Passthrough, secret) => {
                Approach::Passthrough(secret.map_or(Credentials::None, Credentials::Client))
            }
            (Access::Verify, None) => Approach::Callers(vec![Caller::ANYBODY]),
            (Access::Verify, Some(secret)) => {
                let own = shared.access.caller(authorization.unwrap_or_default(), secret);
                if recent(&shared.access.anonymous_denials, origin) {
                    Approach::Callers(vec![own])
                } else {
                    Approach::Callers(vec![Caller::ANYBODY, own])
                }
            }
        }
    }

    /// Returns whether a grant by the registry of `origin` counts for stored content. For `public`
    /// content every registry counts. For other content a registry counts if the whole content has
    /// come from it, because another registry could grant every request. For content without a
    /// known source, Docker Hub and the registries of the configuration count.
    pub(super) fn is_authority(&self, origin: &Origin, meta: &Meta, public: bool) -> bool {
        let named = || {
            let named = self.0.live.registries().settings(&origin.namespace).1;
            named != Named::No || origin.namespace.is_docker_hub()
        };
        public || meta.is_from(origin.namespace.as_str()) || (meta.sources.is_empty() && named())
    }

    /// Returns a permit for `caller` to read held content through `origin`, whose registry is an
    /// authority on the content. Probes the upstream unless a recent grant is recorded.
    ///
    /// # Errors
    ///
    /// The upstream's denial, or the failure of the probe.
    ///
    /// # Cancellation
    ///
    /// The probe goes on for the other callers.
    pub(super) async fn permit(
        &self,
        origin: &Origin,
        held: HeldContent<'_>,
        target: impl FnOnce(Digest) -> Target,
        caller: &Caller,
    ) -> Result<Permit, FetchError> {
        if let Some(permit) = self.0.access.cached_permit(origin, held, caller) {
            return Ok(permit);
        }
        let (shared, key) = (self.0.clone(), (caller.clone(), origin.clone(), *held.digest));
        let target = target(*held.digest);
        let context = trace::current();
        let work = move |completer| {
            let probe = async move { shared.probe_in_slot(target, completer).await };
            trace::within(context, probe)
        };
        let (answer, _) = self.0.access.probes.join(&self.0.helper, key, work).await;
        match answer.unwrap_or(Err(FetchError::Lost)) {
            Ok(()) => Ok(Permit {
                public: caller.is_anonymous(),
            }),
            Err(error) => self.0.trusted(held, error),
        }
    }
}

impl Shared {
    /// Returns a permit like [`Cache::permit`]. Call on the helper pool.
    pub(super) async fn permit(
        self: &Arc<Self>,
        origin: &Origin,
        held: HeldContent<'_>,
        target: Target,
        caller: &Caller,
    ) -> Result<Permit, FetchError> {
        if let Some(permit) = self.access.cached_permit(origin, held, caller) {
            return Ok(permit);
        }
        match self.probe(target, origin, held.digest, caller).await {
            Ok(()) => Ok(Permit {
                public: caller.is_anonymous(),
            }),
            Err(error) => self.trusted(held, error),
        }
    }

    /// Returns a permit by the word of the operator (`trust_existing`) after the `error` of a probe, if the
    /// registry is unavailable and no access rights were recorded.
    fn trusted(&self, held: HeldContent<'_>, error: FetchError) -> Result<Permit, FetchError> {
        match error {
            FetchError::Upstream(error) if held.is_unproven && error.is_outage() => {
                match self.live.registries().trust_existing {
                    true => Ok(Permit { public: false }),
                    false => Err(FetchError::Unproven(error)),
                }
            }
            error => Err(error),
        }
    }

    async fn probe_in_slot(
        self: &Arc<Self>,
        target: Target,
        completer: Completer<(Caller, Origin, Digest), Result<(), FetchError>>,
    ) {
        let (caller, origin, digest) = completer.key();
        let answer = self.probe(target, origin, digest, caller).await;
        completer.complete(answer);
    }

    /// Probes whether `caller` may read `target` like [`Shared::send_probe`], in a span.
    async fn probe(
        self: &Arc<Self>,
        target: Target,
        origin: &Origin,
        digest: &Digest,
        caller: &Caller,
    ) -> Result<(), FetchError> {
        let mut span = trace::child(Operation::Access);
        let answer = trace::under(&span, self.send_probe(target, origin, digest, caller)).await;
        if let Some(span) = &mut span {
            span.add(Attribute::Registry(origin.namespace.as_str().into()));
            span.add(Attribute::Repository(origin.repository.as_str().into()));
            span.add(Attribute::Digest(digest.to_string().into()));
            let is_granted = answer.is_ok();
            span.add(Attribute::Result(if is_granted { "granted" } else { "refused" }));
        }
        answer
    }

    /// Probes whether `caller` may read `target`, and records the grant or denial.
    async fn send_probe(
        self: &Arc<Self>,
        target: Target,
        origin: &Origin,
        digest: &Digest,
        caller: &Caller,
    ) -> Result<(), FetchError> {
        let _slot = self.slot(Class::Manifest, &origin.namespace).await?;
        let requested_at = monotonic_micros();
        let mut request = UpstreamRequest {
            namespace: origin.namespace.clone(),
            repository: origin.repository.clone(),
            target,
            method: UpstreamMethod::Probe,
            accept: Accept::Native.values(),
            range_from: None,
            credentials: caller.credentials(),
            purpose: Purpose::Pull,
        };
        let mut answer = self.upstreams.fetch(&request).await;
        if let (Ok(response), Target::Manifest(Reference::Digest(wanted))) = (&mut answer, &request.target)
            && !may_be_manifest(&response.headers)
        {
            // The head has another media type, so only the body can show a manifest.
            request.method = UpstreamMethod::Get;
            *response = self.upstreams.fetch(&request).await.inspect_err(|error| {
                self.access.record_denial(origin, caller, error);
            })?;
            let body = read_whole(response).await?;
            let found = Digest::of(wanted.algorithm(), &body);
            if found != *wanted {
                type_of(response.status, &response.headers, &body)?;
                return Err(FetchError::mismatch(wanted, &found, Some(response.status)));
            }
        }
        match answer {
            Ok(_) => {}
            // An empty blob has no first byte. A redirect for the client is a grant too.
            Err(UpstreamError::Status { status: 416, .. } | UpstreamError::Redirected { .. }) => {}
            Err(error) => {
                self.access.record_denial(origin, caller, &error);
                return Err(error.into());
            }
        }
        self.access.record_grant(origin, digest, caller, requested_at);
        if caller.is_anonymous() {
            self.record_source(&request.target, origin, true);
        }
        Ok(())
    }

    /// Records in the store, in the background, that the registry of `origin` also has the content,
    /// and whether the content is public.
    pub(super) fn record_source(self: &Arc<Self>, target: &Target, origin: &Origin, public: bool) {
        let key = match target {
            Target::Blob(digest) => Key::Blob(*digest),
            Target::Manifest(Reference::Digest(digest)) => Key::manifest(origin, digest),
            _ => return,
        };
        let storage = self.storage(&origin.namespace);
        storage.record_source(key, Source::from(origin), public);
    }
}

impl AccessTable {
    fn caller(&self, authorization: &str, secret: Secret) -> Caller {
        let tag = hmac::sign(&self.key, authorization.as_bytes());
        let mut hash = [0; 32];
        hash.copy_from_slice(tag.as_ref());
        Caller {
            id: CallerId::Client(hash),
            credentials: Credentials::Client(secret),
        }
    }

    /// Returns a permit that needs no probe.
    fn cached_permit(&self, origin: &Origin, held: HeldContent<'_>, caller: &Caller) -> Option<Permit> {
        if held.public {
            return Some(Permit { public: true });
        }
        // The operator shares the registry: every client of the cache may read its content.
        let ours = caller.id == CallerId::Operator;
        let granted = || {
            recent(&self.callers, &(caller.id, origin.clone()))
                && recent(&self.content, &(origin.clone(), *held.digest))
        };
        (ours || granted()).then_some(Permit { public: false })
    }

    /// Records that the upstream sent content of `origin` to `caller`, for a request made at
    /// `requested_at`.
    pub(super) fn record_grant(&self, origin: &Origin, digest: &Digest, caller: &Caller, requested_at: u64) {
        let until = requested_at + micros(GRANT_TTL);
        remember(&self.callers, (caller.id, origin.clone()), until);
        remember(&self.content, (origin.clone(), *digest), until);
    }

    /// Records a denial of anonymous access, or removes the grant of another caller.
    pub(super) fn record_denial(&self, origin: &Origin, caller: &Caller, error: &UpstreamError) {
        if let Some(ResponseVerdict::Challenge | ResponseVerdict::Forbidden) = error.verdict() {
            if caller.is_anonymous() {
                remember(
                    &self.anonymous_denials,
                    origin.clone(),
                    monotonic_micros() + micros(ANONYMOUS_DENIAL_TTL),
                );
            } else {
                // The denial replaces an earlier grant.
                self.callers.lock().remove(&(caller.id, origin.clone()));
            }
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn recent<K: Hash + Eq>(table: &Mutex<HashMap<K, u64>>, key: &K) -> bool {
    table
        .lock()
        .get(key)
        .is_some_and(|until| monotonic_micros() < *until)
}

fn remember<K: Hash + Eq>(table: &Mutex<HashMap<K, u64>>, key: K, until: u64) {
    let mut table = table.lock();
    if table.len() >= GRANTS_MAX && !table.contains_key(&key) {
        let now = monotonic_micros();
        table.retain(|_, until| now < *until);
        if table.len() >= GRANTS_MAX {
            // Each removed entry costs one request.
            table.clear();
        }
    }
    table.insert(key, until);
}
