//! Bundles: many images in one tar file, an OCI image layout with a list of its content.
//!
//! The entries of a bundle are `bundle.json`, `index.json`, `manifest.json` (optional), `oci-layout`,
//! `blobs/`, `blobs/sha256/`, then the blobs in the order of their digests.

pub mod format;
