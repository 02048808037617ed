//! An endpoint (registry or mirror) and its HTTP clients.

use std::sync::Arc;

use reqwest::Url;

use super::Target;
use super::client::Client;
use super::policy::Policy;
use super::proxy::Routes;
use super::redirect::same_origin;
use crate::oci::{Namespace, Repository};

/// The host of the registry `docker.io`.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// An endpoint of a registry or mirror.
#[derive(Clone)]
pub(super) struct Endpoint {
    /// Scheme, host, port and an optional path before `/v2/`. Without query and user.
    pub base: Url,
    pub policy: Policy,
    pub clients: EndpointClients,
    pub routes: Routes,
    /// Other hosts with access to the endpoint's credentials.
    pub realm_hosts: Arc<[Box<str>]>,
    /// The endpoint receives our client certificate, so its content is not public.
    pub certified: bool,
    /// The value of `ns`, the registry of the request. `None` if the address determines the
    /// registry.
    pub ns: Option<Namespace>,
    /// Whether the endpoint gets the `traceparent` of a traced request.
    pub joins_traces: bool,
}

/// The clients of one registry. Registries do not share connections: a connection of a configured
/// registry may lead to a host forbidden for others.
#[derive(Clone)]
pub(super) struct EndpointClients {
    /// For the endpoint's own origin, with our client certificate.
    pub own: Client,
    /// For redirects to other origins.
    pub elsewhere: Client,
}

impl Endpoint {
    /// Returns the origin (scheme, host and port). Secrets go to this origin only.
    pub fn origin(&self) -> &Url {
        &self.base
    }

    /// Returns the client for `url`.
    pub fn client(&self, url: &Url) -> &Client {
        if same_origin(url, &self.base) {
            &self.clients.own
        } else {
            &self.clients.elsewhere
        }
    }

    /// Returns the URL of `/v2/`. Registries challenge for credentials there.
    pub fn ping(&self) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/v2/", self.base.path().trim_end_matches('/')));
        if let Some(ns) = &self.ns {
            url.query_pairs_mut().append_pair("ns", ns.as_str());
        }
        url
    }

    pub fn url(&self, repository: &Repository, target: &Target) -> Url {
        let mut url = self.base.clone();
        let prefix = self.base.path().trim_end_matches('/');
        // Repositories, tags and digests consist of characters without a special meaning in paths.
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
        if let Some(ns) = &self.ns {
            url.query_pairs_mut().append_pair("ns", ns.as_str());
        }
        url
    }
}

/// Returns the default URL of the registry `namespace`.
///
/// # Errors
///
/// Fails if the host of the namespace is not valid in a URL.
pub(super) fn base_url(namespace: &Namespace, insecure: bool) -> Result<Url, ()> {
    let scheme = if insecure { "http" } else { "https" };
    let host = if namespace.is_docker_hub() {
        DOCKER_HUB_HOST
    } else {
        namespace.as_str()
    };
    Url::parse(&format!("{scheme}://{host}")).map_err(|_| ())
}

/// Checks a configured URL.
///
/// # Errors
///
/// Returns the reason why the URL is not usable.
pub(super) fn check_base(base: &Url) -> Result<(), &'static str> {
    if !matches!(base.scheme(), "http" | "https") {
        return Err("the url must begin with http:// or https://");
    }
    if base.query().is_some() || base.fragment().is_some() {
        return Err("the url must not have a query or fragment");
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err("the url must not contain credentials");
    }
    match base.host_str() {
        Some(_) => Ok(()),
        None => Err("the url has no host"),
    }
}
