//! The images that a run takes.

use std::num::NonZeroUsize;
use std::sync::Arc;

use super::image::held_back;
use super::reserve::{HeldBack, Requested, Reserve};
use crate::cache::ListingError;
use crate::config::{ImagePattern, WarmRuleConfig, retain_newest};
use crate::manage::Loader;
use crate::manage::load::image::PullError;
use crate::manage::load::tags::{TagPages, TagsError};
use crate::oci::{Origin, Reference, Tag};
use crate::store::{Minute, Stores};

/// The tags of a run, the most important first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Selection {
    pub tags: Vec<(Origin, Tag)>,
}

/// The reason why the registry's list of tags is unknown.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListError {
    #[error(transparent)]
    Tags(#[from] TagsError),
    #[error(transparent)]
    HeldBack(#[from] HeldBack),
}

impl ListError {
    /// Returns the reason for which a later run repeats the request.
    pub fn held_back(self, reserve: &Reserve<'_>, origin: &Origin) -> (Option<HeldBack>, String) {
        let shown = self.to_string();
        let held = match self {
            ListError::HeldBack(held) => Some(held),
            ListError::Tags(TagsError::Listing(ListingError::Fetch(error))) => {
                held_back(&PullError::Fetch(error), reserve, origin)
            }
            ListError::Tags(_) => None,
        };
        (held, shown)
    }
}

/// Returns the stored tags of a rule, and the tag that the rule names. The tags that clients used last come
/// first. Blocks.
pub(super) fn stored_tags(stores: &Stores, rule: &WarmRuleConfig) -> Selection {
    let pattern = &rule.pattern;
    let mut used: Vec<(Origin, Tag, Minute)> = Vec::new();
    for store in stores.iter() {
        let wanted = |origin: &Origin, tag: &Tag| {
            // Content may stay in an old store after a change of the configuration.
            Arc::ptr_eq(store, stores.of_registry(&origin.namespace)) && pattern.holds_tag(origin, tag)
        };
        used.extend(store.used_tags(wanted).into_iter().flatten());
    }
    Selection::of(pattern, used, rule.newest)
}

/// Returns the tags of a rule that the registry lists. The highest versions come first.
///
/// # Errors
///
/// The registry does not list its tags, or gets no requests.
pub(super) async fn listed_tags(
    loader: &Loader,
    rule: &WarmRuleConfig,
    origin: &Origin,
    reserve: &Reserve<'_>,
) -> Result<Selection, ListError> {
    let mut pages = TagPages::new(&loader.cache, &loader.live, origin)?;
    let mut tags: Vec<Tag> = Vec::new();
    while pages.has_next() {
        let _permit = reserve.permit(origin, Requested::Manifest, pages.callers())?;
        let page = pages.next().await?.unwrap_or_default();
        tags.extend(page.into_iter().filter(|tag| rule.pattern.holds_tag(origin, tag)));
    }
    let count = rule.newest.map_or(usize::MAX, NonZeroUsize::get);
    retain_newest(&mut tags, count);
    Ok(Selection {
        tags: tags.into_iter().map(|tag| (origin.clone(), tag)).collect(),
    })
}

impl Selection {
    fn of(
        pattern: &ImagePattern,
        mut used: Vec<(Origin, Tag, Minute)>,
        newest: Option<NonZeroUsize>,
    ) -> Self {
        used.sort_by_key(|(_, _, used)| std::cmp::Reverse(*used));
        let mut tags: Vec<(Origin, Tag)> = used.into_iter().map(|(origin, tag, _)| (origin, tag)).collect();
        if let (Some(count), Some(origin)) = (newest, pattern.repository_of_tags()) {
            // All tags are of this repository.
            let mut versions: Vec<Tag> = tags.into_iter().map(|(_, tag)| tag).collect();
            retain_newest(&mut versions, count.get());
            tags = versions.into_iter().map(|tag| (origin.clone(), tag)).collect();
        }
        if let Some(name) = pattern.image()
            && let Some(Reference::Tag(tag)) = &name.reference
            && tags.is_empty()
        {
            tags.push((name.origin.clone(), tag.clone()));
        }
        Selection { tags }
    }

    /// Leaves at most `count` tags. Returns the number of tags that were removed.
    pub fn limit(&mut self, count: usize) -> usize {
        let surplus = self.tags.len().saturating_sub(count);
        self.tags.truncate(count);
        surplus
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(pattern: &str, tags: &[(&str, u32)], newest: usize) -> Vec<String> {
        let pattern = ImagePattern::parse(pattern).unwrap();
        let origin = Origin {
            namespace: "a.example".parse().unwrap(),
            repository: "r".parse().unwrap(),
        };
        let used = tags
            .iter()
            .map(|(tag, used)| (origin.clone(), tag.parse().unwrap(), Minute(*used)));
        let selection = Selection::of(&pattern, used.collect(), NonZeroUsize::new(newest));
        selection.tags.iter().map(|(_, tag)| tag.to_string()).collect()
    }

    #[test]
    fn tags_that_clients_used_last_come_first() {
        let tags = [("1", 100), ("2", 300), ("3", 200)];
        assert_eq!(selected("a.example/r", &tags, 0), ["2", "3", "1"]);
        assert_eq!(selected("a.example/r:*", &tags, 2), ["3", "2"]);
    }

    #[test]
    fn named_tag_is_taken_although_it_is_not_stored() {
        assert_eq!(selected("a.example/r:7", &[], 0), ["7"]);
        assert_eq!(selected("a.example/r:7", &[("7", 1)], 0), ["7"]);
        assert_eq!(selected("a.example/r", &[], 0), [""; 0]);
    }

    #[test]
    fn tags_beyond_the_bound_are_counted() {
        let mut selection = Selection {
            tags: vec![
                (
                    "a/b".parse::<crate::oci::ImageName>().unwrap().origin,
                    "1".parse().unwrap()
                );
                3
            ],
        };
        assert_eq!(selection.limit(2), 1);
        assert_eq!((selection.tags.len(), selection.limit(5)), (2, 0));
    }
}
