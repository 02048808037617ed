//! Proxies towards upstreams.

use reqwest::Url;

use super::secret::SecretText;

/// The proxy for a registry, its token service and its redirects.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Proxy {
    /// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` (or lower case), held by [`ProxyEnvironment`].
    #[default]
    Environment,
    /// No proxy (`none` or `direct`).
    Direct,
    /// An `http`, `https`, `socks5` or `socks5h` proxy.
    Url(ProxyUrl),
}

impl Proxy {
    pub(in crate::config) fn has_password(&self) -> bool {
        matches!(self, Proxy::Url(url) if url.credentials.is_some())
    }
}

/// The URL of a proxy. `Debug` shows no credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    /// The URL without the user.
    pub url: Url,
    pub credentials: Option<(String, SecretText)>,
}

impl std::fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProxyUrl({})", self.url)
    }
}

/// The proxy variables of the environment. Empty variables count as absent.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxyEnvironment {
    pub https: Option<ProxyUrl>,
    pub http: Option<ProxyUrl>,
    /// `NO_PROXY`: hosts, domains, addresses and networks, comma-separated.
    pub no_proxy: String,
}

impl std::fmt::Debug for ProxyEnvironment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyEnvironment")
            .field("https", &self.https)
            .field("http", &self.http)
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}
