//! Holds the certificates and the TLS configuration of the listeners. All cores share one
//! configuration, which is replaced as a whole.
//!
//! Uses `ring`, TLS 1.2 and 1.3. Early data is disabled, because an attacker could replay a
//! request. Clients resume sessions by ticket or from memory.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use super::certificate::{Facts, Problem};
use super::{KtlsSupport, self_signed};
use crate::anchor::{Anchors, ClientVerifier};
use crate::limits::TLS_SESSIONS_MAX;
use crate::runtime::clock::unix_seconds;
use crate::sync::{Mutex, MutexGuard, RwLock};

/// The ALPN protocols in order of preference. A client without ALPN uses HTTP/1.1.
const PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];

/// The certificates and keys that the operator configures.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    pub identity: ServerIdentity,
    pub clients: ClientCertificates,
}

/// The certificate and key of the server.
#[derive(Clone, PartialEq, Eq)]
pub enum ServerIdentity {
    /// A generated certificate, created once per process.
    SelfSigned,
    /// The certificate chain and its key.
    Files { chain: Pem, key: Pem },
}

/// The policy for client certificates.
#[derive(Clone, PartialEq, Eq)]
pub enum ClientCertificates {
    NotRequested,
    Requested {
        /// The certificate authorities of the clients, or those of the system if `None`.
        roots: Option<Pem>,
        /// Rejects clients without a certificate. Clients with an invalid certificate are always
        /// rejected.
        required: bool,
    },
}

/// A file and its content. Must not be printed, because it may be a key.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    pub path: PathBuf,
    pub text: String,
}

/// The ends of the validity of certificates, in seconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CertificateExpiries {
    /// The first end within the chain of the server.
    pub server: Option<i64>,
    /// The first end of the configured authorities of clients. `None` without such a file.
    pub client_authorities: Option<i64>,
}

/// The reason why the material cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    #[error("{path}: {why}")]
    File { path: String, why: String },
    #[error("TLS: {0}")]
    Other(String),
}

/// Provides the newest configuration for each handshake. Cheap to clone. All cores share the state
/// and take a short lock per connection.
#[derive(Clone)]
pub struct Acceptor(Arc<Shared>);

struct Shared {
    provider: Arc<CryptoProvider>,
    ktls: KtlsSupport,
    config: RwLock<Arc<ServerConfig>>,
    material: Mutex<Material>,
    resumption: Mutex<Resumption>,
    /// The generated certificate and key.
    generated: Mutex<Option<(String, String)>>,
}

/// The state for session resumption.
#[derive(Clone)]
struct Resumption {
    tickets: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
}

impl Resumption {
    fn new() -> Result<Self, MaterialError> {
        Ok(Resumption {
            tickets: rustls::crypto::ring::Ticketer::new().map_err(other)?,
            // For TLS 1.2 clients without ticket support.
            sessions: ServerSessionMemoryCache::new(TLS_SESSIONS_MAX),
        })
    }
}

