//! The directory of oci-pull-through in Go: `blobs/sha256-…`, `manifests/<registry>/<repository>/sha256-…` and
//! `manifests/<registry>/<repository>/tags/<tag>`. Each file has a sidecar `.meta.json` with the fields of its
//! response. A store of this cache has the same files, except for the tags.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::Deserialize;

use super::SourceError;
use super::files::{FoundFile, files_below, read_small};
use super::tar_stream::Part;
use crate::limits::{MANIFEST_BYTES_MAX, SIDECAR_BYTES_MAX};
use crate::manage::bundle::format::{INDEX_JSON, OciDescriptor, OciIndex, blob_path};
use crate::oci::{Algorithm, Digest, ImageName, ManifestLinks, Origin, Reference, Tag, manifest_type};

const SIDECAR_SUFFIX: &str = ".meta.json";

/// The directory of tags in the directory of a repository.
const TAGS: &str = "tags";

/// Files that only a directory in which this cache runs has.
const OWN_FILES: [&str; 2] = [".lock", ".tmp"];

/// The fields of a sidecar that describe a manifest.
#[derive(Default, Deserialize)]
struct Sidecar {
    #[serde(rename = "Content-Type", default)]
    media_type: Vec<String>,
    #[serde(rename = "Docker-Content-Digest", default)]
    digest: Vec<String>,
}

/// The manifests of one repository.
#[derive(Default)]
struct RepositoryManifests {
    /// The manifests, by the digest that names each.
    descriptors: BTreeMap<Digest, OciDescriptor>,
    tags: Vec<(Tag, Digest)>,
    /// Manifests that an index or a tag names.
    named: HashSet<Digest>,
}

/// Returns whether the directory `root` with `blobs` and `manifests` is no store of this cache, or has tags of the
/// other system too.
pub(super) fn is_foreign(root: &Path) -> bool {
    let is_own = OWN_FILES.iter().any(|name| root.join(name).exists());
    let has_tags = || {
        let files = files_below(&root.join("manifests")).unwrap_or_default();
        files.iter().any(|file| {
            let tag = tag_of(&file.relative);
            tag.is_some()
                && root
                    .join(format!("manifests/{}{SIDECAR_SUFFIX}", file.relative))
                    .is_file()
        })
    };
    !is_own || has_tags()
}

/// Returns the images of the directory `root` as an image layout. A manifest without a tag and without an index is
/// an image by its digest.
pub(super) fn parts(root: &Path) -> Result<Vec<Part>, SourceError> {
    let mut parts = Vec::new();
    for file in files_below(&root.join("blobs"))? {
        if let Some(digest) = Digest::from_file_name(&file.relative) {
            parts.push(Part::file(blob_path(&digest), file.path, file.size));
        }
    }
    let mut repositories: BTreeMap<String, (Origin, RepositoryManifests)> = BTreeMap::new();
    for file in files_below(&root.join("manifests"))? {
        let Some((repository, name, is_tag)) = place_of(&file.relative) else {
            continue;
        };
        let Some(origin) = origin_of(repository) else {
            continue;
        };
        let (_, manifests) = repositories
            .entry(repository.to_owned())
            .or_insert_with(|| (origin, RepositoryManifests::default()));
        match (is_tag, name.parse::<Tag>(), Digest::from_file_name(name)) {
            (true, Ok(tag), _) => parts.extend(manifests.add(&file, Some(tag), None)?),
            (false, _, Some(digest)) => parts.extend(manifests.add(&file, None, Some(digest))?),
            _ => {}
        }
    }
    let images = repositories
        .into_values()
        .flat_map(|(origin, manifests)| manifests.images(&origin));
    let index = OciIndex::of_layout(images.collect());
    parts.push(Part::bytes(INDEX_JSON, index.to_json()));
    Ok(parts)
}

