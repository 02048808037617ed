//! The operator's choices about TLS in the server's words.

use super::AppError;
use crate::config::{self, KernelTls, ServerTls};
use crate::server::tls::{Acceptor, Clients, Identity, Material, Offload, Pem};

/// What handshakes are made with, and made again with when its files change.
pub(super) fn open(tls: Option<&ServerTls>, kernel: KernelTls) -> Result<Option<Acceptor>, AppError> {
    let Some(tls) = tls else { return Ok(None) };
    let acceptor = Acceptor::new(material(tls), offload(kernel))?;
    acceptor.watch_files()?;
    Ok(Some(acceptor))
}

/// Finds out what the kernel can take over, and says so.
fn offload(kernel: KernelTls) -> Offload {
    match kernel {
        KernelTls::Off => Offload::NONE,
        KernelTls::Auto => match Offload::probe() {
            Ok(found) => {
                tracing::info!("kernel TLS: TLS 1.3 with {}", found.names());
                found
            }
            Err(why) => {
                tracing::warn!("kernel TLS: none ({why})");
                Offload::NONE
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
            config::Identity::SelfSigned => Identity::SelfSigned,
            config::Identity::Files { chain, key } => Identity::Files {
                chain: pem(chain),
                key: pem(key),
            },
        },
        clients: match &tls.clients {
            config::Clients::NotAsked => Clients::NotAsked,
            config::Clients::Asked { roots, required } => Clients::Asked {
                roots: roots.as_ref().map(pem),
                required: *required,
            },
        },
    }
}
