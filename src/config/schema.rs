//! The JSON Schema (2020-12) of the configuration file, derived from the tables of the reader.
//!
//! The schema checks single keys. `config check` also checks keys against each other, such as a certificate with its key,
//! and reads all files.

use serde_json::{Map, Value, json};

use super::options::Setting;
use super::sources::keys::{DOCUMENT, Loss, REGISTRY, Shape, Table, setting_spellings};
use super::value::Kind;

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Returns the schema as a single document.
pub fn schema() -> Value {
    let mut properties = Map::new();
    for setting in Setting::ALL {
        for spelling in setting_spellings(setting) {
            properties.insert(spelling, described(kind(setting.kind()), setting.summary()));
        }
    }
    add_keys(&mut properties, DOCUMENT);
    json!({
        "$schema": DIALECT,
        "title": "Configuration of oci-pull-through",
        "anyOf": [
            {
                "type": ["object", "null"],
                "properties": properties,
                "additionalProperties": false,
            },
            list_of_registries(),
        ],
        "$defs": {
            "registry": map(REGISTRY),
        },
    })
}

fn list_of_registries() -> Value {
    json!({
        "type": "array",
        "items": {"$ref": "#/$defs/registry", "type": "object", "required": ["name"]},
    })
}

fn map(table: Table) -> Value {
    let mut properties = Map::new();
    add_keys(&mut properties, table);
    json!({"type": ["object", "null"], "properties": properties, "additionalProperties": false})
}

fn add_keys(properties: &mut Map<String, Value>, table: Table) {
    for key in table.iter() {
        for spelling in key.spellings() {
            properties.insert(spelling, described(shape(key.shape), key.summary));
        }
    }
}

fn described(mut schema: Value, summary: &str) -> Value {
    if let Value::Object(fields) = &mut schema {
        let known_elsewhere = fields.remove("$comment").is_some();
        let suffix = if known_elsewhere {
            " (not in this version)"
        } else {
            ""
        };
        fields.insert("description".to_owned(), format!("{summary}{suffix}").into());
    }
    schema
}

fn shape(of: Shape) -> Value {
    match of {
        Shape::One(one) => kind(one),
        Shape::Many(one) => {
            let one = kind(one);
            json!({"anyOf": [one, {"type": "array", "items": one}]})
        }
        Shape::Map(table) => map(table),
        Shape::MapOr(table, words) => json!({"anyOf": [map(table), {"enum": words}]}),
        Shape::Maps(table, alone) => {
            let single = alone.and_then(|name| table.find(name));
            let item = match single {
                Some(key) => json!({"anyOf": [map(table), shape(key.shape)]}),
                None => map(table),
            };
            json!({"anyOf": [item, {"type": "array", "items": item}]})
        }
        Shape::Named => json!({
            "anyOf": [
                {"type": "null"},
                list_of_registries(),
                {"type": "object", "additionalProperties": {"$ref": "#/$defs/registry"}},
            ],
        }),
        Shape::Absent(Loss::Nothing) => json!({}),
        Shape::Absent(Loss::Less) => json!({"$comment": ""}),
    }
}

/// Returns the schema of a single value. Every value may be null, because a key without a value counts as absent.
fn kind(kind: Kind) -> Value {
    let text = || json!({"type": ["string", "number", "boolean", "null"]});
    let words = |words: &[&str]| {
        let all = words.iter().map(|word| Value::from(*word)).chain([Value::Null]);
        json!({"enum": all.collect::<Vec<_>>()})
    };
    let number = |least: u64, most: u64| json!({"type": ["integer", "string", "null"], "minimum": least, "maximum": most, "pattern": "^ *[0-9]+ *$"});
    let duration = || json!({"type": ["integer", "string", "null"], "minimum": 0, "pattern": "^ *[0-9]+ *(ms|s|m|h|d)? *$"});
    let bytes = || {
        json!({
            "type": ["number", "string", "null"],
            "minimum": 0,
            "pattern": "^ *[0-9]+([.][0-9]+)? *([KkMmGgTt]([Ii]?[Bb])?|[Bb])? *$",
        })
    };
    match kind {
        Kind::Switch => json!({
            "type": ["boolean", "integer", "string", "null"],
            "minimum": 0,
            "maximum": 1,
            "pattern": "^ *([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|[Yy][Ee][Ss]|[Nn][Oo]|[Oo][Nn]|[Oo][Ff][Ff]|[01])? *$",
        }),
        Kind::Count(most) => number(1, most),
        Kind::CountOrAuto(most) => json!({"anyOf": [{"const": "auto"}, number(1, most)]}),
        Kind::CountFrom0(most) => number(0, most),
        Kind::Port => number(0, u64::from(u16::MAX)),
        Kind::Bytes => bytes(),
        Kind::BytesOrAuto => json!({"anyOf": [{"const": "auto"}, bytes()]}),
        Kind::SizeOrAuto => json!({"anyOf": [
            {"const": "auto"},
            bytes(),
            {"type": "string", "pattern": "^ *(100|[1-9][0-9]?) *% *$"},
        ]}),
        Kind::Duration => duration(),
        Kind::DurationOrMillis => duration(),
        Kind::Word(list) => words(list),
        Kind::WordOrDuration(list) => json!({"anyOf": [words(list), duration()]}),
        Kind::Url => json!({"type": ["string", "null"], "pattern": "^ *[Hh][Tt][Tt][Pp][Ss]?://[^@?#]+$"}),
        Kind::ProxyUrl(_) => json!({"type": ["string", "null"]}),
        Kind::Addresses => json!({"anyOf": [text(), {"type": "array", "items": text()}]}),
        Kind::Registry | Kind::RegistryOrNone => {
            json!({"type": ["string", "number", "null"], "pattern": "^[^/@ ]*$"})
        }
        Kind::Platforms => json!({"anyOf": [text(), {"type": "array", "items": text()}]}),
        Kind::AddressOrOff
        | Kind::BaseUrl
        | Kind::Bucket
        | Kind::Prefix
        | Kind::Path
        | Kind::Text
        | Kind::Secret => text(),
    }
}

#[cfg(test)]
mod tests;
