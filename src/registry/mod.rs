//! The registry API under `/v2/`, with health checks, statistics and the web page. Each core has a [`Registry`].

mod blob;
mod callers;
mod error;
#[cfg(any(test, fuzzing))]
#[path = "tests/fuzz.rs"]
pub mod fuzz;
mod health;
mod legacy;
mod listing;
mod manifest;
mod pagination;
mod passthrough;
mod pull;
mod respond;
mod response_cache;
mod route;
mod route_error;
mod stats;
mod via;
mod web;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;

use crate::admin::LegacyAdmin;
use crate::auth::{
    AuthError, Authenticator, ClientAuth, Forbidden, Identity, Readers, Subject, requires_authentication,
};
use crate::cache::{Cache, CoreLookupCounts, OpenFiles, Removals, Unseen};
use crate::config::{Live, Registries};
use crate::http::{CacheResult, ContentName, Method, Ready, RequestDetails, RequestHead, Response};
use crate::oci::{DigestPrefix, Namespace, Origin};
use crate::runtime::heartbeat::Health;
use crate::server::Handler;
use crate::upstream::OnBehalf;
use crate::web::WebSite;

use error::PullError;
use response_cache::ResponseCache;
use route::{Chosen, Requested, Route, What};

/// The options of the operator for the registry API.
#[derive(Clone)]
pub struct Options {
    /// The registry for names without a registry. `None` if such names are rejected.
    pub default_registry: Option<Namespace>,
    /// The size in bytes of this core's cache of small responses.
    pub response_cache_bytes_max: u64,
    /// The number of committed blobs that each core keeps open.
    pub open_files_max: usize,
    /// Whether `X-Registry` may choose the registry.
    pub registry_header: bool,
    /// Whether `/v2/` requests the registry credentials of clients. Cannot be combined with client
    /// authentication.
    pub client_login: bool,
    /// The commands of ociregistry. `None` if `/cmd/` has none.
    pub legacy_admin: Option<LegacyAdmin>,
    /// The web page. `None` if it is off.
    pub web: Option<WebSite>,
    /// The health of the process.
    pub health: Health,
}

/// The registry API of one core, with a response cache and open files in front of the shared cache.
pub struct Registry {
    options: Options,
    cache: Cache,
    responses: RefCell<ResponseCache>,
    open_files: OpenFiles,
    /// The removals of all stores, and the number of removals that this core has seen.
    removals: Option<Removals>,
    removals_seen: Cell<u64>,
    /// The suspensions of registries that this core has seen.
    suspensions_seen: Cell<u64>,
    /// The lookups of this core.
    lookups: CoreLookupCounts,
    live: Live,
    settings: RefCell<Settings>,
    authenticator: Authenticator,
}

/// This core's copy of the live settings.
struct Settings {
    generation: u64,
    /// Owned by this core. A reference count shared by all cores would cost each hit a contended
    /// write.
    registries: Rc<Registries>,
}

impl Settings {
    fn read(live: &Live) -> Self {
        // The generation is read first, so that a concurrent change is read again later.
        Settings {
            generation: live.generation(),
            registries: Rc::new(Registries::clone(&live.registries())),
        }
    }
}

impl Registry {
    pub fn new(cache: Cache, live: Live, options: Options, client_auth: ClientAuth) -> Self {
        let settings = Settings::read(&live);
        Registry {
            authenticator: Authenticator::new(client_auth, &settings.registries.allow),
            settings: RefCell::new(settings),
            live,
            removals: cache.removals(),
            lookups: cache.lookup_counts().core(),
            removals_seen: Cell::new(0),
            suspensions_seen: Cell::new(0),
            cache,
            responses: RefCell::new(ResponseCache::new(
                options.response_cache_bytes_max,
                options.open_files_max,
            )),
            open_files: OpenFiles::new(options.open_files_max),
            options,
        }
    }

    /// Returns the current settings. A change clears the response cache, because the access rules
    /// may differ.
    fn registries(&self) -> Rc<Registries> {
        let mut settings = self.settings.borrow_mut();
        let changed = settings.generation != self.live.generation();
        if changed {
            *settings = Settings::read(&self.live);
            self.responses.borrow_mut().clear();
        }
        if changed || !self.authenticator.is_current() {
            self.authenticator.reload(&settings.registries.allow);
        }
        settings.registries.clone()
    }

    /// Returns whether the response cache was filled under the current settings.
    fn is_current(&self) -> bool {
        self.settings.borrow().generation == self.live.generation() && self.authenticator.is_current()
    }

    /// Returns whether a header field of `head` chooses the registry.
    fn is_steered(&self, head: &RequestHead<'_>) -> bool {
        self.options.registry_header && head.has_registry()
    }

