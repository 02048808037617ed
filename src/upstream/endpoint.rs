//! One endpoint for content, a registry or a mirror of it, and the HTTP clients that may be used for it.

use std::sync::Arc;

use reqwest::Url;

use super::Target;
use super::client::Client;
use super::policy::Policy;
use super::proxy::Routes;
use super::redirect::same_origin;
use crate::oci::{Namespace, Repository};

/// The host behind the name `docker.io`.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// One endpoint of a registry or mirror.
#[derive(Clone)]
pub(super) struct Endpoint {
    /// Scheme, host, port and perhaps a path before `/v2/`; no query, no user.
    pub base: Url,
    pub policy: Policy,
    pub clients: EndpointClients,
    pub routes: Routes,
    /// Hosts besides its own that may see its credentials.
    pub realm_hosts: Arc<[Box<str>]>,
    /// It gets to see our certificate, so its content is not public.
    pub certified: bool,
    /// The value of `ns`: the registry of the request, where the address does not determine it.
    pub ns: Option<Namespace>,
}

/// Connections of one registry only: one that was opened for a configured registry may lead to a place that others must
/// not reach.
#[derive(Clone)]
pub(super) struct EndpointClients {
    /// For the endpoint's own origin; shows our certificate.
    pub own: Client,
    /// For wherever it sends us.
    pub elsewhere: Client,
}

impl Endpoint {
    /// Scheme, host and port: where secrets may go.
    pub fn origin(&self) -> &Url {
        &self.base
    }

    /// The client for `url`.
    pub fn client(&self, url: &Url) -> &Client {
        if same_origin(url, &self.base) {
            &self.clients.own
        } else {
            &self.clients.elsewhere
        }
    }

    /// Returns the URL of `/v2/`, which challenges for credentials.
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
        if let Some(ns) = &self.ns {
            url.query_pairs_mut().append_pair("ns", ns.as_str());
        }
        url
    }
}

/// Where the registry called `namespace` is, unless the operator says otherwise.
///
/// # Errors
///
/// For a namespace whose host no URL can hold.
pub(super) fn base_url(namespace: &Namespace, insecure: bool) -> Result<Url, ()> {
    let scheme = if insecure { "http" } else { "https" };
    let host = if namespace.is_docker_hub() {
        DOCKER_HUB_HOST
    } else {
        namespace.as_str()
    };
    Url::parse(&format!("{scheme}://{host}")).map_err(|_| ())
}

/// What is wrong with a URL the operator gave, if anything is.
pub(super) fn check_base(base: &Url) -> Result<(), &'static str> {
    if !matches!(base.scheme(), "http" | "https") {
        return Err("its url must begin with http:// or https://");
    }
    if base.query().is_some() || base.fragment().is_some() {
        return Err("its url must not have a query or fragment");
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err("its url must not hold credentials");
    }
    match base.host_str() {
        Some(_) => Ok(()),
        None => Err("its url has no host"),
    }
}
