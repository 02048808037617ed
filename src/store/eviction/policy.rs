//! The eviction policy: images, not files.
//!
//! Blobs wait in two queues. *Probation* holds the blobs of one use, *main* the blobs with a later
//! use. Blobs leave probation while its share of the bytes exceeds [`PROBATION_SHARE`], and
//! otherwise the main queue. Within a queue the image with the longest expected wait for its next
//! use leaves first. The wait is the mean interval between the uses so far, or half the time since
//! the last use if this is longer. Order by last use alone would let one scan of all images replace
//! the images of each hour.
//!
//! A blob that one manifest names has the history of its manifest. A client with some layers of an
//! image requests the other layers only, and a kubelet with the whole image requests the manifest
//! only. The manifest also outlives its blobs, so that blobs that return have their history again.
//! A blob that several manifests name has the shortest wait of these manifests and of itself. All
//! blobs with the history of one manifest leave together, so that the rest are complete images.
//!
//! The loss of a blob that the bucket behind the directory has costs a read of the bucket, instead of
//! a download from a registry. An image whose candidates are all in the bucket therefore leaves before
//! the other images of its queue, unless its wait is [`BUCKET_COST_SHARE`] times shorter.
//!
//! Metadata (manifests, tags, and blobs of at most [`METADATA_BLOB_BYTES_MAX`]) frees little room
//! and costs an upstream request each. Metadata leaves last, or if it exceeds its budget. Of the
//! metadata the least recently used leaves first.

use std::cmp::Reverse;

use super::Minute;
use crate::limits::{
    BUCKET_COST_SHARE, EVICTION_AGE_MIN, METADATA_BLOB_BYTES_MAX, NEW_USE_INTERVAL, PROBATION_SHARE,
};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    Blob,
    Manifest,
    Tag,
}

/// A stored object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Object {
    pub kind: Kind,
    /// Bytes on the disk.
    pub bytes: u64,
    pub stored: Minute,
    /// The last use, at least `stored`.
    pub used: Minute,
    /// The uses since `counted`, by [`Minute::is_another_use`], at least 1. At least 2 if a use
    /// followed the first.
    pub uses: u16,
    /// The moment from which `uses` counts: `stored`, or the start of the process if it is later.
    pub counted: Minute,
    /// Whether the bucket behind the directory surely has the object.
    pub is_in_bucket: bool,
}

impl Object {
    fn is_metadata(&self) -> bool {
        self.kind != Kind::Blob || self.bytes <= METADATA_BLOB_BYTES_MAX
    }

    fn is_reused(&self) -> bool {
        self.uses > 1
    }

    /// Returns the expected seconds until the next use.
    fn wait(&self, now: Minute) -> u32 {
        // Few uses prove little: the assumed interval keeps a new object from a short wait.
        let age = u64::from(now.since(self.counted)) * 60 + NEW_USE_INTERVAL.as_secs();
        let idle = u64::from(now.since(self.used)) * 60;
        let wait = (age / u64::from(self.uses.max(1))).max(idle / 2);
        u32::try_from(wait).unwrap_or(u32::MAX)
    }
}

/// The stored objects. Each has a number below [`Objects::numbers`].
pub trait Objects {
    /// One more than the largest number in use.
    fn numbers(&self) -> u32;

    /// Returns the object `number`. `None` for an unused number.
    fn get(&self, number: u32) -> Option<Object>;

    /// Calls `visit` with each stored object that the manifest or tag `number` names.
    fn for_each_named(&self, number: u32, visit: impl FnMut(u32));

    /// Returns whether the object may never be evicted.
    fn is_pinned(&self, _number: u32) -> bool {
        false
    }
}

/// The room that an eviction must make.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Need {
    pub bytes: u64,
    /// Files, on a file system that runs out of inodes.
    pub files: u64,
    /// The budget of the metadata, in bytes.
    pub metadata_bytes_max: u64,
}

/// The use of an object by itself and by the manifests that name it.
#[derive(Clone, Copy)]
pub struct Use {
    pub last: Minute,
    /// The expected seconds until the next use.
    wait: u32,
    /// The number of the manifest whose history the blob has, or the number of the object.
    owner: u32,
    is_reused: bool,
    /// Whether several manifests name the blob.
    is_shared: bool,
}

