//! Brings one image into the store: its manifest, the manifests of its platforms, and their blobs.

use std::cell::Cell;
use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use futures_util::stream;

use super::callers::for_first_allowed;
use super::progress::ImageProgress;
use super::request::WantedImage;
use crate::cache::{
    Approach, Cache, Caller, FetchError, ListingError, ManifestAnswer, ManifestKey, Priority,
};
use crate::config::Live;
use crate::limits::{INDEX_DEPTH_MAX, LOAD_BLOBS_MAX, LOAD_REFERRERS_MAX};
use crate::manage::warm::{HeldBack, Requested, Reserve};
use crate::oci::{
    Accept, Child, Digest, ManifestLinks, Namespace, Origin, Platforms, Reference, required_blobs,
};

/// The reason why an image is not in the store.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the list of referrers is unusable: {0}; load the image without its referrers")]
    Listing(#[from] ListingError),
    #[error("the image has more than {LOAD_REFERRERS_MAX} referrers; load the image without its referrers")]
    TooManyReferrers,
    #[error("the index has no manifest for {wanted}; it has {offered}")]
    NoPlatform { wanted: Platforms, offered: String },
    #[error("indexes are nested in more than {INDEX_DEPTH_MAX} levels")]
    Nested,
    #[error("this cache does not serve the registry {0}; list the registry under `registries`")]
    NotServed(Namespace),
    #[error("content of {0} is not stored, because its `access` is `passthrough`")]
    Passthrough(Namespace),
    #[error(transparent)]
    HeldBack(#[from] HeldBack),
}

/// A pull of one image for the store.
pub struct ImagePull<'a> {
    pub cache: &'a Cache,
    image: &'a WantedImage,
    callers: Vec<Caller>,
    pub progress: &'a ImageProgress<'a>,
    /// Bytes that this pull has fetched.
    fetched: &'a Cell<u64>,
    priority: Priority,
    /// The bound of the requests of a rule of `warm`.
    reserve: Option<&'a Reserve<'a>>,
}

/// The content of an image.
#[derive(Default)]
pub(super) struct Content {
    /// The stored manifests.
    pub manifests: Vec<Digest>,
    /// The blobs with their sizes by the manifests.
    pub blobs: BTreeMap<Digest, u64>,
}

/// An image in the store.
pub struct Pulled {
    /// The reason why the registry has not confirmed the tag.
    pub stale: Option<String>,
}

impl PullError {
    /// Returns the status of the upstream response that caused the error.
    pub fn upstream_status(&self) -> Option<u16> {
        match self {
            PullError::Fetch(error) => error.upstream_status(),
            PullError::Listing(error) => error.upstream_status(),
            _ => None,
        }
    }
}

impl<'a> ImagePull<'a> {
    /// Prepares the pull of `image`. Counts fetched bytes in `fetched`.
    ///
    /// # Errors
    ///
    /// The cache does not serve or does not store the content of the registry.
    pub fn new(
        cache: &'a Cache,
        live: &Live,
        image: &'a WantedImage,
        progress: &'a ImageProgress<'a>,
        fetched: &'a Cell<u64>,
    ) -> Result<Self, PullError> {
        let origin = &image.name.origin;
        if !live.registries().exists(&origin.namespace) {
            return Err(PullError::NotServed(origin.namespace.clone()));
        }
        match cache.own_approach(origin) {
            Approach::Passthrough(_) => Err(PullError::Passthrough(origin.namespace.clone())),
            Approach::Callers(callers) => Ok(ImagePull {
                cache,
                image,
                callers,
                progress,
                fetched,
                priority: Priority::Load,
                reserve: None,
            }),
        }
    }

    /// Fetches all content of the image that the store lacks, and its referrers if `with_referrers`. A
    /// blob that fails does not end the fetches of the other blobs, unless the store does not keep it.
    ///
    /// # Errors
    ///
    /// The first failure.
    ///
    /// # Cancellation
    ///
    /// Content that has arrived stays in the store.
    pub async fn run(&self, with_referrers: bool) -> Result<Pulled, PullError> {
        let Some(reference) = &self.image.name.reference else {
            // A rule has names with a tag or a digest only.
            return Err(FetchError::Lost.into());
        };
        self.run_from(reference.clone(), with_referrers).await
    }

    /// Returns the pull with the priority of rules of `warm`, within `reserve`.
    pub fn within(self, reserve: &'a Reserve<'a>) -> Self {
        ImagePull {
            priority: Priority::Warm,
            reserve: Some(reserve),
            ..self
        }
    }

    /// Fetches the image like [`ImagePull::run`], by another reference of its repository.
    ///
    /// # Errors
    ///
    /// The first failure.
    pub async fn run_from(&self, reference: Reference, with_referrers: bool) -> Result<Pulled, PullError> {
        let root = self.manifest(reference).await?;
        let stale = root.stale.clone();
        let mut content = Content::default();
        self.add_content(root, &self.image.platforms, &mut content)
            .await?;
        if with_referrers {
            let referrers = self.referrers_of(&content.manifests).await?;
            content.blobs.extend(referrers.blobs);
        }
        self.blobs(&content.blobs).await?;
        Ok(Pulled { stale })
    }

