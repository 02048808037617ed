//! The HTTP client for one kind of connection, with its TLS configuration, proxies and address
//! policy.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::{ACCEPT_ENCODING, HeaderMap};

use super::Deadlines;
use super::error::BuildError;
use super::lookups::Lookups;
use super::policy::Policy;
use super::proxy::Routes;
use super::resolve::FilteredResolver;
use super::tls::{Peer, TlsBuilder};
use crate::config::Tls;

const USER_AGENT: &str = concat!("oci-pull-through/", env!("CARGO_PKG_VERSION"));

/// Idle connections kept per host. A pull fetches several layers at once.
const IDLE_CONNECTIONS_MAX: usize = 16;

/// The maximum age of an idle connection. Load balancers drop idle connections after 60 s, so a
/// lower limit avoids most requests on closing connections.
const IDLE_CONNECTION_AGE: Duration = Duration::from_secs(30);

/// The time until a connection with unacknowledged bytes is closed. Without this limit, a vanished
/// peer (such as a replaced pod) looks like a slow peer.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// The maximum number of header fields in a response. The parser rejects more. Google's registries
/// send many fields.
const HEADERS_MAX: usize = 200;

/// A pair of HTTP clients with identical settings. `kept` reuses connections, and `fresh` opens a
/// new connection for each request.
#[derive(Clone)]
pub(super) struct Client {
    pub kept: reqwest::Client,
    /// For the retry of a request on a dead kept connection, because the next kept connection may
    /// be dead too.
    pub fresh: reqwest::Client,
    pub lookups: Lookups,
}

/// Returns a client for a service of the operator that is no registry, such as a collector of traces.
/// Uses no proxy, follows no redirect, and trusts the system's root certificates. Reads files, so only
/// for the start.
///
/// # Errors
///
/// Fails if TLS cannot be set up.
pub fn service_client() -> Result<reqwest::Client, BuildError> {
    let tls = TlsBuilder::new()
        .config(&Tls::default(), Peer::Elsewhere)
        .map_err(|unusable| BuildError::Pem {
            name: "the system".to_owned(),
            file: unusable.file,
            reason: unusable.reason,
        })?;
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .http1_max_headers(HEADERS_MAX)
        .user_agent(USER_AGENT)
        .connect_timeout(Deadlines::default().connect)
        .pool_idle_timeout(IDLE_CONNECTION_AGE)
        .tcp_user_timeout(UNACKNOWLEDGED_MAX)
        .pool_max_idle_per_host(1);
    Ok(client.build()?)
}

/// The common settings of all clients of one configuration entry.
pub(super) struct ClientBuilder {
    pub lookups: Lookups,
    pub deadlines: Deadlines,
}

impl ClientBuilder {
    /// Returns a client for addresses allowed by `policy`, with the proxies of `routes`.
    ///
    /// HTTP proxies and `socks5h` proxies resolve names themselves, without the policy. `socks5`
    /// proxies receive addresses.
    pub fn build(
        &self,
        policy: Policy,
        tls: rustls::ClientConfig,
        routes: &Routes,
    ) -> Result<Client, reqwest::Error> {
        let client = |kept| self.one(policy.clone(), tls.clone(), routes, kept);
        Ok(Client {
            kept: client(IDLE_CONNECTIONS_MAX)?,
            fresh: client(0)?,
            lookups: self.lookups.clone(),
        })
    }

    fn one(
        &self,
        policy: Policy,
        tls: rustls::ClientConfig,
        routes: &Routes,
        kept: usize,
    ) -> Result<reqwest::Client, reqwest::Error> {
        let mut headers = HeaderMap::new();
        // Digests cover the uncompressed content. Responses with a content coding are rejected.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(Arc::new(FilteredResolver {
                policy,
                routes: routes.clone(),
                inner: Arc::new(self.lookups.clone()),
            }))
            // The configuration reads the environment. The client must not choose a proxy by
            // itself.
            .no_proxy()
            // Redirects are followed in `exchange`, where each hop is checked and secrets are
            // removed.
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .http1_only()
            .http1_max_headers(HEADERS_MAX)
            .user_agent(USER_AGENT)
            .default_headers(headers)
            // Names are resolved before, so this deadline covers TCP and TLS only.
            .connect_timeout(self.deadlines.connect)
            .pool_idle_timeout(IDLE_CONNECTION_AGE)
            .tcp_user_timeout(UNACKNOWLEDGED_MAX)
            .pool_max_idle_per_host(kept);
        match routes.for_client() {
            Some(proxy) => builder.proxy(proxy).build(),
            None => builder.build(),
        }
    }
}
