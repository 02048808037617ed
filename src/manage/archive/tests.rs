//! Archives of all forms, and hostile archives.

use std::io::{Cursor, Read, Write as _};

use super::*;
use crate::limits::{ARCHIVE_EXPANSION_FREE_BYTES, ARCHIVE_ZSTD_WINDOW_LOG_MAX};

/// One entry of a crafted archive.
struct Crafted {
    name: Vec<u8>,
    kind: u8,
    target: &'static str,
    content: Vec<u8>,
    /// The size in the header, if it differs from the size of the content.
    size: Option<u64>,
}

fn crafted(name: &str, content: &[u8]) -> Crafted {
    Crafted {
        name: name.as_bytes().to_vec(),
        kind: b'0',
        target: "",
        content: content.to_vec(),
        size: None,
    }
}

fn of_kind(kind: u8, name: &str, target: &'static str) -> Crafted {
    Crafted {
        kind,
        target,
        ..crafted(name, b"")
    }
}

fn header(entry: &Crafted) -> [u8; 512] {
    let mut block = [0; 512];
    let length = entry.name.len().min(100);
    block[..length].copy_from_slice(&entry.name[..length]);
    block[100..107].copy_from_slice(b"0000644");
    let size = entry.size.unwrap_or(entry.content.len() as u64);
    match size < 1 << 33 {
        true => block[124..135].copy_from_slice(format!("{size:011o}").as_bytes()),
        false => {
            block[124] = 0x80;
            block[128..136].copy_from_slice(&size.to_be_bytes());
        }
    }
    block[156] = entry.kind;
    block[157..157 + entry.target.len()].copy_from_slice(entry.target.as_bytes());
    block[257..263].copy_from_slice(b"ustar\0");
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn tar(entries: &[Crafted]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend_from_slice(&header(entry));
        bytes.extend_from_slice(&entry.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// Reads an archive to its end. Returns the entries with their contents.
fn read(bytes: Vec<u8>) -> Result<Vec<(Entry, Vec<u8>)>, ArchiveError> {
    let mut entries = Entries::new(decoded(Cursor::new(bytes))?);
    let mut found = Vec::new();
    while let Some(entry) = entries.next()? {
        let mut content = Vec::new();
        let mut buffer = [0; 1000];
        loop {
            match entries.read(&mut buffer)? {
                0 => break,
                length => content.extend_from_slice(&buffer[..length]),
            }
        }
        found.push((entry, content));
    }
    entries.finish()?;
    Ok(found)
}

fn file(path: &str, content: &[u8]) -> (Entry, Vec<u8>) {
    let kind = EntryKind::File {
        size: content.len() as u64,
    };
    let path = path.to_owned();
    (Entry { path, kind }, content.to_vec())
}

fn record(key: &str, value: &str) -> Vec<u8> {
    let mut length = key.len() + value.len() + 3;
    while format!("{length} {key}={value}\n").len() != length {
        length += 1;
    }
    format!("{length} {key}={value}\n").into_bytes()
}

#[test]
fn archive_is_read_plain_and_compressed() {
    let long = "d/".repeat(80) + "file";
    let bytes = tar(&[
        crafted("./index.json", b"{}"),
        of_kind(b'5', "blobs/", ""),
        Crafted {
            kind: b'L',
            ..crafted("././@LongLink", format!("{long}\0").as_bytes())
        },
        crafted("short", &[7; 1500]),
        Crafted {
            kind: b'x',
            ..crafted("pax", &[record("path", "from/pax"), record("size", "3")].concat())
        },
        Crafted {
            size: Some(0),
            ..crafted("other", b"abc")
        },
        of_kind(b'2', "a/link", "../b"),
        of_kind(b'2', "a/outside", "../../b"),
        of_kind(b'1', "hard", "index.json"),
        of_kind(b'3', "device", ""),
        of_kind(b'g', "global", ""),
        crafted("last", b""),
    ]);
    let other = |path: &str, kind| {
        let path = path.to_owned();
        (Entry { path, kind }, Vec::new())
    };
    let link = |path, target: &str| {
        let target = target.to_owned();
        other(path, EntryKind::Link { target })
    };
    let expected = [
        file("index.json", b"{}"),
        other("blobs", EntryKind::Ignored),
        file(&long, &[7; 1500]),
        file("from/pax", b"abc"),
        link("a/link", "b"),
        other("a/outside", EntryKind::Ignored),
        link("hard", "index.json"),
        other("device", EntryKind::Ignored),
        file("last", b""),
    ];
    for bytes in [gzip(&bytes), zstd_of(&bytes), bytes] {
        assert_eq!(read(bytes).unwrap(), expected);
    }
}

/// Archives that no tool for images makes, each with a part of the error.
fn hostile() -> Vec<(String, Vec<u8>, &'static str)> {
    let mut cases: Vec<(String, Vec<u8>, &'static str)> = Vec::new();
    let good = tar(&[crafted("index.json", b"{}"), crafted("blobs/x", &[1; 3000])]);
    let outside = "outside";
    for path in [
        "/etc/passwd",
        "//a",
        "..",
        "../a",
        "a/../../b",
        "./../a",
        "a/..",
        "a/b/../../../c",
        "/",
        "/..",
        "x/./../y",
        "blobs/sha256/../../../etc/cron.d/a",
        "/proc/self/mem",
        "/dev/sda",
    ] {
        for kind in [b'0', b'1', b'2', b'5'] {
            cases.push((
                format!("{path:?} of type {kind}"),
                tar(&[of_kind(kind, path, "x")]),
                outside,
            ));
        }
        let pax = Crafted {
            kind: b'x',
            ..crafted("pax", &record("path", path))
        };
        cases.push((
            format!("{path:?} in pax"),
            tar(&[pax, crafted("a", b"")]),
            outside,
        ));
        let long = Crafted {
            kind: b'L',
            ..crafted("long", path.as_bytes())
        };
        cases.push((
            format!("{path:?} as a long name"),
            tar(&[long, crafted("a", b"")]),
            outside,
        ));
    }
    let early = "ends early";
    for size in [3001, 1 << 20, 1 << 32, (1 << 33) + 1, i64::MAX as u64] {
        let lie = Crafted {
            size: Some(size),
            ..crafted("blobs/x", &[1; 3000])
        };
        let bytes = header(&lie).iter().chain(&lie.content).copied().collect();
        cases.push((format!("a size of {size}"), bytes, early));
    }
    for size in [1 << 63, u64::MAX] {
        let lie = Crafted {
            size: Some(size),
            ..crafted("a", b"")
        };
        cases.push((format!("a size of {size}"), tar(&[lie]), "size"));
    }
    for value in ["-1", "x", "", "99999999999999999999", "9223372036854775808"] {
        let pax = Crafted {
            kind: b'x',
            ..crafted("pax", &record("size", value))
        };
        cases.push((
            format!("a pax size of {value:?}"),
            tar(&[pax, crafted("a", b"")]),
            "extension",
        ));
    }
    for record in ["5 a=b", "99 path=x\n", "x path=y\n", "8 pathxy\n"] {
        let pax = Crafted {
            kind: b'x',
            ..crafted("pax", record.as_bytes())
        };
        cases.push((
            format!("the record {record:?}"),
            tar(&[pax, crafted("a", b"")]),
            "extension",
        ));
    }
    for kind in [b'L', b'K', b'x', b'g'] {
        let large = Crafted {
            kind,
            ..crafted("large", &vec![b'a'; ARCHIVE_EXTENSION_BYTES_MAX as usize + 1])
        };
        cases.push((
            format!("a large extension {kind}"),
            tar(&[large]),
            "name of an entry",
        ));
        let endless = Crafted {
            kind,
            size: Some(1 << 40),
            ..crafted("endless", b"")
        };
        cases.push((
            format!("an endless extension {kind}"),
            tar(&[endless]),
            "name of an entry",
        ));
    }
    cases.push(("a sparse file".into(), tar(&[of_kind(b'S', "a", "")]), "sparse"));
    let sparse = Crafted {
        kind: b'x',
        ..crafted("pax", &record("GNU.sparse.major", "1"))
    };
    cases.push((
        "a sparse file in pax".into(),
        tar(&[sparse, crafted("a", b"")]),
        "sparse",
    ));
    for length in [1, 100, 511, 513, 600, 1500, good.len() - 1024 - 600] {
        cases.push((
            format!("the first {length} bytes"),
            good[..length].to_vec(),
            early,
        ));
    }
    for at in [0, 10, 130, 148, 156, 257, 511, 1024, 1030] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        cases.push((format!("a flipped bit in byte {at}"), bytes, ""));
    }
    let mut tail = good.clone();
    tail.resize(tail.len() + ARCHIVE_TAIL_BYTES_MAX as usize + 1, 0);
    cases.push(("a long tail".into(), tail, "after its end"));
    let mut lone = good.clone();
    lone.truncate(good.len() - 512);
    lone.extend_from_slice(&header(&crafted("b", b"")));
    cases.push(("one block of zeros".into(), lone, "checksum"));
    for (name, bytes) in [
        ("text", b"docker.io/library/alpine:3.20\n".repeat(40)),
        ("JSON", br#"{"schemaVersion":2}"#.repeat(40)),
        (
            "random bytes",
            (0..4096_u32)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
                .collect(),
        ),
        ("gzip in gzip", gzip(&gzip(&good)).clone()),
        ("zstd in gzip", gzip(&zstd_of(&good))),
    ] {
        cases.push((name.into(), bytes, ""));
    }
    for compressed in [gzip(&good), zstd_of(&good)] {
        for length in [5, compressed.len() / 2, compressed.len() - 1] {
            cases.push((
                format!("{length} compressed bytes"),
                compressed[..length].to_vec(),
                "",
            ));
        }
    }
    // zstd has no checksum here.
    let mut flipped = gzip(&good);
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    cases.push(("a flipped compressed byte".into(), flipped, ""));
    cases
}

#[test]
fn hostile_archive_is_refused() {
    let cases = hostile();
    assert!(cases.len() >= 100, "{} cases", cases.len());
    for (name, bytes, part) in cases {
        let error = read(bytes).err().unwrap_or_else(|| panic!("{name} was read"));
        assert!(error.to_string().contains(part), "{name}: {error}");
    }
}

/// Reads as many zero bytes.
fn bomb(length: u64) -> impl Read {
    let entry = Crafted {
        size: Some(length),
        ..crafted("blobs/bomb", b"")
    };
    Cursor::new(header(&entry).to_vec()).chain(std::io::repeat(0).take(length))
}

#[test]
fn compression_bomb_is_refused() {
    let length = 4 * ARCHIVE_EXPANSION_FREE_BYTES;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::copy(&mut bomb(length), &mut gzip).unwrap();
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    std::io::copy(&mut bomb(length), &mut zstd).unwrap();
    for bytes in [gzip.finish().unwrap(), zstd.finish().unwrap()] {
        let mut entries = Entries::new(decoded(Cursor::new(bytes)).unwrap());
        entries.next().unwrap();
        assert!(matches!(entries.next(), Err(ArchiveError::Expansion)));
    }
}

#[test]
fn zstd_with_a_large_window_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(ARCHIVE_ZSTD_WINDOW_LOG_MAX + 2).unwrap();
    std::io::copy(&mut bomb(1 << 20), &mut encoder).unwrap();
    assert!(read(encoder.finish().unwrap()).is_err());
}

#[test]
fn entries_of_an_archive_have_a_bound() {
    let block = header(&of_kind(b'5', "d", ""));
    let endless = std::iter::repeat_n(block, ARCHIVE_ENTRIES_MAX + 1);
    let bytes: Vec<u8> = endless.flatten().collect();
    let mut entries = Entries::new(Cursor::new(bytes));
    let mut count = 0;
    let error = loop {
        match entries.next() {
            Ok(Some(_)) => count += 1,
            Ok(None) => panic!("the archive was read"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ArchiveError::TooManyEntries), "{error}");
    assert_eq!(count, ARCHIVE_ENTRIES_MAX);
}
