//! Finds the tags of a repository that a load fetches, in the lists of the registry.

use std::time::Duration;

use super::callers::for_first_allowed;
use super::report::ListedTags;
use super::request::{WantedImage, WantedTags};
use crate::cache::{Approach, Cache, Caller, ListingAnswer, ListingError, ListingKey};
use crate::config::Live;
use crate::limits::{LOAD_TAG_PAGES_MAX, LOAD_TAGS_MAX, TAGS_PER_PAGE_MAX};
use crate::oci::{ImageName, ListQuery, Namespace, Origin, Reference, Tag};
use crate::upstream::Target;

/// The reason why the tags are unknown, or are not loaded.
#[derive(Debug, thiserror::Error)]
pub enum TagsError {
    #[error("the tags of the registry are unknown: {0}")]
    Listing(#[from] ListingError),
    #[error("the registry sent a list of tags that is not valid JSON")]
    Invalid,
    #[error("this cache does not serve the registry {0}; list the registry under `registries`")]
    NotServed(Namespace),
    #[error("content of {0} is not stored, because its `access` is `passthrough`")]
    Passthrough(Namespace),
    #[error("the registry lists tags on more than {LOAD_TAG_PAGES_MAX} pages; name the tags instead")]
    TooManyPages,
    #[error("{0} tags match, and a load takes at most {LOAD_TAGS_MAX}; use a narrower range or pattern")]
    TooManyMatching(usize),
    #[error("the registry did not list its tags within {0} s; repeat the load, or set a longer PULL_TIMEOUT")]
    TooSlow(f64),
}

impl TagsError {
    /// Returns the status of the upstream response that caused the error.
    pub fn upstream_status(&self) -> Option<u16> {
        match self {
            TagsError::Listing(error) => error.upstream_status(),
            _ => None,
        }
    }
}

/// Lists the tags of the repository of `wanted`, for at most `within`. Returns the images whose tags the
/// pin holds.
///
/// # Errors
///
/// The registry has no complete list of tags in time, or too many tags match.
pub(super) async fn find(
    cache: &Cache,
    live: &Live,
    wanted: &WantedTags,
    within: Duration,
) -> Result<(Vec<WantedImage>, ListedTags), TagsError> {
    let found = monoio::time::timeout(within, find_all(cache, live, wanted)).await;
    found.unwrap_or(Err(TagsError::TooSlow(within.as_secs_f64())))
}

async fn find_all(
    cache: &Cache,
    live: &Live,
    wanted: &WantedTags,
) -> Result<(Vec<WantedImage>, ListedTags), TagsError> {
    let origin = &wanted.origin;
    let mut pages = TagPages::new(cache, live, origin)?;
    let (mut images, mut matching, mut listed) = (Vec::new(), 0, 0);
    while let Some(tags) = pages.next().await? {
        listed += tags.len();
        for tag in tags
            .into_iter()
            .filter(|tag| wanted.pin.pattern().holds_tag(origin, tag))
        {
            matching += 1;
            // The rest is only counted.
            if images.len() < LOAD_TAGS_MAX {
                images.push(wanted.image(tag));
            }
        }
    }
    if matching > LOAD_TAGS_MAX {
        return Err(TagsError::TooManyMatching(matching));
    }
    let pattern = wanted.pin.as_str().to_owned();
    let listed = ListedTags {
        pattern,
        listed: listed as u64,
        matching: matching as u64,
    };
    Ok((images, listed))
}

/// The pages of the tags of a repository, at most [`LOAD_TAG_PAGES_MAX`].
pub(in crate::manage) struct TagPages<'a> {
    cache: &'a Cache,
    origin: &'a Origin,
    callers: Vec<Caller>,
    next: Option<ListQuery>,
    left: usize,
}

impl<'a> TagPages<'a> {
    /// # Errors
    ///
    /// The cache does not serve or does not store the content of the registry.
    pub fn new(cache: &'a Cache, live: &Live, origin: &'a Origin) -> Result<Self, TagsError> {
        if !live.registries().exists(&origin.namespace) {
            return Err(TagsError::NotServed(origin.namespace.clone()));
        }
        let Approach::Callers(callers) = cache.own_approach(origin) else {
            return Err(TagsError::Passthrough(origin.namespace.clone()));
        };
        Ok(TagPages {
            cache,
            origin,
            callers,
            next: Some(first_page()),
            left: LOAD_TAG_PAGES_MAX,
        })
    }

    /// The number of callers of a request.
    pub fn callers(&self) -> usize {
        self.callers.len()
    }

    pub fn has_next(&self) -> bool {
        self.next.is_some()
    }

    /// Returns the tags of the next page. `None` after the last page.
    ///
    /// # Errors
    ///
    /// The page is not available, or there are too many pages.
    pub async fn next(&mut self) -> Result<Option<Vec<Tag>>, TagsError> {
        let Some(page) = self.next.take() else {
            return Ok(None);
        };
        self.left = self.left.checked_sub(1).ok_or(TagsError::TooManyPages)?;
        let answer = page_for_first_allowed(self.cache, &self.callers, self.origin, page).await?;
        self.next = answer.listed.next.clone();
        tags_of(&answer).map(Some)
    }
}

fn first_page() -> ListQuery {
    let mut query = ListQuery::default();
    // The pair is far shorter than the longest query.
    let _ = query.push("n", &TAGS_PER_PAGE_MAX.to_string());
    query
}

/// Returns the tags of a page. The cache has parsed and normalized the page.
fn tags_of(answer: &ListingAnswer) -> Result<Vec<Tag>, TagsError> {
    let names: Vec<String> = serde_json::from_slice(&answer.listed.body).map_err(|_| TagsError::Invalid)?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Returns a page of the tags.
async fn page_for_first_allowed(
    cache: &Cache,
    callers: &[Caller],
    origin: &Origin,
    page: ListQuery,
) -> Result<ListingAnswer, ListingError> {
    let request = async |caller: &Caller| {
        let key = ListingKey {
            origin: origin.clone(),
            target: Target::Tags(page.clone()),
            caller: caller.clone(),
        };
        match cache.listing(key).await {
            Err(ListingError::Fetch(error)) => Err(error),
            outcome => Ok(outcome),
        }
    };
    let outcome = for_first_allowed(callers, request).await;
    outcome.unwrap_or_else(|error| Err(ListingError::Fetch(error)))
}

impl WantedTags {
    fn image(&self, tag: Tag) -> WantedImage {
        WantedImage {
            name: ImageName {
                origin: self.origin.clone(),
                reference: Some(Reference::Tag(tag)),
            },
            platforms: self.platforms.clone(),
        }
    }
}
