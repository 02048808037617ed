//! The files of a bundle: read back, independent of the order, and rejected if they contradict themselves.

use super::*;
use crate::oci::Algorithm;

fn digest(text: &str) -> Digest {
    Digest::of(Algorithm::Sha256, text.as_bytes())
}

fn blob(text: &str, kind: BlobKind, place: BlobPlace) -> BundledBlob {
    BundledBlob {
        digest: digest(text),
        size: text.len() as u64,
        kind,
        place,
    }
}

fn descriptor(text: &str) -> OciDescriptor {
    OciDescriptor::new(
        "application/vnd.oci.image.manifest.v1+json",
        digest(text),
        text.len() as u64,
    )
}

/// Returns the contents of two images and a referrer, added in the order of `names`.
fn contents(names: [&str; 2]) -> BundleContents {
    let images = names.map(|name| BundledImage {
        name: name.parse().unwrap(),
        descriptor: descriptor(name),
        platforms: vec!["linux/amd64".to_owned()],
    });
    let referrer = BundledReferrer {
        repository: "r.example/a".parse().unwrap(),
        subject: digest(names[0]),
        descriptor: descriptor("signature"),
    };
    let mut blobs = vec![
        blob("signature", BlobKind::Manifest, BlobPlace::Bundle),
        blob("layer", BlobKind::Blob, BlobPlace::Base),
    ];
    blobs.extend(names.map(|name| blob(name, BlobKind::Manifest, BlobPlace::Bundle)));
    BundleContents::new(Some(digest("base")), images.to_vec(), vec![referrer], blobs)
}

#[test]
fn contents_are_read_back_and_do_not_depend_on_the_order() {
    let names = ["r.example/a:1", "r.example/b:2"];
    let ordered = contents(names);
    let json = ordered.to_json();
    assert_eq!(BundleContents::parse(&json).unwrap(), ordered);
    let reversed = contents([names[1], names[0]]);
    assert_eq!(reversed.blobs, ordered.blobs);
    assert_eq!(reversed.images, ordered.images);
}

#[test]
fn index_has_a_descriptor_per_reference_and_one_per_referrer() {
    let index = contents(["r.example/a:1", "r.example/b:2"]).index();
    let names: Vec<_> = index
        .manifests
        .iter()
        .map(|descriptor| descriptor.annotations.get(REF_NAME).map(String::as_str))
        .collect();
    assert_eq!(names, [Some("r.example/a:1"), Some("r.example/b:2"), None]);
    for descriptor in &index.manifests[..2] {
        assert_eq!(
            descriptor.annotations[CONTAINERD_NAME],
            descriptor.annotations[REF_NAME]
        );
    }
    assert_eq!(OciIndex::parse(&index.to_json()).unwrap(), index);
}

#[test]
fn contents_that_contradict_themselves_are_rejected() {
    let valid = contents(["r.example/a:1", "r.example/b:2"]);
    let mut unsorted = valid.clone();
    unsorted.blobs.reverse();
    let mut incomplete = valid.clone();
    incomplete
        .blobs
        .retain(|blob| blob.digest != digest("r.example/a:1"));
    let mut huge = valid.clone();
    huge.blobs.iter_mut().for_each(|blob| blob.size = u64::MAX);
    let mut unnamed = valid.clone();
    unnamed.images[0].name.reference = None;
    let mut foreign = valid.clone();
    foreign.media_type = "application/json".to_owned();
    for (contents, part) in [
        (unsorted, "not sorted"),
        (incomplete, "not in the list"),
        (huge, "too large"),
        (unnamed, "no tag and no digest"),
        (foreign, "newer version"),
    ] {
        let error = BundleContents::parse(&contents.to_json())
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
    }
    assert!(BundleContents::parse(b"{}").is_err());
}

#[test]
fn volume_outside_its_directory_is_rejected() {
    let volumes = |name: &str| {
        BundleVolumes::new(vec![BundleVolume {
            name: name.to_owned(),
            size: 1,
            digest: digest("x"),
        }])
    };
    let valid = volumes("all.tar.000");
    assert_eq!(BundleVolumes::parse(&valid.to_json()).unwrap(), valid);
    for name in ["", ".", "..", "../x", "/x", "a/b"] {
        let error = BundleVolumes::parse(&volumes(name).to_json()).unwrap_err();
        assert!(error.to_string().contains("no name of a file"), "{name}: {error}");
    }
}

#[test]
fn image_of_a_docker_archive_has_a_name_if_it_has_a_tag() {
    let (config, layer) = (digest("config"), digest("layer"));
    let by_tag = DockerArchiveImage::new(&"r.example/a:1".parse().unwrap(), &config, &[layer]);
    assert_eq!(by_tag.repo_tags, Some(vec!["r.example/a:1".to_owned()]));
    assert_eq!(by_tag.layers, [format!("blobs/sha256/{}", layer.hex())]);
    let by_digest = format!("r.example/a@{}", digest("manifest"));
    let by_digest = DockerArchiveImage::new(&by_digest.parse().unwrap(), &config, &[layer]);
    assert_eq!(by_digest.repo_tags, Some(Vec::new()));
    let json = DockerArchiveImage::all_to_json(&[by_tag.clone(), by_digest.clone()]);
    assert_eq!(DockerArchiveImage::parse_all(&json).unwrap(), [by_tag, by_digest]);
}