impl Acceptor {
    /// Creates the acceptor, at startup. Reads the authorities of the system if `material` needs
    /// them. `ktls`: the ciphers that kTLS supports.
    ///
    /// # Errors
    ///
    /// A file has invalid content, or a key does not match its certificate.
    pub fn new(material: Material, ktls: KtlsSupport) -> Result<Self, MaterialError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let resumption = Resumption::new()?;
        let mut generated = None;
        let (config, facts) = build(&provider, ktls, &material, &resumption, &mut generated)?;
        log_certificate(&facts, &material.clients);
        Ok(Acceptor(Arc::new(Shared {
            provider,
            ktls,
            config: RwLock::new(config),
            material: Mutex::new(material),
            resumption: Mutex::new(resumption),
            generated: Mutex::new(generated),
        })))
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.0.config.read().clone()
    }

    pub(super) fn ktls(&self) -> KtlsSupport {
        self.0.ktls
    }

    /// Replaces the material for later handshakes. Existing connections continue. Returns `false`
    /// if the material is unchanged. Blocking; not for a core.
    ///
    /// # Errors
    ///
    /// The new material is unusable. The previous material stays in use.
    pub fn replace(&self, new: Material) -> Result<bool, MaterialError> {
        let replacement = self.prepare(new)?;
        let is_new = replacement.is_some();
        if let Some(replacement) = replacement {
            replacement.apply();
        }
        Ok(is_new)
    }

    /// Checks new material, and changes nothing. Returns `None` if the material is unchanged.
    /// Blocking; not for a core.
    ///
    /// # Errors
    ///
    /// The new material is unusable.
    pub fn prepare(&self, new: Material) -> Result<Option<Replacement<'_>>, MaterialError> {
        let shared = &*self.0;
        let material = shared.material.lock();
        if *material == new {
            return Ok(None);
        }
        // A resumed session relies on an earlier client certificate. A changed policy must verify
        // certificates again.
        let resumption = if material.clients == new.clients {
            let known = shared.resumption.lock();
            known.clone()
        } else {
            Resumption::new()?
        };
        let mut generated = shared.generated.lock();
        let (config, facts) = build(&shared.provider, shared.ktls, &new, &resumption, &mut generated)?;
        Ok(Some(Replacement {
            shared,
            material,
            new,
            config,
            facts,
            resumption,
        }))
    }

    pub(super) fn material(&self) -> Material {
        self.0.material.lock().clone()
    }

    /// Returns when the certificates in use expire. Parses the certificates, so the call is for a scrape
    /// of the metrics and not for a core.
    pub fn expiries(&self) -> CertificateExpiries {
        let material = self.material();
        let expires = |pem: &Pem| {
            let facts = certificates(pem).ok()?;
            facts
                .iter()
                .filter_map(Facts::read)
                .map(|facts| facts.not_after)
                .min()
        };
        CertificateExpiries {
            server: match &material.identity {
                ServerIdentity::Files { chain, .. } => expires(chain),
                ServerIdentity::SelfSigned => self.0.generated.lock().as_ref().and_then(|(chain, _)| {
                    expires(&Pem {
                        path: PathBuf::new(),
                        text: chain.clone(),
                    })
                }),
            },
            client_authorities: match &material.clients {
                ClientCertificates::Requested {
                    roots: Some(roots), ..
                } => expires(roots),
                _ => None,
            },
        }
    }
}

/// Checked material that is not in use yet. Other replacements wait for the lock.
pub struct Replacement<'a> {
    shared: &'a Shared,
    material: MutexGuard<'a, Material>,
    new: Material,
    config: Arc<ServerConfig>,
    facts: Facts,
    resumption: Resumption,
}

impl Replacement<'_> {
    /// Uses the material for later handshakes.
    pub fn apply(mut self) {
        *self.shared.config.write() = self.config;
        *self.shared.resumption.lock() = self.resumption;
        log_certificate(&self.facts, &self.new.clients);
        *self.material = self.new;
    }
}

fn build(
    provider: &Arc<CryptoProvider>,
    ktls: KtlsSupport,
    material: &Material,
    resumption: &Resumption,
    generated: &mut Option<(String, String)>,
) -> Result<(Arc<ServerConfig>, Facts), MaterialError> {
    let (chain, key) = match &material.identity {
        ServerIdentity::Files { chain, key } => (certificates(chain)?, private_key(key)?),
        ServerIdentity::SelfSigned => {
            if generated.is_none() {
                *generated = Some(self_signed::generate().map_err(other)?);
            }
            let (chain, key) = generated.clone().unwrap_or_default();
            let (path, key_path) = (PathBuf::from("self-signed"), PathBuf::from("self-signed key"));
            (
                certificates(&Pem { path, text: chain })?,
                private_key(&Pem {
                    path: key_path,
                    text: key,
                })?,
            )
        }
    };
    let facts = chain
        .first()
        .and_then(Facts::read)
        .ok_or_else(|| match &material.identity {
            ServerIdentity::Files { chain, .. } => wrong(chain, "the first certificate is invalid"),
            ServerIdentity::SelfSigned => other("the generated certificate is invalid"),
        })?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(other)?;
    let builder = match verifier(provider, &material.clients)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| match &material.identity {
            ServerIdentity::Files { key, .. } => match error {
                rustls::Error::InconsistentKeys(_) => wrong(key, "the key does not match the certificate"),
                error => wrong(key, error),
            },
            ServerIdentity::SelfSigned => other(error),
        })?;
    config.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
    config.ticketer = resumption.tickets.clone();
    config.session_storage = resumption.sessions.clone();
    config.max_early_data_size = 0;
    config.enable_secret_extraction = ktls.any();
    Ok((Arc::new(config), facts))
}

