//! Source registries of content, and their bounds, in a directory.

use std::collections::BTreeSet;
use std::fs::{File, FileTimes};
use std::time::{Duration, SystemTime};

use super::{Scratch, sample};
use crate::config::{Live, Registries, RegistryConfig, SizeBound, StoreBounds};
use crate::oci::Namespace;
use crate::store::{FsStore, Key, Meta, RankedBound, RegistryContent, Source, StoreError};

const MIB: u64 = 1024 * 1024;
const HOUR: Duration = Duration::from_secs(3600);

/// The registry with a bound, and another registry.
const BOUNDED: &str = "bounded.example";
const OTHER: &str = "other.example:5000";

fn namespace(registry: &str) -> Namespace {
    registry.parse().unwrap()
}

/// Returns settings with the bound `size_max` of [`BOUNDED`].
fn registries(size_max: u64) -> Live {
    let mut entry = RegistryConfig::named(namespace(BOUNDED));
    entry.settings.cache_max_size = Some(SizeBound::Bytes(size_max));
    Live::new(Registries {
        entries: vec![entry],
        ..Registries::default()
    })
}

/// Opens the store in `scratch`, scanned, with a bound of [`BOUNDED`] and one of the store. 0 is no
/// bound.
fn open(scratch: &Scratch, of_registry: u64, of_store: u64) -> FsStore {
    let store = open_unscanned(scratch, of_registry, of_store);
    store.scan();
    store
}

fn open_unscanned(scratch: &Scratch, of_registry: u64, of_store: u64) -> FsStore {
    let bounds = StoreBounds {
        size_max: Some(SizeBound::Bytes(of_store)),
        free_min: Some(SizeBound::Bytes(0)),
        object_max: None,
    };
    let store = FsStore::open_within(bounds, &scratch.0).unwrap();
    store.with_registries(registries(of_registry))
}

/// Returns a blob of 1 MiB less a sidecar.
fn blob(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize((MIB - 4096) as usize, b'.');
    bytes
}

fn key(name: &str) -> Key {
    sample::blob(&blob(name))
}

/// Stores the entry `key` from the registry `from` like a fill.
fn store_entry(store: &FsStore, key: &Key, content: &[u8], from: &str) -> Result<(), StoreError> {
    let size = content.len() as u64;
    let mut ingest = store.ingest(key, Some(&namespace(from)), Some(size))?;
    store.reserve(&mut ingest, size)?;
    ingest.write_at(content, 0)?;
    let meta = Meta {
        sources: vec![sample::source(from)],
        ..sample::meta(key, size)
    };
    store.commit(ingest, &sample::verified(key, content), meta)
}

fn store_blob(store: &FsStore, name: &str, from: &str) -> Result<(), StoreError> {
    store_entry(store, &key(name), &blob(name), from)
}

/// Stores a manifest that names `layers`, with a tag.
fn store_image(store: &FsStore, registry: &str, layers: &[&str]) -> Key {
    let layer = |name: &&str| {
        let digest = *key(name).digest();
        serde_json::json!({"mediaType": "a/b", "digest": digest.to_string(), "size": MIB})
    };
    let layers: Vec<_> = layers.iter().map(layer).collect();
    let body = serde_json::json!({"schemaVersion": 2, "layers": layers}).to_string();
    let manifest = sample::manifest(registry, "a/b", body.as_bytes());
    store_entry(store, &manifest, body.as_bytes(), registry).unwrap();
    let tag = sample::tag("a/b", "v1", "native");
    let pointer = sample::pointer(&tag, body.as_bytes(), 1);
    let registry = namespace(registry);
    store
        .set_tag(&registry, &tag.repository, &tag.tag, &pointer)
        .unwrap();
    manifest
}

