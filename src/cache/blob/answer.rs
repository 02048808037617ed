//! The request for a blob, and its answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::open_files::OpenFiles;
use crate::cache::access::Caller;
use crate::cache::fill::Head;
use crate::http::{CacheResult, Growing, Span, TraceContext};
use crate::oci::{Digest, Origin};
use crate::shared_file::SharedFile;
use crate::storage::Meta;

/// A request for a blob, on behalf of one caller.
pub struct BlobRequest<'a> {
    pub origin: &'a Origin,
    pub digest: Digest,
    pub caller: &'a Caller,
    /// The files that the core of the request keeps open.
    pub open_files: &'a OpenFiles,
    /// Whether the response has no body.
    pub head_only: bool,
    /// Whether the response depends on the size of the blob.
    pub needs_size: bool,
    /// Returns the bytes of the response for a blob of this size.
    pub wanted: &'a dyn Fn(u64) -> WantedBytes,
    /// Whether the client may receive a URL of the bucket. Everyone with the URL can read the blob.
    pub may_redirect: bool,
}

/// The bytes of a blob that a response contains.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum WantedBytes {
    Nothing,
    Whole,
    Range(Span),
}

/// The answer to a [`BlobRequest`].
pub enum BlobAnswer {
    Found(FoundBlob),
    /// The blob is stored, but only its registry decides on access. The request goes to the
    /// registry, and nothing of the response is stored.
    Passthrough,
}

/// A blob that the caller may read.
pub struct FoundBlob {
    /// The size in bytes; `None` if the upstream did not declare it.
    pub size: Option<u64>,
    /// Whether every client may read the blob.
    pub public: bool,
    pub cache: CacheResult,
    /// The status of the upstream response for this request.
    pub upstream_status: Option<u16>,
    /// The fill of another request that sends the bytes, if its trace is recorded.
    pub joined_fill: Option<TraceContext>,
    pub body: BlobBody,
    /// The end-to-end header fields of the upstream.
    pub headers: BlobHeaders,
}

/// The source of the bytes.
pub enum BlobBody {
    /// The response has no body.
    Nothing,
    /// The whole blob, in memory.
    Bytes(Bytes),
    /// The file of the whole blob.
    File {
        file: SharedFile,
        /// Whether the file may stay open.
        lasting: bool,
    },
    /// The wanted bytes, while they arrive.
    Stream(Box<dyn Growing>),
    /// The URL by which the client can fetch the blob from the bucket.
    Redirect(String),
}

/// The header fields of the upstream, where they are held.
pub enum BlobHeaders {
    /// Another repository sent them.
    Foreign,
    Stored(Arc<Meta>),
    Fetched(Arc<Head>),
}

impl BlobHeaders {
    /// Returns the fields; `None` if another repository sent them.
    pub fn fields(&self) -> Option<&BTreeMap<String, Vec<String>>> {
        match self {
            BlobHeaders::Foreign => None,
            BlobHeaders::Stored(meta) => Some(&meta.headers),
            BlobHeaders::Fetched(head) => Some(&head.headers),
        }
    }

    pub(super) fn stored(meta: Arc<Meta>, origin: &Origin) -> Self {
        if meta.is_filled_from(origin) {
            BlobHeaders::Stored(meta)
        } else {
            BlobHeaders::Foreign
        }
    }
}
