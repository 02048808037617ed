//! Directories and records of repositories whose content is removed.

use std::path::Path;

use super::sample::{self, RecordOf};
use super::{Scratch, files_below, write_file};
use crate::oci::Origin;
use crate::store::{FsStore, Ingest, Key, RecordName, ReferrersRecord};

const BODY: &[u8] = br#"{"layers":[]}"#;
const REGISTRY: &str = "r.example";

fn origin(repository: &str) -> Origin {
    Origin {
        namespace: REGISTRY.parse().unwrap(),
        repository: repository.parse().unwrap(),
    }
}

fn open(scratch: &Scratch) -> FsStore {
    let store = FsStore::open(&scratch.0).unwrap();
    store.scan();
    store
}

/// Begins to store a manifest of `repository`.
fn begin(store: &FsStore, repository: &str) -> (Key, Ingest) {
    let manifest = sample::manifest(REGISTRY, repository, BODY);
    let ingest = store.ingest(&manifest, None, Some(BODY.len() as u64)).unwrap();
    ingest.write_at(BODY, 0).unwrap();
    (manifest, ingest)
}

fn finish(store: &FsStore, (manifest, ingest): (Key, Ingest)) {
    let meta = sample::meta(&manifest, BODY.len() as u64);
    store
        .commit(ingest, &sample::verified(&manifest, BODY), meta)
        .unwrap();
}

/// Stores a manifest with a tag and a record of referrers.
fn store_image(store: &FsStore, repository: &str) {
    finish(store, begin(store, repository));
    set_tag(store, repository);
    let Origin {
        namespace,
        repository,
    } = origin(repository);
    let absent = ReferrersRecord::absent(1, true);
    store
        .set_record(&namespace, &repository, &RecordName::Unsupported, &absent)
        .unwrap();
}

fn set_tag(store: &FsStore, repository: &str) {
    let tag = sample::tag(repository, "v1", "native");
    let pointer = sample::pointer(&tag, BODY, 1);
    let Origin {
        namespace,
        repository,
    } = origin(repository);
    store
        .set_tag(&namespace, &repository, &tag.tag, &pointer)
        .unwrap();
}

/// Removes all images of `repository`.
fn purge(store: &FsStore, repository: &str) {
    let origin = origin(repository);
    let select = |images: &mut Vec<_>| {
        images.retain(|image: &crate::store::IndexedImage| *image.origin == origin);
    };
    let selected = store.plan_removal(Default::default(), select).unwrap();
    let removed = store.remove_planned(&selected.plan);
    assert_eq!(removed.kept, 0);
}

fn exists(scratch: &Scratch, path: &str) -> bool {
    scratch.0.join("manifests").join(path).exists()
}

#[test]
fn last_content_of_a_repository_leaves_with_its_records_and_directories() {
    let scratch = Scratch::new();
    let store = open(&scratch);
    for repository in ["a", "a/b", "c"] {
        store_image(&store, repository);
    }
    purge(&store, "a");
    // The directory of `a` also holds `a/b`.
    assert!(exists(&scratch, "r.example/a/b/_referrers/unsupported.json"));
    assert!(!exists(&scratch, "r.example/a/_referrers") && !exists(&scratch, "r.example/a/_tags"));
    purge(&store, "a/b");
    assert!(!exists(&scratch, "r.example/a") && exists(&scratch, "r.example/c"));
    purge(&store, "c");
    assert!(!exists(&scratch, "r.example"));
    assert_eq!(files_below(&scratch.0.join("manifests")), [""; 0]);
    let record = sample_record(&store, "c");
    assert!(record.is_none());
}

fn sample_record(store: &FsStore, repository: &str) -> Option<ReferrersRecord> {
    let of = RecordOf {
        namespace: REGISTRY.parse().unwrap(),
        repository: repository.parse().unwrap(),
        name: RecordName::Unsupported,
    };
    store.record(&of.namespace, &of.repository, &of.name).unwrap()
}

#[test]
fn foreign_file_stays_with_its_directories() {
    let scratch = Scratch::new();
    let store = open(&scratch);
    store_image(&store, "a/b");
    let foreign = scratch.0.join(Path::new("manifests/r.example/a/notes"));
    write_file(&foreign, b"x");
    purge(&store, "a/b");
    assert!(foreign.exists() && !exists(&scratch, "r.example/a/b"));
}

#[test]
fn content_is_stored_in_a_repository_whose_directory_was_removed_meanwhile() {
    let scratch = Scratch::new();
    let store = open(&scratch);
    store_image(&store, "a");
    let other = sample::manifest(REGISTRY, "a", b"{}");
    let ingest = store.ingest(&other, None, Some(2)).unwrap();
    purge(&store, "a");
    assert!(!exists(&scratch, "r.example"));
    ingest.write_at(b"{}", 0).unwrap();
    let meta = sample::meta(&other, 2);
    store
        .commit(ingest, &sample::verified(&other, b"{}"), meta)
        .unwrap();
    assert!(store.find(&other).unwrap().is_some());
    purge(&store, "a");
    set_tag(&store, "a");
    assert!(exists(&scratch, "r.example/a/_tags/v1"));
}

#[test]
fn commits_and_removals_at_the_same_time_lose_no_commit() {
    let scratch = Scratch::new();
    let store = open(&scratch);
    store_image(&store, "a");
    std::thread::scope(|scope| {
        let removing = scope.spawn(|| {
            for _ in 0..300 {
                purge_whatever_is_there(&store);
            }
        });
        while !removing.is_finished() {
            finish(&store, begin(&store, "a"));
            set_tag(&store, "a");
        }
    });
    store_image(&store, "a");
    let (manifest, _) = begin(&store, "a");
    assert!(store.find(&manifest).unwrap().is_some());
}

fn purge_whatever_is_there(store: &FsStore) {
    let selected = store.plan_removal(Default::default(), |_| {}).unwrap();
    store.remove_planned(&selected.plan);
}
