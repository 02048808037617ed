//! What a request means: the `/v2/` API, on one core.

mod error;
mod lru;
mod memory;
mod pull;
mod respond;
mod route;
mod stats;

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use crate::cache::Cache;
use crate::config::Registries;
use crate::http::{Body, CacheResult, Fields, Method, Ready, RequestHead, Response};
use crate::limits::OPEN_FILES_PER_CORE_MAX;
use crate::oci::{Digest, Namespace};
use crate::server::Handler;
use crate::store::{Entry, Key};

use lru::Lru;
use memory::Memory;

pub use route::{Route, RouteError};

/// One core's registry: what it has in memory and open, in front of the shared cache.
pub struct Registry {
    default_registry: Namespace,
    cache: Cache,
    memory: RefCell<Memory>,
    /// Committed blobs, opened.
    files: RefCell<Lru<Digest, Entry>>,
    /// Whether `/_/stats` is there.
    stats: bool,
    settings: RefCell<Settings>,
}

/// The operator's choices as this core last saw them.
struct Settings {
    generation: u64,
    registries: Arc<Registries>,
}

impl Registry {
    pub fn new(cache: Cache, default_registry: Namespace, memory_bytes_max: u64) -> Self {
        // The generation first: a change in between is seen as one later.
        let settings = Settings {
            generation: cache.generation(),
            registries: cache.registries(),
        };
        Registry {
            settings: RefCell::new(settings),
            default_registry,
            cache,
            memory: RefCell::new(Memory::new(memory_bytes_max)),
            files: RefCell::new(Lru::new(OPEN_FILES_PER_CORE_MAX as u64, OPEN_FILES_PER_CORE_MAX)),
            stats: false,
        }
    }
}

impl Registry {
    /// The operator's choices. When they have changed, what is remembered may be for other eyes, and is forgotten.
    fn registries(&self) -> Arc<Registries> {
        let mut settings = self.settings.borrow_mut();
        let generation = self.cache.generation();
        if settings.generation != generation {
            *settings = Settings {
                generation,
                registries: self.cache.registries(),
            };
            self.memory.borrow_mut().clear();
        }
        settings.registries.clone()
    }
}

impl Handler for Registry {
    fn ready(&self, head: &RequestHead<'_>) -> Option<Rc<Ready>> {
        let plain = matches!(head.method, Method::Get | Method::Head)
            && head.range.is_none()
            && !head.has_if_none_match();
        // What was remembered under other choices is forgotten on the long way.
        if plain && self.settings.borrow().generation == self.cache.generation() {
            self.memory.borrow_mut().find(head)
        } else {
            None
        }
    }

    fn file_failed(&self, head: &RequestHead<'_>) {
        self.memory.borrow_mut().forget(head.target);
        if let Ok(Route::Blob { digest, .. }) = route::parse(head.path, head.query, &self.default_registry) {
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
