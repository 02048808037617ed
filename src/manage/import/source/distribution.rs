//! The directory of distribution: `docker/registry/v2` with `blobs` and `repositories`. A link is a file with a
//! digest.

use std::collections::HashMap;
use std::path::Path;

use super::SourceError;
use super::files::{files_below, read_small};
use super::tar_stream::Part;
use crate::limits::MANIFEST_BYTES_MAX;
use crate::manage::bundle::format::{INDEX_JSON, OciDescriptor, OciIndex, blob_path};
use crate::oci::{Digest, ImageName, Namespace, manifest_type};

/// Bytes of a link: a digest, and a line end.
const LINK_BYTES_MAX: u64 = 200;

/// Returns the images of the directory `root` as an image layout. The repositories are of `registry`.
pub(super) fn parts(root: &Path, registry: &Namespace) -> Result<Vec<Part>, SourceError> {
    let below = root.join("docker/registry/v2");
    let root = if below.is_dir() { &below } else { root };
    let mut parts = Vec::new();
    let mut blobs = HashMap::new();
    for file in files_below(&root.join("blobs"))? {
        let Some(digest) = blob_digest(&file.relative) else {
            continue;
        };
        parts.push(Part::file(blob_path(&digest), file.path.clone(), file.size));
        blobs.insert(digest, file);
    }
    let mut manifests = Vec::new();
    for link in files_below(&root.join("repositories"))? {
        let Some((repository, tag)) = tag_of_link(&link.relative) else {
            continue;
        };
        let digest = read_small(&link.path, LINK_BYTES_MAX)?
            .and_then(|text| String::from_utf8(text).ok())
            .and_then(|text| text.trim().parse::<Digest>().ok());
        let name = format!("{registry}/{repository}:{tag}").parse::<ImageName>();
        let (Some(digest), Ok(name)) = (digest, name) else {
            continue;
        };
        let body = match blobs.get(&digest) {
            Some(file) => read_small(&file.path, MANIFEST_BYTES_MAX as u64)?.unwrap_or_default(),
            // The import names the missing manifest.
            None => Vec::new(),
        };
        let media_type = manifest_type(None, &body).unwrap_or_default();
        manifests.push(OciDescriptor::new(media_type, digest, body.len() as u64).named(&name));
    }
    let index = OciIndex::of_layout(manifests);
    parts.push(Part::bytes(INDEX_JSON, index.to_json()));
    Ok(parts)
}

/// Returns the digest of `<algorithm>/<two digits>/<hex>/data`.
fn blob_digest(relative: &str) -> Option<Digest> {
    let parts: Vec<&str> = relative.split('/').collect();
    match parts[..] {
        [algorithm, first, hex, "data"] if hex.starts_with(first) => {
            format!("{algorithm}:{hex}").parse().ok()
        }
        _ => None,
    }
}

/// Returns the repository and the tag of `<repository>/_manifests/tags/<tag>/current/link`.
fn tag_of_link(relative: &str) -> Option<(&str, &str)> {
    let (repository, rest) = relative.split_once("/_manifests/tags/")?;
    let tag = rest.strip_suffix("/current/link")?;
    (!tag.contains('/')).then_some((repository, tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_directory_are_parsed() {
        let hex = "ab".repeat(32);
        assert!(blob_digest(&format!("sha256/ab/{hex}/data")).is_some());
        assert_eq!(blob_digest(&format!("sha256/cd/{hex}/data")), None);
        assert_eq!(
            tag_of_link("library/alpine/_manifests/tags/3.20/current/link"),
            Some(("library/alpine", "3.20"))
        );
        assert_eq!(
            tag_of_link("library/alpine/_manifests/tags/3.20/index/sha256/x/link"),
            None
        );
    }
}
