//! Sample content, keys and metadata for tests.

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::oci::{Algorithm, Digest, Namespace, Repository, Tag};
use crate::store::{Key, Meta, RecordName, ReferrersRecord, Source, TagPointer, Verified, layout};

/// Returns `size` pseudo-random bytes, determined by `seed`.
pub(crate) fn content(size: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

pub(crate) fn digest(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

pub(crate) fn blob(content: &[u8]) -> Key {
    Key::Blob(digest(content))
}

pub(crate) fn manifest(registry: &str, repository: &str, content: &[u8]) -> Key {
    Key::Manifest {
        namespace: registry.parse().unwrap(),
        repository: repository.parse().unwrap(),
        digest: digest(content),
    }
}

/// Returns the metadata of new content without a source.
pub(crate) fn meta(key: &Key, size: u64) -> Meta {
    Meta {
        digest: *key.digest(),
        size,
        content_type: "application/octet-stream".into(),
        created: 0,
        public: false,
        sources: Vec::new(),
        verified: true,
        headers: Default::default(),
    }
}

pub(crate) fn source(registry: &str) -> Source {
    Source {
        registry: registry.into(),
        repository: "a/b".into(),
    }
}

pub(crate) fn verified(key: &Key, content: &[u8]) -> Verified {
    let found = Digest::of(key.digest().algorithm(), content);
    Verified::check(*key.digest(), found, content.len() as u64).unwrap()
}

/// Returns the name of an entry's data. `sidecar_name` returns the name of its sidecar.
pub(crate) fn data_name(key: &Key) -> String {
    layout::content(key).to_str().unwrap().to_owned()
}

pub(crate) fn sidecar_name(key: &Key) -> String {
    layout::sidecar(key).to_str().unwrap().to_owned()
}

/// Returns a sidecar of the older system, without the cache's own fields.
pub(crate) fn unmarked(size: usize) -> String {
    format!(r#"{{"Content-Length":["{size}"],"Content-Type":["a/b"]}}"#)
}

/// A tag, for clients of one accept class.
#[derive(Clone, Debug)]
pub(crate) struct TagName {
    pub namespace: Namespace,
    pub repository: Repository,
    pub tag: Tag,
    pub class: String,
}

pub(crate) fn tag(repository: &str, tag: &str, class: &str) -> TagName {
    TagName {
        namespace: "docker.io".parse().unwrap(),
        repository: repository.parse().unwrap(),
        tag: tag.parse().unwrap(),
        class: class.into(),
    }
}

pub(crate) fn pointer_name(tag: &TagName) -> String {
    let path = layout::pointer(&tag.namespace, &tag.repository, &tag.tag, &tag.class);
    path.to_str().unwrap().to_owned()
}

/// Returns a pointer of `tag` to `content`, checked at the time `checked`.
pub(crate) fn pointer(tag: &TagName, content: &[u8], checked: u64) -> TagPointer {
    TagPointer {
        digest: digest(content),
        media_type: "a/b".into(),
        size: content.len() as u64,
        checked_at_ms: checked,
        etag: Some("\"é\"".into()),
        accept_class: tag.class.clone(),
        headers: Default::default(),
    }
}

/// Names a record of referrers of a repository.
#[derive(Clone, Debug)]
pub(crate) struct RecordOf {
    pub namespace: Namespace,
    pub repository: Repository,
    pub name: RecordName,
}

pub(crate) fn record_of(repository: &str, name: RecordName) -> RecordOf {
    RecordOf {
        namespace: "docker.io".parse().unwrap(),
        repository: repository.parse().unwrap(),
        name,
    }
}

pub(crate) fn record_name(of: &RecordOf) -> String {
    let path = layout::record(&of.namespace, &of.repository, &of.name);
    path.to_str().unwrap().to_owned()
}

/// Returns the record of a registry's response at the time `checked`: a list with `mark`, or a 404.
pub(crate) fn record(of: &RecordOf, mark: &str, checked: u64) -> ReferrersRecord {
    let absent = ReferrersRecord::absent(checked, true);
    match &of.name {
        RecordName::Page { query, .. } => ReferrersRecord {
            query: query.clone(),
            index: Some(RawValue::from_string(format!(r#"{{"mark": "{mark}"}}"#)).unwrap()),
            ..absent
        },
        RecordName::Unsupported | RecordName::AbsentTag(_) => absent,
    }
}
