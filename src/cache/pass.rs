//! Passing an upstream's answer through to one client, unstored: the operator wants nothing of this registry kept.

use bytes::Bytes;

use super::hose::{Passed, Poured, Well, hose};
use super::manifest::{may_be_manifest, read_whole, type_of};
use super::{Cache, Class, FetchError, Origin, Slot, named_digest, storable, unless};
use crate::limits::PASS_THROUGH_BYTES_MAX;
use crate::oci::{Digest, Reference, SCHEMA1_TYPES};
use crate::upstream::{Body, Credentials, Fault, Method, Purpose, Request, Target};

/// The upstream's head.
#[derive(Debug)]
pub struct PassedHead {
    pub size: Option<u64>,
    /// Media type, without parameters; of a manifest, the one that its bytes bear out.
    pub content_type: Option<String>,
    /// All end-to-end fields, canonical names.
    pub headers: std::collections::BTreeMap<String, Vec<String>>,
}

impl Cache {
    /// Asks the upstream with these credentials, for one client alone.
    ///
    /// # Errors
    ///
    /// The upstream's refusal as it is, its challenge included.
    pub async fn pass(
        &self,
        origin: &Origin,
        target: Target,
        head_only: bool,
        accept: Vec<String>,
        credentials: Credentials,
    ) -> Result<(PassedHead, Passed), FetchError> {
        let (shared, origin) = (self.0.clone(), origin.clone());
        let (inlet, passed) = hose();
        let mut request = Request {
            namespace: origin.namespace.clone(),
            repository: origin.repository.clone(),
            // Registries refuse `HEAD` of blobs that they give by `GET`.
            method: match &target {
                Target::Blob(_) => Method::Get,
                _ if head_only => Method::Head,
                _ => Method::Get,
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
            let asking = async {
                let slot = shared.slot(class, &origin.namespace).await?;
                let mut response = shared.upstreams.fetch(&request).await?;
                if is_manifest && head_only && !may_be_manifest(&response.headers) {
                    // Whether there is a manifest behind the head of a page shows in its bytes.
                    request.method = Method::Get;
                    response = shared.upstreams.fetch(&request).await?;
                }
                Ok::<_, FetchError>((slot, response))
            };
            // With its client gone there is no use for an answer.
            let asked = unless(inlet.abandoned(), asking).await;
            let (Slot { place, mut memory }, mut response) = asked.unwrap_or(Err(FetchError::Gone))?;
            let mut head = PassedHead {
                size: response.content_length,
                content_type: super::media_type(&response.headers),
                headers: storable(&response.headers),
            };
            let mut whole = None;
            if is_manifest && request.method == Method::Get {
                let body = read_whole(&mut response).await?;
                head.content_type = Some(type_of(&response.headers, &body)?);
                head.size = Some(body.len() as u64);
                whole = Some(body);
            }
            // From here on it takes what waits for its client, and no place among those who ask.
            drop(place);
            memory.shrink_to(PASS_THROUGH_BYTES_MAX.max(whole.as_ref().map_or(0, Bytes::len)) as u64);
            inlet.charge(memory);
            if !head_only {
                let named = named_digest(&response.headers);
                let expected = match &request.target {
                    Target::Blob(digest) | Target::Manifest(Reference::Digest(digest)) => Some(*digest),
                    // The digest of the first schema leaves the signatures out.
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
                let well = match whole {
                    Some(body) => Passing::Whole(Some(body)),
                    None => Passing::Arriving(Box::new(response.body)),
                };
                let (public, checked) = (response.public, expected.is_some());
                let mirror = response.mirror.clone();
                tokio::spawn(async move {
                    let poured = inlet.pour(well, expected).await;
                    let fault = match poured {
                        Poured::Whole if checked => {
                            // It may be held from elsewhere; now this registry has shown that it has it.
                            return shared.vouch(&request.target, &origin, public);
                        }
                        Poured::Whole | Poured::Abandoned => return,
                        Poured::Wrong => Fault::Wrong,
                        Poured::Broken => Fault::Broken,
                    };
                    // The client has some of it already, and comes back for the rest.
                    shared.upstreams.blame(&request, mirror.as_ref(), fault);
                });
            }
            Ok::<_, FetchError>(head)
        });
        let head = answer.await.map_err(|_| FetchError::Lost)??;
        Ok((head, passed))
    }
}

fn is_schema1(head: &PassedHead) -> bool {
    head.content_type
        .as_deref()
        .is_some_and(|named| SCHEMA1_TYPES.contains(&named))
}

/// What is passed through.
enum Passing {
    /// A manifest, read before its head went on.
    Whole(Option<Bytes>),
    Arriving(Box<Body>),
}

impl Well for Passing {
    async fn draw(&mut self) -> Result<Option<Bytes>, FetchError> {
        match self {
            Passing::Whole(body) => Ok(body.take().filter(|body| !body.is_empty())),
            Passing::Arriving(body) => Ok(body.chunk().await?),
        }
    }
}
