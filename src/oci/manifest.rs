//! Detects manifests and their media type. Performs no I/O.
//!
//! Proxies and login pages in front of registries may answer any request with 200. Therefore
//! neither the status nor the `Content-Type` proves that a body is a manifest, and only the bytes
//! decide.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::media_type::{MANIFEST_TYPES, SCHEMA1_TYPES, is_media_type};

/// The reason why a body is not a manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotManifest {
    #[error("not a JSON object")]
    NotAnObject,
    #[error("neither `schemaVersion` nor `mediaType` is present")]
    Unmarked,
    #[error("an image manifest needs `config` and `layers`")]
    NoImage,
    #[error("an image index needs `manifests`")]
    NoIndex,
    #[error("a schema 1 manifest needs `fsLayers`")]
    NoFirstSchema,
}

/// Returns the media type of the manifest `body`. `named` is the `Content-Type` of the upstream. A
/// manifest type in `named` takes precedence if the body has the required members. Otherwise the
/// `mediaType` in the body decides, then the shape of the body.
///
/// # Errors
///
/// The missing members of the body.
pub fn manifest_type(named: Option<&str>, body: &[u8]) -> Result<String, NotManifest> {
    let outline = Outline::read(body)?;
    let candidates = [named, outline.media_type.as_deref(), Some(outline.shape())];
    let mut lacking = NotManifest::Unmarked;
    for (at, candidate) in candidates.into_iter().flatten().enumerate() {
        if !is_manifest_type(candidate) {
            continue;
        }
        let candidate = candidate.to_ascii_lowercase();
        match outline.meets(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(lacks) if at == 0 || lacking == NotManifest::Unmarked => lacking = lacks,
            Err(_) => {}
        }
    }
    Err(lacking)
}

/// Returns whether `text` is a valid media type for a manifest: a known type, or
/// `application/…+json` of a vendor. Excludes every type that a browser would run or render.
pub fn is_manifest_type(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    SCHEMA1_TYPES.contains(&&*text)
        || (is_media_type(&text) && text.starts_with("application/") && text.ends_with("+json"))
}

/// The members of a JSON object that determine the kind of manifest. The last of several equal
/// names counts, as in the clients.
#[derive(Default)]
struct Outline<'a> {
    /// The number as written.
    schema_version: Option<&'a str>,
    media_type: Option<Cow<'a, str>>,
    config: bool,
    layers: bool,
    manifests: bool,
    fs_layers: bool,
}

impl<'a> Outline<'a> {
    fn read(body: &'a [u8]) -> Result<Self, NotManifest> {
        let mut reader = serde_json::Deserializer::from_slice(body);
        let outline = reader
            .deserialize_map(OutlineVisitor)
            .and_then(|outline| reader.end().map(|()| outline))
            .map_err(|_| NotManifest::NotAnObject)?;
        if outline.schema_version.is_none() && outline.media_type.is_none() {
            return Err(NotManifest::Unmarked);
        }
        Ok(outline)
    }

    /// Returns the type for a body without `mediaType`.
    fn shape(&self) -> &'static str {
        if self.schema_version == Some("1") {
            SCHEMA1_TYPES[0]
        } else if self.manifests {
            MANIFEST_TYPES[0]
        } else {
            MANIFEST_TYPES[1]
        }
    }

    /// Checks that the body has the members required by `media_type`. Unknown types require none.
    fn meets(&self, media_type: &str) -> Result<(), NotManifest> {
        let [index, image, docker_list, docker_image] = MANIFEST_TYPES;
        let (has, lacking) = if media_type == index || media_type == docker_list {
            (self.manifests, NotManifest::NoIndex)
        } else if media_type == image || media_type == docker_image {
            (self.config && self.layers, NotManifest::NoImage)
        } else if SCHEMA1_TYPES.contains(&media_type) {
            let first = self.schema_version == Some("1");
            (first && self.fs_layers, NotManifest::NoFirstSchema)
        } else {
            (true, NotManifest::Unmarked)
        };
        if has { Ok(()) } else { Err(lacking) }
    }
}

struct OutlineVisitor;

impl<'de> Visitor<'de> for OutlineVisitor {
    type Value = Outline<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a manifest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outline<'de>, A::Error> {
        #[derive(serde::Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

