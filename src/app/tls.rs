//! Converts the TLS configuration to the types of the server.

use super::AppError;
use crate::config::{self, KernelTls, ServerTls};
use crate::server::tls::{
    Acceptor, ClientCertificates, KtlsSupport, Material, Pem, ServerIdentity, start_cert_reload,
};

/// Creates the TLS acceptor, and starts the reload of changed certificate files.
pub(super) fn open(tls: Option<&ServerTls>, kernel: KernelTls) -> Result<Option<Acceptor>, AppError> {
    let Some(tls) = tls else { return Ok(None) };
    let acceptor = Acceptor::new(material(tls), ktls_support(kernel))?;
    start_cert_reload(acceptor.clone()).map_err(AppError::threads)?;
    Ok(Some(acceptor))
}

/// Probes the kTLS support of the kernel and logs the result.
fn ktls_support(kernel: KernelTls) -> KtlsSupport {
    match kernel {
        KernelTls::Off => KtlsSupport::NONE,
        KernelTls::Auto => match KtlsSupport::probe() {
            Ok(found) => {
                tracing::info!(ciphers = %found.names(), "kTLS available");
                found
            }
            Err(reason) => {
                tracing::warn!(%reason, "kTLS unavailable");
                KtlsSupport::NONE
            }
        },
    }
}

pub(super) fn material(tls: &ServerTls) -> Material {
    let pem = |pem: &config::Pem| Pem {
        path: pem.path.clone(),
        text: pem.text.reveal().to_owned(),
    };
    Material {
        identity: match &tls.identity {
            config::ServerIdentityConfig::SelfSigned => ServerIdentity::SelfSigned,
            config::ServerIdentityConfig::Files { chain, key } => ServerIdentity::Files {
                chain: pem(chain),
                key: pem(key),
            },
        },
        clients: match &tls.clients {
            config::ClientCertificateConfig::NotRequested => ClientCertificates::NotRequested,
            config::ClientCertificateConfig::Requested { roots, required } => ClientCertificates::Requested {
                roots: roots.as_ref().map(pem),
                required: *required,
            },
        },
    }
}
