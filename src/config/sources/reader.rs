//! Reads single values and maps of the file by the tables of [`super::keys`], and records errors.
//!
//! [`super::file`] and the files for single maps check values against each other.

use std::path::{Path, PathBuf};

use super::super::model::units::{parse_bool, parse_duration};
use super::super::options::Setting;
use super::super::value::Kind;
use super::diagnostics::{Diagnostic, Place, Warning};
use super::environment::Environment;
use super::keys::{KeySpec, Loss, Shape, Table};
use super::layer::{Given, Layer};
use super::suggest::nearest;
use super::yaml::{Key, Node, Value};

/// A value with its line in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Spanned<T> {
    pub value: T,
    pub line: u64,
}

impl<T> Spanned<T> {
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned {
            value: change(self.value),
            line: self.line,
        }
    }
}

/// A key with its value.
pub(super) struct Field {
    pub spec: &'static KeySpec,
    /// The path from the top of the file, as written: `registries[2].url`.
    pub path: String,
    pub node: Node,
}

/// The known keys of a map, without duplicates.
pub(super) struct Fields(Vec<Field>);

impl Fields {
    /// Removes and returns the field with this name in the table.
    pub(super) fn take(&mut self, name: &str) -> Option<Field> {
        let at = self.0.iter().position(|field| field.spec.name == name)?;
        Some(self.0.remove(at))
    }
}

/// A map of a list: the place, `tag_rules[0]`, and the keys.
pub(super) type Item = (Spanned<String>, Fields);

/// Collects diagnostics and warnings while a file is read.
pub(super) struct Reader<'a> {
    path: &'a Path,
    pub environment: Environment<'a>,
    pub diagnostics: Vec<Diagnostic>,
    pub warnings: Vec<Warning>,
    /// Whether the file itself holds a secret.
    pub holds_secret: bool,
}

