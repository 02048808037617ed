//! The settings of a registry.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use reqwest::Url;

use super::bounds::SizeBound;
use super::proxy::Proxy;
use super::secret::SecretText;
use super::tag_rule::TagRule;
use super::tls::Tls;

/// The settings of a registry.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RegistrySettings {
    /// Mirrors, requested before the registry itself, in this order.
    pub mirrors: Vec<Mirror>,
    /// The URL of the registry. `None` means `https://<name>` (Docker Hub: `https://registry-1.docker.io`).
    pub url: Option<Url>,
    /// Whether plain http replaces https. Ignored if `url` is set.
    pub insecure: bool,
    pub auth: Auth,
    pub tls: Tls,
    pub proxy: Proxy,
    /// The handling of blob redirects.
    pub follow_redirects: FollowRedirects,
    /// Further hosts, `host` or `host:port`, that may be the token service and receive credentials.
    pub realm_hosts: Vec<Box<str>>,
    /// Whether the registry may have a loopback or private address. `None` permits only exactly named registries.
    pub allow_private: Option<bool>,
    /// Readers of content that needs credentials. `None` means [`Access::Shared`] if `auth` or a client certificate is
    /// set, else [`Access::Verify`].
    pub access: Option<Access>,
    /// The first rule that matches a tag applies. Without a match, the global settings apply.
    pub tag_rules: Vec<TagRule>,
    /// `os/arch[/variant]`, for loading whole images. Empty means all. Serving never filters.
    pub platforms: Vec<String>,
    /// The largest number of in-flight requests. Further requests wait.
    pub max_concurrency: Option<NonZeroUsize>,
    /// Bytes of the registry's content in the local store. `None` and 0 mean no bound besides that of the store. With
    /// a name such as `*.suffix`, each registry has a bound of its own.
    pub cache_max_size: Option<SizeBound>,
    /// The directory of a store for the content of the registry. `None` means the store of `FS_ROOT`. Registries with
    /// one directory share its store.
    pub cache_dir: Option<PathBuf>,
}

/// A mirror of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Scheme, host, port and an optional path before `/v2/`, without query and user.
    pub url: Url,
    /// Whether the mirror serves content by digest.
    pub pull: bool,
    /// Whether the mirror resolves tags.
    pub resolve: bool,
}

/// Our credentials for a registry. The cache sends credentials to the origin of the registry and to the token service
/// only.
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
    /// A bearer token, sent unchanged (`registrytoken`).
    RegistryToken(SecretText),
    /// The program `docker-credential-<name>`, called with `get`.
    Helper {
        name: String,
    },
    /// A `config.json` or `auth.json` with credentials per host, per repository, and by helper. Read again after a
    /// change.
    DockerConfig {
        path: PathBuf,
    },
}

/// The handling of a blob redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FollowRedirects {
    /// The cache follows the redirect, stores the blob and serves the blob.
    #[default]
    Follow,
    /// The cache returns the redirect to the client (307) and stores nothing.
    Pass,
}

/// Readers of content that needs credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Clients with own credentials that the upstream accepts. The operator's credentials are for public content only.
    Verify,
    /// Every client, by the operator's credentials. The network is the boundary.
    Shared,
    /// Clients that the upstream accepts on each request. Nothing is cached.
    Passthrough,
}

impl RegistrySettings {
    /// Returns the readers of content that needs credentials, with the default applied.
    pub fn access(&self) -> Access {
        self.access.unwrap_or(match (&self.auth, &self.tls.client) {
            (Auth::Anonymous, None) => Access::Verify,
            _ => Access::Shared,
        })
    }
}
