//! Gives the images of an archive their names, after the whole archive was read. An image gets its name
//! if all its content is in the store.

use std::collections::HashSet;

use super::contents::Place;
use super::images::{ArchiveImage, ArchiveImages, is_blobs_alone};
use super::intake::Intake;
use super::referrers::Referrer;
use super::tree::{Objects, Tree};
use super::{ImportError, ImportReport, ImportRule, ImportState, ImportedImage, Importer};
use crate::cache::Manifest;
use crate::limits::{IMPORT_MANIFEST_READS_BYTES_MAX, IMPORT_NAMED_MAX, MANIFEST_BYTES_MAX};
use crate::oci::{Accept, Digest, ImageName, Origin, Reference, manifest_type, subject_of};
use crate::store::{Key, Source};
use crate::sys::read_exact_at;

/// The bytes of a manifest, and its media type in the store.
type Body = (Vec<u8>, Option<String>);

/// The images of one archive on their way to their names.
pub(super) struct Admission<'a> {
    pub importer: &'a Importer,
    pub rule: &'a ImportRule,
    pub intake: Intake<'a>,
    /// The images so far.
    outcomes: Vec<ImportedImage>,
    /// Objects that images name.
    named: HashSet<Digest>,
    /// Bytes of manifests that were read.
    read_bytes: u64,
}

/// The view of one repository on the archive and the store.
struct RepositoryObjects<'b, 'a> {
    admission: &'b mut Admission<'a>,
    origin: &'b Origin,
}

/// The reason why an image has no name.
pub(super) struct Refused {
    error: String,
    missing: Vec<String>,
}

impl<'a> Admission<'a> {
    pub fn new(importer: &'a Importer, rule: &'a ImportRule, intake: Intake<'a>) -> Self {
        Admission {
            importer,
            rule,
            intake,
            outcomes: Vec::new(),
            named: HashSet::new(),
            read_bytes: 0,
        }
    }

    /// Gives all images their names.
    ///
    /// # Errors
    ///
    /// The archive describes no images, or the store fails.
    pub fn images(&mut self) -> Result<(), ImportError> {
        if is_blobs_alone(&self.intake.contents) {
            self.named.extend(self.intake.contents.objects.keys());
            return self.keep_blobs_alone();
        }
        let ArchiveImages { images, referrers } = ArchiveImages::of(&mut self.intake, self.rule)?;
        if images.is_empty() {
            let message = "the archive names no image: index.json and manifest.json are missing or empty";
            return Err(ImportError::Archive(message.to_owned()));
        }
        let mut held: Vec<(Origin, Digest)> = Vec::new();
        let mut unnamed = Vec::new();
        for image in images {
            let Some(name) = image.name.clone() else {
                unnamed.push(image);
                continue;
            };
            let admitted = self.image(&name, &image)?;
            if let Ok(tree) = &admitted {
                held.extend(tree.manifests.iter().map(|digest| (name.origin.clone(), *digest)));
            }
            self.outcomes.push(outcome(name.to_string(), &image, admitted));
        }
        let mut found: Vec<Referrer> = referrers.into_iter().map(Referrer::from).collect();
        for image in unnamed {
            let referrers = self.referrers_of(&image, &held)?;
            if referrers.is_empty() {
                self.outcomes.push(unnamed_outcome(&image));
            }
            found.extend(referrers);
        }
        for referrer in found {
            if let Err(refused) = self.referrer(&referrer)? {
                let refused = outcome(referrer.name(), &referrer.image(), Err(refused));
                self.outcomes.push(refused);
            }
        }
        Ok(())
    }

