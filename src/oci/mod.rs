//! Types of the distribution and image specifications. Parsing validates all text. Performs no I/O.

mod accept;
mod digest;
mod error_code;
mod image_name;
mod links;
mod list_query;
mod manifest;
mod media_type;
#[cfg(miri)]
mod miri_hash;
mod namespace;
mod origin;
mod platform;
mod reference;
mod repository;
mod tag;

pub use accept::{Accept, AcceptClass};
pub use digest::{Algorithm, Digest, DigestPrefix, Hasher, ParseDigestError};
pub use error_code::ErrorCode;
pub use image_name::{ImageName, ParseImageNameError};
pub use links::{
    Child, Descriptor, ManifestLinks, has_unknown_digest, platform_manifests, required_blobs, subject_of,
};
pub use list_query::{ListQuery, QueryTooLong, pairs, percent_decoded};
pub use manifest::{NotManifest, is_manifest_type, manifest_type};
pub use media_type::{MANIFEST_TYPES, SCHEMA1_TYPES, accepts, is_media_type};
pub use namespace::{DOCKER_HUB, Namespace, ParseNamespaceError};
pub use origin::Origin;
pub use platform::{ParsePlatformsError, Platform, Platforms};
pub use reference::Reference;
pub use repository::{ParseRepositoryError, Repository};
pub use tag::{ParseTagError, Tag};
