//! Verifications of entries in a directory.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use rustix::fs::{Advice, fadvise};

use super::{Scratch, sample};
use crate::oci::Origin;
use crate::store::{FsStore, Key, ReadPages, Verification, VerifyOptions, layout};
use crate::sys::{Inode, is_absent};

const CHANGING: VerifyOptions = VerifyOptions {
    pages: ReadPages::Dropped,
    is_changing: true,
    images_max: 10,
};
const LOOKING: VerifyOptions = VerifyOptions {
    is_changing: false,
    ..CHANGING
};

fn open(scratch: &Scratch) -> FsStore {
    let store = FsStore::open(&scratch.0).unwrap();
    store.scan();
    store
}

fn put(store: &FsStore, key: &Key, content: &[u8]) {
    let size = content.len() as u64;
    let ingest = store.ingest(key, None, Some(size)).unwrap();
    ingest.write_at(content, 0).unwrap();
    let verified = sample::verified(key, content);
    store.commit(ingest, &verified, sample::meta(key, size)).unwrap();
}

fn data_path(scratch: &Scratch, key: &Key) -> PathBuf {
    scratch.0.join(layout::content(key))
}

fn flip(scratch: &Scratch, key: &Key, offset: u64) {
    let file = File::options()
        .read(true)
        .write(true)
        .open(data_path(scratch, key))
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0] ^= 1;
    file.write_all_at(&byte, offset).unwrap();
}

fn verify(store: &FsStore, key: &Key, options: VerifyOptions) -> Verification {
    store.verify(key, options, &mut |_| true)
}

#[test]
fn damaged_entry_is_reported_by_a_look_and_removed_by_a_change() {
    let scratch = Scratch::new();
    let store = open(&scratch);
    let content = sample::content(600_000, 1);
    let key = sample::blob(&content);
    put(&store, &key, &content);
    assert!(matches!(
        verify(&store, &key, CHANGING),
        Verification::Intact { bytes: 600_000 }
    ));
    flip(&scratch, &key, 599_999);
    for (options, is_removed) in [(LOOKING, false), (CHANGING, true)] {
        let Verification::Damaged(damage) = verify(&store, &key, options) else {
            panic!("the entry is damaged");
        };
        assert_eq!((damage.bytes, damage.is_removed), (600_000, is_removed));
        assert!(!store.is_verified(&key));
        assert_eq!(data_path(&scratch, &key).exists(), !is_removed);
    }
    assert!(matches!(verify(&store, &key, CHANGING), Verification::Absent));
    assert_eq!(store.stats().damaged_objects, 2);
    assert_eq!(store.stats().objects, 0);
}

#[test]
fn broken_pair_is_damage_and_stays_in_a_scan_that_removes_nothing() {
    let scratch = Scratch::new();
    let content = sample::content(1_000, 2);
    let key = sample::blob(&content);
    put(&open(&scratch), &key, &content);
    let data = File::options()
        .write(true)
        .open(data_path(&scratch, &key))
        .unwrap();
    data.set_len(10).unwrap();
    let store = FsStore::open(&scratch.0).unwrap();
    assert_eq!(store.scan_only().broken, 1);
    assert_eq!(store.entries_after(None, 10), std::slice::from_ref(&key));
    for (options, is_removed) in [(LOOKING, false), (CHANGING, true)] {
        let Verification::Damaged(damage) = verify(&store, &key, options) else {
            panic!("the entry is damaged");
        };
        assert!(damage.reason.contains("sizes"), "{}", damage.reason);
        assert_eq!(damage.is_removed, is_removed);
    }
    assert_eq!(store.entries_after(None, 10), []);
}

#[test]
fn entry_that_was_replaced_during_the_hash_stays() {
    let scratch = Scratch::new();
    let store = open(&scratch);
    let content = sample::content(600_000, 3);
    let key = sample::blob(&content);
    put(&store, &key, &content);
    flip(&scratch, &key, 0);
    let mut is_replaced = false;
    let verification = store.verify(&key, CHANGING, &mut |bytes| {
        // The first call precedes the open of the file.
        if bytes > 65_536 && !std::mem::replace(&mut is_replaced, true) {
            store.discard(&key, "a test");
            put(&store, &key, &content);
        }
        true
    });
    assert!(is_replaced);
    assert!(matches!(verification, Verification::Absent), "{verification:?}");
    assert!(matches!(
        verify(&store, &key, LOOKING),
        Verification::Intact { .. }
    ));
}