    /// Counts the content, and removes the blobs that no image names.
    pub fn finish(mut self, report: &mut ImportReport) {
        report.images = std::mem::take(&mut self.outcomes);
        let contents = &self.intake.contents;
        report.objects = contents.objects.len() as u64;
        report.bytes = contents.objects.values().map(|object| object.size).sum();
        report.ignored = contents.ignored;
        report.damaged = contents.damaged.iter().map(ToString::to_string).collect();
        let is_new = |place| matches!(place, Place::Store { is_new: true });
        report.added = contents
            .objects
            .values()
            .filter(|object| is_new(object.place))
            .count() as u64;
        let unnamed = contents
            .objects
            .iter()
            .filter(|(digest, _)| !self.named.contains(digest));
        report.unnamed = unnamed.clone().count() as u64;
        let new: HashSet<Digest> = unnamed
            .filter(|(_, object)| is_new(object.place))
            .map(|(digest, _)| *digest)
            .collect();
        if !new.is_empty() {
            report.added -= self.importer.store.remove_unreferenced(&new).min(report.added);
        }
    }

    /// Gives one image its name.
    fn image(
        &mut self,
        name: &ImageName,
        image: &ArchiveImage,
    ) -> Result<Result<Tree, Refused>, ImportError> {
        if self.importer.has_own_store(&name.origin) {
            return Ok(Err(Refused::of(format!(
                "the registry {} has a store of its own, and an import writes to the default store; load the image from its registry, or import without cache_dir",
                name.origin.namespace
            ))));
        }
        let root = match &image.root {
            Ok(root) => *root,
            Err(missing) => return Ok(Err(Refused::missing(missing.clone()))),
        };
        if let Some(Reference::Digest(digest)) = name.reference
            && digest != root
        {
            return Ok(Err(Refused::of(format!(
                "the name has another digest than the manifest {root}"
            ))));
        }
        let named_type = image
            .descriptor
            .as_ref()
            .map(|descriptor| &*descriptor.media_type);
        let admitted = self.tree(&name.origin, &root, named_type)?;
        let (Ok(_), Some(Reference::Tag(tag)), false) = (&admitted, &name.reference, self.rule.is_dry_run)
        else {
            return Ok(admitted);
        };
        let Some(manifest) = self.manifest(&name.origin, &root, named_type)? else {
            return Ok(Err(Refused::missing(vec![root.to_string()])));
        };
        let Importer { cache, store, .. } = self.importer;
        cache.admit_tag(&name.origin, tag, &manifest);
        let Origin {
            namespace,
            repository,
        } = &name.origin;
        let pointer = store.tag(namespace, repository, tag, Accept::NATIVE)?;
        if pointer.is_none_or(|pointer| pointer.digest != root) {
            return Ok(Err(Refused::of(
                "the store did not keep the tag; the log of the cache has the reason, or CACHE_TAG_MANIFESTS is false",
            )));
        }
        Ok(admitted)
    }

    /// Stores the manifests below `root` in the repository `origin`, if all content is in the store.
    pub(super) fn tree(
        &mut self,
        origin: &Origin,
        root: &Digest,
        named_type: Option<&str>,
    ) -> Result<Result<Tree, Refused>, ImportError> {
        let mut objects = RepositoryObjects {
            admission: self,
            origin,
        };
        let tree = Tree::of(root, &mut objects)?;
        self.named.extend(&tree.manifests);
        self.named.extend(&tree.blobs);
        // Content of an incomplete image counts for the next import.
        for blob in tree.blobs.iter().filter(|_| !self.rule.is_dry_run) {
            self.blob(origin, blob)?;
        }
        if let Some(error) = tree.error {
            return Ok(Err(Refused::of(error)));
        }
        if !tree.missing.is_empty() {
            return Ok(Err(Refused::missing(
                tree.missing.iter().map(ToString::to_string).collect(),
            )));
        }
        if self.rule.is_dry_run {
            return Ok(Ok(tree));
        }
        for blob in &tree.blobs {
            // An eviction may have removed the blob meanwhile.
            if self.blob_size(blob)?.is_none() {
                return Ok(Err(Refused::of(format!(
                    "the store has no room for the image: {blob} was evicted; set a larger CACHE_MAX_SIZE"
                ))));
            }
        }
        for digest in &tree.manifests {
            let named_type = named_type.filter(|_| digest == root);
            let Some(manifest) = self.manifest(origin, digest, named_type)? else {
                return Ok(Err(Refused::missing(vec![digest.to_string()])));
            };
            if !self.intake.contents.objects.contains_key(digest) {
                continue;
            }
            if let Err(error) = self.importer.cache.admit_manifest(origin, manifest) {
                return Ok(Err(Refused::of(error.to_string())));
            }
        }
        Ok(Ok(tree))
    }

