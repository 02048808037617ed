//! The index: objects, links, uses.

use std::sync::Arc;

use super::index_sample::{MIB, blob, digest, facts, image, insert_tag, manifest, origin};
use crate::oci::{Algorithm, Child, Descriptor, Digest, ManifestLinks};
use crate::store::Key;
use crate::store::eviction::{Minute, Need, Objects as _, choose};
use crate::store::index::{Index, ObjectName};
use crate::store::pins::{Pin, Pins};

/// Returns the victims' names, in the order of the removal.
fn victims(index: &Index, now: u32, need_mib: u64) -> Vec<ObjectName> {
    let need = Need {
        bytes: need_mib * MIB,
        files: 0,
        metadata_bytes_max: u64::MAX,
    };
    let victims = choose(index, Minute(now), need);
    victims
        .into_iter()
        .map(|number| index.name(number).unwrap().0)
        .collect()
}

fn entry(key: Key) -> ObjectName {
    ObjectName::Entry(key)
}

#[test]
fn index_counts_the_bytes_of_its_objects() {
    let mut index = Index::default();
    index.insert(&blob("a"), facts(2, 1), None);
    index.insert(&manifest("a", "m"), facts(1, 1), None);
    insert_tag(&mut index, "a", "v1", "m");
    assert_eq!((index.bytes(), index.len()), (3 * MIB, 3));
    // A replaced entry counts once.
    index.insert(&blob("a"), facts(5, 1), None);
    insert_tag(&mut index, "a", "v1", "m2");
    assert_eq!((index.bytes(), index.len()), (6 * MIB, 3));
    index.remove(&blob("a"));
    index.remove(&blob("a"));
    index.remove(&manifest("b", "m"));
    assert_eq!((index.bytes(), index.len()), (MIB, 2));
}

#[test]
fn slot_of_a_removed_object_is_used_again() {
    let mut index = Index::default();
    for round in 0..100 {
        let key = blob(&format!("{round}"));
        index.insert(&key, facts(1, 1), None);
        index.remove(&key);
    }
    assert_eq!((index.numbers(), index.len(), index.bytes()), (1, 0, 0));
}

#[test]
fn number_of_a_repository_without_content_is_used_again() {
    let mut index = Index::default();
    index.insert(&manifest("kept", "m"), facts(1, 1), None);
    for round in 0..100 {
        let name = format!("repository{round}");
        index.insert(&manifest(&name, "m"), facts(1, 1), None);
        // The second pointer replaces the only object of the repository.
        index.remove(&manifest(&name, "m"));
        insert_tag(&mut index, &name, "v1", "m");
        insert_tag(&mut index, &name, "v1", "m2");
        let names = |index: &Index| -> Vec<_> {
            let tag = |number| match index.name(number)?.0 {
                ObjectName::Tag { origin, .. } => Some(origin.repository.to_string()),
                ObjectName::Entry(_) => None,
            };
            (0..index.numbers()).filter_map(tag).collect()
        };
        assert_eq!(names(&index), [name]);
        let number = (0..index.numbers())
            .find(|&number| matches!(index.name(number), Some((ObjectName::Tag { .. }, _))));
        index.remove_number(number.unwrap());
    }
    assert_eq!((index.len(), index.repositories_in_memory()), (1, 2));
}

#[test]
fn same_manifest_in_two_repositories_is_two_objects() {
    let mut index = Index::default();
    index.insert(&manifest("a", "m"), facts(1, 1), None);
    index.insert(&manifest("b", "m"), facts(1, 1), None);
    index.remove(&manifest("a", "m"));
    assert_eq!(index.len(), 1);
    assert_eq!(victims(&index, 100, 1), [entry(manifest("b", "m"))]);
}

#[test]
fn digests_of_both_algorithms_are_returned_whole() {
    let mut index = Index::default();
    let keys = [Algorithm::Sha256, Algorithm::Sha512].map(|by| Key::Blob(Digest::of(by, b"x")));
    for (key, minute) in keys.iter().zip([1, 2]) {
        index.insert(key, facts(1, minute), None);
    }
    assert_eq!(victims(&index, 100, 2), keys.clone().map(entry));
    index.remove(&keys[1]);
    assert_eq!(victims(&index, 100, 2), [entry(keys[0].clone())]);
}

