//! The cores that serve clients. Each core has a registry and a server of its own.

use std::io;
use std::rc::Rc;

use core_affinity::CoreId;
use tracing::Level;

use crate::auth::ClientAuth;
use crate::cache::Cache;
use crate::config::Live;
use crate::log::Format;
use crate::metrics::HttpMetrics;
use crate::registry::{Options, Registry};
use crate::runtime::core::{self, CoreSettings};
use crate::runtime::heartbeat::{Health, run_heartbeat};
use crate::runtime::helper::Helper;
use crate::runtime::memory_budget::MemoryBudget;
use crate::runtime::shutdown::Shutdown;
use crate::server::tls::Acceptor;
use crate::server::{AccessLog, ConnectionLimits, CoreResources, HandoffQueues, Listener, Server, serve};

/// The parts that all cores share.
pub(super) struct ServingCores {
    pub settings: CoreSettings,
    pub cache: Cache,
    pub live: Live,
    pub helper: Helper,
    pub shutdown: Shutdown,
    pub options: Options,
    pub client_auth: ClientAuth,
    pub acceptor: Option<Acceptor>,
    /// `None` without an access log.
    pub access_log: Option<(Level, Format)>,
    pub limits: ConnectionLimits,
    pub handoff_queues: HandoffQueues,
    pub memory: MemoryBudget,
    pub metrics: HttpMetrics,
    pub health: Health,
}

impl ServingCores {
    /// Starts the core `index` on `cpu`, with its `sockets`.
    ///
    /// # Errors
    ///
    /// The thread cannot be created.
    pub fn start(&self, index: usize, cpu: Option<CoreId>, sockets: Vec<Listener>) -> io::Result<()> {
        let (cache, helper, shutdown) = (self.cache.clone(), self.helper.clone(), self.shutdown.clone());
        let (live, options) = (self.live.clone(), self.options.clone());
        let (client_auth, acceptor) = (self.client_auth.clone(), self.acceptor.clone());
        let log = self
            .access_log
            .map(|(level, format)| AccessLog::new(level, format));
        let resources = CoreResources {
            core: index,
            limits: self.limits.clone(),
            handoff_queues: self.handoff_queues.clone(),
            memory: self.memory.core(index),
            metrics: self.metrics.core(),
        };
        let heartbeat = self.health.cores()[index].clone();
        let main = move || async move {
            let registry = Rc::new(Registry::new(cache, live, options, client_auth));
            monoio::spawn(run_heartbeat(heartbeat));
            let server = Server::new(registry, helper, shutdown, log, acceptor, resources);
            serve(server, sockets).await;
        };
        core::start(index, cpu, self.settings, main).map(drop)
    }
}
