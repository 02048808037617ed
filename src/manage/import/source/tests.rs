//! Directories and split bundles as streams.

use std::fs;

use super::*;
use crate::manage::archive::Entries;
use crate::manage::bundle::format::{BundleVolume, BundleVolumes};
use crate::oci::{Algorithm, Digest};

fn read_all(mut source: ImportSource) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.reader.read_to_end(&mut bytes)?;
    if let Some(length) = source.bytes {
        assert_eq!(bytes.len() as u64, length, "the announced length");
    }
    Ok(bytes)
}

fn names(bytes: &[u8]) -> Vec<String> {
    let mut entries = Entries::new(bytes);
    let mut names = Vec::new();
    while let Some(entry) = entries.next().unwrap() {
        names.push(entry.path);
    }
    names
}

#[test]
fn directory_is_read_as_a_tar_file() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(120);
    for (name, content) in [
        ("index.json", "{}"),
        ("blobs/sha256/a", ""),
        (&*format!("blobs/{long}"), "abc"),
    ] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("blobs/link")).unwrap();
    let bytes = read_all(ImportSource::open(dir.path(), None).unwrap()).unwrap();
    assert_eq!(
        names(&bytes),
        ["blobs/sha256/a", &format!("blobs/{long}"), "index.json"]
    );
}

#[test]
fn directory_of_another_kind_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        ImportSource::open(dir.path(), None),
        Err(SourceError::Unknown(_))
    ));
    fs::create_dir_all(dir.path().join("docker/registry/v2/blobs")).unwrap();
    assert_eq!(ForeignStore::of(dir.path()), Some(ForeignStore::Distribution));
    assert!(matches!(
        ImportSource::open(dir.path(), None),
        Err(SourceError::NoRegistry(_))
    ));
    let own = tempfile::tempdir().unwrap();
    for name in ["blobs", "manifests", ".tmp"] {
        fs::create_dir(own.path().join(name)).unwrap();
    }
    assert_eq!(ForeignStore::of(own.path()), None, "a store of this cache");
}

#[test]
fn damaged_volume_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let parts = ["first", "second", "third"];
    let volumes = (0..).zip(parts).map(|(number, content)| {
        let name = format!("b.tar.{number:03}");
        fs::write(dir.path().join(&name), content).unwrap();
        BundleVolume {
            name,
            size: content.len() as u64,
            digest: Digest::of(Algorithm::Sha256, content.as_bytes()),
        }
    });
    let list = BundleVolumes::new(volumes.collect());
    fs::write(dir.path().join("b.tar.volumes.json"), list.to_json()).unwrap();
    for name in ["b.tar.volumes.json", "b.tar.001"] {
        let source = ImportSource::open(&dir.path().join(name), None).unwrap();
        assert_eq!(read_all(source).unwrap(), b"firstsecondthird", "{name}");
    }
    for content in ["sEcond", "sec", "second and more"] {
        fs::write(dir.path().join("b.tar.001"), content).unwrap();
        let source = ImportSource::open(&dir.path().join("b.tar.000"), None).unwrap();
        let error = read_all(source).unwrap_err().to_string();
        assert!(error.contains("the volume b.tar.001 is damaged"), "{error}");
    }
    fs::remove_file(dir.path().join("b.tar.002")).unwrap();
    fs::write(dir.path().join("b.tar.001"), "second").unwrap();
    let source = ImportSource::open(&dir.path().join("b.tar.000"), None).unwrap();
    let error = read_all(source).unwrap_err().to_string();
    assert!(error.contains("b.tar.002"), "{error}");
}
