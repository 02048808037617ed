//! Runs the store contract on a directory in front of a bucket, as fills, manifests and tags use
//! both.

use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::config::{Live, Registries, VerifyOnOpen};
use crate::fairness::Parties;
use crate::oci::{Algorithm, Digest, Origin};
use crate::runtime::helper::{Helper, blocking};
use crate::runtime::memory_budget::MemoryBudget;
use crate::storage::bucket::Bucket;
use crate::storage::{RecordChanges, RecordName, Storage, StorageIngest, Tiers};
use crate::store::tests::cases::{expect, put};
use crate::store::tests::sample::{
    RecordOf, TagName, blob, content, data_name, meta, pointer, record, record_of, tag, verified,
};
use crate::store::tests::{
    Act, ENGINE_NAME_MAX, Engine, Place, Scratch, SharedPlace, Shelf, files_below, keeps_the_contract,
    keeps_the_contract_of_machines, write_file,
};
use crate::store::{
    FsStore, Key, Meta, OpenError, ReferrersRecord, RemovalLimits, Source, StoredEntry, TagKey, TagPointer,
    Verified,
};
use crate::sync::Mutex;

/// A bucket, the directory of the machine that [`Place::open`] returns, and the directories of
/// other machines.
pub struct Tiered {
    engine: Engine,
    dir: Scratch,
    others: Mutex<Vec<Scratch>>,
}

/// The storage of one machine.
#[derive(Clone)]
pub struct Machine(Storage);

/// A single pool for all tests, because pools are never stopped.
fn helper() -> Helper {
    static HELPER: OnceLock<Helper> = OnceLock::new();
    let two = NonZeroUsize::new(2).unwrap();
    HELPER.get_or_init(|| Helper::start(two).unwrap()).clone()
}

