//! The registries we pull from.
//!
//! [`Upstreams::fetch`] asks one registry for one manifest or blob: where it lives, the anonymous token it
//! wants, the redirects it sends, and the rules about whom we talk to at all. It runs on the helper
//! pool; nothing here may be called from a core.
//!
//! Not here: what to ask for and when (`cache`), waiting between attempts (the caller does, told by
//! [`Resume`]), digests (the fill computes them), statuses for clients (`registry`).

mod address;
mod auth;
mod condition;
mod content_range;
mod endpoint;
mod error;
mod exchange;
mod headers;
mod policy;
mod redirect;
mod resolve;
mod response;
mod retry;
mod tls;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::header::{ACCEPT, RANGE};
use http::{HeaderMap, HeaderValue};
use tokio::time::{Instant, timeout};

pub use auth::Secret;
pub use condition::{Budget, RegistryCondition, Source, State};
pub use content_range::{ContentRange, ResumeVerdict};
pub use error::{BuildError, Phase, Refusal, Restraint, UpstreamError, seconds_left};
pub use response::{Body, Response, resume_matches};
pub use retry::Resume;

use crate::config::{Named, ProxyEnvironment, Registries, RegistryName};
use crate::oci::{Digest, Namespace, Reference, Repository};
use auth::challenge;
use auth::token::{Slot, Token, TokenKey, Tokens};
use condition::{Admission, Conditions, Watch};
use endpoint::{ClientBuilder, Endpoint};
use exchange::{Answer, Question};
use policy::Policy;

/// Answers one request may cost, redirects aside: without a token, with one that was kept, with a new one.
const ROUNDS_MAX: usize = 3;

/// Answers a kept token that has expired with 400, where others answer 401.
const ANSWERS_400_TO_OLD_TOKENS: &str = "public.ecr.aws";

/// All registries there are: the configured ones, and every public one. Cheap to clone.
#[derive(Clone)]
pub struct Upstreams(Arc<Shared>);

struct Shared {
    /// Replaced as a whole; requests under way keep the one they began with.
    table: RwLock<Arc<Table>>,
    /// How often the table was replaced.
    generation: AtomicU64,
    tokens: Tokens,
    conditions: Arc<Conditions>,
    options: Options,
    proxies: ProxyEnvironment,
}

/// What follows from one configuration.
struct Table {
    registries: Arc<Registries>,
    configured: HashMap<Namespace, Endpoint>,
    /// For all others. Its connections lead to public addresses only.
    public: reqwest::Client,
}

