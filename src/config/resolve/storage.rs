//! Resolution of the location of the store.

use std::path::PathBuf;

use super::super::model::{Backend, Pem, RootChoice, S3Settings, StorageConfig};
use super::super::options::{FS_ROOT_DEFAULT, Setting, Values};
use super::Sources;

/// The directory's name below a user's cache directory.
const USER_CACHE_NAME: &str = "oci-pull-through";

/// Variables that, like a named bucket, select S3 in the absence of `STORAGE_BACKEND`.
const S3_SIGNS: [&str; 2] = ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"];

impl Sources<'_> {
    /// Returns the store. Creates the directory of a local store if absent.
    pub(super) fn storage(&self, values: &Values, ca_bundle: Option<Pem>) -> StorageConfig {
        let s3 = S3Settings {
            bucket: values.s3_bucket.clone(),
            prefix: values.s3_prefix.clone(),
            force_path_style: values.s3_force_path_style,
            lifecycle_days: values.s3_lifecycle_days,
            redirect: values.s3_redirect,
            ca_bundle,
        };
        let spool = self.find(Setting::SpoolDir).map(|given| given.text.trim());
        let spool = spool.filter(|text| *text != "auto").map(PathBuf::from);
        let backend = match (values.storage_backend, self.s3_sign()) {
            (Backend::Auto, Some(_)) => Backend::S3,
            (backend, _) => backend,
        };
        if backend == Backend::S3 {
            // The machine keeps no content, so the cache searches no directory either.
            let root = self.find(Setting::FsRoot).map(|given| PathBuf::from(&given.text));
            let spool = spool.or(root).unwrap_or_else(self.environment.temp_dir);
            return StorageConfig::S3 { s3, spool };
        }
        let (root, chosen) = self.root();
        match backend {
            Backend::Tiered => StorageConfig::Tiered {
                spool: spool.unwrap_or_else(|| root.clone()),
                root,
                chosen,
                s3,
            },
            _ => StorageConfig::Fs { root, chosen },
        }
    }

    /// Returns the setting that selects S3 although no backend is named. An operator with a bucket does not expect all
    /// content on the local disk.
    pub(in crate::config) fn s3_sign(&self) -> Option<&'static str> {
        if self.find(Setting::S3Bucket).is_some() {
            return Some(Setting::S3Bucket.env());
        }
        let is_set = |name: &&str| (self.environment.env)(name).is_some_and(|value| !value.is_empty());
        S3_SIGNS.into_iter().find(is_set)
    }

    fn root(&self) -> (PathBuf, RootChoice) {
        if let Some(given) = self.find(Setting::FsRoot) {
            return (PathBuf::from(&given.text), RootChoice::Given);
        }
        let env_dir = |name: &str| {
            (self.environment.env)(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let user_cache =
            env_dir("XDG_CACHE_HOME").or_else(|| env_dir("HOME").map(|home| home.join(".cache")));
        let candidates = [
            (Some(PathBuf::from(FS_ROOT_DEFAULT)), RootChoice::Default),
            (
                user_cache.map(|dir| dir.join(USER_CACHE_NAME)),
                RootChoice::UserCache,
            ),
        ];
        for (root, chosen) in candidates {
            if let Some(root) = root.filter(|root| (self.environment.is_writable_dir)(root)) {
                return (root, chosen);
            }
        }
        let root = (self.environment.temp_dir)().join(USER_CACHE_NAME);
        (root, RootChoice::Temporary)
    }
}
