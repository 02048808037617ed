//! Secrets of the file: in the file itself, in another file, or in a variable.

use std::path::{Path, PathBuf};

use super::super::model::SecretText;
use super::reader::{Field, Fields, Reader, Spanned};
use super::yaml::Value;

/// A secret, with the file or variable that holds the secret. `None` means the configuration file itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct FoundSecret {
    pub secret: SecretText,
    pub from: Option<String>,
}

impl Reader<'_> {
    /// Reads a secret from one of the keys `<name>`, `<name>_file` (a path) and `<name>_env` (a variable).
    pub(super) fn secret(&mut self, fields: &mut Fields, name: &str) -> Option<Spanned<FoundSecret>> {
        let inline = fields.take(name);
        let file = fields.take(&format!("{name}_file"));
        let variable = fields.take(&format!("{name}_env"));
        let present: Vec<&Field> = [&inline, &file, &variable].into_iter().flatten().collect();
        if let [_, second, ..] = present[..] {
            let why = format!("{} is set in two ways; set one of them", name.replace('_', " "));
            let (line, path) = (second.node.line, second.path.clone());
            self.record_error_at(line, &path, &why);
            return None;
        }
        if let Some(field) = inline {
            self.inline_secret(field)
        } else if let Some(field) = file {
            self.file_secret(field)
        } else {
            self.variable_secret(variable?)
        }
    }

    fn inline_secret(&mut self, field: Field) -> Option<Spanned<FoundSecret>> {
        let line = field.node.line;
        match field.node.value {
            Value::Scalar(text) if text.is_empty() => None,
            Value::Scalar(text) => {
                self.holds_secret = true;
                Some(found(text, None, line))
            }
            _ => {
                self.record_error_at(line, &field.path, "expected a single value");
                None
            }
        }
    }

    fn file_secret(&mut self, field: Field) -> Option<Spanned<FoundSecret>> {
        let path = field.path.clone();
        let spanned = self.text(field)?;
        let text = self.read_secret(&spanned, &path)?;
        let secret = without_line_end(&text);
        if secret.is_empty() {
            self.record_error(spanned.line, &path, &spanned.value, "the file is empty");
            return None;
        }
        let from = format!("file {}", spanned.value);
        Some(found(secret.to_owned(), Some(from), spanned.line))
    }

    fn variable_secret(&mut self, field: Field) -> Option<Spanned<FoundSecret>> {
        let path = field.path.clone();
        let spanned = self.text(field)?;
        let Some(text) = self.variable(&spanned.value) else {
            self.record_error(spanned.line, &path, &spanned.value, "this variable is not set");
            return None;
        };
        let from = format!("variable {}", spanned.value);
        Some(found(text, Some(from), spanned.line))
    }

    /// Reads a file with a secret. `spanned` is the path.
    fn read_secret(&mut self, spanned: &Spanned<String>, key: &str) -> Option<String> {
        let read = self
            .environment
            .read_secret(Path::new(&spanned.value), &mut self.warnings);
        self.or_record(read, spanned, key)
    }

    /// Returns a path, the content of the secret file there, and the key of the path.
    pub(super) fn secret_file(&mut self, field: Field) -> Option<(Spanned<PathBuf>, String, String)> {
        let key = field.path.clone();
        let spanned = self.text(field)?;
        let text = self.read_secret(&spanned, &key)?;
        Some((spanned.map(PathBuf::from), text, key))
    }

    /// Warns if every user can read the file at `path`. For a file that turned out to hold a secret.
    pub(super) fn warn_if_exposed(&mut self, path: &Path) {
        // Reads the file again for its mode. A read error is recorded where the file is used.
        let _ = self.environment.read_secret(path, &mut self.warnings);
    }
}

fn found(text: String, from: Option<String>, line: u64) -> Spanned<FoundSecret> {
    let secret = SecretText::new(text);
    Spanned {
        value: FoundSecret { secret, from },
        line,
    }
}

/// Removes a line end at the end of a file.
pub(in crate::config) fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}
