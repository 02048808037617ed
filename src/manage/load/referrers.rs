//! Fetches the referrers of an image, and its signatures under the tags of cosign, one level deep.
//!
//! The requests are those of clients: the list of referrers, and without such a list the tag of the
//! referrers tag schema (distribution-spec, "Referrers Tag Schema"). The store then has the answers that
//! clients get without a registry.

use std::collections::BTreeSet;

use super::image::{Content, ImagePull, PullError};
use crate::cache::{ListingAnswer, ListingError, ListingKey, ManifestAnswer};
use crate::limits::{LOAD_REFERRERS_MAX, LOAD_REFERRERS_PAGES_MAX};
use crate::oci::{Digest, ListQuery, ManifestLinks, Platforms, Reference, Tag};
use crate::upstream::Target;

/// The suffixes of the tags that cosign derives from a digest.
const COSIGN_SUFFIXES: [&str; 3] = [".sig", ".att", ".sbom"];

impl ImagePull<'_> {
    /// Fetches the manifests of all referrers of `subjects`. Returns their content, with blobs that are
    /// not fetched yet.
    ///
    /// # Errors
    ///
    /// A request failed, except for absent referrers.
    pub(super) async fn referrers_of(&self, subjects: &[Digest]) -> Result<Content, PullError> {
        let mut content = Content::default();
        let mut listed = BTreeSet::new();
        for subject in subjects {
            listed.extend(self.listed_referrers(subject).await?);
            for suffix in COSIGN_SUFFIXES {
                if let Some(signature) = self.derived_manifest(subject, suffix).await? {
                    self.add_content(signature, &Platforms::All, &mut content).await?;
                }
            }
            if listed.len() > LOAD_REFERRERS_MAX {
                return Err(PullError::TooManyReferrers);
            }
        }
        self.progress.expect(listed.len() as u64, 0);
        for digest in listed {
            let referrer = self.manifest(Reference::Digest(digest)).await?;
            self.progress.advance();
            self.add_content(referrer, &Platforms::All, &mut content).await?;
        }
        Ok(content)
    }

    /// Returns the digests in the list of referrers of `subject`.
    async fn listed_referrers(&self, subject: &Digest) -> Result<Vec<Digest>, PullError> {
        let mut digests = Vec::new();
        let mut query = ListQuery::default();
        for _page in 0..LOAD_REFERRERS_PAGES_MAX {
            let Some(page) = self.referrers_page(subject, query).await? else {
                let tagged = self.derived_manifest(subject, "").await?;
                return Ok(tagged.map_or_else(Vec::new, |index| named(&index.manifest.body)));
            };
            digests.extend(named(&page.listed.body));
            match &page.listed.next {
                Some(next) => query = next.clone(),
                None => return Ok(digests),
            }
        }
        Err(PullError::TooManyReferrers)
    }

    /// Returns a page of the referrers of `subject`. `None` if the registry does not list referrers.
    async fn referrers_page(
        &self,
        subject: &Digest,
        query: ListQuery,
    ) -> Result<Option<ListingAnswer>, PullError> {
        let page = self
            .for_first_allowed(async |caller| {
                let key = ListingKey {
                    origin: self.origin().clone(),
                    target: Target::Referrers(*subject, query.clone()),
                    caller: caller.clone(),
                };
                match self.cache.hold_listing(key).await {
                    Err(ListingError::Fetch(error)) => Err(error),
                    outcome => Ok(outcome),
                }
            })
            .await;
        match page {
            Ok(Ok(page)) => Ok(Some(page)),
            Ok(Err(error @ ListingError::TooLarge { .. })) => Err(error.into()),
            Ok(Err(_)) => Ok(None),
            Err(error) if error.is_refusal() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the manifest of the tag that is derived from `subject`. `None` if the tag does not exist.
    async fn derived_manifest(
        &self,
        subject: &Digest,
        suffix: &str,
    ) -> Result<Option<ManifestAnswer>, PullError> {
        // The schema truncates the encoded part to 64 characters.
        let encoded: String = subject.hex().chars().take(64).collect();
        let text = format!("{}-{encoded}{suffix}", subject.algorithm().name());
        let Ok(tag) = text.parse::<Tag>() else {
            return Ok(None);
        };
        match self.manifest(Reference::Tag(tag)).await {
            Ok(answer) => Ok(Some(answer)),
            Err(PullError::Fetch(error)) if error.is_refusal() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Returns the digests that an index names.
fn named(index: &[u8]) -> Vec<Digest> {
    match ManifestLinks::parse(index) {
        Some(ManifestLinks::Index(children)) => {
            children.iter().map(|child| child.descriptor.digest).collect()
        }
        _ => Vec::new(),
    }
}
