//! Bundles: many images in one tar file, an OCI image layout with a list of its content.
//!
//! The entries of a bundle are `bundle.json`, `index.json`, `manifest.json` (optional), `oci-layout`,
//! `blobs/`, `blobs/sha256/`, then the blobs in the order of their digests.

mod export;
pub mod format;
mod hash;
mod outline;
mod output;
mod plan;
mod repository;
mod selection;
mod tar_stream;

pub use export::{ExportError, ExportProgress, ExportReport, ExportRequest, IncompleteImage, export};
pub use output::Destination;
pub use plan::Base;
pub use selection::ExportSelection;
