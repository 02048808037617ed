//! Contract tests, written once and run on every store. The stores are a directory, a bucket, a
//! directory in front of a bucket (`cache/tests`), and a minimal in-memory store.
//!
//! The contract is at the head of [`super`]. If a case passes in one store and fails in another,
//! the other store has a bug. Otherwise the case is not part of the contract and must be removed.

mod bucket;
pub(crate) mod cases;
mod disk;
mod eviction_policy;
mod eviction_simulator;
mod index;
mod index_large;
mod index_sample;
mod index_slices;
mod index_walk;
mod memory;
mod removal;
mod repository_dirs;
mod room;
pub(crate) mod sample;
pub(crate) mod shared;
mod sources;
mod sources_policy;
mod verify;

use std::fs;
use std::path::Path;

pub(crate) use super::s3::tests::engine::{Act, ENGINE_NAME_MAX, Engine, Scratch};
use super::{Key, Meta, ReferrersRecord, Source, TagPointer, Verified};
use sample::{RecordOf, TagName};

/// The interface of a store under test. Clones refer to the same store.
pub(crate) trait Shelf: Clone {
    /// Content being received.
    type Ingest;

    async fn begin(&self, key: &Key, size: Option<u64>) -> Self::Ingest;
    /// Appends `bytes`.
    async fn write(&self, ingest: &mut Self::Ingest, bytes: &[u8]);
    /// Returns the error message of a failed commit.
    async fn commit(&self, ingest: Self::Ingest, verified: Verified, meta: Meta) -> Result<(), String>;
    async fn find(&self, key: &Key) -> Option<Meta>;
    /// Reads a part of a found entry.
    async fn read(&self, key: &Key, from: u64, to: u64) -> Vec<u8>;
    async fn record_source(&self, key: &Key, source: &Source, public: bool);
    /// Hashes an entry again.
    async fn recheck(&self, key: &Key);
    async fn tag(&self, tag: &TagName) -> Option<TagPointer>;
    async fn set_tag(&self, tag: &TagName, pointer: &TagPointer);
    async fn record(&self, of: &RecordOf) -> Option<ReferrersRecord>;
    /// Replaces a record, or removes it.
    async fn set_record(&self, of: &RecordOf, record: Option<&ReferrersRecord>);
}

/// The storage of a store, with the names of the storage format. A place may hold several copies of
/// all content.
pub(crate) trait Place: Sized {
    type Shelf: Shelf;
    /// Longest name, in bytes, supported by the medium of the tests.
    const NAME_MAX: usize = usize::MAX;

    /// Creates an empty place.
    async fn make() -> Self;
    /// Opens the store without any in-memory state, like a new process. Previously opened stores
    /// are dropped by then.
    async fn open(&self) -> Self::Shelf;
    /// Returns all stored names, sorted, without files of the medium itself.
    fn names(&self) -> Vec<String>;
    /// Returns the content stored under `name`, once per copy.
    fn copies(&self, name: &str) -> Vec<Vec<u8>>;
    /// Writes content without the store.
    fn plant(&self, name: &str, bytes: &[u8]);
    /// Removes content without the store.
    fn remove(&self, name: &str);
}

/// A place used by several machines at once.
pub(crate) trait SharedPlace: Place {
    /// Opens the store of a further machine.
    async fn machine(&self) -> Self::Shelf;
}

/// Generates a test of each case for one kind of place.
macro_rules! keeps_the_contract {
    ($place:ty) => {
        $crate::store::tests::each_case! { cases, $place:
            content_of_every_size_is_read_as_it_was_written
            every_part_of_an_entry_can_be_read
            digests_of_every_kind_name_content
            names_and_sidecars_are_those_of_the_format
            manifests_belong_to_their_repository_and_blobs_to_all
            a_repository_named_like_a_content_file_is_kept_apart
            an_ingest_is_invisible_and_leaves_nothing_when_dropped
            an_ingest_that_is_not_what_was_verified_is_not_committed
            the_second_of_two_commits_is_no_error_and_adds_what_it_knows
            ingests_of_the_same_content_at_once_leave_one_entry
            another_process_finds_all_of_it
            halves_are_misses_and_heal_with_the_next_commit
            a_sidecar_that_does_not_fit_is_removed_with_its_data
            an_unmarked_pair_is_hashed_before_it_is_found_and_then_marked
            an_unmarked_pair_that_is_wrong_is_removed
            sources_are_added_up_to_their_bound_and_public_stays
            no_source_is_recorded_for_what_is_not_there
            hashing_again_removes_what_has_changed_and_nothing_else
            a_tag_is_replaced_as_a_whole
            tags_of_every_spelling_and_class_are_kept_apart
            a_pointer_that_cannot_be_read_is_none_and_heals
            a_record_is_replaced_as_a_whole_and_removed
            records_of_every_kind_are_kept_apart
            a_record_that_cannot_be_read_is_none_and_heals
        }
    };
}

/// Generates a test of each case for one kind of shared place.
macro_rules! keeps_the_contract_of_machines {
    ($place:ty) => {
        $crate::store::tests::each_case! { shared, $place:
            what_one_machine_stores_all_find
            machines_that_store_the_same_at_once_leave_one_sound_copy
            the_last_pointer_of_a_tag_is_found_by_all
            a_record_that_one_machine_writes_all_find
        }
    };
}

macro_rules! each_case {
    ($list:ident, $place:ty: $($case:ident)*) => {
        mod $list {
            use super::*;
            $(
                #[tokio::test]
                async fn $case() {
                    $crate::store::tests::$list::$case::<$place>().await;
                }
            )*
        }
    };
}

pub(crate) use {each_case, keeps_the_contract, keeps_the_contract_of_machines};

/// Generates tests of a store that reads content copied, name by name, from another kind of store.
macro_rules! copies_are_understood {
    ($($name:ident: $from:ty => $to:ty)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                cases::what_was_written_here_is_found_there::<$from, $to>().await;
            }
        )*
    };
}

copies_are_understood! {
    a_directory_that_is_copied_into_a_bucket_is_one: disk::Disk => bucket::InBucket
    a_bucket_that_is_copied_into_a_directory_is_one: bucket::InBucket => disk::Disk
    the_format_is_all_that_a_directory_needs: memory::Memory => disk::Disk
    the_format_is_all_that_a_directory_writes: disk::Disk => memory::Memory
}

#[test]
fn content_with_another_digest_is_not_verified() {
    let (right, wrong) = (sample::digest(b"right"), sample::digest(b"wrong"));
    assert_eq!(Verified::check(right, wrong, 5).unwrap_err(), wrong);
    let verified = Verified::check(right, right, 5).unwrap();
    assert_eq!((verified.digest(), verified.size()), (&right, 5));
}

/// Returns all files below `root`, with relative paths.
pub(crate) fn files_below(root: &Path) -> Vec<String> {
    fn walk(dir: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, root, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found
}

/// Writes a file and creates its parent directories.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}