impl RepositoryManifests {
    /// Adds the manifest in `file`, of a tag or with a digest as its name. Returns its content, under the digest that
    /// names it, so that the import finds damage.
    fn add(
        &mut self,
        file: &FoundFile,
        tag: Option<Tag>,
        named: Option<Digest>,
    ) -> Result<Option<Part>, SourceError> {
        let Some(body) = read_small(&file.path, MANIFEST_BYTES_MAX as u64)? else {
            tracing::warn!(path = %file.path.display(), "file without a manifest skipped");
            return Ok(None);
        };
        let sidecar = sidecar_of(file)?;
        let of_sidecar = || sidecar.digest.first()?.parse::<Digest>().ok();
        let digest = named
            .or_else(of_sidecar)
            .unwrap_or_else(|| Digest::of(Algorithm::Sha256, &body));
        if let Some(ManifestLinks::Index(children)) = ManifestLinks::parse(&body) {
            self.named
                .extend(children.iter().map(|child| child.descriptor.digest));
        }
        if let Some(tag) = tag {
            self.named.insert(digest);
            self.tags.push((tag, digest));
        }
        let named_type = sidecar.media_type.first().map(String::as_str);
        let media_type = manifest_type(named_type, &body).unwrap_or_default();
        let descriptor = OciDescriptor::new(media_type, digest, body.len() as u64);
        self.descriptors.entry(digest).or_insert(descriptor);
        Ok(Some(Part::file(blob_path(&digest), file.path.clone(), file.size)))
    }

    /// Returns the descriptors of the images, with their names.
    fn images(self, origin: &Origin) -> Vec<OciDescriptor> {
        let by_digest = self
            .descriptors
            .keys()
            .filter(|digest| !self.named.contains(digest));
        let by_digest = by_digest.map(|digest| (Reference::Digest(*digest), *digest));
        let by_tag = self
            .tags
            .iter()
            .map(|(tag, digest)| (Reference::Tag(tag.clone()), *digest));
        let images = by_tag.chain(by_digest).filter_map(|(reference, digest)| {
            let name = ImageName {
                origin: origin.clone(),
                reference: Some(reference),
            };
            Some(self.descriptors.get(&digest)?.clone().named(&name))
        });
        images.collect()
    }
}

/// Returns the sidecar of `file`. Empty if there is none, or if it is damaged.
fn sidecar_of(file: &FoundFile) -> Result<Sidecar, SourceError> {
    let mut path = file.path.clone().into_os_string();
    path.push(SIDECAR_SUFFIX);
    let path = Path::new(&path);
    if !path.is_file() {
        return Ok(Sidecar::default());
    }
    let json = read_small(path, SIDECAR_BYTES_MAX)?;
    Ok(json
        .and_then(|json| serde_json::from_slice(&json).ok())
        .unwrap_or_default())
}

/// Returns the registry with the repository, and the name of the file, of a manifest. The flag is set for a tag.
fn place_of(relative: &str) -> Option<(&str, &str, bool)> {
    if relative.ends_with(SIDECAR_SUFFIX) {
        return None;
    }
    if let Some((repository, tag)) = tag_of(relative) {
        return Some((repository, tag, true));
    }
    let (repository, name) = relative.rsplit_once('/')?;
    Some((repository, name, false))
}

/// Returns the repository and the tag of `<registry>/<repository>/tags/<tag>`.
fn tag_of(relative: &str) -> Option<(&str, &str)> {
    let (dir, tag) = relative.rsplit_once('/')?;
    let repository = dir.strip_suffix(TAGS)?.strip_suffix('/')?;
    let is_tag = !tag.ends_with(SIDECAR_SUFFIX) && Digest::from_file_name(tag).is_none();
    is_tag.then_some((repository, tag))
}

fn origin_of(repository: &str) -> Option<Origin> {
    let (namespace, repository) = repository.split_once('/')?;
    Some(Origin {
        namespace: namespace.parse().ok()?,
        repository: repository.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_directory_are_parsed() {
        let name = format!("sha256-{}", "ab".repeat(32));
        let manifest = format!("ghcr.io/org/app/{name}");
        assert_eq!(place_of(&manifest), Some(("ghcr.io/org/app", &*name, false)));
        assert_eq!(
            place_of("ghcr.io/org/app/tags/v1"),
            Some(("ghcr.io/org/app", "v1", true))
        );
        assert_eq!(place_of(&format!("{manifest}{SIDECAR_SUFFIX}")), None);
        assert_eq!(place_of("ghcr.io/org/app/tags/v1.meta.json"), None);
        // The repository `org/tags` has a manifest.
        let of_tags = format!("ghcr.io/org/tags/{name}");
        assert_eq!(place_of(&of_tags), Some(("ghcr.io/org/tags", &*name, false)));
    }
}
