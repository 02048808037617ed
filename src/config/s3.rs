//! The shared store: which bucket, below what, and how. Whom to ask and as whom is for the `AWS_*` environment and the
//! SDK's own files; only `AWS_CA_BUNDLE` is read here, because no SDK of this language does.

use std::path::Path;

use super::Environment;
use super::diagnostics::{Diagnostic, Place, Warning};
use super::registry::Pem;
use super::secret::SecretText;
use super::tls::check_roots;

pub(super) const BUCKET_ACCEPTED: &str =
    "a bucket's name: 3 to 63 letters, digits, dots, dashes and underscores";
pub(super) const PREFIX_ACCEPTED: &str =
    "a path such as caches/eu, at most 256 printable ASCII characters without empty parts, `.` and `..`";

/// Longest lifecycle that can be chosen: a hundred years, so that a larger number is a typing error.
pub(super) const LIFECYCLE_DAYS_MAX: u32 = 36_500;

/// Longest prefix, in bytes. Keys have at most 1,024; ours without it at most 700 (registry 259, repository 255, and
/// `_tags` with a tag of 128, or the sidecar of a `sha512` digest with 145).
const PREFIX_BYTES_MAX: usize = 256;

const CA_BUNDLE: &str = "AWS_CA_BUNDLE";

/// What the operator chose for the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    pub bucket: String,
    /// Empty, or ends with `/`; what every key of ours begins with.
    pub prefix: String,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub force_path_style: bool,
    /// After how many days the bucket removes what was stored; 0: we have no rule there.
    pub lifecycle_days: u32,
    /// Whether clients are sent to the bucket for public blobs.
    pub redirect: bool,
    /// Trusted besides the system's roots.
    pub ca_bundle: Option<Pem>,
}

pub(super) fn parse_bucket(text: &str) -> Option<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let sound = (3..=63).contains(&text.len()) && text.bytes().all(plain) && !text.contains("..");
    sound.then(|| text.to_owned())
}

/// Reads a prefix; slashes at its ends do not matter.
pub(super) fn parse_prefix(text: &str) -> Option<String> {
    let bare = text.trim_matches('/');
    if bare.is_empty() {
        return Some(String::new());
    }
    let part = |part: &str| !matches!(part, "" | "." | "..");
    let plain = |b: u8| b.is_ascii_graphic() && b != b'\\';
    let sound = bare.len() < PREFIX_BYTES_MAX && bare.bytes().all(plain) && bare.split('/').all(part);
    sound.then(|| format!("{bare}/"))
}

pub(super) fn parse_days(text: &str) -> Option<u32> {
    text.parse().ok().filter(|days| *days <= LIFECYCLE_DAYS_MAX)
}

/// The file that `AWS_CA_BUNDLE` names, or what is wrong with it.
pub(super) fn ca_bundle(environment: Environment<'_>) -> Result<Option<Pem>, Diagnostic> {
    let Some(path) = (environment.env)(CA_BUNDLE).filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let diagnostic = |why: String| Diagnostic {
        what: Place::Environment(CA_BUNDLE).with_value(&path),
        why,
    };
    let text = environment
        .read(Path::new(&path))
        .map_err(|error| diagnostic(format!("cannot be read: {error}")))?;
    check_roots(&text).map_err(|why| diagnostic(why.to_owned()))?;
    Ok(Some(Pem {
        path: path.into(),
        text: SecretText::new(text),
    }))
}

/// Files from which the SDK takes credentials: the variable that names one, and where it is below the home directory
/// otherwise.
const CREDENTIAL_FILES: [(&str, &str); 2] = [
    ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
    ("AWS_CONFIG_FILE", ".aws/config"),
];

/// Keys of these files that hold a secret.
const SECRET_KEYS: [&str; 2] = ["aws_secret_access_key", "aws_session_token"];