    /// Records the repository `origin` as a source of a blob of the archive. A blob that only the store
    /// has keeps its sources, because the archive does not prove the possession of the content.
    fn blob(&mut self, origin: &Origin, digest: &Digest) -> Result<(), ImportError> {
        let Some(object) = self.intake.contents.objects.get(digest).copied() else {
            return Ok(());
        };
        if let Place::File(place) = object.place {
            let body = self.intake.manifests.get(place).map_err(ImportError::Manifests)?;
            self.intake.store_small(*digest, &body)?;
        }
        let (key, source) = (Key::Blob(*digest), Source::from(origin));
        let Importer { cache, store, .. } = self.importer;
        store.record_source(&key, &source, self.rule.is_public)?;
        cache.replicate(&origin.namespace, &key);
        Ok(())
    }

    /// Makes the blobs of an archive without images readable, if the operator said so.
    fn keep_blobs_alone(&mut self) -> Result<(), ImportError> {
        let blobs: Vec<(Digest, Place)> = self
            .intake
            .contents
            .objects
            .iter()
            .map(|(digest, object)| (*digest, object.place))
            .collect();
        for (digest, place) in blobs.into_iter().filter(|_| !self.rule.is_dry_run) {
            if let Place::File(place) = place {
                let body = self.intake.manifests.get(place).map_err(ImportError::Manifests)?;
                self.intake.store_small(digest, &body)?;
            }
            if self.rule.is_public {
                self.importer.store.mark_public(&Key::Blob(digest))?;
            }
        }
        Ok(())
    }

    fn blob_size(&mut self, digest: &Digest) -> Result<Option<u64>, ImportError> {
        let object = self.intake.contents.objects.get(digest);
        if let Some(object) = object
            && matches!(object.place, Place::File(_) | Place::Hashed)
        {
            return Ok(Some(object.size));
        }
        let found = self.importer.store.find(&Key::Blob(*digest))?;
        Ok(found.map(|entry| entry.meta.size))
    }

    /// Returns a manifest of the archive, or of the repository `origin` in the store. `None` if neither
    /// has it, or if the content is no manifest.
    fn manifest(
        &mut self,
        origin: &Origin,
        digest: &Digest,
        named_type: Option<&str>,
    ) -> Result<Option<Manifest>, ImportError> {
        let (body, stored_type) = match self.body(origin, digest)? {
            Some(found) => found,
            None => return Ok(None),
        };
        let named_type = named_type.or(stored_type.as_deref());
        Ok(manifest_type(named_type, &body).ok().map(|media_type| Manifest {
            digest: *digest,
            media_type,
            body: body.into(),
            public: self.rule.is_public,
            is_unproven: false,
            headers: Default::default(),
        }))
    }

    /// Returns the bytes of a manifest, and its media type in the store.
    fn body(&mut self, origin: &Origin, digest: &Digest) -> Result<Option<Body>, ImportError> {
        let object = self.intake.contents.objects.get(digest);
        let found = match object.map(|object| object.place) {
            Some(Place::File(place)) => {
                let body = self.intake.manifests.get(place).map_err(ImportError::Manifests)?;
                Some((body, None))
            }
            Some(Place::Store { .. } | Place::Hashed) => None,
            None => self.stored_body(origin, digest)?,
        };
        self.read_bytes += found.as_ref().map_or(0, |(body, _)| body.len() as u64);
        match self.read_bytes <= IMPORT_MANIFEST_READS_BYTES_MAX {
            true => Ok(found),
            false => Err(ImportError::Archive(
                "the images of the archive name too many manifests; split the archive".to_owned(),
            )),
        }
    }

