//! What the operator may choose for a registry.

use std::num::NonZeroUsize;
use std::time::Duration;

use reqwest::Url;

use super::allow::Allow;
use super::secret::SecretText;
use super::tag_rule::TagRule;
use crate::oci::Namespace;

/// Everything about upstreams; what a reload replaces.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Registries {
    /// Named by the operator; each name once. `defaults` of the file are already worked in.
    pub entries: Vec<RegistryConfig>,
    /// For registries nobody named. Never holds credentials or client certificates.
    pub unlisted: RegistrySettings,
    /// Registries that are not named do not exist.
    pub whitelist_mode: bool,
    /// No upstream is contacted at all.
    pub air_gapped: bool,
    /// Who may read what.
    pub allow: Allow,
}

/// An upstream the operator has named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryConfig {
    /// What clients call it.
    pub name: RegistryName,
    pub settings: RegistrySettings,
}

/// Which registries an entry is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RegistryName {
    Exact(Namespace),
    /// `*.example.com`: every host below, at any depth, not `example.com` itself. Without the asterisk, with its dot,
    /// in lower case. Where several match, the longest counts; an exact name counts before all.
    Suffix(Box<str>),
}

/// What can be chosen for one registry.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RegistrySettings {
    /// Asked before the registry itself, in this order.
    pub mirrors: Vec<Mirror>,
    /// Where it really is; without one, `https://<name>` (Docker Hub: `https://registry-1.docker.io`).
    pub url: Option<Url>,
    /// Plain http instead of https, when `url` does not say.
    pub insecure: bool,
    pub auth: Auth,
    pub tls: Tls,
    pub proxy: Proxy,
    /// What happens to a redirect of a blob.
    pub follow_redirects: FollowRedirects,
    /// Hosts besides the registry's own that may be its token service and see its credentials: `host` or `host:port`.
    pub realm_hosts: Vec<Box<str>>,
    /// Whether it may be at a loopback or private address; `None`: exactly named ones may, others may not.
    pub allow_private: Option<bool>,
    /// Who may read what needs credentials; `None`: [`Access::Shared`] where `auth` or a client certificate is set, else
    /// [`Access::Verify`].
    pub access: Option<Access>,
    /// The first that matches a tag counts; without one, the global settings do.
    pub tag_rules: Vec<TagRule>,
    /// `os/arch[/variant]`, for loading whole images; empty means all. Serving never filters.
    pub platforms: Vec<String>,
    /// Requests in flight at once; further ones wait.
    pub max_concurrency: Option<NonZeroUsize>,
}

/// A place that has a registry's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Scheme, host, port and perhaps a path before `/v2/`; no query, no user.
    pub url: Url,
    /// Asked for content by digest.
    pub pull: bool,
    /// Asked what tags mean.
    pub resolve: bool,
}

/// Which credentials we have for a registry. They go to its own origin and its token service only.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Auth {
    #[default]
    Anonymous,
    Basic {
        username: String,
        password: SecretText,
    },
    /// A refresh token (`identitytoken`), exchanged by OAuth2 POST.
    IdentityToken(SecretText),
    /// A bearer token that is sent as it is (`registrytoken`).
    RegistryToken(SecretText),
    /// The program `docker-credential-<name>`, asked with `get`.
    Helper {
        name: String,
    },
    /// A `config.json` or `auth.json`, read anew when it changes: per host, per repository, and its helpers.
    DockerConfig {
        path: std::path::PathBuf,
    },
}

/// How TLS is spoken with a registry.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tls {
    /// PEM; trusted instead of the system's roots.
    pub ca: Option<Pem>,
    /// PEM of certificate chain and key, presented when the registry asks for one.
    pub client: Option<(Pem, Pem)>,
    /// Takes any certificate.
    pub insecure_skip_verify: bool,
}

/// The content of a PEM file, and where it came from. Checked to hold what it should. Prints as its path.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    pub path: std::path::PathBuf,
    pub text: SecretText,
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pem({})", self.path.display())
    }
}

