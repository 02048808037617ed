//! The configuration file: YAML, every key known, every mistake with its line.
//!
//! The document is read into a small tree with positions first and judged second. Deserialising into the
//! final types directly would stop at the first mistake.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use reqwest::Url;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::mistake::{Mistake, Place};
use super::setting::{Given, Layer, Setting};
use super::units;
use super::{RegistryConfig, RegistryName, RegistrySettings};
use crate::oci::Namespace;

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct File {
    pub settings: Layer,
    pub registries: Vec<RegistryConfig>,
}

/// Reads `text`; what is wrong goes to `mistakes`, what is right is returned.
pub(super) fn parse(path: &Path, text: &str, mistakes: &mut Vec<Mistake>) -> File {
    let mut reader = Reader {
        path,
        mistakes,
        file: File::default(),
        names: HashSet::new(),
    };
    match serde_saphyr::from_str::<Option<Node>>(text) {
        Ok(None) => {}
        Ok(Some(document)) => reader.document(document),
        Err(error) => {
            let line = error.location().map_or(1, |at| at.line());
            let what = format!("{}:{line}", path.display());
            // The library's message repeats the text around the place; the line number is enough.
            let message = error.without_snippet().to_string();
            let why = format!(
                "not YAML we can read: {}",
                message.lines().next().unwrap_or_default()
            );
            reader.mistakes.push(Mistake { what, why });
        }
    }
    reader.file
}

type Node = Spanned<Value>;

/// YAML without its types: an operator who writes `8080` or `on` means the text.
#[derive(Debug)]
enum Value {
    Nothing,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<(Spanned<String>, Node)>),
}

struct Reader<'a> {
    path: &'a Path,
    mistakes: &'a mut Vec<Mistake>,
    file: File,
    names: HashSet<Namespace>,
}

impl Reader<'_> {
    fn document(&mut self, document: Node) {
        let Value::Map(entries) = document.value else {
            return self.note(
                line_of(&document),
                "",
                &shown(&document.value),
                "accepted are `key: value` lines",
            );
        };
        for (key, node) in entries {
            if key.value == "registries" {
                self.registries(node);
                continue;
            }
            match Setting::ALL
                .into_iter()
                .find(|setting| setting.key() == Some(&key.value))
            {
                Some(setting) => self.setting(setting, &key.value, node),
                None => {
                    let known: Vec<_> = Setting::ALL.into_iter().filter_map(Setting::key).collect();
                    let why = format!("unknown key; known are {}, registries", known.join(", "));
                    self.note(key.referenced.line(), "", &key.value, &why);
                }
            }
        }
    }

    fn setting(&mut self, setting: Setting, key: &str, node: Node) {
        let line = line_of(&node);
        let text = match node.value {
            Value::Nothing => return,
            Value::Scalar(text) => text,
            Value::List(items) if setting == Setting::ListenAddr => {
                let texts = items.into_iter().map(|item| match item.value {
                    Value::Scalar(text) => text,
                    other => shown(&other),
                });
                texts.collect::<Vec<_>>().join(",")
            }
            other => return self.note(line, key, &shown(&other), "accepted is a single value"),
        };
        let place = Place::File {
            path: self.path.to_owned(),
            line,
            key: key.to_owned(),
        };
        self.file.settings.insert(setting, Given { text, place });
    }

    fn registries(&mut self, node: Node) {
        let line = line_of(&node);
        match node.value {
            Value::Nothing => {}
            Value::List(items) => {
                for (index, item) in items.into_iter().enumerate() {
                    self.registry(&format!("registries[{index}]"), None, item);
                }
            }
            Value::Map(entries) => {
                for (name, item) in entries {
                    let key = format!("registries.{}", name.value);
                    self.registry(&key, Some(name), item);
                }
            }
            Value::Scalar(text) => {
                self.note(
                    line,
                    "registries",
                    &text,
                    "accepted is a list of `name`, `insecure`, `url`, or a map by name",
                );
            }
        }
    }

    fn registry(&mut self, key: &str, name: Option<Spanned<String>>, node: Node) {
        let line = line_of(&node);
        let in_list = name.is_none();
        let mut name = name.map(|name| (name.referenced.line(), name.value));
        let (mut insecure, mut url) = (false, None);
        let entries = match node.value {
            Value::Map(entries) => entries,
            Value::Nothing => Vec::new(),
            other => {
                return self.note(
                    line,
                    key,
                    &shown(&other),
                    "accepted are the keys name, insecure and url",
                );
            }
        };
        let before = self.mistakes.len();
        for (field, node) in entries {
            let line = line_of(&node);
            let field_key = format!("{key}.{}", field.value);
            let text = match node.value {
                Value::Nothing => continue,
                Value::Scalar(text) => text,
                other => shown(&other),
            };
            match field.value.as_str() {
                "name" if in_list => name = Some((line, text)),
                "insecure" => match units::parse_bool(&text) {
                    Some(value) => insecure = value,
                    None => self.note(
                        line,
                        &field_key,
                        &text,
                        &format!("accepted is {}", units::BOOL_ACCEPTED),
                    ),
                },
                "url" => match parse_url(&text) {
                    Ok(value) => url = Some(value),
                    Err(why) => self.note(line, &field_key, &text, why),
                },
                _ => {
                    let known = if in_list {
                        "name, insecure, url"
                    } else {
                        "insecure, url"
                    };
                    let why = format!("unknown key; known are {known}");
                    self.note(field.referenced.line(), key, &field.value, &why);
                }
            }
        }
        let Some((line, name)) = name else {
            return self.note(line, key, "", "a registry needs a name, `host` or `host:port`");
        };
        match name.parse::<Namespace>() {
            Err(error) => self.note(line, &format!("{key}.name"), &name, &error.to_string()),
            Ok(parsed) if !self.names.insert(parsed.clone()) => {
                self.note(
                    line,
                    &format!("{key}.name"),
                    &name,
                    "this registry is named twice",
                );
            }
            Ok(name) if self.mistakes.len() == before => {
                self.file.registries.push(RegistryConfig {
                    name: RegistryName::Exact(name),
                    settings: RegistrySettings {
                        insecure,
                        url,
                        ..RegistrySettings::default()
                    },
                });
            }
            Ok(_) => {}
        }
    }

    fn note(&mut self, line: u64, key: &str, value: &str, why: &str) {
        let place = Place::File {
            path: self.path.to_owned(),
            line,
            key: key.to_owned(),
        };
        self.mistakes.push(Mistake {
            what: place.with_value(value),
            why: why.to_owned(),
        });
    }
}

fn parse_url(text: &str) -> Result<Url, &'static str> {
    const ACCEPTED: &str = "accepted is http://host[:port][/path] or the same with https";
    let url = Url::parse(text).map_err(|_| ACCEPTED)?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(ACCEPTED);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials do not belong into the URL");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(ACCEPTED);
    }
    Ok(url)
}

fn line_of(node: &Node) -> u64 {
    node.referenced.line()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Nothing => String::new(),
        Value::Scalar(text) => text.clone(),
        Value::List(items) => format!("a list of {}", items.len()),
        Value::Map(entries) => format!("a map of {}", entries.len()),
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a map")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Scalar(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Scalar(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Scalar(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nothing)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}
