//! Verifiers for certificates that the operator configured directly.
//!
//! `openssl req -x509`, the command in Docker's manual, creates a registry certificate with the CA
//! flag. Operators configure the same file as the trusted authority. `webpki` rejects a CA
//! certificate presented by a server (`CaUsedAsEndEntity`). These verifiers accept a certificate
//! that equals a configured certificate byte for byte. They still check validity period, key usage,
//! names and handshake signature. The system's roots are never anchors.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Certificates configured by the operator.
#[derive(Clone, Debug)]
pub struct Anchors(Arc<[CertificateDer<'static>]>);

/// The role of the peer that presents a certificate.
#[derive(Clone, Copy)]
enum Purpose {
    Server,
    Client,
}

impl Anchors {
    pub fn new(named: Vec<CertificateDer<'static>>) -> Self {
        Anchors(named.into())
    }

    /// Checks whether the certificate `shown` is usable now. Returns `None` if `shown` is not a
    /// configured certificate.
    fn check(
        &self,
        shown: &CertificateDer<'_>,
        purpose: Purpose,
        now: UnixTime,
    ) -> Option<Result<(), Error>> {
        let named = self.0.iter().any(|anchor| anchor.as_ref() == shown.as_ref());
        named.then(|| usable(shown, purpose, now))
    }
}

fn usable(shown: &CertificateDer<'_>, purpose: Purpose, now: UnixTime) -> Result<(), Error> {
    let malformed = || Error::InvalidCertificate(CertificateError::BadEncoding);
    let (_, certificate) = X509Certificate::from_der(shown).map_err(|_| malformed())?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < certificate.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > certificate.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    // A certificate without the extension is valid for every purpose.
    if let Some(usage) = certificate.extended_key_usage().map_err(|_| malformed())? {
        let fits = match purpose {
            Purpose::Server => usage.value.server_auth,
            Purpose::Client => usage.value.client_auth,
        };
        if !fits && !usage.value.any {
            return Err(CertificateError::InvalidPurpose.into());
        }
    }
    Ok(())
}

/// Verifies server certificates against the authorities, and accepts configured certificates.
#[derive(Debug)]
pub struct ServerVerifier {
    pub authorities: Arc<WebPkiServerVerifier>,
    pub anchors: Anchors,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refused = match self
            .authorities
            .verify_server_cert(shown, intermediates, name, ocsp, now)
        {
            Ok(verified) => return Ok(verified),
            Err(error) => error,
        };
        match self.anchors.check(shown, Purpose::Server, now) {
            None => Err(refused),
            Some(checked) => {
                checked?;
                verify_server_name(&ParsedCertificate::try_from(shown)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// Verifies client certificates against the authorities, and accepts configured certificates.
/// Client certificates have no name to check.
#[derive(Debug)]
pub struct ClientVerifier {
    pub authorities: Arc<dyn ClientCertVerifier>,
    pub anchors: Anchors,
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.authorities.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.authorities.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.authorities.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let refused = match self.authorities.verify_client_cert(shown, intermediates, now) {
            Ok(verified) => return Ok(verified),
            Err(error) => error,
        };
        match self.anchors.check(shown, Purpose::Client, now) {
            None => Err(refused),
            Some(checked) => checked.map(|()| ClientCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
    };
    use rustls::RootCertStore;
    use rustls::server::WebPkiClientVerifier;

    use super::*;

    /// Returns a certificate as `openssl req -x509` creates it, for `registry.lan`, valid from 2020
    /// to 2030.
    fn made(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["registry.lan".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "registry.lan");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2030, 1, 1);
        change(&mut params);
        params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .der()
            .clone()
    }

    /// Returns a time near the middle of `year`.
    fn year(year: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(
            (year - 1970) * 365 * 24 * 60 * 60 + 180 * 24 * 60 * 60,
        ))
    }

    fn roots(named: &CertificateDer<'static>) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(named.clone()).unwrap();
        Arc::new(roots)
    }

    fn server(
        named: &CertificateDer<'static>,
        shown: &CertificateDer<'static>,
        name: &'static str,
        now: UnixTime,
    ) -> Result<(), Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = ServerVerifier {
            authorities: WebPkiServerVerifier::builder_with_provider(roots(named), provider)
                .build()
                .unwrap(),
            anchors: Anchors::new(vec![named.clone()]),
        };
        let name = ServerName::try_from(name).unwrap();
        verifier.verify_server_cert(shown, &[], &name, &[], now).map(drop)
    }

    fn client(
        named: &CertificateDer<'static>,
        shown: &CertificateDer<'static>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = ClientVerifier {
            authorities: WebPkiClientVerifier::builder_with_provider(roots(named), provider)
                .build()
                .unwrap(),
            anchors: Anchors::new(vec![named.clone()]),
        };
        verifier.verify_client_cert(shown, &[], now).map(drop)
    }

    #[test]
    fn a_named_certificate_is_accepted_for_its_names_in_its_time() {
        let named = made(|_| {});
        assert_eq!(server(&named, &named, "registry.lan", year(2025)), Ok(()));
        assert_eq!(client(&named, &named, year(2025)), Ok(()));
        let wrong_name = server(&named, &named, "other.lan", year(2025));
        assert!(
            matches!(
                wrong_name,
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForNameContext { .. }
                ))
            ),
            "{wrong_name:?}"
        );
        for (now, what) in [(year(2019), "not valid yet"), (year(2031), "expired")] {
            assert!(server(&named, &named, "registry.lan", now).is_err(), "{what}");
            assert!(client(&named, &named, now).is_err(), "{what}");
        }
    }

    #[test]
    fn another_certificate_is_accepted_neither_by_its_names_nor_by_its_key() {
        let named = made(|_| {});
        let namesake = made(|_| {});
        assert!(server(&named, &namesake, "registry.lan", year(2025)).is_err());
        assert!(client(&named, &namesake, year(2025)).is_err());
        // A name in the subject only does not count.
        let nameless = made(|params| params.subject_alt_names.clear());
        assert!(server(&nameless, &nameless, "registry.lan", year(2025)).is_err());
    }

    #[test]
    fn certificate_is_rejected_if_its_key_usage_does_not_match() {
        let of = |usage| made(|params| params.extended_key_usages = vec![usage]);
        let (server_only, client_only) = (
            of(ExtendedKeyUsagePurpose::ServerAuth),
            of(ExtendedKeyUsagePurpose::ClientAuth),
        );
        assert_eq!(
            server(&server_only, &server_only, "registry.lan", year(2025)),
            Ok(())
        );
        assert!(client(&server_only, &server_only, year(2025)).is_err());
        assert!(server(&client_only, &client_only, "registry.lan", year(2025)).is_err());
        assert_eq!(client(&client_only, &client_only, year(2025)), Ok(()));
    }

    #[test]
    fn a_named_certificate_of_another_s_making_is_accepted_too() {
        // The certificate is signed by an authority that is not configured.
        let mut params = CertificateParams::new(vec!["authority".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = rcgen::Issuer::new(params, KeyPair::generate().unwrap());
        let params = CertificateParams::new(vec!["registry.lan".to_owned()]).unwrap();
        let leaf = params
            .signed_by(&KeyPair::generate().unwrap(), &issuer)
            .unwrap()
            .der()
            .clone();
        assert_eq!(server(&leaf, &leaf, "registry.lan", year(2025)), Ok(()));
        assert!(server(&leaf, &made(|_| {}), "registry.lan", year(2025)).is_err());
    }
}
