//! Fuzz targets: arbitrary bytes as bodies of lists and manifests, and as the link to a next page.

use bytes::Bytes;

use super::listing::parse;
use crate::http::link;
use crate::oci::{ListQuery, Tag, is_manifest_type, manifest_type};

/// Checks that the output for arbitrary upstream JSON is valid JSON of limited length.
pub fn manifest(bytes: &[u8]) {
    for named in [None, Some("text/html"), Some("application/vnd.example+json")] {
        if let Ok(media_type) = manifest_type(named, bytes) {
            assert!(is_manifest_type(&media_type));
            assert!(serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok());
        }
    }

    if let Ok(tags) = parse::tags(bytes) {
        assert!(tags.len() <= 6 * bytes.len() + 2);
        let names: Vec<String> = serde_json::from_slice(&tags).expect("an array of names");
        assert!(names.iter().all(|name| name.parse::<Tag>().is_ok()));
    }
    let body = Bytes::copy_from_slice(bytes);
    for wanted in [None, Some("application/x")] {
        if let Ok(index) = parse::referrers(&body, wanted) {
            assert!(index.len() <= bytes.len() + 200);
            assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&index).is_ok());
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(target) = link::next(text.lines())
        && let Some(query) = parse::page(target, &ListQuery::default())
    {
        assert!(!query.is_empty() && query.as_str().len() <= 2048);
        assert!(
            query
                .as_str()
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'#')
        );
    }
}