/// Appends a key to a path inside the file.
pub(super) fn below(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(path: &'a Path, environment: Environment<'a>) -> Self {
        Reader {
            path,
            environment,
            diagnostics: Vec::new(),
            warnings: Vec::new(),
            holds_secret: false,
        }
    }

    pub(super) fn place(&self, line: u64, key: &str) -> Place {
        Place::File {
            path: self.path.to_owned(),
            line,
            key: key.to_owned(),
        }
    }

    pub(super) fn record_error(&mut self, line: u64, key: &str, value: &str, why: &str) {
        self.diagnostics.push(Diagnostic {
            what: self.place(line, key).with_value(value),
            why: why.to_owned(),
        });
    }

    /// Records an error without the value.
    pub(super) fn record_error_at(&mut self, line: u64, key: &str, why: &str) {
        self.diagnostics.push(Diagnostic {
            what: self.place(line, key).alone(),
            why: why.to_owned(),
        });
    }

    pub(super) fn warn(&mut self, line: u64, key: &str, why: &str) {
        self.warnings.push(Warning {
            what: self.place(line, key).alone(),
            why: why.to_owned(),
        });
    }

    /// Returns the keys of a map that are in `table`. An empty value counts as absent. Records unknown keys as errors, and
    /// keys without function in this version as warnings.
    pub(super) fn fields(&mut self, path: &str, node: Node, table: Table) -> Fields {
        let entries = match node.value {
            Value::Map(entries) => entries,
            Value::Nothing => Vec::new(),
            _ => {
                let why = format!("expected a map of {}", table.names());
                self.record_error_at(node.line, path, &why);
                Vec::new()
            }
        };
        let mut fields: Vec<Field> = Vec::new();
        for (written, node) in entries {
            let Some(spec) = table.find(&written.text) else {
                self.unknown(path, &written, table);
                continue;
            };
            let path = below(path, &written.text);
            if let Shape::Absent(loss) = spec.shape {
                self.absent(&path, &node, loss);
                continue;
            }
            if let Some(before) = fields.iter().find(|field| field.spec.name == spec.name) {
                let why = format!("repeats {}, which is already set", before.path);
                self.record_error_at(written.line, &path, &why);
                continue;
            }
            if !matches!(node.value, Value::Nothing) {
                fields.push(Field { spec, path, node });
            }
        }
        Fields(fields)
    }

    pub(super) fn unknown(&mut self, path: &str, written: &Key, table: Table) {
        let spellings: Vec<String> = table.iter().flat_map(KeySpec::spellings).collect();
        let why = match nearest(&written.text, spellings.iter().map(String::as_str)) {
            Some(meant) => format!("unknown key; did you mean {meant}?"),
            None => format!("unknown key; expected one of {}", table.names()),
        };
        self.record_error(written.line, path, &written.text, &why);
    }

    /// Warns about a key without function in this version, if its value would have an effect.
    fn absent(&mut self, path: &str, node: &Node, loss: Loss) {
        if is_disabled(&node.value) {
            return;
        }
        match loss {
            Loss::Nothing => {}
            Loss::Less => self.warn(node.line, path, "is not in this version and does nothing"),
        }
    }

    /// Returns a single value without surrounding blanks. An empty value counts as absent.
    pub(super) fn text(&mut self, field: Field) -> Option<Spanned<String>> {
        let line = field.node.line;
        match field.node.value {
            Value::Nothing => None,
            Value::Scalar(text) => {
                let text = text.trim().to_owned();
                (!text.is_empty()).then_some(Spanned { value: text, line })
            }
            other => {
                self.record_error(line, &field.path, &other.shown(), "expected a single value");
                None
            }
        }
    }

    /// Parses a single value. The error of `parse` is the message.
    pub(super) fn parsed<T>(
        &mut self,
        field: Option<Field>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Spanned<T>> {
        let field = field?;
        let path = field.path.clone();
        let spanned = self.text(field)?;
        match parse(&spanned.value) {
            Ok(value) => Some(Spanned {
                value,
                line: spanned.line,
            }),
            Err(why) => {
                self.record_error(spanned.line, &path, &masked(&spanned.value), &why);
                None
            }
        }
    }

    pub(super) fn switch(&mut self, field: Option<Field>) -> Option<Spanned<bool>> {
        self.parsed(field, |text| {
            parse_bool(text).ok_or_else(|| format!("expected {}", Kind::Switch.expected()))
        })
    }

    pub(super) fn duration(&mut self, field: Option<Field>) -> Option<Spanned<std::time::Duration>> {
        self.parsed(field, |text| {
            parse_duration(text).ok_or_else(|| format!("expected {}", Kind::Duration.expected()))
        })
    }

    /// Parses a list of values, or a single value.
    pub(super) fn list<T>(
        &mut self,
        field: Option<Field>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Spanned<Vec<T>>> {
        let Field { spec, path, node } = field?;
        let line = node.line;
        let items = match node.value {
            Value::List(items) => items,
            value => vec![Node { value, line }],
        };
        let several = items.len() > 1;
        let mut values = Vec::new();
        for (index, node) in items.into_iter().enumerate() {
            let path = if several {
                format!("{path}[{index}]")
            } else {
                path.clone()
            };
            let item = Field { spec, path, node };
            values.extend(self.parsed(Some(item), &parse).map(|spanned| spanned.value));
        }
        Some(Spanned { value: values, line })
    }

    /// Returns the items of a list of maps. If `alone` names a key, a single value stands for a map with only this key.
    pub(super) fn maps(
        &mut self,
        field: Option<Field>,
        table: Table,
        alone: Option<&'static str>,
    ) -> Option<Spanned<Vec<Item>>> {
        let Field { path, node, .. } = field?;
        let line = node.line;
        let items = match node.value {
            Value::List(items) => items,
            value => vec![Node { value, line }],
        };
        let mut maps = Vec::new();
        for (index, node) in items.into_iter().enumerate() {
            let path = Spanned {
                value: format!("{path}[{index}]"),
                line: node.line,
            };
            let single = alone.and_then(|name| table.find(name));
            let fields = match (&node.value, single) {
                (Value::Scalar(_), Some(spec)) => Fields(vec![Field {
                    spec,
                    path: path.value.clone(),
                    node,
                }]),
                (Value::Map(_), _) => self.fields(&path.value, node, table),
                _ => {
                    let why = format!("expected a map of {}", table.names());
                    self.record_error_at(node.line, &path.value, &why);
                    continue;
                }
            };
            maps.push((path, fields));
        }
        Some(Spanned { value: maps, line })
    }

    /// Inserts a value into the layer of the file, and records a duplicate.
    pub(super) fn give(
        &mut self,
        setting: Setting,
        spanned: Spanned<String>,
        key: &str,
        settings: &mut Layer,
    ) {
        if settings.find(setting).is_some() {
            let name = setting.key().unwrap_or_default();
            let why = format!("repeats {name}, which is already set");
            return self.record_error_at(spanned.line, key, &why);
        }
        let place = self.place(spanned.line, key);
        let text = spanned.value;
        settings.insert(setting, Given { text, place });
    }

    /// Returns a variable of the environment that is not empty.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.environment.env)(name).filter(|text| !text.is_empty())
    }

    /// Reads the file at the path `spanned`.
    fn read_file(&mut self, spanned: &Spanned<String>, key: &str) -> Option<String> {
        let read = self.environment.read(Path::new(&spanned.value));
        self.or_record(read, spanned, key)
    }

    /// Returns the content of a file, or records the read error.
    pub(super) fn or_record(
        &mut self,
        read: std::io::Result<String>,
        spanned: &Spanned<String>,
        key: &str,
    ) -> Option<String> {
        match read {
            Ok(text) => Some(text),
            Err(error) => {
                self.record_error(
                    spanned.line,
                    key,
                    &spanned.value,
                    &format!("cannot be read: {error}"),
                );
                None
            }
        }
    }

    /// Returns a path, the content of the file there, and the key of the path.
    pub(super) fn file(&mut self, field: Option<Field>) -> Option<(Spanned<PathBuf>, String, String)> {
        let field = field?;
        let key = field.path.clone();
        let spanned = self.text(field)?;
        let text = self.read_file(&spanned, &key)?;
        Some((spanned.map(PathBuf::from), text, key))
    }
}

/// Returns whether a value has no effect: off, empty, or a map in which `enabled` is off.
fn is_disabled(value: &Value) -> bool {
    match value {
        Value::Nothing => true,
        Value::Scalar(text) => matches!(text.trim(), "" | "0") || parse_bool(text) == Some(false),
        Value::List(items) => items.is_empty(),
        Value::Map(entries) => {
            entries.is_empty()
                || entries.iter().any(|(key, node)| {
                    key.text == "enabled"
                        && matches!(&node.value, Value::Scalar(text) if parse_bool(text) == Some(false))
                })
        }
    }
}

/// Removes credentials and query from a URL in `text`.
pub(super) fn masked(text: &str) -> String {
    let text = text.split('?').next().unwrap_or_default();
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    // The last `@`, even after a slash: a password may hold an unescaped `@`.
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}***@{host}"),
        None => format!("{scheme}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_in_a_message_has_no_password_and_no_query() {
        for (text, shown) in [
            ("http://u:p@h/x", "http://***@h/x"),
            ("u:p@h:1", "***@h:1"),
            ("socks5://u:p/w@h", "socks5://***@h"),
            ("http://u:p@x@h", "http://***@h"),
            ("http://h/?token=canary", "http://h/"),
            ("plain", "plain"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }
}
