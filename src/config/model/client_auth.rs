//! Client authentication: the credentials that the cache accepts.

use super::glob::Glob;
use super::htpasswd::Htpasswd;
use super::secret::SecretText;

/// The accepted client credentials. At least one kind is set, and one credential is enough.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ClientAuthConfig {
    /// A user name with its password.
    pub user: Option<(String, SecretText)>,
    pub htpasswd: Option<Htpasswd>,
    /// Patterns of accepted client certificates.
    pub certificates: Vec<CertificatePattern>,
}

impl ClientAuthConfig {
    /// Returns whether a password is accepted. Otherwise a rejection has no password challenge.
    pub fn accepts_passwords(&self) -> bool {
        self.user.is_some() || self.htpasswd.is_some()
    }
}

/// A pattern of client certificates that client authentication accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificatePattern {
    /// `CN=`: the common name of the subject. `*` matches any text.
    CommonName(Glob),
    /// `DNS:`: a host name, without regard to case. `*` stays within a label.
    Dns(Glob),
    /// `EMAIL:`: a mail address. `*` does not cross the `@`.
    Mail(Glob),
    /// `URI:`: a URI. `*` stays between two slashes.
    Uri(Glob),
}

impl CertificatePattern {
    const EXPECTED: &str = "expected CN=, DNS:, EMAIL: or URI:, followed by a pattern";

    /// Parses a pattern.
    ///
    /// # Errors
    ///
    /// Returns the expected form.
    pub fn new(text: &str) -> Result<Self, String> {
        let (kind, pattern) = match text.split_once(['=', ':']) {
            Some((kind, pattern)) => (&text[..=kind.len()], pattern),
            None => return Err(Self::EXPECTED.to_owned()),
        };
        match kind {
            "CN=" => Glob::new(pattern, None).map(CertificatePattern::CommonName),
            "DNS:" => Glob::new(&pattern.to_ascii_lowercase(), Some('.')).map(CertificatePattern::Dns),
            "EMAIL:" => Glob::new(pattern, Some('@')).map(CertificatePattern::Mail),
            "URI:" => Glob::new(pattern, Some('/')).map(CertificatePattern::Uri),
            _ => Err(Self::EXPECTED.to_owned()),
        }
    }
}

impl std::fmt::Display for CertificatePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, glob) = match self {
            CertificatePattern::CommonName(glob) => ("CN=", glob),
            CertificatePattern::Dns(glob) => ("DNS:", glob),
            CertificatePattern::Mail(glob) => ("EMAIL:", glob),
            CertificatePattern::Uri(glob) => ("URI:", glob),
        };
        write!(f, "{kind}{}", glob.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_patterns_name_a_kind_and_a_value() {
        for good in [
            "CN=builder-*",
            "DNS:*.nodes.example",
            "EMAIL:*@example.com",
            "URI:spiffe://c/ns/*/sa/x",
            "CN=a:b=c",
        ] {
            assert_eq!(CertificatePattern::new(good).unwrap().to_string(), good);
        }
        for bad in ["", "builder", "CN:", "CN=", "DNS=x", "O=x", "cn=x", "IP:10.0.0.1"] {
            assert!(CertificatePattern::new(bad).is_err(), "{bad}");
        }
    }
}
