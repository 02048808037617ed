//! Tag pointers in the bucket, each a small object that is replaced atomically.

use std::path::Path;

use super::S3Operation;
use super::S3Store;
use super::error::S3Error;
use crate::store::TagPointer;

impl S3Store {
    pub(super) async fn tag(&self, path: &Path) -> Result<Option<TagPointer>, S3Error> {
        let json = self.get_small(&self.name(path)).await?;
        Ok(json.and_then(|json| serde_json::from_slice(&json).ok()))
    }

    pub(super) async fn set_tag(&self, path: &Path, pointer: &TagPointer) -> Result<(), S3Error> {
        let json = serde_json::to_vec(pointer).expect("a pointer is strings and numbers");
        self.put_small(S3Operation::Write, &self.name(path), json).await
    }
}
