//! A copy of a bucket's names and metadata in a directory, for commands that list and remove images.
//!
//! The copy has the layout of a store: manifests, tags and sidecars with their content, and blobs as
//! files of the right size without content.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, FileTimes};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::S3Operation;
use super::error::{S3Error, S3OpenError};
use super::{S3Store, connect, layout};
use crate::config::S3Settings;
use crate::limits::{MANIFEST_BYTES_MAX, S3_COPY_READS_MAX};
use crate::oci::Digest;
use crate::store::index::ObjectName;
use crate::store::{Key, Meta};

/// Objects in one response to a listing, by the API of S3.
pub const LISTED_PER_REQUEST: u64 = 1_000;

/// A stored object.
#[derive(Clone, Debug)]
pub struct ListedObject {
    /// The name below the prefix.
    name: PathBuf,
    bytes: u64,
    modified: SystemTime,
}

/// The objects below the prefix that belong to the store.
#[derive(Clone, Debug, Default)]
pub struct BucketListing {
    objects: Vec<ListedObject>,
}

/// An error of a copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    Bucket(#[from] S3Error),
    #[error("cannot write {}: {error}; set TMPDIR to a directory with room", path.display())]
    Directory { path: PathBuf, error: std::io::Error },
}

impl BucketListing {
    /// Returns the requests that [`S3Store::copy`] makes: one for each manifest, its sidecar, and each
    /// tag.
    pub fn reads(&self) -> u64 {
        self.objects.iter().filter(|object| !object.is_of_blob()).count() as u64
    }

    pub fn count(&self) -> u64 {
        self.objects.len() as u64
    }

    /// Returns the bytes of the objects `names`: data and sidecars.
    pub fn bytes_of<'a>(&self, names: impl Iterator<Item = &'a ObjectName>) -> u64 {
        let paths: HashSet<PathBuf> = names.flat_map(paths).collect();
        let objects = self.objects.iter().filter(|object| paths.contains(&object.name));
        objects.map(|object| object.bytes).sum()
    }
}

/// Returns the names of an object in the bucket, in the order of their removal.
fn paths(name: &ObjectName) -> Vec<PathBuf> {
    match name {
        ObjectName::Entry(key) => vec![layout::sidecar(key), layout::content(key)],
        ObjectName::Tag { origin, file_name } => {
            vec![layout::tag_file(&origin.namespace, &origin.repository, file_name)]
        }
    }
}

impl ListedObject {
    fn is_of_blob(&self) -> bool {
        self.name.starts_with(layout::BLOBS)
    }

    /// Returns the object `name` if it belongs to the store. A name of the bucket becomes the name of a
    /// file, so no part of a name may lead to another directory.
    fn new(name: &str, bytes: u64, modified: SystemTime) -> Option<Self> {
        let is_plain = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255;
        let is_safe = name.split('/').all(is_plain) && name.bytes().all(|byte| byte.is_ascii_graphic());
        let is_stored = match name.split_once('/')? {
            (layout::BLOBS, file) => blob_of(file).is_some(),
            (layout::MANIFESTS, rest) => !rest.split('/').any(|part| part == layout::REFERRERS),
            _ => false,
        };
        (is_safe && is_stored).then(|| ListedObject {
            name: PathBuf::from(name),
            bytes,
            modified,
        })
    }
}

/// Returns the digest of a blob by the file name of its data or its sidecar.
fn blob_of(file: &str) -> Option<Digest> {
    Digest::from_file_name(file.strip_suffix(layout::SIDECAR_SUFFIX).unwrap_or(file))
}

impl S3Store {
    /// Opens a bucket for a command: writes no test object, and changes no lifecycle rule.
    ///
    /// # Errors
    ///
    /// The credentials are missing or invalid.
    pub async fn open_for_command(settings: &S3Settings) -> Result<S3Store, S3OpenError> {
        let sdk = connect::of_machine(settings).await;
        let store = Self::connect_to(&sdk, settings).await?;
        store.0.tried.store(true, std::sync::atomic::Ordering::Release);
        Ok(store)
    }