    /// Authenticates the client. Returns the identity, and the head without the credentials for
    /// this cache. With a registry field, the target does not identify the content. The returned
    /// head then has no target, so that the response cache stores no response.
    async fn authenticate<'b>(
        &self,
        head: &RequestHead<'b>,
    ) -> Result<(RequestHead<'b>, Identity), PullError> {
        // Loads the current configuration of client authentication.
        self.registries();
        let auth_enabled = self.authenticator.is_enabled();
        let rules = |subject: Subject<'_>| self.registries().allow.rules_for(subject);
        let is_required = requires_authentication(head.path) || self.legacy_admin(head).is_some();
        let identity = self.authenticator.authenticate(head, is_required, &rules).await?;
        let mut authenticated = *head;
        if auth_enabled {
            authenticated.authorization = None;
        }
        if self.is_steered(head) {
            authenticated.target = "";
        }
        Ok((authenticated, identity))
    }

    /// Authorizes the client for a route. Returns the permitted readers of the response, which the
    /// handler of the route requires.
    fn authorize(&self, identity: &Identity, route: Route) -> Result<(Route, Readers), PullError> {
        let readers = match &route {
            Route::Content(requested, what) => {
                self.check_served(requested, what)?;
                self.registries().authorize(identity, &requested.origin)?
            }
            Route::Ping | Route::Health(_) | Route::Stats | Route::Web => Readers::of_service(identity)?,
        };
        Ok((route, readers))
    }

    fn find_route(&self, head: &RequestHead<'_>) -> Result<Route, PullError> {
        let field = head.registry().filter(|_| self.options.registry_header);
        let route = route::parse(
            head.path,
            head.query,
            field,
            self.options.default_registry.as_ref(),
        )?;
        Ok(route)
    }

    /// Returns an error if the cache does not serve the registry of the content.
    fn check_served(&self, requested: &Requested, what: &What) -> Result<(), PullError> {
        let namespace = &requested.origin.namespace;
        if self.registries().exists(namespace) {
            return Ok(());
        }
        Err(match requested.chosen {
            Chosen::Beside => PullError::Unlisted(namespace.clone(), matches!(what, What::Referrers(..))),
            Chosen::InName => PullError::NotAllowed(namespace.clone()),
        })
    }

    /// Registers the caches that wait for the content of a request, if the request has come through
    /// other caches.
    fn on_behalf(
        &self,
        head: &RequestHead<'_>,
        requested: &Requested,
        what: &What,
    ) -> Result<Option<OnBehalf>, PullError> {
        let upstreams = self.cache.upstreams();
        let chain = via::chain(head.via(), upstreams.pseudonym())?;
        let Origin {
            namespace,
            repository,
        } = &requested.origin;
        Ok(chain
            .zip(what.target())
            .map(|(chain, target)| upstreams.on_behalf(namespace, repository, target, &chain)))
    }
}

impl Registry {
    /// Reports the content that this core used, for the choice of the content that is evicted.
    fn report_uses(&self) {
        let responses = self.responses.borrow_mut().take_used();
        for digest in responses.into_iter().chain(self.open_files.take_used()) {
            self.cache.report_use(digest);
        }
    }

    /// Forgets the responses and closes the files of content that the store has removed.
    fn forget_removed(&self) {
        let Some(removals) = &self.removals else { return };
        let mut seen = self.removals_seen.get();
        let unseen = removals.unseen(&mut seen);
        self.removals_seen.set(seen);
        match unseen {
            Unseen::Nothing => {}
            Unseen::Some(removed) => {
                let removed: HashSet<DigestPrefix> = removed.into_iter().collect();
                let is_removed = |digest| removed.contains(&digest);
                self.responses.borrow_mut().forget_removed(is_removed);
                self.open_files.close_removed(is_removed);
            }
            Unseen::TooMany => {
                self.responses.borrow_mut().clear();
                self.open_files.close_removed(|_| true);
            }
        }
    }
}

impl Registry {
    /// Forgets the manifests of registries that get no requests any more. The next request checks
    /// whether the blobs are stored.
    fn forget_suspended(&self) {
        let upstreams = self.cache.upstreams();
        let suspensions = upstreams.suspensions();
        if self.suspensions_seen.replace(suspensions) == suspensions {
            return;
        }
        let suspended = upstreams.suspended();
        let is_suspended = |name: &ContentName| suspended.contains(&name.registry);
        self.responses.borrow_mut().forget_suspended(is_suspended);
    }
}

impl Handler for Registry {
    fn ready(&self, head: &RequestHead<'_>) -> Option<Rc<Ready>> {
        let plain = matches!(head.method, Method::Get | Method::Head)
            && head.range.is_none()
            && !head.has_if_none_match();
        // `Registry::registries` clears a response cache from older settings.
        if plain && self.is_current() && !self.is_steered(head) {
            let access = self.authenticator.cached_access(head)?;
            self.responses.borrow_mut().find(head, &access)
        } else {
            None
        }
    }

    fn tick(&self) {
        self.report_uses();
        self.forget_removed();
        self.forget_suspended();
    }

    fn file_failed(&self, head: &RequestHead<'_>) {
        self.responses.borrow_mut().forget(head.target);
        if let Ok(Route::Content(_, What::Blob(digest))) = self.find_route(head) {
            self.open_files.close(&digest);
            self.cache.verify_blob(digest);
        }
    }

    fn answer<'a>(
        &'a self,
        head: &'a RequestHead<'a>,
        details: &'a RequestDetails,
    ) -> Pin<Box<dyn Future<Output = Response> + 'a>> {
        Box::pin(self.pull(head, details))
    }
}

impl From<AuthError> for PullError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Unauthorized => PullError::Unauthorized,
            AuthError::WrongPassword => PullError::WrongPassword,
            AuthError::CertificateRequired => PullError::CertificateRequired,
            AuthError::Overloaded => PullError::AuthOverloaded,
        }
    }
}

impl From<Forbidden> for PullError {
    fn from(_: Forbidden) -> Self {
        PullError::Forbidden
    }
}

/// Builds a short response that no cache stores.
fn plain(status: u16, content_type: &str, text: &'static str) -> Response {
    let fields = respond::common()
        .with("Content-Type", content_type)
        .with("Cache-Control", "no-store");
    let body = Bytes::from_static(text.as_bytes());
    respond::in_memory(status, fields, body, CacheResult::None)
}
