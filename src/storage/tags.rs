//! Tag pointers in the tiers.

use super::upload_job::UploadJob;
use super::{Storage, TagKey, TagPointer};
use crate::limits::BUCKET_LOOKUP_TIMEOUT;
use crate::oci::Origin;
use crate::runtime::clock::unix_millis;

impl Storage {
    /// Returns a pointer that is newer than `known`. The bucket is read unless `known` or the local
    /// pointer `is_fresh`, because another machine may have revalidated the tag since. A check in
    /// the future comes from a wrong clock and never counts as newer. Call on the helper pool.
    pub async fn newer_tag(
        &self,
        tag: &TagKey,
        known: Option<&TagPointer>,
        is_fresh: impl Fn(&TagPointer) -> bool,
    ) -> Option<TagPointer> {
        let local = match known {
            Some(_) => None,
            None => self.local_tag(tag).await,
        };
        let nearest = known.or(local.as_ref());
        if nearest.is_some_and(is_fresh) {
            return local;
        }
        let now = unix_millis();
        let checked = nearest
            .map(|pointer| pointer.checked_at_ms)
            .filter(|checked| *checked <= now);
        let is_newer = |pointer: &TagPointer| {
            pointer.checked_at_ms <= now && checked.is_none_or(|checked| checked < pointer.checked_at_ms)
        };
        self.bucket_tag(tag).await.filter(is_newer).or(local)
    }

    /// Stores a pointer in every tier. Call on the helper pool.
    pub async fn set_tag(&self, tag: &TagKey, pointer: TagPointer) {
        if self.bucket().is_some() {
            let job = UploadJob::Tag {
                tag: tag.clone(),
                pointer: pointer.clone(),
            };
            self.upload(&tag.origin.namespace, job);
        }
        let TagKey { origin, tag, .. } = tag.clone();
        self.write_local(move |store| store.set_tag(&origin.namespace, &origin.repository, &tag, &pointer))
            .await;
    }

    async fn local_tag(&self, tag: &TagKey) -> Option<TagPointer> {
        let TagKey { origin, tag, class } = tag.clone();
        let found = self
            .look(move |store| Some(store.tag(&origin.namespace, &origin.repository, &tag, &class)))
            .await?;
        found
            .inspect_err(|error| tracing::warn!(%error, "tag pointer unreadable"))
            .ok()?
    }

    async fn bucket_tag(&self, tag: &TagKey) -> Option<TagPointer> {
        let bucket = self.bucket()?;
        let (store, TagKey { origin, tag, class }) = (bucket.store().clone(), tag.clone());
        let finding = async move {
            let Origin {
                namespace,
                repository,
            } = &origin;
            store.find_tag(namespace, repository, &tag, &class).await
        };
        bucket.within_deadline(BUCKET_LOOKUP_TIMEOUT, finding).await?
    }
}
