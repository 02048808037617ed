//! A request to a registry, and its conversion to an HTTP request.

use http::header::{ACCEPT, RANGE};
use http::{HeaderMap, HeaderValue};

use super::Secret;
use super::exchange::{OutgoingRequest, Redirects};
use super::registries::RegistryEntry;
use crate::metrics::UpstreamKind;
use crate::oci::{Digest, ListQuery, Namespace, Reference, Repository};

/// A request to a registry.
#[derive(Clone, Debug)]
pub struct UpstreamRequest {
    pub namespace: Namespace,
    pub repository: Repository,
    pub target: Target,
    pub method: UpstreamMethod,
    /// Media types for `Accept`, in the form sent. Not for blobs, because blobs have any media
    /// type.
    pub accept: Vec<String>,
    /// The offset of the first requested byte (`Range: bytes=N-`), for GET of blobs only. There is
    /// no `If-Range`. The digest verifies the result, and validators differ between the hosts of
    /// one registry.
    pub range_from: Option<u64>,
    pub credentials: Credentials,
    pub purpose: Purpose,
}

/// The credentials of a request to an upstream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Credentials {
    /// Anonymous. Content in the answer is public.
    None,
    /// The operator's credentials for the registry, or anonymous without configured credentials.
    Operator,
    /// The client's own `Authorization`, forwarded unchanged. A user name with a password is
    /// exchanged for a token if the registry requires a token and its token service may see the
    /// password. A 401 is returned with its challenges.
    Client(Secret),
}

/// The purpose of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A client waits, and there is no held copy.
    Pull,
    /// The held copy may be out of date, but serves the client if the upstream is unavailable or
    /// limits requests.
    Revalidate,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    Manifest(Reference),
    Blob(Digest),
    /// A page of `tags/list`.
    Tags(ListQuery),
    /// `referrers/<digest>`. Redirects outside the registry API are not followed, because they lead
    /// to HTML pages.
    Referrers(Digest, ListQuery),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpstreamMethod {
    Get,
    Head,
    /// Checks read access with the smallest request accepted by every registry. For a manifest,
    /// this is `HEAD`, or `GET` if `HEAD` is refused. For a blob, it is a GET of the first byte,
    /// because some registries refuse `HEAD` of blobs.
    Probe,
}

impl UpstreamRequest {
    pub(super) fn to_outgoing(&self, entry: &RegistryEntry) -> OutgoingRequest {
        let mut headers = HeaderMap::new();
        if !matches!(self.target, Target::Blob(_))
            && !self.accept.is_empty()
            // A single field, because some registries read only the first.
            && let Ok(accept) = HeaderValue::from_str(&self.accept.join(", "))
        {
            headers.insert(ACCEPT, accept);
        }
        if let (Target::Blob(_), UpstreamMethod::Get, Some(from)) =
            (&self.target, self.method, self.range_from)
        {
            let range =
                HeaderValue::from_str(&format!("bytes={from}-")).expect("digits are valid in a header");
            headers.insert(RANGE, range);
        }
        let method = match (self.method, &self.target) {
            (UpstreamMethod::Get, _) | (UpstreamMethod::Probe, Target::Blob(_)) => http::Method::GET,
            (UpstreamMethod::Head | UpstreamMethod::Probe, _) => http::Method::HEAD,
        };
        if method == http::Method::GET && self.method == UpstreamMethod::Probe {
            headers.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
        }
        OutgoingRequest {
            method,
            headers,
            body: None,
            redirects: match &self.target {
                Target::Referrers(..) => Redirects::WithinApi,
                Target::Blob(_) if entry.passes_redirects() => Redirects::Pass,
                _ => Redirects::Follow,
            },
            registry: self.namespace.clone(),
            kind: match &self.target {
                Target::Manifest(_) => UpstreamKind::Manifest,
                Target::Blob(_) => UpstreamKind::Blob,
                Target::Tags(_) => UpstreamKind::Tags,
                Target::Referrers(..) => UpstreamKind::Referrers,
            },
        }
    }
}