#[test]
fn image_leaves_with_all_its_blobs_and_its_tag_after_them() {
    let mut index = Index::default();
    for (name, minute) in [("old", 1), ("new", 2)] {
        for layer in ["1", "2"] {
            let key = blob(&format!("{name}-{layer}"));
            index.insert(&key, facts(1, minute), None);
        }
        let layers = [format!("{name}-1"), format!("{name}-2")];
        let links = image(&layers.each_ref().map(String::as_str));
        index.insert(&manifest("a", name), facts(1, minute), Some(&links));
    }
    insert_tag(&mut index, "a", "v1", "old");
    // A request for one byte removes the older image whole, and no metadata.
    let mut evicted = victims(&index, 100, 1);
    evicted.sort_by_key(|name| format!("{name:?}"));
    let mut expected = [entry(blob("old-1")), entry(blob("old-2"))];
    expected.sort_by_key(|name| format!("{name:?}"));
    assert_eq!(evicted, expected);
    let all = victims(&index, 100, 1_000);
    assert_eq!(all.len(), 7);
    let tag = ObjectName::Tag {
        origin: Arc::new(origin("a")),
        file_name: "v1".into(),
    };
    let place = |name: &ObjectName| all.iter().position(|other| other == name).unwrap();
    assert!(place(&entry(manifest("a", "old"))) < place(&tag));
    assert!(place(&tag) < place(&entry(manifest("a", "new"))));
}

#[test]
fn use_of_a_manifest_protects_its_blobs() {
    let mut index = Index::default();
    index.insert(&blob("layer"), facts(1, 1), None);
    index.insert(&blob("other"), facts(1, 2), None);
    index.insert(&manifest("a", "m"), facts(0, 1), Some(&image(&["layer"])));
    index.record_use(digest("m").prefix(), Minute(95));
    assert_eq!(victims(&index, 100, 9), [entry(blob("other"))]);
}

#[test]
fn uses_within_ten_minutes_count_once() {
    let mut index = Index::default();
    index.insert(&blob("a"), facts(1, 100), None);
    let uses = |index: &Index| index.get(0).unwrap().uses;
    for (minute, count) in [(100, 1), (109, 1), (110, 2), (119, 2), (125, 3), (500, 4)] {
        index.record_use(digest("a").prefix(), Minute(minute));
        assert_eq!(uses(&index), count, "{minute}");
    }
}

#[test]
fn entry_of_an_earlier_process_counts_as_used_again_by_its_times() {
    let mut index = Index::new(Minute(1_000));
    for (name, used) in [("once", 105), ("again", 900)] {
        let facts = crate::store::index::ObjectFacts {
            bytes: MIB,
            stored: Minute(100),
            used: Minute(used),
        };
        index.insert_found(&blob(name), facts, None);
    }
    let objects = [0, 1].map(|number| index.get(number).unwrap());
    assert_eq!(
        objects.map(|object| (object.uses, object.counted.0)),
        [(1, 1_000), (2, 1_000)]
    );
}

#[test]
fn use_is_saved_once_until_the_next_use_an_hour_later() {
    let mut index = Index::default();
    index.insert(&blob("a"), facts(1, 100), None);
    assert_eq!(index.take_unsaved_uses(60, 0..9), []);
    index.record_use(digest("a").prefix(), Minute(159));
    assert_eq!(index.take_unsaved_uses(60, 0..9), []);
    index.record_use(digest("a").prefix(), Minute(160));
    assert_eq!(index.take_unsaved_uses(60, 0..9), [(blob("a"), Minute(160))]);
    assert_eq!(index.take_unsaved_uses(60, 0..9), []);
    index.record_use(digest("a").prefix(), Minute(161));
    assert_eq!(index.take_unsaved_uses(1, 0..9), [(blob("a"), Minute(161))]);
}

#[test]
fn entry_found_by_the_scan_does_not_replace_a_newer_entry() {
    let mut index = Index::default();
    index.insert(&blob("a"), facts(1, 100), None);
    index.insert_found(&blob("a"), facts(7, 1), None);
    assert_eq!(index.bytes(), MIB);
    assert_eq!(victims(&index, 105, 1), []);
}

#[test]
fn pinned_image_is_never_a_victim_with_all_its_content() {
    let mut index = Index::default();
    for (name, layer) in [("kept", "kept-layer"), ("other", "other-layer")] {
        index.insert(&blob(layer), facts(1, 1), None);
        index.insert(&blob("base"), facts(1, 1), None);
        let links = image(&["base", layer]);
        index.insert(&manifest("a", name), facts(0, 1), Some(&links));
        insert_tag(&mut index, "a", name, name);
    }
    let mut pins = Pins::default();
    pins.add(Pin::parse("r.example/a:kept").unwrap()).unwrap();
    let need = Need {
        bytes: 100 * MIB,
        files: 100,
        metadata_bytes_max: 0,
    };
    let pinned = index.with_pins(&pins);
    let victims = choose(&pinned, Minute(100), need).into_iter();
    let mut names: Vec<_> = victims.map(|number| index.name(number).unwrap().0).collect();
    names.sort_by_key(|name| format!("{name:?}"));
    let tag = ObjectName::Tag {
        origin: Arc::new(origin("a")),
        file_name: "other".into(),
    };
    let mut expected = vec![entry(blob("other-layer")), entry(manifest("a", "other")), tag];
    expected.sort_by_key(|name| format!("{name:?}"));
    assert_eq!(names, expected);
    let images = index.images();
    let held: Vec<_> = images.iter().map(|image| pinned.hold(image)).collect();
    assert_eq!(held, [true, false]);
}

