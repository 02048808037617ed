//! Forwards responses of an upstream without caching.

use super::Registry;
use super::pull::Pull;
use super::respond;
use crate::cache::FetchError;
use crate::http::{Body, CacheResult, Method, Response};
use crate::oci::{Digest, Reference, is_manifest_type};
use crate::upstream::{Credentials, Target};

impl Registry {
    /// Forwards a request to the upstream for a single client. Nothing of the response is cached.
    pub(super) async fn pass_through(
        &self,
        pull: &Pull<'_>,
        target: Target,
        credentials: Credentials,
    ) -> Result<Response, FetchError> {
        let head = pull.head;
        let accept = match &target {
            Target::Manifest(_) => head.accept().map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        let head_only = head.method == Method::Head;
        let is_blob = matches!(target, Target::Blob(_));
        let wanted = match &target {
            Target::Blob(digest) | Target::Manifest(Reference::Digest(digest)) => Some(*digest),
            _ => None,
        };
        let (upstream, body) = self
            .cache
            .pass_through(pull.origin(), target, head_only, accept, credentials)
            .await?;
        pull.details.upstream_status.set(Some(upstream.status));
        let named = || -> Option<Digest> {
            let values = upstream.headers.get("Docker-Content-Digest")?;
            values.first()?.parse().ok()
        };
        let content_type = match &upstream.content_type {
            Some(content_type) if !is_blob && is_manifest_type(content_type) => content_type,
            _ => "application/octet-stream",
        };
        let mut fields = respond::common()
            .with("Content-Type", content_type)
            .with("Cache-Control", "private");
        respond::add_cache(&mut fields, CacheResult::Bypass);
        if let Some(digest) = wanted.or_else(named) {
            fields.add("Docker-Content-Digest", digest.to_string());
            fields.add("ETag", format!("\"{digest}\""));
        }
        if let Some(ns) = pull.ns() {
            fields.add("OCI-Namespace", ns);
        }
        let body = if head_only {
            Body::Empty
        } else {
            Body::Growing(Box::new(body))
        };
        Ok(respond::whole(fields, upstream.size, body, CacheResult::Bypass))
    }
}
