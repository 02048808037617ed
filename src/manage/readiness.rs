//! Whether an air-gapped cache over a store serves an image whole. Reads the directory, beside a running
//! cache or without one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::LoadRequest;
use super::manifest_places::ManifestPlaces;
use crate::config::{Access, LoadSettings, Named, Registries};
use crate::limits::INDEX_DEPTH_MAX;
use crate::oci::{
    Child, Digest, ImageName, ManifestLinks, Origin, Platform, Platforms, Reference, has_unknown_digest,
    manifest_type, required_blobs,
};
use crate::store::{Meta, StoreReader, StoredManifest};

/// Whether an image is ready, with the reasons why not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageReadiness {
    pub image: String,
    /// The wanted platforms.
    pub platforms: String,
    pub ready: bool,
    /// Empty for a ready image. At most [`READINESS_PROBLEMS_MAX`](crate::limits::READINESS_PROBLEMS_MAX).
    pub problems: Vec<ReadinessProblem>,
}

/// A reason why an image is not ready.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReadinessProblem {
    pub kind: ProblemKind,
    /// The reason in words, with the content that is missing.
    pub text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    UnknownTag,
    MissingManifest,
    MissingPlatform,
    MissingLayer,
    /// Stored content that differs from the manifest, or that was not hashed yet.
    Damaged,
    /// Content that the air-gapped cache does not serve to every client, or a registry that it does not
    /// serve.
    NotServed,
}

/// The images to check, as JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReadinessRequest {
    /// The images: `[registry/]repository[:tag][@digest]`.
    pub images: Vec<String>,
    /// `os/architecture[/variant]`, `host` or `all`. Empty means `LOAD_PLATFORMS` of the cache.
    pub platforms: Vec<String>,
}

impl ReadinessRequest {
    /// Returns a load of the same images.
    pub fn into_load(self) -> LoadRequest {
        LoadRequest {
            images: self.images,
            platforms: self.platforms,
            ..LoadRequest::default()
        }
    }
}

/// The settings that decide what an air-gapped cache serves from its store.
#[derive(Clone, Copy, Debug)]
pub struct AirGapSettings<'a> {
    pub registries: &'a Registries,
    /// Whether the cache serves stored tags (`CACHE_TAG_MANIFESTS`).
    pub caches_tags: bool,
}

/// The content that makes an image ready.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'a> {
    /// Each of these platforms.
    Platforms(&'a Platforms),
    /// Any platform with all its blobs, as for the manifest of an index in the air gap.
    AnyPlatform,
}

/// Checks the images of `request`, in their order. Blocks.
///
/// # Errors
///
/// A member of the request is invalid. The message has the remedy.
pub fn check_readiness(
    reader: &StoreReader,
    air_gap: AirGapSettings<'_>,
    request: &LoadRequest,
    settings: &LoadSettings,
) -> Result<Vec<ImageReadiness>, String> {
    let rule = request.rule(settings)?;
    let places = ManifestPlaces::new(reader);
    let images = rule.images.iter().map(|wanted| {
        let problems = problems(
            reader,
            air_gap,
            Some(&places),
            &wanted.name,
            Wanted::Platforms(&wanted.platforms),
        );
        ImageReadiness {
            image: wanted.name.to_string(),
            platforms: wanted.platforms.to_string(),
            ready: problems.is_empty(),
            problems,
        }
    });
    Ok(images.collect())
}

/// Returns the reasons why an air-gapped cache does not serve the image `name`. None for a ready image.
/// Without `places`, each manifest must be in the repository of its name.
pub(super) fn problems(
    reader: &StoreReader,
    air_gap: AirGapSettings<'_>,
    places: Option<&ManifestPlaces<'_>>,
    name: &ImageName,
    wanted: Wanted<'_>,
) -> Vec<ReadinessProblem> {
    let mut check = Check {
        reader,
        air_gap,
        places,
        origin: &name.origin,
        found: Vec::new(),
    };
    check.image(name, wanted);
    check.found
}

struct Check<'a> {
    reader: &'a StoreReader,
    air_gap: AirGapSettings<'a>,
    places: Option<&'a ManifestPlaces<'a>>,
    origin: &'a Origin,
    found: Vec<ReadinessProblem>,
}

