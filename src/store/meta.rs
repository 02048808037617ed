//! The sidecar of an entry: a JSON object with canonical header names as keys and lists of strings
//! as values.

use std::collections::BTreeMap;

use crate::oci::{Digest, Origin};

/// Metadata of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    pub digest: Digest,
    pub size: u64,
    pub content_type: String,
    /// Time of storage, in seconds since 1970.
    pub created: u64,
    /// Whether an upstream served the content without credentials. Every client may read public
    /// content.
    pub public: bool,
    /// Registries that delivered the complete, verified content. A registry has one source at most.
    /// Holds at most [`SOURCES_MAX`] sources. Empty if an older store recorded none.
    pub sources: Vec<Source>,
    /// Whether the content was hashed, by this process or an earlier release, before the entry got
    /// its name.
    pub verified: bool,
    /// All end-to-end fields of the upstream's response, with canonical names.
    pub headers: BTreeMap<String, Vec<String>>,
}

/// Recorded sources per entry. Further registries are probed each time.
pub const SOURCES_MAX: usize = 16;

/// A registry with the content, and the repository where the content was first seen there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    pub registry: String,
    pub repository: String,
}

impl From<&Origin> for Source {
    fn from(origin: &Origin) -> Self {
        Source {
            registry: origin.namespace.as_str().to_owned(),
            repository: origin.repository.to_string(),
        }
    }
}

// Fields added by the cache. The map also holds the upstream's fields, so other readers of the
// format can parse the sidecar.
const VERIFIED: &str = "X-Cache-Verified";
const PUBLIC: &str = "X-Cache-Public";
const SOURCE: &str = "X-Cache-Source";
const CREATED: &str = "X-Cache-Created";
const MARK_PREFIX: &str = "X-Cache-";

const CONTENT_TYPE: &str = "Content-Type";
const CONTENT_LENGTH: &str = "Content-Length";
const DIGEST: &str = "Docker-Content-Digest";

impl Meta {
    /// Returns whether the first fill of the entry came from `origin`, so that the stored upstream
    /// fields are those of `origin`.
    pub fn is_filled_from(&self, origin: &Origin) -> bool {
        self.sources.first().is_some_and(|first| {
            first.registry == origin.namespace.as_str() && first.repository == origin.repository.as_str()
        })
    }

    /// Parses a sidecar of the entry named `digest`. Returns `None` for anything else.
    ///
    /// The older system, from which this format descends, wrote sidecars without the cache's own
    /// fields. Such an entry is not verified.
    pub fn parse(digest: Digest, json: &[u8]) -> Option<Self> {
        let mut headers: BTreeMap<String, Vec<String>> = serde_json::from_slice(json).ok()?;
        let first = |name: &str| headers.get(name).and_then(|values| values.first()).cloned();
        let size = first(CONTENT_LENGTH)?.parse().ok()?;
        let content_type = first(CONTENT_TYPE).unwrap_or_default();
        if first(DIGEST).is_some_and(|named| {
            // A digest of another algorithm may name the same bytes. A different digest of the same
            // algorithm cannot.
            named
                .parse::<Digest>()
                .is_ok_and(|named| named.algorithm() == digest.algorithm() && named != digest)
        }) {
            return None;
        }
        let verified = first(VERIFIED).is_some_and(|by| by == digest.algorithm().name());
        // Older stores did not record access rights, so their entries are private.
        let public = first(PUBLIC).is_some_and(|public| public == "true");
        let sources = headers.get(SOURCE).into_iter().flatten().filter_map(|text| {
            let (registry, repository) = text.split_once('/')?;
            Some(Source {
                registry: registry.to_owned(),
                repository: repository.to_owned(),
            })
        });
        let sources = sources.take(SOURCES_MAX).collect();
        let created = first(CREATED).and_then(|text| text.parse().ok()).unwrap_or(0);
        headers.retain(|name, _| !name.starts_with(MARK_PREFIX));
        Some(Meta {
            digest,
            size,
            content_type,
            created,
            public,
            sources,
            verified,
            headers,
        })
    }

    /// Returns whether no access rights are recorded, as in the sidecars of the older system.
    pub fn is_unproven(&self) -> bool {
        !self.public && self.sources.is_empty()
    }

    /// Returns whether `registry` is a recorded source of the entry.
    pub fn is_from(&self, registry: &str) -> bool {
        self.sources.iter().any(|source| source.registry == registry)
    }

