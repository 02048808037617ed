//! The directories of registries with a store of their own.

use std::path::{Path, PathBuf};

use super::registries::{Registries, best_entry};
use super::registry_name::RegistryName;
use crate::oci::Namespace;

/// The directories of the registries with `cache_dir`. A reload changes no directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreDirs {
    /// Each directory once.
    dirs: Vec<PathBuf>,
    /// The registries with a directory, and the registries that a suffix with a directory covers, sorted
    /// by name. The place is that of the directory in `dirs`. `None` means the default store.
    entries: Vec<(RegistryName, Option<usize>)>,
}

impl StoreDirs {
    pub fn of(registries: &Registries) -> Self {
        let mut found = StoreDirs::default();
        // The order of the file does not matter.
        let mut entries: Vec<_> = registries.entries.iter().collect();
        entries.sort_by_cached_key(|entry| entry.name.to_string());
        let with_dir = entries.iter().filter(|entry| entry.settings.cache_dir.is_some());
        let covering: Vec<&RegistryName> = with_dir.map(|entry| &entry.name).collect();
        for entry in &entries {
            let place = entry.settings.cache_dir.as_deref().map(|dir| found.place(dir));
            if place.is_some() || covering.iter().any(|name| name.includes(&entry.name)) {
                found.entries.push((entry.name.clone(), place));
            }
        }
        found
    }

    /// Returns the place of `dir`, which is added if absent.
    fn place(&mut self, dir: &Path) -> usize {
        // Without `.` and without a slash at the end.
        let dir: PathBuf = dir.components().collect();
        let known = self.dirs.iter().position(|known| *known == dir);
        known.unwrap_or_else(|| {
            self.dirs.push(dir);
            self.dirs.len() - 1
        })
    }

    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// Returns the place in [`StoreDirs::dirs`] of the directory of a registry. `None` means the default
    /// store.
    pub fn place_of(&self, namespace: &Namespace) -> Option<usize> {
        let entries = self.entries.iter().map(|(name, place)| (name, *place));
        best_entry(entries, namespace).flatten()
    }

    /// Returns the registries with the directory at `place`.
    pub fn registries_at(&self, place: usize) -> impl Iterator<Item = &RegistryName> {
        let at = self.entries.iter().filter(move |(_, at)| *at == Some(place));
        at.map(|(name, _)| name)
    }
}

/// The relation of two directories that cannot both be stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overlap {
    Equal,
    /// The first directory is inside the second.
    Inside,
    /// The first directory is around the second.
    Around,
}

impl Overlap {
    /// Compares two paths. `None` if neither directory contains the other. Follows no symbolic link.
    pub fn of(first: &Path, second: &Path) -> Option<Self> {
        match (first.starts_with(second), second.starts_with(first)) {
            (true, true) => Some(Overlap::Equal),
            (true, false) => Some(Overlap::Inside),
            (false, true) => Some(Overlap::Around),
            (false, false) => None,
        }
    }
}

impl std::fmt::Display for Overlap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Overlap::Equal => "is the same directory as",
            Overlap::Inside => "is inside",
            Overlap::Around => "contains",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RegistryConfig;

    fn dirs(entries: &[(&str, Option<&str>)]) -> StoreDirs {
        let entries = entries.iter().map(|(name, dir)| {
            let mut entry = RegistryConfig::named("a.example".parse().unwrap());
            entry.name = RegistryName::parse(name).unwrap();
            entry.settings.cache_dir = dir.map(PathBuf::from);
            entry
        });
        StoreDirs::of(&Registries {
            entries: entries.collect(),
            ..Registries::default()
        })
    }

    #[test]
    fn registry_has_the_directory_of_its_exact_name_or_of_the_longest_suffix() {
        let dirs = dirs(&[
            ("docker.io", None),
            ("quay.io", Some("/disk/quay")),
            ("*.lan", Some("/disk/lan/")),
            ("*.team.lan", Some("/disk/./team")),
            ("plain.lan", None),
            ("*.plain.lan", None),
            ("also.lan", Some("/disk/quay")),
        ]);
        let paths: Vec<&str> = dirs.dirs().iter().filter_map(|dir| dir.to_str()).collect();
        assert_eq!(paths, ["/disk/lan", "/disk/team", "/disk/quay"]);
        for (registry, place) in [
            ("docker.io", None),
            ("ghcr.io", None),
            ("quay.io", Some(2)),
            ("also.lan", Some(2)),
            ("a.lan", Some(0)),
            ("a.team.lan", Some(1)),
            ("plain.lan", None),
            ("a.plain.lan", None),
        ] {
            assert_eq!(dirs.place_of(&registry.parse().unwrap()), place, "{registry}");
        }
        let shared: Vec<String> = dirs.registries_at(2).map(ToString::to_string).collect();
        assert_eq!(shared, ["also.lan", "quay.io"]);
    }

    #[test]
    fn directories_differ_only_with_entries_that_concern_a_directory() {
        let one = dirs(&[("quay.io", Some("/a")), ("docker.io", None)]);
        assert_eq!(one, dirs(&[("ghcr.io", None), ("quay.io", Some("/a/"))]));
        assert_ne!(one, dirs(&[("quay.io", Some("/b"))]));
        assert_ne!(one, dirs(&[("quay.io", None)]));
        let suffix = dirs(&[("*.lan", Some("/a"))]);
        assert_ne!(suffix, dirs(&[("*.lan", Some("/a")), ("b.lan", None)]));
    }

    #[test]
    fn equal_and_nested_directories_overlap() {
        let overlap = |a: &str, b: &str| Overlap::of(Path::new(a), Path::new(b));
        assert_eq!(overlap("/a/b", "/a/b/"), Some(Overlap::Equal));
        assert_eq!(overlap("/a/b", "/a"), Some(Overlap::Inside));
        assert_eq!(overlap("/a", "/a/b/c"), Some(Overlap::Around));
        assert_eq!(overlap("/a/b", "/a/c"), None);
        assert_eq!(overlap("/a/b", "/a/bc"), None);
    }
}
