//! Hints for operators about failed connections: the setting to change, by kind of failure. Pure.

use std::io::ErrorKind;

use rustls::{AlertDescription, CertificateError, Error};

use super::error::{UpstreamError, all, innermost};
use crate::oci::Namespace;

const NO_TLS: &str = "the server does not speak TLS; for plain http, set `insecure: true` for this registry, or a `url` \
                      with http://";
/// For a TLS endpoint after a request in plain http.
pub(super) const WANTS_TLS: &str = "the server speaks TLS, and received plain http; remove `insecure: true` of this registry, or set a `url` with https://";
const UNKNOWN_AUTHORITY: &str = "the certificate is from an authority that this cache does not trust; set `tls.ca` of this \
                                 registry to the file with the certificate of the authority";
const SELF_SIGNED: &str = "the server presents the certificate of an authority; set `tls.ca` of this registry to the file with the same certificate";
const EXPIRED: &str =
    "the certificate has expired; renew the certificate of the server, or correct the clock of this host";
const NOT_YET_VALID: &str = "the certificate is not valid yet; correct the clock of this host, or replace the certificate of the server";
const OTHER_NAME: &str =
    "the certificate is for other names; set `url` of this registry to a host in the certificate";
const CERTIFICATE_WANTED: &str = "the server requires a client certificate; set `tls.cert` and `tls.key` of this registry to an accepted certificate";
const NOTHING_SHARED: &str =
    "the server and this cache share no TLS version or cipher; this cache supports TLS 1.2 and 1.3";

/// Returns the hint for a request without a response. `proxied` means a request through a proxy.
pub(super) fn of_connection(error: &reqwest::Error, proxied: bool) -> Option<&'static str> {
    if let Some(error) = all::<Error>(error).next() {
        return of_tls(error);
    }
    let https = error.url().is_some_and(|url| url.scheme() == "https");
    // Many servers close the connection if a TLS handshake arrives instead of a request.
    let closed = all::<std::io::Error>(error).any(|io| {
        matches!(
            io.kind(),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        )
    });
    if https && error.is_connect() && closed && !proxied {
        return Some(NO_TLS);
    }
    // The TLS alert of the server is not a valid response head.
    let garbled = || innermost(error).to_string().starts_with("invalid HTTP");
    (!https && !error.is_connect() && garbled()).then_some(WANTS_TLS)
}

fn of_tls(error: &Error) -> Option<&'static str> {
    match error {
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => Some(NO_TLS),
        Error::InvalidCertificate(wrong) => match wrong {
            CertificateError::UnknownIssuer => Some(UNKNOWN_AUTHORITY),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Some(EXPIRED),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Some(NOT_YET_VALID)
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Some(OTHER_NAME)
            }
            CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
                Some(SELF_SIGNED)
            }
            _ => None,
        },
        Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied => Some(CERTIFICATE_WANTED),
            AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion => Some(NOTHING_SHARED),
            _ => None,
        },
        Error::PeerIncompatible(_) => Some(NOTHING_SHARED),
        _ => None,
    }
}

/// Returns whether a refusal reports that the port expects TLS. Matches the texts of Go's server,
/// nginx, Apache and HAProxy.
pub(super) fn wants_tls(status: u16, body: &[u8]) -> bool {
    const WORDS: [&str; 4] = [
        "http request to an https server",
        "plain http request was sent to https port",
        "speaking plain http to an ssl-enabled server port",
        "plain http request was sent to tls port",
    ];
    // The text is near the beginning of the body.
    let beginning = String::from_utf8_lossy(&body[..body.len().min(4096)]).to_ascii_lowercase();
    matches!(status, 400 | 497) && WORDS.iter().any(|words| beginning.contains(words))
}

/// Returns the failure with its hint.
pub(super) fn appended(what: String, cure: Option<&'static str>) -> String {
    match cure {
        Some(cure) => format!("{what}: {cure}"),
        None => what,
    }
}

/// Adds the configured name of the registry to the error, if its host differs.
pub(super) fn named(error: UpstreamError, registry: &Namespace) -> UpstreamError {
    match error {
        UpstreamError::Tls { host, cause } if *host != *registry.as_str() => UpstreamError::Tls {
            cause: format!("{cause} (registry {registry})").into(),
            host,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_port_is_detected_by_its_error_text() {
        for (status, body) in [
            (400, "Client sent an HTTP request to an HTTPS server.\n"),
            (
                400,
                "<center>The plain HTTP request was sent to HTTPS port</center>",
            ),
            (
                497,
                "<center>The plain HTTP request was sent to HTTPS port</center>",
            ),
            (
                400,
                "Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",
            ),
        ] {
            assert!(wants_tls(status, body.as_bytes()), "{body}");
        }
        assert!(!wants_tls(400, b"{\"errors\":[]}"));
        assert!(!wants_tls(
            404,
            b"Client sent an HTTP request to an HTTPS server.\n"
        ));
        assert!(!wants_tls(400, &[0xff; 5000]));
    }
}