/// One question to one registry.
#[derive(Clone, Debug)]
pub struct Request {
    pub namespace: Namespace,
    pub repository: Repository,
    pub target: Target,
    pub method: Method,
    /// Media types for `Accept`, each as it should be sent. For manifests only; blobs take any.
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
    /// The client's own `Authorization`. With it no token is fetched, and a 401 is given back with its challenges.
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

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    Manifest(Reference),
    Blob(Digest),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    Get,
    Head,
    /// Whether it may be read, with as little of it as every registry allows to be asked for: `HEAD` of a manifest, the first
    /// byte of a blob. (Registries refuse `HEAD` of blobs they give by `GET`.)
    Probe,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Name resolution, TCP and TLS together.
    pub connect: Duration,
    /// From sending a request to its response head, for each hop.
    pub head: Duration,
    /// For each few KiB of a body.
    pub idle: Duration,
    /// For a token, all of it.
    pub token: Duration,
    /// For a whole [`Upstreams::fetch`]. Hops and rounds have deadlines of their own, but an upstream that
    /// uses each of them up would keep a client for minutes.
    pub exchange: Duration,
    /// The same for [`Purpose::Revalidate`]: whoever waits could have what we hold.
    pub revalidate: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            connect: Duration::from_secs(5),
            head: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            token: Duration::from_secs(10),
            exchange: Duration::from_secs(60),
            revalidate: Duration::from_secs(5),
        }
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
            resolver: Arc::new(resolve::SystemResolver),
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
        let table = Table::build(registries, &options)?;
        Ok(Upstreams(Arc::new(Shared {
            table: RwLock::new(Arc::new(table)),
            generation: AtomicU64::new(0),
            tokens: Tokens::default(),
            conditions: Arc::default(),
            options,
            proxies,
        })))
    }

    /// Goes on with another configuration. Requests under way are finished with the one they began with.
    ///
    /// # Errors
    ///
    /// As [`Upstreams::new`]; then nothing has changed.
    pub fn reload(&self, registries: Registries) -> Result<(), BuildError> {
        let table = Arc::new(Table::build(registries, &self.0.options)?);
        *self.0.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        // After the table: who sees the number sees what it stands for.
        self.0.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// How often [`Upstreams::reload`] has changed something. Reading it costs a hit nothing; what follows from
    /// [`Upstreams::registries`] can be kept until it changes.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// What the operator chose.
    pub fn registries(&self) -> Arc<Registries> {
        self.0.table().registries.clone()
    }

    /// How the registries are that were asked lately, by name.
    pub fn conditions(&self) -> Vec<RegistryCondition> {
        self.0.conditions.report(Instant::now().into_std())
    }

    /// Asks for `request`, and gives the head of a good answer with its body still to be read.
    ///
    /// One call makes one request that the registry answers with content; before it there may be a
    /// challenge, a token, and redirects. A connection that breaks before a response head is
    /// replaced once, at once. Bodies that break are the caller's to resume.
    ///
    /// # Errors
    ///
    /// All of [`UpstreamError`], some without asking: when the registry is known to be down or to limit us
    /// (`condition`), and always when the cache is air-gapped. Nothing is logged here, the caller knows what it
    /// means; but that a registry goes down or comes back is.
    ///
    /// # Cancellation
    ///
    /// Closes the connection in use. Others who wait for the same token go on.
    pub async fn fetch(&self, request: &Request) -> Result<Response, UpstreamError> {
        let registries = self.registries();
        if registries.air_gapped {
            let host = request.namespace.as_str().into();
            return Err(UpstreamError::AirGapped { host });
        }
        let named = registries.settings(&request.namespace).1 == Named::Exactly;
        match self.0.conditions.admit(request, named, Instant::now().into_std()) {
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
        let outcome = self.exchange(request).await;
        watch.note(outcome, Instant::now().into_std())
    }

    /// Asks, whatever is known of the registry.
    async fn exchange(&self, request: &Request) -> Result<Response, UpstreamError> {
        let shared = &*self.0;
        let endpoint = shared.table().endpoint(&request.namespace)?;
        let question = request.question();
        let exchange = async {
            let answer = shared.ask(&endpoint, request, &question).await?;
            let mut response = exchange::conclude(answer, &question, &shared.options.deadlines).await?;
            response.public = !matches!(request.credentials, Credentials::Client(_));
            Ok(response)
        };
        let deadlines = &shared.options.deadlines;
        let within = match request.purpose {
            Purpose::Pull => deadlines.exchange,
            Purpose::Revalidate => deadlines.exchange.min(deadlines.revalidate),
        };
        match timeout(within, exchange).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => {
                let host = exchange::host_of(endpoint.origin());
                Err(UpstreamError::Timeout {
                    host,
                    phase: Phase::Exchange,
                })
            }
        }
    }
}

impl Request {
    fn question(&self) -> Question {
        let mut headers = HeaderMap::new();
        if let Target::Manifest(_) = self.target
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
        Question { method, headers }
    }
}

