//! The registries we pull from.
//!
//! [`Upstreams::fetch`] asks one registry for one manifest or blob: where it and its mirrors live, the credentials and
//! tokens it wants, the proxies on the way, the redirects it sends, and the rules about whom we talk to at all. It runs on
//! the helper pool; nothing here may be called from a core.
//!
//! Not here: what to ask for and when (`cache`), waiting between attempts (the caller does, told by
//! [`Resume`]), digests (the fill computes them), statuses for clients (`registry`).

mod address;
mod ask;
mod auth;
mod challenger;
mod client;
mod condition;
mod content_range;
mod cure;
mod endpoint;
mod error;
mod exchange;
mod faults;
mod headers;
mod heads;
mod lookups;
mod policy;
mod proxy;
mod redirect;
mod refusal;
mod resolve;
mod response;
mod retry;
mod table;
mod tls;
mod verdict;
mod via;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use http::header::{ACCEPT, RANGE, VIA};
use http::{HeaderMap, HeaderValue};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

pub use auth::Secret;
#[cfg(any(test, fuzzing))]
pub use auth::fuzz;
pub use condition::{Budget, RegistryCondition, Source, State};
pub use content_range::{ContentRange, ResumeVerdict};
pub use error::{BuildError, Location, Phase, Refusal, Restraint, UpstreamError, seconds_left};
pub use faults::Fault;
pub use response::{Body, Response, resume_matches};
pub use retry::Resume;
pub use tls::AnyCertificate;
pub use verdict::Verdict;
pub use via::OnBehalf;

use crate::config::{Named, ProxyEnvironment, Registries};
use crate::oci::{Digest, ListQuery, Namespace, Reference, Repository};
use ask::{Asked, Whose};
use auth::logins::Held;
use condition::{Admission, Conditions, Watch};
use endpoint::Endpoint;
use exchange::{Question, Redirects};
use faults::{Faults, Subject};
use heads::Heads;
use table::{Entry, Table};
use via::Chains;

/// All registries there are: the configured ones, and every public one. Cheap to clone.
#[derive(Clone)]
pub struct Upstreams(Arc<Shared>);

struct Shared {
    /// Replaced as a whole; requests under way keep the one they began with.
    table: RwLock<Arc<Table>>,
    /// How often the table was replaced.
    generation: AtomicU64,
    chains: Arc<Chains>,
    conditions: Arc<Conditions>,
    heads: Heads,
    faults: Faults,
    options: Options,
    proxies: ProxyEnvironment,
}

/// When the mirrors are asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    /// Before the registry: those without a fault.
    First,
    /// After the registry has failed: those whose last body of this content broke off.
    Last,
}

/// One question to one registry.
#[derive(Clone, Debug)]
pub struct Request {
    pub namespace: Namespace,
    pub repository: Repository,
    pub target: Target,
    pub method: Method,
    /// Media types for `Accept`, each as it should be sent. Not for blobs, which take any.
    pub accept: Vec<String>,
    /// Ask for the bytes from this offset on (`Range: bytes=N-`). For GET of blobs only. There is no `If-Range`:
    /// the digest decides whether pieces fit, and validators differ between the hosts of one registry.
    pub range_from: Option<u64>,
    pub credentials: Credentials,
    pub purpose: Purpose,
}

/// With whose credentials an upstream is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Credentials {
    /// Nobody's: what is seen this way is public.
    None,
    /// What the operator configured for the registry; nobody's, where nothing is.
    Ours,
    /// The client's own `Authorization`, sent as it is. A name with its password is exchanged for a token where the registry
    /// wants one and its token service may see it. A 401 is given back with its challenges.
    Client(Secret),
}

