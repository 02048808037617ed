//! The volumes of a split bundle.

use serde::{Deserialize, Serialize};

use super::{FormatError, check_type, parse, to_json};
use crate::limits::BUNDLE_VOLUMES_MAX;
use crate::oci::Digest;

/// The suffix of the file with the volumes of a split bundle.
pub const VOLUMES_SUFFIX: &str = ".volumes.json";

const VOLUMES_TYPE: &str = "application/vnd.oci-pull-through.volumes.v1+json";

/// The volumes of a split bundle: `NAME.volumes.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleVolumes {
    media_type: String,
    /// In the order of their bytes in the bundle.
    pub volumes: Vec<BundleVolume>,
}

/// A volume of a split bundle: a part of its bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleVolume {
    /// The name of the file, in the directory of `NAME.volumes.json`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// The SHA-256 of the volume.
    pub digest: Digest,
}

impl BundleVolumes {
    pub fn new(volumes: Vec<BundleVolume>) -> Self {
        BundleVolumes {
            media_type: VOLUMES_TYPE.to_owned(),
            volumes,
        }
    }

    /// Parses `NAME.volumes.json`.
    ///
    /// # Errors
    ///
    /// The file is too large, of another type, or names a file outside its directory.
    pub fn parse(json: &[u8]) -> Result<Self, FormatError> {
        let volumes: BundleVolumes = parse(json, "list of the volumes of a bundle")?;
        check_type(&volumes.media_type, VOLUMES_TYPE)?;
        if volumes.volumes.len() > BUNDLE_VOLUMES_MAX {
            let message = format!("the bundle has more than {BUNDLE_VOLUMES_MAX} volumes");
            return Err(FormatError::Content(message));
        }
        let is_outside =
            |name: &str| name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']);
        match volumes.volumes.iter().find(|volume| is_outside(&volume.name)) {
            Some(volume) => Err(FormatError::Content(format!(
                "the volume {:?} is no name of a file",
                volume.name
            ))),
            None => Ok(volumes),
        }
    }

    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}
