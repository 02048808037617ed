//! What a request means: the `/v2/` API, on one core.

mod bucket;
mod door;
mod error;
#[cfg(any(test, fuzzing))]
#[path = "tests/fuzz.rs"]
pub mod fuzz;
mod health;
mod listing;
mod login;
mod memory;
mod page;
mod pull;
mod respond;
mod route;
mod stats;
mod via;

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use crate::cache::{Cache, Lru, Origin};
use crate::config::{Registries, RuleSet, Visitor};
use crate::http::{Body, CacheResult, Method, Ready, RequestHead, Response};
use crate::oci::{Digest, Namespace};
use crate::runtime::vitals::Vitals;
use crate::server::Handler;
use crate::store::{Entry, Key};
use crate::upstream::OnBehalf;

use door::{Guest, Keeper, Turned};
use error::PullError;
use memory::Memory;
use route::{Asked, Chosen, Route, What};

pub use door::FrontDoor;

/// What the operator chose for the front.
#[derive(Clone)]
pub struct Options {
    /// The registry of names without one; `None`: there are no such names.
    pub default_registry: Option<Namespace>,
    /// Bytes of a core's memory for small answers.
    pub memory_bytes_max: u64,
    /// Open files a core keeps, of committed blobs.
    pub open_files_max: usize,
    /// Whether `X-Registry` may choose the registry.
    pub registry_header: bool,
    /// Whether clients are asked for the logins they have for registries. Not together with a door.
    pub client_login: bool,
    /// How the process is.
    pub vitals: Vitals,
}

/// One core's registry: what it has in memory and open, in front of the shared cache.
pub struct Registry {
    options: Options,
    cache: Cache,
    memory: RefCell<Memory>,
    /// Committed blobs, opened.
    files: RefCell<Lru<Digest, Entry>>,
    settings: RefCell<Settings>,
    keeper: Keeper,
}

/// The operator's choices as this core last saw them.
struct Settings {
    generation: u64,
    /// A copy of this core's own: counting references to the one of all cores would be a shared write per hit.
    registries: Rc<Registries>,
}

impl Registry {
    pub fn new(cache: Cache, options: Options, door: FrontDoor) -> Self {
        // The generation first: a change in between is seen as one later.
        let settings = Settings {
            generation: cache.generation(),
            registries: Rc::new(Registries::clone(&cache.registries())),
        };
        Registry {
            keeper: Keeper::new(door, &settings.registries.allow),
            settings: RefCell::new(settings),
            cache,
            memory: RefCell::new(Memory::new(options.memory_bytes_max, options.open_files_max)),
            files: RefCell::new(Lru::new(options.open_files_max as u64, options.open_files_max)),
            options,
        }
    }

    /// The operator's choices. When they have changed, what is remembered may be for other eyes, and is forgotten.
    fn registries(&self) -> Rc<Registries> {
        let mut settings = self.settings.borrow_mut();
        let generation = self.cache.generation();
        let changed = settings.generation != generation;
        if changed {
            *settings = Settings {
                generation,
                registries: Rc::new(Registries::clone(&self.cache.registries())),
            };
            self.memory.borrow_mut().clear();
        }
        if changed || !self.keeper.is_current() {
            self.keeper.renew(&settings.registries.allow);
        }
        settings.registries.clone()
    }

    /// Whether what this core remembers was under the operator's choices as they are.
    fn is_current(&self) -> bool {
        self.settings.borrow().generation == self.cache.generation() && self.keeper.is_current()
    }

    /// The rules that let somebody read what is `origin`'s; `None` where everybody inside may.
    fn readers(&self, origin: &Origin) -> Option<RuleSet> {
        self.registries()
            .rules_about(&origin.namespace, &origin.repository)
    }

    /// Whether a field of `head` chooses its registry.
    fn is_steered(&self, head: &RequestHead<'_>) -> bool {
        self.options.registry_header && head.has_registry()
    }

    /// Who is there, and the head as the rest of the way sees it: without what was meant for the front door, and without
    /// a target where the target alone does not tell what is asked for, so that nothing is remembered under it.
    async fn admit<'b>(&self, head: &RequestHead<'b>) -> Result<(RequestHead<'b>, Guest), PullError> {
        // Goes by the door as it is.
        self.registries();
        let has_door = self.keeper.has_door();
        let rules = |visitor: Visitor<'_>| self.registries().allow.rules_for(visitor);
        let guest = self.keeper.admit(head, &rules).await?;
        let mut admitted = *head;
        if has_door {
            admitted.authorization = None;
        }
        if self.is_steered(head) {
            admitted.target = "";
        }
        Ok((admitted, guest))
    }

    /// Whether `guest` may read what is `origin`'s. Asked before anything is looked for.
    fn check_reader(&self, guest: &Guest, origin: &Origin) -> Result<(), PullError> {
        let registries = self.registries();
        let allow = &registries.allow;
        let about = registries.rules_about(&origin.namespace, &origin.repository);
        let may = match (&about, guest) {
            (None, Guest::Anybody | Guest::Named(_)) => true,
            (None, Guest::Stranger) => false,
            (Some(about), Guest::Anybody) => about.meets(&allow.rules_for(Visitor::Anonymous)),
            (Some(about), Guest::Stranger) => about.meets(&allow.rules_that_name_anonymous()),
            (Some(about), Guest::Named(name)) => about.meets(&allow.rules_for(Visitor::Named(name))),
        };
        if may { Ok(()) } else { Err(PullError::NotForYou) }
    }

    fn find_route(&self, head: &RequestHead<'_>) -> Result<Route, PullError> {
        let field = head.registry().filter(|_| self.options.registry_header);
        let route = route::parse(
            head.path,
            head.query,
            field,
            self.options.default_registry.as_ref(),
        )?;
        if let Route::Content(Asked { origin, chosen, .. }, what) = &route
            && !self.registries().exists(&origin.namespace)
        {
            return Err(match chosen {
                Chosen::Beside => {
                    PullError::Unlisted(origin.namespace.clone(), matches!(what, What::Referrers(..)))
                }
                Chosen::InName => PullError::NotAllowed(origin.namespace.clone()),
            });
        }
        Ok(route)
    }

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
        // What was remembered under other choices is forgotten on the long way.
        if plain && self.is_current() && !self.is_steered(head) {
            let pass = self.keeper.pass(head)?;
            self.memory.borrow_mut().find(head, &pass)
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

impl From<Turned> for PullError {
    fn from(turned: Turned) -> Self {
        match turned {
            Turned::Away => PullError::Door,
            Turned::Wrong => PullError::WrongPassword,
            Turned::Uncertified => PullError::Certificate,
            Turned::Busy => PullError::DoorBusy,
        }
    }
}

/// A short text, for people and health checks.
fn plain(status: u16, content_type: &str, text: &'static str) -> Response {
    Response {
        status,
        fields: respond::common()
            .with("Content-Type", content_type)
            .with("Cache-Control", "no-store"),
        length: Some(text.len() as u64),
        body: Body::Bytes(bytes::Bytes::from_static(text.as_bytes())),
        cache: CacheResult::None,
    }
}
