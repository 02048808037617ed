//! Copies of an index, and the checks of planned removals, while other threads change the index
//! between the slices.

use std::cell::{Cell, Ref, RefCell};
use std::collections::HashSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::index_sample::{blob, digest, facts, image, insert_tag, manifest};
use crate::limits::INDEX_CHANGES_MAX;
use crate::oci::{Child, Descriptor, ManifestLinks};
use crate::store::eviction::{Kind, Minute, Objects as _};
use crate::store::index::{Index, IndexedImage, Leaving, ObjectName, PlannedObject, RemovalPlan, copy_of};
use crate::store::pins::{Pin, Pins};

const BLOBS: usize = 6;
const IMAGES: usize = 5;
const LISTS: usize = 3;
const TAGS: usize = 4;
const REPOSITORIES: [&str; 2] = ["a", "b"];

/// Slices of 3 objects: the samples fill some 10 slices.
const SLICE: u32 = 3;

/// A change of the index by another thread. The numbers select the content.
#[derive(Clone, Copy, Debug)]
enum Change {
    Blob(usize),
    Image(usize, usize),
    List(usize, usize),
    Tag(usize, usize, usize),
    Remove(u32),
}

fn change() -> impl Strategy<Value = Change> {
    let repository = 0..REPOSITORIES.len();
    prop_oneof![
        (0..BLOBS).prop_map(Change::Blob),
        (repository.clone(), 0..IMAGES).prop_map(|(at, name)| Change::Image(at, name)),
        (repository.clone(), 0..LISTS).prop_map(|(at, name)| Change::List(at, name)),
        (repository, 0..TAGS, 0..IMAGES + LISTS).prop_map(|(at, tag, name)| Change::Tag(at, tag, name)),
        (0..40_u32).prop_map(Change::Remove),
    ]
}

/// The content of a manifest is its name: an image names two blobs, and a list names two images and
/// another list.
fn links_of_image(name: usize) -> ManifestLinks {
    let layers = [name, name + 1].map(|layer| format!("blob {}", layer % BLOBS));
    image(&layers.each_ref().map(String::as_str))
}

fn links_of_list(name: usize) -> ManifestLinks {
    let images = [name, name + 2].map(|image| format!("manifest {}", image % IMAGES));
    let list = format!("manifest {}", IMAGES + (name + 1) % LISTS);
    let children = images.into_iter().chain([list]).map(|name| Child {
        descriptor: Descriptor {
            digest: digest(&name),
            size: 1,
        },
        platform: None,
    });
    ManifestLinks::Index(children.collect())
}

fn apply(index: &mut Index, change: Change) {
    match change {
        Change::Blob(name) => index.insert(&blob(&format!("blob {name}")), facts(1, 1), None),
        Change::Image(at, name) => {
            let key = manifest(REPOSITORIES[at], &format!("manifest {name}"));
            index.insert(&key, facts(0, 1), Some(&links_of_image(name)));
        }
        Change::List(at, name) => {
            let key = manifest(REPOSITORIES[at], &format!("manifest {}", IMAGES + name));
            index.insert(&key, facts(0, 1), Some(&links_of_list(name)));
        }
        Change::Tag(at, tag, name) => {
            let (tag, name) = (format!("v{tag}"), format!("manifest {name}"));
            insert_tag(index, REPOSITORIES[at], &tag, &name);
        }
        Change::Remove(number) => {
            if index.get(number).is_some() {
                index.remove_number(number);
            }
        }
    }
}

fn index_of(changes: &[Change]) -> Index {
    let mut index = Index::new(Minute(1));
    for &change in changes {
        apply(&mut index, change);
    }
    index
}

/// An index that other threads change before each lock.
struct Shared {
    index: RefCell<Index>,
    changes: RefCell<Vec<Change>>,
    /// The changes before each lock.
    per_lock: usize,
}

impl Shared {
    fn change(&self) {
        let mut changes = self.changes.borrow_mut();
        let rest = changes.len().saturating_sub(self.per_lock);
        for change in changes.drain(rest..) {
            apply(&mut self.index.borrow_mut(), change);
        }
    }

    fn lock(&self) -> Ref<'_, Index> {
        self.change();
        self.index.borrow()
    }
}

