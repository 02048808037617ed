//! Bounds and evictions of a directory.

use std::fs::{File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::sample;
use super::{Scratch, files_below};
use crate::config::{SizeBound, StoreBounds};
use crate::store::{BucketIdentity, FsStore, Key, StoreError, Unseen};

const MIB: u64 = 1024 * 1024;
const HOUR: Duration = Duration::from_secs(3600);

/// Returns a blob of 1 MiB.
fn blob(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(MIB as usize, b'.');
    bytes
}

fn key(content: &[u8]) -> Key {
    sample::blob(content)
}

/// Opens the store in `scratch` with a bound, scanned.
fn open(scratch: &Scratch, size_max: u64) -> FsStore {
    let bounds = StoreBounds {
        size_max: Some(SizeBound::Bytes(size_max)),
        free_min: Some(SizeBound::Bytes(0)),
        object_max: None,
    };
    let store = FsStore::open_within(bounds, &scratch.0).unwrap();
    store.scan();
    store
}

/// Stores `content` like a fill: reserves room, writes, commits.
fn store_blob(store: &FsStore, content: &[u8]) -> Result<(), StoreError> {
    store_entry(store, &key(content), content)
}

fn store_entry(store: &FsStore, key: &Key, content: &[u8]) -> Result<(), StoreError> {
    let size = content.len() as u64;
    let mut ingest = store.ingest(key, None, Some(size))?;
    store.reserve(&mut ingest, size)?;
    ingest.write_at(content, 0)?;
    let verified = sample::verified(key, content);
    store.commit(ingest, &verified, sample::meta(key, size))
}

fn has(store: &FsStore, content: &[u8]) -> bool {
    store.find(&key(content)).unwrap().is_some()
}

fn data_path(scratch: &Scratch, content: &[u8]) -> PathBuf {
    scratch.0.join(crate::store::layout::content(&key(content)))
}

/// Sets the times of a data file, like a store that ran at that time.
fn set_age(path: &Path, stored: Duration, used: Duration) {
    let now = SystemTime::now();
    let times = FileTimes::new()
        .set_modified(now - stored)
        .set_accessed(now - used);
    File::open(path).unwrap().set_times(times).unwrap();
}

/// Returns the bytes of the files below `scratch`, like `du`.
fn disk_bytes(scratch: &Scratch) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let files = files_below(&scratch.0).into_iter();
    files
        .map(|name| std::fs::metadata(scratch.0.join(name)).unwrap().blocks() * 512)
        .sum()
}

#[test]
fn rank_of_content_counts_the_content_that_leaves_before() {
    let scratch = Scratch::new();
    let contents = ["first", "second", "third"].map(blob);
    let store = open(&scratch, 8 * MIB);
    for content in &contents {
        store_blob(&store, content).unwrap();
    }
    let rank = |store: &FsStore, content: &[u8]| {
        let rank = store.eviction_rank(&"r.example".parse().unwrap(), &[*key(content).digest()]);
        rank.map(|rank| (rank.objects_before, rank.bytes_before / MIB))
    };
    assert_eq!(rank(&store, &contents[0]), None, "new content stays");
    drop(store);
    for (content, hours) in contents.iter().zip([3, 1, 2]) {
        set_age(&data_path(&scratch, content), hours * HOUR, hours * HOUR);
    }
    let store = open(&scratch, 8 * MIB);
    let ranks = contents.each_ref().map(|content| rank(&store, content));
    assert_eq!(ranks, [Some((0, 0)), Some((2, 2)), Some((1, 1))]);
    assert_eq!(rank(&store, &blob("absent")), None);
    store.record_uses([key(&contents[0]).digest().prefix()]);
    assert_eq!(rank(&store, &contents[0]), None, "content in use stays");
}

#[test]
fn full_store_evicts_the_least_recently_used_blob_for_a_new_blob() {
    let scratch = Scratch::new();
    let (first, second) = (blob("first"), blob("second"));
    let bound = 2 * MIB + MIB / 2;
    let store = open(&scratch, bound);
    for content in [&first, &second] {
        store_blob(&store, content).unwrap();
    }
    drop(store);
    set_age(&data_path(&scratch, &first), 3 * HOUR, 3 * HOUR);
    set_age(&data_path(&scratch, &second), 4 * HOUR, 4 * HOUR);
    let store = open(&scratch, bound);
    let third = blob("third");
    store_blob(&store, &third).unwrap();
    assert_eq!(
        [&first, &second, &third].map(|content| has(&store, content)),
        [true, false, true]
    );
    let evicted = store.take_evicted();
    assert_eq!(evicted.objects, 1);
    assert!(
        evicted.bytes >= MIB && disk_bytes(&scratch) <= bound,
        "{evicted:?}"
    );
    let mut seen = 0;
    let removed = vec![key(&second).digest().prefix()];
    assert_eq!(store.removals().unseen(&mut seen), Unseen::Some(removed));
}

