//! TLS with clients: certificates, handshakes, and session data. Independent of HTTP, except for
//! the response to a client without TLS.

mod acceptor;
mod cert_reload;
mod certificate;
mod handshake_limiter;
mod key_usage;
mod ktls_probe;
mod ktls_stream;
mod record;
mod self_signed;
mod session;
mod subject;

pub use acceptor::{
    Acceptor, CertificateExpiries, ClientCertificates, Material, MaterialError, Pem, ServerIdentity,
};
pub use cert_reload::start as start_cert_reload;
pub(in crate::server) use handshake_limiter::HandshakeLimiter;
pub use ktls_probe::KtlsSupport;
pub(in crate::server) use ktls_stream::KtlsStream;
pub(in crate::server) use session::TlsStream;

use std::sync::Arc;

use rustls::ServerConfig;

/// The TLS state of one core.
pub(in crate::server) struct TlsContext {
    acceptor: Acceptor,
    pub handshakes: HandshakeLimiter,
}

impl TlsContext {
    pub fn new(acceptor: Acceptor) -> Self {
        TlsContext {
            acceptor,
            handshakes: HandshakeLimiter::default(),
        }
    }

    /// Returns the configuration for the next handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.acceptor.config()
    }

    /// Returns the kTLS support for sessions after the handshake.
    pub fn ktls(&self) -> KtlsSupport {
        self.acceptor.ktls()
    }
}
