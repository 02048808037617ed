//! The client for upstream registries.
//!
//! [`Upstreams::fetch`] requests one manifest or blob from one registry. This module resolves the
//! addresses of the registry and its mirrors, sends credentials and tokens, uses proxies and
//! follows redirects. The module also enforces the policy on allowed hosts. The code runs on the
//! helper pool and must not be called from a core.
//!
//! Not here: the choice and time of requests (`cache`), the wait between attempts (the caller waits
//! as long as [`Resume`] returns), digests (computed by the fill), statuses for clients
//! (`registry`).

mod address;
mod auth;
mod authenticate;
mod availability;
mod challenger;
mod client;
mod content_range;
mod cure;
mod endpoint;
mod error;
mod exchange;
mod faults;
mod headers;
mod heads;
mod lookups;
mod options;
mod policy;
mod proxy;
mod redirect;
mod refusal;
mod registries;
mod request;
mod resolve;
mod response;
mod retry;
mod tls;
mod verdict;
mod via;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::VIA;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

pub use auth::Secret;
#[cfg(any(test, fuzzing))]
pub use auth::fuzz;
pub use availability::{Allowance, AvailabilityState, Budget, RegistryStatus, Source};
pub use client::service_client;
pub use content_range::{ReceivedRange, ResumeVerdict};
pub use error::{BuildError, Location, Phase, Refusal, Restraint, UpstreamError, seconds_left};
pub use faults::Fault;
pub use options::{Deadlines, Options};
pub use request::{Credentials, Purpose, Target, UpstreamMethod, UpstreamRequest};
pub use response::{UpstreamBody, UpstreamResponse, resume_matches};
pub use retry::Resume;
pub use tls::AnyCertificate;
pub use verdict::ResponseVerdict;
pub use via::OnBehalf;

use crate::config::{Named, ProxyEnvironment, Registries};
use crate::oci::{Namespace, Repository};
use crate::sync::RwLock;
use auth::credential_source::LoadedCredential;
use authenticate::{AuthenticatedRequest, CredentialOwner};
use availability::{AvailabilityTable, Decision, RequestTracker};
use endpoint::Endpoint;
use exchange::OutgoingRequest;
use faults::{FaultSubject, Faults};
use heads::Heads;
use registries::{RegistryEntry, RegistryTable};
use via::Chains;

/// All configured registries and all public registries. Cheap to clone.
#[derive(Clone)]
pub struct Upstreams(Arc<Shared>);

struct Shared {
    /// The registry table. A reload replaces the whole table, and requests in flight keep the old
    /// one.
    table: RwLock<Arc<RegistryTable>>,
    chains: Arc<Chains>,
    availability: Arc<AvailabilityTable>,
    heads: Heads,
    faults: Faults,
    options: Options,
    proxies: ProxyEnvironment,
}

/// The order of mirrors and registry for one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MirrorOrder {
    /// Mirrors without a fault, before the registry.
    BeforeRegistry,
    /// Mirrors whose last body of this content broke off, after the registry has failed.
    AfterRegistry,
}

impl Upstreams {
    /// Prepares requests to the configured registries and to all public registries. Makes no
    /// connection, needs no runtime, and reads the system's root certificates from disk.
    ///
    /// # Errors
    ///
    /// Fails if a registry is configured twice or has an unusable URL, or if TLS cannot be set up.
    pub fn new(
        registries: impl Into<Arc<Registries>>,
        proxies: ProxyEnvironment,
    ) -> Result<Self, BuildError> {
        Self::with_options(registries, proxies, Options::default())
    }

    /// Like [`Upstreams::new`], with other options.
    pub fn with_options(
        registries: impl Into<Arc<Registries>>,
        proxies: ProxyEnvironment,
        options: Options,
    ) -> Result<Self, BuildError> {
        let table = RegistryTable::build(registries.into(), &proxies, &options, None)?;
        Ok(Upstreams(Arc::new(Shared {
            table: RwLock::new(Arc::new(table)),
            chains: Arc::new(Chains::new()),
            availability: Arc::default(),
            heads: Heads::default(),
            faults: Faults::default(),
            options,
            proxies,
        })))
    }

