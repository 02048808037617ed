//! Manifests and tags that an operator imports.

use super::{Manifest, announce, stored};
use crate::cache::{Cache, FetchError};
use crate::oci::{Accept, Digest, Namespace, Origin, Tag};
use crate::runtime::clock::unix_millis;
use crate::storage::{Key, TagKey, Verified};

impl Cache {
    /// Stores a manifest of the repository `origin`. The content that the manifest names is in the store.
    /// Blocks, and must not be called on a core or on the helper pool.
    ///
    /// # Errors
    ///
    /// The bytes have another digest, or the store does not keep the manifest.
    pub fn admit_manifest(&self, origin: &Origin, manifest: Manifest) -> Result<(), FetchError> {
        let wanted = manifest.digest;
        let found = Digest::of(wanted.algorithm(), &manifest.body);
        let verified = Verified::check(wanted, found, manifest.body.len() as u64)
            .map_err(|found| FetchError::mismatch(&wanted, &found, None))?;
        let shared = self.0.clone();
        self.0.helper.wait(async move {
            let (_, storing) = announce(&shared, origin, manifest, verified);
            storing.store().await;
            match stored(&shared, origin, &wanted).await {
                Some(_) => Ok(()),
                None => Err(FetchError::NotStored),
            }
        })
    }

    /// Moves a tag to an admitted manifest, as a registry that was asked now. Later pulls see the tag on
    /// every core when the earlier answer is no longer fresh. Blocks like [`Cache::admit_manifest`].
    pub fn admit_tag(&self, origin: &Origin, tag: &Tag, manifest: &Manifest) {
        let key = TagKey {
            origin: origin.clone(),
            tag: tag.clone(),
            class: Accept::NATIVE.to_owned(),
        };
        let pointer = key.pointer(manifest, unix_millis());
        let shared = self.0.clone();
        shared.remember(&key, &pointer);
        self.0
            .helper
            .wait(async { shared.save_pointer(&key, pointer).await });
    }

    /// Schedules the upload of an entry of a registry that the bucket lacks, if there is a bucket.
    pub fn replicate(&self, namespace: &Namespace, key: &Key) {
        self.0
            .helper
            .wait(async { self.0.storage(namespace).ensure_replicated(key) });
    }
}
