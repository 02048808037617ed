//! Properties of the eviction policy, and examples.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::limits::{EVICTION_AGE_MIN, METADATA_BLOB_BYTES_MAX};
use crate::store::eviction::{Kind, Minute, Need, Object, Objects, choose};

const NOW: Minute = Minute(1_000_000);
const MIB: u64 = 1 << 20;

#[derive(Clone, Debug, Default)]
struct Store {
    objects: Vec<Option<Object>>,
    named: Vec<Vec<u32>>,
    pinned: BTreeSet<u32>,
}

impl Objects for Store {
    fn numbers(&self) -> u32 {
        self.objects.len() as u32
    }

    fn get(&self, number: u32) -> Option<Object> {
        self.objects[number as usize]
    }

    fn for_each_named(&self, number: u32, visit: impl FnMut(u32)) {
        self.named[number as usize].iter().copied().for_each(visit);
    }

    fn is_pinned(&self, number: u32) -> bool {
        self.pinned.contains(&number)
    }
}

impl Store {
    fn add(&mut self, object: Object, named: &[u32]) -> u32 {
        self.objects.push(Some(object));
        self.named.push(named.to_vec());
        self.numbers() - 1
    }

    /// Adds an object that was stored and last used `ago` minutes before now.
    fn add_old(&mut self, kind: Kind, bytes: u64, ago: u32, named: &[u32]) -> u32 {
        self.add(object(kind, bytes, ago, ago, 1), named)
    }

    /// Adds an image of one use, `ago` minutes before now. Returns its manifest.
    fn add_image(&mut self, ago: u32, blobs: &[u64]) -> u32 {
        let add = |&bytes: &u64| self.add_old(Kind::Blob, bytes, ago, &[]);
        let blobs: Vec<u32> = blobs.iter().map(add).collect();
        self.add_old(Kind::Manifest, 1000, ago, &blobs)
    }

    fn set_uses(&mut self, number: u32, uses: u16) {
        if let Some(object) = &mut self.objects[number as usize] {
            object.uses = uses;
        }
    }

    fn set_in_bucket(&mut self, number: u32, is_in_bucket: bool) {
        if let Some(object) = &mut self.objects[number as usize] {
            object.is_in_bucket = is_in_bucket;
        }
    }

    fn object(&self, number: u32) -> Object {
        self.objects[number as usize].expect("the object is stored")
    }

    fn numbers_where(&self, is_wanted: impl Fn(&Object) -> bool) -> Vec<u32> {
        let is_wanted = |&number: &u32| self.get(number).is_some_and(|object| is_wanted(&object));
        (0..self.numbers()).filter(is_wanted).collect()
    }

    fn bytes(&self, numbers: impl IntoIterator<Item = u32>) -> u64 {
        numbers.into_iter().map(|number| self.object(number).bytes).sum()
    }

    /// Returns the stored manifests that name `number`.
    fn manifests_of(&self, number: u32) -> Vec<u32> {
        let mut manifests = self.numbers_where(|object| object.kind == Kind::Manifest);
        manifests.retain(|&manifest| self.named[manifest as usize].contains(&number));
        manifests
    }

    /// Whether the object was stored or used in the last minutes, by itself, by its manifests, or
    /// by an index of these.
    fn is_young(&self, number: u32) -> bool {
        let manifests = self.manifests_of(number);
        let indexes = manifests.iter().flat_map(|&manifest| self.manifests_of(manifest));
        let users: Vec<u32> = manifests.iter().copied().chain(indexes).chain([number]).collect();
        let is_recent = |moment: Minute| u64::from(NOW.0 - moment.0) * 60 < EVICTION_AGE_MIN.as_secs();
        is_recent(self.object(number).stored) || users.iter().any(|&user| is_recent(self.object(user).used))
    }
}

fn object(kind: Kind, bytes: u64, stored_ago: u32, used_ago: u32, uses: u16) -> Object {
    Object {
        kind,
        bytes,
        stored: Minute(NOW.0 - stored_ago),
        used: Minute(NOW.0 - used_ago),
        uses,
        counted: Minute(NOW.0 - stored_ago),
        is_in_bucket: false,
    }
}

fn is_metadata(object: &Object) -> bool {
    object.kind != Kind::Blob || object.bytes <= METADATA_BLOB_BYTES_MAX
}

fn bytes(bytes: u64) -> Need {
    Need {
        bytes,
        files: 0,
        metadata_bytes_max: u64::MAX,
    }
}