    /// Returns a copy with `sources` added, and public if `public` is set. Returns `None` if the
    /// copy would be equal.
    pub fn with(&self, sources: &[Source], public: bool) -> Option<Meta> {
        let mut more = self.clone();
        more.public |= public;
        for source in sources {
            if !more.is_from(&source.registry) && more.sources.len() < SOURCES_MAX {
                more.sources.push(source.clone());
            }
        }
        (more != *self).then_some(more)
    }

    /// Returns the sidecar as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let mut headers = self.headers.clone();
        // An upstream cannot set the cache's own fields.
        headers.retain(|name, _| !name.starts_with(MARK_PREFIX));
        let mut set = |name: &str, value: String| headers.insert(name.to_owned(), vec![value]);
        set(CONTENT_TYPE, self.content_type.clone());
        set(CONTENT_LENGTH, self.size.to_string());
        set(DIGEST, self.digest.to_string());
        set(CREATED, self.created.to_string());
        set(PUBLIC, self.public.to_string());
        if self.verified {
            set(VERIFIED, self.digest.algorithm().name().to_owned());
        }
        if !self.sources.is_empty() {
            let named = self.sources.iter();
            let named = named.map(|Source { registry, repository }| format!("{registry}/{repository}"));
            headers.insert(SOURCE.to_owned(), named.collect());
        }
        serde_json::to_vec(&headers).expect("a map of strings is JSON")
    }
}

/// Converts `content-type` to `Content-Type`, the spelling of the format.
pub fn canonical_name(name: &str) -> String {
    let mut upper = true;
    name.chars()
        .map(|c| {
            let out = if upper {
                c.to_ascii_uppercase()
            } else {
                c.to_ascii_lowercase()
            };
            upper = c == '-';
            out
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn digest() -> Digest {
        Digest::of(Algorithm::Sha256, b"")
    }

    #[test]
    fn a_sidecar_is_read_back_as_it_was_written() {
        let headers = [("Etag", "\"x\""), ("Content-Type", "a/b")];
        let meta = Meta {
            digest: digest(),
            size: 7,
            content_type: "a/b".into(),
            created: 1_700_000_000,
            public: true,
            sources: ["r.example:5000", "s.example"]
                .map(|registry| Source {
                    registry: registry.into(),
                    repository: "a/b".into(),
                })
                .into(),
            verified: true,
            headers: headers
                .map(|(name, value)| (name.to_owned(), vec![value.to_owned()]))
                .into(),
        };
        let read = Meta::parse(digest(), &meta.to_json()).unwrap();
        assert_eq!(
            (read.size, read.verified, read.public, read.created),
            (7, true, true, 1_700_000_000)
        );
        assert_eq!(read.headers["Etag"], ["\"x\""]);
        assert_eq!(read.sources, meta.sources);
    }

    #[test]
    fn a_sidecar_of_the_older_system_is_read_but_not_trusted() {
        let json =
            br#"{"Content-Length":["3"],"Content-Type":["application/octet-stream"],"Etag":["\"e\""]}"#;
        let meta = Meta::parse(digest(), json).unwrap();
        assert!(!meta.verified);
        assert!(!meta.public, "an entry without the mark is not public");
        assert!(meta.sources.is_empty());
    }

    #[test]
    fn upstream_headers_cannot_mark_an_entry_as_verified() {
        let mut meta = Meta::parse(digest(), br#"{"Content-Length":["3"]}"#).unwrap();
        meta.headers
            .insert("X-Cache-Verified".into(), vec!["sha256".into()]);
        assert!(!Meta::parse(digest(), &meta.to_json()).unwrap().verified);
    }

    #[test]
    fn invalid_sidecar_is_rejected() {
        let other = Digest::of(Algorithm::Sha256, b"other");
        for json in [
            "",
            "{",
            "null",
            "[]",
            "{}",
            r#"{"Content-Length":["x"]}"#,
            r#"{"Content-Length":["-1"]}"#,
            r#"{"Content-Length":"3"}"#,
            r#"{"Content-Length":[]}"#,
            &format!(r#"{{"Content-Length":["3"],"Docker-Content-Digest":["{other}"]}}"#),
        ] {
            assert_eq!(Meta::parse(digest(), json.as_bytes()), None, "{json}");
        }
    }

    #[test]
    fn header_names_are_written_in_canonical_case() {
        assert_eq!(canonical_name("docker-content-digest"), "Docker-Content-Digest");
        assert_eq!(canonical_name("ETAG"), "Etag");
    }
}