        let mut outline = Outline::default();
        while let Some(Text(name)) = map.next_key()? {
            let known = matches!(
                &*name,
                "schemaVersion" | "mediaType" | "config" | "layers" | "manifests" | "fsLayers"
            );
            if !known {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value::<&RawValue>()?.get();
            // Go encoders write `null` for an empty list.
            let is_list = value.starts_with('[') || value == "null";
            match &*name {
                "schemaVersion" => {
                    outline.schema_version =
                        Some(value).filter(|value| value.starts_with(|c: char| c.is_ascii_digit()));
                }
                "mediaType" => {
                    outline.media_type = serde_json::from_str(value).ok().map(|Text(text)| text);
                }
                "config" => outline.config = value.starts_with('{'),
                "layers" => outline.layers = is_list,
                "manifests" => outline.manifests = is_list,
                _ => outline.fs_layers = is_list,
            }
        }
        Ok(outline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INDEX: &str = MANIFEST_TYPES[0];
    const IMAGE: &str = MANIFEST_TYPES[1];
    const DOCKER_LIST: &str = MANIFEST_TYPES[2];
    const DOCKER_IMAGE: &str = MANIFEST_TYPES[3];
    const VENDOR: &str = "application/vnd.example.thing.v7+json";
    const ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";

    #[test]
    fn manifest_type_matches_the_content() {
        let image = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        let first = r#"{"schemaVersion":1,"fsLayers":[]}"#;
        let listed = format!(r#"{{"schemaVersion":2,"mediaType":"{DOCKER_LIST}","manifests":null}}"#);
        let artifact = format!(r#"{{"mediaType":"{ARTIFACT}","blobs":[]}}"#);
        for (named, body, expected) in [
            (Some(IMAGE), image, IMAGE),
            (Some(DOCKER_IMAGE), image, DOCKER_IMAGE),
            (Some("Application/Vnd.OCI.Image.Manifest.v1+JSON"), image, IMAGE),
            (Some(INDEX), index, INDEX),
            // A `Content-Type` other than a manifest type has no effect.
            (None, image, IMAGE),
            (None, index, INDEX),
            (Some("text/html"), image, IMAGE),
            (Some("image/svg+xml"), index, INDEX),
            (Some("application/octet-stream"), &*listed, DOCKER_LIST),
            (Some("application/json"), first, SCHEMA1_TYPES[0]),
            (Some(SCHEMA1_TYPES[1]), first, SCHEMA1_TYPES[1]),
            // A wrong type has no effect either.
            (Some(IMAGE), &*listed, DOCKER_LIST),
            (Some(DOCKER_IMAGE), first, SCHEMA1_TYPES[0]),
            // Other kinds of registry content.
            (Some(ARTIFACT), &*artifact, ARTIFACT),
            (None, &*artifact, ARTIFACT),
            (Some(VENDOR), r#"{"schemaVersion":3}"#, VENDOR),
            (
                Some(IMAGE),
                " {\"layers\":3,\"layers\":null,\"schemaVersion\" : 2.0e0,\"config\":{ }}\r\n",
                IMAGE,
            ),
        ] {
            assert_eq!(
                manifest_type(named, body.as_bytes()).as_deref(),
                Ok(expected),
                "{named:?} {body}"
            );
        }
    }

    #[test]
    fn invalid_manifest_is_rejected_with_its_reason() {
        use NotManifest::{NoFirstSchema, NoImage, NoIndex, NotAnObject, Unmarked};
        for (named, body, expected) in [
            (
                Some("text/html"),
                "<!doctype html><title>Sign in</title>",
                NotAnObject,
            ),
            (Some(IMAGE), "", NotAnObject),
            (Some(IMAGE), "null", NotAnObject),
            (Some(IMAGE), r#"[{"schemaVersion":2}]"#, NotAnObject),
            (Some(IMAGE), r#""schemaVersion""#, NotAnObject),
            (
                Some(IMAGE),
                r#"{"schemaVersion":2,"config":{},"layers":[]} x"#,
                NotAnObject,
            ),
            (
                Some(IMAGE),
                "\u{feff}{\"schemaVersion\":2,\"config\":{},\"layers\":[]}",
                NotAnObject,
            ),
            (Some(IMAGE), r#"{"errors":[]}"#, Unmarked),
            (Some(IMAGE), r#"{"config":{},"layers":[]}"#, Unmarked),
            (Some(VENDOR), r#"{"schemaVersion":null,"mediaType":5}"#, Unmarked),
            (Some(IMAGE), r#"{"schemaVersion":2}"#, NoImage),
            (
                Some(IMAGE),
                r#"{"schemaVersion":2,"config":[],"layers":[]}"#,
                NoImage,
            ),
            (
                Some(IMAGE),
                r#"{"schemaVersion":2,"config":{},"layers":{}}"#,
                NoImage,
            ),
            (Some("text/html"), r#"{"mediaType":"text/html"}"#, NoImage),
            (Some(INDEX), r#"{"schemaVersion":2,"manifests":{}}"#, NoIndex),
            (Some(SCHEMA1_TYPES[0]), r#"{"schemaVersion":1}"#, NoFirstSchema),
        ] {
            assert_eq!(
                manifest_type(named, body.as_bytes()),
                Err(expected),
                "{named:?} {body}"
            );
        }
    }

    #[test]
    fn manifest_types_exclude_types_that_browsers_render() {
        for known in MANIFEST_TYPES.iter().chain(&SCHEMA1_TYPES) {
            assert!(is_manifest_type(known), "{known}");
        }
        assert!(is_manifest_type(VENDOR) && is_manifest_type(ARTIFACT));
        for other in [
            "text/html",
            "image/svg+xml",
            "application/xhtml+xml",
            "application/json",
            "application/octet-stream",
            "text/plain",
            "text/x+json",
            "application/x+json; charset=utf-8",
            "application/a b+json",
            "application/+json/x",
            "",
        ] {
            assert!(!is_manifest_type(other), "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_yield_a_manifest_type_or_an_error(
            named in "(application/|text/)?[a-z+]{0,12}(\\+json)?",
            body in "\\{?(\"(schemaVersion|mediaType|config|layers|manifests)\":([0-9]|\\{\\}|\\[\\]|null|\"[a-z/+]{0,9}\"),?){0,4}\\}?",
        ) {
            if let Ok(found) = manifest_type(Some(&named), body.as_bytes()) {
                prop_assert!(is_manifest_type(&found));
            }
        }
    }
}
