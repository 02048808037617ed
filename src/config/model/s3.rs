//! The settings of the bucket.

use super::tls::Pem;

/// The longest lifecycle, in days: a hundred years. A larger number is a typing error.
pub const LIFECYCLE_DAYS_MAX: u32 = 36_500;

/// The longest prefix, in bytes. S3 limits keys to 1,024 bytes. Keys without the prefix have at most 700: registry 259,
/// repository 255, and `_tags` with a tag of 128, or the sidecar of a `sha512` digest with 145.
const PREFIX_BYTES_MAX: usize = 256;

/// The settings of the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    pub bucket: String,
    /// The prefix of every key: empty, or a path that ends with `/`.
    pub prefix: String,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub force_path_style: bool,
    /// The age in days at which the bucket deletes an object. With 0, the cache sets no lifecycle rule.
    pub lifecycle_days: u32,
    /// Whether clients are redirected to the bucket for public blobs.
    pub redirect: bool,
    /// Certificates trusted in addition to the system's roots.
    pub ca_bundle: Option<Pem>,
}

/// Parses the name of a bucket.
pub fn parse_bucket(text: &str) -> Option<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let valid = (3..=63).contains(&text.len()) && text.bytes().all(plain) && !text.contains("..");
    valid.then(|| text.to_owned())
}

/// Parses a prefix. Leading and trailing slashes are ignored, and `none` is empty.
pub fn parse_prefix(text: &str) -> Option<String> {
    let bare = text.trim_matches('/');
    if bare.is_empty() || text == "none" {
        return Some(String::new());
    }
    let part = |part: &str| !matches!(part, "" | "." | "..");
    let plain = |b: u8| b.is_ascii_graphic() && b != b'\\';
    let valid = bare.len() < PREFIX_BYTES_MAX && bare.bytes().all(plain) && bare.split('/').all(part);
    valid.then(|| format!("{bare}/"))
}

/// Parses a lifecycle in days.
pub fn parse_days(text: &str) -> Option<u32> {
    text.parse().ok().filter(|days| *days <= LIFECYCLE_DAYS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_prefix_is_normalized_to_one_trailing_slash() {
        for (text, prefix) in [
            ("", Some("")),
            ("/", Some("")),
            ("none", Some("")),
            ("a", Some("a/")),
            ("/a/b/", Some("a/b/")),
            ("a//b", None),
            ("a/../b", None),
            ("a\\b", None),
            ("a b", None),
            ("ä", None),
        ] {
            assert_eq!(parse_prefix(text).as_deref(), prefix, "{text:?}");
        }
        assert_eq!(parse_prefix(&"a".repeat(PREFIX_BYTES_MAX)), None);
    }

    #[test]
    fn bucket_name_outside_the_s3_grammar_is_rejected() {
        for good in ["oci-cache", "a.b.c", "My_Bucket"] {
            assert_eq!(parse_bucket(good).as_deref(), Some(good));
        }
        for bad in ["", "ab", "a/b", "a..b", "s3://bucket", &"a".repeat(64)] {
            assert_eq!(parse_bucket(bad), None, "{bad:?}");
        }
    }
}