#[test]
fn full_store_of_young_content_stores_nothing_more() {
    let scratch = Scratch::new();
    let store = open(&scratch, 2 * MIB + MIB / 2);
    for name in ["first", "second"] {
        store_blob(&store, &blob(name)).unwrap();
    }
    let error = store_blob(&store, &blob("third")).unwrap_err();
    assert!(error.is_about_size(), "{error}");
    assert!(has(&store, &blob("first")) && has(&store, &blob("second")));
    assert_eq!(store.take_evicted().objects, 0);
}

#[test]
fn unfinished_ingests_count_for_the_bound_until_their_drop() {
    let scratch = Scratch::new();
    let store = open(&scratch, 2 * MIB);
    let begin = |name: &str| store.ingest(&key(&blob(name)), None, Some(MIB)).unwrap();
    let (mut first, mut second) = (begin("first"), begin("second"));
    store.reserve(&mut first, MIB).unwrap();
    assert!(store.reserve(&mut second, MIB).is_err());
    drop(first);
    store.reserve(&mut second, MIB).unwrap();
}

#[test]
fn declared_size_alone_takes_no_room() {
    let scratch = Scratch::new();
    let store = open(&scratch, 4 * MIB);
    let idle: Vec<_> = (0..10)
        .map(|n| {
            store
                .ingest(&key(&blob(&format!("{n}"))), None, Some(2 * MIB))
                .unwrap()
        })
        .collect();
    store_blob(&store, &blob("real")).unwrap();
    drop(idle);
}

#[test]
fn object_above_half_of_the_bound_is_not_stored_and_evicts_nothing() {
    let scratch = Scratch::new();
    let store = open(&scratch, 3 * MIB);
    let kept = blob("kept");
    store_blob(&store, &kept).unwrap();
    drop(store);
    set_age(&data_path(&scratch, &kept), HOUR, HOUR);
    let store = open(&scratch, 3 * MIB);
    let large = key(b"large");
    let error = store.ingest(&large, None, Some(2 * MIB)).unwrap_err();
    assert!(error.to_string().contains("CACHE_MAX_OBJECT_SIZE"), "{error}");
    // The size of this body becomes known with its bytes.
    let mut ingest = store.ingest(&large, None, None).unwrap();
    assert!(store.reserve(&mut ingest, 2 * MIB).unwrap_err().is_about_size());
    assert!(has(&store, &kept));
}

#[test]
fn nothing_is_evicted_before_the_scan_has_ended() {
    let scratch = Scratch::new();
    let bound = 2 * MIB + MIB / 2;
    let store = open(&scratch, bound);
    for name in ["first", "second"] {
        store_blob(&store, &blob(name)).unwrap();
    }
    drop(store);
    for name in ["first", "second"] {
        set_age(&data_path(&scratch, &blob(name)), HOUR, HOUR);
    }
    let bounds = StoreBounds {
        size_max: Some(SizeBound::Bytes(bound)),
        ..StoreBounds::default()
    };
    let store = FsStore::open_within(bounds, &scratch.0).unwrap();
    store.make_room(|| true);
    // The file system holds more than the bound, and the part of the store is unknown.
    assert!(store_blob(&store, &blob("third")).is_err());
    assert_eq!(store.take_evicted().objects, 0);
    store.scan();
    store_blob(&store, &blob("third")).unwrap();
}

#[test]
fn last_use_survives_a_restart() {
    let scratch = Scratch::new();
    let store = open(&scratch, 100 * MIB);
    let content = blob("used");
    store_blob(&store, &content).unwrap();
    drop(store);
    set_age(&data_path(&scratch, &content), 9 * HOUR, 9 * HOUR);
    let store = open(&scratch, 100 * MIB);
    store.record_uses([key(&content).digest().prefix()]);
    store.save_uses(&mut crate::store::SaveCursor::default());
    let used = std::fs::metadata(data_path(&scratch, &content)).unwrap();
    let age = |time: SystemTime| time.elapsed().unwrap_or_default();
    assert!(age(used.accessed().unwrap()) < HOUR);
    assert!(age(used.modified().unwrap()) > 8 * HOUR);
}

