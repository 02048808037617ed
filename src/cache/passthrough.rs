//! Passes upstream responses through to a single client without storing them. Used for registries
//! that the operator excludes from the cache.

use bytes::Bytes;

use super::body_channel::{BodyReceiver, ChunkSource, ForwardOutcome, body_channel};
use super::manifest::response::{may_be_manifest, read_whole, type_of};
use super::{Cache, Class, FetchError, FetchResources, named_digest, storable, unless};
use crate::limits::BODY_CHANNEL_BYTES_MAX;
use crate::oci::{Digest, Origin, Reference, SCHEMA1_TYPES};
use crate::upstream::{Credentials, Fault, Purpose, Target, UpstreamBody, UpstreamMethod, UpstreamRequest};

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
        let mut request = UpstreamRequest {
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
        let answer = self.0.helper.ask(async move {
            let class = match &request.target {
                Target::Blob(_) => Class::Blob,
                _ => Class::Manifest,
            };
            let is_manifest = matches!(request.target, Target::Manifest(_));
            let fetching = async {
                let resources = shared.fetch_resources(class, &origin.namespace).await?;
                let mut response = shared.upstreams.fetch(&request).await?;
                if is_manifest && head_only && !may_be_manifest(&response.headers) {
                    // Despite the other media type, the body may be a manifest.
                    request.method = UpstreamMethod::Get;
                    response = shared.upstreams.fetch(&request).await?;
                }
                Ok::<_, FetchError>((resources, response))
            };
            // Without a client, the response is useless.
            let fetched = unless(sender.abandoned(), fetching).await;
            let (FetchResources { slot, mut memory }, mut response) =
                fetched.unwrap_or(Err(FetchError::Gone))?;
            let mut head = PassthroughHead {
                status: response.status,
                size: response.content_length,
                content_type: super::media_type(&response.headers),
                headers: storable(&response.headers),
            };
            let mut whole = None;
            if is_manifest && request.method == UpstreamMethod::Get {
                let body = read_whole(&mut response).await?;
                head.content_type = Some(type_of(&response.headers, &body)?);
                head.size = Some(body.len() as u64);
                whole = Some(body);
            }
            // The response now needs memory for its channel, but no fetch slot.
            drop(slot);
            memory.shrink_to(BODY_CHANNEL_BYTES_MAX.max(whole.as_ref().map_or(0, Bytes::len)) as u64);
            sender.charge(memory);
            if !head_only {
                let named = named_digest(&response.headers);
                let expected = match &request.target {
                    Target::Blob(digest) | Target::Manifest(Reference::Digest(digest)) => Some(*digest),
                    // The digest of a schema 1 manifest excludes the signatures.
                    Target::Manifest(Reference::Tag(_)) if is_schema1(&head) => None,
                    _ => named,
                };
                if let (Some(wanted), Some(body)) = (expected, &whole) {
                    let found = Digest::of(wanted.algorithm(), body);
                    if found != wanted {
                        return Err(FetchError::DigestMismatch {
                            wanted: wanted.to_string(),
                            found: found.to_string(),
                        });
                    }
                }
                let source = match whole {
                    Some(body) => PassthroughBody::Whole(Some(body)),
                    None => PassthroughBody::Arriving(Box::new(response.body)),
                };
                let (public, checked) = (response.public, expected.is_some());
                let mirror = response.mirror.clone();
                tokio::spawn(async move {
                    let outcome = sender.forward(source, expected).await;
                    let fault = match outcome {
                        ForwardOutcome::Whole if checked => {
                            // The content may be cached from another registry. The passed-through
                            // body proves that this registry has the content.
                            return shared.record_source(&request.target, &origin, public);
                        }
                        ForwardOutcome::Whole | ForwardOutcome::Abandoned => return,
                        ForwardOutcome::Wrong => Fault::Wrong,
                        ForwardOutcome::Broken => Fault::Broken,
                    };
                    // The client has already received some bytes, and will request the rest.
                    shared.upstreams.record_fault(&request, mirror.as_ref(), fault);
                    // The response breaks off now, and a retry finds the fault.
                    drop(sender);
                });
            }
            Ok::<_, FetchError>(head)
        });
        let head = answer.await.map_err(|_| FetchError::Lost)??;
        Ok((head, receiver))
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
