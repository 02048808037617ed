//! Where a registry lives, and the HTTP client that may be used for it.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::{ACCEPT_ENCODING, HeaderMap};
use reqwest::Url;
use reqwest::dns::Resolve;

use super::error::{BuildError, UpstreamError};
use super::policy::Policy;
use super::resolve::FilteredResolver;
use super::{Deadlines, Target};
use crate::config::RegistrySettings;
use crate::oci::{Namespace, Repository};

/// The host behind the name `docker.io`.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

const USER_AGENT: &str = concat!("oci-pull-through/", env!("CARGO_PKG_VERSION"));

/// Idle connections kept per host. A pull fetches a handful of layers at once.
const IDLE_CONNECTIONS_MAX: usize = 16;

/// How long an idle connection is kept: below the 60 s after which load balancers forget it, so that few requests
/// meet a connection that is about to be closed.
const IDLE_CONNECTION_AGE: Duration = Duration::from_secs(30);

/// Header fields in a response; Google's registries send many, and the parser refuses more than it was told.
const HEADERS_MAX: usize = 200;

/// One registry, ready to be asked.
#[derive(Clone)]
pub(super) struct Endpoint {
    /// Scheme, host, port and perhaps a path before `/v2/`; no query, no user.
    base: Url,
    pub policy: Policy,
    /// Connections of this policy only: one that was opened for a configured registry may lead to a place
    /// that others must not reach.
    pub client: reqwest::Client,
}

impl Endpoint {
    /// The registry nobody configured that clients call `namespace`.
    ///
    /// # Errors
    ///
    /// [`UpstreamError::Refused`] for addresses, ports and names without a dot.
    pub fn public(namespace: &Namespace, client: &reqwest::Client) -> Result<Self, UpstreamError> {
        let host: Arc<str> = namespace.as_str().into();
        // A namespace is a host and port by its type; what the URL parser still refuses is no host name.
        let base = base_url("https", namespace).map_err(|()| UpstreamError::Refused {
            host: host.clone(),
            reason: super::Refusal::Host,
        })?;
        Policy::Public
            .check_url(&base)
            .map_err(|reason| UpstreamError::Refused { host, reason })?;
        Ok(Endpoint {
            base,
            policy: Policy::Public,
            client: client.clone(),
        })
    }