impl Check<'_> {
    fn add(&mut self, kind: ProblemKind, text: String) {
        if self.found.len() < crate::limits::READINESS_PROBLEMS_MAX {
            self.found.push(ReadinessProblem { kind, text });
        }
    }

    fn image(&mut self, name: &ImageName, wanted: Wanted<'_>) {
        let namespace = &self.origin.namespace;
        if !self.air_gap.registries.exists(namespace) {
            let text = format!("the cache does not serve {namespace}; list the registry under `registries`");
            return self.add(ProblemKind::NotServed, text);
        }
        if self.access() == Access::Passthrough {
            let text = format!("content of {namespace} is not stored, because its access is passthrough");
            return self.add(ProblemKind::NotServed, text);
        }
        let digest = match &name.reference {
            Some(Reference::Digest(digest)) => *digest,
            Some(Reference::Tag(_)) if !self.air_gap.caches_tags => {
                let text = "the cache serves no stored tags; set CACHE_TAG_MANIFESTS".to_owned();
                return self.add(ProblemKind::NotServed, text);
            }
            Some(Reference::Tag(tag)) => match self.reader.tag(self.origin, tag) {
                Ok(Some(pointer)) => pointer.digest,
                Ok(None) => {
                    let text = format!("unknown tag {tag}; content that was loaded by digest has no tag");
                    return self.add(ProblemKind::UnknownTag, text);
                }
                Err(error) => return self.add(ProblemKind::Damaged, format!("tag {tag}: {error}")),
            },
            None => return self.add(ProblemKind::UnknownTag, "the name has no tag".to_owned()),
        };
        self.manifest(&digest, None, wanted, 0);
    }

    /// Checks the manifest `digest` with its content.
    fn manifest(&mut self, digest: &Digest, platform: Option<&str>, wanted: Wanted<'_>, depth: usize) {
        let Some(body) = self.body(digest, platform) else {
            return;
        };
        if has_unknown_digest(&body) {
            let text = format!("manifest {digest} names content with an unsupported digest");
            return self.add(ProblemKind::Damaged, text);
        }
        match ManifestLinks::parse(&body) {
            Some(ManifestLinks::Index(children)) if depth < INDEX_DEPTH_MAX => match wanted {
                Wanted::Platforms(platforms) => self.index(&children, platforms, depth),
                Wanted::AnyPlatform => self.any_child(&children, depth),
            },
            Some(ManifestLinks::Image(descriptors)) => {
                let sizes: BTreeMap<Digest, u64> = descriptors
                    .iter()
                    .map(|descriptor| (descriptor.digest, descriptor.size))
                    .collect();
                for digest in required_blobs(&body) {
                    self.blob(&digest, sizes.get(&digest).copied());
                }
            }
            _ => {
                let text = format!("manifest {digest} has content of an unknown form");
                self.add(ProblemKind::Damaged, text);
            }
        }
    }

    /// Returns the bytes of a stored manifest that every client may read.
    fn body(&mut self, digest: &Digest, platform: Option<&str>) -> Option<Vec<u8>> {
        let of_platform = platform.map_or_else(String::new, |platform| format!(" of {platform}"));
        let of_origin = self.reader.manifest(self.origin, digest);
        let found = of_origin.map(|found| found.or_else(|| self.of_another_repository(digest)));
        let stored = match found {
            Ok(Some(stored)) => stored,
            Ok(None) if let Some(stored) = self.of_another_repository(digest) => stored,
            Ok(None) => {
                let kind = match platform {
                    Some(_) => ProblemKind::MissingPlatform,
                    None => ProblemKind::MissingManifest,
                };
                self.add(kind, format!("missing manifest {digest}{of_platform}"));
                return None;
            }
            Err(error) => {
                self.add(
                    ProblemKind::Damaged,
                    format!("manifest {digest}{of_platform}: {error}"),
                );
                return None;
            }
        };
        let is_intact = Digest::of(digest.algorithm(), &stored.body) == *digest
            && manifest_type(Some(&stored.meta.content_type), &stored.body).is_ok();
        if !is_intact {
            self.add(
                ProblemKind::Damaged,
                format!("manifest {digest}{of_platform} is damaged"),
            );
            return None;
        }
        // A manifest of one repository has one source.
        if !stored.meta.public && !self.is_trusted(&stored.meta) && self.access() != Access::Shared {
            self.add(
                ProblemKind::NotServed,
                format!("manifest {digest}{of_platform} is private; set access: shared for its registry"),
            );
            return None;
        }
        Some(stored.body)
    }

    /// Returns a manifest of another repository of the registry that every client may read.
    fn of_another_repository(&self, digest: &Digest) -> Option<StoredManifest> {
        let places = self.places?.of(&self.origin.namespace, digest);
        places.iter().find_map(|origin| {
            let stored = self.reader.manifest(origin, digest).ok()??;
            (stored.meta.public || self.is_trusted(&stored.meta) || self.access() == Access::Shared)
                .then_some(stored)
        })
    }

    /// Checks the manifests of `platforms` below an index.
    fn index(&mut self, children: &[Child], platforms: &Platforms, depth: usize) {
        let selected = platforms.children(children);
        if let Platforms::Some(wanted) = platforms {
            let offered: Vec<Platform> = children
                .iter()
                .filter_map(|child| Platform::parse(child.platform.as_deref()?))
                .collect();
            for platform in wanted {
                let is_offered = offered.iter().any(|offered| platform.accepts(offered));
                if !is_offered && !offered.is_empty() {
                    let text = format!("missing platform {platform}: the index does not list it");
                    self.add(ProblemKind::MissingPlatform, text);
                }
            }
        }
        for child in selected {
            let digest = &child.descriptor.digest;
            self.manifest(
                digest,
                child.platform.as_deref(),
                Wanted::Platforms(platforms),
                depth + 1,
            );
        }
    }

    /// Checks that one of the platforms has all its content. Adds the problems of the first otherwise.
    fn any_child(&mut self, children: &[Child], depth: usize) {
        let mut first = None;
        for child in children {
            let mut check = Check {
                found: Vec::new(),
                ..*self
            };
            let digest = &child.descriptor.digest;
            check.manifest(digest, child.platform.as_deref(), Wanted::AnyPlatform, depth + 1);
            if check.found.is_empty() {
                return;
            }
            first.get_or_insert(check.found);
        }
        self.found.extend(first.unwrap_or_default());
    }

    /// Checks a blob of `size` bytes by the manifest.
    fn blob(&mut self, digest: &Digest, size: Option<u64>) {
        let meta = match self.reader.blob(&self.origin.namespace, digest) {
            Ok(Some(meta)) => meta,
            Ok(None) => return self.add(ProblemKind::MissingLayer, format!("missing layer {digest}")),
            Err(error) => return self.add(ProblemKind::Damaged, format!("layer {digest}: {error}")),
        };
        if !meta.verified {
            let text = format!("layer {digest} was not hashed yet; run oci-pull-through verify");
            self.add(ProblemKind::Damaged, text);
        } else if size.is_some_and(|size| size != meta.size) {
            let text = format!(
                "layer {digest} has {} bytes, and the manifest names {}",
                meta.size,
                size.unwrap_or(0)
            );
            self.add(ProblemKind::Damaged, text);
        } else if !self.is_readable(&meta) {
            let text = format!("layer {digest} is private; set access: shared for its registry");
            self.add(ProblemKind::NotServed, text);
        }
    }

    /// Returns whether every client may read a blob through the registry.
    fn is_readable(&self, meta: &Meta) -> bool {
        let namespace = &self.origin.namespace;
        let is_named =
            || self.air_gap.registries.settings(namespace).1 != Named::No || namespace.is_docker_hub();
        let is_authority = meta.is_from(namespace.as_str()) || (meta.sources.is_empty() && is_named());
        meta.public || ((self.is_trusted(meta) || self.access() == Access::Shared) && is_authority)
    }

    /// Returns whether the operator lets every client read content without access rights.
    fn is_trusted(&self, meta: &Meta) -> bool {
        meta.is_unproven() && self.air_gap.registries.trust_existing
    }

    fn access(&self) -> Access {
        self.air_gap
            .registries
            .settings(&self.origin.namespace)
            .0
            .access()
    }
}
