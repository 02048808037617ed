//! YAML as a small tree. Every value has its line.
//!
//! Scalars have no type: `8080`, `on` and `0123` stay as written, and the parser of a setting decides about the type.
//! Duplicate keys are errors, like all violations of YAML.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{Error, Spanned};

use crate::limits::CONFIG_DEPTH_MAX;

/// A value with its line.
#[derive(Debug)]
pub(super) struct Node {
    pub value: Value,
    /// The line, counted from 1.
    pub line: u64,
}

#[derive(Debug)]
pub(super) enum Value {
    /// `null`, `~`, or an empty value.
    Nothing,
    /// A text as written, without quotes.
    Scalar(String),
    List(Vec<Node>),
    /// Keys and values in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Debug)]
pub(super) struct Key {
    pub text: String,
    pub line: u64,
}

/// A syntax error.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub line: u64,
    pub why: String,
}

/// Parses a document. An empty document is [`Value::Nothing`].
///
/// # Errors
///
/// Returns the first syntax error, without the surrounding text: the text may be a secret.
pub(super) fn parse(text: &str) -> Result<Node, Broken> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: CONFIG_DEPTH_MAX },
        alias_limits: serde_saphyr::alias_limits! { max_replay_stack_depth: CONFIG_DEPTH_MAX },
    };
    match serde_saphyr::from_str_with_options::<Option<Located>>(text, options) {
        Ok(Some(document)) => Ok(finish(document, text)),
        Ok(None) => Ok(Node {
            value: Value::Nothing,
            line: 1,
        }),
        Err(error) => Err(Broken {
            line: error.location().map_or(1, |at| at.line()),
            why: reason(error.without_snippet()),
        }),
    }
}

fn reason(error: &Error) -> String {
    match error {
        Error::Budget {
            breach: BudgetBreach::Depth { .. },
            ..
        } => format!("lists and maps are nested too deeply; expected at most {CONFIG_DEPTH_MAX} levels"),
        error => error.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

impl Value {
    /// Returns the value for messages: the text of a scalar, or the size of a list or map.
    pub(super) fn shown(&self) -> String {
        match self {
            Value::Nothing => String::new(),
            Value::Scalar(text) => text.clone(),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Map(entries) => format!("a map of {}", entries.len()),
        }
    }
}

type Located = Spanned<Raw>;

#[derive(Debug)]
enum Raw {
    Nothing,
    Text(String),
    /// A number or a switch, by the library. The text itself is in the document.
    Typed(String),
    List(Vec<Located>),
    Map(Vec<(Spanned<String>, Located)>),
}

fn finish(node: Located, document: &str) -> Node {
    let value = match node.value {
        Raw::Nothing => Value::Nothing,
        Raw::Text(text) => Value::Scalar(text),
        Raw::Typed(text) => {
            let span = node.defined.span();
            let written = span.byte_offset().zip(span.byte_len()).and_then(|(at, len)| {
                let (at, len) = (usize::try_from(at).ok()?, usize::try_from(len).ok()?);
                document.get(at..at.checked_add(len)?)
            });
            Value::Scalar(written.map_or(text, |written| written.trim().to_owned()))
        }
        Raw::List(items) => Value::List(items.into_iter().map(|item| finish(item, document)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, item)| {
                    let key = Key {
                        line: key.referenced.line(),
                        text: key.value,
                    };
                    (key, finish(item, document))
                })
                .collect(),
        ),
    };
    Node {
        value,
        line: node.referenced.line(),
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a map")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Nothing)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_scalar_keeps_its_source_text() {
        for text in [
            "0123", "1e3", "0x10", "1_000", "yes", "NO", "1.0", "+5", "-0", "1:20", "a b", "äö 1",
        ] {
            let node = parse(&format!("ä: {text} # comment\nb: 1\n")).unwrap();
            let Value::Map(entries) = node.value else { panic!() };
            let Value::Scalar(read) = &entries[0].1.value else {
                panic!("{text}")
            };
            assert_eq!(read, text);
        }
        let node = parse("a: &x 0123\nb: *x\nc: '0123'\n").unwrap();
        let Value::Map(entries) = node.value else { panic!() };
        for (_, node) in &entries {
            assert!(
                matches!(&node.value, Value::Scalar(text) if text == "0123"),
                "{node:?}"
            );
        }
    }

    #[test]
    fn nesting_is_an_error_beyond_the_limit() {
        let nested =
            |levels: usize| format!("a: 1\nb: {}1{}\n", "[".repeat(levels - 1), "]".repeat(levels - 1));
        parse(&nested(CONFIG_DEPTH_MAX)).unwrap();
        let broken = parse(&nested(CONFIG_DEPTH_MAX + 1)).unwrap_err();
        let why = "lists and maps are nested too deeply; expected at most 16 levels";
        assert_eq!((broken.line, &*broken.why), (2, why));
    }

    #[test]
    fn yaml_error_names_the_line_but_no_content() {
        let broken = parse("a: 1\nb: [canary\n").unwrap_err();
        assert!(!broken.why.contains("canary"), "{broken:?}");
        assert_eq!(parse("a: 1\na: 2\n").unwrap_err().line, 2);
    }
}
