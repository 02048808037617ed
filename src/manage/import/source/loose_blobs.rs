//! The stores of oci-proxy and of oci-remote-cache: blobs without manifests. The name of each file is a digest.

use std::path::Path;

use super::SourceError;
use super::files::files_below;
use super::tar_stream::Part;
use crate::manage::bundle::format::blob_path;
use crate::oci::Digest;

/// Returns the blobs below the directory `root`.
pub(super) fn parts(root: &Path) -> Result<Vec<Part>, SourceError> {
    let blobs = files_below(root)?.into_iter().filter_map(|file| {
        let digest = digest_of(&file.relative)?;
        Some(Part::file(blob_path(&digest), file.path, file.size))
    });
    Ok(blobs.collect())
}

/// Returns the digest of the file `<algorithm>:<hex>` or `blobs/<algorithm>/<two digits>/<hex>`.
fn digest_of(relative: &str) -> Option<Digest> {
    if let Ok(digest) = relative.parse() {
        return Some(digest);
    }
    let parts: Vec<&str> = relative.split('/').collect();
    match parts[..] {
        ["blobs", algorithm, first, hex] if hex.starts_with(first) => {
            format!("{algorithm}:{hex}").parse().ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_file_is_its_digest() {
        let hex = "ab".repeat(32);
        for (relative, is_blob) in [
            (format!("sha256:{hex}"), true),
            (format!("blobs/sha256/ab/{hex}"), true),
            (format!("blobs/sha256/cd/{hex}"), false),
            (format!("meta/docker.io/a/blobs/{hex}.json"), false),
            ("blob-1.tmp".to_owned(), false),
        ] {
            assert_eq!(digest_of(&relative).is_some(), is_blob, "{relative}");
        }
    }
}
