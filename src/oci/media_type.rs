//! Media types of manifests, and their match with the `Accept` of a client.

/// The manifest types requested from every upstream, so that no upstream has to convert or reject.
pub const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// The types of schema 1 manifests. The digest of such a manifest is not the hash of its bytes, so
/// the cache never stores one.
pub const SCHEMA1_TYPES: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.distribution.manifest.v1+json",
];

/// Returns whether a client with these `Accept` values accepts `media_type`. Registries match types
/// exactly. `q` is ignored. Without `Accept`, every type is accepted. `*/*`, `application/*` and
/// `application/json` accept every manifest.
pub fn accepts<'a>(accept: impl IntoIterator<Item = &'a str>, media_type: &str) -> bool {
    let mut any = false;
    for value in accept {
        for item in value.split(',') {
            let item = item.split(';').next().unwrap_or_default().trim();
            if item.is_empty() {
                continue;
            }
            any = true;
            let matches = item.eq_ignore_ascii_case(media_type)
                || matches!(item, "*/*" | "application/*" | "application/json");
            if matches {
                return true;
            }
        }
    }
    !any
}

/// Returns whether `text` is one `type/subtype` of token characters, valid in a `Content-Type`
/// field.
pub fn is_media_type(text: &str) -> bool {
    let token = |t: &str| {
        !t.is_empty()
            && t.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
    };
    text.len() <= 255
        && text
            .split_once('/')
            .is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_is_a_set_of_exact_types() {
        let index = MANIFEST_TYPES[0];
        assert!(accepts([], index));
        assert!(accepts(["text/plain", index], index));
        assert!(accepts(["text/plain;q=0.1, */*"], index));
        assert!(accepts([&*format!("{};q=0.2", index)], index));
        assert!(!accepts([MANIFEST_TYPES[1], MANIFEST_TYPES[3]], index));
    }
}