/// What an answer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Somebody waits for it, and there is nothing else to give.
    Pull,
    /// What we hold may be out of date; it serves when the upstream had better not be bothered.
    Revalidate,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    Manifest(Reference),
    Blob(Digest),
    /// `tags/list`, a page of it.
    Tags(ListQuery),
    /// `referrers/<digest>`. Its redirects are not followed: they lead to pages for people.
    Referrers(Digest, ListQuery),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    Get,
    Head,
    /// Whether it may be read, with as little of it as every registry allows to be asked for: `HEAD` of a manifest (`GET`, where
    /// that is refused), the first byte of a blob. (Registries refuse `HEAD` of blobs they give by `GET`.)
    Probe,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// For the addresses of a name. glibc asks the next name server after five seconds: two may be down.
    pub resolve: Duration,
    /// TCP and TLS together.
    pub connect: Duration,
    /// From sending a request to its response head, for each hop.
    pub head: Duration,
    /// For each few KiB of a body.
    pub idle: Duration,
    /// For a token, all of it.
    pub token: Duration,
    /// For all that is asked of one mirror, before the next one is; and for each few KiB of its bodies.
    pub mirror: Duration,
    /// For the registry itself, whatever its mirrors took. Hops and rounds have deadlines of their own, but an upstream
    /// that uses each of them up would keep a client for minutes.
    pub exchange: Duration,
    /// The same for [`Purpose::Revalidate`]: whoever waits could have what we hold.
    pub revalidate: Duration,
    /// For a place among the requests that `max_concurrency` allows.
    pub queue: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            resolve: Duration::from_secs(12),
            connect: Duration::from_secs(5),
            head: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            token: Duration::from_secs(10),
            mirror: Duration::from_secs(10),
            exchange: Duration::from_secs(60),
            revalidate: Duration::from_secs(5),
            queue: Duration::from_secs(30),
        }
    }
}

impl Deadlines {
    /// For the addresses of a registry of which something is held: one that cannot be found leaves time to say so.
    fn resolve_to_revalidate(&self) -> Duration {
        self.resolve.min(self.revalidate / 2)
    }
}

/// The environment of [`Upstreams`], for tests to replace.
#[derive(Clone)]
pub struct Options {
    pub deadlines: Deadlines,
    /// Where names are looked up; what it answers is filtered all the same.
    pub resolver: Arc<dyn reqwest::dns::Resolve>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            deadlines: Deadlines::default(),
            resolver: Arc::new(resolve::SystemResolver::default()),
        }
    }
}

impl Upstreams {
    /// Prepares to talk to the configured registries and to all public ones. Makes no connection, and
    /// needs no runtime. Reads the system's root certificates from disk.
    ///
    /// # Errors
    ///
    /// A registry that is named twice or has an unusable URL, or TLS that cannot be set up.
    pub fn new(registries: Registries, proxies: ProxyEnvironment) -> Result<Self, BuildError> {
        Self::with_options(registries, proxies, Options::default())
    }

    /// Like [`Upstreams::new`], in another environment.
    pub fn with_options(
        registries: Registries,
        proxies: ProxyEnvironment,
        options: Options,
    ) -> Result<Self, BuildError> {
        let table = Table::build(registries, &proxies, &options, None)?;
        Ok(Upstreams(Arc::new(Shared {
            table: RwLock::new(Arc::new(table)),
            generation: AtomicU64::new(0),
            chains: Arc::new(Chains::new()),
            conditions: Arc::default(),
            heads: Heads::default(),
            faults: Faults::default(),
            options,
            proxies,
        })))
    }