    /// Replaces the configuration. Requests in flight finish with the old configuration. Unchanged
    /// registries keep their connections and tokens. Reads the system's root certificates from
    /// disk.
    ///
    /// # Errors
    ///
    /// Like [`Upstreams::new`]. After an error, the old configuration stays active.
    pub fn reload(&self, registries: impl Into<Arc<Registries>>) -> Result<(), BuildError> {
        let shared = &*self.0;
        let before = shared.table();
        let after = Arc::new(RegistryTable::build(
            registries.into(),
            &shared.proxies,
            &shared.options,
            Some(&before),
        )?);
        *shared.table.write() = after;
        Ok(())
    }

    /// Returns our name in `Via`, constant during the life of the process.
    pub fn pseudonym(&self) -> &str {
        self.0.chains.pseudonym()
    }

    /// Adds the caches of `chain` to the `Via` field of requests for `target`, until the result is
    /// dropped. `chain` is a `Via` value of visible characters and spaces.
    pub fn on_behalf(
        &self,
        namespace: &Namespace,
        repository: &Repository,
        target: Target,
        chain: &str,
    ) -> OnBehalf {
        let wanted = (namespace.clone(), repository.clone(), target);
        self.0.chains.wait(wanted, chain)
    }

    #[cfg(test)]
    fn registries(&self) -> Arc<Registries> {
        self.0.table().registries.clone()
    }

    /// Returns whether the registry refuses HEAD and answers GET, so a HEAD request is useless.
    pub fn is_head_in_vain(&self, namespace: &Namespace) -> bool {
        let table = self.0.table();
        let endpoint = table.entry(namespace).registry(namespace);
        endpoint.is_ok_and(|endpoint| self.0.heads.is_wrong(endpoint.base.as_str(), Instant::now()))
    }

    /// Returns the availability of each registry with a recent request, sorted by name.
    pub fn statuses(&self) -> Vec<RegistryStatus> {
        self.0.availability.report(Instant::now())
    }

    /// Returns the requests of the registry's budget above a reserve of `percent`. `None` if the
    /// registry has stated no budget.
    pub fn spare_budget(&self, namespace: &Namespace, percent: u64) -> Option<u64> {
        self.0
            .availability
            .spare_budget(namespace, percent, Instant::now())
    }

    /// Returns the requests that the cache itself may send for `repository` now, above a reserve of
    /// `percent` of the registry's budget.
    pub fn allowance(&self, namespace: &Namespace, repository: &Repository, percent: u64) -> Allowance {
        if self.0.table().registries.air_gapped {
            return Allowance::Unavailable;
        }
        let place = (namespace, repository);
        self.0.availability.allowance(place, percent, Instant::now())
    }

    /// Returns whether blobs of `repository` get no requests now, except probes: the cache is
    /// air-gapped, the registry is unavailable, or the registry has limited all requests.
    pub fn is_suspended(&self, namespace: &Namespace, repository: &Repository) -> bool {
        self.0.table().registries.air_gapped || self.0.availability.is_suspended(namespace, repository)
    }

    /// Returns the unavailable registries, and the registries that have limited all requests.
    pub fn suspended(&self) -> HashSet<String> {
        self.0.availability.suspended()
    }

    /// Returns a number that changes when a registry becomes unavailable, or limits its requests. One
    /// atomic load.
    pub fn suspensions(&self) -> u64 {
        self.0.availability.suspensions()
    }

