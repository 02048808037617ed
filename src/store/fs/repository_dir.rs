//! The directories of a repository without content.

use std::fs;
use std::path::Path;

use super::FsStore;
use super::layout::{self, MANIFESTS, REFERRERS, TAGS};
use crate::oci::Origin;

impl FsStore {
    /// Removes the records of referrers and the empty directories of a repository without manifests
    /// and tags. Foreign files stay, with their directories. The caller must hold `naming`, so that no
    /// commit names a file meanwhile.
    pub(super) fn remove_repository(&self, origin: &Origin) {
        let dir = layout::repository_dir(&origin.namespace, &origin.repository);
        self.remove_records(&dir.join(REFERRERS));
        // A directory with a file cannot be removed.
        for inner in [TAGS, REFERRERS] {
            let _ = fs::remove_dir(self.path(&dir.join(inner)));
        }
        for dir in dir.ancestors().take_while(|dir| *dir != Path::new(MANIFESTS)) {
            if fs::remove_dir(self.path(dir)).is_err() {
                return;
            }
        }
    }
}