/// Returns a store with content that is unused for hours, the older content first in `blobs`.
fn with_old(scratch: &Scratch, blobs: &[(&str, &str)], of_registry: u64, of_store: u64) -> FsStore {
    let store = open(scratch, 0, 0);
    for (name, from) in blobs {
        store_blob(&store, name, from).unwrap();
    }
    drop(store);
    for (at, (name, _)) in blobs.iter().enumerate() {
        let time = SystemTime::now() - HOUR * (30 - at as u32);
        let path = scratch.0.join(sample::data_name(&key(name)));
        let times = FileTimes::new().set_modified(time).set_accessed(time);
        File::open(path).unwrap().set_times(times).unwrap();
    }
    open(scratch, of_registry, of_store)
}

fn has(store: &FsStore, name: &str) -> bool {
    store.find(&key(name)).unwrap().is_some()
}

fn content_of(store: &FsStore, registry: &str) -> RegistryContent {
    let mut contents = store.registry_contents(&BTreeSet::from([namespace(registry)]));
    contents.retain(|content| content.registry == namespace(registry));
    assert_eq!(contents.len(), 1, "{contents:?}");
    contents.remove(0)
}

/// The objects and bytes of both registries, and the objects of the store.
fn figures(store: &FsStore) -> ([(u64, u64); 2], usize) {
    let figures = [BOUNDED, OTHER].map(|registry| {
        let content = content_of(store, registry);
        (content.objects, content.bytes)
    });
    (figures, store.stats().objects)
}

#[test]
fn figures_of_registries_are_equal_after_the_commit_and_after_a_scan() {
    let scratch = Scratch::new();
    let store = open(&scratch, 0, 0);
    store_blob(&store, "one", BOUNDED).unwrap();
    store_blob(&store, "both", BOUNDED).unwrap();
    store_blob(&store, "both", OTHER).unwrap();
    store_image(&store, OTHER, &["both"]);
    let committed = figures(&store);
    // A manifest and a tag take a block each, and a manifest has a sidecar.
    let of_image = 4096 + 4096 + 4096;
    assert_eq!(committed, ([(2, 2 * MIB), (3, MIB + of_image)], 4));
    drop(store);
    assert_eq!(figures(&open(&scratch, 0, 0)), committed);
}

#[test]
fn removed_content_counts_for_no_registry() {
    let scratch = Scratch::new();
    let store = open(&scratch, 0, 0);
    store_blob(&store, "both", BOUNDED).unwrap();
    store_image(&store, OTHER, &["both"]);
    let source = sample::source(OTHER);
    store.record_source(&key("both"), &source, false).unwrap();
    let selected = store.plan_removal(Default::default(), |_| {}).unwrap();
    store.remove_planned(&selected.plan);
    assert_eq!(figures(&store), ([(0, 0), (0, 0)], 0));
    // Only evictions are counted.
    assert_eq!(content_of(&store, OTHER).evictions, 0);
}

#[test]
fn source_that_is_recorded_before_the_scan_reaches_the_entry_is_counted() {
    let scratch = Scratch::new();
    store_blob(&open(&scratch, 0, 0), "blob", BOUNDED).unwrap();
    let store = open_unscanned(&scratch, 0, 0);
    let source = sample::source(OTHER);
    store.record_source(&key("blob"), &source, false).unwrap();
    store.scan();
    assert_eq!(figures(&store), ([(1, MIB), (1, MIB)], 1));
}

#[test]
fn source_with_an_invalid_name_counts_for_no_registry() {
    let scratch = Scratch::new();
    let store = open(&scratch, 0, 0);
    store_blob(&store, "blob", BOUNDED).unwrap();
    let source = Source {
        registry: "../x".into(),
        repository: "a".into(),
    };
    store.record_source(&key("blob"), &source, false).unwrap();
    assert_eq!(content_of(&store, BOUNDED).objects, 1);
    assert_eq!(store.registry_contents(&BTreeSet::new()).len(), 1);
}

