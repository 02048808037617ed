//! All settings of upstreams.

use super::access_rule::Allow;
use super::registry::{Access, RegistrySettings};
use super::registry_name::RegistryName;
use crate::oci::Namespace;

/// All settings of upstreams. A reload replaces the whole.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Registries {
    /// The named registries, with `defaults` of the file applied. Names are unique.
    pub entries: Vec<RegistryConfig>,
    /// The settings of unnamed registries, always without credentials and client certificates.
    pub unlisted: RegistrySettings,
    /// Whether unnamed registries are rejected.
    pub whitelist_mode: bool,
    /// Whether the cache contacts no upstream.
    pub air_gapped: bool,
    /// Whether every client may read content that was stored without access rights, while its registry is
    /// unavailable.
    pub trust_existing: bool,
    /// Access rules for clients.
    pub allow: Allow,
}

/// A named registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryConfig {
    /// The name that clients use.
    pub name: RegistryName,
    pub settings: RegistrySettings,
}

impl RegistryConfig {
    /// Returns an entry with default settings.
    pub fn named(name: Namespace) -> Self {
        RegistryConfig {
            name: RegistryName::Exact(name),
            settings: RegistrySettings::default(),
        }
    }
}

impl Registries {
    /// Returns the settings of `namespace`, and the kind of entry that holds them.
    pub fn settings(&self, namespace: &Namespace) -> (&RegistrySettings, Named) {
        match self.entry(namespace) {
            None => (&self.unlisted, Named::No),
            Some(entry) => match entry.name {
                RegistryName::Exact(_) => (&entry.settings, Named::Exactly),
                RegistryName::Suffix(_) => (&entry.settings, Named::BySuffix),
            },
        }
    }

    /// Returns the name of the entry for `namespace`.
    pub fn entry_name(&self, namespace: &Namespace) -> Option<String> {
        self.entry(namespace).map(|entry| entry.name.to_string())
    }

    /// Returns the entry for `namespace`: the exact name, or else the longest suffix.
    pub fn entry(&self, namespace: &Namespace) -> Option<&RegistryConfig> {
        let entries = self.entries.iter().map(|entry| (&entry.name, entry));
        best_entry(entries, namespace)
    }

    /// Returns whether clients can name `namespace`. With `whitelist_mode`, only named registries exist.
    pub fn exists(&self, namespace: &Namespace) -> bool {
        !self.whitelist_mode || self.settings(namespace).1 != Named::No
    }

    /// Returns the registries that every client reads by our credentials although `access: shared` is not set. Worth a
    /// log line.
    pub fn shared_by_default(&self) -> impl Iterator<Item = &RegistryName> {
        let shared = self
            .entries
            .iter()
            .filter(|entry| entry.settings.access.is_none() && entry.settings.access() == Access::Shared);
        shared.map(|entry| &entry.name)
    }
}

/// Returns the value of the entry for `namespace`: of the exact name, or else of the longest suffix.
pub(super) fn best_entry<'a, T>(
    entries: impl Iterator<Item = (&'a RegistryName, T)> + Clone,
    namespace: &Namespace,
) -> Option<T> {
    let is_exact = |name: &RegistryName| matches!(name, RegistryName::Exact(name) if name == namespace);
    let exact = entries.clone().find(|(name, _)| is_exact(name));
    let suffixes = entries.filter_map(|(name, value)| match name {
        RegistryName::Suffix(suffix) if name.covers(namespace) => Some((suffix.len(), value)),
        _ => None,
    });
    let exact = exact.map(|(_, value)| value);
    exact.or_else(|| suffixes.max_by_key(|(len, _)| *len).map(|(_, value)| value))
}

/// The kind of entry that names a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    Exactly,
    BySuffix,
    No,
}
