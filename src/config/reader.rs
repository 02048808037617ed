//! Reads single values and maps of the file by the tables of [`super::schema_tables`], and records their errors.
//!
//! What the values mean together is for [`super::file`] and its relatives.

use std::path::{Path, PathBuf};

use super::Environment;
use super::diagnostics::{Diagnostic, Place, Warning};
use super::schema_tables::{self, KeySpec, Loss, Shape};
use super::secret::SecretText;
use super::suggest::nearest;
use super::units::{self, BOOL_ACCEPTED};
use super::yaml::{Node, Value};

/// A value and its line in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spanned<T> {
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

/// One key with its value.
pub(super) struct Field {
    pub spec: &'static KeySpec,
    /// From the top of the file, as written: `registries[2].url`.
    pub path: String,
    pub node: Node,
}

/// The known keys of one map, each once.
pub(super) struct Fields(Vec<Field>);

impl Fields {
    /// The field under its name in the table, at most once.
    pub(super) fn take(&mut self, name: &str) -> Option<Field> {
        let at = self.0.iter().position(|field| field.spec.name == name)?;
        Some(self.0.remove(at))
    }
}

/// One map of a list: its place, `tag_rules[0]`, and its keys.
pub(super) type Item = (Spanned<String>, Fields);

/// Collects diagnostics and warnings while a file is read.
pub(super) struct Reader<'a> {
    path: &'a Path,
    environment: Environment<'a>,
    pub diagnostics: Vec<Diagnostic>,
    pub warnings: Vec<Warning>,
    /// A secret stands in the file itself.
    pub holds_secret: bool,
}