#[test]
fn verification_stops_before_the_next_read() {
    let scratch = Scratch::new();
    let store = open(&scratch);
    let content = sample::content(600_000, 4);
    let key = sample::blob(&content);
    put(&store, &key, &content);
    for reads in 0..4 {
        let mut left = reads;
        let verification = store.verify(&key, CHANGING, &mut |_| {
            let goes_on = left > 0;
            left -= usize::from(goes_on);
            goes_on
        });
        assert!(
            matches!(verification, Verification::Stopped),
            "{reads}: {verification:?}"
        );
    }
}

#[test]
fn entry_of_an_older_system_is_marked_by_a_change_only() {
    let scratch = Scratch::new();
    let content = sample::content(5_000, 5);
    let key = sample::blob(&content);
    drop(open(&scratch));
    std::fs::write(data_path(&scratch, &key), &content).unwrap();
    let sidecar = scratch.0.join(layout::sidecar(&key));
    std::fs::write(&sidecar, sample::unmarked(content.len())).unwrap();
    let store = open(&scratch);
    let is_marked = || {
        std::fs::read_to_string(&sidecar)
            .unwrap()
            .contains("X-Cache-Verified")
    };
    assert!(matches!(
        verify(&store, &key, LOOKING),
        Verification::Intact { .. }
    ));
    assert!(!is_marked());
    assert!(matches!(
        verify(&store, &key, CHANGING),
        Verification::Intact { .. }
    ));
    assert!(is_marked());
    assert!(store.find(&key).unwrap().is_some());
}

#[test]
fn only_content_that_this_process_has_hashed_counts_as_verified() {
    let scratch = Scratch::new();
    let content = sample::content(5_000, 6);
    let key = sample::blob(&content);
    {
        let store = open(&scratch);
        put(&store, &key, &content);
        assert!(store.is_verified(&key), "the fill has hashed the content");
    }
    assert!(!open(&scratch).is_verified(&key));
    // The scan may reach an entry later than its first request.
    let store = FsStore::open(&scratch.0).unwrap();
    assert!(!store.is_verified(&key));
    verify(&store, &key, CHANGING);
    assert!(store.is_verified(&key));
    store.scan();
    assert!(store.is_verified(&key));
    assert_eq!(store.stats().objects, 1);
}

#[test]
fn images_of_a_damaged_object_are_named_through_an_index() {
    let scratch = Scratch::new();
    let store = open(&scratch);
    let layer = sample::content(50_000, 7);
    let layer_key = sample::blob(&layer);
    put(&store, &layer_key, &layer);
    let image = format!(
        r#"{{"layers": [{{"digest": "{}", "size": 50000}}]}}"#,
        layer_key.digest()
    );
    let origin: Origin = Origin {
        namespace: "r.example".parse().unwrap(),
        repository: "a/b".parse().unwrap(),
    };
    let image_key = Key::manifest(&origin, &sample::digest(image.as_bytes()));
    put(&store, &image_key, image.as_bytes());
    let index = format!(
        r#"{{"manifests": [{{"digest": "{}", "size": 1}}]}}"#,
        image_key.digest()
    );
    let index_key = Key::manifest(&origin, &sample::digest(index.as_bytes()));
    put(&store, &index_key, index.as_bytes());
    flip(&scratch, &layer_key, 3);
    let Verification::Damaged(damage) = verify(&store, &layer_key, CHANGING) else {
        panic!("the layer is damaged");
    };
    assert_eq!(damage.images, [format!("r.example/a/b@{}", index_key.digest())]);
}

#[test]
fn pages_that_were_not_in_memory_leave_the_page_cache_again() {
    let scratch = Scratch::new();
    let store = open(&scratch);
    let content = sample::content(3 << 20, 8);
    let key = sample::blob(&content);
    put(&store, &key, &content);
    let file = File::open(data_path(&scratch, &key)).unwrap();
    file.sync_all().unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    let inode = Inode::of(&file).unwrap();
    let is_cold = |from: u64, to: u64| is_absent(&file, &inode, from << 20, (to - from) << 20);
    if !is_cold(0, 3) {
        eprintln!("SKIPPED: the file system keeps pages in memory");
        return;
    }
    // One MiB in the middle is in use.
    let _ = fadvise(&file, 0, None, Advice::Random);
    file.read_exact_at(&mut vec![0; 1 << 20], 1 << 20).unwrap();
    assert!(is_cold(0, 1) && !is_cold(1, 2) && is_cold(2, 3));
    assert!(matches!(
        verify(&store, &key, CHANGING),
        Verification::Intact { .. }
    ));
    assert!(is_cold(0, 1) && !is_cold(1, 2) && is_cold(2, 3));

    let kept = VerifyOptions {
        pages: ReadPages::Kept,
        ..CHANGING
    };
    assert!(matches!(verify(&store, &key, kept), Verification::Intact { .. }));
    assert!(!is_cold(0, 1) && !is_cold(2, 3));
}
