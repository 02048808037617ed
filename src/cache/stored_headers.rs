//! Selects header fields of upstream responses: the stored fields, and the fields that describe the
//! content.

use std::collections::BTreeMap;

use crate::oci::Digest;
use crate::storage::canonical_name;

/// Returns the end-to-end fields of an upstream response for the sidecar. Secrets and fields about
/// a single exchange are excluded.
pub(super) fn storable(headers: &http::HeaderMap) -> BTreeMap<String, Vec<String>> {
    const NEVER_STORED: [&str; 5] = [
        "set-cookie",
        "www-authenticate",
        "proxy-authenticate",
        "authorization",
        "docker-ratelimit-source",
    ];
    let mut kept: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if NEVER_STORED.contains(&name.as_str()) {
            continue;
        }
        if let Ok(value) = value.to_str() {
            kept.entry(canonical_name(name.as_str()))
                .or_default()
                .push(value.to_owned());
        }
    }
    kept
}

/// Returns `Content-Type` without parameters, if it is one media type.
pub(super) fn media_type(headers: &http::HeaderMap) -> Option<String> {
    let text = headers.get(http::header::CONTENT_TYPE)?.to_str().ok()?;
    let text = text.split(';').next().unwrap_or_default().trim();
    crate::oci::is_media_type(text).then(|| text.to_owned())
}

/// Returns the digest in an upstream response.
pub(super) fn named_digest(headers: &http::HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}
