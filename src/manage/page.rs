//! A page of the listing of images, for the admin API.

use std::ops::ControlFlow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::Image;
use super::images::{BlobSizes, NameInRepository, RepositoryImages, unreadable};
use super::sorted_page::{Sort, list_sorted_page};
use crate::config::ImageFilter;
use crate::oci::{Digest, Namespace, Origin, Repository};
use crate::store::{PinMatcher, Pins, StoreReader, StoredRepository, compare_repositories};

/// The conditions of a listing. An absent condition selects every image.
#[derive(Debug, Default)]
pub struct ImageQuery {
    pub registry: Option<Namespace>,
    pub repository: Option<Repository>,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
    pub filter: ImageFilter,
    pub pinned: Option<bool>,
    pub complete: Option<bool>,
    pub sort: Sort,
    /// The last image of the earlier page.
    pub after: Option<Cursor>,
    pub limit: usize,
}

/// An image of a page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedImage {
    #[serde(flatten)]
    pub image: Image,
    /// Whether the store can serve a pull without the upstream.
    pub complete: bool,
    pub pinned: bool,
}

/// A part of a listing.
#[derive(Debug, Default, Serialize)]
pub struct ImagePage {
    pub images: Vec<ListedImage>,
    /// The cursor of the next page. `None` at the end of the listing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// A message for each file or directory that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
}

/// A place between two images, valid while images come and go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cursor {
    pub(super) sort: Sort,
    /// The value by which the listing is sorted. 0 for a listing by name.
    pub(super) value: u64,
    pub(super) origin: Origin,
    pub(super) name: NameInRepository,
}

/// The parts of a cursor: order, value, registry, repository, tag and digest.
type Parts<T> = (T, u64, T, T, Option<T>, T);

impl Cursor {
    /// Parses the text of a cursor. `None` for another text.
    pub fn parse(text: &str) -> Option<Self> {
        let json = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (sort, value, registry, repository, tag, digest): Parts<String> =
            serde_json::from_slice(&json).ok()?;
        let origin = Origin {
            namespace: registry.parse().ok()?,
            repository: repository.parse().ok()?,
        };
        let name = NameInRepository {
            is_untagged: tag.is_none(),
            tag: tag.unwrap_or_default(),
            digest,
        };
        Some(Cursor {
            sort: sort.parse().ok()?,
            value,
            origin,
            name,
        })
    }

    /// Returns the order of the listing.
    pub fn sort(&self) -> Sort {
        self.sort
    }

    pub(super) fn text(&self) -> String {
        let Cursor {
            sort,
            value,
            origin,
            name,
        } = self;
        let tag = (!name.is_untagged).then_some(&*name.tag);
        let (registry, repository) = (origin.namespace.as_str(), origin.repository.as_str());
        let parts: Parts<&str> = (sort.word(), *value, registry, repository, tag, &name.digest);
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&parts).expect("the parts are strings"))
    }
}

impl ImageQuery {
    fn wants_repository(&self, origin: &Origin) -> bool {
        let is_after = |cursor: &Cursor| compare_repositories(origin, &cursor.origin).is_ge();
        self.wants_origin(origin) && self.after.as_ref().is_none_or(is_after)
    }

    pub(super) fn wants_origin(&self, origin: &Origin) -> bool {
        self.registry
            .as_ref()
            .is_none_or(|wanted| *wanted == origin.namespace)
            && self
                .repository
                .as_ref()
                .is_none_or(|wanted| *wanted == origin.repository)
    }

    /// Checks the conditions of a listing by name that need no file.
    fn wants_name(&self, origin: &Origin, name: &NameInRepository) -> bool {
        let is_after = |cursor: &Cursor| cursor.origin != *origin || *name > cursor.name;
        self.wants_content(name) && self.after.as_ref().is_none_or(is_after)
    }

    /// Checks the conditions on tag and digest.
    pub(super) fn wants_content(&self, name: &NameInRepository) -> bool {
        let is_tag = |wanted: &String| !name.is_untagged && *wanted == name.tag;
        let is_digest = |wanted: &Digest| wanted.to_string() == name.digest;
        self.tag.as_ref().is_none_or(is_tag) && self.digest.as_ref().is_none_or(is_digest)
    }

    pub(super) fn selects(&self, image: &ListedImage) -> bool {
        self.filter.matches(&image.image.reference())
            && self.pinned.is_none_or(|wanted| wanted == image.pinned)
            && self.complete.is_none_or(|wanted| wanted == image.complete)
    }
}

impl ListedImage {
    pub(super) fn new(image: Image, origin: &Origin, matcher: &PinMatcher<'_>) -> Self {
        ListedImage {
            pinned: matcher.holds(origin, image.tag.as_deref(), image.digest.parse().ok().as_ref()),
            complete: image.is_complete(),
            image,
        }
    }
}

/// Lists the images that `query` selects. The page ends after `query.limit` images, or when
/// `goes_on` returns false: then with fewer images and a cursor. A page of another order than by name
/// is then `None`. Needs no lock of the store. Blocks.
pub fn list_page(
    store: &StoreReader,
    pins: &Pins,
    query: &ImageQuery,
    goes_on: impl Fn() -> bool,
) -> Option<ImagePage> {
    match query.sort == Sort::default() {
        true => Some(list_page_by_name(store, pins, query, goes_on)),
        false => list_sorted_page(store, pins, query, goes_on),
    }
}

/// Lists a page like [`list_page`], in the order of the names.
pub(super) fn list_page_by_name(
    store: &StoreReader,
    pins: &Pins,
    query: &ImageQuery,
    goes_on: impl Fn() -> bool,
) -> ImagePage {
    let mut page = ImagePage::default();
    let mut failures = Vec::new();
    let mut blobs = BlobSizes::default();
    let matcher = pins.matcher();
    let visit = &mut |repository: StoredRepository| {
        let origin = repository.origin.clone();
        let mut images = RepositoryImages::new(store, repository);
        for name in images.names() {
            if !query.wants_name(&origin, &name) {
                continue;
            }
            let listed = images.image(&name, &mut blobs);
            let listed = listed.map(|image| ListedImage::new(image, &origin, &matcher));
            page.images.extend(listed.filter(|listed| query.selects(listed)));
            if page.images.len() == query.limit || !goes_on() {
                let cursor = Cursor {
                    sort: query.sort,
                    value: 0,
                    origin,
                    name,
                };
                page.next = Some(cursor.text());
                page.failures.append(&mut images.failures);
                return ControlFlow::Break(());
            }
        }
        page.failures.append(&mut images.failures);
        ControlFlow::Continue(())
    };
    let is_wanted = |origin: &Origin| query.wants_repository(origin);
    let _end = store.repositories(&is_wanted, visit, &mut |path, error| {
        failures.push(unreadable(&path.display(), error));
    });
    page.failures.append(&mut failures);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_is_read_back_and_other_texts_are_none() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for tag in [Some("v1"), None] {
            let cursor = Cursor {
                sort: "-size".parse().unwrap(),
                value: 7,
                origin: Origin {
                    namespace: "registry.example:5000".parse().unwrap(),
                    repository: "org/app".parse().unwrap(),
                },
                name: NameInRepository {
                    is_untagged: tag.is_none(),
                    tag: tag.unwrap_or_default().to_owned(),
                    digest: digest.clone(),
                },
            };
            assert_eq!(Cursor::parse(&cursor.text()), Some(cursor));
        }
        for text in ["", "x", "e30", "WyJhIl0"] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }
}