fn an_object() -> impl Strategy<Value = Object> {
    let kind = prop_oneof![
        Just(Kind::Blob),
        Just(Kind::Blob),
        Just(Kind::Manifest),
        Just(Kind::Tag)
    ];
    let size = prop_oneof![1..=METADATA_BLOB_BYTES_MAX, 70_000..200 * MIB];
    let ago = || prop_oneof![0..30_u32, 0..20_000_u32];
    let times = (ago(), ago(), 1..20_u16, any::<bool>());
    (kind, size, times).prop_map(|(kind, size, (first, second, uses, is_in_bucket))| {
        let size = if kind == Kind::Blob { size } else { size % 5000 + 1 };
        Object {
            is_in_bucket,
            ..object(kind, size, first.max(second), first.min(second), uses)
        }
    })
}

/// Any objects and any links to blobs and manifests, also cycles, links of an object to itself and
/// double links. A tenth of the numbers is unused, and a tenth is pinned.
fn any_store() -> impl Strategy<Value = Store> {
    let entry = (
        prop::option::weighted(0.9, an_object()),
        vec(any::<prop::sample::Index>(), 0..8),
        prop::bool::weighted(0.1),
    );
    vec(entry, 1..60).prop_map(|entries| {
        let count = entries.len();
        let mut store = Store::default();
        for (object, links, is_pinned) in &entries {
            store.pinned.extend(is_pinned.then_some(store.numbers()));
            let links = links.iter().map(|link| link.index(count));
            let is_nameable = |&to: &usize| entries[to].0.is_some_and(|object| object.kind != Kind::Tag);
            let links: Vec<u32> = links.filter(is_nameable).map(|to| to as u32).collect();
            let names = object.is_some_and(|object| object.kind != Kind::Blob);
            store.objects.push(*object);
            store.named.push(if names { links } else { Vec::new() });
        }
        store
    })
}

fn a_need() -> impl Strategy<Value = Need> {
    let budget = prop_oneof![Just(u64::MAX), 0..2 * MIB];
    (0..2000 * MIB, 0..40_u64, budget).prop_map(|(bytes, files, metadata_bytes_max)| Need {
        bytes,
        files,
        metadata_bytes_max,
    })
}

/// Images with a tag, sometimes an index, layers of their own, and layers of a common pool.
fn store_of_images() -> impl Strategy<Value = Store> {
    let own = vec(an_object(), 1..5);
    let shared = vec(any::<prop::sample::Index>(), 0..4);
    let image = (own, shared, an_object(), any::<bool>());
    (vec(an_object(), 1..6), vec(image, 1..12)).prop_map(|(pool, images)| {
        let mut store = Store::default();
        let blob = |object: Object| Object {
            kind: Kind::Blob,
            ..object
        };
        let pool: Vec<u32> = pool
            .into_iter()
            .map(|object| store.add(blob(object), &[]))
            .collect();
        for (own, shared, used, has_index) in images {
            let metadata = |kind| Object {
                kind,
                bytes: 1000,
                ..used
            };
            let mut blobs: Vec<u32> = own
                .into_iter()
                .map(|object| store.add(blob(object), &[]))
                .collect();
            blobs.extend(shared.iter().map(|link| pool[link.index(pool.len())]));
            let mut top = store.add(metadata(Kind::Manifest), &blobs);
            if has_index {
                top = store.add(metadata(Kind::Manifest), &[top]);
            }
            store.add(metadata(Kind::Tag), &[top]);
        }
        store
    })
}

