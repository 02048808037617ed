//! Tag pointers on disk.

use std::io::{self, Read};
use std::path::Path;

use super::{FsStore, failed, layout, open_regular};
use crate::limits::SIDECAR_BYTES_MAX;
use crate::oci::{Namespace, Repository, Tag};
use crate::store::eviction::Minute;
use crate::store::index::ObjectFacts;
use crate::store::{StoreError, TagPointer};

/// The disk blocks of a tag pointer.
pub(super) const TAG_BYTES: u64 = 4096;

impl FsStore {
    /// Returns the pointer of a tag for clients of an accept class. Returns `None` if the pointer
    /// is missing or unreadable. The next check repairs an unreadable pointer.
    ///
    /// # Errors
    ///
    /// The file system failed.
    pub fn tag(
        &self,
        namespace: &Namespace,
        repository: &Repository,
        tag: &Tag,
        class: &str,
    ) -> Result<Option<TagPointer>, StoreError> {
        let path = layout::pointer(namespace, repository, tag, class);
        read_pointer(&self.path(&path)).map_err(failed("read", &path))
    }

    /// Replaces the pointer of a tag for the class in `pointer`.
    ///
    /// # Errors
    ///
    /// The old pointer, or no pointer, is still stored.
    pub fn set_tag(
        &self,
        namespace: &Namespace,
        repository: &Repository,
        tag: &Tag,
        pointer: &TagPointer,
    ) -> Result<(), StoreError> {
        let path = layout::pointer(namespace, repository, tag, &pointer.accept_class);
        let json = serde_json::to_vec(pointer).expect("a pointer is strings and numbers");
        self.replace(&path, &json).map_err(failed("write", &path))?;
        let file_name = layout::pointer_name(tag, &pointer.accept_class);
        let facts = ObjectFacts::of_new(TAG_BYTES, Minute::now());
        let mut index = self.index.lock();
        index.insert_tag(namespace, repository, &file_name, pointer.digest.prefix(), facts);
        Ok(())
    }
}

/// Returns the tag pointer at `path`. `None` if the pointer is missing or unreadable.
pub(super) fn read_pointer(path: &Path) -> io::Result<Option<TagPointer>> {
    let Some(file) = open_regular(path)? else {
        return Ok(None);
    };
    let mut json = Vec::new();
    file.take(SIDECAR_BYTES_MAX).read_to_end(&mut json)?;
    Ok(serde_json::from_slice(&json).ok())
}
