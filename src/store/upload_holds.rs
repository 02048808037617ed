//! Content that waits for its upload. An eviction would lose the only copy that the upload can read.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::oci::DigestPrefix;
use crate::sync::Mutex;

/// The content that waits for uploads, with the number of its uploads. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct UploadHolds(Arc<Mutex<HashMap<DigestPrefix, u32>>>);

/// Keeps content from eviction until the drop.
#[derive(Debug)]
pub struct UploadHold {
    holds: UploadHolds,
    digest: DigestPrefix,
}

impl UploadHolds {
    /// Keeps the content `digest`, in every repository, from eviction.
    pub fn hold(&self, digest: DigestPrefix) -> UploadHold {
        *self.0.lock().entry(digest).or_default() += 1;
        UploadHold {
            holds: self.clone(),
            digest,
        }
    }

    pub fn contains(&self, digest: DigestPrefix) -> bool {
        self.0.lock().contains_key(&digest)
    }

    /// Returns the held content.
    pub fn digests(&self) -> Vec<DigestPrefix> {
        self.0.lock().keys().copied().collect()
    }
}

impl Drop for UploadHold {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.holds.0.lock().entry(self.digest) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_held_until_its_last_upload_ends() {
        let holds = UploadHolds::default();
        let (a, b) = (DigestPrefix(1), DigestPrefix(2));
        let first = holds.hold(a);
        let second = holds.hold(a);
        assert!(holds.contains(a) && !holds.contains(b));
        drop(first);
        assert_eq!(holds.digests(), [a]);
        drop(second);
        assert!(!holds.contains(a));
    }
}
