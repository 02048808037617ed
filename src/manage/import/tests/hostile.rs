//! Archives that combine hostile names, kinds, sizes, extensions and descriptions. Each archive is refused with a
//! reason, or its hostile entry is ignored. No archive changes a file outside of the store.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::limits::{ARCHIVE_EXTENSION_BYTES_MAX, BUNDLE_JSON_BYTES_MAX};

const BLOCK: usize = 512;

/// One raw entry of a tar file.
#[derive(Clone)]
struct Raw {
    name: Vec<u8>,
    kind: u8,
    target: Vec<u8>,
    content: Vec<u8>,
    /// The size in the header, if it differs from the bytes of the content.
    stated: Option<u64>,
}

/// A hostile property, with the entries that have the property.
type Part = (String, Vec<Raw>);

fn raw(kind: u8, name: impl Into<Vec<u8>>, content: impl Into<Vec<u8>>) -> Raw {
    Raw {
        name: name.into(),
        kind,
        target: Vec::new(),
        content: content.into(),
        stated: None,
    }
}

fn block_of(entry: &Raw) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let put = |block: &mut [u8; BLOCK], at: usize, bytes: &[u8]| {
        let length = bytes.len().min(100);
        block[at..at + length].copy_from_slice(&bytes[..length]);
    };
    put(&mut block, 0, &entry.name);
    put(&mut block, 157, &entry.target);
    block[156] = entry.kind;
    block[257..263].copy_from_slice(b"ustar\0");
    let size = entry.stated.unwrap_or(entry.content.len() as u64);
    // The binary form of GNU tar holds each size.
    block[124] = 0x80;
    block[128..136].copy_from_slice(&size.to_be_bytes());
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn tar_of(entries: &[Raw]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend_from_slice(&block_of(entry));
        bytes.extend_from_slice(&entry.content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    }
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let mut length = key.len() + value.len() + 3;
    while length.to_string().len() + key.len() + value.len() + 3 != length {
        length += 1;
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// Entries with one name each: in the header, as a long name of GNU tar, and in an extension.
fn named_entries(sentinel: &Path) -> Vec<Part> {
    let sentinel = sentinel.to_str().expect("a path is text");
    let deep = "d/".repeat(5_000);
    let up = "../".repeat(40) + "tmp/x";
    let names: [&[u8]; 12] = [
        b"../sentinel",
        b"a/../../sentinel",
        sentinel.as_bytes(),
        b"blobs/sha256/../../../sentinel",
        up.as_bytes(),
        deep.as_bytes(),
        b"index.json/../../x",
        b"\xff\xfe",
        b"a\0/../../sentinel",
        b"",
        b"./",
        b"..\\sentinel",
    ];
    let kinds = [b'0', b'1', b'2', b'3', b'4', b'5', b'6', b'7', b'S', b'Z', 0];
    let targets: [&[u8]; 3] = [b"../../sentinel", b"/etc/passwd", b"index.json"];
    let mut parts = Vec::new();
    for (number, name) in (0..).zip(names) {
        for kind in kinds {
            let target = targets[usize::from(kind) % targets.len()];
            let entry = |name: &[u8]| Raw {
                target: target.to_vec(),
                ..raw(kind, name, if kind == b'0' { "content" } else { "" })
            };
            let label = |form: &str| format!("name {number} of type {kind} {form}");
            parts.push((label("in the header"), vec![entry(name)]));
            let long = raw(b'L', "././@LongLink", [name, b"\0"].concat());
            parts.push((label("as a long name"), vec![long, entry(b"a")]));
            let pax = raw(b'x', "pax", record("path", name));
            parts.push((label("in an extension"), vec![pax, entry(b"a")]));
            let link = raw(b'K', "././@LongLink", [name, b"\0"].concat());
            parts.push((label("as a target"), vec![link, entry(b"a")]));
        }
    }
    parts
}

/// Entries whose sizes or extensions lie.
fn lying_entries() -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let large = vec![b'a'; ARCHIVE_EXTENSION_BYTES_MAX as usize + 1];
    for kind in [b'0', b'1', b'5', b'L', b'K', b'x', b'g', b'Z'] {
        for stated in [0, 1, 511, 1 << 20, 1 << 40, i64::MAX as u64, 1 << 63, u64::MAX] {
            let lie = Raw {
                stated: Some(stated),
                ..raw(kind, "blobs/sha256/x", "content")
            };
            parts.push((format!("size {stated} of type {kind}"), vec![lie]));
        }
        parts.push((
            format!("large content of type {kind}"),
            vec![raw(kind, "large", large.clone())],
        ));
    }
    let values: [(&str, &[u8]); 8] = [
        ("size", b"18446744073709551615"),
        ("size", b"-1"),
        ("size", b"1099511627776"),
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.realsize", b"99999999999"),
        ("GNU.sparse.map", b"0,1"),
        ("linkpath", b"../../sentinel"),
        ("SCHILY.xattr.security.capability", b"\x01"),
    ];
    for (key, value) in values {
        for kind in [b'x', b'g'] {
            let pax = raw(kind, "pax", record(key, value));
            parts.push((
                format!("record {key} {kind}"),
                vec![pax, raw(b'0', "file", "content")],
            ));
        }
    }
    let many = record("comment", b"x").repeat(2_000);
    parts.push(("many records".to_owned(), vec![raw(b'x', "pax", many)]));
    parts.push((
        "extensions of extensions".to_owned(),
        vec![raw(b'x', "pax", record("path", b"../a")); 500],
    ));
    parts
}

/// Files that describe images, and links in loops.
fn described_entries() -> Vec<Part> {
    let digest = digest(b"x");
    let deep = "[".repeat(200_000);
    let objects = "{\"a\":".repeat(100_000);
    let wide = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        vec![
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"{digest}","size":2}}"#
            );
            5_000
        ]
        .join(",")
    );
    let sizes = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"x","digest":"{digest}","size":18446744073709551616}}]}}"#
    );
    let escaping =
        r#"[{"Config":"../../sentinel","RepoTags":["../../sentinel:v1"],"Layers":["/etc/passwd","loop"]}]"#;
    let twice = r#"{"schemaVersion":2,"schemaVersion":3,"manifests":[],"manifests":{}}"#;
    let mut parts = Vec::new();
    for name in [INDEX_JSON, BUNDLE_JSON, "manifest.json"] {
        for json in [
            &*deep, &*objects, &*wide, &*sizes, escaping, twice, "", "null", "\u{0}",
        ] {
            let shown: String = json.chars().take(20).collect();
            parts.push((format!("{name} with {shown:?}"), vec![raw(b'0', name, json)]));
        }
        let endless = Raw {
            stated: Some(BUNDLE_JSON_BYTES_MAX + 1),
            ..raw(b'0', name, "{")
        };
        parts.push((format!("an endless {name}"), vec![endless]));
        parts.push((
            format!("two files {name}"),
            vec![raw(b'0', name, wide.clone()); 2],
        ));
    }
    let link = |name: &str, target: &str| Raw {
        target: target.as_bytes().to_vec(),
        ..raw(b'2', name, "")
    };
    let archive = raw(
        b'0',
        "manifest.json",
        r#"[{"Config":"a","RepoTags":["app:v1"],"Layers":["a","self"]}]"#,
    );
    let links = [
        link("a", "b"),
        link("b", "a"),
        link("self", "self"),
        link("up", "../up"),
    ];
    parts.push(("links in loops".to_owned(), [&links[..], &[archive]].concat()));
    parts.push((
        "equal paths".to_owned(),
        vec![raw(b'0', "same", "1"), raw(b'0', "same", "2")],
    ));
    parts
}