#[test]
fn full_registry_evicts_its_oldest_content_and_no_older_content_of_others() {
    let scratch = Scratch::new();
    let blobs = [
        ("other", OTHER),
        ("old", BOUNDED),
        ("new", BOUNDED),
        ("newest", OTHER),
    ];
    let store = with_old(&scratch, &blobs, 2 * MIB + MIB / 2, 0);
    store_blob(&store, "another", BOUNDED).unwrap();
    let has = |name| has(&store, name);
    assert_eq!(
        ["other", "old", "new", "newest"].map(has),
        [true, false, true, true]
    );
    let evictions = [BOUNDED, OTHER].map(|registry| content_of(&store, registry).evictions);
    assert_eq!(evictions, [1, 0]);
    assert_eq!(content_of(&store, BOUNDED).bytes, 2 * MIB);
}

#[test]
fn bounded_registry_stores_nothing_before_the_scan_has_found_its_content() {
    let scratch = Scratch::new();
    drop(with_old(&scratch, &[("old", BOUNDED), ("new", BOUNDED)], 0, 0));
    let store = open_unscanned(&scratch, 2 * MIB + MIB / 2, 0);
    let error = store_blob(&store, "another", BOUNDED).unwrap_err();
    assert!(error.is_about_scan() && error.is_about_size(), "{error}");
    // The size of this body becomes known with its bytes.
    let from = namespace(BOUNDED);
    let mut ingest = store.ingest(&key("another"), Some(&from), None).unwrap();
    let error = store.reserve(&mut ingest, MIB).unwrap_err();
    assert!(error.is_about_scan(), "{error}");
    drop(ingest);
    store_blob(&store, "other", OTHER).unwrap();
    store.scan();
    store_blob(&store, "another", BOUNDED).unwrap();
    let has = |name| has(&store, name);
    assert_eq!(["old", "new", "another"].map(has), [false, true, true]);
    assert_eq!(content_of(&store, BOUNDED).bytes, 2 * MIB);
}

#[test]
fn registry_stores_before_the_scan_if_all_used_space_fits_into_its_bound() {
    let scratch = Scratch::new();
    let store = open_unscanned(&scratch, u64::MAX / 2, 0);
    store_blob(&store, "blob", BOUNDED).unwrap();
    assert!(has(&store, "blob"));
}

#[test]
fn maintenance_shrinks_a_registry_to_its_bound() {
    let scratch = Scratch::new();
    let blobs = [
        ("first", BOUNDED),
        ("other", OTHER),
        ("second", BOUNDED),
        ("third", BOUNDED),
    ];
    let store = with_old(&scratch, &blobs, MIB + MIB / 2, 0);
    store.make_room(|| true);
    let has = |name| has(&store, name);
    assert_eq!(
        ["first", "other", "second", "third"].map(has),
        [false, true, false, true]
    );
}

#[test]
fn content_of_two_registries_never_leaves_for_the_bound_of_one() {
    let scratch = Scratch::new();
    let blobs = [("shared", BOUNDED), ("named", BOUNDED), ("own", BOUNDED)];
    let store = with_old(&scratch, &blobs, MIB, 0);
    store
        .record_source(&key("shared"), &sample::source(OTHER), false)
        .unwrap();
    // The other registry has no source of this blob, but an image with it.
    store_image(&store, OTHER, &["named"]);
    store.make_room(|| true);
    let has = |name| has(&store, name);
    assert_eq!(["shared", "named", "own"].map(has), [true, true, false]);
    assert_eq!(figures(&store).0, [(2, 2 * MIB), (3, MIB + 3 * 4096)]);
    let error = store_blob(&store, "more", BOUNDED).unwrap_err();
    assert!(error.is_about_registry_room(), "{error}");
}

#[test]
fn eviction_for_the_store_counts_for_each_registry_of_the_object() {
    let scratch = Scratch::new();
    let blobs = [("shared", BOUNDED), ("other", OTHER)];
    let store = with_old(&scratch, &blobs, 0, 2 * MIB + MIB / 2);
    store
        .record_source(&key("shared"), &sample::source(OTHER), false)
        .unwrap();
    store_blob(&store, "new", OTHER).unwrap();
    assert!(!has(&store, "shared") && has(&store, "other"));
    let evictions = [BOUNDED, OTHER].map(|registry| content_of(&store, registry).evictions);
    assert_eq!(evictions, [1, 1]);
}

