//! What a request means: the `/v2/` API, on one core.

mod error;
mod front;
mod listing;
mod memory;
mod page;
mod pull;
mod respond;
mod route;
mod via;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use crate::cache::{Cache, Lru, Origin};
use crate::http::{Body, CacheResult, Fields, Method, Ready, RequestHead, Response};
use crate::limits::OPEN_FILES_PER_CORE_MAX;
use crate::oci::{Digest, Namespace};
use crate::server::Handler;
use crate::store::{Entry, Key};
use crate::upstream::OnBehalf;

use error::PullError;
use memory::Memory;
use route::{Asked, Chosen, Route, What};

pub use front::FrontDoor;

/// What the operator chose for the front.
#[derive(Clone)]
pub struct Settings {
    pub default_registry: Namespace,
    /// Bytes of a core's memory for small answers.
    pub memory_bytes_max: u64,
    /// Whether `X-Registry` may choose the registry.
    pub registry_header: bool,
    /// Who may come in, when not everybody.
    pub front: Option<FrontDoor>,
}

/// One core's registry: what it has in memory and open, in front of the shared cache.
pub struct Registry {
    settings: Settings,
    cache: Cache,
    memory: RefCell<Memory>,
    /// Committed blobs, opened.
    files: RefCell<Lru<Digest, Entry>>,
    /// The generation of the registries' settings that `memory` and `whitelist` are from.
    generation: Cell<Option<u64>>,
    /// Whether registries that are not named do not exist.
    whitelist: Cell<bool>,
}

impl Registry {
    pub fn new(cache: Cache, settings: Settings) -> Self {
        Registry {
            cache,
            memory: RefCell::new(Memory::new(settings.memory_bytes_max)),
            files: RefCell::new(Lru::new(OPEN_FILES_PER_CORE_MAX as u64, OPEN_FILES_PER_CORE_MAX)),
            generation: Cell::new(None),
            whitelist: Cell::new(false),
            settings,
        }
    }

    /// Notices new settings: what is remembered was given out under the old ones. One read of a shared number.
    fn keep_up(&self) {
        let upstreams = self.cache.upstreams();
        let generation = Some(upstreams.generation());
        if self.generation.replace(generation) != generation {
            self.whitelist.set(upstreams.registries().whitelist_mode);
            *self.memory.borrow_mut() = Memory::new(self.settings.memory_bytes_max);
        }
    }

    /// Whether the front door is open for `head`.
    fn admits(&self, head: &RequestHead<'_>) -> bool {
        match &self.settings.front {
            Some(door) if front::is_guarded(head.path) => door.opens(head.authorization),
            _ => true,
        }
    }

    /// Whether a field of `head` chooses its registry.
    fn is_steered(&self, head: &RequestHead<'_>) -> bool {
        self.settings.registry_header && head.has_registry()
    }

    /// The head as the rest of the way sees it: without what was meant for the front door, and without a target where
    /// the target alone does not tell what is asked for, so that nothing is remembered under it.
    fn admit<'b>(&self, head: &RequestHead<'b>) -> Result<RequestHead<'b>, PullError> {
        self.keep_up();
        if !self.admits(head) {
            return Err(PullError::Door);
        }
        let mut admitted = *head;
        if self.settings.front.is_some() {
            admitted.authorization = None;
        }
        if self.is_steered(head) {
            admitted.target = "";
        }
        Ok(admitted)
    }

    fn find_route(&self, head: &RequestHead<'_>) -> Result<Route, PullError> {
        let field = head.registry().filter(|_| self.settings.registry_header);
        let route = route::parse(head.path, head.query, field, &self.settings.default_registry)?;
        if self.whitelist.get()
            && let Route::Content(Asked { origin, chosen, .. }, what) = &route
            && !self.cache.upstreams().registries().exists(&origin.namespace)
        {
            return Err(match chosen {
                Chosen::Beside => PullError::Unlisted(matches!(what, What::Referrers(..))),
                Chosen::InName => PullError::NotAllowed,
            });
        }
        Ok(route)
    }
}

impl Registry {
    /// Notes who waits for what a request asks for, if it has come through other caches.
    fn on_behalf(
        &self,
        head: &RequestHead<'_>,
        asked: &Asked,
        what: &What,
    ) -> Result<Option<OnBehalf>, PullError> {
        let upstreams = self.cache.upstreams();
        let chain = via::chain(head.via(), upstreams.pseudonym())?;
        let Origin {
            namespace,
            repository,
        } = &asked.origin;
        Ok(chain
            .zip(what.target())
            .map(|(chain, target)| upstreams.on_behalf(namespace, repository, target, &chain)))
    }
}

impl Handler for Registry {
    fn ready(&self, head: &RequestHead<'_>) -> Option<Rc<Ready>> {
        let plain = matches!(head.method, Method::Get | Method::Head)
            && head.range.is_none()
            && !head.has_if_none_match();
        if plain && !self.is_steered(head) && self.admits(head) {
            self.keep_up();
            self.memory.borrow_mut().find(head)
        } else {
            None
        }
    }

    fn file_failed(&self, head: &RequestHead<'_>) {
        self.memory.borrow_mut().forget(head.target);
        if let Ok(Route::Content(_, What::Blob(digest))) = self.find_route(head) {
            self.files.borrow_mut().remove(&digest);
            self.cache.distrust(Key::Blob(digest));
        }
    }

    fn answer<'a>(&'a self, head: &'a RequestHead<'a>) -> Pin<Box<dyn Future<Output = Response> + 'a>> {
        Box::pin(self.pull(head))
    }
}

/// A short text, for people and health checks.
fn plain(status: u16, content_type: &str, text: &'static str) -> Response {
    Response {
        status,
        fields: Fields::new()
            .with("Content-Type", content_type)
            .with("Docker-Distribution-Api-Version", "registry/2.0")
            .with("Cache-Control", "no-store"),
        length: Some(text.len() as u64),
        body: Body::Bytes(bytes::Bytes::from_static(text.as_bytes())),
        cache: CacheResult::None,
    }
}