/// What to say about the SDK's files that hold a secret and that every user of the machine may read. Whether the files are
/// good is for the SDK to say.
pub(super) fn exposed_credentials(environment: Environment<'_>) -> Vec<Warning> {
    let variable = |name| (environment.env)(name).filter(|value| !value.is_empty());
    let home = variable("HOME");
    let below_home = |path: &str| home.as_ref().map(|home| Path::new(home).join(path));
    let path = |(name, default)| match variable(name) {
        Some(path) => match path.strip_prefix("~/") {
            Some(rest) => below_home(rest),
            None => Some(path.into()),
        },
        None => below_home(default),
    };
    let holds_secret = |line: &str| {
        let key = line.split('=').next().unwrap_or_default().trim();
        SECRET_KEYS.iter().any(|secret| key.eq_ignore_ascii_case(secret))
    };
    CREDENTIAL_FILES
        .into_iter()
        .filter_map(path)
        .filter_map(|path| {
            let file = (environment.read_file)(&path).ok()?;
            file.text
                .lines()
                .any(holds_secret)
                .then(|| file.exposed(&path))
                .flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StorageConfig;
    use crate::config::tests::{CA, Machine};

    #[test]
    fn files_of_the_sdk_with_a_secret_that_every_user_may_read_give_a_warning() {
        let secret = "[default]\naws_access_key_id = AKID\nAWS_secret_access_key=canary\n";
        let warned = |machine: Machine| -> Vec<String> {
            let warnings = machine.config().warnings;
            let aws = warnings
                .into_iter()
                .filter(|warning| warning.what.contains("aws"));
            aws.map(|warning| warning.to_string()).collect()
        };
        let machine = |mode| {
            let mut machine = Machine::default()
                .env("S3_BUCKET", "bucket")
                .env("HOME", "/home/u")
                .file("/home/u/.aws/credentials", secret)
                .file("/home/u/.aws/config", "[default]\nregion = eu-west-1\n");
            machine.mode = mode;
            machine
        };
        let warnings = warned(machine(0o644));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].starts_with("/home/u/.aws/credentials (mode 0644): it holds a secret")
                && !warnings[0].contains("canary"),
            "{warnings:?}"
        );
        assert!(warned(machine(0o640)).is_empty());
        let elsewhere = machine(0o604)
            .env("AWS_SHARED_CREDENTIALS_FILE", "/etc/aws-keys")
            .env("AWS_CONFIG_FILE", "~/aws-config")
            .file("/etc/aws-keys", secret)
            .file("/home/u/aws-config", secret);
        let warnings = warned(elsewhere);
        assert!(
            warnings.len() == 2
                && warnings[0].starts_with("/etc/aws-keys")
                && warnings[1].starts_with("/home/u/aws-config"),
            "{warnings:?}"
        );
        let mut without_bucket = machine(0o644);
        without_bucket.env.remove("S3_BUCKET");
        assert!(warned(without_bucket).is_empty());
    }

    #[test]
    fn a_prefix_ends_with_one_slash_or_is_none() {
        for (text, prefix) in [
            ("", Some("")),
            ("/", Some("")),
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
    fn a_bucket_is_one_word() {
        for good in ["oci-cache", "a.b.c", "My_Bucket"] {
            assert_eq!(parse_bucket(good).as_deref(), Some(good));
        }
        for bad in ["", "ab", "a/b", "a..b", "s3://bucket", &"a".repeat(64)] {
            assert_eq!(parse_bucket(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_backend_follows_from_what_is_said_about_s3() {
        for (name, value) in [
            ("S3_BUCKET", "bucket"),
            ("AWS_ENDPOINT_URL", "http://s3.lan:3900"),
            ("AWS_ENDPOINT_URL_S3", "http://s3.lan:3900"),
        ] {
            let storage = Machine::default().env(name, value).config().storage;
            assert!(matches!(storage, StorageConfig::S3 { .. }), "{name}: {storage:?}");
        }
    }

    #[test]
    fn everything_about_the_bucket_can_be_chosen() {
        let file = "storage_backend: tiered\nfs_root: /s\ns3_bucket: images\ns3_prefix: eu/\ns3_force_path_style: no\n\
                    s3_lifecycle_days: 0\ns3_redirect: yes\nspool_dir: /fast\n";
        let machine = Machine::with_file(file)
            .env("AWS_CA_BUNDLE", "/ca.pem")
            .file("/ca.pem", CA);
        let StorageConfig::Tiered { root, s3, spool, .. } = machine.config().storage else {
            panic!("tiered was chosen")
        };
        assert_eq!((root.to_str(), spool.to_str()), (Some("/s"), Some("/fast")));
        let expected = S3Settings {
            bucket: "images".into(),
            prefix: "eu/".into(),
            force_path_style: false,
            lifecycle_days: 0,
            redirect: true,
            ca_bundle: s3.ca_bundle.clone(),
        };
        assert!(s3.ca_bundle.is_some());
        assert_eq!(s3, expected);
    }

    #[test]
    fn a_bundle_without_certificates_is_an_error() {
        let machine = Machine::default().env("S3_BUCKET", "bucket");
        let missing = machine.clone().env("AWS_CA_BUNDLE", "/none.pem").diagnostics();
        assert!(
            missing[0].starts_with("AWS_CA_BUNDLE=\"/none.pem\": cannot be read"),
            "{missing:?}"
        );
        let empty = machine.env("AWS_CA_BUNDLE", "/x").file("/x", "").diagnostics();
        assert!(empty[0].contains("no certificate"), "{empty:?}");
    }
}