/// Returns the numbers of the objects to evict, in the order of their removal. Makes all the room
/// of `need` unless too few objects may be evicted. Objects stored or used within
/// [`EVICTION_AGE_MIN`], and pinned objects, are never evicted.
pub fn choose(objects: &impl Objects, now: Minute, need: Need) -> Vec<u32> {
    let uses = uses(objects, now);
    let Queues {
        mut probation,
        mut main,
        mut metadata,
    } = queues(objects, &uses, now);
    for queue in [&mut probation, &mut main] {
        let lacks_copy = owners_without_copy(objects, &uses, &queue.candidates);
        queue.candidates.sort_unstable_by_key(|&number| {
            let used = &uses[number as usize];
            let last = uses[used.owner as usize].last;
            let wait = match lacks_copy[used.owner as usize] {
                true => u64::from(used.wait),
                false => u64::from(used.wait) * BUCKET_COST_SHARE,
            };
            (Reverse(wait), last, used.owner, number)
        });
    }
    let mut choice = Choice {
        objects,
        uses: &uses,
        need,
        victims: Vec::new(),
        bytes: 0,
    };
    let share = (probation.bytes + main.bytes) / PROBATION_SHARE;
    let surplus = probation.bytes.saturating_sub(share);
    let rest = choice.take(&probation.candidates, |choice| choice.bytes >= surplus);
    choice.take(&main.candidates, |_| false);
    choice.take(rest, |_| false);
    // Metadata beyond its budget leaves even if blobs have made the room.
    let (before, budget) = (choice.bytes, need.metadata_bytes_max);
    let surplus = if metadata.bytes > budget {
        metadata.bytes - (budget - budget / 20)
    } else {
        0
    };
    // Most objects are metadata, and most evictions take none. The sort would be most of the work.
    if surplus > 0 || !choice.is_enough() {
        metadata.candidates.sort_unstable_by_key(|&number| {
            let owner = uses[number as usize].owner;
            let kind = objects.get(number).map(|object| object.kind);
            (uses[owner as usize].last, kind, number)
        });
        choice.take_metadata(&metadata.candidates, |choice| choice.bytes - before >= surplus);
    }
    choice.victims
}

/// Returns for each number whether the bucket may lack a candidate of this owner.
fn owners_without_copy(objects: &impl Objects, uses: &[Use], candidates: &[u32]) -> Vec<bool> {
    let mut lacks_copy = vec![false; uses.len()];
    for &number in candidates {
        let is_in_bucket = objects.get(number).is_some_and(|object| object.is_in_bucket);
        lacks_copy[uses[number as usize].owner as usize] |= !is_in_bucket;
    }
    lacks_copy
}

fn queues(objects: &impl Objects, uses: &[Use], now: Minute) -> Queues {
    let mut queues = Queues::default();
    for number in 0..objects.numbers() {
        let Some(object) = objects.get(number) else {
            continue;
        };
        let used = &uses[number as usize];
        let queue = match (object.is_metadata(), used.is_reused) {
            (true, _) => &mut queues.metadata,
            (false, false) => &mut queues.probation,
            (false, true) => &mut queues.main,
        };
        queue.bytes += object.bytes;
        let is_recent = is_recent(now, object.stored) || is_recent(now, used.last);
        if !is_recent && !objects.is_pinned(number) {
            queue.candidates.push(number);
        }
    }
    queues
}

/// Returns whether content that was stored or used at `moment` may belong to a running pull.
pub fn is_recent(now: Minute, moment: Minute) -> bool {
    u64::from(now.since(moment)) * 60 < EVICTION_AGE_MIN.as_secs()
}

#[derive(Default)]
struct Queues {
    probation: Queue,
    main: Queue,
    metadata: Queue,
}

#[derive(Default)]
struct Queue {
    /// Bytes of all objects of the queue.
    bytes: u64,
    /// Objects that may be evicted.
    candidates: Vec<u32>,
}

/// The victims so far.
struct Choice<'a, O> {
    objects: &'a O,
    uses: &'a [Use],
    need: Need,
    victims: Vec<u32>,
    bytes: u64,
}

impl<O: Objects> Choice<'_, O> {
    fn is_enough(&self) -> bool {
        self.bytes >= self.need.bytes && self.victims.len() as u64 >= self.need.files
    }

    /// Takes candidates, whole images, until there is enough room or `until` returns true. Returns
    /// the rest.
    fn take<'c>(&mut self, candidates: &'c [u32], until: impl Fn(&Self) -> bool) -> &'c [u32] {
        self.take_while(candidates, |choice| !choice.is_enough() && !until(choice))
    }

    /// Takes candidates until there is enough room and `until` returns true.
    fn take_metadata(&mut self, candidates: &[u32], until: impl Fn(&Self) -> bool) {
        self.take_while(candidates, |choice| !choice.is_enough() || !until(choice));
    }

    fn take_while<'c>(&mut self, candidates: &'c [u32], goes_on: impl Fn(&Self) -> bool) -> &'c [u32] {
        let mut owner = None;
        for (at, &number) in candidates.iter().enumerate() {
            let next = Some(self.uses[number as usize].owner);
            // The rest of a begun image leaves too.
            if owner != next && !goes_on(self) {
                return &candidates[at..];
            }
            owner = next;
            self.victims.push(number);
            self.bytes += self.objects.get(number).map_or(0, |object| object.bytes);
        }
        &[]
    }
}

