//! Parses a page of a list from an upstream and normalizes it. Pure.
//!
//! Bodies may be hostile. The memory for parsing is at most a few times the length of the body, for
//! any content.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::oci::{ListQuery, MANIFEST_TYPES, Tag, pairs};

/// The media type of a response with referrers (distribution-spec, "Listing Referrers").
pub const INDEX_TYPE: &str = MANIFEST_TYPES[0];

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// For tags, the JSON array of names. For referrers, the whole index.
    pub body: Bytes,
    /// The query of the next page.
    pub next: Option<ListQuery>,
    /// Whether `body` contains only the entries that the `artifactType` of the request selects.
    pub filtered: bool,
    /// Received without credentials, so any client may read the page.
    pub public: bool,
    /// Time of the request, in milliseconds since 1970.
    pub requested_ms: u64,
}

/// Returns the tags in a response to `tags/list` as a JSON array. `null` is an empty list. Invalid
/// names are omitted, because no client can request them.
///
/// # Errors
///
/// A description of the malformed part.
pub fn tags(body: &[u8]) -> Result<Bytes, &'static str> {
    #[derive(serde::Deserialize)]
    struct Answer {
        #[serde(default, deserialize_with = "present")]
        tags: Option<Option<Names>>,
        #[serde(default)]
        name: Option<IgnoredAny>,
    }
    fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Names>>, D::Error> {
        Option::deserialize(deserializer).map(Some)
    }
    const NO_LIST: &str = "the response is no list of tags";
    let answer: Answer = serde_json::from_slice(body).map_err(|_| NO_LIST)?;
    match answer {
        Answer { tags: Some(tags), .. } => Ok(tags.unwrap_or_default().0.finish()),
        // Some registries omit an empty list.
        Answer { name: Some(_), .. } => Ok(Names::default().0.finish()),
        _ => Err(NO_LIST),
    }
}

/// Returns the referrers in a response: unchanged, or only the entries of `artifact_type`.
///
/// # Errors
///
/// A description of the malformed part.
pub fn referrers(body: &Bytes, artifact_type: Option<&str>) -> Result<Bytes, &'static str> {
    let unreadable = |_| "the response is no list of referrers";
    let mut kept = JsonArray::default();
    if let Some(wanted) = artifact_type {
        let index: Index<&RawValue> = serde_json::from_slice(body).map_err(unreadable)?;
        for descriptor in index.manifests.unwrap_or_default() {
            let read: Descriptor<'_> = serde_json::from_str(descriptor.get())
                .map_err(|_| "an entry of the list of referrers is no descriptor")?;
            if read.artifact_type.as_deref() == Some(wanted) {
                kept.push(descriptor.get());
            }
        }
    } else {
        let index: Index<IgnoredAny> = serde_json::from_slice(body).map_err(unreadable)?;
        if index.manifests.is_some() {
            return Ok(body.clone());
        }
    }
    let manifests = kept.finish();
    let head = format!("{{\"schemaVersion\":2,\"mediaType\":\"{INDEX_TYPE}\",\"manifests\":");
    Ok([head.as_bytes(), &manifests, b"}"].concat().into())
}

/// The parsed part of an index. `manifests` is required, but some registries send `null` for an
/// empty list.
#[derive(serde::Deserialize)]
struct Index<T> {
    #[serde(
        deserialize_with = "Option::deserialize",
        bound(deserialize = "T: Deserialize<'de>")
    )]
    manifests: Option<Vec<T>>,
}

#[derive(serde::Deserialize)]
struct Descriptor<'a> {
    #[serde(rename = "artifactType", borrow, default)]
    artifact_type: Option<Cow<'a, str>>,
}

/// Returns the query of the next page from `link`, the target of an upstream's `Link` field. The
/// rest of the target is ignored, because the next page is requested from the same registry.
///
/// `None` if there is no next page: no query, a query that is too long, or the query of the
/// `current` page.
pub fn page(link: &str, current: &ListQuery) -> Option<ListQuery> {
    let (_, query) = link.split_once('?')?;
    let query = query.split('#').next().unwrap_or_default();
    let mut next = ListQuery::default();
    for (key, value) in pairs(query) {
        // If the upstream is a cache, `ns` is the registry behind the cache.
        if key != "ns" {
            next.push(&key, value).ok()?;
        }
    }
    (!next.is_empty() && next != *current).then_some(next)
}

/// An array under construction.
#[derive(Default)]
struct JsonArray(Vec<u8>);

impl JsonArray {
    fn push(&mut self, element: &str) {
        self.0.push(if self.0.is_empty() { b'[' } else { b',' });
        self.0.extend_from_slice(element.as_bytes());
    }

