//! The images, manifests and blobs of one repository for a bundle.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::rc::Rc;

use super::outline::{ImageLayers, Outline};
use super::selection::{Conditions, ExportSelection, tag_of};
use crate::limits::INDEX_DEPTH_MAX;
use crate::manage::images::BlobSizes;
use crate::oci::{Accept, Digest, ImageName, ManifestLinks, Origin, Platforms, Reference};
use crate::store::{PinMatcher, StoreReader, StoredRepository};

/// A selected image, with everything that it needs.
#[derive(Debug)]
pub(super) struct FoundImage {
    pub name: ImageName,
    pub digest: Digest,
    pub content: ImageContent,
}

/// The referrers of images.
#[derive(Debug, Default)]
pub(super) struct Referrers {
    /// With a tag that is derived from the digest of the subject.
    pub tagged: Vec<FoundImage>,
    /// With the subject in the manifest.
    pub untagged: Vec<(Digest, FoundImage)>,
}

/// The content below a manifest.
#[derive(Debug, Default)]
pub(super) struct ImageContent {
    pub manifests: BTreeSet<Digest>,
    /// The sizes in the store, in bytes.
    pub blobs: BTreeMap<Digest, u64>,
    /// The platforms of an index. Sorted, each once.
    pub platforms: BTreeSet<String>,
    /// The images that an engine can run.
    pub runnable: Vec<ImageLayers>,
    /// The objects that the store lacks, as text.
    pub missing: Vec<String>,
}

/// A repository of the store. Manifests are read when an image needs them.
pub(super) struct RepositoryContent<'a> {
    store: &'a StoreReader,
    sizes: &'a mut BlobSizes,
    pub origin: Origin,
    tags: Vec<(ImageName, Digest)>,
    digests: Vec<Digest>,
    outlines: HashMap<Digest, Option<Rc<Outline>>>,
}

impl<'a> RepositoryContent<'a> {
    pub fn new(store: &'a StoreReader, sizes: &'a mut BlobSizes, stored: StoredRepository) -> Self {
        RepositoryContent {
            store,
            sizes,
            tags: tags(&stored),
            origin: stored.origin,
            digests: stored.manifests,
            outlines: HashMap::new(),
        }
    }

    /// Returns a stored manifest in outline. `None` if the store has no such manifest.
    pub fn outline(&mut self, digest: &Digest) -> io::Result<Option<Rc<Outline>>> {
        if let Some(known) = self.outlines.get(digest) {
            return Ok(known.clone());
        }
        let stored = self.store.manifest(&self.origin, digest)?;
        let outline = stored.map(|stored| Rc::new(Outline::of(&stored)));
        self.outlines.insert(*digest, outline.clone());
        Ok(outline)
    }

    /// Returns the selected images.
    pub fn select(
        &mut self,
        selection: &ExportSelection,
        pins: &PinMatcher<'_>,
    ) -> io::Result<Vec<FoundImage>> {
        let mut candidates = self.tags.clone();
        candidates.extend(self.untagged(selection)?);
        let mut found = Vec::new();
        for (name, digest) in candidates {
            let is_wanted = selection.names_image(&name)
                || match &selection.conditions {
                    Some(conditions) => self.is_selected(&name, &digest, conditions, pins)?,
                    None => false,
                };
            if is_wanted {
                let mut content = ImageContent::default();
                self.add(&digest, selection.platforms.as_ref(), 0, &mut content)?;
                found.push(FoundImage {
                    name,
                    digest,
                    content,
                });
            }
        }
        Ok(found)
    }

    fn is_selected(
        &mut self,
        name: &ImageName,
        digest: &Digest,
        conditions: &Conditions,
        pins: &PinMatcher<'_>,
    ) -> io::Result<bool> {
        if conditions.is_pinned && !pins.holds(&self.origin, tag_of(name), Some(digest)) {
            return Ok(false);
        }
        let used = self.outline(digest)?.map_or(0, |outline| outline.used);
        Ok(conditions.select(name, used))
    }

    /// Returns the manifests without a tag that are images of their own: no platform of an index, and no
    /// referrer. Names select any manifest.
    fn untagged(&mut self, selection: &ExportSelection) -> io::Result<Vec<(ImageName, Digest)>> {
        let digests = self.digests.clone();
        let mut not_alone: HashSet<Digest> = self.tags.iter().map(|(_, digest)| *digest).collect();
        if selection.conditions.is_some() {
            for digest in &digests {
                let Some(outline) = self.outline(digest)? else {
                    continue;
                };
                if let Some(ManifestLinks::Index(children)) = &outline.links {
                    not_alone.extend(children.iter().map(|child| child.descriptor.digest));
                }
                if outline.subject.is_some() {
                    not_alone.insert(*digest);
                }
            }
        }
        let named = digests.into_iter().map(|digest| {
            let reference = Some(Reference::Digest(digest));
            let origin = self.origin.clone();
            (ImageName { origin, reference }, digest)
        });
        Ok(named
            .filter(|(name, digest)| !not_alone.contains(digest) || selection.names_image(name))
            .collect())
    }

