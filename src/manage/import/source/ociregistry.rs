//! The directory of ociregistry. A file of `img`, `fat` or `lts` has a manifest as base64, and the name of the
//! image. A file of `blobs` has a blob. The names of the files are digests without an algorithm.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::SourceError;
use super::files::{files_below, read_small};
use super::tar_stream::Part;
use crate::limits::MANIFEST_BYTES_MAX;
use crate::manage::bundle::format::{INDEX_JSON, OciDescriptor, OciIndex, blob_path};
use crate::manage::import::request::name_in_archive;
use crate::oci::{Algorithm, Digest, manifest_type};

/// A manifest in `img`, `fat` or `lts`. The other members repeat the manifest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestHolder {
    #[serde(default)]
    image_url: String,
    #[serde(default)]
    bytes: String,
}

/// The bytes of a file with a manifest: as base64, and as members.
const HOLDER_BYTES_MAX: u64 = 4 * MANIFEST_BYTES_MAX as u64;

/// Returns the images of the directory `root` as an image layout.
pub(super) fn parts(root: &Path) -> Result<Vec<Part>, SourceError> {
    let mut parts = Vec::new();
    let mut manifests = Vec::new();
    for dir in ["fat", "img", "lts"] {
        let dir = root.join(dir);
        if !dir.is_dir() {
            continue;
        }
        for file in files_below(&dir)? {
            let Some(json) = read_small(&file.path, HOLDER_BYTES_MAX)? else {
                continue;
            };
            let Some((part, descriptor)) = manifest(&json) else {
                tracing::warn!(path = %file.path.display(), "file without a manifest skipped");
                continue;
            };
            parts.push(part);
            manifests.push(descriptor);
        }
    }
    for file in files_below(&root.join("blobs"))? {
        if let Ok(digest) = format!("sha256:{}", file.relative).parse::<Digest>() {
            parts.push(Part::file(blob_path(&digest), file.path, file.size));
        }
    }
    let index = OciIndex::of_layout(manifests);
    parts.push(Part::bytes(INDEX_JSON, index.to_json()));
    Ok(parts)
}

/// Returns the manifest of a file, and its descriptor with the name of the image.
fn manifest(json: &[u8]) -> Option<(Part, OciDescriptor)> {
    let holder: ManifestHolder = serde_json::from_slice(json).ok()?;
    let body = STANDARD.decode(&holder.bytes).ok()?;
    let media_type = manifest_type(None, &body).ok()?;
    let digest = Digest::of(Algorithm::Sha256, &body);
    let name = name_in_archive(&holder.image_url)?;
    let descriptor = OciDescriptor::new(media_type, digest, body.len() as u64).named(&name);
    Some((Part::bytes(blob_path(&digest), body), descriptor))
}
