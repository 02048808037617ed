//! Why content could not be fetched.

use super::Absence;
use crate::oci::NotManifest;
use crate::upstream::{UpstreamError, Verdict};

/// Why content could not be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The upstream's bytes are not what their digest says. Nothing was stored.
    #[error("the upstream sent content for {wanted} that hashes to {found}")]
    DigestMismatch { wanted: String, found: String },
    /// Its digest is not that of its bytes; it can be passed on, not kept.
    #[error("the manifest is of the first schema, which is not cached")]
    Schema1,
    #[error("the manifest is larger than 4 MiB")]
    ManifestTooLarge,
    /// The last answer of the registry was 404.
    #[error(transparent)]
    Absent(Absence),
    /// The upstream answered 200 with something else, most likely a page for people. Nothing was stored.
    #[error(
        "the registry answered 200 with {content_type} that is no manifest: {why}; perhaps a login page or a web interface answers at its address, so check the registry's `url`, proxy and credentials"
    )]
    NotManifest { content_type: String, why: NotManifest },
    /// Our own limit of concurrent fetches, or of the memory they may take.
    #[error("the cache has too much to fetch at the moment")]
    Overloaded,
    /// A slow client's bytes are in nobody's memory and on no disk any more.
    #[error("the store failed and the bytes are gone")]
    Gone,
    /// A bug of ours ended the work; it has been logged.
    #[error("the fetch ended unexpectedly")]
    Lost,
}

impl FetchError {
    /// Whether the upstream said that this caller may not have it, or that it is not there: another one may get it.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            FetchError::Upstream(UpstreamError::Status { status, .. })
                // Even where a page said so: another caller may not be shown it.
                if Verdict::of_status(*status).is_refusal()
        ) || self.is_stale_absence()
    }

    /// Whether this is a kept 404, returned while the registry is unavailable.
    pub fn is_stale_absence(&self) -> bool {
        matches!(self, FetchError::Absent(_))
    }

    /// Whether the registry is unavailable, so that its last answer serves.
    pub fn is_outage(&self) -> bool {
        match self {
            FetchError::Upstream(error) => error.is_outage(),
            FetchError::Overloaded => true,
            _ => false,
        }
    }

    /// What the upstream's answer says about the content, where it gave one, now or earlier.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        match self {
            FetchError::Upstream(error) => error.verdict(),
            FetchError::Absent(_) => Some(Verdict::Gone),
            _ => None,
        }
    }
}
