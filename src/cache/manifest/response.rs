//! Reads the response of a registry to a request for a manifest.

use bytes::Bytes;

use crate::cache::FetchError;
use crate::cache::small_body::read_at_most;
use crate::cache::stored_headers::media_type;
use crate::limits::MANIFEST_BYTES_MAX;
use crate::oci::{is_manifest_type, manifest_type};
use crate::upstream::UpstreamResponse;

/// Returns whether a response head may belong to a manifest: it has a manifest type, or no type.
pub(in crate::cache) fn may_be_manifest(headers: &http::HeaderMap) -> bool {
    !headers.contains_key(http::header::CONTENT_TYPE)
        || media_type(headers).is_some_and(|named| is_manifest_type(&named))
}

/// Reads the whole body of a manifest, at most [`MANIFEST_BYTES_MAX`].
pub(in crate::cache) async fn read_whole(response: &mut UpstreamResponse) -> Result<Bytes, FetchError> {
    let body = read_at_most(MANIFEST_BYTES_MAX, response).await?;
    body.ok_or(FetchError::ManifestTooLarge {
        status: response.status,
    })
}

/// Returns the media type of the manifest `body`, received with `status` and `headers`.
///
/// # Errors
///
/// [`FetchError::NotManifest`] if the type or the body is not that of a manifest.
pub(in crate::cache) fn type_of(
    status: u16,
    headers: &http::HeaderMap,
    body: &[u8],
) -> Result<String, FetchError> {
    let named = media_type(headers);
    manifest_type(named.as_deref(), body).map_err(|why| FetchError::NotManifest {
        status,
        content_type: named.unwrap_or_else(|| "no media type".to_owned()),
        why,
    })
}
