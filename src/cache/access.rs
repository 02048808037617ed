//! Who may read what.
//!
//! Content that was seen without credentials is public. Everything else is given only to a caller for whom
//! the upstream has said yes lately, for that repository and for content it has there: a [`Permit`]. A registry the
//! operator shares is asked with our credentials on everybody's behalf.
//!
//! Not here: what the upstream's challenges become for the client (`registry`).

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::hmac;
use ring::rand::SystemRandom;

use super::flight::{Flights, Landing};
use super::manifest::{may_be_manifest, read_whole, type_of};
use super::{Cache, Class, FetchError, Origin, Shared};
use crate::config::{Access, Named};
use crate::limits::{ACCESS_YES, ACCESS_YES_MAX, ANONYMOUS_REFUSED};
use crate::oci::{Accept, Digest, Reference};
use crate::runtime::clock::monotonic_micros;
use crate::store::{Key, Meta};
use crate::upstream::{Credentials, Method, Purpose, Request, Secret, Target, UpstreamError, Verdict};

/// On whose behalf an upstream is asked. Equal when the credentials are; holds them, never shows them.
#[derive(Clone, Debug)]
pub struct Caller {
    id: CallerId,
    credentials: Credentials,
}

/// Stands for credentials in tables: of a client's only a keyed hash is kept, with a key of this process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum CallerId {
    Anybody,
    /// The operator, for a registry everybody may read with our credentials.
    Operator,
    Client([u8; 32]),
}

/// Proof that a caller may read one object through one repository.
#[derive(Clone, Copy, Debug)]
pub struct Permit {
    /// The content turned out to be public.
    pub public: bool,
}

/// What is known of a piece of content that we hold, as far as access goes.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    pub digest: &'a Digest,
    /// Seen without credentials.
    pub public: bool,
}

/// Answers of upstreams about who may read what. Moments are microseconds of the clock that never jumps.
pub(super) struct AccessTable {
    key: hmac::Key,
    /// Callers who may read a repository, and until when we believe it.
    callers: Mutex<HashMap<(CallerId, Origin), u64>>,
    /// Content that a repository has.
    content: Mutex<HashMap<(Origin, Digest), u64>>,
    /// Repositories that are not for everybody. Only saves a question that would be answered with no.
    closed: Mutex<HashMap<Origin, u64>>,
    /// Questions under way.
    probes: Flights<(Caller, Origin, Digest), Result<(), FetchError>>,
}

