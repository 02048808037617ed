//! Passes upstream responses through to a single client without storing them. Used for registries
//! that the operator excludes from the cache.

use std::sync::Arc;

use bytes::Bytes;

use super::body_channel::{BodyReceiver, BodySender, ChunkSource, ForwardOutcome, body_channel};
use super::manifest::response::{may_be_manifest, read_whole, type_of};
use super::{Cache, Class, FetchError, FetchResources, Priority, Shared, named_digest, storable, unless};
use crate::limits::BODY_CHANNEL_BYTES_MAX;
use crate::oci::{Digest, Origin, Reference, SCHEMA1_TYPES};
use crate::trace;
use crate::upstream::{
    Credentials, Fault, Purpose, Target, UpstreamBody, UpstreamMethod, UpstreamRequest, UpstreamResponse,
};

/// The head of the upstream response.
#[derive(Debug)]
pub struct PassthroughHead {
    pub status: u16,
    pub size: Option<u64>,
    /// Media type without parameters. For a fetched manifest, the type confirmed by the body.
    pub content_type: Option<String>,
    /// All end-to-end header fields, with canonical names.
    pub headers: std::collections::BTreeMap<String, Vec<String>>,
}

impl Cache {
    /// Requests content from the upstream with these credentials, for a single client.
    ///
    /// # Errors
    ///
    /// The upstream's unmodified error response, including its challenge.
    pub async fn pass_through(
        &self,
        origin: &Origin,
        target: Target,
        head_only: bool,
        accept: Vec<String>,
        credentials: Credentials,
    ) -> Result<(PassthroughHead, BodyReceiver), FetchError> {
        let (shared, origin) = (self.0.clone(), origin.clone());
        let (sender, receiver) = body_channel();
        let request = UpstreamRequest {
            namespace: origin.namespace.clone(),
            repository: origin.repository.clone(),
            // Some registries reject `HEAD` for existing blobs.
            method: match &target {
                Target::Blob(_) => UpstreamMethod::Get,
                _ if head_only => UpstreamMethod::Head,
                _ => UpstreamMethod::Get,
            },
            target,
            accept,
            range_from: None,
            credentials,
            purpose: Purpose::Pull,
        };
        let exchange = async move { shared.pass_through(origin, request, head_only, sender).await };
        let answer = self.0.helper.ask(trace::within(trace::current(), exchange));
        let head = answer.await.map_err(|_| FetchError::Lost)??;
        Ok((head, receiver))
    }
}

impl Shared {
    /// Requests content and returns the head of the response. A task forwards the body to `sender`.
    async fn pass_through(
        self: Arc<Self>,
        origin: Origin,
        mut request: UpstreamRequest,
        head_only: bool,
        sender: BodySender,
    ) -> Result<PassthroughHead, FetchError> {
        // Without a client, the response is useless.
        let fetched = unless(sender.abandoned(), self.fetch_passthrough(&mut request)).await;
        let (FetchResources { slot, mut memory }, mut response) =
            fetched.unwrap_or(Err(FetchError::Abandoned("no client left")))?;
        let mut head = PassthroughHead {
            status: response.status,
            size: response.content_length,
            content_type: super::media_type(&response.headers),
            headers: storable(&response.headers),
        };
        let mut whole = None;
        if matches!(request.target, Target::Manifest(_)) && request.method == UpstreamMethod::Get {
            let body = read_whole(&mut response).await?;
            head.content_type = Some(type_of(response.status, &response.headers, &body)?);
            head.size = Some(body.len() as u64);
            whole = Some(body);
        }
        // The response now needs memory for its channel, but no fetch slot.
        drop(slot);
        memory.shrink_to(BODY_CHANNEL_BYTES_MAX.max(whole.as_ref().map_or(0, Bytes::len)) as u64);
        sender.charge(memory);
        if !head_only {
            let expected = match &request.target {
                Target::Blob(digest) | Target::Manifest(Reference::Digest(digest)) => Some(*digest),
                // The digest of a schema 1 manifest excludes the signatures.
                Target::Manifest(Reference::Tag(_)) if is_schema1(&head) => None,
                _ => named_digest(&response.headers),
            };
            if let (Some(wanted), Some(body)) = (expected, &whole) {
                let found = Digest::of(wanted.algorithm(), body);
                if found != wanted {
                    return Err(FetchError::mismatch(&wanted, &found, Some(response.status)));
                }
            }
            let forwarding = Forwarding {
                shared: self,
                origin,
                request,
                expected,
                public: response.public,
                mirror: response.mirror.clone(),
                sender,
            };
            let source = match whole {
                Some(body) => PassthroughBody::Whole(Some(body)),
                None => PassthroughBody::Arriving(Box::new(response.body)),
            };
            tokio::spawn(forwarding.run(source));
        }
        Ok(head)
    }

    /// Sends `request`. A `HEAD` request for a manifest with another media type in the response is
    /// repeated as `GET`, because the body may be a manifest.
    async fn fetch_passthrough(
        &self,
        request: &mut UpstreamRequest,
    ) -> Result<(FetchResources, UpstreamResponse), FetchError> {
        let class = match &request.target {
            Target::Blob(_) => Class::Blob,
            _ => Class::Manifest,
        };
        let resources = self
            .fetch_resources(class, &request.namespace, Priority::Client)
            .await?;
        let mut response = self.upstreams.fetch(request).await?;
        if matches!(request.target, Target::Manifest(_))
            && request.method == UpstreamMethod::Head
            && !may_be_manifest(&response.headers)
        {
            request.method = UpstreamMethod::Get;
            response = self.upstreams.fetch(request).await?;
        }
        Ok((resources, response))
    }
}

/// A body on its way to the client.
struct Forwarding {
    shared: Arc<Shared>,
    origin: Origin,
    request: UpstreamRequest,
    /// The digest of the body. `None` if the body cannot be checked.
    expected: Option<Digest>,
    public: bool,
    mirror: Option<Arc<str>>,
    sender: BodySender,
}

impl Forwarding {
    async fn run(self, source: PassthroughBody) {
        let shared = &self.shared;
        let fault = match self.sender.forward(source, self.expected).await {
            ForwardOutcome::Whole if self.expected.is_some() => {
                // The content may be cached from another registry. The passed-through body proves
                // that this registry has the content.
                return shared.record_source(&self.request.target, &self.origin, self.public);
            }
            ForwardOutcome::Whole | ForwardOutcome::Abandoned => return,
            ForwardOutcome::Wrong => Fault::Wrong,
            ForwardOutcome::Broken => Fault::Broken,
        };
        // The client has already received some bytes, and will request the rest. The fault is
        // recorded before the drop of the sender ends the response, so that a retry finds the fault.
        shared
            .upstreams
            .record_fault(&self.request, self.mirror.as_ref(), fault);
    }
}

fn is_schema1(head: &PassthroughHead) -> bool {
    head.content_type
        .as_deref()
        .is_some_and(|named| SCHEMA1_TYPES.contains(&named))
}

/// The body to pass through.
enum PassthroughBody {
    /// A manifest, read before its head was sent.
    Whole(Option<Bytes>),
    Arriving(Box<UpstreamBody>),
}

impl ChunkSource for PassthroughBody {
    async fn next_chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        match self {
            PassthroughBody::Whole(body) => Ok(body.take().filter(|body| !body.is_empty())),
            PassthroughBody::Arriving(body) => Ok(body.chunk().await?),
        }
    }
}