/// Selects images of the index, some of them by their digest.
fn select(index: &Index, selected: &[u8]) -> Vec<IndexedImage> {
    let images = index.images().into_iter().zip(selected.iter().cycle());
    let images = images.filter_map(|(image, choice)| match choice {
        0 => Some(image),
        1 => Some(image.by_digest()),
        _ => None,
    });
    images.collect()
}

/// Whether the slot of a planned object has the same object now, and the tag names the same digest.
fn is_unchanged(index: &Index, plan: &RemovalPlan, at: usize) -> bool {
    let planned = &plan.objects[at];
    let name = index.name(planned.number).map(|(name, _)| name);
    name.as_ref() == Some(&planned.name) && index.named_by_tag(planned.number) == planned.names
}

/// The objects of the plan that no staying object names: the plan without changed objects, less all
/// that the other objects name, and so on.
fn may_leave(index: &Index, plan: &RemovalPlan) -> HashSet<u32> {
    let places = 0..plan.objects.len();
    let mut leaving: HashSet<usize> = places.filter(|&at| is_unchanged(index, plan, at)).collect();
    loop {
        let numbers: HashSet<u32> = leaving.iter().map(|&at| plan.objects[at].number).collect();
        let before = leaving.len();
        for by in (0..index.numbers()).filter(|by| !numbers.contains(by)) {
            let Some(object) = index.get(by) else { continue };
            index.for_each_named(by, |named| {
                leaving.retain(|&at| {
                    let planned = &plan.objects[at];
                    let is_forced = planned.is_by_digest && object.kind != Kind::Tag;
                    planned.number != named || is_forced
                });
            });
        }
        if leaving.len() == before {
            return numbers;
        }
    }
}

/// Returns the readable state of an index: its images, its objects, and what they name.
fn state(index: &Index) -> (Vec<IndexedImage>, Vec<String>, u64, u64, usize) {
    let objects = (0..index.numbers()).map(|number| {
        let mut named = Vec::new();
        index.for_each_named(number, |other| named.push(other));
        named.sort_unstable();
        format!(
            "{number} {:?} {:?} {named:?}",
            index.name(number),
            index.get(number)
        )
    });
    let (bytes, reserved, count) = (index.bytes(), index.reserved(), index.len());
    (index.images(), objects.collect(), bytes, reserved, count)
}

proptest! {
    #[test]
    fn copy_is_the_index_of_one_moment(
        before in vec(change(), 0..60),
        between in vec(change(), 0..60),
        per_lock in 0..4_usize,
    ) {
        let shared = Shared {
            index: RefCell::new(index_of(&before)),
            changes: RefCell::new(between),
            per_lock,
        };
        shared.index.borrow_mut().reserve(None, 7);
        shared.index.borrow_mut().set_whole();
        let copy = copy_of(|| shared.lock(), SLICE);
        prop_assert!(copy.is_whole());
        prop_assert_eq!(state(&copy), state(&shared.index.borrow()));
        for name in 0..BLOBS {
            let key = blob(&format!("blob {name}"));
            prop_assert_eq!(copy.facts(&key).is_some(), shared.index.borrow().facts(&key).is_some());
        }
    }

    /// Commits and removals happen between the slices of the plan, between the plan and the removal,
    /// and between the slices and steps of the removal.
    #[test]
    fn removal_leaves_everything_that_a_staying_object_names(
        before in vec(change(), 0..80),
        between in vec(change(), 0..80),
        selected in vec(0..4_u8, 1..12),
        per_lock in 0..3_usize,
    ) {
        let shared = Shared {
            index: RefCell::new(index_of(&before)),
            changes: RefCell::new(between),
            per_lock,
        };
        let copy = copy_of(|| shared.lock(), SLICE);
        let plan = copy.plan_removal(&select(&copy, &selected));
        let mut leaving = Leaving::new(|| shared.lock(), SLICE, &plan, &Pins::default());
        let mut removed = 0;
        for at in 0..plan.objects.len() {
            shared.change();
            let mut index = shared.index.borrow_mut();
            let number = plan.objects[at].number;
            if leaving.contains(&index, at) {
                prop_assert!(may_leave(&index, &plan).contains(&number), "{:?}", plan.objects[at]);
                index.remove_number(number);
                removed += 1;
            }
        }
        prop_assert!(!leaving.is_outdated());
        if per_lock == 0 {
            prop_assert_eq!(removed, plan.objects.len(), "without a change, the whole plan leaves");
        }
    }
}