impl Default for AccessTable {
    fn default() -> Self {
        // Without randomness nothing safe can be done, TLS included; it is there once the system has booted.
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .expect("the system gives random bytes");
        AccessTable {
            key,
            callers: Mutex::default(),
            content: Mutex::default(),
            closed: Mutex::default(),
            probes: Flights::default(),
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
    /// Nobody in particular: who is answered with public content only.
    pub const ANYBODY: Caller = Caller {
        id: CallerId::Anybody,
        credentials: Credentials::None,
    };

    const OPERATOR: Caller = Caller {
        id: CallerId::Operator,
        credentials: Credentials::Ours,
    };

    /// Whether everybody who may use the cache is answered alike on this caller's behalf.
    pub fn is_operator(&self) -> bool {
        self.id == CallerId::Operator
    }

    /// What to send.
    pub fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    pub(super) fn id(&self) -> CallerId {
        self.id
    }

    pub(super) fn is_anybody(&self) -> bool {
        self.id == CallerId::Anybody
    }
}

/// How a client's request for a registry's content is put to the upstream.
#[derive(Debug)]
pub enum Approach {
    /// On behalf of these, one after the other, as long as the answer is a refusal.
    Callers(Vec<Caller>),
    /// With these, the client's own or none, each time; nothing is kept.
    Passthrough(Credentials),
}

impl Cache {
    /// How to ask for the content of `origin`, to which `access` applies, for a client that sent `authorization`.
    ///
    /// Without credentials first, because what is public can be shared; not where the upstream has refused that lately.
    pub fn approach(&self, origin: &Origin, access: Access, authorization: Option<&str>) -> Approach {
        let shared = &*self.0;
        // The parser has refused values that cannot stand in a field.
        let secret = authorization.and_then(|value| Secret::new(value.as_bytes()));
        match (access, secret) {
            (Access::Shared, _) => Approach::Callers(vec![Caller::OPERATOR]),
            (Access::Passthrough, secret) => {
                Approach::Passthrough(secret.map_or(Credentials::None, Credentials::Client))
            }
            (Access::Verify, None) => Approach::Callers(vec![Caller::ANYBODY]),
            (Access::Verify, Some(secret)) => {
                let own = shared.access.caller(authorization.unwrap_or_default(), secret);
                if recent(&shared.access.closed, origin) {
                    Approach::Callers(vec![own])
                } else {
                    Approach::Callers(vec![Caller::ANYBODY, own])
                }
            }
        }
    }

    /// Whether the registry of `origin` can say who may read an entry. Any can of what is public; of the rest, those from
    /// which it has come whole: another might say yes to everything. Of content that came from nobody knows where, the word
    /// of a registry is taken that the operator has named, and of Docker Hub.
    pub fn is_authority(&self, origin: &Origin, meta: &Meta) -> bool {
        let named = || {
            let named = self.registries().settings(&origin.namespace).1;
            named != Named::No || origin.namespace.is_docker_hub()
        };
        meta.public || meta.is_from(origin.namespace.as_str()) || (meta.sources.is_empty() && named())
    }

    /// Whether `caller` may read what we hold, through `origin`, whose registry is an authority on it; asks the upstream unless it has said so lately.
    ///
    /// # Errors
    ///
    /// The upstream's refusal, or that it cannot be asked.
    ///
    /// # Cancellation
    ///
    /// The question goes on for the others.
    pub async fn permit(
        &self,
        origin: &Origin,
        held: Held<'_>,
        target: impl FnOnce(Digest) -> Target,
        caller: &Caller,
    ) -> Result<Permit, FetchError> {
        if let Some(permit) = self.0.access.known(origin, held, caller) {
            return Ok(permit);
        }
        let (shared, key) = (self.0.clone(), (caller.clone(), origin.clone(), *held.digest));
        let target = target(*held.digest);
        let work = move |landing| async move { shared.probe(target, landing).await };
        let (answer, _) = self.0.access.probes.join(&self.0.helper, key, work).await;
        answer.unwrap_or(Err(FetchError::Lost))?;
        Ok(Permit {
            public: caller.is_anybody(),
        })
    }
}

impl Shared {
    /// As [`Cache::permit`], on the helper pool.
    pub(super) async fn permit(
        self: &Arc<Self>,
        origin: &Origin,
        held: Held<'_>,
        target: Target,
        caller: &Caller,
    ) -> Result<Permit, FetchError> {
        if let Some(permit) = self.access.known(origin, held, caller) {
            return Ok(permit);
        }
        self.prove(target, origin, held.digest, caller).await?;
        Ok(Permit {
            public: caller.is_anybody(),
        })
    }

    async fn probe(
        self: &Arc<Self>,
        target: Target,
        landing: Landing<(Caller, Origin, Digest), Result<(), FetchError>>,
    ) {
        let (caller, origin, digest) = landing.key();
        let answer = self.prove(target, origin, digest, caller).await;
        landing.land(answer);
    }

    /// Asks the upstream whether `caller` may read `target`; remembers a yes.
    async fn prove(
        self: &Arc<Self>,
        target: Target,
        origin: &Origin,
        digest: &Digest,
        caller: &Caller,
    ) -> Result<(), FetchError> {
        let _place = self.place(Class::Manifest, &origin.namespace).await?;
        let asked = monotonic_micros();
        let mut request = Request {
            namespace: origin.namespace.clone(),
            repository: origin.repository.clone(),
            target,
            method: Method::Probe,
            accept: Accept::Native.values(),
            range_from: None,
            credentials: caller.credentials(),
            purpose: Purpose::Pull,
        };
        let mut answer = self.upstreams.fetch(&request).await;
        if let (Ok(response), Target::Manifest(Reference::Digest(wanted))) = (&mut answer, &request.target)
            && !may_be_manifest(&response.headers)
        {
            // A head with another type says nothing about a manifest; the bytes do.
            request.method = Method::Get;
            *response = self.upstreams.fetch(&request).await.inspect_err(|error| {
                self.access.heard_no(origin, caller, error);
            })?;
            let body = read_whole(response).await?;
            let found = Digest::of(wanted.algorithm(), &body);
            if found != *wanted {
                type_of(&response.headers, &body)?;
                return Err(FetchError::DigestMismatch {
                    wanted: wanted.to_string(),
                    found: found.to_string(),
                });
            }
        }
        match answer {
            // Nothing of it is wanted.
            Ok(_) => {}
            // An empty blob has no first byte; and a redirect for the client is one it may have.
            Err(UpstreamError::Status { status: 416, .. } | UpstreamError::Redirected { .. }) => {}
            Err(error) => {
                self.access.heard_no(origin, caller, &error);
                return Err(error.into());
            }
        }
        self.access.heard_yes(origin, digest, caller, asked);
        if caller.is_anybody() {
            self.vouch(&request.target, origin, true);
        }
        Ok(())
    }

    /// Notes in the store, in the background, that the registry of `origin` has the content too, and whether it is public.
    pub(super) fn vouch(self: &Arc<Self>, target: &Target, origin: &Origin, public: bool) {
        let key = match target {
            Target::Blob(digest) => Key::Blob(*digest),
            Target::Manifest(Reference::Digest(digest)) => super::manifest::manifest_key(origin, digest),
            _ => return,
        };
        if let Some(bucket) = self.storage.bucket() {
            let (store, key, source) = (bucket.store().clone(), key.clone(), origin.source());
            if store.is_available() {
                self.helper.spawn(async move {
                    if let Err(error) = store.vouch(&key, &source, public).await {
                        tracing::debug!(%error, "the bucket does not take note who may read an entry");
                    }
                });
            }
        }
        if let Some(store) = self.storage.local().cloned()
            && self.health.writable()
        {
            let (shared, source) = (self.clone(), origin.source());
            self.helper.spawn_blocking(move || {
                if let Err(error) = store.vouch(&key, &source, public) {
                    shared.health.failed(&error);
                }
            });
        }
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

    /// What follows without asking.
    fn known(&self, origin: &Origin, held: Held<'_>, caller: &Caller) -> Option<Permit> {
        if held.public {
            return Some(Permit { public: true });
        }
        // A registry's content is for everybody who may ask us where its operator shares it.
        let ours = caller.id == CallerId::Operator;
        let told = || {
            recent(&self.callers, &(caller.id, origin.clone()))
                && recent(&self.content, &(origin.clone(), *held.digest))
        };
        (ours || told()).then_some(Permit { public: false })
    }

    /// Notes that the upstream gave `caller` content of `origin`, asked at the moment `asked`.
    pub(super) fn heard_yes(&self, origin: &Origin, digest: &Digest, caller: &Caller, asked: u64) {
        let until = asked + micros(ACCESS_YES);
        remember(&self.callers, (caller.id, origin.clone()), until);
        remember(&self.content, (origin.clone(), *digest), until);
    }

    /// Notes a refusal, as far as it saves asking in vain.
    pub(super) fn heard_no(&self, origin: &Origin, caller: &Caller, error: &UpstreamError) {
        if let Some(Verdict::Challenge | Verdict::Forbidden) = error.verdict() {
            if caller.is_anybody() {
                remember(
                    &self.closed,
                    origin.clone(),
                    monotonic_micros() + micros(ANONYMOUS_REFUSED),
                );
            } else {
                // Whatever we were told before: it is not so any more.
                lock(&self.callers).remove(&(caller.id, origin.clone()));
            }
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn lock<K>(table: &Mutex<HashMap<K, u64>>) -> std::sync::MutexGuard<'_, HashMap<K, u64>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn recent<K: Hash + Eq>(table: &Mutex<HashMap<K, u64>>, key: &K) -> bool {
    lock(table)
        .get(key)
        .is_some_and(|until| monotonic_micros() < *until)
}

fn remember<K: Hash + Eq>(table: &Mutex<HashMap<K, u64>>, key: K, until: u64) {
    let mut table = lock(table);
    if table.len() >= ACCESS_YES_MAX && !table.contains_key(&key) {
        let now = monotonic_micros();
        table.retain(|_, until| now < *until);
        if table.len() >= ACCESS_YES_MAX {
            // Forgetting costs a question each.
            table.clear();
        }
    }
    table.insert(key, until);
}
