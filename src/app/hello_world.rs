//! The self test of a client or a cluster (`HELLO_WORLD`): a cache that serves one image from a temporary
//! store, and contacts no registry.

mod image;
mod program;

use std::io;

use crate::config::{Config, Registries, RootChoice, StorageConfig};
use crate::manage::TemporaryDir;
use crate::oci::{Accept, Digest, ImageName, Reference};
use crate::runtime::clock::{unix_millis, unix_seconds};
use crate::store::{FsStore, Key, Meta, OpenError, Source, StoreError, TagPointer, Verified};

use image::{INDEX_TYPE, Image, Object};

/// The image that the cache serves.
const NAME: &str = "docker.io/library/hello-world:latest";

/// The reason why the temporary store could not be written.
#[derive(Debug, thiserror::Error)]
pub enum HelloWorldError {
    #[error("cannot create a temporary directory for HELLO_WORLD: {0}; set TMPDIR")]
    Directory(#[from] io::Error),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Write(#[from] StoreError),
}

/// A temporary store with the image. The drop removes the store.
pub struct HelloWorld {
    dir: TemporaryDir,
}

impl HelloWorld {
    /// Writes the image into a new directory.
    ///
    /// # Errors
    ///
    /// The file system failed.
    pub fn create() -> Result<Self, HelloWorldError> {
        let dir = TemporaryDir::create("oci-pull-through-hello-world.")?;
        let store = FsStore::open(dir.path())?;
        write_image(&store)?;
        Ok(HelloWorld { dir })
    }

    /// Returns the configuration with the temporary store, without registries and without loads.
    pub fn configure(&self, mut config: Config) -> Config {
        config.storage = StorageConfig::Fs {
            root: self.dir.path().to_owned(),
            chosen: RootChoice::Given,
        };
        config.registries = Registries {
            air_gapped: true,
            allow: config.registries.allow,
            ..Registries::default()
        };
        config.values.preload_images = None;
        config.values.cache_tag_manifests = true;
        config.prune.clear();
        config
    }
}

fn write_image(store: &FsStore) -> Result<(), StoreError> {
    let name: ImageName = NAME.parse().expect("the name is valid, which a test checks");
    let origin = name.origin;
    let image = Image::new();
    for blob in &image.blobs {
        write(store, &Key::Blob(blob.digest()), blob, Source::from(&origin))?;
    }
    for manifest in image.manifests.iter().chain([&image.index]) {
        let key = Key::manifest(&origin, &manifest.digest());
        write(store, &key, manifest, Source::from(&origin))?;
    }
    let Some(Reference::Tag(tag)) = name.reference else {
        unreachable!("the name has a tag, which a test checks");
    };
    let pointer = TagPointer {
        digest: image.index.digest(),
        media_type: INDEX_TYPE.to_owned(),
        size: image.index.bytes.len() as u64,
        checked_at_ms: unix_millis(),
        etag: None,
        accept_class: Accept::NATIVE.to_owned(),
        headers: Default::default(),
    };
    store.set_tag(&origin.namespace, &origin.repository, &tag, &pointer)
}

fn write(store: &FsStore, key: &Key, object: &Object, source: Source) -> Result<(), StoreError> {
    let size = object.bytes.len() as u64;
    let digest = object.digest();
    let found = Digest::of(digest.algorithm(), &object.bytes);
    let verified = Verified::check(digest, found, size).expect("the digest is that of the bytes");
    let mut ingest = store.ingest(key, None, Some(size))?;
    store.take_room(&mut ingest, size)?;
    ingest.write_at(&object.bytes, 0)?;
    let meta = Meta {
        digest,
        size,
        content_type: object.media_type.to_owned(),
        created: unix_seconds(),
        public: true,
        sources: vec![source],
        verified: true,
        headers: Default::default(),
    };
    store.commit(ingest, &verified, meta)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LoadSettings;
    use crate::manage::{AirGapSettings, LoadRequest, check_readiness};
    use crate::oci::Platforms;
    use crate::store::StoreReader;

    #[test]
    fn image_is_whole_for_all_platforms() {
        let hello = HelloWorld::create().unwrap();
        let reader = StoreReader::open(hello.dir.path()).unwrap();
        let request = LoadRequest {
            images: vec![NAME.to_owned()],
            ..LoadRequest::default()
        };
        let settings = LoadSettings {
            platforms: Platforms::All,
            pull_timeout: std::time::Duration::from_secs(1),
        };
        let air_gap = AirGapSettings {
            registries: &Registries::default(),
            caches_tags: true,
        };
        let images = check_readiness(&reader, air_gap, &request, &settings).unwrap();
        assert_eq!((images.len(), &images[0].problems[..]), (1, &[][..]));
    }
}
