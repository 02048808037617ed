//! TLS with upstreams: `ring`, TLS 1.2 and 1.3, the trusted authorities and the client certificate.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::anchor::{Anchors, ServerVerifier};
use crate::config::{Pem, Tls};

/// The peer of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Peer {
    /// The registry. Trusts the configured CA instead of the system's roots, and gets our
    /// certificate on request.
    Registry,
    /// A redirect target or a mirror. Trusts the configured CA and the system's roots, and never
    /// gets our certificate.
    Elsewhere,
}

/// An unusable PEM file: its path and the reason.
pub(super) struct Unusable {
    pub file: String,
    pub reason: String,
}

/// Builds TLS configurations.
pub(super) struct TlsBuilder {
    /// Not installed process-wide, so no other part of the process can change the provider for
    /// upstreams.
    provider: Arc<CryptoProvider>,
    /// The root certificates of the system.
    system: RootCertStore,
}

impl TlsBuilder {
    /// Reads the system's root certificates. A system without roots (a container image with only
    /// the binary) uses Mozilla's roots, compiled into the binary. Reads files, so only for start
    /// and reload.
    pub fn new() -> Self {
        TlsBuilder {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            system: system_roots(),
        }
    }

    /// Returns the TLS configuration for `peer` with the setting `tls`.
    ///
    /// # Errors
    ///
    /// Fails if a certificate or key is unusable.
    pub fn config(&self, tls: &Tls, peer: Peer) -> Result<ClientConfig, Unusable> {
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of both versions");
        let builder = if tls.insecure_skip_verify {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(self.provider.clone())))
        } else {
            let roots = Arc::new(self.roots(tls.ca.as_ref(), peer)?);
            match &tls.ca {
                None => builder.with_root_certificates(roots),
                Some(ca) => {
                    let provider = self.provider.clone();
                    let authorities = WebPkiServerVerifier::builder_with_provider(roots, provider)
                        .build()
                        .map_err(|error| unusable(ca, error))?;
                    let anchors = Anchors::new(certificates(ca)?);
                    let verifier = ServerVerifier { authorities, anchors };
                    builder
                        .dangerous()
                        .with_custom_certificate_verifier(Arc::new(verifier))
                }
            }
        };
        let mut config = match (&tls.client, peer) {
            (Some((chain, key)), Peer::Registry) => {
                let private = PrivateKeyDer::from_pem_slice(key.text.reveal().as_bytes())
                    .map_err(|error| unusable(key, error))?;
                builder
                    .with_client_auth_cert(certificates(chain)?, private)
                    .map_err(|error| unusable(chain, error))?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn roots(&self, ca: Option<&Pem>, peer: Peer) -> Result<RootCertStore, Unusable> {
        let Some(ca) = ca else {
            return Ok(self.system.clone());
        };
        let mut roots = match peer {
            Peer::Registry => RootCertStore::empty(),
            Peer::Elsewhere => self.system.clone(),
        };
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(|error| unusable(ca, error))?;
        }
        Ok(roots)
    }
}

fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.text.reveal().as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err(unusable(pem, "no certificate in the file; expected PEM")),
        Ok(found) => Ok(found),
        Err(error) => Err(unusable(pem, error)),
    }
}

fn unusable(pem: &Pem, reason: impl ToString) -> Unusable {
    Unusable {
        file: pem.path.display().to_string(),
        reason: reason.to_string(),
    }
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "system root certificates not fully read");
    }
    // System stores often contain a few unusable roots. The others still count.
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        tracing::info!("built-in root certificates used");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// Accepts any certificate. For registries with this setting, and for health checks of servers.
/// Signatures are still checked, so a peer must have the key of its certificate.
#[derive(Debug)]
pub struct AnyCertificate(pub Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SecretText;

    #[test]
    fn there_are_always_roots_and_http_1_1_is_the_only_protocol() {
        assert!(!system_roots().is_empty());
        for peer in [Peer::Registry, Peer::Elsewhere] {
            let config = TlsBuilder::new().config(&Tls::default(), peer).ok().unwrap();
            assert_eq!(config.alpn_protocols, [b"http/1.1".to_vec()]);
        }
    }

    #[test]
    fn a_file_that_holds_no_certificate_is_named() {
        for text in [
            "",
            "nonsense",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            let ca = Some(Pem {
                path: "/somewhere/ca.pem".into(),
                text: SecretText::new(text.into()),
            });
            let tls = Tls { ca, ..Tls::default() };
            let wrong = TlsBuilder::new().config(&tls, Peer::Registry).err().unwrap();
            assert_eq!(wrong.file, "/somewhere/ca.pem");
        }
    }
}
