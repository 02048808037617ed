//! Finds the tags of a repository that a load fetches, in the lists of the registry.

use std::time::Duration;

use super::callers::for_first_allowed;
use super::report::ListedTags;
use super::request::{WantedImage, WantedTags};
use crate::cache::{Approach, Cache, Caller, ListingAnswer, ListingError, ListingKey};
use crate::config::Live;
use crate::limits::{LOAD_TAG_PAGES_MAX, LOAD_TAGS_MAX, TAGS_PER_PAGE_MAX};
use crate::oci::{ImageName, ListQuery, Namespace, Reference, Tag};
use crate::upstream::Target;

/// The reason why the tags are unknown, or are not loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum TagsError {
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
    if !live.registries().exists(&origin.namespace) {
        return Err(TagsError::NotServed(origin.namespace.clone()));
    }
    let Approach::Callers(callers) = cache.own_approach(origin) else {
        return Err(TagsError::Passthrough(origin.namespace.clone()));
    };
    let mut next = Some(first_page());
    let (mut images, mut matching, mut listed) = (Vec::new(), 0, 0);
    for _ in 0..LOAD_TAG_PAGES_MAX {
        let Some(page) = next.take() else { break };
        let answer = page_for_first_allowed(cache, &callers, wanted, page).await?;
        let tags: Vec<Tag> = tags_of(&answer)?;
        listed += tags.len();
        for tag in tags.into_iter().filter(|tag| wanted.pin.holds_tag(origin, tag)) {
            matching += 1;
            // The rest is only counted.
            if images.len() < LOAD_TAGS_MAX {
                images.push(wanted.image(tag));
            }
        }
        next = answer.listed.next.clone();
    }
    match (next, matching > LOAD_TAGS_MAX) {
        (Some(_), _) => Err(TagsError::TooManyPages),
        (None, true) => Err(TagsError::TooManyMatching(matching)),
        (None, false) => Ok((
            images,
            ListedTags {
                pattern: wanted.pin.as_str().to_owned(),
                listed: listed as u64,
                matching: matching as u64,
            },
        )),
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
    wanted: &WantedTags,
    page: ListQuery,
) -> Result<ListingAnswer, ListingError> {
    let request = async |caller: &Caller| {
        let key = ListingKey {
            origin: wanted.origin.clone(),
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