impl Tiered {
    async fn open_in(&self, dir: &Path) -> Machine {
        let bucket = Arc::new(Bucket::new(self.engine.open().await.unwrap(), false));
        let fs = loop {
            match FsStore::open(dir) {
                Ok(fs) => break Arc::new(fs.with_bucket(&bucket.store().identity())),
                // The previous store is still ending its work.
                Err(OpenError::InUse(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("{error}"),
            }
        };
        let parties = Parties::new(Live::new(Registries::default()));
        let memory = MemoryBudget::new(1 << 30, 1);
        Machine(Storage::new(
            Tiers::Both { fs, bucket },
            VerifyOnOpen::Off,
            parties,
            helper(),
            memory,
        ))
    }
}

impl Machine {
    fn fs(&self) -> Arc<FsStore> {
        self.0.local().unwrap().clone()
    }

    fn bucket(&self) -> &Bucket {
        self.0.bucket().unwrap()
    }

    /// Waits until no upload is in progress.
    async fn settle(&self) {
        while !self.0.0.uploads.is_idle() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Repeats `lookup` until the bucket has answered, because a slow answer on a busy machine
    /// counts as a miss.
    async fn answered<T>(&self, lookup: impl AsyncFn() -> Option<T>) -> Option<T> {
        loop {
            let mut found = None;
            if self.is_bucket_used().await {
                found = Some(lookup().await);
            }
            match found {
                Some(found) if self.is_bucket_used().await => return found,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn is_bucket_used(&self) -> bool {
        let nothing = self
            .bucket()
            .within_deadline(Duration::from_secs(60), async { Ok(()) });
        nothing.await.is_some()
    }

    async fn find_here(&self, key: &Key) -> Option<StoredEntry> {
        let (fs, key) = (self.fs(), key.clone());
        blocking(move || FsStore::find(&fs, &key)).await.unwrap().unwrap()
    }
}

fn tag_key(tag: &TagName) -> TagKey {
    TagKey {
        origin: Origin {
            namespace: tag.namespace.clone(),
            repository: tag.repository.clone(),
        },
        tag: tag.tag.clone(),
        class: tag.class.clone(),
    }
}

fn origin_of(of: &RecordOf) -> Origin {
    Origin {
        namespace: of.namespace.clone(),
        repository: of.repository.clone(),
    }
}

impl Shelf for Machine {
    /// The ingest and its written length.
    type Ingest = (Key, StorageIngest, u64);

    async fn begin(&self, key: &Key, size: Option<u64>) -> Self::Ingest {
        let source = "docker.io".parse().unwrap();
        (key.clone(), self.0.begin(key, &source, size).unwrap(), 0)
    }

    async fn write(&self, (_, ingest, at): &mut Self::Ingest, bytes: &[u8]) {
        ingest.write_at(bytes, *at).unwrap();
        *at += bytes.len() as u64;
    }

    async fn commit(
        &self,
        (key, ingest, _): Self::Ingest,
        verified: Verified,
        meta: Meta,
    ) -> Result<(), String> {
        let registry = "r.example".parse().unwrap();
        let committed = self.0.commit(&registry, ingest, verified, meta, false, None);
        committed.await.map_err(|_| format!("{key:?} is not committed"))?;
        self.settle().await;
        Ok(())
    }

    async fn find(&self, key: &Key) -> Option<Meta> {
        if let Some(entry) = self.find_here(key).await {
            self.0.ensure_replicated(key);
            self.settle().await;
            return Some(Meta::clone(&entry.meta));
        }
        let found = self.answered(async || self.0.look_in_bucket(key).await).await?;
        Some(Meta::clone(&found))
    }

    async fn read(&self, key: &Key, from: u64, to: u64) -> Vec<u8> {
        let mut bytes = vec![0; (to - from) as usize];
        if let Some(entry) = self.find_here(key).await {
            entry.file.read_exact_at(&mut bytes, from).unwrap();
            return bytes;
        }
        let meta = self.answered(async || self.0.look_in_bucket(key).await).await;
        let meta = meta.expect("the bucket has the entry");
        let whole = self
            .answered(async || self.0.read_from_bucket(key, &meta).await)
            .await;
        whole.expect("the entry is readable").0[from as usize..to as usize].to_vec()
    }

    async fn record_source(&self, key: &Key, source: &Source, public: bool) {
        FsStore::record_source(&self.fs(), key, source, public).unwrap();
        self.bucket()
            .store()
            .record_source(key, source, public)
            .await
            .unwrap();
    }

    async fn recheck(&self, key: &Key) {
        FsStore::recheck(&self.fs(), key);
        self.0.verify_in_bucket(key).await;
    }

    async fn tag(&self, tag: &TagName) -> Option<TagPointer> {
        let key = tag_key(tag);
        // Never fresh, so the bucket's pointer counts.
        let newest = async || self.0.newer_tag(&key, None, |_| false).await;
        let pointer = self.answered(newest).await?;
        // The pointer in memory has no header fields of the upstream.
        let store = self.bucket().store();
        let whole = store.find_tag(&tag.namespace, &tag.repository, &tag.tag, &tag.class);
        let whole = whole.await.unwrap().expect("the bucket has the pointer");
        let bare = TagPointer {
            headers: Default::default(),
            ..whole.clone()
        };
        let known = TagPointer {
            headers: Default::default(),
            ..pointer
        };
        assert_eq!(bare, known);
        Some(whole)
    }

    async fn set_tag(&self, tag: &TagName, pointer: &TagPointer) {
        let key = tag_key(tag);
        self.0.set_tag(&key, pointer.clone()).await;
        self.settle().await;
    }

    async fn record(&self, of: &RecordOf) -> Option<ReferrersRecord> {
        let newest = async || self.0.record(&origin_of(of), &of.name).await;
        self.answered(newest).await
    }

    async fn set_record(&self, of: &RecordOf, record: Option<&ReferrersRecord>) {
        let changes = match record {
            Some(record) => RecordChanges {
                set: Some((of.name.clone(), record.clone())),
                remove: Vec::new(),
            },
            None => RecordChanges {
                set: None,
                remove: vec![of.name.clone()],
            },
        };
        let never = |_: &_, _: &_| false;
        self.0.write_records(&origin_of(of), changes, never).await;
        while !self.bucket().record_writers.are_idle() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Place for Tiered {
    type Shelf = Machine;
    const NAME_MAX: usize = ENGINE_NAME_MAX;

    async fn make() -> Self {
        Tiered {
            engine: Engine::start().await,
            dir: Scratch::new(),
            others: Mutex::default(),
        }
    }

    async fn open(&self) -> Machine {
        self.open_in(&self.dir.0).await
    }

    fn names(&self) -> Vec<String> {
        let mut names = files_below(&self.dir.0);
        names.retain(|name| name != ".lock");
        names.extend(self.engine.names());
        names.sort();
        names.dedup();
        names
    }

    fn copies(&self, name: &str) -> Vec<Vec<u8>> {
        let both = [self.dir.0.join(name), self.engine.place(name)];
        both.iter().flat_map(std::fs::read).collect()
    }

    fn plant(&self, name: &str, bytes: &[u8]) {
        write_file(&self.dir.0.join(name), bytes);
        write_file(&self.engine.place(name), bytes);
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.dir.0.join(name)).unwrap();
        std::fs::remove_file(self.engine.place(name)).unwrap();
    }
}

impl SharedPlace for Tiered {
    async fn machine(&self) -> Machine {
        let dir = Scratch::new();
        let machine = self.open_in(&dir.0).await;
        self.others.lock().push(dir);
        machine
    }
}

keeps_the_contract!(Tiered);
keeps_the_contract_of_machines!(Tiered);

#[tokio::test]
async fn damaged_local_entry_is_read_from_the_bucket() {
    let place = Tiered::make().await;
    let store = place.open().await;
    let bytes = content(1_000, 30);
    let key = blob(&bytes);
    put(&store, &key, &bytes).await;
    drop(store);
    std::fs::write(place.dir.0.join(data_name(&key)), b"short").unwrap();
    let store = place.open().await;
    expect(&store, &key, &bytes).await;
    assert!(
        !place.dir.0.join(data_name(&key)).exists(),
        "the store has removed the damaged entry"
    );
}

#[tokio::test]
async fn damaged_bucket_object_is_replaced_from_the_local_store() {
    let place = Tiered::make().await;
    let store = place.open().await;
    let bytes = content(1_000, 31);
    let key = blob(&bytes);
    put(&store, &key, &bytes).await;
    drop(store);
    std::fs::write(place.engine.place(&data_name(&key)), b"short").unwrap();
    let store = place.open().await;
    expect(&store, &key, &bytes).await;
    expect(&place.machine().await, &key, &bytes).await;
}

#[tokio::test]
async fn tag_checked_in_the_future_is_ignored_in_both_stores() {
    let place = Tiered::make().await;
    let (store, other) = (place.open().await, place.machine().await);
    let name = tag("library/a", "v1", "native");
    let (sound, future) = (pointer(&name, b"sound", 5), pointer(&name, b"future", u64::MAX));
    store.set_tag(&name, &future).await;
    assert_eq!(other.tag(&name).await, None);
    other.set_tag(&name, &sound).await;
    assert_eq!(store.tag(&name).await, Some(sound));
}

#[tokio::test]
async fn an_outdated_404_removes_no_record_of_the_later_list() {
    let place = Tiered::make().await;
    let store = place.open().await;
    let page = RecordName::Page {
        subject: Digest::of(Algorithm::Sha256, b"subject"),
        query: String::new(),
    };
    let page = record_of("a", page);
    store.set_record(&page, Some(&record(&page, "later", 7))).await;
    let unsupported = RecordName::Unsupported;
    let changes = RecordChanges {
        set: Some((unsupported.clone(), ReferrersRecord::absent(5, true))),
        remove: vec![page.name.clone()],
    };
    let outdated = |_: &_, record: &ReferrersRecord| record.checked_at_ms < 7;
    store.0.write_records(&origin_of(&page), changes, outdated).await;
    while !store.bucket().record_writers.are_idle() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // Both tiers, because another machine reads the bucket alone.
    for machine in [store, place.machine().await] {
        assert!(machine.record(&page).await.is_some());
        let none = record_of("a", unsupported.clone());
        assert!(machine.record(&none).await.is_none());
    }
}

/// Commits `bytes`, and does not wait for the upload.
async fn commit_only(store: &Machine, bytes: &[u8], is_replicated: bool) -> Key {
    let key = blob(bytes);
    let mut ingest = store.begin(&key, Some(bytes.len() as u64)).await;
    store.write(&mut ingest, bytes).await;
    let (registry, size) = ("r.example".parse().unwrap(), bytes.len() as u64);
    let (verified, meta) = (verified(&key, bytes), meta(&key, size));
    let committed = store
        .0
        .commit(&registry, ingest.1, verified, meta, is_replicated, None);
    assert!(committed.await.is_ok());
    key
}

#[tokio::test]
async fn entry_is_held_until_its_upload_and_known_to_be_in_the_bucket_afterwards() {
    let place = Tiered::make().await;
    let store = place.open().await;
    // The upload waits for the bucket.
    place.engine.script(|_| Act::Refuse(503, "SlowDown"));
    let key = commit_only(&store, &content(1_000, 41), false).await;
    assert!(store.fs().is_held_for_upload(&key) && !store.fs().is_in_bucket(&key));
    place.engine.heal();
    store.settle().await;
    assert!(!store.fs().is_held_for_upload(&key) && store.fs().is_in_bucket(&key));
    let key = commit_only(&store, &content(1_000, 42), true).await;
    assert!(!store.fs().is_held_for_upload(&key) && store.fs().is_in_bucket(&key));
    drop(store);

    // The scan after a restart finds the marks, and no request reaches the bucket.
    let store = place.open().await;
    let keeps_marks = store.fs().keeps_copy_marks();
    let requests = place.engine.requests("");
    blocking({
        let fs = store.fs();
        move || fs.scan()
    })
    .await
    .unwrap();
    let uploaded = blob(&content(1_000, 41));
    let known = [&uploaded, &key].map(|key| store.fs().is_in_bucket(key));
    assert_eq!(known, [keeps_marks; 2]);
    assert_eq!(place.engine.requests(""), requests);
    // The next use checks the bucket.
    expect(&store, &uploaded, &content(1_000, 41)).await;
    assert!(store.fs().is_in_bucket(&uploaded));
}

#[tokio::test]
async fn entry_whose_upload_fails_is_neither_held_nor_known_to_be_in_the_bucket() {
    let place = Tiered::make().await;
    let store = place.open().await;
    place.engine.script(|line| match line.starts_with("PUT") {
        true => Act::Refuse(400, "InvalidRequest"),
        false => Act::Forward,
    });
    let key = commit_only(&store, &content(1_000, 43), false).await;
    store.settle().await;
    assert!(!store.fs().is_held_for_upload(&key) && !store.fs().is_in_bucket(&key));
}

#[tokio::test]
async fn lookup_and_commit_do_not_wait_for_the_plan_of_a_removal() {
    let place = Tiered::make().await;
    let store = place.open().await;
    let bytes = content(1_000, 44);
    let key = commit_only(&store, &bytes, false).await;
    store.settle().await;
    // The bucket must not replace the lookup.
    place.engine.script(|_| Act::Refuse(503, "SlowDown"));
    let (planning, planned) = tokio::sync::oneshot::channel();
    let (found, finish) = std::sync::mpsc::channel::<()>();
    let fs = store.fs();
    let plan = std::thread::spawn(move || {
        fs.scan();
        let hold = |_: &mut Vec<_>| {
            planning.send(()).unwrap();
            // The drop of the sender ends the wait.
            let _ = finish.recv();
        };
        fs.plan_removal(RemovalLimits::default(), hold).is_some()
    });
    planned.await.unwrap();
    let body = store
        .0
        .load(&key, bytes.len(), |body, _: &Meta| Ok::<_, String>(body));
    assert_eq!(body.await.as_deref(), Some(&bytes[..]));
    let new = content(1_000, 45);
    let commit = commit_only(&store, &new, false);
    let within = std::time::Duration::from_secs(60);
    tokio::time::timeout(within, commit)
        .await
        .expect("the commit does not wait");
    drop(found);
    assert!(plan.join().unwrap());
}