    fn finish(mut self) -> Bytes {
        if self.0.is_empty() {
            self.0.push(b'[');
        }
        self.0.push(b']');
        self.0.into()
    }
}

/// A string, borrowed if it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Names of tags, rebuilt as a JSON array during parsing.
#[derive(Default)]
struct Names(JsonArray);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of tags")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Names, A::Error> {
                let mut names = Names::default();
                while let Some(element) = seq.next_element::<&RawValue>()? {
                    // Valid tags need no escapes in JSON.
                    if let Ok(Text(name)) = serde_json::from_str(element.get())
                        && Tag::is_valid(&name)
                    {
                        names.0.push(&format!("\"{name}\""));
                    }
                }
                Ok(names)
            }
        }
        deserializer.deserialize_seq(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(bytes: Result<Bytes, &'static str>) -> Result<String, &'static str> {
        bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn tags_are_read_despite_unknown_keys_and_invalid_entries() {
        for (body, expected) in [
            (
                r#"{"name":"a","tags":["1","V1_2","latest"]}"#,
                r#"["1","V1_2","latest"]"#,
            ),
            (r#"{"tags":null}"#, "[]"),
            (r#"{"name":"a"}"#, "[]"),
            (r#"{"tags":[]}"#, "[]"),
            (
                r#"{"child":[],"manifest":{"x":{"y":[1]}},"tags":["a","a/b","",3,null,{"b":1},"\u0062","ä","\u001b[2J"]}"#,
                r#"["a","b"]"#,
            ),
        ] {
            assert_eq!(text(tags(body.as_bytes())).as_deref(), Ok(expected), "{body}");
        }
        for body in [
            "",
            "[]",
            "<html>",
            "{}",
            r#"{"errors":[]}"#,
            r#"{"tags":"a"}"#,
            r#"{"tags":{}}"#,
            r#"{"tags":["a"}"#,
            "{\"tags\":[\"a\"]}x",
        ] {
            assert!(tags(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn referrers_are_unchanged_without_a_filter() {
        let index = Bytes::from_static(
            br#"{"schemaVersion":2,"manifests":[{"artifactType":"a/b","x":1.50},{"digest":"d"},{"artifactType":"a/c"}],"y":0}"#,
        );
        assert_eq!(referrers(&index, None), Ok(index.clone()));
        let head = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX_TYPE}","manifests":"#);
        assert_eq!(
            text(referrers(&index, Some("a/b"))),
            Ok(format!(r#"{head}[{{"artifactType":"a/b","x":1.50}}]}}"#))
        );
        assert_eq!(text(referrers(&index, Some("a/d"))), Ok(format!("{head}[]}}")));
        let null = Bytes::from_static(br#"{"manifests":null}"#);
        assert_eq!(text(referrers(&null, None)), Ok(format!("{head}[]}}")));
        for body in [
            "<html>",
            "[]",
            r#"{"manifests":{}}"#,
            "{}",
            "",
            "{\"manifests\":[1",
        ] {
            assert!(
                referrers(&Bytes::copy_from_slice(body.as_bytes()), None).is_err(),
                "{body}"
            );
        }
        let odd = Bytes::from_static(br#"{"manifests":[1]}"#);
        assert!(referrers(&odd, Some("a/b")).is_err());
    }

    #[test]
    fn next_page_uses_only_the_query_of_a_link() {
        let page = |link: &str, current: &str| {
            let mut query = ListQuery::default();
            pairs(current).for_each(|(key, value)| query.push(&key, value).unwrap());
            super::page(link, &query).map(|query| query.as_str().to_owned())
        };
        assert_eq!(
            page("/v2/a/tags/list?n=2&last=b", "n=2").as_deref(),
            Some("n=2&last=b")
        );
        assert_eq!(
            page("https://evil.example/x?last=b&ns=r.example&next_page=A%3D#f", "").as_deref(),
            Some("last=b&next_page=A%3D")
        );
        assert_eq!(page("?last=a b>\"", "").as_deref(), Some("last=a%20b%3E%22"));
        assert_eq!(page("/v2/a/tags/list", ""), None);
        assert_eq!(page("/v2/a/tags/list?", ""), None);
        assert_eq!(page("?n=2&last=b", "n=2&last=b"), None);
        assert_eq!(page(&format!("?last={}", "x".repeat(3_000)), ""), None);
    }

    proptest! {
        #[test]
        fn list_parsers_do_not_panic_on_any_body(body in "[{}\\[\\]\",:a-z0-9\\\\ ]{0,80}") {
            let body = Bytes::from(body);
            let _ = (tags(&body), referrers(&body, None), referrers(&body, Some("a")));
        }
    }
}
