//! Reads the subject and the names of a client certificate. Performs no I/O.

use std::fmt::Write as _;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate, X509Name};

use crate::http::Certificate;

/// The short names of attribute types (RFC 4514, 3).
const SHORT_NAMES: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// Reads a verified certificate and the end of its validity in seconds since 1970. Returns `None`
/// if the certificate is invalid.
pub fn read(der: &CertificateDer<'_>) -> Option<(Certificate, i64)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let until = certificate.validity().not_after.timestamp();
    let subject = certificate.subject();
    let common_name = subject
        .iter_common_name()
        .next()
        .and_then(|name| name.as_str().ok())
        .map(str::to_owned);
    let said = Certificate {
        subject: written(subject),
        common_name,
        names: names(&certificate),
    };
    Some((said, until))
}

/// Returns the DNS names, mail addresses and URIs of a certificate, in their order.
pub fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = extension.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
                Some((*text).to_owned())
            }
            _ => None,
        })
        .collect()
}

/// Formats a name by RFC 4514, with the last part first.
pub fn written(name: &X509Name<'_>) -> String {
    let mut parts: Vec<_> = name.iter_rdn().collect();
    parts.reverse();
    let mut text = String::new();
    for part in parts {
        if !text.is_empty() {
            text.push(',');
        }
        for (index, attribute) in part.iter().enumerate() {
            if index > 0 {
                text.push('+');
            }
            let oid = attribute.attr_type().to_id_string();
            let short = SHORT_NAMES.iter().find(|(id, _)| *id == oid);
            text.push_str(short.map_or(oid.as_str(), |(_, name)| name));
            text.push('=');
            match attribute.as_str() {
                Ok(value) => push_escaped(&mut text, value),
                Err(_) => {
                    text.push('#');
                    for byte in attribute.attr_value().data {
                        // Writing to a `String` cannot fail.
                        let _ = write!(text, "{byte:02x}");
                    }
                }
            }
        }
    }
    text
}

/// Appends `value` with the escapes of RFC 4514, 2.4.
fn push_escaped(text: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.extend(['\\', c]),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            '#' if at == 0 => text.push_str("\\#"),
            c if c.is_control() => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(text, "\\{byte:02x}");
                }
            }
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> Certificate {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        read(made.der()).unwrap().0
    }

    #[test]
    fn subject_is_formatted_in_reverse_order_and_escaped() {
        let found = certificate(|params| {
            let name = &mut params.distinguished_name;
            name.push(DnType::CountryName, "DE");
            name.push(DnType::OrganizationName, "Work, Play + \"Sons\"");
            name.push(DnType::CommonName, "#node 1\n");
        });
        assert_eq!(
            found.subject,
            "CN=\\#node 1\\0a,O=Work\\, Play \\+ \\\"Sons\\\",C=DE"
        );
        assert_eq!(found.common_name.as_deref(), Some("#node 1\n"));
        assert!(found.names.is_empty());
    }

    #[test]
    fn alternative_names_keep_their_order_and_exclude_addresses() {
        let found = certificate(|params| {
            params.subject_alt_names = vec![
                SanType::URI("spiffe://x/y".try_into().unwrap()),
                SanType::IpAddress([127, 0, 0, 1].into()),
                SanType::DnsName("a.test".try_into().unwrap()),
                SanType::Rfc822Name("a@b.test".try_into().unwrap()),
            ];
        });
        assert_eq!(found.names, ["spiffe://x/y", "a.test", "a@b.test"]);
        assert_eq!((found.subject.as_str(), found.common_name), ("", None));
    }

    #[test]
    fn invalid_der_yields_no_subject() {
        assert!(read(&CertificateDer::from(vec![1, 2, 3])).is_none());
    }
}