proptest! {
    #[test]
    fn young_and_pinned_objects_stay_and_no_victim_is_named_twice(store in any_store(), need in a_need()) {
        let victims = choose(&store, NOW, need);
        let unique: BTreeSet<u32> = victims.iter().copied().collect();
        prop_assert_eq!(unique.len(), victims.len());
        for victim in victims {
            prop_assert!(store.get(victim).is_some());
            prop_assert!(!store.is_young(victim), "{victim} is young");
            prop_assert!(!store.is_pinned(victim), "{victim} is pinned");
        }
    }

    #[test]
    fn victims_make_the_room_if_old_images_can(store in store_of_images(), need in a_need()) {
        let victims = choose(&store, NOW, need);
        let old: Vec<u32> = store.numbers_where(|_| true);
        let old: Vec<u32> = old.into_iter().filter(|&number| !is_protected(&store, number)).collect();
        let is_enough = |numbers: &[u32]| {
            store.bytes(numbers.iter().copied()) >= need.bytes && numbers.len() as u64 >= need.files
        };
        prop_assert_eq!(is_enough(&victims), is_enough(&old));
    }

    #[test]
    fn blobs_leave_before_the_manifests_and_tags_of_their_image(
        store in store_of_images(),
        need in a_need(),
    ) {
        let victims = choose(&store, NOW, need);
        let place = |number: u32| victims.iter().position(|&victim| victim == number);
        for manifest in store.numbers_where(|object| object.kind == Kind::Manifest) {
            for &blob in &store.named[manifest as usize] {
                let is_own = store.manifests_of(blob).len() == 1;
                if store.object(blob).kind == Kind::Blob && is_own && let Some(of_manifest) = place(manifest) {
                    prop_assert!(place(blob).is_none_or(|of_blob| of_blob < of_manifest));
                }
            }
        }
        for tag in store.numbers_where(|object| object.kind == Kind::Tag) {
            for &top in &store.named[tag as usize] {
                if let (Some(of_top), Some(of_tag)) = (place(top), place(tag)) {
                    prop_assert!(of_top < of_tag);
                }
            }
        }
    }

    /// The layers that only one manifest names leave together, except young ones.
    #[test]
    fn no_image_is_left_half_evicted(store in store_of_images(), megabytes in 0..2000_u64) {
        let victims = choose(&store, NOW, bytes(megabytes * MIB));
        for manifest in store.numbers_where(|object| object.kind == Kind::Manifest) {
            let own = store.named[manifest as usize].iter().copied().filter(|&blob| {
                let object = store.object(blob);
                let is_own = store.manifests_of(blob).len() == 1;
                object.kind == Kind::Blob && is_own && !is_metadata(&object) && !store.is_young(blob)
            });
            let is_victim: BTreeSet<bool> = own.map(|blob| victims.contains(&blob)).collect();
            prop_assert!(is_victim.len() <= 1, "manifest {manifest} is half evicted");
        }
    }

    /// With the same history, no image with blobs that the bucket may lack leaves while an image in
    /// the bucket stays.
    #[test]
    fn images_in_the_bucket_leave_first(in_bucket in vec(any::<bool>(), 1..20), megabytes in 1..30_u64) {
        let mut store = Store::default();
        for &is_in_bucket in &in_bucket {
            let manifest = store.add_image(600, &[MIB]);
            store.set_in_bucket(manifest - 1, is_in_bucket);
        }
        let victims = choose(&store, NOW, bytes(megabytes * MIB));
        let blobs = victims.iter().filter(|&&victim| store.object(victim).kind == Kind::Blob);
        let order: Vec<bool> = blobs.map(|&victim| store.object(victim).is_in_bucket).collect();
        prop_assert!(order.is_sorted_by_key(|is_in_bucket| !is_in_bucket), "{order:?}");
    }

    #[test]
    fn no_need_evicts_nothing(store in any_store()) {
        prop_assert_eq!(choose(&store, NOW, bytes(0)), Vec::<u32>::new());
    }

    #[test]
    fn metadata_above_its_budget_goes_down_to_the_budget(store in store_of_images(), part in 1..100_u64) {
        let metadata: BTreeSet<u32> = store.numbers_where(is_metadata).into_iter().collect();
        let held = store.bytes(metadata.iter().copied());
        let young = metadata.iter().copied().filter(|&number| is_protected(&store, number));
        let budget = held * part / 100;
        let need = Need { metadata_bytes_max: budget, ..Need::default() };
        let victims = choose(&store, NOW, need);
        prop_assert!(victims.iter().all(|victim| metadata.contains(victim)));
        let left = held - store.bytes(victims.iter().copied());
        prop_assert!(left <= budget.max(store.bytes(young)), "{left} bytes left of {budget}");
        // The last victims are one image at most.
        let objects_max = METADATA_BLOB_BYTES_MAX * 5;
        prop_assert!(left + objects_max >= budget - budget / 20, "{left} bytes left of {budget}");
    }
}

/// Whether the object is young, or a tag or an index whose image is young.
fn is_protected(store: &Store, number: u32) -> bool {
    let names_objects = |number: u32| store.object(number).kind != Kind::Blob;
    let is_protected = |&named: &u32| names_objects(named) && is_protected(store, named);
    store.is_young(number) || store.named[number as usize].iter().any(is_protected)
}

