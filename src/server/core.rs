//! The state that all connections of one core share.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::connection_limits::ConnectionLimits;
use super::deadlines::DeadlineTable;
use super::tls::{Acceptor, TlsContext};
use super::{AccessLog, Handler};
use crate::runtime::helper::Helper;
use crate::runtime::memory_budget::CoreMemory;
use crate::runtime::shutdown::Shutdown;

/// What every connection of a core shares.
pub struct Server<H> {
    pub handler: Rc<H>,
    pub helper: Helper,
    pub shutdown: Shutdown,
    pub access_log: Option<AccessLog>,
    pub resources: CoreResources,
    /// For listeners with TLS.
    pub(super) tls: Option<TlsContext>,
    pub(super) deadlines: DeadlineTable,
    /// Closed when descriptors have run out, so that a waiting client can be rejected.
    pub(super) reserve: RefCell<Option<OwnedFd>>,
    /// Connections at the last sweep.
    pub(super) last_count: Cell<usize>,
}

/// The limits and the memory budget of one core.
pub struct CoreResources {
    /// The core's number.
    pub core: usize,
    pub limits: ConnectionLimits,
    pub memory: CoreMemory,
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
            tls: tls.map(TlsContext::new),
            resources,
            deadlines: DeadlineTable::default(),
            reserve: RefCell::new(open_reserve()),
            last_count: Cell::new(0),
        })
    }
}

/// Opens a descriptor to close when no other descriptor is free.
pub(super) fn open_reserve() -> Option<OwnedFd> {
    socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .ok()
}
