//! The parts of a stored manifest that select the content of a bundle. Performs no I/O.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::format::OciDescriptor;
use crate::oci::{Digest, ManifestLinks, required_blobs};
use crate::store::StoredManifest;

/// A stored manifest, in outline.
#[derive(Debug)]
pub(super) struct Outline {
    pub media_type: String,
    /// Bytes.
    pub size: u64,
    /// The last use, in seconds since 1970.
    pub used: u64,
    /// `None` for a manifest of an unknown kind.
    pub links: Option<ManifestLinks>,
    /// The blobs that a client gets from the registry.
    pub required: Vec<Digest>,
    /// The manifest to which this manifest refers.
    pub subject: Option<Digest>,
    pub layers: Option<ImageLayers>,
    artifact_type: Option<String>,
    annotations: BTreeMap<String, String>,
}

/// The config and the layers of an image that an engine can run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ImageLayers {
    pub config: Digest,
    /// The base layer first.
    pub layers: Vec<Digest>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Members {
    subject: Option<Entry>,
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
    config: Option<Entry>,
    layers: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    media_type: String,
    digest: String,
}

const CONFIG_TYPES: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];
const LAYER_TYPES: [&str; 2] = [
    "application/vnd.oci.image.layer.",
    "application/vnd.docker.image.rootfs.",
];

impl Outline {
    pub fn of(stored: &StoredManifest) -> Self {
        let StoredManifest { meta, body, used } = stored;
        let members: Members = serde_json::from_slice(body).unwrap_or_default();
        let config_type = members.config.as_ref().map(|config| config.media_type.clone());
        Outline {
            media_type: meta.content_type.clone(),
            size: body.len() as u64,
            used: *used,
            links: ManifestLinks::parse(body),
            required: required_blobs(body),
            subject: members.subject.as_ref().and_then(Entry::digest),
            layers: members.image_layers(),
            artifact_type: members.artifact_type.or(config_type),
            annotations: members.annotations.unwrap_or_default(),
        }
    }

    /// Returns the descriptor of a referrer, as registries list it (distribution specification, "Listing
    /// Referrers").
    pub fn referrer(&self, digest: Digest) -> OciDescriptor {
        OciDescriptor {
            artifact_type: self.artifact_type.clone(),
            annotations: self.annotations.clone(),
            ..OciDescriptor::new(&*self.media_type, digest, self.size)
        }
    }
}

impl Members {
    fn image_layers(&self) -> Option<ImageLayers> {
        let config = self.config.as_ref()?;
        let layers = self.layers.as_ref()?;
        let is_layer = |entry: &Entry| {
            LAYER_TYPES
                .iter()
                .any(|known| entry.media_type.starts_with(known))
        };
        let is_image = CONFIG_TYPES.contains(&&*config.media_type) && layers.iter().all(is_layer);
        is_image.then_some(())?;
        Some(ImageLayers {
            config: config.digest()?,
            layers: layers.iter().map(Entry::digest).collect::<Option<_>>()?,
        })
    }
}

impl Entry {
    fn digest(&self) -> Option<Digest> {
        self.digest.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;
    use crate::store::Meta;

    fn digest(text: &str) -> Digest {
        Digest::of(Algorithm::Sha256, text.as_bytes())
    }

    fn outline(body: &str) -> Outline {
        let meta = Meta {
            digest: digest(body),
            size: body.len() as u64,
            content_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            created: 0,
            public: false,
            sources: Vec::new(),
            verified: true,
            headers: BTreeMap::new(),
        };
        Outline::of(&StoredManifest {
            meta,
            body: body.as_bytes().to_vec(),
            used: 7,
        })
    }

    #[test]
    fn image_has_layers_and_a_signature_has_none() {
        let (config, layer) = (digest("config"), digest("layer"));
        let body = |layer_type: &str| {
            format!(
                r#"{{"schemaVersion":2,
                "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":1}},
                "layers":[{{"mediaType":"{layer_type}","digest":"{layer}","size":1}}]}}"#
            )
        };
        let image = outline(&body("application/vnd.oci.image.layer.v1.tar+gzip"));
        let layers = vec![layer];
        assert_eq!(image.layers, Some(ImageLayers { config, layers }));
        let signature = outline(&body("application/vnd.dev.cosign.simplesigning.v1+json"));
        assert_eq!(signature.layers, None);
    }

    #[test]
    fn descriptor_of_a_referrer_has_its_type_and_annotations() {
        let subject = digest("image");
        let body = format!(
            r#"{{"schemaVersion":2,"artifactType":"application/x","annotations":{{"a":"b"}},
            "config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{subject}","size":2}},
            "layers":[],"subject":{{"mediaType":"x","digest":"{subject}","size":1}}}}"#
        );
        let referrer = outline(&body);
        assert_eq!(referrer.subject, Some(subject));
        let descriptor = referrer.referrer(digest("referrer"));
        assert_eq!(descriptor.artifact_type.as_deref(), Some("application/x"));
        assert_eq!(descriptor.annotations["a"], "b");
        assert_eq!(descriptor.size, body.len() as u64);
    }
}