#[test]
fn scan_reads_manifests_without_a_change_of_their_access_time() {
    let scratch = Scratch::new();
    let store = open(&scratch, 100 * MIB);
    let body = br#"{"layers":[]}"#;
    let manifest = sample::manifest("r.example", "a", body);
    store_entry(&store, &manifest, body).unwrap();
    drop(store);
    let path = scratch.0.join(crate::store::layout::content(&manifest));
    set_age(&path, 50 * HOUR, 49 * HOUR);
    open(&scratch, 100 * MIB);
    let used = std::fs::metadata(&path).unwrap().accessed().unwrap();
    assert!(used.elapsed().unwrap() > 48 * HOUR);
}

#[test]
fn store_gives_way_when_free_space_is_short() {
    let scratch = Scratch::new();
    let store = open(&scratch, 100 * MIB);
    let content = blob("content");
    store_blob(&store, &content).unwrap();
    drop(store);
    set_age(&data_path(&scratch, &content), HOUR, HOUR);
    let bounds = StoreBounds {
        free_min: Some(SizeBound::Percent(100)),
        ..StoreBounds::default()
    };
    let store = FsStore::open_within(bounds, &scratch.0).unwrap();
    store.scan();
    store.make_room(|| true);
    assert!(!has(&store, &content));
    assert!(store_blob(&store, &content).is_err());
}

/// Opens a store with the blobs `names`, each stored and last used hours ago: 9, 8, and so on.
fn open_with_old(scratch: &Scratch, names: &[&str], size_max: u64) -> FsStore {
    let store = open(scratch, size_max);
    for name in names {
        store_blob(&store, &blob(name)).unwrap();
    }
    drop(store);
    for (at, name) in names.iter().enumerate() {
        let age = HOUR * (9 - at as u32);
        set_age(&data_path(scratch, &blob(name)), age, age);
    }
    open(scratch, size_max)
}

#[test]
fn blob_that_the_bucket_has_is_evicted_before_an_older_blob() {
    let scratch = Scratch::new();
    let bound = 3 * MIB + MIB / 2;
    let store = open_with_old(&scratch, &["oldest", "middle", "newest"], bound);
    store.set_in_bucket(&key(&blob("middle")), true);
    store_blob(&store, &blob("another")).unwrap();
    let has = |name: &str| has(&store, &blob(name));
    assert_eq!(["oldest", "middle", "newest"].map(has), [true, false, true]);
    // A new entry under the same key is not known to be in the bucket.
    store_blob(&store, &blob("middle")).unwrap();
    assert!(!store.is_in_bucket(&key(&blob("middle"))));
}

/// Returns a bucket whose objects end after `lifecycle_days`, 0 for never.
fn bucket(name: &str, lifecycle_days: u32) -> BucketIdentity {
    BucketIdentity {
        name: name.into(),
        prefix: "a/".into(),
        lifecycle_days,
    }
}

#[test]
fn copies_in_the_bucket_are_known_after_a_restart_in_front_of_the_same_bucket() {
    let scratch = Scratch::new();
    let open_in_front_of = |bucket: &BucketIdentity| {
        let store = FsStore::open(&scratch.0).unwrap().with_bucket(bucket);
        store.scan();
        store
    };
    let names = ["copied", "lost", "local"];
    let known = |bucket: &BucketIdentity| {
        let store = open_in_front_of(bucket);
        names.map(|name| store.is_in_bucket(&key(&blob(name))))
    };
    let (own, other) = (bucket("bucket", 0), bucket("other", 0));
    let store = open_in_front_of(&own);
    if !store.keeps_copy_marks() {
        return;
    }
    for name in names {
        store_blob(&store, &blob(name)).unwrap();
    }
    let set = |name: &str, is_in_bucket| store.set_in_bucket(&key(&blob(name)), is_in_bucket);
    set("copied", true);
    set("lost", true);
    set("lost", false);
    drop(store);
    assert_eq!(known(&own), [true, false, false]);
    assert_eq!(known(&other), [false; 3]);
    // The mark is younger than the lifecycle.
    assert_eq!(known(&bucket("bucket", 1)), [true, false, false]);
    assert!(
        files_below(&scratch.0)
            .iter()
            .all(|name| !name.contains("bucket"))
    );
}

#[test]
fn content_that_waits_for_its_upload_is_not_evicted() {
    let scratch = Scratch::new();
    let bound = 2 * MIB + MIB / 2;
    let store = open_with_old(&scratch, &["oldest", "newest"], bound);
    let hold = store.hold_for_upload(&key(&blob("oldest")));
    store_blob(&store, &blob("another")).unwrap();
    assert!(has(&store, &blob("oldest")) && !has(&store, &blob("newest")));
    assert!(
        store_blob(&store, &blob("more")).is_err(),
        "the only old content is held"
    );
    drop(hold);
    assert!(!store.is_held_for_upload(&key(&blob("oldest"))));
}