/// Levels of indexes above an image. Real indexes name images, and a few name indexes.
const INDEX_LEVELS_MAX: usize = 2;

/// Returns the use of each object, by number.
pub fn uses(objects: &impl Objects, now: Minute) -> Vec<Use> {
    let own = |number| {
        let object = objects.get(number);
        Use {
            last: object.map_or(Minute(0), |object| object.used),
            wait: object.map_or(u32::MAX, |object| object.wait(now)),
            owner: number,
            is_reused: object.is_some_and(|object| object.is_reused()),
            is_shared: false,
        }
    };
    let mut uses: Vec<Use> = (0..objects.numbers()).map(own).collect();
    let manifests: Vec<u32> = numbers_of(objects, Kind::Manifest).collect();
    use_images_by_indexes(objects, &manifests, &mut uses);
    for manifest in manifests {
        let by = uses[manifest as usize];
        objects.for_each_named(manifest, |named| {
            if let Some(blob) = objects.get(named).filter(|object| object.kind == Kind::Blob) {
                use_blob_by_manifest(&mut uses[named as usize], by, named, || {
                    (blob.wait(now), blob.is_reused())
                });
            }
        });
    }
    // A tag is used with its manifest.
    for tag in numbers_of(objects, Kind::Tag) {
        objects.for_each_named(tag, |manifest| {
            let last = uses[manifest as usize].last;
            let used = &mut uses[tag as usize];
            used.last = used.last.max(last);
        });
    }
    uses
}

fn numbers_of(objects: &impl Objects, kind: Kind) -> impl Iterator<Item = u32> {
    let is_of_kind = move |&number: &u32| objects.get(number).is_some_and(|object| object.kind == kind);
    (0..objects.numbers()).filter(is_of_kind)
}

/// A use of an index is a use of its images. An index stays as long as one of its images.
fn use_images_by_indexes(objects: &impl Objects, manifests: &[u32], uses: &mut [Use]) {
    let is_manifest = |number| {
        objects
            .get(number)
            .is_some_and(|object| object.kind == Kind::Manifest)
    };
    let is_index = |&&manifest: &&u32| {
        let mut names_manifest = false;
        objects.for_each_named(manifest, |named| names_manifest |= is_manifest(named));
        names_manifest
    };
    let indexes: Vec<u32> = manifests.iter().filter(is_index).copied().collect();
    for _ in 0..INDEX_LEVELS_MAX {
        for &index in &indexes {
            let by = uses[index as usize];
            objects.for_each_named(index, |named| {
                let used = &mut uses[named as usize];
                if is_manifest(named) {
                    used.last = used.last.max(by.last);
                    used.wait = used.wait.min(by.wait);
                    used.is_reused |= by.is_reused;
                }
            });
        }
    }
    for _ in 0..INDEX_LEVELS_MAX {
        for &index in &indexes {
            let mut last = uses[index as usize].last;
            objects.for_each_named(index, |named| {
                if is_manifest(named) {
                    last = last.max(uses[named as usize].last);
                }
            });
            uses[index as usize].last = last;
        }
    }
}

/// Adds the use `by` of a manifest to its blob. `own` returns the wait of the blob by itself, and
/// whether the blob is reused.
fn use_blob_by_manifest(used: &mut Use, by: Use, blob: u32, own: impl Fn() -> (u32, bool)) {
    let manifest = by.owner;
    used.last = used.last.max(by.last);
    if !used.is_shared && used.owner == blob {
        (used.owner, used.wait, used.is_reused) = (manifest, by.wait, by.is_reused);
        return;
    }
    // Manifests may name a layer twice.
    if used.owner == manifest {
        return;
    }
    let (own_wait, is_reused) = own();
    used.is_shared = true;
    used.is_reused |= by.is_reused || is_reused;
    if by.wait < used.wait {
        (used.owner, used.wait) = (manifest, by.wait);
    }
    if own_wait < used.wait {
        (used.owner, used.wait) = (blob, own_wait);
    }
}
