//! The content of an archive, as far as it was read.

use std::collections::HashMap;

use super::manifest_file::ManifestPlace;
use crate::limits::{IMPORT_LINKS_MAX, IMPORT_NAMES_BYTES_MAX};
use crate::manage::bundle::format::{BundleContents, DockerArchiveImage, OciIndex};
use crate::oci::Digest;

/// The content of an archive, and the files that describe it.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub objects: HashMap<Digest, Object>,
    /// Digests whose bytes in the archive have another hash.
    pub damaged: Vec<Digest>,
    /// Entries without a meaning for images.
    pub ignored: u64,
    pub bundle: Option<BundleContents>,
    pub index: Option<OciIndex>,
    pub docker: Option<Vec<DockerArchiveImage>>,
    /// Files with another path than the path of a blob.
    files: HashMap<String, PathTarget>,
    /// Bytes of the paths of `files`.
    names_bytes: usize,
}

/// Content with the right hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Object {
    /// Bytes.
    pub size: u64,
    pub place: Place,
    pub packing: Packing,
}

/// The place of content after it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// A manifest, or JSON that may be one.
    File(ManifestPlace),
    /// An entry of the store.
    Store {
        /// Whether the import has added the entry.
        is_new: bool,
    },
    /// Nowhere, as the import changes nothing.
    Hashed,
}

/// The compression of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum PathTarget {
    Content(Digest),
    Link(String),
}

impl Packing {
    /// Returns the compression of a file with these `first` bytes.
    pub fn of(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Packing::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
            _ => Packing::Plain,
        }
    }
}

/// The memory of a path in the table, without its text.
const PATH_BYTES: usize = size_of::<(String, PathTarget)>();

impl Contents {
    /// Adds the file `path` with this content. Fails if another file has the path, and if the paths take
    /// too much memory.
    pub fn add_file(&mut self, path: String, digest: Digest) -> Result<(), String> {
        self.add_path(path, PathTarget::Content(digest))
    }

    /// Adds a link like [`Contents::add_file`].
    pub fn add_link(&mut self, path: String, target: String) -> Result<(), String> {
        self.add_path(path, PathTarget::Link(target))
    }

    fn add_path(&mut self, path: String, target: PathTarget) -> Result<(), String> {
        let link_bytes = match &target {
            PathTarget::Content(_) => 0,
            PathTarget::Link(target) => target.len(),
        };
        self.names_bytes += PATH_BYTES + path.len() + link_bytes;
        if self.names_bytes > IMPORT_NAMES_BYTES_MAX {
            return Err(format!(
                "the names of the files take more than {} MiB; split the archive",
                IMPORT_NAMES_BYTES_MAX >> 20
            ));
        }
        match self.files.get(&path) {
            Some(known) if *known != target => Err(format!("the archive has two files {path:?}")),
            Some(_) => Ok(()),
            None => {
                self.files.insert(path, target);
                Ok(())
            }
        }
    }

    /// Returns the digest of the file at `path`, also through links.
    pub fn file(&self, path: &str) -> Option<Digest> {
        let mut path = path;
        for _ in 0..IMPORT_LINKS_MAX {
            if let Some(digest) = blob_digest(path) {
                return self.objects.contains_key(&digest).then_some(digest);
            }
            match self.files.get(path)? {
                PathTarget::Content(digest) => return Some(*digest),
                PathTarget::Link(target) => path = target,
            }
        }
        None
    }
}

/// Returns the digest of a path `blobs/<algorithm>/<hex>`.
pub(super) fn blob_digest(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn digest(name: &str) -> Digest {
        Digest::of(Algorithm::Sha256, name.as_bytes())
    }

    #[test]
    fn file_is_found_through_links_inside_the_archive() {
        let mut contents = Contents::default();
        contents.add_file("a/layer.tar".into(), digest("a")).unwrap();
        contents
            .add_link("b/layer.tar".into(), "a/layer.tar".into())
            .unwrap();
        contents.add_link("loop".into(), "loop".into()).unwrap();
        assert_eq!(contents.file("b/layer.tar"), Some(digest("a")));
        assert_eq!(contents.file("loop"), None);
        assert_eq!(contents.file("c"), None);
        assert!(contents.add_file("a/layer.tar".into(), digest("b")).is_err());
        assert!(contents.add_file("a/layer.tar".into(), digest("a")).is_ok());
    }

    #[test]
    fn names_of_files_have_a_bound() {
        let mut contents = Contents::default();
        let refused = (0..).find(|n| contents.add_file(format!("{n:01000}"), digest("a")).is_err());
        assert_eq!(refused, Some(IMPORT_NAMES_BYTES_MAX / (1000 + PATH_BYTES)));
    }

    #[test]
    fn path_of_a_blob_has_an_algorithm_and_lower_case_hex() {
        let digest = digest("a");
        let hex = digest.hex();
        assert_eq!(blob_digest(&format!("blobs/sha256/{hex}")), Some(digest));
        for path in [
            format!("blobs/sha256/{}", hex.to_uppercase()),
            format!("blobs/sha256/{hex}/x"),
            format!("x/blobs/sha256/{hex}"),
            format!("blobs/sha512/{hex}"),
            "blobs/sha256".to_owned(),
        ] {
            assert_eq!(blob_digest(&path), None, "{path}");
        }
    }
}
