//! The uploads of a directory in front of a bucket, as far as evictions depend on them.

use super::FsStore;
use crate::store::Key;
use crate::store::upload_holds::UploadHold;

impl FsStore {
    /// Keeps the content of `key` from eviction until the drop.
    pub fn hold_for_upload(&self, key: &Key) -> UploadHold {
        self.upload_holds.hold(key.digest().prefix())
    }

    #[cfg(test)]
    pub fn is_held_for_upload(&self, key: &Key) -> bool {
        self.upload_holds.contains(key.digest().prefix())
    }

    #[cfg(test)]
    pub fn is_in_bucket(&self, key: &Key) -> bool {
        self.index.lock().is_in_bucket(key)
    }
}
