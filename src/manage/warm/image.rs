//! The check of one tag, and the fetch of its image.

use std::cell::Cell;

use super::reserve::{HeldBack, Requested, Reserve};
use crate::cache::{CheckedTag, FetchError, Priority};
use crate::manage::Loader;
use crate::manage::load::image::{ImagePull, PullError};
use crate::manage::load::progress::ImageProgress;
use crate::manage::{LoadProgress, WantedImage};
use crate::oci::{Origin, Reference, Tag};
use crate::upstream::UpstreamError;

/// A tag of a run.
pub(super) struct WarmImage<'a> {
    pub loader: &'a Loader,
    pub reserve: &'a Reserve<'a>,
    pub wanted: WantedImage,
    pub place: (Origin, Tag),
    /// Bytes that the run has fetched.
    pub fetched: &'a Cell<u64>,
}

/// The outcome of one tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kept {
    /// The registry has confirmed the tag since the begin of the run. No request was sent.
    Recent,
    Unchanged,
    Changed,
}

impl WarmImage<'_> {
    /// Checks the tag, unless the registry has confirmed the tag at `since_ms` or later. Fetches the content
    /// that the store lacks. Clients get a new image of the tag when its content is complete.
    ///
    /// # Errors
    ///
    /// The first failure. The stored tag stays.
    ///
    /// # Cancellation
    ///
    /// Content that has arrived stays in the store.
    pub async fn keep(&self, since_ms: u64, progress: &LoadProgress) -> Result<Kept, PullError> {
        let cache = &self.loader.cache;
        if cache.is_confirmed(self.place.clone(), since_ms).await {
            return Ok(Kept::Recent);
        }
        let in_work = progress.begin(&self.wanted.name);
        let pull = self.pull(&in_work)?;
        // The futures of requests are large, and the stack of a thread is small.
        let checked = Box::pin(self.check(&pull)).await?;
        let reference = Reference::Digest(checked.digest);
        if checked.has_moved() {
            Box::pin(pull.run_from(reference, false)).await?;
            cache.confirm_tag(checked).await?;
            return Ok(Kept::Changed);
        }
        // The tag is right, also if the store lacks a part of its content.
        cache.confirm_tag(checked).await?;
        Box::pin(pull.run_from(reference, false)).await?;
        Ok(Kept::Unchanged)
    }

    fn pull<'p>(&'p self, progress: &'p ImageProgress<'p>) -> Result<ImagePull<'p>, PullError> {
        let Loader { cache, live } = self.loader;
        let pull = ImagePull::new(cache, live, &self.wanted, progress, self.fetched)?;
        Ok(pull.within(self.reserve))
    }

    async fn check(&self, pull: &ImagePull<'_>) -> Result<CheckedTag, PullError> {
        let (cache, priority) = (&self.loader.cache, Priority::Warm);
        let permit = || {
            self.reserve
                .permit(pull.origin(), Requested::Manifest, pull.callers())
        };
        let answer = {
            let _permit = permit()?;
            let check = async |caller: &_| {
                let caller = Clone::clone(caller);
                cache.check_tag(self.place.clone(), caller, priority).await
            };
            pull.for_first_allowed(check).await?
        };
        if let Some(checked) = answer {
            return Ok(checked);
        }
        let _permit = permit()?;
        let fetch = async |caller: &_| {
            let caller = Clone::clone(caller);
            cache.fetch_tag(self.place.clone(), caller, priority).await
        };
        let (checked, bytes) = pull.for_first_allowed(fetch).await?;
        pull.add_fetched(bytes);
        Ok(checked)
    }
}

/// Returns the reason for which a later run repeats the image. `None` for a failure of the image.
pub(super) fn held_back(error: &PullError, reserve: &Reserve<'_>, origin: &Origin) -> Option<HeldBack> {
    match error {
        PullError::HeldBack(held) => Some(*held),
        PullError::Fetch(FetchError::Upstream(UpstreamError::RateLimited { retry_after, .. })) => {
            Some(HeldBack::RateLimit { wait: *retry_after })
        }
        // The response may have changed the state of the registry.
        PullError::Fetch(error) if error.is_outage() => {
            let held = reserve.permit(origin, Requested::Blob, 0).err()?;
            Some(held).filter(|held| !matches!(held, HeldBack::Budget { .. }))
        }
        _ => None,
    }
}