    /// A registry the operator named.
    pub fn configured(
        name: &Namespace,
        config: &RegistrySettings,
        builder: &ClientBuilder,
    ) -> Result<Self, BuildError> {
        let wrong = |reason| BuildError::Registry {
            name: name.to_string(),
            reason,
        };
        let base = match &config.url {
            Some(url) => url.clone(),
            None => base_url(if config.insecure { "http" } else { "https" }, name)
                .map_err(|()| wrong("its name is not a host"))?,
        };
        let plain_http = match base.scheme() {
            "http" => true,
            "https" => false,
            _ => return Err(wrong("its url must begin with http:// or https://")),
        };
        if base.query().is_some() || base.fragment().is_some() {
            return Err(wrong("its url must not have a query or fragment"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(wrong("its url must not hold credentials"));
        }
        let host = base
            .host_str()
            .ok_or_else(|| wrong("its url has no host"))?
            .into();
        let policy = Policy::Configured { host, plain_http };
        Ok(Endpoint {
            client: builder.build(policy.clone())?,
            base,
            policy,
        })
    }

    /// Scheme, host and port of the registry: where secrets may go.
    pub fn origin(&self) -> &Url {
        &self.base
    }

    pub fn url(&self, repository: &Repository, target: &Target) -> Url {
        let mut url = self.base.clone();
        let prefix = self.base.path().trim_end_matches('/');
        // Repositories, tags and digests are made of characters that mean themselves in a path.
        let path = match target {
            Target::Manifest(reference) => format!("{prefix}/v2/{repository}/manifests/{reference}"),
            Target::Blob(digest) => format!("{prefix}/v2/{repository}/blobs/{digest}"),
            Target::Tags(_) => format!("{prefix}/v2/{repository}/tags/list"),
            Target::Referrers(digest, _) => format!("{prefix}/v2/{repository}/referrers/{digest}"),
        };
        url.set_path(&path);
        if let Target::Tags(query) | Target::Referrers(_, query) = target
            && !query.is_empty()
        {
            url.set_query(Some(query.as_str()));
        }
        url
    }
}

fn base_url(scheme: &str, namespace: &Namespace) -> Result<Url, ()> {
    let host = if namespace.is_docker_hub() {
        DOCKER_HUB_HOST
    } else {
        namespace.as_str()
    };
    Url::parse(&format!("{scheme}://{host}")).map_err(|_| ())
}

/// What all clients have in common.
pub(super) struct ClientBuilder {
    pub tls: rustls::ClientConfig,
    pub resolver: Arc<dyn Resolve>,
    pub deadlines: Deadlines,
}

impl ClientBuilder {
    /// A client whose connections follow `policy`.
    pub fn build(&self, policy: Policy) -> Result<reqwest::Client, reqwest::Error> {
        let mut headers = HeaderMap::new();
        // Digests are of the content itself. A registry that compresses anyway is refused.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .dns_resolver(Arc::new(FilteredResolver {
                policy,
                inner: self.resolver.clone(),
            }))
            // A proxy would resolve names itself, past the filter.
            .no_proxy()
            // Every hop is checked and loses secrets by our rules.
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .http1_only()
            .http1_max_headers(HEADERS_MAX)
            .user_agent(USER_AGENT)
            .default_headers(headers)
            .connect_timeout(self.deadlines.connect)
            .pool_idle_timeout(IDLE_CONNECTION_AGE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::super::resolve::SystemResolver;
    use super::*;
    use crate::oci::Reference;

    fn builder() -> ClientBuilder {
        let tls = super::super::tls::client_config().unwrap();
        ClientBuilder {
            tls,
            resolver: Arc::new(SystemResolver),
            deadlines: Deadlines::default(),
        }
    }

    fn manifest_url(endpoint: &Endpoint) -> String {
        let target = Target::Manifest(Reference::Tag("1.0".parse().unwrap()));
        endpoint
            .url(&"library/nginx".parse().unwrap(), &target)
            .to_string()
    }

    #[test]
    fn a_registry_is_where_its_name_or_its_configuration_says() {
        let client = builder().build(Policy::Public).unwrap();
        let public = |name: &str| {
            Endpoint::public(&name.parse().unwrap(), &client)
                .map(|e| manifest_url(&e))
                .ok()
        };
        let hub = "https://registry-1.docker.io/v2/library/nginx/manifests/1.0";
        assert_eq!(public("docker.io").as_deref(), Some(hub));
        assert_eq!(
            public("ghcr.io").as_deref(),
            Some("https://ghcr.io/v2/library/nginx/manifests/1.0")
        );
        for refused in [
            "localhost",
            "localhost:5000",
            "ghcr.io:5000",
            "127.0.0.1",
            "127.1",
            "0x7f.1",
            "[::1]",
            "registry",
            "8.8.8.8",
        ] {
            assert_eq!(public(refused), None, "{refused}");
        }

        let configured = |name: &str, insecure, url: Option<&str>| {
            let config = RegistrySettings {
                insecure,
                url: url.map(|url| url.parse().unwrap()),
                ..RegistrySettings::default()
            };
            Endpoint::configured(&name.parse().unwrap(), &config, &builder())
                .map(|e| manifest_url(&e))
                .ok()
        };
        let rest = "v2/library/nginx/manifests/1.0";
        assert_eq!(
            configured("localhost:5000", true, None),
            Some(format!("http://localhost:5000/{rest}"))
        );
        assert_eq!(
            configured("r.lan", false, None),
            Some(format!("https://r.lan/{rest}"))
        );
        assert_eq!(configured("docker.io", false, None), Some(hub.to_owned()));
        assert_eq!(
            configured("a.lan", false, Some("http://10.0.0.1:81/")),
            Some(format!("http://10.0.0.1:81/{rest}"))
        );
        assert_eq!(
            configured("a.lan", true, Some("https://b.lan/prefix/")),
            Some(format!("https://b.lan/prefix/{rest}"))
        );
        for bad in [
            "ftp://a.lan",
            "https://a.lan/?q",
            "https://a.lan/#f",
            "https://u:p@a.lan/",
            "unix:/run/x",
        ] {
            assert_eq!(configured("a.lan", false, Some(bad)), None, "{bad}");
        }
    }

    #[test]
    fn a_digest_stands_in_a_url_as_it_is_written() {
        let client = builder().build(Policy::Public).unwrap();
        let endpoint = Endpoint::public(&"ghcr.io".parse().unwrap(), &client).unwrap();
        let digest = format!("sha256:{}", "0a".repeat(32));
        let url = endpoint.url(&"a/b".parse().unwrap(), &Target::Blob(digest.parse().unwrap()));
        assert_eq!(url.as_str(), format!("https://ghcr.io/v2/a/b/blobs/{digest}"));
    }

    #[test]
    fn a_list_s_query_is_asked_as_it_is_written() {
        let client = builder().build(Policy::Public).unwrap();
        let endpoint = Endpoint::public(&"ghcr.io".parse().unwrap(), &client).unwrap();
        let url = |target| endpoint.url(&"a/b".parse().unwrap(), &target).to_string();
        let mut query = crate::oci::ListQuery::default();
        assert_eq!(
            url(Target::Tags(query.clone())),
            "https://ghcr.io/v2/a/b/tags/list"
        );
        query.push("last", "x%2By#").unwrap();
        assert_eq!(
            url(Target::Tags(query.clone())),
            "https://ghcr.io/v2/a/b/tags/list?last=x%2By%23"
        );
        let digest = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(
            url(Target::Referrers(digest.parse().unwrap(), query)),
            format!("https://ghcr.io/v2/a/b/referrers/{digest}?last=x%2By%23")
        );
    }
}
