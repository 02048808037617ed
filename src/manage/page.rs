//! A page of the listing of images, for the admin API.

use std::ops::ControlFlow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::Image;
use super::images::{BlobSizes, NameInRepository, RepositoryImages, unreadable};
use crate::config::ImageFilter;
use crate::oci::{Digest, Namespace, Origin, Repository};
use crate::store::{Pins, StoreReader, StoredRepository, compare_repositories};

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
    origin: Origin,
    name: NameInRepository,
}

impl Cursor {
    /// Parses the text of a cursor. `None` for another text.
    pub fn parse(text: &str) -> Option<Self> {
        let json = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (registry, repository, tag, digest): (String, String, Option<String>, String) =
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
        Some(Cursor { origin, name })
    }

    fn text(&self) -> String {
        let Cursor { origin, name } = self;
        let tag = (!name.is_untagged).then_some(&name.tag);
        let parts = (
            origin.namespace.as_str(),
            origin.repository.as_str(),
            tag,
            &name.digest,
        );
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&parts).expect("the parts are strings"))
    }
}

impl ImageQuery {
    fn wants_repository(&self, origin: &Origin) -> bool {
        let is_after = |cursor: &Cursor| compare_repositories(origin, &cursor.origin).is_ge();
        self.registry
            .as_ref()
            .is_none_or(|wanted| *wanted == origin.namespace)
            && self
                .repository
                .as_ref()
                .is_none_or(|wanted| *wanted == origin.repository)
            && self.after.as_ref().is_none_or(is_after)
    }

    /// Checks the conditions that need no file.
    fn wants_name(&self, origin: &Origin, name: &NameInRepository) -> bool {
        let is_after = |cursor: &Cursor| cursor.origin != *origin || *name > cursor.name;
        let is_tag = |wanted: &String| !name.is_untagged && *wanted == name.tag;
        let is_digest = |wanted: &Digest| wanted.to_string() == name.digest;
        self.after.as_ref().is_none_or(is_after)
            && self.tag.as_ref().is_none_or(is_tag)
            && self.digest.as_ref().is_none_or(is_digest)
    }

    fn selects(&self, image: &ListedImage) -> bool {
        self.filter.matches(&image.image.reference())
            && self.pinned.is_none_or(|wanted| wanted == image.pinned)
            && self.complete.is_none_or(|wanted| wanted == image.complete)
    }
}

/// Lists the images that `query` selects. The page ends after `query.limit` images, or when
/// `goes_on` returns false: then with fewer images and a cursor. Needs no lock of the store. Blocks.
pub fn list_page(
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
            let listed = images.image(&name, &mut blobs).map(|image| ListedImage {
                pinned: matcher.holds(&origin, image.tag.as_deref(), image.digest.parse().ok().as_ref()),
                complete: image.is_complete(),
                image,
            });
            page.images.extend(listed.filter(|listed| query.selects(listed)));
            if page.images.len() == query.limit || !goes_on() {
                let cursor = Cursor { origin, name };
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
