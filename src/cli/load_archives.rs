//! Archives among the images of `load`: names of files, and patterns of names.

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

use super::import::import_path;
use super::progress::ProgressLine;
use super::target::Failure;
use crate::config::Config;
use crate::manage::{ImportReport, ImportRule, ImportState, LoadState, LoadedImage};

/// Archives that one command loads.
const ARCHIVES_MAX: usize = 10_000;

/// The words of a command line: references of images, and archives.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Words {
    pub references: Vec<String>,
    pub archives: Vec<PathBuf>,
}

impl Words {
    /// Sorts `words`, of which each is a list with commas. A word is an archive if a file has the name, or
    /// if files match the pattern.
    pub fn of(words: &[String]) -> Self {
        let mut sorted = Words::default();
        for word in words.iter().flat_map(|word| word.split(',')) {
            match files(word) {
                files if files.is_empty() => sorted.references.push(word.to_owned()),
                files => sorted.archives.extend(files),
            }
        }
        sorted
    }
}

/// Returns the archives that a line of a list names. The line starts with `/`, `./` or `../`, because
/// another line is a reference.
pub(super) fn archives_of_line(line: &str) -> Vec<PathBuf> {
    let is_path = ["/", "./", "../"].iter().any(|start| line.starts_with(start));
    if is_path { files(line) } else { Vec::new() }
}

/// Returns the files with the name or the pattern `word`, sorted.
fn files(word: &str) -> Vec<PathBuf> {
    let path = Path::new(word);
    if path.is_file() {
        return vec![path.to_owned()];
    }
    if !word.contains(['*', '?']) {
        return Vec::new();
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let pattern = regex::escape(name).replace(r"\*", ".*").replace(r"\?", ".");
    let Ok(pattern) = Regex::new(&format!("^{pattern}$")) else {
        return Vec::new();
    };
    let listed = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    let entries = fs::read_dir(listed).into_iter().flatten().flatten();
    let matching = entries.filter(|entry| {
        entry
            .file_name()
            .to_str()
            .is_some_and(|name| pattern.is_match(name))
    });
    let files = matching
        .map(|entry| dir.join(entry.file_name()))
        .filter(|path| path.is_file());
    let mut files: Vec<PathBuf> = files.take(ARCHIVES_MAX).collect();
    files.sort();
    files
}

/// Imports `archives`. Returns their images as rows of the report of a load.
pub(super) fn load_archives(
    config: &Config,
    archives: &[PathBuf],
    rule: &ImportRule,
    line: &mut ProgressLine,
) -> Result<Vec<LoadedImage>, Failure> {
    let mut rows = Vec::new();
    for path in archives {
        let report = import_path(config, path, None, rule, line)?;
        rows.extend(rows_of(path, report));
    }
    Ok(rows)
}

fn rows_of(path: &Path, report: ImportReport) -> Vec<LoadedImage> {
    let row = |image: String, state, error| LoadedImage {
        image,
        platforms: String::new(),
        state,
        fetched_bytes: 0,
        error,
        upstream_status: None,
        stale: None,
    };
    let damage = match (&report.error, &report.damaged[..]) {
        (Some(error), _) => Some(error.clone()),
        (None, []) => None,
        (None, damaged) => Some(format!(
            "{} objects are damaged: {}",
            damaged.len(),
            damaged.join(", ")
        )),
    };
    let images = report.images.into_iter().map(|image| {
        let state = match image.state {
            ImportState::Held => LoadState::Held,
            ImportState::Failed => LoadState::Failed,
        };
        LoadedImage {
            platforms: image.platforms.join(","),
            ..row(image.image, state, image.error)
        }
    });
    let mut rows: Vec<LoadedImage> = images.collect();
    if damage.is_some() {
        rows.push(row(path.display().to_string(), LoadState::Failed, damage));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_references_files_and_patterns() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.tar", "b.tar", "c.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let words = [
            path("c.txt") + ",alpine:3",
            path("*.tar"),
            path("?.none"),
            "quay.io/a/b".to_owned(),
        ];
        let sorted = Words::of(&words);
        assert_eq!(
            sorted.archives,
            ["c.txt", "a.tar", "b.tar"].map(|name| dir.path().join(name))
        );
        assert_eq!(
            sorted.references,
            ["alpine:3".to_owned(), path("?.none"), "quay.io/a/b".to_owned()]
        );
        assert_eq!(archives_of_line(&path("*.tar")).len(), 2);
        assert_eq!(archives_of_line("alpine"), [] as [PathBuf; 0]);
    }
}
