//! The state that all connections of one core share.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::access_log::Record;
use super::connection_limits::ConnectionLimits;
use super::deadlines::DeadlineTable;
use super::rebalance::HandoffQueues;
use super::request_ids::RequestIds;
use super::request_span::record_span;
use super::tls::{Acceptor, TlsContext};
use super::{AccessLog, Handler};
use crate::metrics::CoreHttp;
use crate::runtime::clock::monotonic_micros;
use crate::runtime::helper::Helper;
use crate::runtime::memory_budget::CoreMemory;
use crate::runtime::shutdown::Shutdown;

pub struct Server<H> {
    pub handler: Rc<H>,
    pub helper: Helper,
    pub shutdown: Shutdown,
    pub access_log: Option<AccessLog>,
    pub(super) request_ids: RequestIds,
    pub resources: CoreResources,
    /// Set if a listener uses TLS.
    pub(super) tls: Option<TlsContext>,
    pub(super) deadlines: DeadlineTable,
    /// A spare descriptor. Closed when descriptors are exhausted, so that the server can reject a
    /// waiting client.
    pub(super) reserve: RefCell<Option<OwnedFd>>,
    /// The number of connections at the last sweep.
    pub(super) last_count: Cell<usize>,
}

/// The limits, the handoff queues, the memory budget and the metrics of one core.
pub struct CoreResources {
    pub core: usize,
    pub limits: ConnectionLimits,
    pub handoff_queues: HandoffQueues,
    pub memory: CoreMemory,
    pub metrics: Arc<CoreHttp>,
}

impl<H: Handler> Server<H> {
    pub fn new(
        handler: Rc<H>,
        helper: Helper,
        shutdown: Shutdown,
        access_log: Option<AccessLog>,
        tls: Option<Acceptor>,
        resources: CoreResources,
    ) -> Rc<Self> {
        Rc::new(Server {
            handler,
            helper,
            shutdown,
            access_log,
            request_ids: RequestIds::new(resources.core),
            tls: tls.map(TlsContext::new),
            resources,
            deadlines: DeadlineTable::default(),
            reserve: RefCell::new(open_reserve()),
            last_count: Cell::new(0),
        })
    }
}

impl<H> Server<H> {
    /// Counts a request whose response has ended, and adds its line to the access log.
    pub(super) fn record(&self, record: &Record<'_>) {
        let now = monotonic_micros();
        self.resources.metrics.record(&record.finished(now));
        if let Some(log) = &self.access_log {
            log.write(record, now);
        }
        if record.head.trace.is_some_and(|trace| trace.context.sampled) {
            record_span(record, now);
        }
    }
}

/// Opens the spare descriptor, which is closed when no other descriptor is free.
pub(super) fn open_reserve() -> Option<OwnedFd> {
    socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .ok()
}
