//! Reads the server certificate and detects problems before clients do.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::subject;
use crate::http::date::http_date;

/// The remaining lifetime that triggers a warning, in seconds: two weeks. An automatic renewal
/// should be complete long before.
const SOON_SECONDS: i64 = 14 * 24 * 60 * 60;

/// The properties of a certificate for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The DNS names and addresses of the server. The subject if the certificate has none.
    pub names: String,
    /// The start of the validity, in seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
}

/// A problem of a certificate at a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    NotYetValid,
    Expired,
    /// The certificate expires within [`SOON_SECONDS`].
    ExpiresSoon,
}

impl Facts {
    /// Reads the first certificate of a chain. Returns `None` if it is invalid.
    pub fn read(der: &CertificateDer<'_>) -> Option<Facts> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut names = Vec::new();
        if let Ok(Some(extension)) = certificate.subject_alternative_name() {
            for name in &extension.value.general_names {
                match name {
                    GeneralName::DNSName(text) => names.push((*text).to_owned()),
                    GeneralName::IPAddress(bytes) => names.extend(address(bytes)),
                    _ => {}
                }
            }
        }
        if names.is_empty() {
            names.push(subject::written(certificate.subject()));
        }
        Some(Facts {
            names: names.join(", "),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }

    /// Returns the problem of the certificate at `now`, if any.
    pub fn problem(&self, now: i64) -> Option<Problem> {
        if now < self.not_before {
            return Some(Problem::NotYetValid);
        }
        if now >= self.not_after {
            return Some(Problem::Expired);
        }
        (now >= self.not_after - SOON_SECONDS).then_some(Problem::ExpiresSoon)
    }

    /// Returns the start of the validity, as a date for the log.
    pub fn valid_from(&self) -> String {
        date(self.not_before)
    }

    /// Returns the end of the validity, as a date for the log.
    pub fn valid_until(&self) -> String {
        date(self.not_after)
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes)
            .ok()
            .map(|octets| std::net::Ipv4Addr::from(octets).to_string()),
        16 => <[u8; 16]>::try_from(bytes)
            .ok()
            .map(|octets| std::net::Ipv6Addr::from(octets).to_string()),
        _ => None,
    }
}

fn date(seconds: i64) -> String {
    String::from_utf8_lossy(&http_date(seconds.max(0).unsigned_abs())).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warning_starts_two_weeks_before_a_certificate_expires() {
        let day = 24 * 60 * 60;
        let facts = Facts {
            names: "a.test".into(),
            not_before: 10 * day,
            not_after: 100 * day,
        };
        assert_eq!(facts.problem(9 * day), Some(Problem::NotYetValid));
        assert_eq!(facts.problem(10 * day), None);
        assert_eq!(facts.problem(85 * day), None);
        assert_eq!(facts.problem(86 * day), Some(Problem::ExpiresSoon));
        assert_eq!(facts.problem(100 * day), Some(Problem::Expired));
        assert_eq!(facts.valid_from(), "Sun, 11 Jan 1970 00:00:00 GMT");
        assert_eq!(facts.valid_until(), "Sat, 11 Apr 1970 00:00:00 GMT");
    }

    #[test]
    fn generated_certificate_is_parsed_with_its_names_and_lifetime() {
        use rustls::pki_types::pem::PemObject as _;
        let (pem, _) = super::super::self_signed::generate().unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let facts = Facts::read(&der).unwrap();
        assert_eq!(facts.names, "localhost, 127.0.0.1, ::1, host.docker.internal");
        let years = (facts.not_after - facts.not_before) / (365 * 24 * 60 * 60);
        assert_eq!(years, 10);
    }
}
