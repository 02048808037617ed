//! The HTTP client for one kind of connection: which TLS, which proxies, which addresses.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::{ACCEPT_ENCODING, HeaderMap};

use super::Deadlines;
use super::lookups::Lookups;
use super::policy::Policy;
use super::proxy::Routes;
use super::resolve::FilteredResolver;

const USER_AGENT: &str = concat!("oci-pull-through/", env!("CARGO_PKG_VERSION"));

/// Idle connections kept per host. A pull fetches a handful of layers at once.
const IDLE_CONNECTIONS_MAX: usize = 16;

/// How long an idle connection is kept: below the 60 s after which load balancers forget it, so that few requests
/// meet a connection that is about to be closed.
const IDLE_CONNECTION_AGE: Duration = Duration::from_secs(30);

/// How long sent bytes may go unacknowledged before a connection is given up. A peer that is gone without a word (a pod that
/// was replaced) would otherwise be waited for as long as one that works on its answer.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// Header fields in a response; Google's registries send many, and the parser refuses more than this.
const HEADERS_MAX: usize = 200;

/// A client, in two: one that keeps its connections, and one that makes a new connection for each request. Both reach the
/// same places in the same way.
#[derive(Clone)]
pub(super) struct Client {
    pub kept: reqwest::Client,
    /// For a request that failed on a connection that may have been dead before: the next kept one may be dead as well.
    pub fresh: reqwest::Client,
    pub lookups: Lookups,
}

/// What the clients of one entry of the configuration have in common.
pub(super) struct ClientBuilder {
    pub lookups: Lookups,
    pub deadlines: Deadlines,
}

impl ClientBuilder {
    /// A client whose connections lead to addresses that `policy` allows, by way of `routes`.
    ///
    /// An HTTP proxy and a `socks5h` one resolve names themselves, past the policy; `socks5` is given addresses.
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
        // Digests are of the content itself. A registry that compresses anyway is refused.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(Arc::new(FilteredResolver {
                policy,
                routes: routes.clone(),
                inner: Arc::new(self.lookups.clone()),
            }))
            // The environment is read by the configuration, and no proxy is the client's own idea.
            .no_proxy()
            // Every hop is checked and loses secrets by our rules.
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .http1_only()
            .http1_max_headers(HEADERS_MAX)
            .user_agent(USER_AGENT)
            .default_headers(headers)
            // Names are looked up before, so that this is the time for TCP and TLS.
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
