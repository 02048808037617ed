//! The kinds of directories, by their content.

use std::fs;
use std::path::Path;

use super::files::is_loose_blob;
use super::go_store;
use crate::manage::bundle::format::{INDEX_JSON, MANIFEST_JSON};

/// Names that are looked at in a directory without a known child.
const NAMES_LOOKED_AT: usize = 1_000;

/// The store of another system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForeignStore {
    /// `blobs` and `img`, with `fat` or `lts`.
    Ociregistry,
    /// `docker/registry/v2`.
    Distribution,
    /// Files named `sha256:…`.
    OciProxy,
    /// `blobs/sha256/ab/ab…`.
    OciRemoteCache,
    /// `blobs/sha256-…` and `manifests/<registry>/<repository>/tags/<tag>`, of oci-pull-through in Go.
    OciPullThroughGo,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DirectoryKind {
    /// An OCI image layout, or an unpacked docker-archive or bundle.
    Layout,
    Foreign(ForeignStore),
}

impl DirectoryKind {
    pub fn of(path: &Path) -> Option<Self> {
        let is_file = |name: &str| path.join(name).is_file();
        if is_file(INDEX_JSON) || is_file(MANIFEST_JSON) {
            return Some(DirectoryKind::Layout);
        }
        ForeignStore::of(path).map(DirectoryKind::Foreign)
    }
}

impl ForeignStore {
    /// Returns the system to which the directory `path` belongs. `None` for a store of this cache, and for
    /// other directories.
    pub fn of(path: &Path) -> Option<Self> {
        let is_dir = |name: &str| path.join(name).is_dir();
        if is_dir("blobs") && is_dir("img") && (is_dir("fat") || is_dir("lts")) {
            return Some(ForeignStore::Ociregistry);
        }
        if is_dir("docker/registry/v2") || (is_dir("repositories") && is_dir("blobs/sha256")) {
            return Some(ForeignStore::Distribution);
        }
        // A store of this cache has files named `sha256-…` there.
        if is_dir("blobs/sha256") {
            return Some(ForeignStore::OciRemoteCache);
        }
        if is_dir("blobs") && is_dir("manifests") {
            return go_store::is_foreign(path).then_some(ForeignStore::OciPullThroughGo);
        }
        let names = fs::read_dir(path).ok()?.take(NAMES_LOOKED_AT).flatten();
        let is_proxy = names
            .into_iter()
            .any(|entry| entry.file_name().to_str().is_some_and(is_loose_blob));
        is_proxy.then_some(ForeignStore::OciProxy)
    }

    /// Returns the name of the system.
    pub fn system(self) -> &'static str {
        match self {
            ForeignStore::Ociregistry => "ociregistry",
            ForeignStore::Distribution => "distribution",
            ForeignStore::OciProxy => "oci-proxy",
            ForeignStore::OciRemoteCache => "oci-remote-cache",
            ForeignStore::OciPullThroughGo => "oci-pull-through in Go",
        }
    }

    /// Returns whether the directory does not name its registry.
    pub fn needs_registry(self) -> bool {
        self == ForeignStore::Distribution
    }
}
