//! Reads lists of images: text in, names of images out. Performs no I/O.
//!
//! A list is plain (one name per line), or a stream of YAML or JSON documents: Kubernetes objects, output of
//! `helm template` and `kubectl get`, compose files, and the lists of hauler, Zarf and oc-mirror.

mod documents;
mod read;

use std::collections::HashSet;

use crate::limits::{IMAGE_LIST_BYTES_MAX, IMAGE_LIST_MISTAKES_MAX, LOAD_IMAGES_MAX};
use crate::oci::ImageName;

pub use read::{ReadListError, read_image_list};

/// The images of a list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ImageList {
    /// The full names in the order of the list, each once. At most [`LOAD_IMAGES_MAX`].
    pub images: Vec<String>,
    /// Entries that are no names of images. At most [`IMAGE_LIST_MISTAKES_MAX`].
    pub mistakes: Vec<Mistake>,
    /// All entries that are no names of images.
    pub mistakes_count: usize,
}

/// An entry that is no name of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    pub text: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The reason, with the remedy.
    pub why: String,
}

/// The reason why a text is no list of images.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ListError {
    #[error("the list is larger than {} MiB; split the list", IMAGE_LIST_BYTES_MAX >> 20)]
    TooLarge,
    #[error(
        "the list is a {0}, and only lists of names can be loaded; write the names of the images into a text file"
    )]
    Archive(&'static str),
    #[error("line {line} is not UTF-8; expected one name of an image per line, YAML or JSON")]
    NotText { line: usize },
    #[error("line {line}: {why}; expected one name of an image per line, YAML or JSON{hint}")]
    Syntax {
        line: u64,
        why: String,
        hint: &'static str,
    },
    #[error("the list names no image; expected one name per line, Kubernetes objects or a compose file")]
    Empty,
    #[error("the list names more than {LOAD_IMAGES_MAX} images; split the list")]
    TooMany,
}

const NO_TEMPLATE: &str = "; templates are no YAML, so use the output of `helm template`";
const NO_VARIABLE: &str = "; variables have no value here, so use the output of `docker compose config`";

impl ImageList {
    /// Reads a list of images.
    ///
    /// # Errors
    ///
    /// The bytes are no list, or too large.
    pub fn parse(bytes: &[u8]) -> Result<Self, ListError> {
        if bytes.len() as u64 > IMAGE_LIST_BYTES_MAX {
            return Err(ListError::TooLarge);
        }
        if let Some(kind) = archive(bytes) {
            return Err(ListError::Archive(kind));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| ListError::NotText {
            line: 1 + count_lines(&bytes[..error.valid_up_to()]),
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut names = Names::default();
        match form(text) {
            Form::Plain => {
                for (number, line) in plain_lines(text) {
                    names.add(line, || number)?;
                }
            }
            Form::Json => names.add_all(text, documents::of_json(text)?)?,
            Form::Yaml => names.add_all(text, documents::of_yaml(text)?)?,
        }
        match names.list {
            list if list.images.is_empty() && list.mistakes.is_empty() => Err(ListError::Empty),
            list => Ok(list),
        }
    }
}

/// The form of a list.
#[derive(PartialEq, Eq, Debug)]
enum Form {
    /// One name per line.
    Plain,
    Json,
    Yaml,
}

fn form(text: &str) -> Form {
    if text.trim_start().starts_with(['{', '[']) {
        return Form::Json;
    }
    // No name of an image has one of these marks.
    let is_yaml = |line: &str| {
        line.starts_with("---") || line.starts_with("- ") || line.ends_with(':') || line.contains(": ")
    };
    match plain_lines(text).any(|(_, line)| is_yaml(line)) {
        true => Form::Yaml,
        false => Form::Plain,
    }
}

/// Returns the lines without blank lines and comments, with their numbers.
fn plain_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(at, line)| {
        let line = line.split_once(" #").map_or(line, |(line, _comment)| line);
        (at + 1, line.trim())
    });
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

/// Returns the kind of an archive by its first bytes.
fn archive(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return Some("gzip archive");
    }
    if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Some("zstd archive");
    }
    (bytes.get(257..262) == Some(b"ustar")).then_some("tar archive")
}

/// The names so far.
#[derive(Default)]
struct Names {
    known: HashSet<String>,
    list: ImageList,
}

impl Names {
    /// Adds the texts of documents. Their lines are those of their first occurrences in `text`.
    fn add_all(&mut self, text: &str, found: Vec<String>) -> Result<(), ListError> {
        for name in found {
            self.add(&name, || {
                let at = text.find(&name).unwrap_or(0);
                1 + count_lines(&text.as_bytes()[..at])
            })?;
        }
        Ok(())
    }

    fn add(&mut self, text: &str, line: impl Fn() -> usize) -> Result<(), ListError> {
        match text.trim().parse::<ImageName>() {
            Ok(name) => {
                let name = name.to_string();
                if self.known.insert(name.clone()) {
                    self.list.images.push(name);
                }
                match self.list.images.len() <= LOAD_IMAGES_MAX {
                    true => Ok(()),
                    false => Err(ListError::TooMany),
                }
            }
            Err(error) => {
                self.list.mistakes_count += 1;
                if self.list.mistakes.len() < IMAGE_LIST_MISTAKES_MAX {
                    let hint = if text.contains("${") { NO_VARIABLE } else { "" };
                    self.list.mistakes.push(Mistake {
                        text: text.chars().take(200).collect(),
                        line: line(),
                        why: format!("{error}{hint}"),
                    });
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