/// A path inside the file, one step deeper.
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

    /// Records an error as [`Reader::record_error`] does, without the value.
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

    /// Returns the keys of a map that are in `table`. An unknown key is an error. A key that this version lacks is
    /// handled here. An empty value counts as absent.
    pub(super) fn fields(&mut self, path: &str, node: Node, table: &'static [KeySpec]) -> Fields {
        let entries = match node.value {
            Value::Map(entries) => entries,
            Value::Nothing => Vec::new(),
            _ => {
                let why = format!("accepted is a map of {}", names(table));
                self.record_error_at(node.line, path, &why);
                Vec::new()
            }
        };
        let mut fields: Vec<Field> = Vec::new();
        for (written, node) in entries {
            let Some(spec) = schema_tables::find(table, &written.text) else {
                self.unknown(path, &written, table);
                continue;
            };
            let path = below(path, &written.text);
            if let Shape::Absent(loss) = spec.shape {
                self.absent(&path, &node, loss);
                continue;
            }
            if let Some(before) = fields.iter().find(|field| field.spec.name == spec.name) {
                let why = format!("says the same as {}, which is said already", before.path);
                self.record_error_at(written.line, &path, &why);
                continue;
            }
            if !matches!(node.value, Value::Nothing) {
                fields.push(Field { spec, path, node });
            }
        }
        Fields(fields)
    }

    pub(super) fn unknown(&mut self, path: &str, written: &super::yaml::Key, table: &[KeySpec]) {
        let spellings: Vec<String> = table.iter().flat_map(KeySpec::spellings).collect();
        let why = match nearest(&written.text, spellings.iter().map(String::as_str)) {
            Some(meant) => format!("unknown key; did you mean {meant}?"),
            None => format!("unknown key; known are {}", names(table)),
        };
        self.record_error(written.line, path, &written.text, &why);
    }

    fn absent(&mut self, path: &str, node: &Node, loss: Loss) {
        if asks_for_nothing(&node.value) {
            return;
        }
        match loss {
            Loss::Nothing => {}
            Loss::Less => self.warn(node.line, path, "is not in this version and does nothing"),
        }
    }

    /// A single value, without the blanks around it; an empty one is as good as none.
    pub(super) fn text(&mut self, field: Field) -> Option<Spanned<String>> {
        let line = field.node.line;
        match field.node.value {
            Value::Nothing => None,
            Value::Scalar(text) => {
                let text = text.trim().to_owned();
                (!text.is_empty()).then_some(Spanned { value: text, line })
            }
            other => {
                self.record_error(line, &field.path, &other.shown(), "accepted is a single value");
                None
            }
        }
    }

    /// A single value that `parse` understands; `Err` says what is accepted.
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
            units::parse_bool(text).ok_or_else(|| format!("accepted is {BOOL_ACCEPTED}"))
        })
    }

    pub(super) fn duration(&mut self, field: Option<Field>) -> Option<Spanned<std::time::Duration>> {
        self.parsed(field, |text| {
            units::parse_duration(text).ok_or_else(|| format!("accepted is {}", units::DURATION_ACCEPTED))
        })
    }

    /// A list of values that `parse` understands, or one value.
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

    /// The items of a list of maps; where `alone` names a key, a single value stands for a map with that key alone.
    pub(super) fn maps(
        &mut self,
        field: Option<Field>,
        table: &'static [KeySpec],
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
            let single = alone.and_then(|name| schema_tables::find(table, name));
            let fields = match (&node.value, single) {
                (Value::Scalar(_), Some(spec)) => Fields(vec![Field {
                    spec,
                    path: path.value.clone(),
                    node,
                }]),
                (Value::Map(_), _) => self.fields(&path.value, node, table),
                _ => {
                    let why = format!("accepted is a map of {}", names(table));
                    self.record_error_at(node.line, &path.value, &why);
                    continue;
                }
            };
            maps.push((path, fields));
        }
        Some(Spanned { value: maps, line })
    }

    /// A secret that stands here (`<name>`), in a file (`<name>_file`) or in a variable (`<name>_env`).
    pub(super) fn secret(&mut self, fields: &mut Fields, name: &str) -> Option<Spanned<Source>> {
        let here = fields.take(name);
        let file = fields.take(&format!("{name}_file"));
        let variable = fields.take(&format!("{name}_env"));
        let said: Vec<&Field> = [&here, &file, &variable].into_iter().flatten().collect();
        if let [_, second, ..] = said[..] {
            let why = format!("{} is said in two ways; one is enough", name.replace('_', " "));
            let (line, path) = (second.node.line, second.path.clone());
            self.record_error_at(line, &path, &why);
            return None;
        }
        if let Some(field) = here {
            let line = field.node.line;
            return match field.node.value {
                Value::Scalar(text) if text.is_empty() => None,
                Value::Scalar(text) => {
                    self.holds_secret = true;
                    Some(Spanned {
                        value: Source {
                            secret: SecretText::new(text),
                            from: None,
                        },
                        line,
                    })
                }
                _ => {
                    self.record_error_at(line, &field.path, "accepted is a single value");
                    None
                }
            };
        }
        if let Some(field) = file {
            let path = field.path.clone();
            let spanned = self.text(field)?;
            let read = self.read_secret(&spanned, &path)?;
            let secret = read.strip_suffix('\n').unwrap_or(&read);
            let secret = secret.strip_suffix('\r').unwrap_or(secret);
            if secret.is_empty() {
                self.record_error(spanned.line, &path, &spanned.value, "the file is empty");
                return None;
            }
            return Some(Spanned {
                value: Source {
                    secret: SecretText::new(secret.to_owned()),
                    from: Some(format!("file {}", spanned.value)),
                },
                line: spanned.line,
            });
        }
        let field = variable?;
        let path = field.path.clone();
        let spanned = self.text(field)?;
        match (self.environment.env)(&spanned.value).filter(|text| !text.is_empty()) {
            Some(text) => Some(Spanned {
                value: Source {
                    secret: SecretText::new(text),
                    from: Some(format!("variable {}", spanned.value)),
                },
                line: spanned.line,
            }),
            None => {
                self.record_error(spanned.line, &path, &spanned.value, "this variable is not set");
                None
            }
        }
    }

    /// Returns the content of the file that `spanned` names.
    pub(super) fn read_file(&mut self, spanned: &Spanned<String>, key: &str) -> Option<String> {
        let read = self.environment.read(Path::new(&spanned.value));
        self.or_record(read, spanned, key)
    }

    /// As [`Reader::read_file`], for a file that is a secret.
    fn read_secret(&mut self, spanned: &Spanned<String>, key: &str) -> Option<String> {
        let read = self
            .environment
            .read_secret(Path::new(&spanned.value), &mut self.warnings);
        self.or_record(read, spanned, key)
    }

    fn or_record(
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

    /// Warns when every user may read the file at `path`, which was found to hold a secret.
    pub(super) fn warn_if_exposed(&mut self, path: &Path) {
        // Read once more for its mode. A read error is recorded where the file is used.
        let _ = self.environment.read_secret(path, &mut self.warnings);
    }

    /// A path, and the secret in the file there.
    pub(super) fn secret_file(&mut self, field: Field) -> Option<(Spanned<PathBuf>, String, String)> {
        let key = field.path.clone();
        let spanned = self.text(field)?;
        let text = self.read_secret(&spanned, &key)?;
        Some((spanned.map(PathBuf::from), text, key))
    }

    /// A path, and the content of the file there.
    pub(super) fn file(&mut self, field: Option<Field>) -> Option<(Spanned<PathBuf>, String, String)> {
        let field = field?;
        let key = field.path.clone();
        let spanned = self.text(field)?;
        let text = self.read_file(&spanned, &key)?;
        Some((spanned.map(PathBuf::from), text, key))
    }
}

/// A secret, and where it is when it is not in the configuration file itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub secret: SecretText,
    pub from: Option<String>,
}

/// The keys of a table, for messages.
fn names(table: &[KeySpec]) -> String {
    let shown = table.iter().filter(|key| !matches!(key.shape, Shape::Absent(_)));
    shown.map(|key| key.name).collect::<Vec<_>>().join(", ")
}

/// Whether a value says what would hold without it: off, none, or a switch `enabled` that is off.
fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Nothing => true,
        Value::Scalar(text) => matches!(text.trim(), "" | "0") || units::parse_bool(text) == Some(false),
        Value::List(items) => items.is_empty(),
        Value::Map(entries) => {
            entries.is_empty() || entries.iter().any(|(key, node)| {
                key.text == "enabled"
                    && matches!(&node.value, Value::Scalar(text) if units::parse_bool(text) == Some(false))
            })
        }
    }
}

/// The text without the credentials and the query of a URL in it.
pub(super) fn masked(text: &str) -> String {
    let text = text.split('?').next().unwrap_or_default();
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    // The last `@`, even behind a slash: a password may hold one that ought to have been escaped.
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
