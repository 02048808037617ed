//! The error type of fetches.

use std::sync::Arc;

use crate::metrics;
use crate::oci::{Digest, Namespace, NotManifest, Origin};
use crate::upstream::{ResponseVerdict, UpstreamError};

/// The reason why content could not be fetched.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The content is stored without access rights, and its registry cannot authorize the client.
    #[error(
        "the content was stored without access rights, and {0}; if every client may read such content, set trust_existing: true, or import the content with --public"
    )]
    Unproven(UpstreamError),
    /// The upstream's bytes do not match their digest. Nothing was stored.
    #[error("the content from the upstream has the digest {found}; expected {wanted}")]
    DigestMismatch {
        wanted: String,
        found: String,
        /// The status of the upstream response; `None` if the bucket sent the content.
        status: Option<u16>,
    },
    /// A schema 1 manifest. The digest does not match the bytes, so the manifest is passed through
    /// but not cached.
    #[error("the manifest has schema 1, which the cache does not store")]
    Schema1,
    #[error("the manifest is larger than 4 MiB")]
    ManifestTooLarge {
        /// The status of the upstream response.
        status: u16,
    },
    /// A kept 404 of a registry that is unavailable.
    #[error(transparent)]
    Absent(Absence),
    /// The upstream answered with other content, most likely a web page. Nothing was stored.
    #[error(
        "the registry answered {status} with {content_type} that is no manifest: {why}; a login page or a web interface may answer at the address; check the registry's `url`, proxy and credentials"
    )]
    NotManifest {
        status: u16,
        content_type: String,
        why: NotManifest,
    },
    /// The manifest is stored, some of its content is not, and the registry gets no requests.
    #[error(
        "the image is incomplete: {missing} of its manifests or blobs are not stored, and requests to the registry are suspended ({why}); use another registry, or pull the image again when the registry is available"
    )]
    Incomplete { missing: usize, why: Arc<str> },
    /// The cache reached its limit of concurrent fetches or of their memory.
    #[error("the limit of concurrent fetches or of their memory is reached; retry later")]
    Overloaded,
    /// The cache ended the fetch, for this reason.
    #[error("the cache ended the fetch: {0}; retry later")]
    Abandoned(&'static str),
    /// A fetch without clients had no slot left, or another fetch needed its slot.
    #[error("the limit of concurrent fetches left no slot to a fetch without clients; retry later")]
    Displaced,
    /// The content has arrived, and the store has not kept it.
    #[error(
        "the store did not keep the content; see the log of the cache, and check the disk, CACHE_MAX_SIZE and CACHE_MAX_OBJECT_SIZE"
    )]
    NotStored,
    /// Bytes that a slow client needs are neither in memory nor on disk.
    #[error("the store failed, and the bytes are no longer in memory; retry later")]
    Gone,
    /// A bug in the cache ended the work. The log contains the cause.
    #[error("a bug in the cache ended the fetch; see the log of the cache")]
    Lost,
}

impl FetchError {
    /// Returns the error of a body that hashes to `found` instead of `wanted`, from a response with
    /// this status. Counts the body for the metrics.
    pub(super) fn mismatch(wanted: &Digest, found: &Digest, status: Option<u16>) -> Self {
        metrics::count_wrong_body();
        FetchError::DigestMismatch {
            wanted: wanted.to_string(),
            found: found.to_string(),
            status,
        }
    }

    /// Returns whether the upstream denied access to this caller or returned 404. Another caller
    /// may get the content.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            FetchError::Upstream(UpstreamError::Status { status, .. })
                // The status counts even if a web page carries it: another caller may not get the
                // page.
                if ResponseVerdict::of_status(*status).is_refusal()
        ) || self.is_stale_absence()
    }

    /// Returns whether this is a kept 404, returned while the registry is unavailable.
    pub fn is_stale_absence(&self) -> bool {
        matches!(self, FetchError::Absent(_))
    }

    /// Returns whether the registry is unavailable, so that its last answer is served.
    pub fn is_outage(&self) -> bool {
        match self {
            FetchError::Upstream(error) => error.is_outage(),
            FetchError::Overloaded => true,
            _ => false,
        }
    }

    /// Returns whether the air gap forbids the request.
    pub fn is_air_gap(&self) -> bool {
        matches!(
            self,
            FetchError::Upstream(UpstreamError::AirGapped { .. })
                | FetchError::Unproven(UpstreamError::AirGapped { .. })
        )
    }

    /// Returns whether the registry answered the request, or the cache did not send the request.
    /// Such an error is no failure of a download.
    pub(super) fn is_answer_or_suspension(&self) -> bool {
        match self {
            FetchError::Upstream(error) => error.is_answer_or_suspension(),
            FetchError::Absent(_) => true,
            _ => false,
        }
    }

    /// Returns the status of the upstream response that caused the error. `None` also for a kept
    /// 404, because the registry has not responded now.
    pub fn upstream_status(&self) -> Option<u16> {
        match self {
            FetchError::Upstream(error) | FetchError::Unproven(error) => error.status(),
            FetchError::DigestMismatch { status, .. } => *status,
            FetchError::ManifestTooLarge { status } | FetchError::NotManifest { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Returns the upstream's verdict on the content, from a current or a kept response.
    pub(super) fn verdict(&self) -> Option<ResponseVerdict> {
        match self {
            FetchError::Upstream(error) => error.verdict(),
            FetchError::Absent(_) => Some(ResponseVerdict::Gone),
            _ => None,
        }
    }
}

/// A recorded 404, returned while the registry is unavailable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{registry} answered 404 to the last request")]
pub struct Absence {
    registry: Namespace,
    /// Time of the request to the registry, in milliseconds since 1970.
    pub checked_ms: u64,
    /// The reason why the registry is unavailable.
    pub why: Arc<str>,
}

impl Absence {
    pub(super) fn new(origin: &Origin, checked_ms: u64, why: &FetchError) -> Self {
        Absence {
            registry: origin.namespace.clone(),
            checked_ms,
            why: why.to_string().into(),
        }
    }
}
