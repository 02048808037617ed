//! Checks the directories of registries with a store of their own.

use std::path::{Path, PathBuf};

use super::super::model::{Overlap, StorageConfig, StoreDirs};
use super::super::options::Setting;
use super::super::sources::{PartialEntry, Place, Spanned};
use super::{Diagnostic, Sources};
use crate::config::Registries;
use crate::limits::REGISTRY_STORES_MAX;

impl Sources<'_> {
    /// Records an error for each directory of a registry that cannot be a store of its own. The start
    /// follows symbolic links, and checks the directories again.
    pub(super) fn check_registry_stores(&mut self, storage: &StorageConfig, registries: &Registries) {
        let mut known: Vec<(PathBuf, String)> = Vec::new();
        if let Some((root, _)) = storage.root() {
            known.push((root.to_owned(), "the directory of the default store".to_owned()));
        }
        let mut errors = Vec::new();
        for entry in &self.file.registries {
            let Some(dir) = &entry.partial.cache_dir else {
                continue;
            };
            match refusal(&dir.value, storage, &known) {
                Some(why) => errors.push(self.error_of(entry, dir, why)),
                None => known.push((dir.value.clone(), format!("cache_dir of {}", entry.name.value))),
            }
        }
        self.diagnostics.extend(errors);
        let count = StoreDirs::of(registries).dirs().len();
        if count > REGISTRY_STORES_MAX {
            let why = format!(
                "the registries have {count} directories; at most {REGISTRY_STORES_MAX} are possible, and registries may share a directory"
            );
            self.record_error("cache_dir".to_owned(), &why);
        }
    }

    fn error_of(&self, entry: &PartialEntry, dir: &Spanned<PathBuf>, why: String) -> Diagnostic {
        let file = self.find(Setting::ConfigFile);
        let place = Place::File {
            path: file.map(|given| PathBuf::from(&given.text)).unwrap_or_default(),
            line: dir.line,
            key: format!("registries.{}.cache_dir", entry.name.value),
        };
        Diagnostic {
            what: place.with_value(&dir.value.display().to_string()),
            why,
        }
    }
}

/// Returns the reason why `dir` cannot be a store, if any. Registries may have the same directory.
fn refusal(dir: &Path, storage: &StorageConfig, known: &[(PathBuf, String)]) -> Option<String> {
    if storage.root().is_none() {
        return Some(
            "needs a local store, and a bucket alone keeps no content on this machine; set STORAGE_BACKEND=tiered, or remove cache_dir"
                .to_owned(),
        );
    }
    known.iter().enumerate().find_map(|(place, (other, name))| {
        let is_shared = |overlap: &Overlap| place > 0 && *overlap == Overlap::Equal;
        let overlap = Overlap::of(dir, other).filter(|overlap| !is_shared(overlap))?;
        let other = other.display();
        Some(format!(
            "{overlap} {other}, {name}; set cache_dir to a directory outside all other stores"
        ))
    })
}

#[cfg(test)]
mod tests {
    use crate::config::tests::Machine;

    fn errors(text: &str) -> Vec<String> {
        Machine::with_file(text).diagnostics()
    }

    #[test]
    fn directory_of_a_registry_must_be_outside_all_other_stores() {
        for (dir, relation) in [
            (
                "/data",
                "is the same directory as /data, the directory of the default store",
            ),
            ("/data/a", "is inside /data"),
            ("/", "contains /data"),
            ("/disk", "contains /disk/b, cache_dir of b"),
            ("/disk/b/c", "is inside /disk/b, cache_dir of b"),
        ] {
            let text = format!(
                "fs_root: /data\nregistries:\n  b: {{cache_dir: /disk/b}}\n  a: {{cache_dir: {dir}}}\n"
            );
            let errors = errors(&text);
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(errors[0].contains(relation), "{errors:?}");
            assert!(errors[0].contains(":4: registries.a.cache_dir"), "{errors:?}");
        }
    }

    #[test]
    fn registries_may_share_a_directory() {
        let text = "fs_root: /data\nregistries: {a: {cache_dir: /disk}, b: {cache_dir: /disk/}}\n";
        let config = Machine::with_file(text).config();
        assert_eq!(
            config.registries.entries[0].settings.cache_dir,
            Some("/disk".into())
        );
    }

    #[test]
    fn bucket_alone_refuses_the_directory_of_a_registry() {
        let text = "storage_backend: s3\ns3_bucket: bucket\nregistries: {a: {cache_dir: /disk}}\n";
        let errors = errors(text);
        assert!(errors[0].contains("needs a local store"), "{errors:?}");
        assert!(errors[0].contains("STORAGE_BACKEND=tiered"), "{errors:?}");
    }

    #[test]
    fn directories_beyond_the_limit_are_refused() {
        let entries: Vec<String> = (0..9)
            .map(|n| format!("r{n}.lan: {{cache_dir: /disk/{n}}}"))
            .collect();
        let text = |count: usize| {
            format!(
                "fs_root: /data\nregistries: {{{}}}\n",
                entries[..count].join(", ")
            )
        };
        assert!(Machine::with_file(&text(8)).resolve().is_ok());
        let errors = errors(&text(9));
        assert!(errors[0].contains("9 directories; at most 8"), "{errors:?}");
    }
}
