//! The plan of a bundle: its images, and the place of every object in the store.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::rc::Rc;

use super::export::{ExportError, IncompleteImage};
use super::format::{
    BlobKind, BlobPlace, BundleContents, BundledBlob, BundledImage, BundledReferrer, DockerArchiveImage,
    OciDescriptor,
};
use super::repository::{FoundImage, RepositoryContent};
use super::selection::ExportSelection;
use crate::limits::{BUNDLE_BLOBS_MAX, BUNDLE_IMAGES_MAX};
use crate::manage::images::{BlobSizes, name_of, unreadable};
use crate::oci::{Digest, ImageName, Origin};
use crate::store::{Key, PinMatcher, StoreReader, StoredRepository};

/// The base of a bundle: the content of an earlier bundle.
#[derive(Clone, Debug)]
pub struct Base {
    /// The SHA-256 of its `bundle.json`.
    pub digest: Digest,
    pub contents: BundleContents,
}

/// The content of a bundle, before the first byte is written.
#[derive(Debug, Default)]
pub(super) struct Plan {
    images: Vec<BundledImage>,
    referrers: Vec<BundledReferrer>,
    objects: BTreeMap<Digest, PlannedObject>,
    /// The images of a docker-archive. `None` if an image has several platforms.
    archive: Option<Vec<DockerArchiveImage>>,
    /// Selected images.
    incomplete: Vec<IncompleteImage>,
    /// Referrers, which no export needs.
    incomplete_referrers: Vec<IncompleteImage>,
}

/// An object of a bundle.
#[derive(Debug)]
struct PlannedObject {
    size: u64,
    /// The repository of a manifest. `None` for a blob.
    origin: Option<Rc<Origin>>,
    /// The first image that names the object.
    image: Rc<str>,
    place: BlobPlace,
}

impl Plan {
    /// Plans the bundle of the selected images. Reads manifests, and no blobs. Blocks.
    pub fn of(
        store: &StoreReader,
        selection: &ExportSelection,
        base: Option<&Base>,
    ) -> Result<Plan, ExportError> {
        let pins = store.pins().map_err(|error| {
            let message = unreadable(&"the pins", &error);
            ExportError::Unreadable(message)
        })?;
        let pins = pins.matcher();
        let mut plan = Plan {
            archive: Some(Vec::new()),
            ..Plan::default()
        };
        let mut sizes = BlobSizes::default();
        let (mut failures, mut failure) = (Vec::new(), None);
        let visit = &mut |stored: StoredRepository| {
            let name = name_of(&stored.origin);
            let repository = RepositoryContent::new(store, &mut sizes, stored);
            match plan.add_repository(repository, selection, &pins) {
                Ok(())
                    if plan.images.len() <= BUNDLE_IMAGES_MAX && plan.objects.len() <= BUNDLE_BLOBS_MAX =>
                {
                    ControlFlow::Continue(())
                }
                Ok(()) => {
                    failure = Some(ExportError::TooLarge);
                    ControlFlow::Break(())
                }
                Err(error) => {
                    failure = Some(ExportError::Unreadable(unreadable(&name, &error)));
                    ControlFlow::Break(())
                }
            }
        };
        let is_wanted = |origin: &Origin| selection.wants_repository(origin);
        let _end = store.repositories(&is_wanted, visit, &mut |path, error| {
            failures.push(unreadable(&path.display(), error));
        });
        if let Some(failure) = failure {
            return Err(failure);
        }
        if !failures.is_empty() {
            return Err(ExportError::Unreadable(failures.join("\n")));
        }
        plan.add_absent(selection);
        plan.apply_base(base);
        plan.checked(selection)
    }

    fn add_repository(
        &mut self,
        mut repository: RepositoryContent<'_>,
        selection: &ExportSelection,
        pins: &PinMatcher<'_>,
    ) -> io::Result<()> {
        let images = repository.select(selection, pins)?;
        let mut subjects = HashSet::new();
        let mut names: HashSet<String> = HashSet::new();
        for image in images {
            if image.content.missing.is_empty() {
                subjects.extend(&image.content.manifests);
            }
            names.insert(image.name.to_string());
            if let Some(image) = complete(image, &mut self.incomplete) {
                self.add_image(&mut repository, image)?;
            }
        }
        if !selection.with_referrers || subjects.is_empty() {
            return Ok(());
        }
        let referrers = repository.referrers(subjects)?;
        for image in referrers.tagged {
            if !names.insert(image.name.to_string()) {
                continue;
            }
            if let Some(image) = complete(image, &mut self.incomplete_referrers) {
                self.add_image(&mut repository, image)?;
            }
        }
        for (subject, found) in referrers.untagged {
            if let Some(found) = complete(found, &mut self.incomplete_referrers) {
                self.add_referrer(&mut repository, subject, found)?;
            }
        }
        Ok(())
    }

    fn add_image(&mut self, repository: &mut RepositoryContent<'_>, image: FoundImage) -> io::Result<()> {
        self.add_objects(repository, &image)?;
        let FoundImage {
            name,
            digest,
            content,
        } = image;
        let Some(outline) = repository.outline(&digest)? else {
            return Ok(());
        };
        match (&mut self.archive, &content.runnable[..]) {
            // An artifact, such as a signature.
            (_, []) | (None, _) => {}
            (Some(archive), [one]) => {
                archive.push(DockerArchiveImage::new(&name, &one.config, &one.layers));
            }
            (archive, _) => *archive = None,
        }
        self.images.push(BundledImage {
            descriptor: OciDescriptor::new(&*outline.media_type, digest, outline.size),
            name,
            platforms: content.platforms.into_iter().collect(),
        });
        Ok(())
    }

