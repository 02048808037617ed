//! The images of an archive: their names and manifests.

use super::contents::{Contents, Object, Packing, Place};
use super::docker_archive::manifest_of;
use super::intake::Intake;
use super::request::name_in_archive;
use super::{ImportError, ImportRule};
use crate::limits::BUNDLE_IMAGES_MAX;
use crate::manage::bundle::format::{BundledReferrer, CONTAINERD_NAME, OciDescriptor, REF_NAME};
use crate::oci::{Algorithm, Digest, ImageName};

/// The images that an archive describes.
#[derive(Debug, Default)]
pub(super) struct ArchiveImages {
    pub images: Vec<ArchiveImage>,
    /// Manifests that refer to images, by the list of a bundle.
    pub referrers: Vec<BundledReferrer>,
}

/// An image that an archive describes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ArchiveImage {
    /// `None` for an image without a name.
    pub name: Option<ImageName>,
    /// The manifest, or the files that the archive lacks.
    pub root: Result<Digest, Vec<String>>,
    /// The descriptor of an image layout.
    pub descriptor: Option<OciDescriptor>,
}

impl ArchiveImages {
    /// Finds the images of an archive that was read to its end.
    ///
    /// # Errors
    ///
    /// The archive describes no image, or contradicts itself, or has too many images.
    pub fn of(intake: &mut Intake<'_>, rule: &ImportRule) -> Result<Self, ImportError> {
        let mut found = Self::described(intake)?;
        if found.images.len() > BUNDLE_IMAGES_MAX {
            let message = format!("the archive has more than {BUNDLE_IMAGES_MAX} images; split the archive");
            return Err(ImportError::Archive(message));
        }
        if let Some(name) = &rule.name {
            found.images.dedup_by(|other, image| other.root == image.root);
            match &mut found.images[..] {
                [image] => image.name = Some(name.clone()),
                images => {
                    return Err(ImportError::Archive(format!(
                        "a given name is for an archive with one image, and this archive has {}; leave out --resolve-ref",
                        images.len()
                    )));
                }
            }
        }
        Ok(found)
    }

    fn described(intake: &mut Intake<'_>) -> Result<Self, ImportError> {
        let contents = &intake.contents;
        if let Some(bundle) = &contents.bundle {
            if contents
                .index
                .as_ref()
                .is_some_and(|index| index.manifests != bundle.index().manifests)
            {
                let message = "index.json and bundle.json of the archive differ; copy the file again";
                return Err(ImportError::Archive(message.to_owned()));
            }
            let images = bundle.images.iter().map(|image| ArchiveImage {
                name: Some(image.name.clone()),
                root: Ok(image.descriptor.digest),
                descriptor: Some(image.descriptor.clone()),
            });
            return Ok(ArchiveImages {
                images: images.collect(),
                referrers: bundle.referrers.clone(),
            });
        }
        let listed = contents.index.as_ref().map(|index| &index.manifests[..]);
        let images = match listed {
            Some(listed @ [_, ..]) => listed.iter().map(of_layout).collect(),
            _ => match contents.docker.is_some() {
                true => of_docker_archive(intake)?,
                false => Vec::new(),
            },
        };
        Ok(ArchiveImages {
            images,
            referrers: Vec::new(),
        })
    }
}

/// Returns whether the archive has blobs and no description of images.
pub(super) fn is_blobs_alone(contents: &Contents) -> bool {
    let is_described = contents.bundle.is_some() || contents.index.is_some() || contents.docker.is_some();
    !is_described && !contents.objects.is_empty()
}

fn of_layout(descriptor: &OciDescriptor) -> ArchiveImage {
    let annotation = |key| {
        descriptor
            .annotations
            .get(key)
            .and_then(|text| name_in_archive(text))
    };
    ArchiveImage {
        name: annotation(CONTAINERD_NAME).or_else(|| annotation(REF_NAME)),
        root: Ok(descriptor.digest),
        descriptor: Some(descriptor.clone()),
    }
}

/// Builds the manifests of a docker-archive.
fn of_docker_archive(intake: &mut Intake<'_>) -> Result<Vec<ArchiveImage>, ImportError> {
    let mut images = Vec::new();
    for image in intake.contents.docker.take().unwrap_or_default() {
        let root = match manifest_of(&image, &intake.contents) {
            Ok(body) => Ok(add_manifest(intake, &body)?),
            Err(missing) => Err(missing),
        };
        let mut names: Vec<Option<ImageName>> = image
            .repo_tags
            .unwrap_or_default()
            .iter()
            .filter_map(|text| name_in_archive(text).map(Some))
            .collect();
        if names.is_empty() {
            names.push(None);
        }
        images.extend(names.into_iter().map(|name| ArchiveImage {
            name,
            root: root.clone(),
            descriptor: None,
        }));
    }
    Ok(images)
}

fn add_manifest(intake: &mut Intake<'_>, body: &[u8]) -> Result<Digest, ImportError> {
    let digest = Digest::of(Algorithm::Sha256, body);
    if !intake.contents.objects.contains_key(&digest) {
        let place = intake.manifests.add(body).map_err(ImportError::Manifests)?;
        let object = Object {
            size: body.len() as u64,
            place: Place::File(place),
            packing: Packing::Plain,
        };
        intake.contents.objects.insert(digest, object);
    }
    Ok(digest)
}