/// How a registry, its token service and its redirects are reached.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Proxy {
    /// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` (or lower case), which [`super::ProxyEnvironment`] holds.
    #[default]
    Environment,
    /// Never through a proxy (`none` or `direct`).
    Direct,
    /// `http`, `https`, `socks5` or `socks5h`.
    Url(ProxyUrl),
}

/// A proxy. Prints without its credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    /// Without user.
    pub url: Url,
    pub credentials: Option<(String, SecretText)>,
}

impl std::fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProxyUrl({})", self.url)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FollowRedirects {
    /// We follow, store and serve.
    #[default]
    Follow,
    /// A blob's redirect is given to the client (307), and nothing is stored.
    Pass,
}

/// Who may read content that needs credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Clients to which the upstream grants access by their own credentials. The operator's credentials are used for public
    /// content only.
    Verify,
    /// Everybody who reaches the cache, by our credentials: the network is the boundary.
    Shared,
    /// Clients to which the upstream grants access on each request. Nothing is cached.
    Passthrough,
}

impl RegistrySettings {
    /// Who may read what needs credentials.
    pub fn access(&self) -> Access {
        self.access.unwrap_or(match (&self.auth, &self.tls.client) {
            (Auth::Anonymous, None) => Access::Verify,
            _ => Access::Shared,
        })
    }
}

impl RegistryConfig {
    /// An entry that changes nothing but that the registry is named.
    pub fn named(name: Namespace) -> Self {
        RegistryConfig {
            name: RegistryName::Exact(name),
            settings: RegistrySettings::default(),
        }
    }
}

impl RegistryName {
    /// Whether an entry of this name is about `namespace`. A suffix never covers another port than 443.
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

impl Registries {
    /// What was chosen for `namespace`, and whether the operator named it exactly.
    pub fn settings(&self, namespace: &Namespace) -> (&RegistrySettings, Named) {
        match self.entry(namespace) {
            None => (&self.unlisted, Named::No),
            Some(entry) => match entry.name {
                RegistryName::Exact(_) => (&entry.settings, Named::Exactly),
                RegistryName::Suffix(_) => (&entry.settings, Named::BySuffix),
            },
        }
    }

    /// The name of the entry that is about `namespace`.
    pub fn entry_name(&self, namespace: &Namespace) -> Option<String> {
        self.entry(namespace).map(|entry| entry.name.to_string())
    }

    /// The entry that is about `namespace`.
    pub fn entry(&self, namespace: &Namespace) -> Option<&RegistryConfig> {
        let exact = self
            .entries
            .iter()
            .find(|entry| matches!(&entry.name, RegistryName::Exact(name) if name == namespace));
        let suffixes = self.entries.iter().filter_map(|entry| match &entry.name {
            RegistryName::Suffix(suffix) if entry.name.covers(namespace) => Some((suffix.len(), entry)),
            _ => None,
        });
        exact.or_else(|| suffixes.max_by_key(|(len, _)| *len).map(|(_, entry)| entry))
    }

    /// Whether there is a registry `namespace` at all: with `whitelist_mode` only those that are named.
    pub fn exists(&self, namespace: &Namespace) -> bool {
        !self.whitelist_mode || self.settings(namespace).1 != Named::No
    }

    /// The registries that everybody who reaches the cache reads with our credentials although nobody said
    /// `access: shared`. Worth a line in the log.
    pub fn shared_by_default(&self) -> impl Iterator<Item = &RegistryName> {
        let shared = self
            .entries
            .iter()
            .filter(|entry| entry.settings.access.is_none() && entry.settings.access() == Access::Shared);
        shared.map(|entry| &entry.name)
    }
}

/// How the operator named a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    Exactly,
    BySuffix,
    No,
}

/// How long a tag is taken as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagFreshness {
    For(Duration),
    /// Asked for every time.
    AlwaysAsk,
    /// Never asked for again once it is known.
    NeverAsk,
}