    /// Lists the bucket, with a request for each [`LISTED_PER_REQUEST`] objects. Calls `on_page` with
    /// the number of objects so far.
    ///
    /// # Errors
    ///
    /// A request failed.
    pub async fn list(&self, mut on_page: impl FnMut(u64)) -> Result<BucketListing, S3Error> {
        let mut listing = BucketListing::default();
        let mut token = None;
        loop {
            let request = self.0.client.list_objects_v2().bucket(&self.0.bucket);
            let request = request.prefix(&self.0.prefix).set_continuation_token(token);
            let page = self
                .run(S3Operation::List, &self.0.bucket, request.send())
                .await?;
            for object in page.contents() {
                let name = object.key().and_then(|key| key.strip_prefix(&*self.0.prefix));
                let bytes = object.size().and_then(|bytes| bytes.try_into().ok());
                let seconds = object.last_modified().map(|at| at.secs().try_into().unwrap_or(0));
                let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unwrap_or(0));
                let object = name.and_then(|name| ListedObject::new(name, bytes.unwrap_or(0), modified));
                listing.objects.extend(object);
            }
            on_page(listing.count());
            token = page.next_continuation_token().map(str::to_owned);
            if token.is_none() {
                return Ok(listing);
            }
        }
    }

    /// Writes a copy of the listed objects into `dir`. Calls `on_read` after each request. Objects that
    /// were removed meanwhile are left out. Blocks the thread while files are written.
    ///
    /// # Errors
    ///
    /// A request failed, or `dir` is not writable.
    pub async fn copy(
        &self,
        listing: &BucketListing,
        dir: &Path,
        mut on_read: impl FnMut(),
    ) -> Result<(), CopyError> {
        fs::create_dir_all(dir.join(layout::MANIFESTS)).map_err(at(dir))?;
        fs::create_dir_all(dir.join(layout::BLOBS)).map_err(at(dir))?;
        let (blobs, others): (Vec<_>, Vec<_>) =
            listing.objects.iter().partition(|object| object.is_of_blob());
        let names: HashSet<&Path> = blobs.iter().map(|blob| &*blob.name).collect();
        for blob in &blobs {
            let file = blob.name.file_name().and_then(|name| name.to_str());
            let digest = file.and_then(Digest::from_file_name);
            // Without a sidecar, the data is no entry.
            let digest = digest.filter(|digest| names.contains(&*layout::sidecar(&Key::Blob(*digest))));
            if let Some(digest) = digest {
                write_blob(dir, blob, digest)?;
            }
        }
        let reads = futures_util::stream::iter(others).map(|object| async move {
            let name = self.name(&object.name);
            let content = self.get_within(&name, MANIFEST_BYTES_MAX as u64).await?;
            Ok::<_, CopyError>((object, content))
        });
        let mut reads = reads.buffer_unordered(S3_COPY_READS_MAX);
        while let Some((object, content)) = reads.try_next().await? {
            on_read();
            if let Some(content) = content {
                write(dir, object, &content)?;
            }
        }
        Ok(())
    }

    /// Removes an object: the sidecar first, like a store on disk.
    ///
    /// # Errors
    ///
    /// A request failed.
    pub async fn remove_object(&self, name: &ObjectName) -> Result<(), S3Error> {
        for path in paths(name) {
            self.delete(&self.name(&path)).await?;
        }
        Ok(())
    }
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> CopyError {
    let path = path.to_owned();
    move |error| CopyError::Directory { path, error }
}

/// Writes a blob as a sparse file, with a sidecar that states its size.
fn write_blob(dir: &Path, object: &ListedObject, digest: Digest) -> Result<(), CopyError> {
    let path = dir.join(&object.name);
    let data = File::create(&path).map_err(at(&path))?;
    let written = data.set_len(object.bytes).and_then(|()| set_time(&data, object));
    written.map_err(at(&path))?;
    let meta = Meta {
        digest,
        size: object.bytes,
        content_type: String::new(),
        created: 0,
        public: false,
        sources: Vec::new(),
        verified: true,
        headers: BTreeMap::new(),
    };
    let sidecar = ListedObject {
        name: layout::sidecar(&Key::Blob(digest)),
        ..object.clone()
    };
    write(dir, &sidecar, &meta.to_json())
}

fn write(dir: &Path, object: &ListedObject, content: &[u8]) -> Result<(), CopyError> {
    let path = dir.join(&object.name);
    let create = || {
        fs::create_dir_all(path.parent().unwrap_or(dir))?;
        let mut file = File::create(&path)?;
        file.write_all(content)?;
        set_time(&file, object)
    };
    create().map_err(at(&path))
}

/// The time of storage of a copied object is that of the object.
fn set_time(file: &File, object: &ListedObject) -> std::io::Result<()> {
    let times = FileTimes::new().set_modified(object.modified);
    file.set_times(times.set_accessed(object.modified))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_store_become_files() {
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"content");
        let file = layout::file_name(&digest);
        let is_copied = |name: &str| ListedObject::new(name, 1, SystemTime::UNIX_EPOCH).is_some();
        for name in [
            format!("blobs/{file}"),
            format!("blobs/{file}.meta.json"),
            format!("manifests/docker.io/library/alpine/{file}"),
            "manifests/docker.io/library/alpine/_tags/3".to_owned(),
        ] {
            assert!(is_copied(&name), "{name}");
        }
        for name in [
            String::new(),
            ".self-test".to_owned(),
            "blobs/other".to_owned(),
            format!("blobs/../{file}"),
            format!("other/{file}"),
            "manifests/../../etc/passwd".to_owned(),
            "manifests//etc/passwd".to_owned(),
            "manifests/./a".to_owned(),
            "manifests/a\n".to_owned(),
            format!("manifests/docker.io/library/{}", "a".repeat(256)),
            format!("manifests/docker.io/library/alpine/_referrers/{file}.json"),
        ] {
            assert!(!is_copied(&name), "{name}");
        }
    }
}
