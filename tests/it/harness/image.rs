//! Images for the fake registry: layers, image config, manifest, index.

use serde_json::{Value, json};

use super::content::{Content, PseudoRandom};
use super::registry::Registry;

/// The set of media types of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavor {
    Oci,
    Docker,
}

impl Flavor {
    pub fn manifest(self) -> &'static str {
        match self {
            Flavor::Oci => "application/vnd.oci.image.manifest.v1+json",
            Flavor::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    pub fn index(self) -> &'static str {
        match self {
            Flavor::Oci => "application/vnd.oci.image.index.v1+json",
            Flavor::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Flavor::Oci => "application/vnd.oci.image.config.v1+json",
            Flavor::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn layer(self) -> &'static str {
        match self {
            Flavor::Oci => "application/vnd.oci.image.layer.v1.tar+gzip",
            Flavor::Docker => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }
}

/// The `Accept` value that containerd sends to resolve a tag.
pub const ACCEPT_ALL: &str = "application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";

/// A manifest or index in the registry, with all content that the manifest or index refers to.
pub struct Image {
    pub digest: String,
    pub media_type: String,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Digest and content of the image config and each layer, of all platforms.
    pub blobs: Vec<(String, Content)>,
    /// The platforms' manifests of an index. Empty for a manifest.
    pub children: Vec<Image>,
}

impl Image {
    /// Pushes a single-platform image with these layers and points `tag` at the image.
    pub fn push(
        registry: &Registry,
        repository: &str,
        tag: &str,
        flavor: Flavor,
        layers: &[Content],
    ) -> Self {
        let image = Self::push_untagged(registry, repository, flavor, "amd64", layers);
        registry.tag(repository, tag, &image.digest);
        image
    }

    /// Pushes a small image whose content depends on `seed` alone.
    pub fn small(registry: &Registry, repository: &str, tag: &str, seed: u64) -> Self {
        let layers = [
            Content::from(PseudoRandom::new(seed, 1_000)),
            Content::from(PseudoRandom::new(seed + 1, 70_000)),
        ];
        Self::push(registry, repository, tag, Flavor::Oci, &layers)
    }

    /// Pushes an index of two platforms, each with separate layers.
    pub fn push_index(
        registry: &Registry,
        repository: &str,
        tag: &str,
        flavor: Flavor,
        layers: [&[Content]; 2],
    ) -> Self {
        let children = vec![
            Self::push_untagged(registry, repository, flavor, "amd64", layers[0]),
            Self::push_untagged(registry, repository, flavor, "arm64", layers[1]),
        ];
        let manifests: Vec<Value> = children
            .iter()
            .zip(["amd64", "arm64"])
            .map(|(child, architecture)| {
                json!({
                    "mediaType": child.media_type, "digest": child.digest, "size": child.manifest.len(),
                    "platform": {"architecture": architecture, "os": "linux"},
                })
            })
            .collect();
        let json = json!({"schemaVersion": 2, "mediaType": flavor.index(), "manifests": manifests});
        let manifest = serde_json::to_vec_pretty(&json).expect("JSON");
        let digest = registry.manifest(repository, flavor.index(), manifest.clone());
        registry.tag(repository, tag, &digest);
        Image {
            digest,
            media_type: flavor.index().into(),
            manifest,
            blobs: Vec::new(),
            children,
        }
    }

    fn push_untagged(
        registry: &Registry,
        repository: &str,
        flavor: Flavor,
        architecture: &str,
        layers: &[Content],
    ) -> Self {
        let describe = |media_type: &str, digest: &str, size: u64| json!({"mediaType": media_type, "digest": digest, "size": size});
        let mut blobs: Vec<_> = layers
            .iter()
            .map(|layer| (registry.blob_in(repository, layer.clone()), layer.clone()))
            .collect();
        let diff_ids: Vec<_> = blobs.iter().map(|(digest, _)| digest.clone()).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = Content::from(serde_json::to_vec(&config).expect("JSON"));
        let config_digest = registry.blob_in(repository, config.clone());
        let layer_list: Vec<_> = blobs
            .iter()
            .map(|(digest, layer)| describe(flavor.layer(), digest, layer.size()))
            .collect();
        let json = json!({
            "schemaVersion": 2, "mediaType": flavor.manifest(),
            "config": describe(flavor.config(), &config_digest, config.size()),
            "layers": layer_list,
        });
        let manifest = serde_json::to_vec_pretty(&json).expect("JSON");
        let digest = registry.manifest(repository, flavor.manifest(), manifest.clone());
        blobs.insert(0, (config_digest, config));
        Image {
            digest,
            media_type: flavor.manifest().into(),
            manifest,
            blobs,
            children: Vec::new(),
        }
    }

    /// Returns every manifest of this image, starting with the image itself.
    pub fn manifests(&self) -> Vec<&Image> {
        std::iter::once(self).chain(&self.children).collect()
    }

    /// Returns every blob of this image and its children.
    pub fn all_blobs(&self) -> Vec<&(String, Content)> {
        self.manifests()
            .into_iter()
            .flat_map(|image| &image.blobs)
            .collect()
    }
}
