//! Tag pointers on disk.

use std::io::Read;

use super::{FsStore, failed, layout, open_regular};
use crate::limits::SIDECAR_BYTES_MAX;
use crate::oci::{Namespace, Repository, Tag};
use crate::store::{StoreError, TagPointer};

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
        let Some(file) = open_regular(&self.path(&path)).map_err(failed("open", &path))? else {
            return Ok(None);
        };
        let mut json = Vec::new();
        file.take(SIDECAR_BYTES_MAX)
            .read_to_end(&mut json)
            .map_err(failed("read", &path))?;
        Ok(serde_json::from_slice(&json).ok())
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
        self.replace(&path, &json).map_err(failed("write", &path))
    }
}
