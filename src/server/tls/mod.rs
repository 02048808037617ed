//! TLS with clients: certificates, handshakes, and the bytes of a session. Knows nothing about HTTP, but for what a client
//! that does not speak TLS is told.

mod acceptor;
mod certificate;
mod files;
mod gate;
mod kernel;
mod offload;
mod record;
mod self_signed;
mod session;
mod subject;
mod wear;

pub use acceptor::{Acceptor, Clients, Identity, Material, MaterialError, Pem};
pub(in crate::server) use gate::Gate;
pub(in crate::server) use kernel::KernelStream;
pub use offload::Offload;
pub(in crate::server) use session::TlsStream;

use std::sync::Arc;

use rustls::ServerConfig;

/// What a core needs to take TLS clients in.
pub(in crate::server) struct Door {
    acceptor: Acceptor,
    pub gate: Gate,
}

impl Door {
    /// For the calling core.
    pub fn new(acceptor: Acceptor) -> Self {
        Door {
            acceptor,
            gate: Gate::default(),
        }
    }

    /// What the next client is shown.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.acceptor.config()
    }

    /// What the kernel takes over afterwards.
    pub fn offload(&self) -> Offload {
        self.acceptor.offload()
    }
}
