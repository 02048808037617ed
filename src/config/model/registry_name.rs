//! The name of an entry of `registries`.

use crate::oci::Namespace;

/// The registries of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RegistryName {
    Exact(Namespace),
    /// `*.example.com`: every host below `example.com`, at any depth, without `example.com`. Stored without the asterisk,
    /// with the leading dot, in lower case. The longest matching suffix wins, and an exact name wins over any suffix.
    Suffix(Box<str>),
}

impl RegistryName {
    /// Parses `host`, `host:port`, or `*.suffix`.
    ///
    /// # Errors
    ///
    /// Returns the expected form.
    pub(in crate::config) fn parse(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected a registry, `host`, `host:port` or `*.suffix`";
        match text.strip_prefix("*.") {
            None => text
                .parse()
                .map(RegistryName::Exact)
                .map_err(|_| EXPECTED.to_owned()),
            Some(domain) => match domain.parse::<Namespace>() {
                // Parsing only checks the text: the namespace of an alias would be another name.
                Ok(_) if !domain.contains([':', '[']) => Ok(RegistryName::Suffix(
                    format!(".{}", domain.to_ascii_lowercase()).into(),
                )),
                Ok(_) => Err("a suffix has no port".to_owned()),
                Err(_) => Err(EXPECTED.to_owned()),
            },
        }
    }

    /// Returns whether this name is a suffix that covers every registry of `other`, another name.
    pub(super) fn includes(&self, other: &RegistryName) -> bool {
        match (self, other) {
            (_, RegistryName::Exact(name)) => self != other && self.covers(name),
            (RegistryName::Suffix(suffix), RegistryName::Suffix(longer)) => {
                suffix.len() < longer.len() && longer.ends_with(&**suffix)
            }
            (RegistryName::Exact(_), RegistryName::Suffix(_)) => false,
        }
    }

    /// Returns whether an entry of this name is for `namespace`. A suffix covers port 443 only.
    pub fn covers(&self, namespace: &Namespace) -> bool {
        match self {
            RegistryName::Exact(name) => name == namespace,
            RegistryName::Suffix(suffix) => namespace
                .as_str()
                .strip_suffix(&**suffix)
                .is_some_and(|rest| !rest.is_empty()),
        }
    }
}

impl std::fmt::Display for RegistryName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RegistryName::Exact(name) => name.fmt(f),
            RegistryName::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}