    /// Sends `request`. Returns the head of a good answer, with the body still unread.
    ///
    /// Anonymous requests go to the mirrors for this target first, in order, and to the registry
    /// last. A request with a client's credentials goes to the registry only. Each endpoint gets
    /// one request for the content, perhaps after a challenge, a token request and redirects. If a
    /// connection breaks before a response head, it is replaced once, without a wait. The caller
    /// resumes a broken body and records the fault ([`Upstreams::record_fault`]). A mirror with
    /// wrong bytes is skipped for this content. A mirror with a broken body comes after the
    /// registry.
    ///
    /// # Errors
    ///
    /// All of [`UpstreamError`]. After failed mirrors, the error is the registry's own. Some errors
    /// need no request: the registry is unavailable or limits requests (`availability`), or the
    /// cache is air-gapped. This function logs changes of availability only. The caller logs the
    /// errors.
    ///
    /// # Cancellation
    ///
    /// Closes the connection in use. Other requests waiting for the same token continue.
    pub async fn fetch(&self, request: &UpstreamRequest) -> Result<UpstreamResponse, UpstreamError> {
        let table = self.0.table();
        if table.registries.air_gapped {
            let host = request.namespace.as_str().into();
            return Err(UpstreamError::AirGapped { host });
        }
        let entry = table.entry(&request.namespace);
        let slot = self.0.acquire_slot(entry, request).await?;
        let mut response = match self
            .0
            .fetch_from_mirrors(&table, entry, request, MirrorOrder::BeforeRegistry)
            .await
        {
            Some(outcome) => outcome?,
            None => match self.fetch_from_registry_if_available(&table, request).await {
                Ok(response) => response,
                Err(error) => match self
                    .0
                    .fetch_from_mirrors(&table, entry, request, MirrorOrder::AfterRegistry)
                    .await
                {
                    Some(outcome) => outcome?,
                    None => return Err(error),
                },
            },
        };
        response.body.occupy(slot);
        response.body.count_for(&request.namespace);
        Ok(response)
    }

    /// Records a mismatch between `request` and the body from [`UpstreamResponse::mirror`]. Returns
    /// whether the fault of the mirror is new. If so, the next endpoint should get the request at
    /// once. The registry itself has no next endpoint.
    pub fn record_fault(&self, request: &UpstreamRequest, mirror: Option<&Arc<str>>, fault: Fault) -> bool {
        let Some(mirror) = mirror else {
            return false;
        };
        let is_new = self
            .0
            .faults
            .record(mirror, FaultSubject::of(request), fault, Instant::now());
        if is_new {
            tracing::warn!(
                registry = %request.namespace, repository = %request.repository, %mirror, ?fault,
                "mirror body does not match its response head"
            );
        }
        is_new
    }

    /// Sends the request to the registry itself, unless the registry is unavailable or limits
    /// requests.
    async fn fetch_from_registry_if_available(
        &self,
        table: &RegistryTable,
        request: &UpstreamRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let named = table.registries.settings(&request.namespace).1 == Named::Exactly;
        match self.0.availability.admit(request, named, Instant::now()) {
            Decision::Send(tracker) => self.tracked(request, tracker).await,
            Decision::Refuse(error) => Err(error),
            Decision::Probe(tracker, error) => {
                let (upstreams, request) = (self.clone(), request.clone());
                tokio::spawn(async move { drop(upstreams.tracked(&request, tracker).await) });
                Err(error)
            }
        }
    }

    async fn tracked(
        &self,
        request: &UpstreamRequest,
        tracker: RequestTracker,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let table = self.0.table();
        let outcome = self.0.fetch_from_registry(&table, request).await;
        tracker.record(outcome, Instant::now())
    }
}

impl Shared {
    fn table(&self) -> Arc<RegistryTable> {
        self.table.read().clone()
    }

    /// Acquires a request slot of the registry (`max_concurrency`). Returns `None` without a limit.
    async fn acquire_slot(
        &self,
        entry: &RegistryEntry,
        request: &UpstreamRequest,
    ) -> Result<Option<OwnedSemaphorePermit>, UpstreamError> {
        let Some(slots) = &entry.slots else {
            return Ok(None);
        };
        match timeout(
            self.within(request, self.options.deadlines.queue),
            slots.clone().acquire_owned(),
        )
        .await
        {
            Ok(Ok(slot)) => Ok(Some(slot)),
            _ => Err(UpstreamError::Overloaded {
                host: request.namespace.as_str().into(),
            }),
        }
    }

