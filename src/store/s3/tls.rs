//! TLS configuration for the engine: the trusted certificates.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::anchor::{Anchors, ServerVerifier};
use crate::config::Pem;

/// Trusts the system's authorities, the authorities in `bundle`, and each certificate in `bundle`
/// itself. Reads files.
pub(super) fn client_config(bundle: Option<&Pem>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() && bundle.is_none() {
        tracing::warn!("no root certificates for the bucket");
    }
    let named = bundle.map(certificates).unwrap_or_default();
    roots.add_parsable_certificates(named.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of both versions");
    let builder = if named.is_empty() {
        builder.with_root_certificates(roots)
    } else {
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .expect("the configuration has accepted each certificate of the bundle as a root");
        let anchors = Anchors::new(named);
        let verifier = ServerVerifier { authorities, anchors };
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

fn certificates(bundle: &Pem) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(bundle.text.reveal().as_bytes())
        .collect::<Result<_, _>>()
        .expect("the configuration has read the bundle")
}