#[test]
fn of_two_images_of_one_use_the_older_one_leaves() {
    let mut store = Store::default();
    store.add_image(100, &[MIB, 2 * MIB]);
    store.add_image(200, &[MIB, 2 * MIB]);
    // Numbers 3 and 4 are the layers of the second image.
    assert_eq!(choose(&store, NOW, bytes(1)), [3, 4]);
}

#[test]
fn an_image_of_one_use_leaves_before_an_older_image_with_more_uses() {
    let mut store = Store::default();
    let popular = store.add_image(5000, &[MIB]);
    store.set_uses(popular, 9);
    store.add_image(60, &[MIB]);
    assert_eq!(choose(&store, NOW, bytes(1)), [2]);
}

#[test]
fn a_scan_of_a_rarely_used_image_does_not_save_it() {
    let mut store = Store::default();
    let blob = store.add(object(Kind::Blob, MIB, 10_000, 20, 7), &[]);
    store.add(object(Kind::Manifest, 1000, 10_000, 20, 7), &[blob]);
    let popular = store.add(object(Kind::Blob, MIB, 10_000, 600, 90), &[]);
    store.add(object(Kind::Manifest, 1000, 10_000, 600, 90), &[popular]);
    assert_eq!(choose(&store, NOW, bytes(1)), [blob]);
}

#[test]
fn a_base_layer_stays_with_the_images_that_share_it() {
    let mut store = Store::default();
    let base = store.add_old(Kind::Blob, MIB, 9000, &[]);
    let old = store.add_old(Kind::Blob, MIB, 9000, &[]);
    store.add_old(Kind::Manifest, 1000, 9000, &[base, old]);
    let new = store.add_old(Kind::Blob, MIB, 60, &[]);
    store.add_old(Kind::Manifest, 1000, 60, &[base, new]);
    assert_eq!(choose(&store, NOW, bytes(1)), [old]);
}

#[test]
fn an_index_in_use_protects_the_layers_of_its_images() {
    let mut store = Store::default();
    let manifest = store.add_image(9000, &[MIB]);
    store.add(object(Kind::Manifest, 1000, 9000, 1, 5), &[manifest]);
    assert_eq!(choose(&store, NOW, bytes(1)), Vec::<u32>::new());
}

#[test]
fn metadata_leaves_after_all_layers() {
    let mut store = Store::default();
    let manifest = store.add_image(9000, &[1000, MIB]);
    let tag = store.add_old(Kind::Tag, 100, 9000, &[manifest]);
    store.add_image(60, &[MIB]);
    assert_eq!(choose(&store, NOW, bytes(2 * MIB)), [1, 4]);
    let all = choose(&store, NOW, bytes(u64::MAX));
    assert_eq!(all, [1, 4, 0, manifest, tag, 5]);
}

#[test]
fn manifests_that_name_each_other_end_the_choice() {
    let mut store = Store::default();
    store.add_old(Kind::Manifest, 1000, 9000, &[1]);
    store.add_old(Kind::Manifest, 1000, 9000, &[0, 1]);
    assert_eq!(choose(&store, NOW, bytes(2000)), [0, 1]);
}

#[test]
fn image_in_the_bucket_leaves_before_a_colder_image_but_not_if_it_is_needed_much_sooner() {
    const STORED: u32 = 60 * 100;
    for (uses, leaves) in [(20, true), (200, false)] {
        let mut store = Store::default();
        let only_here = store.add_image(STORED, &[MIB]);
        store.set_uses(only_here, 2);
        let copied = store.add(object(Kind::Blob, MIB, STORED, 20, uses), &[]);
        store.add(object(Kind::Manifest, 1000, STORED, 20, uses), &[copied]);
        store.set_in_bucket(copied, true);
        let first = if leaves { copied } else { only_here - 1 };
        assert_eq!(choose(&store, NOW, bytes(1)), [first], "{uses} uses");
    }
}

#[test]
fn image_with_one_blob_outside_the_bucket_leaves_whole_and_later() {
    let mut store = Store::default();
    let half = store.add_image(9000, &[MIB, MIB]);
    store.set_in_bucket(half - 1, true);
    let copied = store.add_image(8000, &[MIB]);
    store.set_in_bucket(copied - 1, true);
    assert_eq!(
        choose(&store, NOW, bytes(2 * MIB)),
        [copied - 1, half - 2, half - 1]
    );
}
