//! The contract tests with a bucket.

use bytes::Bytes;

use super::sample::{RecordOf, TagName};
use super::{
    ENGINE_NAME_MAX, Engine, Place, SharedPlace, Shelf, keeps_the_contract, keeps_the_contract_of_machines,
    write_file,
};
use crate::store::{
    Content, Key, Meta, ReferrersRecord, S3Store, Source, SpoolDir, Spooled, TagPointer, Verified,
};

/// A bucket of an engine in this process.
pub struct InBucket(Engine);

/// An ingest: manifests in memory, blobs in unnamed files.
pub enum Way {
    Memory(Key, Vec<u8>),
    Spool(Key, Spooled, u64),
}

impl Shelf for S3Store {
    type Ingest = Way;

    async fn begin(&self, key: &Key, size: Option<u64>) -> Way {
        match key {
            Key::Manifest { .. } => Way::Memory(key.clone(), Vec::new()),
            Key::Blob(_) => {
                let spool = SpoolDir::open(&std::env::temp_dir(), 1 << 30).unwrap();
                Way::Spool(key.clone(), spool.begin(size).unwrap(), 0)
            }
        }
    }

    async fn write(&self, ingest: &mut Way, bytes: &[u8]) {
        match ingest {
            Way::Memory(_, held) => held.extend_from_slice(bytes),
            Way::Spool(_, file, at) => {
                file.write_at(bytes, *at).unwrap();
                *at += bytes.len() as u64;
            }
        }
    }

    async fn commit(&self, ingest: Way, verified: Verified, meta: Meta) -> Result<(), String> {
        let (key, content) = match ingest {
            Way::Memory(key, held) => (key, Content::Bytes(Bytes::from(held))),
            Way::Spool(key, file, _) => (key, Content::File(file.file().clone())),
        };
        let put = self.put(&key, content, &verified, &meta).await;
        put.map_err(|error| error.to_string())
    }

    async fn find(&self, key: &Key) -> Option<Meta> {
        let found = S3Store::find(self, key).await.unwrap();
        found.map(|meta| Meta::clone(&meta))
    }

    async fn read(&self, key: &Key, from: u64, to: u64) -> Vec<u8> {
        let meta = S3Store::find(self, key)
            .await
            .unwrap()
            .expect("the bucket has the entry");
        let mut body = S3Store::read(self, key, &meta, from, to).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = body.chunk().await.unwrap() {
            bytes.extend_from_slice(&piece);
        }
        bytes
    }

    async fn record_source(&self, key: &Key, source: &Source, public: bool) {
        S3Store::record_source(self, key, source, public).await.unwrap();
    }

    async fn recheck(&self, key: &Key) {
        self.verify(key).await;
    }

    async fn tag(&self, tag: &TagName) -> Option<TagPointer> {
        let found = self.find_tag(&tag.namespace, &tag.repository, &tag.tag, &tag.class);
        found.await.unwrap()
    }

    async fn set_tag(&self, tag: &TagName, pointer: &TagPointer) {
        let put = self.put_tag(&tag.namespace, &tag.repository, &tag.tag, &tag.class, pointer);
        put.await.unwrap();
    }

    async fn record(&self, of: &RecordOf) -> Option<ReferrersRecord> {
        let found = self.find_record(&of.namespace, &of.repository, &of.name);
        found.await.unwrap()
    }

    async fn set_record(&self, of: &RecordOf, record: Option<&ReferrersRecord>) {
        let RecordOf {
            namespace,
            repository,
            name,
        } = of;
        let done = match record {
            Some(record) => self.put_record(namespace, repository, name, record).await,
            None => self.remove_record(namespace, repository, name).await,
        };
        done.unwrap();
    }
}

impl Place for InBucket {
    type Shelf = S3Store;
    const NAME_MAX: usize = ENGINE_NAME_MAX;

    async fn make() -> Self {
        InBucket(Engine::start().await)
    }

    async fn open(&self) -> S3Store {
        self.0.open().await.unwrap()
    }

    fn names(&self) -> Vec<String> {
        self.0.names()
    }

    fn copies(&self, name: &str) -> Vec<Vec<u8>> {
        std::fs::read(self.0.place(name)).into_iter().collect()
    }

    fn plant(&self, name: &str, bytes: &[u8]) {
        write_file(&self.0.place(name), bytes);
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.0.place(name)).unwrap();
    }
}

impl SharedPlace for InBucket {
    async fn machine(&self) -> S3Store {
        self.open().await
    }
}

keeps_the_contract!(InBucket);
keeps_the_contract_of_machines!(InBucket);
