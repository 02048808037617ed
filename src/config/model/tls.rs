//! TLS towards clients and towards registries.

use super::secret::SecretText;

/// TLS towards clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    pub identity: ServerIdentityConfig,
    pub clients: ClientCertificateConfig,
}

/// The certificate of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerIdentityConfig {
    /// A self-signed certificate, generated at start.
    SelfSigned,
    Files {
        chain: Pem,
        key: Pem,
    },
}

/// Whether the handshake requests a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificateConfig {
    NotRequested,
    Requested {
        /// Authorities of client certificates. `None` means the authorities of the system.
        roots: Option<Pem>,
        /// Whether the handshake rejects a client without certificate.
        required: bool,
    },
}

/// The value of `TLS_CLIENT_AUTH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificateMode {
    /// `verify` if an authority is set, otherwise `none`.
    Auto,
    None,
    Optional,
    Verify,
}

impl ClientCertificateMode {
    pub const WORDS: [(&str, Self); 4] = [
        ("auto", ClientCertificateMode::Auto),
        ("none", ClientCertificateMode::None),
        ("optional", ClientCertificateMode::Optional),
        ("verify", ClientCertificateMode::Verify),
    ];
}

/// TLS towards a registry.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tls {
    /// PEM, trusted instead of the system's roots.
    pub ca: Option<Pem>,
    /// PEM of certificate chain and key, sent if the registry requests a certificate.
    pub client: Option<(Pem, Pem)>,
    /// Whether any certificate of the registry is accepted.
    pub insecure_skip_verify: bool,
}

/// The path and the checked content of a PEM file. `Debug` shows the path only.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    pub path: std::path::PathBuf,
    pub text: SecretText,
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pem({})", self.path.display())
    }
}