    /// Returns the referrers of `subjects` and of their referrers.
    pub fn referrers(&mut self, mut subjects: HashSet<Digest>) -> io::Result<Referrers> {
        let mut referrers = Referrers::default();
        let mut tags = self.tags.clone();
        let mut digests = self.digests.clone();
        loop {
            let known = subjects.len();
            let is_derived = |name: &ImageName| {
                let subject = tag_of(name).and_then(subject_of_tag);
                subject.is_some_and(|subject| subjects.contains(&subject))
            };
            let (derived, others): (Vec<_>, Vec<_>) =
                tags.into_iter().partition(|(name, _)| is_derived(name));
            tags = others;
            let mut others = Vec::new();
            let mut referring = Vec::new();
            for digest in digests {
                let subject = self.outline(&digest)?.and_then(|outline| outline.subject);
                match subject.filter(|subject| subjects.contains(subject)) {
                    Some(subject) => referring.push((subject, digest)),
                    None => others.push(digest),
                }
            }
            digests = others;
            for (name, digest) in derived {
                let found = self.whole(name, digest)?;
                subjects.extend(&found.content.manifests);
                referrers.tagged.push(found);
            }
            for (subject, digest) in referring {
                let reference = Some(Reference::Digest(digest));
                let origin = self.origin.clone();
                let found = self.whole(ImageName { origin, reference }, digest)?;
                subjects.extend(&found.content.manifests);
                referrers.untagged.push((subject, found));
            }
            if subjects.len() == known {
                return Ok(referrers);
            }
        }
    }

    /// Returns an image with its stored content.
    fn whole(&mut self, name: ImageName, digest: Digest) -> io::Result<FoundImage> {
        let mut content = ImageContent::default();
        self.add(&digest, None, 0, &mut content)?;
        Ok(FoundImage {
            name,
            digest,
            content,
        })
    }

    /// Adds the manifest `digest` and the content below it. Without `platforms`, the stored platforms of an
    /// index.
    fn add(
        &mut self,
        digest: &Digest,
        platforms: Option<&Platforms>,
        depth: usize,
        content: &mut ImageContent,
    ) -> io::Result<()> {
        let Some(outline) = self.outline(digest)? else {
            content.missing.push(format!("the manifest {digest}"));
            return Ok(());
        };
        if !content.manifests.insert(*digest) {
            return Ok(());
        }
        content.runnable.extend(outline.layers.clone());
        match &outline.links {
            Some(ManifestLinks::Index(children)) if depth < INDEX_DEPTH_MAX => {
                let mut wanted = match platforms {
                    Some(platforms) => platforms.children(children),
                    None => children.iter().collect(),
                };
                if platforms.is_none() {
                    let digests = wanted.iter().map(|child| self.outline(&child.descriptor.digest));
                    let stored: Vec<bool> = digests
                        .map(|outline| outline.map(|outline| outline.is_some()))
                        .collect::<io::Result<_>>()?;
                    let mut stored = stored.into_iter();
                    wanted.retain(|_| stored.next().unwrap_or(false));
                }
                if wanted.is_empty() && !children.is_empty() {
                    let platforms = platforms.map_or("any platform".to_owned(), Platforms::to_string);
                    content.missing.push(format!("the manifest of {platforms}"));
                }
                for child in wanted {
                    content.platforms.extend(child.platform.clone());
                    self.add(&child.descriptor.digest, platforms, depth + 1, content)?;
                }
            }
            Some(ManifestLinks::Image(descriptors)) => {
                for descriptor in descriptors {
                    let digest = descriptor.digest;
                    match self.sizes.of(self.store, &self.origin.namespace, &digest) {
                        Some(size) => {
                            content.blobs.insert(digest, size);
                        }
                        // A layer with other addresses is not in the registry.
                        None if !outline.required.contains(&digest) => content.runnable.clear(),
                        None => content.missing.push(format!("the blob {digest}")),
                    }
                }
            }
            // Too many links or levels, or an unknown form.
            _ => content.missing.push(format!(
                "the content of the manifest {digest}, whose links cannot be followed"
            )),
        }
        Ok(())
    }
}

/// Returns the tags with their manifests. Of several pointers of a tag, that of native clients counts.
fn tags(stored: &StoredRepository) -> Vec<(ImageName, Digest)> {
    let mut tags: BTreeMap<&str, (bool, &str, ImageName, Digest)> = BTreeMap::new();
    for (tag, pointer) in &stored.tags {
        let name = ImageName {
            origin: stored.origin.clone(),
            reference: Some(Reference::Tag(tag.clone())),
        };
        let class = &*pointer.accept_class;
        let found = (class != Accept::NATIVE, class, name, pointer.digest);
        match tags.get(tag.as_str()) {
            Some(known) if (known.0, known.1) <= (found.0, found.1) => {}
            _ => {
                tags.insert(tag.as_str(), found);
            }
        }
    }
    tags.into_values()
        .map(|(_, _, name, digest)| (name, digest))
        .collect()
}

/// Returns the digest from which a tag is derived: `sha256-<hex>`, with a suffix such as `.sig` or without
/// one.
fn subject_of_tag(tag: &str) -> Option<Digest> {
    let stem = tag.split_once('.').map_or(tag, |(stem, _suffix)| stem);
    Digest::from_file_name(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_of_a_signature_is_derived_from_its_subject() {
        let hex = "a".repeat(64);
        let subject: Digest = format!("sha256:{hex}").parse().unwrap();
        for tag in [
            format!("sha256-{hex}"),
            format!("sha256-{hex}.sig"),
            format!("sha256-{hex}.att"),
        ] {
            assert_eq!(subject_of_tag(&tag), Some(subject), "{tag}");
        }
        for tag in ["v1", "sha256-ab.sig", "latest.sig"] {
            assert_eq!(subject_of_tag(tag), None, "{tag}");
        }
    }
}