#[test]
fn unfinished_ingests_count_for_the_bound_of_their_registry() {
    let scratch = Scratch::new();
    let store = open(&scratch, 2 * MIB, 0);
    let begin = |name: &str, from: &str| {
        let from = namespace(from);
        store.ingest(&key(name), Some(&from), None).unwrap()
    };
    let mut first = begin("first", BOUNDED);
    store.reserve(&mut first, MIB + MIB / 2).unwrap();
    let mut second = begin("second", BOUNDED);
    let error = store.reserve(&mut second, MIB).unwrap_err();
    assert!(error.is_about_registry_room(), "{error}");
    let mut other = begin("other", OTHER);
    store.reserve(&mut other, 8 * MIB).unwrap();
    drop(first);
    store.reserve(&mut second, MIB).unwrap();
}

#[test]
fn object_above_the_bound_of_its_registry_is_not_stored_and_evicts_nothing() {
    let scratch = Scratch::new();
    let store = with_old(&scratch, &[("kept", BOUNDED)], MIB + MIB / 2, 0);
    let (large, from) = (sample::blob(b"large"), namespace(BOUNDED));
    let error = store.ingest(&large, Some(&from), Some(2 * MIB)).unwrap_err();
    assert!(
        error.to_string().contains("cache_max_size of bounded.example"),
        "{error}"
    );
    // The size of this body becomes known with its bytes.
    let mut ingest = store.ingest(&large, Some(&from), None).unwrap();
    assert!(store.reserve(&mut ingest, 2 * MIB).unwrap_err().is_about_size());
    assert!(has(&store, "kept"));
}

#[test]
fn changed_bound_of_a_registry_applies_to_the_next_check() {
    let scratch = Scratch::new();
    drop(with_old(&scratch, &[("old", BOUNDED), ("new", BOUNDED)], 0, 0));
    let live = registries(0);
    let store = FsStore::open(&scratch.0).unwrap().with_registries(live.clone());
    store.scan();
    store.make_room(|| true);
    assert!(has(&store, "old"));
    live.replace(registries(MIB + MIB / 2).registries());
    store.make_room(|| true);
    assert!(!has(&store, "old") && has(&store, "new"));
    assert_eq!(content_of(&store, BOUNDED).bytes_max, Some(MIB + MIB / 2));
}

#[test]
fn rank_is_among_the_content_of_the_registry_if_its_bound_is_nearer() {
    let scratch = Scratch::new();
    let blobs = [
        ("other", OTHER),
        ("old", BOUNDED),
        ("both", BOUNDED),
        ("new", BOUNDED),
    ];
    let ranks = |of_registry, of_store| {
        let store = with_old(&scratch, &blobs, of_registry, of_store);
        let shared = sample::source(OTHER);
        store.record_source(&key("both"), &shared, false).unwrap();
        ["other", "old", "both", "new"].map(|name| {
            let from = if name == "other" { OTHER } else { BOUNDED };
            let rank = store.eviction_rank(&namespace(from), &[*key(name).digest()]);
            rank.map(|rank| (rank.bound, rank.objects_before, rank.bytes_before / MIB))
        })
    };
    let of_store = |number| Some((RankedBound::Store, number, number));
    let of_registry = |number| Some((RankedBound::Registry, number, number));
    // Content of both registries leaves for the bound of the store only.
    let expected = [of_store(0), of_registry(0), of_store(2), of_registry(1)];
    assert_eq!(ranks(4 * MIB, 0), expected);
    let expected = [of_store(0), of_store(1), of_store(2), of_store(3)];
    assert_eq!(ranks(0, 0), expected);
    assert_eq!(ranks(64 * MIB, 5 * MIB), expected);
}