    /// Goes on with another configuration. Requests under way are finished with the one they began with; registries for
    /// which nothing has changed keep their connections and tokens. Reads the system's root certificates from disk.
    ///
    /// # Errors
    ///
    /// As [`Upstreams::new`]; then nothing has changed.
    pub fn reload(&self, registries: Registries) -> Result<(), BuildError> {
        let shared = &*self.0;
        let before = shared.table();
        let after = Arc::new(Table::build(
            registries,
            &shared.proxies,
            &shared.options,
            Some(&before),
        )?);
        *shared.table.write().unwrap_or_else(PoisonError::into_inner) = after;
        // After the table: who sees the number sees what it stands for.
        shared.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// How often [`Upstreams::reload`] has changed something. Reading it costs a hit nothing; what follows from
    /// [`Upstreams::registries`] can be kept until it changes.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Our name in `Via`, the same as long as the process lives.
    pub fn pseudonym(&self) -> &str {
        self.0.chains.pseudonym()
    }

    /// Has what is asked for `target` name the caches that `chain` lists, as long as the result is kept.
    /// `chain` is a `Via` value of visible characters and blanks.
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

    /// What the operator chose.
    pub fn registries(&self) -> Arc<Registries> {
        self.0.table().registries.clone()
    }

    /// Whether the registry's HEAD is known to be refused where its GET is answered, so that asking by HEAD first is in vain.
    pub fn is_head_in_vain(&self, namespace: &Namespace) -> bool {
        let table = self.0.table();
        let endpoint = table.entry(namespace).registry(namespace);
        endpoint.is_ok_and(|endpoint| self.0.heads.is_wrong(endpoint.base.as_str(), Instant::now()))
    }

    /// How the registries are that were asked lately, by name.
    pub fn conditions(&self) -> Vec<RegistryCondition> {
        self.0.conditions.report(Instant::now())
    }

    /// Asks for `request`, and gives the head of a good answer with its body still to be read.
    ///
    /// The mirrors that are for such a request come first, anonymously; one that does not give it hands over to the next,
    /// and the registry itself is the last. A request with a client's credentials goes to the registry only. Each place
    /// is asked for the content once; before that there may be a challenge, a token, and redirects. A connection that
    /// breaks before a response head is replaced once, at once. Bodies that break are the caller's to resume, and the
    /// caller says so ([`Upstreams::blame`]): a mirror that gave wrong bytes is passed over for that content, and one whose
    /// body broke off is the last to be asked.
    ///
    /// # Errors
    ///
    /// All of [`UpstreamError`], of the registry itself where mirrors were asked before it; some without asking: when the
    /// registry is known to be down or to limit us (`condition`), and always when the cache is air-gapped. Nothing is
    /// logged here, the caller knows what it means; but that a registry goes down or comes back is.
    ///
    /// # Cancellation
    ///
    /// Closes the connection in use. Others who wait for the same token go on.
    pub async fn fetch(&self, request: &Request) -> Result<Response, UpstreamError> {
        let table = self.0.table();
        if table.registries.air_gapped {
            let host = request.namespace.as_str().into();
            return Err(UpstreamError::AirGapped { host });
        }
        let entry = table.entry(&request.namespace);
        let place = self.0.place(entry, request).await?;
        let mut response = match self.0.ask_mirrors(&table, entry, request, Turn::First).await {
            Some(outcome) => outcome?,
            None => match self.ask_registry_if_well(&table, request).await {
                Ok(response) => response,
                Err(error) => match self.0.ask_mirrors(&table, entry, request, Turn::Last).await {
                    Some(outcome) => outcome?,
                    None => return Err(error),
                },
            },
        };
        response.body.occupy(place);
        Ok(response)
    }

    /// Takes note that a body of [`Response::mirror`] was not what `request` asked for. Whether the next place should be
    /// asked at once: a mirror is blamed for the first time. The registry itself has no next place.
    pub fn blame(&self, request: &Request, mirror: Option<&Arc<str>>, fault: Fault) -> bool {
        let Some(mirror) = mirror else {
            return false;
        };
        let news = self
            .0
            .faults
            .note(mirror, Subject::of(request), fault, Instant::now());
        if news {
            tracing::warn!(
                registry = %request.namespace, repository = %request.repository, %mirror, ?fault,
                "a mirror does not give what its response head promised; the next place is asked"
            );
        }
        news
    }

    /// Asks the registry itself, unless it is known to be down or to limit us.
    async fn ask_registry_if_well(
        &self,
        table: &Table,
        request: &Request,
    ) -> Result<Response, UpstreamError> {
        let named = table.registries.settings(&request.namespace).1 == Named::Exactly;
        match self.0.conditions.admit(request, named, Instant::now()) {
            Admission::Ask(watch) => self.watched(request, watch).await,
            Admission::Refuse(error) => Err(error),
            Admission::Probe(watch, error) => {
                let (upstreams, request) = (self.clone(), request.clone());
                tokio::spawn(async move { drop(upstreams.watched(&request, watch).await) });
                Err(error)
            }
        }
    }

    async fn watched(&self, request: &Request, watch: Watch) -> Result<Response, UpstreamError> {
        let table = self.0.table();
        let outcome = self.0.ask_registry(&table, request).await;
        watch.note(outcome, Instant::now())
    }
}

impl Shared {
    fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A place among the requests the operator allows at once; `None` where there is no limit.
    async fn place(
        &self,
        entry: &Entry,
        request: &Request,
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
            Ok(Ok(place)) => Ok(Some(place)),
            _ => Err(UpstreamError::Overloaded {
                host: request.namespace.as_str().into(),
            }),
        }
    }

