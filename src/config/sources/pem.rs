//! Checks of PEM files.

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Parses the certificates of a file.
pub fn parse_certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    const NONE: &str = "holds no certificate in PEM form";
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(NONE),
    }
}

/// Checks that a file holds authorities and nothing else.
pub fn check_roots(text: &str) -> Result<(), &'static str> {
    let mut roots = RootCertStore::empty();
    for certificate in parse_certificates(text)? {
        roots
            .add(certificate)
            .map_err(|_| "holds an entry that is no certificate")?;
    }
    Ok(())
}

/// Parses the key of a file.
pub fn parse_key(text: &str) -> Result<PrivateKeyDer<'static>, &'static str> {
    PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| "holds no private key in PEM form (encrypted keys are not supported)")
}

/// Checks that a key belongs to a certificate, and that both are of a supported kind.
pub fn check_pair(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(), &'static str> {
    match CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err("does not match the certificate"),
        Err(_) => Err("the key, or its certificate, is of a kind that is not supported"),
    }
}
