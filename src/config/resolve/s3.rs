//! The part of the `AWS_*` environment that the cache reads itself. The SDK reads endpoint and credentials from the
//! environment and from its own files. `AWS_CA_BUNDLE` is read here, because the Rust SDK ignores this variable.

use std::path::Path;

use super::super::model::{Pem, SecretText};
use super::super::sources::{Environment, Place, Warning, check_roots};
use super::{Recorded, Sources};

const CA_BUNDLE: &str = "AWS_CA_BUNDLE";

impl Sources<'_> {
    /// Reads the file at `AWS_CA_BUNDLE`, and records errors.
    pub(super) fn ca_bundle(&mut self) -> Result<Option<Pem>, Recorded> {
        let Some(path) = (self.environment.env)(CA_BUNDLE).filter(|path| !path.is_empty()) else {
            return Ok(None);
        };
        let why = match self.environment.read(Path::new(&path)) {
            Err(error) => format!("cannot be read: {error}"),
            Ok(text) => match check_roots(&text) {
                Err(why) => why.to_owned(),
                Ok(()) => {
                    let text = SecretText::new(text);
                    let path = path.into();
                    return Ok(Some(Pem { path, text }));
                }
            },
        };
        self.record_error(Place::Environment(CA_BUNDLE).with_value(&path), &why);
        Err(Recorded)
    }
}

/// Credential files of the SDK: the variable with the path, and the default path below the home directory.
const CREDENTIAL_FILES: [(&str, &str); 2] = [
    ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
    ("AWS_CONFIG_FILE", ".aws/config"),
];

/// The keys of a secret in these files.
const SECRET_KEYS: [&str; 2] = ["aws_secret_access_key", "aws_session_token"];

/// Returns a warning for each file of the SDK that holds a secret and that every user of the machine can read. The SDK
/// reports all other errors of these files.
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
    use crate::config::model::{S3Settings, StorageConfig};
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
            warnings[0].starts_with("/home/u/.aws/credentials (mode 0644): holds a secret")
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
    fn s3_backend_is_chosen_if_an_s3_setting_is_present() {
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
    fn every_bucket_setting_is_read_from_the_file() {
        let file = "storage_backend: tiered\nfs_root: /s\ns3_bucket: images\ns3_prefix: eu/\ns3_force_path_style: no\n\
                    s3_lifecycle_days: 0\ns3_redirect: yes\nspool_dir: /fast\n";
        let machine = Machine::with_file(file)
            .env("AWS_CA_BUNDLE", "/ca.pem")
            .file("/ca.pem", CA);
        let StorageConfig::Tiered { root, s3, spool, .. } = machine.config().storage else {
            panic!("the storage is tiered")
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