#[test]
fn pin_with_platforms_holds_their_manifests_only() {
    let mut index = Index::default();
    let child = |name: &str, platform: Option<&str>| Child {
        descriptor: Descriptor {
            digest: digest(name),
            size: 1,
        },
        platform: platform.map(str::to_owned),
    };
    for name in ["amd64", "arm64"] {
        index.insert(&blob(&format!("{name}-layer")), facts(1, 1), None);
        let links = image(&[&format!("{name}-layer")]);
        index.insert(&manifest("a", name), facts(0, 1), Some(&links));
    }
    index.insert(&manifest("a", "proof"), facts(0, 1), Some(&image(&[])));
    let links = ManifestLinks::Index(vec![
        child("arm64", Some("linux/arm64/v8")),
        child("amd64", Some("linux/amd64")),
        child("proof", None),
    ]);
    index.insert(&manifest("a", "list"), facts(0, 1), Some(&links));
    insert_tag(&mut index, "a", "v1", "list");
    let held = |pinned: &[(&str, &str)]| {
        let mut pins = Pins::default();
        for (text, platforms) in pinned {
            let pin = Pin::parse(text).unwrap();
            pins.add(pin.for_platforms(platforms.parse().unwrap())).unwrap();
        }
        let with_pins = index.with_pins(&pins);
        let names = ["amd64", "arm64", "proof", "list"].map(|name| (name, manifest("a", name)));
        let layers = [
            ("amd64-layer", blob("amd64-layer")),
            ("arm64-layer", blob("arm64-layer")),
        ];
        let number = |key: &Key| {
            let is_named = |number: &u32| {
                let name = index.name(*number).map(|(name, _)| name);
                name == Some(entry(key.clone()))
            };
            (0..index.numbers()).find(is_named).unwrap()
        };
        let all = names.into_iter().chain(layers);
        let held = all.filter(|(_, key)| with_pins.is_pinned(number(key)));
        held.map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(
        held(&[("r.example/a:v1", "linux/amd64")]),
        ["amd64", "list", "amd64-layer"]
    );
    // A pin of the repository does not hold the other manifest by itself.
    assert_eq!(
        held(&[("r.example/a", "linux/arm64")]),
        ["arm64", "list", "arm64-layer"]
    );
    assert_eq!(
        held(&[
            ("r.example/a:v1", "linux/arm64"),
            ("r.example/a:*", "linux/amd64")
        ]),
        ["amd64", "arm64", "list", "amd64-layer", "arm64-layer"]
    );
    assert_eq!(held(&[("r.example/a:v1", "all")]).len(), 6);
    assert_eq!(held(&[("r.example/a:v1", "linux/s390x")]), ["list"]);
}

#[test]
fn times_in_the_future_of_an_earlier_process_count_as_its_end() {
    let mut index = Index::new(Minute(1_000));
    index.insert_found(&blob("a"), facts(1, 9_000), None);
    assert_eq!(index.last_use(0), Some(Minute(1_000)));
    assert_eq!(index.get(0).unwrap().stored, Minute(1_001));
}

#[test]
fn tag_found_by_the_scan_does_not_replace_a_newer_tag() {
    let mut index = Index::default();
    index.insert(&manifest("a", "new"), facts(1, 1), None);
    insert_tag(&mut index, "a", "v1", "new");
    let place = origin("a");
    let old = digest("old").prefix();
    index.insert_found_tag(&place.namespace, &place.repository, "v1", old, facts(0, 1));
    assert_eq!(index.images().len(), 1);
    assert_eq!(index.images()[0].digest, Some(digest("new")));
}

#[test]
fn ten_minutes_of_protection_begin_after_the_latest_possible_use() {
    let mut index = Index::default();
    index.insert(&blob("a"), facts(1, 50), None);
    // The true time is up to a minute later, and the core reports a use up to a minute late.
    index.record_use(digest("a").prefix(), Minute(100));
    assert_eq!(victims(&index, 111, 1), []);
    assert_eq!(victims(&index, 112, 1), [entry(blob("a"))]);
}
