//! The image in the formats of the image specification: a layer, a config and a manifest for each machine,
//! and an index.

use serde_json::json;

use super::program::{MACHINES, Machine};
use crate::oci::{Algorithm, Digest};

pub(super) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

const TAR_BLOCK_BYTES: usize = 512;

/// Content with its media type.
pub(super) struct Object {
    pub media_type: &'static str,
    pub bytes: Vec<u8>,
}

/// The content of the image.
pub(super) struct Image {
    pub blobs: Vec<Object>,
    pub manifests: Vec<Object>,
    pub index: Object,
}

impl Object {
    fn of_json(media_type: &'static str, content: &serde_json::Value) -> Self {
        let bytes = content.to_string().into_bytes();
        Object { media_type, bytes }
    }

    pub fn digest(&self) -> Digest {
        Digest::of(Algorithm::Sha256, &self.bytes)
    }

    fn descriptor(&self) -> serde_json::Value {
        json!({
            "mediaType": self.media_type,
            "digest": self.digest().to_string(),
            "size": self.bytes.len(),
        })
    }
}

impl Image {
    pub fn new() -> Self {
        let (mut blobs, mut manifests, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        for machine in MACHINES {
            let layer = Object {
                media_type: LAYER_TYPE,
                bytes: tar("hello", &machine.program()),
            };
            let config = Object::of_json(CONFIG_TYPE, &config(&machine, &layer));
            let manifest = Object::of_json(
                MANIFEST_TYPE,
                &json!({
                    "schemaVersion": 2,
                    "mediaType": MANIFEST_TYPE,
                    "config": config.descriptor(),
                    "layers": [layer.descriptor()],
                }),
            );
            let mut entry = manifest.descriptor();
            entry["platform"] = json!({"architecture": machine.architecture, "os": "linux"});
            entries.push(entry);
            manifests.push(manifest);
            blobs.extend([layer, config]);
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries});
        Image {
            blobs,
            manifests,
            index: Object::of_json(INDEX_TYPE, &index),
        }
    }
}

fn config(machine: &Machine, layer: &Object) -> serde_json::Value {
    json!({
        "architecture": machine.architecture,
        "os": "linux",
        "config": {"Cmd": ["/hello"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest().to_string()]},
    })
}

/// Returns an archive (POSIX ustar) with one executable file.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0; TAR_BLOCK_BYTES];
    let mut field = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    field(0, name);
    field(100, "0000755"); // the mode
    field(108, "0000000"); // the user
    field(116, "0000000"); // the group
    field(124, &format!("{:011o}", content.len()));
    field(136, "00000000000"); // the time
    field(148, "        "); // the checksum, of spaces
    field(156, "0"); // a regular file
    field(257, "ustar");
    field(263, "00");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    let sum = format!("{sum:06o}\0");
    header[148..148 + sum.len()].copy_from_slice(sum.as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(TAR_BLOCK_BYTES), 0);
    // Two empty blocks end the archive.
    archive.resize(archive.len() + 2 * TAR_BLOCK_BYTES, 0);
    archive
}