    async fn blobs(&self, blobs: &BTreeMap<Digest, u64>) -> Result<(), PullError> {
        self.progress.expect(blobs.len() as u64, blobs.values().sum());
        let is_unstorable = Cell::new(false);
        let is_unstorable = &is_unstorable;
        stream::iter(blobs)
            .map(|(digest, size)| async move {
                if is_unstorable.get() {
                    return Ok(());
                }
                self.progress.begin_blob(*digest, *size);
                let held = self.blob(*digest).await;
                self.progress.end_blob(digest, *size, held.is_ok());
                // Most likely, the store keeps no further blob.
                if let Err(PullError::Fetch(FetchError::NotStored)) = held {
                    is_unstorable.set(true);
                }
                held
            })
            .buffer_unordered(LOAD_BLOBS_MAX)
            .fold(Ok(()), |all, held| async { all.and(held) })
            .await
    }

    /// Fetches the manifests of `platforms` below `root`. Adds all manifests and their blobs to `content`.
    pub(super) async fn add_content(
        &self,
        root: ManifestAnswer,
        platforms: &Platforms,
        content: &mut Content,
    ) -> Result<(), PullError> {
        let mut open = vec![(root, 0)];
        while let Some((answer, depth)) = open.pop() {
            let body = &answer.manifest.body;
            content.manifests.push(answer.manifest.digest);
            match ManifestLinks::parse(body) {
                Some(ManifestLinks::Index(_)) if depth == INDEX_DEPTH_MAX => return Err(PullError::Nested),
                Some(ManifestLinks::Index(children)) => {
                    let selected = select(platforms, &children)?;
                    self.progress.expect(selected.len() as u64, 0);
                    for child in selected {
                        let reference = Reference::Digest(child.descriptor.digest);
                        // The future of a request is large, and the stack of a thread is small.
                        let child = Box::pin(self.manifest(reference)).await?;
                        open.push((child, depth + 1));
                        self.progress.advance();
                    }
                }
                links => content.blobs.extend(blobs_of(links, body)),
            }
        }
        Ok(())
    }

    /// Fetches a manifest into the store.
    pub(super) async fn manifest(&self, reference: Reference) -> Result<ManifestAnswer, PullError> {
        let _permit = match (self.reserve, &reference) {
            (Some(_), Reference::Digest(digest)) if self.cache.has_manifest(self.origin(), *digest).await => {
                None
            }
            (Some(reserve), _) => {
                Some(reserve.permit(self.origin(), Requested::Manifest, self.callers.len())?)
            }
            (None, _) => None,
        };
        let hold = async |caller: &Caller| {
            let key = ManifestKey {
                origin: self.origin().clone(),
                reference: reference.clone(),
                accept: Accept::Native,
                caller: caller.clone(),
            };
            self.cache.hold_manifest(key, self.priority).await
        };
        let (answer, fetched) = self.for_first_allowed(hold).await?;
        self.add_fetched(fetched);
        Ok(answer)
    }

    async fn blob(&self, digest: Digest) -> Result<(), PullError> {
        let _permit = match self.reserve {
            Some(_) if self.cache.has_blob(self.origin(), digest).await => None,
            Some(reserve) => Some(reserve.permit(self.origin(), Requested::Blob, self.callers.len())?),
            None => None,
        };
        let hold = async |caller: &Caller| {
            self.cache
                .hold_blob(self.origin(), digest, caller, self.priority)
                .await
        };
        let fetched = self.for_first_allowed(hold).await?;
        self.add_fetched(fetched);
        Ok(())
    }

    /// Makes a request for each caller, see [`for_first_allowed`].
    pub async fn for_first_allowed<T>(
        &self,
        request: impl AsyncFn(&Caller) -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        for_first_allowed(&self.callers, request).await
    }

    /// The number of callers of a request.
    pub fn callers(&self) -> usize {
        self.callers.len()
    }

    pub fn origin(&self) -> &Origin {
        &self.image.name.origin
    }

    pub fn add_fetched(&self, bytes: u64) {
        self.fetched.set(self.fetched.get() + bytes);
    }
}

/// Returns the children of an index for `wanted`.
fn select<'c>(wanted: &Platforms, children: &'c [Child]) -> Result<Vec<&'c Child>, PullError> {
    let selected = wanted.children(children);
    if selected.is_empty() && !children.is_empty() {
        let mut offered: Vec<&str> = children
            .iter()
            .filter_map(|child| child.platform.as_deref())
            .collect();
        offered.dedup();
        return Err(PullError::NoPlatform {
            wanted: wanted.clone(),
            offered: offered.join(", "),
        });
    }
    Ok(selected)
}

/// Returns the blobs of the manifest `body` with their sizes. `links` are the parsed manifest.
fn blobs_of(links: Option<ManifestLinks>, body: &[u8]) -> impl Iterator<Item = (Digest, u64)> {
    let sizes: BTreeMap<Digest, u64> = match links {
        Some(ManifestLinks::Image(named)) => named
            .into_iter()
            .map(|named| (named.digest, named.size))
            .collect(),
        _ => BTreeMap::new(),
    };
    let required = required_blobs(body).into_iter();
    required.map(move |digest| (digest, sizes.get(&digest).copied().unwrap_or(0)))
}