impl Table {
    fn build(registries: Registries, options: &Options) -> Result<Self, BuildError> {
        let builder = ClientBuilder {
            tls: tls::client_config()?,
            resolver: options.resolver.clone(),
            deadlines: options.deadlines,
        };
        let mut configured = HashMap::new();
        for config in &registries.entries {
            let RegistryName::Exact(name) = &config.name else {
                continue;
            };
            let endpoint = Endpoint::configured(name, &config.settings, &builder)?;
            if configured.insert(name.clone(), endpoint).is_some() {
                return Err(BuildError::Registry {
                    name: config.name.to_string(),
                    reason: "it is configured twice",
                });
            }
        }
        let public = builder.build(Policy::Public)?;
        Ok(Table {
            registries: Arc::new(registries),
            configured,
            public,
        })
    }

    fn endpoint(&self, namespace: &Namespace) -> Result<Endpoint, UpstreamError> {
        match self.configured.get(namespace) {
            Some(endpoint) => Ok(endpoint.clone()),
            None => Endpoint::public(namespace, &self.public),
        }
    }
}

impl Shared {
    fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks until the answer is one that another token would not change.
    async fn ask(
        &self,
        endpoint: &Endpoint,
        request: &Request,
        question: &Question,
    ) -> Result<Answer, UpstreamError> {
        let Request {
            namespace,
            repository,
            ..
        } = request;
        let url = endpoint.url(repository, &request.target);
        if let Credentials::Client(secret) = &request.credentials {
            return exchange::follow(endpoint, url, question, Some(secret), &self.options.deadlines).await;
        }

        let started = Instant::now();
        let mut sent = self.first_token(endpoint, request).await;
        for _ in 1..ROUNDS_MAX {
            let secret = sent.as_ref().map(|(_, token)| &token.secret);
            let answer =
                exchange::follow(endpoint, url.clone(), question, secret, &self.options.deadlines).await?;
            if !is_challenged(&answer, namespace, sent.is_some()) {
                return Ok(answer);
            }
            let challenges = challenge::parse_challenges(answer.response.headers());
            let wanted = match (challenge::bearer(&challenges), &sent) {
                (Some(bearer), _) => {
                    let key = TokenKey::new(namespace, repository, bearer)
                        .map_err(|what| UpstreamError::protocol(&answer.host, what))?;
                    self.tokens.slot(key)
                }
                (None, Some((slot, _))) => slot.clone(),
                // It wants something else than a token, which we do not have.
                (None, None) => return Ok(answer),
            };
            if let Some((slot, token)) = sent.take() {
                // The very token it wants, fetched for this request: another would be refused as well.
                if Arc::ptr_eq(&slot, &wanted) && token.fetched >= started {
                    return Ok(answer);
                }
                slot.discard(&token).await;
            }
            // Read to its end, the refusal leaves its connection for the next round.
            exchange::read_bounded(answer.response, exchange::ERROR_BODY_BYTES_MAX).await;
            let token = wanted.token(endpoint, &self.options.deadlines).await?;
            self.tokens.remember(namespace, repository, &wanted);
            sent = Some((wanted, token));
        }
        let secret = sent.as_ref().map(|(_, token)| &token.secret);
        exchange::follow(endpoint, url, question, secret, &self.options.deadlines).await
    }

    /// The token that worked last time, renewed if it has expired.
    async fn first_token(&self, endpoint: &Endpoint, request: &Request) -> Option<(Arc<Slot>, Token)> {
        let Request {
            namespace,
            repository,
            ..
        } = request;
        let slot = self.tokens.first(namespace, repository)?;
        match slot.token(endpoint, &self.options.deadlines).await {
            Ok(token) => Some((slot, token)),
            // The registry may have moved its token service; its next challenge says so.
            Err(_) => {
                self.tokens.forget(namespace, repository);
                None
            }
        }
    }
}

/// Whether a token, or another one, may change the answer.
fn is_challenged(answer: &Answer, namespace: &Namespace, with_token: bool) -> bool {
    // A redirect target that wants credentials is broken: it must never see ours.
    !answer.foreign
        && match answer.response.status().as_u16() {
            401 => true,
            400 => with_token && namespace.as_str() == ANSWERS_400_TO_OLD_TOKENS,
            _ => false,
        }
}
