//! The admin API, for operators. HTTP/1.1 with JSON on a unix socket in the directory of the store,
//! and on a listener for tokens. `docs/reference/admin-api.md` describes the API.
//!
//! The operations are in [`crate::manage`].

mod access;
mod api;
mod body;
mod change;
mod client;
mod client_import;
mod client_jobs;
mod client_view;
mod import;
mod job_work;
mod jobs;
mod legacy;
mod listen;
mod metrics;
mod operation;
mod plans;
mod problem;
mod process;
mod process_usage;
mod streams;
mod tokens;
mod views;
mod web;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cache::{Cache, LookupCounts, TagPolicy};
use crate::config::{ListenAddr, Live, LoadSettings};
use crate::manage::Loader;
use crate::runtime::heartbeat::Health;
use crate::runtime::helper::Helper;
use crate::store::Stores;
use crate::upstream::Upstreams;
use crate::web::WebSite;

pub use client::{AdminClient, AdminError, ServerPlan};
pub use client_view::{CacheView, FillView, RateLimitView, UpstreamView};
pub use job_work::JobReport;
pub use jobs::{JobKind, JobState, JobStatus, Jobs};
pub use legacy::{LegacyAdmin, LegacyAnswer, LegacyRequest};
pub use listen::AdminSocket;
pub use metrics::MeasuredParts;

use access::Access;
use api::Api;
use listen::Serves;

/// The name of the socket in the directory of the store.
const SOCKET: &str = ".admin.sock";

/// The addresses of the admin API.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    /// The listener for tokens. `None` means no listener.
    pub addr: Option<ListenAddr>,
    /// The file of the tokens.
    pub tokens: Option<PathBuf>,
    /// The listener that answers health checks only. `None` means no listener.
    pub health_addr: Option<ListenAddr>,
    /// The listener that answers `GET /metrics` only. `None` means no listener.
    pub metrics_addr: Option<ListenAddr>,
}

/// The parts of the process that the API shows and changes.
#[derive(Clone)]
pub struct AdminSubjects {
    /// The stores of this machine. `None` for a bucket alone.
    pub stores: Option<Stores>,
    pub cache: Cache,
    pub upstreams: Upstreams,
    pub lookup_counts: LookupCounts,
    pub live: Live,
    pub tag_policy: TagPolicy,
    pub has_client_auth: bool,
    pub health: Health,
    pub loader: Loader,
    pub load_settings: LoadSettings,
    pub measured: MeasuredParts,
    pub jobs: Arc<Jobs>,
    /// The web page. `None` if it is off.
    pub web: Option<WebSite>,
}

/// Returns the path of the socket of the cache with the store in `root`.
pub fn socket_path(root: &Path) -> PathBuf {
    root.join(SOCKET)
}

/// Opens the socket and the listeners, and answers their clients on the helper pool. The caller holds
/// the lock of the store, so an existing socket belongs to a process that has ended. A socket or an
/// address that cannot be opened is logged, and the cache serves without it.
pub fn start(settings: AdminSettings, subjects: AdminSubjects, helper: &Helper) -> Option<AdminSocket> {
    let stores = subjects.stores.as_ref();
    let socket = stores.and_then(|stores| listen::open_socket(stores.default_store()));
    let api = Arc::new(Api::new(subjects, Access::new(settings.tokens)));
    if let Some(addr) = settings.addr {
        helper.spawn(listen::serve_address(addr, Serves::Everything, api.clone()));
    }
    if let Some(addr) = settings.health_addr {
        helper.spawn(listen::serve_address(addr, Serves::Health, api.clone()));
    }
    if let Some(addr) = settings.metrics_addr {
        helper.spawn(listen::serve_address(addr, Serves::Metrics, api.clone()));
    }
    let (socket, listener) = socket?;
    helper.spawn(listen::serve_socket(listener, api));
    Some(socket)
}
