//! Finds entries in the bucket. A lookup succeeds only if sidecar and data match.

use std::sync::Arc;
use std::time::Instant;

use super::S3Operation;
use super::error::S3Error;
use super::{S3Store, layout};
use crate::oci::Hasher;
use crate::store::{Key, Meta, Source};

/// The result of a lookup.
pub(super) enum ObjectState {
    Sound(Meta),
    /// A pair of the older system, not hashed yet.
    Unverified(Meta),
    /// An unreadable sidecar, or a sidecar with missing or mismatched data.
    Broken(&'static str),
    Nothing,
}

impl S3Store {
    pub(super) async fn find_entry(&self, key: &Key) -> Result<Option<Arc<Meta>>, S3Error> {
        if let Some(meta) = self.0.sidecars.get(key, Instant::now()) {
            return Ok(Some(meta));
        }
        match self.glance(key).await? {
            ObjectState::Sound(meta) => Ok(Some(self.remember(key, meta))),
            ObjectState::Nothing => Ok(None),
            ObjectState::Unverified(meta) => self.adopt(key, meta).await,
            ObjectState::Broken(_) => {
                self.discard_broken(key).await;
                Ok(None)
            }
        }
    }

    /// Requests sidecar and data concurrently, in half the time. An entry being stored at that
    /// moment may appear broken.
    async fn glance(&self, key: &Key) -> Result<ObjectState, S3Error> {
        let (sidecar, content) = (self.name(&layout::sidecar(key)), self.name(&layout::content(key)));
        let (json, size) = futures_util::future::join(self.get_small(&sidecar), self.size(&content)).await;
        match json? {
            None => Ok(ObjectState::Nothing),
            Some(json) => Ok(judge(key, &json, size?)),
        }
    }

    /// Requests the sidecar first and the data second. Removal uses this order, and storing uses
    /// the opposite order.
    pub(super) async fn look(&self, key: &Key) -> Result<ObjectState, S3Error> {
        let Some(json) = self.get_small(&self.name(&layout::sidecar(key))).await? else {
            return Ok(ObjectState::Nothing);
        };
        let size = self.size(&self.name(&layout::content(key))).await?;
        Ok(judge(key, &json, size))
    }

    fn remember(&self, key: &Key, meta: Meta) -> Arc<Meta> {
        let meta = Arc::new(meta);
        self.0.sidecars.insert(key, meta.clone(), Instant::now());
        meta
    }

    /// Removes a mismatched pair, unless both objects match by now.
    async fn discard_broken(&self, key: &Key) {
        if let Ok(ObjectState::Broken(why)) = self.look(key).await {
            tracing::warn!(entry = %layout::content(key).display(), reason = why, "damaged bucket entry removed");
            self.remove(key).await;
        }
    }

    /// Removes the sidecar first, so that half a removal is a miss.
    pub(super) async fn remove(&self, key: &Key) {
        self.0.sidecars.forget(key);
        for name in [layout::sidecar(key), layout::content(key)] {
            if let Err(error) = self.delete(&self.name(&name)).await {
                tracing::warn!(%error, "damaged bucket entry not removed");
                return;
            }
        }
    }

    /// Hashes an entry without verification mark, and marks or removes the entry. Only one caller
    /// hashes the entry. Meanwhile the lookup is a miss for other callers. Hashing continues if the
    /// caller is cancelled.
    async fn adopt(&self, key: &Key, meta: Meta) -> Result<Option<Arc<Meta>>, S3Error> {
        let Some(claim) = self.0.adopting.take(key) else {
            return Ok(None);
        };
        let store = self.clone();
        let adopting = tokio::spawn(async move { store.adopt_alone(claim.key(), meta).await });
        // After a panic, already logged, the lookup is a miss.
        adopting.await.unwrap_or(Ok(None))
    }

    async fn adopt_alone(&self, key: &Key, meta: Meta) -> Result<Option<Arc<Meta>>, S3Error> {
        if self.is_sound(key, &meta).await? {
            let meta = Meta {
                verified: true,
                ..meta
            };
            self.put_small(
                S3Operation::Mark,
                &self.name(&layout::sidecar(key)),
                meta.to_json(),
            )
            .await?;
            Ok(Some(self.remember(key, meta)))
        } else {
            tracing::warn!(entry = %layout::content(key).display(), reason = "the content does not match its digest", "damaged bucket entry removed");
            self.remove(key).await;
            Ok(None)
        }
    }

    /// Returns whether the data matches the digest in its name.
    async fn is_sound(&self, key: &Key, meta: &Meta) -> Result<bool, S3Error> {
        let _slot = self.0.hashes.acquire().await;
        let mut hasher = Hasher::new(key.digest().algorithm());
        let mut body = self.open_body(key, meta, 0, meta.size).await?;
        while let Some(piece) = body.chunk().await? {
            hasher.update(&piece);
        }
        Ok(hasher.finish() == *key.digest())
    }

    pub(super) async fn recheck(&self, key: &Key) {
        self.0.sidecars.forget(key);
        let sound = match self.look(key).await {
            Ok(ObjectState::Sound(meta) | ObjectState::Unverified(meta)) => self.is_sound(key, &meta).await,
            Ok(ObjectState::Broken(_)) => Ok(false),
            // Nothing to remove, or the bucket has failed.
            Ok(ObjectState::Nothing) | Err(_) => return,
        };
        // A bucket failure during hashing is no evidence of damage.
        if let Ok(false) = sound {
            tracing::warn!(entry = %layout::content(key).display(), reason = "changed content", "damaged bucket entry removed");
            self.remove(key).await;
        }
    }

    pub(super) async fn discard_unfit(&self, key: &Key, seen: &Meta, why: &str) {
        self.0.sidecars.forget(key);
        if let Ok(ObjectState::Sound(meta)) = self.look(key).await
            && (meta.size, &meta.content_type) == (seen.size, &seen.content_type)
        {
            tracing::warn!(entry = %layout::content(key).display(), reason = why, "bucket entry of the wrong kind removed");
            self.remove(key).await;
        }
    }

    /// Adds sources and the public flag to an intact entry. Returns whether there is such an entry.
    pub(super) async fn learn(&self, key: &Key, sources: &[Source], public: bool) -> Result<bool, S3Error> {
        let ObjectState::Sound(mut meta) = self.look(key).await? else {
            return Ok(false);
        };
        if let Some(more) = meta.with(sources, public) {
            self.put_small(
                S3Operation::Mark,
                &self.name(&layout::sidecar(key)),
                more.to_json(),
            )
            .await?;
            meta = more;
        }
        self.remember(key, meta);
        Ok(true)
    }
}

fn judge(key: &Key, json: &[u8], size: Option<u64>) -> ObjectState {
    let Some(meta) = Meta::parse(*key.digest(), json) else {
        return ObjectState::Broken("invalid sidecar");
    };
    match size {
        None => ObjectState::Broken("the data object is missing"),
        Some(size) if size != meta.size => ObjectState::Broken("the sizes of data object and sidecar differ"),
        Some(_) if meta.verified => ObjectState::Sound(meta),
        Some(_) => ObjectState::Unverified(meta),
    }
}
