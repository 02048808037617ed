//! Archives with damage, as far as they are read and compared, without a cache.

mod hostile;

use std::io::Cursor;
use std::sync::Arc;

use tar::{Builder, Header};

use super::images::ArchiveImages;
use super::*;
use crate::manage::bundle::format::{
    BUNDLE_JSON, BlobKind, BlobPlace, BundleContents, BundledBlob, BundledImage, INDEX_JSON, OCI_LAYOUT,
    OciDescriptor, blob_path,
};
use crate::oci::{Algorithm, Digest, MANIFEST_TYPES};

fn digest(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, path, Cursor::new(content))
            .unwrap();
    }
    builder.into_inner().unwrap()
}

/// A small bundle with one image.
fn bundle() -> Vec<u8> {
    let layer: Vec<u8> = (0..1_500_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let config = br#"{"os":"linux"}"#.to_vec();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":{}}},"layers":[{{"digest":"{}","size":{}}}]}}"#,
        digest(&config),
        config.len(),
        digest(&layer),
        layer.len()
    )
    .into_bytes();
    let blob = |content: &[u8], kind| BundledBlob {
        digest: digest(content),
        size: content.len() as u64,
        kind,
        place: BlobPlace::Bundle,
    };
    let contents = BundleContents::new(
        None,
        vec![BundledImage {
            name: "registry.example/app:v1".parse().unwrap(),
            descriptor: OciDescriptor::new(MANIFEST_TYPES[1], digest(&manifest), manifest.len() as u64),
            platforms: Vec::new(),
        }],
        Vec::new(),
        vec![
            blob(&layer, BlobKind::Blob),
            blob(&config, BlobKind::Blob),
            blob(&manifest, BlobKind::Manifest),
        ],
    );
    let mut files = vec![
        (BUNDLE_JSON.to_owned(), contents.to_json()),
        (INDEX_JSON.to_owned(), contents.index().to_json()),
        (
            OCI_LAYOUT.to_owned(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        ),
    ];
    files.extend([layer, config, manifest].map(|content| (blob_path(&digest(&content)), content)));
    tar(&files)
}

/// The content that a read has found.
#[derive(PartialEq, Eq, Debug)]
struct Found {
    images: Vec<(String, Digest)>,
    objects: Vec<Digest>,
    damaged: Vec<Digest>,
}

fn found(store: &Arc<FsStore>, archive: &[u8]) -> Result<Found, ImportError> {
    let rule = ImportRule {
        is_dry_run: true,
        ..ImportRule::default()
    };
    let mut intake = Intake::new(store, &store.temporary_dir(), &rule).unwrap();
    intake.read(Cursor::new(archive))?;
    let mut objects: Vec<Digest> = intake.contents.objects.keys().copied().collect();
    objects.sort_unstable();
    let images = ArchiveImages::of(&mut intake, &rule)?.images.into_iter();
    let images = images.filter_map(|image| Some((image.name?.to_string(), image.root.ok()?)));
    Ok(Found {
        images: images.collect(),
        objects,
        damaged: intake.contents.damaged.clone(),
    })
}

#[test]
fn each_flipped_byte_of_a_bundle_is_named_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(FsStore::open(dir.path()).unwrap());
    let archive = bundle();
    let good = found(&store, &archive).unwrap();
    assert_eq!((good.images.len(), good.objects.len()), (1, 3));
    assert_eq!(good.damaged, []);
    let mut seed = 1_u64;
    let (mut named, mut harmless) = (0, 0);
    for _ in 0..10_000 {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let at = (seed >> 33) as usize % archive.len();
        let bit = 1 << ((seed >> 20) % 8);
        let mut flipped = archive.clone();
        flipped[at] ^= bit;
        match found(&store, &flipped) {
            Err(_) => named += 1,
            Ok(found) if !found.damaged.is_empty() => {
                assert!(
                    found.objects.iter().all(|digest| good.objects.contains(digest)),
                    "byte {at}"
                );
                named += 1;
            }
            Ok(found) => {
                assert_eq!(found, good, "byte {at}, bit {bit}");
                harmless += 1;
            }
        }
    }
    assert!(
        named > 1_000 && harmless > 100,
        "{named} named, {harmless} harmless"
    );
}

#[test]
fn archive_that_describes_no_image_or_two_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(FsStore::open(dir.path()).unwrap());
    let index = |json: &str| (INDEX_JSON.to_owned(), json.as_bytes().to_vec());
    for (files, part) in [
        (vec![index("{}")], "index.json"),
        (vec![index("[")], "index.json"),
        (
            vec![
                index("{\"schemaVersion\":2,\"manifests\":[]}"),
                index("{\"schemaVersion\":2,\"manifests\":[]}"),
            ],
            "two files",
        ),
        (vec![("a".into(), vec![1]), ("a".into(), vec![2])], "two files"),
        (vec![(BUNDLE_JSON.into(), b"{}".to_vec())], "bundle.json"),
    ] {
        let error = found(&store, &tar(&files)).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}