fn verifier(
    provider: &Arc<CryptoProvider>,
    clients: &ClientCertificates,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, MaterialError> {
    let ClientCertificates::Requested { roots, required } = clients else {
        return Ok(None);
    };
    let mut trusted = RootCertStore::empty();
    let mut named = Vec::new();
    match roots {
        Some(pem) => {
            named = certificates(pem)?;
            for certificate in &named {
                trusted
                    .add(certificate.clone())
                    .map_err(|error| wrong(pem, error))?;
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            for error in &system.errors {
                tracing::warn!(%error, "system root certificates not fully read");
            }
            trusted.add_parsable_certificates(system.certs);
        }
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(trusted), provider.clone());
    let builder = if *required {
        builder
    } else {
        builder.allow_unauthenticated()
    };
    match (builder.build(), roots) {
        (Ok(authorities), _) => Ok(Some(Arc::new(ClientVerifier {
            authorities,
            anchors: Anchors::new(named),
        }))),
        (Err(error), Some(pem)) => Err(wrong(pem, error)),
        (Err(_), None) => Err(other(
            "client certificates cannot be verified: the system has no root certificates",
        )),
    }
}

fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.text.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err(wrong(pem, "no certificate in the file; expected PEM")),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(pem, error)),
    }
}

fn private_key(pem: &Pem) -> Result<PrivateKeyDer<'static>, MaterialError> {
    PrivateKeyDer::from_pem_slice(pem.text.as_bytes()).map_err(|_| {
        wrong(
            pem,
            "no private key in the file; expected an unencrypted key in PEM",
        )
    })
}

fn wrong(pem: &Pem, why: impl ToString) -> MaterialError {
    MaterialError::File {
        path: pem.path.display().to_string(),
        why: why.to_string(),
    }
}

fn other(why: impl ToString) -> MaterialError {
    MaterialError::Other(why.to_string())
}

/// Logs the certificate, so that the operator sees its state before the clients do.
fn log_certificate(facts: &Facts, clients: &ClientCertificates) {
    let client_certificate = match clients {
        ClientCertificates::NotRequested => "not requested",
        ClientCertificates::Requested { required: true, .. } => "required",
        ClientCertificates::Requested { required: false, .. } => "optional",
    };
    tracing::info!(
        names = facts.names,
        valid_until = facts.valid_until(),
        client_certificate,
        "TLS certificate loaded"
    );
    warn(facts);
}

fn warn(facts: &Facts) {
    // Every certificate date fits into the signed seconds since 1970.
    match facts.problem(unix_seconds().cast_signed()) {
        None => {}
        Some(Problem::NotYetValid) => tracing::warn!(
            names = facts.names,
            valid_from = facts.valid_from(),
            "TLS certificate not valid yet"
        ),
        Some(Problem::Expired) => tracing::warn!(
            names = facts.names,
            valid_until = facts.valid_until(),
            "TLS certificate expired"
        ),
        Some(Problem::ExpiresSoon) => tracing::warn!(
            names = facts.names,
            valid_until = facts.valid_until(),
            "TLS certificate expires soon"
        ),
    }
}

impl Acceptor {
    /// Logs a warning again if the certificate in use has a problem.
    pub(super) fn remind(&self) {
        let facts = match self.material().identity {
            ServerIdentity::SelfSigned => None,
            ServerIdentity::Files { chain, .. } => certificates(&chain)
                .ok()
                .and_then(|chain| chain.first().and_then(Facts::read)),
        };
        if let Some(facts) = facts {
            warn(&facts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_of_the_generated_certificate_is_ten_years_ahead_and_no_authority_has_one() {
        let material = Material {
            identity: ServerIdentity::SelfSigned,
            clients: ClientCertificates::NotRequested,
        };
        let acceptor = Acceptor::new(material, KtlsSupport::NONE).unwrap();
        let CertificateExpiries {
            server,
            client_authorities,
        } = acceptor.expiries();
        let left = server.unwrap() - unix_seconds().cast_signed();
        let years = (left + 24 * 60 * 60) / (365 * 24 * 60 * 60);
        assert_eq!((years, client_authorities), (10, None));
    }

    #[test]
    fn configured_authorities_of_clients_have_an_expiry() {
        let (pem, _) = self_signed::generate().unwrap();
        let roots = Pem {
            path: PathBuf::from("clients.pem"),
            text: pem.repeat(2),
        };
        let material = Material {
            identity: ServerIdentity::SelfSigned,
            clients: ClientCertificates::Requested {
                roots: Some(roots),
                required: true,
            },
        };
        let expiries = Acceptor::new(material, KtlsSupport::NONE).unwrap().expiries();
        assert!(expiries.client_authorities.is_some());
    }
}