/// Returns the bytes, plain or compressed by `packing`.
fn packed(bytes: &[u8], packing: usize) -> Vec<u8> {
    match packing {
        0 => bytes.to_vec(),
        1 => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        _ => zstd::encode_all(bytes, 1).unwrap(),
    }
}

/// The files below `root` outside of `store`, with their contents.
fn files_outside(root: &Path, store: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path == store {
                continue;
            }
            match fs::symlink_metadata(&path).unwrap().is_dir() {
                true => open.push(path),
                false => drop(files.insert(path.clone(), fs::read(path).unwrap())),
            }
        }
    }
    files
}

/// Reads an archive into the store. Returns the objects and the ignored entries.
fn taken(store: &Arc<FsStore>, archive: Vec<u8>) -> Result<(usize, u64), ImportError> {
    let rule = ImportRule::default();
    let mut intake = Intake::new(store, &store.temporary_dir(), &rule).unwrap();
    intake.read(decoded(Cursor::new(archive)).map_err(|error| ImportError::Read(error.into()))?)?;
    let counts = (intake.contents.objects.len(), intake.contents.ignored);
    ArchiveImages::of(&mut intake, &rule)?;
    Ok(counts)
}

#[test]
fn hostile_archive_is_refused_with_a_reason_or_its_hostile_entry_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let sentinel = dir.path().join("sentinel");
    fs::write(&sentinel, "unchanged").unwrap();
    let store = Arc::new(FsStore::open(&root).unwrap());
    let before = files_outside(dir.path(), &root);
    let parts = [named_entries(&sentinel), lying_entries(), described_entries()].concat();
    assert!(parts.len() >= 500, "{} parts", parts.len());
    let good = [
        raw(b'0', INDEX_JSON, r#"{"schemaVersion":2,"manifests":[]}"#),
        raw(b'0', blob_path(&digest(b"good")).as_bytes(), b"good".as_slice()),
    ];
    let (mut refused, mut ignored) = (0, 0);
    for (number, (name, entries)) in parts.iter().enumerate() {
        let bytes = tar_of(&[&good[1..], entries, &good[..1]].concat());
        match taken(&store, packed(&bytes, number % 3)) {
            Err(error) => {
                assert!(!error.to_string().is_empty(), "{name}");
                refused += 1;
            }
            Ok((objects, _)) => {
                // The good content, and at most one object for each entry.
                assert!((1..=entries.len() + 1).contains(&objects), "{name}: {objects}");
                ignored += 1;
            }
        }
        assert_eq!(files_outside(dir.path(), &root), before, "{name}");
    }
    assert!(
        refused >= 200 && ignored >= 50,
        "{refused} refused, {ignored} ignored"
    );
}