    fn stored_body(&self, origin: &Origin, digest: &Digest) -> Result<Option<Body>, ImportError> {
        let Some(entry) = self.importer.store.find(&Key::manifest(origin, digest))? else {
            return Ok(None);
        };
        let size = usize::try_from(entry.meta.size)
            .ok()
            .filter(|&size| size <= MANIFEST_BYTES_MAX);
        let body = size.and_then(|size| read_exact_at(&entry.file, 0, size).ok());
        let body = body.filter(|body| Digest::of(digest.algorithm(), body) == *digest);
        Ok(body.map(|body| (body, Some(entry.meta.content_type.clone()))))
    }

    /// Returns an image without a name as a referrer of each held image to which it refers.
    fn referrers_of(
        &mut self,
        image: &ArchiveImage,
        held: &[(Origin, Digest)],
    ) -> Result<Vec<Referrer>, ImportError> {
        let (Ok(root), Some(descriptor)) = (&image.root, &image.descriptor) else {
            return Ok(Vec::new());
        };
        let Some(object) = self.intake.contents.objects.get(root) else {
            return Ok(Vec::new());
        };
        let Place::File(place) = object.place else {
            return Ok(Vec::new());
        };
        let body = self.intake.manifests.get(place).map_err(ImportError::Manifests)?;
        let Some(subject) = subject_of(&body) else {
            return Ok(Vec::new());
        };
        let mut referrers: Vec<Referrer> = Vec::new();
        for (origin, _) in held.iter().filter(|(_, digest)| *digest == subject) {
            if referrers.iter().all(|known| known.origin != *origin) {
                referrers.push(Referrer {
                    origin: origin.clone(),
                    subject,
                    descriptor: descriptor.clone(),
                });
            }
        }
        Ok(referrers)
    }
}

fn unnamed_outcome(image: &ArchiveImage) -> ImportedImage {
    let (text, refused) = match &image.root {
        Ok(root) => (
            root.to_string(),
            Refused::of("the archive does not name the image; give a name with --resolve-ref"),
        ),
        Err(missing) => ("-".to_owned(), Refused::missing(missing.clone())),
    };
    outcome(text, image, Err(refused))
}

fn outcome(name: String, image: &ArchiveImage, admitted: Result<Tree, Refused>) -> ImportedImage {
    let digest = image
        .root
        .as_ref()
        .map_or_else(|_| String::new(), ToString::to_string);
    match admitted {
        Ok(tree) => ImportedImage {
            image: name,
            digest,
            platforms: tree.platforms,
            state: ImportState::Held,
            missing: Vec::new(),
            error: None,
        },
        Err(refused) => ImportedImage {
            image: name,
            digest,
            platforms: Vec::new(),
            state: ImportState::Failed,
            missing: refused.missing,
            error: Some(refused.error),
        },
    }
}

impl Refused {
    pub fn of(error: impl Into<String>) -> Self {
        Refused {
            error: error.into(),
            missing: Vec::new(),
        }
    }

    pub fn missing(mut missing: Vec<String>) -> Self {
        let count = missing.len();
        missing.truncate(IMPORT_NAMED_MAX);
        Refused {
            error: format!(
                "{count} objects are neither in the archive nor in the store; import the base of the archive first, or copy the file again"
            ),
            missing,
        }
    }
}

impl Objects for RepositoryObjects<'_, '_> {
    type Error = ImportError;

    fn manifest(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, ImportError> {
        Ok(self.admission.body(self.origin, digest)?.map(|(body, _)| body))
    }

    fn blob_size(&mut self, digest: &Digest) -> Result<Option<u64>, ImportError> {
        self.admission.blob_size(digest)
    }

    fn is_listed(&self, digest: &Digest) -> Option<bool> {
        let bundle = self.admission.intake.contents.bundle.as_ref()?;
        Some(bundle.blob(digest).is_some())
    }
}
