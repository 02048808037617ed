//! Walks over all entries in the order of their digests. The order is the same after a restart, and
//! entries that are stored or removed meanwhile do not change the order of the others.

use std::collections::{BinaryHeap, HashSet};
use std::ops::{Deref, Range};

use super::Index;
use super::removal::IndexedImage;
use crate::limits::{INDEX_SLICE_OBJECTS, INDEX_SLICE_PAUSE};
use crate::oci::{Digest, DigestPrefix};
use crate::store::Key;
use crate::store::eviction::{Kind, Objects as _};

/// Entries, with their blocks on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntrySet {
    /// In the order of the walk.
    pub keys: Vec<Key>,
    /// Bytes on the disk, an estimate of the size of the content.
    pub bytes: u64,
}

/// The place of a digest in the walk, equal for digests with the same beginning. SHA-512 digests come
/// last. Much faster to compare than digests.
type Step = (bool, DigestPrefix);

/// Returns some `count` entries whose digests follow `after`, in the order of the walk. All entries of
/// one digest are in the same part. `lock` locks the index for a slice of its objects.
pub fn entries_after<G: Deref<Target = Index>>(
    lock: impl Fn() -> G,
    after: Option<&Digest>,
    count: usize,
) -> Vec<Key> {
    let mut lowest: BinaryHeap<Step> = BinaryHeap::with_capacity(count + 1);
    for_each_slice(&lock, INDEX_SLICE_OBJECTS, |index, slice| {
        for (number, step) in index.entries(slice) {
            let is_full = lowest.len() == count;
            let is_beyond = is_full && lowest.peek().is_some_and(|last| step >= *last);
            if is_beyond || !index.is_after(number, step, after) {
                continue;
            }
            lowest.push(step);
            if is_full {
                lowest.pop();
            }
        }
    });
    let mut keys = Vec::new();
    if let Some(&last) = lowest.peek() {
        for_each_slice(&lock, INDEX_SLICE_OBJECTS, |index, slice| {
            let within = index.entries(slice);
            let within = within
                .filter(|&(number, step)| step <= last && index.is_after(number, step, after))
                .filter_map(|(number, _)| index.key(number));
            keys.extend(within);
        });
    }
    sort(&mut keys);
    keys
}

/// Calls `visit` for each `count` numbers of the index, and locks the index for each call. Other
/// threads use the index between two calls. A number that gets a new object meanwhile may be visited or
/// not.
pub(super) fn for_each_slice<G: Deref<Target = Index>>(
    lock: &impl Fn() -> G,
    count: u32,
    mut visit: impl FnMut(&Index, Range<u32>),
) {
    let mut from = 0_u32;
    loop {
        let is_last = {
            let index = lock();
            let to = index.numbers().min(from.saturating_add(count));
            if from < to {
                visit(&index, from..to);
            }
            from = to;
            to == index.numbers()
        };
        if is_last {
            return;
        }
        // The lock is not fair. Without the pause, a waiting thread could wait for all slices.
        std::thread::park_timeout(INDEX_SLICE_PAUSE);
    }
}

impl Index {
    /// Returns the number of entries, and their bytes on the disk.
    pub fn entry_totals(&self) -> (u64, u64) {
        let entries = self.entries(0..self.numbers());
        entries.fold((0, 0), |(count, bytes), (number, _)| {
            (count + 1, bytes + self.objects[number as usize].bytes())
        })
    }

    /// Returns the manifests of `images`, and all content that the manifests name.
    pub fn entries_of(&self, images: &[IndexedImage]) -> EntrySet {
        let mut found = HashSet::new();
        let mut open: Vec<u32> = images.iter().flat_map(|image| &image.numbers).copied().collect();
        while let Some(number) = open.pop() {
            if found.insert(number) {
                self.for_each_named(number, |named| open.push(named));
            }
        }
        let mut entries = EntrySet::default();
        for number in found {
            // A tag has no key.
            if let Some(key) = self.key(number) {
                entries.keys.push(key);
                entries.bytes += self.objects[number as usize].bytes();
            }
        }
        sort(&mut entries.keys);
        entries
    }

    /// The blobs and manifests among `numbers`.
    fn entries(&self, numbers: Range<u32>) -> impl Iterator<Item = (u32, Step)> + '_ {
        let objects = &self.objects[numbers.start as usize..numbers.end as usize];
        let entries = numbers
            .zip(objects)
            .filter(|(_, object)| matches!(object.kind(), Some(Kind::Blob | Kind::Manifest)));
        entries.map(|(number, object)| (number, (object.is_long(), object.prefix())))
    }

    /// Returns whether the digest of the entry `number` follows `after`.
    fn is_after(&self, number: u32, step: Step, after: Option<&Digest>) -> bool {
        let Some(after) = after else { return true };
        let first = (matches!(after, Digest::Sha512(_)), after.prefix());
        let is_higher = || self.key(number).is_some_and(|key| key.digest() > after);
        step > first || step == first && is_higher()
    }
}

fn sort(keys: &mut [Key]) {
    keys.sort_by(|a, b| (a.digest(), place(a)).cmp(&(b.digest(), place(b))));
}

/// The place of an entry among the entries of the same digest.
fn place(key: &Key) -> Option<(&str, &str)> {
    match key {
        Key::Blob(_) => None,
        Key::Manifest {
            namespace,
            repository,
            ..
        } => Some((namespace.as_str(), repository.as_str())),
    }
}