    fn add_referrer(
        &mut self,
        repository: &mut RepositoryContent<'_>,
        subject: Digest,
        found: FoundImage,
    ) -> io::Result<()> {
        self.add_objects(repository, &found)?;
        if let Some(outline) = repository.outline(&found.digest)? {
            self.referrers.push(BundledReferrer {
                repository: ImageName {
                    origin: repository.origin.clone(),
                    reference: None,
                },
                subject,
                descriptor: outline.referrer(found.digest),
            });
        }
        Ok(())
    }

    fn add_objects(&mut self, repository: &mut RepositoryContent<'_>, image: &FoundImage) -> io::Result<()> {
        let origin = Rc::new(repository.origin.clone());
        let name: Rc<str> = image.name.to_string().into();
        for digest in &image.content.manifests {
            let size = repository.outline(digest)?.map_or(0, |outline| outline.size);
            let object = PlannedObject {
                size,
                origin: Some(Rc::clone(&origin)),
                image: Rc::clone(&name),
                place: BlobPlace::Bundle,
            };
            // A manifest may also be a layer of an artifact.
            match self.objects.get(digest) {
                Some(known) if known.origin.is_some() => {}
                _ => {
                    self.objects.insert(*digest, object);
                }
            }
        }
        for (digest, &size) in &image.content.blobs {
            self.objects.entry(*digest).or_insert_with(|| PlannedObject {
                size,
                origin: None,
                image: Rc::clone(&name),
                place: BlobPlace::Bundle,
            });
        }
        Ok(())
    }

    /// Records the named images without a stored manifest.
    fn add_absent(&mut self, selection: &ExportSelection) {
        let found = self.images.iter().map(|image| image.name.to_string());
        let incomplete = self.incomplete.iter().map(|image| image.image.clone());
        let found: HashSet<String> = found.chain(incomplete).collect();
        for name in selection.names.keys().filter(|name| !found.contains(*name)) {
            self.incomplete.push(IncompleteImage {
                image: name.clone(),
                missing: vec!["the manifest".to_owned()],
            });
        }
    }

    /// Leaves the blobs of the base out. Manifests stay, because a store holds them for each repository.
    fn apply_base(&mut self, base: Option<&Base>) {
        let Some(base) = base else { return };
        for (digest, object) in &mut self.objects {
            if object.origin.is_none() && base.contents.blob(digest).is_some() {
                object.place = BlobPlace::Base;
                // Other tools need all blobs.
                self.archive = None;
            }
        }
    }

    fn checked(mut self, selection: &ExportSelection) -> Result<Plan, ExportError> {
        self.incomplete.sort_by(|a, b| a.image.cmp(&b.image));
        if !self.incomplete.is_empty() && !selection.skip_incomplete {
            return Err(ExportError::Incomplete(self.incomplete));
        }
        match self.images.is_empty() {
            true => Err(ExportError::Nothing),
            false => Ok(self),
        }
    }

    /// Returns the content for `bundle.json`.
    pub fn contents(&mut self, base: Option<&Base>) -> BundleContents {
        let blobs = self.objects.iter().map(|(digest, object)| BundledBlob {
            digest: *digest,
            size: object.size,
            kind: match object.origin {
                Some(_) => BlobKind::Manifest,
                None => BlobKind::Blob,
            },
            place: object.place,
        });
        let blobs = blobs.collect();
        let (images, referrers) = (
            std::mem::take(&mut self.images),
            std::mem::take(&mut self.referrers),
        );
        BundleContents::new(base.map(|base| base.digest), images, referrers, blobs)
    }

    /// Returns the images and referrers that are left out.
    pub fn skipped(self) -> Vec<IncompleteImage> {
        let mut skipped = self.incomplete;
        skipped.extend(self.incomplete_referrers);
        skipped
    }

    /// Returns `manifest.json`. `None` if other tools cannot read the bundle as a docker-archive.
    pub fn archive(&mut self) -> Option<Vec<u8>> {
        let mut archive = self.archive.take().filter(|archive| !archive.is_empty())?;
        archive.sort_by(|a, b| (&a.repo_tags, &a.config).cmp(&(&b.repo_tags, &b.config)));
        archive.dedup();
        Some(DockerArchiveImage::all_to_json(&archive))
    }

    /// Returns the objects inside the bundle, sorted by digest: digest, size, key in the store, image.
    pub fn objects(&self) -> impl Iterator<Item = (&Digest, u64, Key, &str)> {
        let inside = self
            .objects
            .iter()
            .filter(|(_, object)| object.place == BlobPlace::Bundle);
        inside.map(|(digest, object)| {
            let key = match &object.origin {
                Some(origin) => Key::manifest(origin, digest),
                None => Key::Blob(*digest),
            };
            (digest, object.size, key, &*object.image)
        })
    }
}

/// Returns a complete image. Adds an incomplete image to `incomplete`.
fn complete(found: FoundImage, incomplete: &mut Vec<IncompleteImage>) -> Option<FoundImage> {
    if found.content.missing.is_empty() {
        return Some(found);
    }
    incomplete.push(IncompleteImage {
        image: found.name.to_string(),
        missing: found.content.missing,
    });
    None
}
