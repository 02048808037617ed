//! A request to a registry, and its translation to an HTTP request.

use http::header::{ACCEPT, RANGE};
use http::{HeaderMap, HeaderValue};

use super::Secret;
use super::exchange::{OutgoingRequest, Redirects};
use super::registries::RegistryEntry;
use crate::oci::{Digest, ListQuery, Namespace, Reference, Repository};

/// One request to one registry.
#[derive(Clone, Debug)]
pub struct UpstreamRequest {
    pub namespace: Namespace,
    pub repository: Repository,
    pub target: Target,
    pub method: UpstreamMethod,
    /// Media types for `Accept`, each as it should be sent. Not for blobs, which take any.
    pub accept: Vec<String>,
    /// The offset of the first requested byte (`Range: bytes=N-`). For GET of blobs only. There is no `If-Range`:
    /// the digest decides whether pieces fit, and validators differ between the hosts of one registry.
    pub range_from: Option<u64>,
    pub credentials: Credentials,
    pub purpose: Purpose,
}

/// The credentials of a request to an upstream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Credentials {
    /// Nobody's: what is seen this way is public.
    None,
    /// What the operator configured for the registry; nobody's, where nothing is.
    Operator,
    /// The client's own `Authorization`, sent as it is. A name with its password is exchanged for a token where the registry
    /// wants one and its token service may see it. A 401 is given back with its challenges.
    Client(Secret),
}

/// What an answer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Somebody waits for it, and there is nothing else to give.
    Pull,
    /// What we hold may be out of date; it serves when the upstream had better not be bothered.
    Revalidate,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    Manifest(Reference),
    Blob(Digest),
    /// `tags/list`, a page of it.
    Tags(ListQuery),
    /// `referrers/<digest>`. Its redirects are not followed: they lead to pages for people.
    Referrers(Digest, ListQuery),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpstreamMethod {
    Get,
    Head,
    /// Whether the content may be read, with the smallest request that every registry accepts: `HEAD` of a manifest (`GET`,
    /// where that is refused), the first byte of a blob. (Registries refuse `HEAD` of blobs they give by `GET`.)
    Probe,
}

impl UpstreamRequest {
    pub(super) fn to_outgoing(&self, entry: &RegistryEntry) -> OutgoingRequest {
        let mut headers = HeaderMap::new();
        if !matches!(self.target, Target::Blob(_))
            && !self.accept.is_empty()
            // One line: some registries read only the first.
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
        }
    }
}