    /// Returns the first good answer of a mirror, or `None`. A redirect for the client is a good
    /// answer.
    async fn fetch_from_mirrors(
        &self,
        table: &RegistryTable,
        entry: &RegistryEntry,
        request: &UpstreamRequest,
        order: MirrorOrder,
    ) -> Option<Result<UpstreamResponse, UpstreamError>> {
        if matches!(request.credentials, Credentials::Client(_)) {
            return None;
        }
        let outgoing = self.outgoing_request(entry, request);
        let within = self.within(request, self.options.deadlines.mirror);
        for mirror in entry.mirrors(&request.target) {
            let (base, now) = (mirror.base(), Instant::now());
            let is_due = match self.faults.of(&base, &FaultSubject::of(request), now) {
                None => order == MirrorOrder::BeforeRegistry,
                Some(Fault::Broken) => order == MirrorOrder::AfterRegistry,
                Some(Fault::Wrong) => false,
            };
            if !is_due || mirror.is_cooling_down(now) {
                continue;
            }
            let endpoint = mirror.endpoint(&request.namespace);
            let authenticated = AuthenticatedRequest {
                shared: self,
                table,
                endpoint: &endpoint,
                request,
                owner: CredentialOwner::Anonymous,
            };
            let error = match timeout(within, self.look_up_and_fetch(&authenticated, &outgoing)).await {
                Ok(Ok(mut response)) => {
                    response.mirror = Some(base);
                    response.body.hurry(self.options.deadlines.mirror);
                    return Some(Ok(response));
                }
                Ok(outcome @ Err(UpstreamError::Redirected { .. })) => return Some(outcome),
                Ok(Err(error)) => error,
                Err(_elapsed) => too_slow(&endpoint),
            };
            tracing::debug!(%error, "mirror request failed");
            if error.is_retryable() || error.is_outage() && error.verdict().is_none() {
                mirror.cool_down(Instant::now());
            }
        }
        None
    }

    async fn fetch_from_registry(
        &self,
        table: &RegistryTable,
        request: &UpstreamRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let entry = table.entry(&request.namespace);
        let endpoint = entry.registry(&request.namespace)?;
        let client_credential = match &request.credentials {
            Credentials::Client(secret) => LoadedCredential::of_client(secret),
            Credentials::Operator | Credentials::None => None,
        };
        let owner = match &request.credentials {
            Credentials::Client(secret) => CredentialOwner::Client(secret, client_credential.as_ref()),
            Credentials::Operator if !entry.credentials.is_nothing() => {
                CredentialOwner::Operator(&entry.credentials)
            }
            Credentials::Operator | Credentials::None => CredentialOwner::Anonymous,
        };
        let authenticated = AuthenticatedRequest {
            shared: self,
            table,
            endpoint: &endpoint,
            request,
            owner,
        };
        let outgoing = self.outgoing_request(entry, request);
        let within = self.within(request, self.options.deadlines.exchange);
        match timeout(within, self.look_up_and_fetch(&authenticated, &outgoing)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(too_slow(&endpoint)),
        }
    }

    async fn look_up_and_fetch(
        &self,
        authenticated: &AuthenticatedRequest<'_>,
        outgoing: &OutgoingRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        if authenticated.request.purpose == Purpose::Revalidate {
            let within = self.options.deadlines.resolve_to_revalidate();
            exchange::look_up(authenticated.endpoint, authenticated.endpoint.origin(), within).await?;
        }
        let response = self.fetch_from_endpoint(authenticated, outgoing).await?;
        let endpoint = error::host_of(authenticated.endpoint.origin());
        Ok(UpstreamResponse { endpoint, ..response })
    }

    fn outgoing_request(&self, entry: &RegistryEntry, request: &UpstreamRequest) -> OutgoingRequest {
        let mut outgoing = request.to_outgoing(entry);
        outgoing.headers.insert(VIA, self.chains.via(request));
        outgoing
    }

    /// Returns `most`, or a shorter deadline if the caller has a held copy.
    fn within(&self, request: &UpstreamRequest, most: Duration) -> Duration {
        match request.purpose {
            Purpose::Pull => most,
            Purpose::Revalidate => most.min(self.options.deadlines.revalidate),
        }
    }
}

fn too_slow(endpoint: &Endpoint) -> UpstreamError {
    UpstreamError::Timeout {
        host: error::host_of(endpoint.origin()),
        phase: Phase::Exchange,
    }
}