    /// The first good answer of a mirror; `None` when there is none. A redirect for the client is a good answer.
    async fn ask_mirrors(
        &self,
        table: &Table,
        entry: &Entry,
        request: &Request,
        turn: Turn,
    ) -> Option<Result<Response, UpstreamError>> {
        if matches!(request.credentials, Credentials::Client(_)) {
            return None;
        }
        let question = self.question(entry, request);
        let within = self.within(request, self.options.deadlines.mirror);
        for mirror in entry.mirrors(&request.target) {
            let (base, now) = (mirror.base(), Instant::now());
            let has_turn = match self.faults.of(&base, &Subject::of(request), now) {
                None => turn == Turn::First,
                Some(Fault::Broken) => turn == Turn::Last,
                Some(Fault::Wrong) => false,
            };
            if !has_turn || mirror.rests(now) {
                continue;
            }
            let endpoint = mirror.endpoint(&request.namespace);
            let asked = Asked {
                shared: self,
                table,
                endpoint: &endpoint,
                request,
                whose: Whose::Nobody,
            };
            let error = match timeout(within, self.look_up_and_ask(&asked, &question)).await {
                Ok(Ok(mut response)) => {
                    response.mirror = Some(base);
                    response.body.hurry(self.options.deadlines.mirror);
                    return Some(Ok(response));
                }
                Ok(outcome @ Err(UpstreamError::Redirected { .. })) => return Some(outcome),
                Ok(Err(error)) => error,
                Err(_elapsed) => too_slow(&endpoint),
            };
            tracing::debug!(%error, "a mirror does not give it; the next place is asked");
            if error.is_retryable() || error.is_outage() && error.verdict().is_none() {
                mirror.rest(Instant::now());
            }
        }
        None
    }

    async fn ask_registry(&self, table: &Table, request: &Request) -> Result<Response, UpstreamError> {
        let entry = table.entry(&request.namespace);
        let endpoint = entry.registry(&request.namespace)?;
        let clients = match &request.credentials {
            Credentials::Client(secret) => Held::of_client(secret),
            Credentials::Ours | Credentials::None => None,
        };
        let whose = match &request.credentials {
            Credentials::Client(secret) => Whose::Client(secret, clients.as_ref()),
            Credentials::Ours if !entry.logins.is_nothing() => Whose::Ours(&entry.logins),
            Credentials::Ours | Credentials::None => Whose::Nobody,
        };
        let asked = Asked {
            shared: self,
            table,
            endpoint: &endpoint,
            request,
            whose,
        };
        let question = self.question(entry, request);
        let within = self.within(request, self.options.deadlines.exchange);
        match timeout(within, self.look_up_and_ask(&asked, &question)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(too_slow(&endpoint)),
        }
    }

    async fn look_up_and_ask(
        &self,
        asked: &Asked<'_>,
        question: &Question,
    ) -> Result<Response, UpstreamError> {
        if asked.request.purpose == Purpose::Revalidate {
            let within = self.options.deadlines.resolve_to_revalidate();
            exchange::look_up(asked.endpoint, asked.endpoint.origin(), within).await?;
        }
        self.ask_place(asked, question).await
    }

    fn question(&self, entry: &Entry, request: &Request) -> Question {
        let mut question = request.question(entry);
        question.headers.insert(VIA, self.chains.via(request));
        question
    }

    /// `most`, or less where there is something else to give.
    fn within(&self, request: &Request, most: Duration) -> Duration {
        match request.purpose {
            Purpose::Pull => most,
            Purpose::Revalidate => most.min(self.options.deadlines.revalidate),
        }
    }
}

fn too_slow(endpoint: &Endpoint) -> UpstreamError {
    UpstreamError::Timeout {
        host: exchange::host_of(endpoint.origin()),
        phase: Phase::Exchange,
    }
}

impl Request {
    fn question(&self, entry: &Entry) -> Question {
        let mut headers = HeaderMap::new();
        if !matches!(self.target, Target::Blob(_))
            && !self.accept.is_empty()
            // One line: some registries read only the first.
            && let Ok(accept) = HeaderValue::from_str(&self.accept.join(", "))
        {
            headers.insert(ACCEPT, accept);
        }
        if let (Target::Blob(_), Method::Get, Some(from)) = (&self.target, self.method, self.range_from) {
            let range =
                HeaderValue::from_str(&format!("bytes={from}-")).expect("digits are valid in a header");
            headers.insert(RANGE, range);
        }
        let method = match (self.method, &self.target) {
            (Method::Get, _) | (Method::Probe, Target::Blob(_)) => http::Method::GET,
            (Method::Head | Method::Probe, _) => http::Method::HEAD,
        };
        if method == http::Method::GET && self.method == Method::Probe {
            headers.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
        }
        Question {
            method,
            headers,
            body: None,
            redirects: match &self.target {
                Target::Referrers(..) => Redirects::WithinApi,
                Target::Blob(_) if entry.passes_redirects() => Redirects::Pass,
                _ => Redirects::Follow,
            },
        }
    }
}
