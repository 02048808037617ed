//! The stores of a cache together.

use std::os::unix::fs::symlink;

use super::*;
use crate::config::{Registries, RegistryConfig};
use crate::store::tests::Scratch;

/// Returns the directories of registries with the names and paths of `entries`.
fn dirs(entries: &[(&str, &Path)]) -> StoreDirs {
    let entries = entries.iter().map(|(name, dir)| {
        let mut entry = RegistryConfig::named(name.parse().unwrap());
        entry.settings.cache_dir = Some(dir.to_path_buf());
        entry
    });
    StoreDirs::of(&Registries {
        entries: entries.collect(),
        ..Registries::default()
    })
}

fn open(root: &Path, dirs: StoreDirs) -> Result<Stores, OpenError> {
    Stores::open(
        StoreBounds::default(),
        root,
        dirs,
        &Live::new(Registries::default()),
        None,
    )
}

#[test]
fn registry_with_a_directory_has_its_store_and_others_have_the_default_store() {
    let scratch = Scratch::new();
    let (root, own) = (scratch.0.join("root"), scratch.0.join("own"));
    let dirs = dirs(&[("a.example", &own), ("b.example", &own)]);
    let stores = open(&root, dirs.clone()).unwrap();
    assert_eq!(stores.iter().count(), 2);
    let root_of = |registry: &str| stores.of_registry(&registry.parse().unwrap()).root().to_owned();
    assert_eq!(root_of("a.example"), own);
    assert_eq!(root_of("b.example"), own);
    assert_eq!(root_of("c.example"), root);
    assert_eq!(stores.default_store().root(), root);
    let stats = stores.stats();
    assert_eq!(stats.registry_stores.len(), 1);
    assert_eq!(stats.registry_stores[0].registries, ["a.example", "b.example"]);

    let used = open(&scratch.0.join("other"), dirs).unwrap_err();
    assert!(
        matches!(&used, OpenError::OfRegistryInUse(dir) if *dir == own),
        "{used}"
    );
    assert!(used.is_in_use());
}

#[test]
fn directory_that_is_equal_to_or_inside_or_around_another_is_refused() {
    let scratch = Scratch::new();
    let root = scratch.0.join("root");
    fs::create_dir_all(root.join("deep")).unwrap();
    let link = scratch.0.join("link");
    symlink(&root, &link).unwrap();
    for (dir, relation) in [
        (root.clone(), "is the same directory as"),
        (root.join("deep/below"), "is inside"),
        (scratch.0.clone(), "contains"),
        (link.clone(), "is the same directory as"),
        (link.join("deep"), "is inside"),
        (scratch.0.join("absent/../root"), "is the same directory as"),
    ] {
        let error = open(&root, dirs(&[("a.example", &dir)])).unwrap_err().to_string();
        assert!(error.contains(relation), "{}: {error}", dir.display());
        assert!(error.contains("set cache_dir to a directory outside"), "{error}");
        assert!(!root.join("blobs").exists(), "nothing is created");
    }
    let (one, two) = (scratch.0.join("one"), scratch.0.join("one/two"));
    let error = open(&root, dirs(&[("a.example", &one), ("b.example", &two)])).unwrap_err();
    assert!(matches!(error, OpenError::Overlaps { .. }), "{error}");
}

#[test]
fn pins_of_each_store_are_pins_of_all_stores() {
    let scratch = Scratch::new();
    let (root, own) = (scratch.0.join("root"), scratch.0.join("own"));
    let pin = |text| Pin::parse(text).unwrap();
    FsStore::open(&root).unwrap().pin(pin("a.example/x:1")).unwrap();
    FsStore::open(&own).unwrap().pin(pin("b.example/y:1")).unwrap();

    let stores = open(&root, dirs(&[("b.example", &own)])).unwrap();
    let texts = |store: &FsStore| store.pinned().texts();
    for store in stores.iter() {
        assert_eq!(texts(store), ["a.example/x:1", "b.example/y:1"]);
    }
    assert!(stores.pin(&pin("c.example/*")).unwrap());
    assert!(!stores.pin(&pin("c.example/*")).unwrap());
    assert!(stores.unpin(&pin("a.example/x:1")).unwrap());
    for store in stores.iter() {
        assert_eq!(texts(store), ["b.example/y:1", "c.example/*"]);
    }
    drop(stores);
    assert_eq!(
        FsStore::open(&own).unwrap().pinned().texts(),
        ["b.example/y:1", "c.example/*"]
    );
}

#[test]
fn command_leaves_out_an_absent_store_of_a_registry_and_creates_none() {
    let scratch = Scratch::new();
    let (root, own) = (scratch.0.join("root"), scratch.0.join("own"));
    drop(FsStore::open(&root).unwrap());
    let open = || Stores::open_existing(StoreBounds::default(), &root, dirs(&[("a.example", &own)]));
    assert_eq!(open().unwrap().iter().count(), 1);
    assert!(!own.exists());
    drop(FsStore::open(&own).unwrap());
    assert_eq!(open().unwrap().iter().count(), 2);
}
