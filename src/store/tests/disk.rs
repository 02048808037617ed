//! The contract tests with a directory.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::sample::{RecordOf, TagName};
use super::{Place, Scratch, Shelf, files_below, keeps_the_contract, write_file};
use crate::store::{FsStore, Ingest, Key, Meta, ReferrersRecord, Source, TagPointer, Verified};

/// A temporary directory.
pub struct Disk(Scratch);

impl Shelf for Arc<FsStore> {
    /// The ingest and the number of written bytes.
    type Ingest = (Ingest, u64);

    async fn begin(&self, key: &Key, size: Option<u64>) -> Self::Ingest {
        (self.ingest(key, None, size).unwrap(), 0)
    }

    async fn write(&self, (ingest, at): &mut Self::Ingest, bytes: &[u8]) {
        ingest.write_at(bytes, *at).unwrap();
        *at += bytes.len() as u64;
    }

    async fn commit(&self, (ingest, _): Self::Ingest, verified: Verified, meta: Meta) -> Result<(), String> {
        let store = self.clone();
        // Commits run on separate threads, as in production, so that several run at once.
        let committing =
            tokio::task::spawn_blocking(move || FsStore::commit(&store, ingest, &verified, meta));
        let committed = committing.await.unwrap();
        committed.map(drop).map_err(|error| error.to_string())
    }

    async fn find(&self, key: &Key) -> Option<Meta> {
        let found = FsStore::find(self, key).unwrap();
        found.map(|entry| Meta::clone(&entry.meta))
    }

    async fn read(&self, key: &Key, from: u64, to: u64) -> Vec<u8> {
        let entry = FsStore::find(self, key)
            .unwrap()
            .expect("the store has the entry");
        let mut bytes = vec![0; (to - from) as usize];
        entry.file.read_exact_at(&mut bytes, from).unwrap();
        bytes
    }

    async fn record_source(&self, key: &Key, source: &Source, public: bool) {
        FsStore::record_source(self, key, source, public).unwrap();
    }

    async fn recheck(&self, key: &Key) {
        FsStore::recheck(self, key);
    }

    async fn tag(&self, tag: &TagName) -> Option<TagPointer> {
        FsStore::tag(self, &tag.namespace, &tag.repository, &tag.tag, &tag.class).unwrap()
    }

    async fn set_tag(&self, tag: &TagName, pointer: &TagPointer) {
        FsStore::set_tag(self, &tag.namespace, &tag.repository, &tag.tag, pointer).unwrap();
    }

    async fn record(&self, of: &RecordOf) -> Option<ReferrersRecord> {
        FsStore::record(self, &of.namespace, &of.repository, &of.name).unwrap()
    }

    async fn set_record(&self, of: &RecordOf, record: Option<&ReferrersRecord>) {
        let RecordOf {
            namespace,
            repository,
            name,
        } = of;
        let done = match record {
            Some(record) => FsStore::set_record(self, namespace, repository, name, record),
            None => FsStore::remove_record(self, namespace, repository, name),
        };
        done.unwrap();
    }
}

impl Place for Disk {
    type Shelf = Arc<FsStore>;

    async fn make() -> Self {
        Disk(Scratch::new())
    }

    async fn open(&self) -> Arc<FsStore> {
        Arc::new(FsStore::open(&self.0.0).unwrap())
    }

    fn names(&self) -> Vec<String> {
        let mut names = files_below(&self.0.0);
        names.retain(|name| name != ".lock");
        names
    }

    fn copies(&self, name: &str) -> Vec<Vec<u8>> {
        std::fs::read(self.0.0.join(name)).into_iter().collect()
    }

    fn plant(&self, name: &str, bytes: &[u8]) {
        write_file(&self.0.0.join(name), bytes);
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.0.0.join(name)).unwrap();
    }
}

keeps_the_contract!(Disk);
