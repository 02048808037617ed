//! How TLS is spoken with upstreams: `ring`, TLS 1.2 and 1.3, and the system's idea of whom to trust.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// Builds the one TLS configuration of all upstreams.
///
/// Roots are those of the system; a system without any (a container image with nothing but the binary)
/// gets Mozilla's, which are compiled in. Reads files; call it at start only.
pub(super) fn client_config() -> Result<ClientConfig, rustls::Error> {
    // Named here, not installed process-wide: no other part can change what upstreams get.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "some of the system's root certificates cannot be read");
    }
    // System stores hold a certificate or two that is no usable root; the others still count.
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        tracing::info!("the system has no root certificates; using the built-in ones");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_always_roots_and_http_1_1_is_the_only_protocol() {
        assert!(!roots().is_empty());
        assert_eq!(client_config().unwrap().alpn_protocols, [b"http/1.1".to_vec()]);
    }
}
