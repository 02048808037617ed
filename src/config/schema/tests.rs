//! Tests of the schema against the reader.

use serde_json::{Value, json};

use super::schema;
use crate::config::tests::{EVERYTHING, GOOD, with_files};

/// Validates by the part of JSON Schema in use. Any other keyword fails the test.
fn validate(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let Value::Object(rules) = schema else {
        panic!("not a schema: {schema}")
    };
    for (rule, wanted) in rules {
        let holds = match rule.as_str() {
            "$schema" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let path = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                validate(
                    root,
                    root.pointer(path).expect("the reference has a target"),
                    value,
                    at,
                )?;
                true
            }
            "type" => one_or_many(wanted)
                .iter()
                .any(|name| is_of_type(value, name.as_str().unwrap())),
            "enum" => wanted.as_array().unwrap().contains(value),
            "const" => wanted == value,
            "minimum" => value
                .as_f64()
                .is_none_or(|number| number >= wanted.as_f64().unwrap()),
            "maximum" => value
                .as_f64()
                .is_none_or(|number| number <= wanted.as_f64().unwrap()),
            "pattern" => {
                let pattern = regex::Regex::new(wanted.as_str().unwrap()).unwrap();
                value.as_str().is_none_or(|text| pattern.is_match(text))
            }
            "required" => {
                let names = wanted.as_array().unwrap();
                value
                    .as_object()
                    .is_none_or(|map| names.iter().all(|name| map.contains_key(name.as_str().unwrap())))
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    validate(root, wanted, item, &format!("{at}[{index}]"))?;
                }
                true
            }
            "properties" => {
                for (key, item) in value.as_object().into_iter().flatten() {
                    if let Some(schema) = wanted.get(key) {
                        validate(root, schema, item, &format!("{at}.{key}"))?;
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = rules.get("properties");
                for (key, item) in value.as_object().into_iter().flatten() {
                    if known.is_some_and(|known| known.get(key).is_some()) {
                        continue;
                    }
                    match wanted {
                        Value::Bool(false) => return Err(format!("{at}: {key} is unknown")),
                        schema => validate(root, schema, item, &format!("{at}.{key}"))?,
                    }
                }
                true
            }
            "anyOf" => {
                let outcomes = wanted
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|schema| validate(root, schema, value, at));
                let errors: Vec<_> = outcomes.filter_map(Result::err).collect();
                if errors.len() == wanted.as_array().unwrap().len() {
                    return Err(errors.join(" / "));
                }
                true
            }
            other => panic!("the test does not support {other}"),
        };
        if !holds {
            return Err(format!("{at}: {value} is not {rule} {wanted}"));
        }
    }
    Ok(())
}

fn one_or_many(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_else(|| vec![value.clone()])
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no such type: {other}"),
    }
}

fn validated(text: &str) -> Result<(), String> {
    let schema = schema();
    let value: Value = serde_saphyr::from_str(text).unwrap();
    validate(&schema, &schema, &value, "")
}

#[test]
fn schema_accepts_every_working_configuration() {
    let others = [("everything", EVERYTHING), ("empty", "{}"), ("none", "---\n")];
    for (name, text) in GOOD.iter().map(|(name, text, _)| (*name, *text)).chain(others) {
        assert_eq!(validated(text), Ok(()), "{name}");
    }
}

#[test]
fn schema_rejects_values_of_the_wrong_form() {
    for text in [
        "tag_ttl: soon",
        "tag_ttl: [1]",
        "cores: 0",
        "cores: 1025",
        "log_level: loud",
        "air_gapped: 2",
        "memory_cache: lots",
        "unknown: 1",
        "port: 65536",
        "auth: canary",
        "auth: {helper: x}",
        "defaults: {url: http://a}",
        "registries: x",
        "registries: [{insecure: true}]",
        "registries: [{name: a/b}]",
        "registries: {a: {insecur: true}}",
        "registries: {a: {access: public}}",
        "registries: {a: {url: 'http://u:p@a'}}",
        "registries: {a: {auth: canary}}",
        "registries: {a: {tls: {ca: [1]}}}",
        "registries: {a: {tag_rules: [{ttl: x}]}}",
        "registries: {a: {mirrors: [{link: x}]}}",
        "registries: {a: {max_concurrency: 0}}",
        "registries: {a: {cache_max_size: big}}",
        "registries: {a: {cache_max_size: 1.5.5g}}",
        "[{insecure: true}]",
        "serverTlsConfig: {clientAuth: maybe}",
    ] {
        assert!(validated(text).is_err(), "{text}");
        assert!(with_files(text).resolve().is_err(), "{text}");
    }
}

#[test]
fn the_schema_names_its_dialect_and_describes_every_key() {
    let schema = schema();
    assert_eq!(
        schema["$schema"],
        json!("https://json-schema.org/draft/2020-12/schema")
    );
    let properties = schema["anyOf"][0]["properties"].as_object().unwrap();
    for (key, property) in properties {
        assert!(
            property["description"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{key}"
        );
    }
    for key in ["tag_ttl", "tagTtl", "imagePath", "registries", "auth"] {
        assert!(properties.contains_key(key), "{key}");
    }
}
