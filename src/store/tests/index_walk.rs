//! The walk over all entries of an index, and the images that name an entry.

use super::index_sample::{MIB, blob, digest, facts, image, insert_tag, manifest};
use crate::oci::{Algorithm, Child, Descriptor, Digest, ManifestLinks};
use crate::store::Key;
use crate::store::index::{Index, entries_after, images_naming};

/// Walks in parts of `count` entries.
fn walk(index: &Index, count: usize) -> Vec<Vec<Key>> {
    let mut parts: Vec<Vec<Key>> = Vec::new();
    loop {
        let after = parts.last().and_then(|part| part.last()).map(|key| *key.digest());
        let part = entries_after(|| &*index, after.as_ref(), count);
        if part.is_empty() {
            return parts;
        }
        parts.push(part);
    }
}

fn names() -> Vec<String> {
    (0..40).map(|n| format!("object {n}")).collect()
}

#[test]
fn walk_visits_each_entry_once_in_an_order_that_a_restart_keeps() {
    let names = names();
    let (mut index, mut later) = (Index::default(), Index::default());
    for name in &names {
        index.insert(&blob(name), facts(1, 1), None);
    }
    index.insert(&manifest("a", "m"), facts(1, 1), None);
    insert_tag(&mut index, "a", "v1", "m");
    later.insert(&manifest("a", "m"), facts(1, 1), None);
    for name in names.iter().rev() {
        later.insert(&blob(name), facts(1, 1), None);
    }
    let all = walk(&index, 1_000).concat();
    assert_eq!(all.len(), 41, "a tag is no entry");
    assert!(all.is_sorted_by_key(|key| *key.digest()));
    for count in [1, 7, 40, 41] {
        assert_eq!(walk(&index, count).concat(), all, "{count}");
        assert_eq!(walk(&later, count).concat(), all, "{count}");
    }
    assert_eq!(index.entry_totals(), (41, 41 * MIB));
}

#[test]
fn entries_of_one_digest_are_in_one_part_and_long_digests_come_last() {
    let mut index = Index::default();
    let long = Key::Blob(Digest::of(Algorithm::Sha512, b"long"));
    index.insert(&long, facts(1, 1), None);
    for repository in ["c", "a", "b"] {
        index.insert(&manifest(repository, "m"), facts(1, 1), None);
    }
    index.insert(&blob("m"), facts(1, 1), None);
    let parts = walk(&index, 1);
    let same = ["a", "b", "c"].map(|repository| manifest(repository, "m"));
    assert_eq!(parts, [[&[blob("m")][..], &same].concat(), vec![long]]);
}

#[test]
fn removal_and_insertion_during_a_walk_skip_no_other_entry() {
    let names = names();
    let mut index = Index::default();
    for name in &names {
        index.insert(&blob(name), facts(1, 1), None);
    }
    let all = walk(&index, 1_000).concat();
    let first = entries_after(|| &index, None, 20);
    index.remove(&all[3]);
    index.remove(&all[30]);
    index.insert(&blob("new"), facts(1, 1), None);
    let rest: Vec<Key> = {
        let last = first.last().map(|key| *key.digest());
        entries_after(|| &index, last.as_ref(), 1_000)
    };
    let new = blob("new");
    let expected: Vec<&Key> = all[20..].iter().filter(|key| **key != all[30]).collect();
    assert_eq!(
        rest.iter().filter(|key| **key != new).collect::<Vec<_>>(),
        expected
    );
}

#[test]
fn entries_of_an_image_are_its_manifests_and_everything_below() {
    let mut index = Index::default();
    for name in ["base", "own", "other"] {
        index.insert(&blob(name), facts(1, 1), None);
    }
    index.insert(
        &manifest("a", "image"),
        facts(1, 1),
        Some(&image(&["base", "own"])),
    );
    index.insert(
        &manifest("a", "else"),
        facts(1, 1),
        Some(&image(&["base", "other"])),
    );
    insert_tag(&mut index, "a", "v1", "image");
    let images = index.images();
    let tagged: Vec<_> = images.into_iter().filter(|image| image.tag.is_some()).collect();
    let entries = index.entries_of(&tagged);
    let mut expected = vec![blob("base"), blob("own"), manifest("a", "image")];
    expected.sort_by_key(|key| *key.digest());
    assert_eq!((entries.keys, entries.bytes), (expected, 3 * MIB));
}

#[test]
fn images_that_name_an_object_are_its_tags_and_untagged_roots() {
    let mut index = Index::default();
    index.insert(&blob("base"), facts(1, 1), None);
    for (repository, name) in [("a", "one"), ("a", "two"), ("b", "one")] {
        index.insert(&manifest(repository, name), facts(1, 1), Some(&image(&["base"])));
    }
    let child = Child {
        descriptor: Descriptor {
            digest: digest("two"),
            size: 1,
        },
        platform: None,
    };
    let list = ManifestLinks::Index(vec![child]);
    index.insert(&manifest("a", "list"), facts(1, 1), Some(&list));
    insert_tag(&mut index, "a", "v1", "one");
    insert_tag(&mut index, "a", "v1@om", "one");
    insert_tag(&mut index, "a", "latest", "list");
    let untagged = format!("r.example/b@{}", digest("one"));
    let tags = ["r.example/a:latest", "r.example/a:v1"];
    assert_eq!(
        images_naming(|| &index, &blob("base"), 10),
        [tags[0], tags[1], &untagged]
    );
    assert_eq!(images_naming(|| &index, &blob("base"), 2), tags);
    assert_eq!(images_naming(|| &index, &manifest("a", "two"), 10), tags[..1]);
    // A removed manifest is still named by its tag.
    index.remove(&manifest("a", "one"));
    assert_eq!(images_naming(|| &index, &manifest("a", "one"), 10), tags[1..]);
    assert_eq!(images_naming(|| &index, &blob("other"), 10), [""; 0]);
}
