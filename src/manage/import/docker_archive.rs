//! Images of a docker-archive. The archive has no manifest, so the manifest is built from the config and the
//! layers. The same archive always yields the same bytes: an OCI image manifest with the members in the order of
//! the image specification. Layers stay as they are in the archive, so the digest of the config is unchanged.

use serde::Serialize;

use super::contents::{Contents, Packing};
use crate::manage::archive::inside;
use crate::manage::bundle::format::{DockerArchiveImage, OciDescriptor};
use crate::oci::{Digest, MANIFEST_TYPES};

const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ImageManifest {
    schema_version: u32,
    media_type: &'static str,
    config: OciDescriptor,
    layers: Vec<OciDescriptor>,
}

/// Builds the manifest of `image`.
///
/// # Errors
///
/// The paths of the files that the archive lacks.
pub(super) fn manifest_of(image: &DockerArchiveImage, contents: &Contents) -> Result<Vec<u8>, Vec<String>> {
    let mut missing = Vec::new();
    let mut find = |path: &String| {
        let found = inside(path).and_then(|path| contents.file(&path));
        let found = found.and_then(|digest| Some((digest, *contents.objects.get(&digest)?)));
        if found.is_none() {
            missing.push(path.chars().take(300).collect());
        }
        found
    };
    let config =
        find(&image.config).map(|(digest, object)| OciDescriptor::new(CONFIG_TYPE, digest, object.size));
    let layers = image.layers.iter().filter_map(|path| {
        let (digest, object): (Digest, _) = find(path)?;
        Some(OciDescriptor::new(
            layer_type(object.packing),
            digest,
            object.size,
        ))
    });
    let layers = layers.collect();
    match config {
        Some(config) if missing.is_empty() => {
            let manifest = ImageManifest {
                schema_version: 2,
                media_type: MANIFEST_TYPES[1],
                config,
                layers,
            };
            Ok(serde_json::to_vec(&manifest).expect("the manifest is strings and numbers"))
        }
        _ => Err(missing),
    }
}

fn layer_type(packing: Packing) -> &'static str {
    match packing {
        Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
        Packing::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Packing::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}

#[cfg(test)]
mod tests {
    use super::super::contents::{Object, Place};
    use super::*;
    use crate::oci::Algorithm;

    fn contents() -> Contents {
        let mut contents = Contents::default();
        for (path, text, packing) in [
            ("config.json", "config", Packing::Plain),
            ("a/layer.tar", "base", Packing::Plain),
            ("b/layer.tar", "top", Packing::Gzip),
        ] {
            let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
            let object = Object {
                size: text.len() as u64,
                place: Place::Hashed,
                packing,
            };
            contents.objects.insert(digest, object);
            contents.add_file(path.to_owned(), digest).unwrap();
        }
        contents
    }

    fn image(layers: &[&str]) -> DockerArchiveImage {
        DockerArchiveImage {
            config: "config.json".to_owned(),
            repo_tags: None,
            layers: layers.iter().map(|path| (*path).to_owned()).collect(),
        }
    }

    #[test]
    fn manifest_of_a_docker_archive_has_always_the_same_bytes() {
        let body = manifest_of(&image(&["a/layer.tar", "./b/layer.tar"]), &contents()).unwrap();
        let digest = |text: &str| Digest::of(Algorithm::Sha256, text.as_bytes());
        let expected = format!(
            concat!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","#,
                r#""config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":6}},"#,
                r#""layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":4}},"#,
                r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":3}}]}}"#
            ),
            digest("config"),
            digest("base"),
            digest("top")
        );
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }

    #[test]
    fn missing_files_of_an_image_are_named() {
        let missing = manifest_of(&image(&["a/layer.tar", "c", "../d"]), &contents()).unwrap_err();
        assert_eq!(missing, ["c", "../d"]);
    }
}