/// Stores an image with a tag, and returns the plan of its removal.
fn planned_removal(index: &mut Index) -> RemovalPlan {
    for change in [
        Change::Blob(0),
        Change::Blob(1),
        Change::Image(0, 0),
        Change::Tag(0, 0, 0),
    ] {
        apply(index, change);
    }
    let plan = index.plan_removal(&index.images());
    assert_eq!(plan.objects.len(), 4);
    plan
}

/// Returns the number of objects of `plan` that may leave.
fn count_leaving(index: &Index, plan: &RemovalPlan, pins: &Pins) -> usize {
    let mut leaving = Leaving::new(|| index, SLICE, plan, pins);
    let places = 0..plan.objects.len();
    places.filter(|&at| leaving.contains(index, at)).count()
}

#[test]
fn blob_that_is_stored_again_after_a_removal_during_the_check_stays_for_its_image() {
    let mut index = Index::default();
    let plan = planned_removal(&mut index);
    // The image came after the plan, and names the blob.
    apply(&mut index, Change::Image(1, 0));
    let planned = |planned: &PlannedObject| planned.name == ObjectName::Entry(blob("blob 0"));
    let at = plan
        .objects
        .iter()
        .position(planned)
        .expect("the plan has the blob");
    let (index, locks) = (RefCell::new(index), Cell::new(0));
    let lock = || {
        locks.set(locks.get() + 1);
        // One lock for the count of changes, two for the four objects of the plan.
        if locks.get() == 4 {
            index.borrow_mut().remove_number(plan.objects[at].number);
        }
        index.borrow()
    };
    let mut leaving = Leaving::new(lock, SLICE, &plan, &Pins::default());
    assert!(locks.get() >= 4, "{} locks", locks.get());
    let mut index = index.into_inner();
    apply(&mut index, Change::Blob(0));
    assert!(is_unchanged(&index, &plan, at), "the blob has its slot again");
    assert!(!leaving.contains(&index, at));
}

#[test]
fn blob_stays_if_an_image_was_stored_since_the_plan() {
    let mut index = Index::default();
    let plan = planned_removal(&mut index);
    assert_eq!(count_leaving(&index, &plan, &Pins::default()), 4);
    // Another image with one of the two blobs.
    apply(&mut index, Change::Image(1, 1));
    assert_eq!(count_leaving(&index, &plan, &Pins::default()), 3);
}

#[test]
fn tag_that_moved_since_the_plan_stays() {
    let mut index = Index::default();
    let plan = planned_removal(&mut index);
    apply(&mut index, Change::Tag(0, 0, 1));
    assert_eq!(count_leaving(&index, &plan, &Pins::default()), 3);
}

#[test]
fn image_with_a_new_tag_or_a_new_pin_stays_whole() {
    let mut index = Index::default();
    let plan = planned_removal(&mut index);
    let mut pins = Pins::default();
    pins.add(Pin::parse("r.example/a:v0").unwrap()).unwrap();
    assert_eq!(count_leaving(&index, &plan, &pins), 0);
    apply(&mut index, Change::Tag(0, 1, 0));
    // The first tag leaves.
    assert_eq!(count_leaving(&index, &plan, &Pins::default()), 1);
}

#[test]
fn content_used_since_the_plan_of_a_rule_stays() {
    let mut index = Index::default();
    let mut plan = planned_removal(&mut index);
    let used = digest("manifest 0").prefix();
    index.record_use(used, Minute::now());
    assert_eq!(count_leaving(&index, &plan, &Pins::default()), 4);
    plan.spares_recent = true;
    // The tag is no content of the image.
    assert_eq!(count_leaving(&index, &plan, &Pins::default()), 1);
}

#[test]
fn check_is_outdated_after_too_many_changes() {
    let mut index = Index::default();
    let plan = planned_removal(&mut index);
    let mut leaving = Leaving::new(|| &index, SLICE, &plan, &Pins::default());
    for _ in 0..INDEX_CHANGES_MAX {
        index.insert(&blob("other"), facts(1, 1), None);
    }
    assert!(!leaving.contains(&index, 0) && leaving.is_outdated());
    let mut leaving = Leaving::new(|| &index, SLICE, &plan, &Pins::default());
    assert!(leaving.contains(&index, 0) && !leaving.is_outdated());
}
