//! Parses `config.json` of Docker and `auth.json` of Podman, and finds the credentials of a
//! repository. Pure.

use std::collections::HashMap;

use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::Secret;
use super::credential::Credential;
use crate::config::SecretText;
use crate::oci::{Namespace, Repository};

/// Padding is optional, because these files are often written by hand.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A parsed file.
#[derive(Default)]
pub(super) struct DockerConfig {
    auths: Vec<(Key, AuthEntry)>,
    helpers: Vec<(Key, String)>,
    store: Option<String>,
}

/// The match for a repository in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Credential(Credential),
    /// The name of the helper to run.
    Helper(String),
}

/// A key of `auths` or `credHelpers`: a host and an optional repository prefix (an extension of
/// Podman).
struct Key {
    host: Namespace,
    /// Whole path segments, without leading and trailing slashes. Empty for the host alone.
    path: String,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: HashMap<String, AuthEntry>,
    #[serde(default, rename = "credHelpers")]
    helpers: HashMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: String,
}

/// An absent or empty field has no meaning.
#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthEntry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl DockerConfig {
    /// # Errors
    ///
    /// Returns the position of the error, without any content of the file.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_json::from_str(text)
            // The text of the JSON error may quote a value.
            .map_err(|error| {
                format!(
                    "line {}, column {}: invalid Docker configuration",
                    error.line(),
                    error.column()
                )
            })?;
        let keyed = |key: &str| Key::parse(key);
        Ok(DockerConfig {
            auths: file
                .auths
                .into_iter()
                .filter_map(|(key, entry)| Some((keyed(&key)?, entry)))
                .collect(),
            helpers: file
                .helpers
                .into_iter()
                .filter_map(|(key, name)| Some((keyed(&key)?, name)))
                .collect(),
            store: (!file.store.is_empty()).then_some(file.store),
        })
    }

    /// Returns the match for `repository` of `namespace`. The longest key wins. If a helper and an
    /// entry have equally long keys, the helper wins. The default store comes last.
    pub fn find(&self, namespace: &Namespace, repository: &Repository) -> Option<Kept> {
        let fits = |key: &Key| key.covers(namespace, repository).then_some(key.path.len());
        let helper = self
            .helpers
            .iter()
            .filter_map(|(key, name)| Some((fits(key)?, name)))
            .max_by_key(|(length, _)| *length);
        let entry = self
            .auths
            .iter()
            .filter_map(|(key, entry)| Some((fits(key)?, entry.credential()?)))
            .max_by_key(|(length, _)| *length);
        match (helper, entry) {
            (Some((helper, _)), Some((entry, credential))) if entry > helper => {
                Some(Kept::Credential(credential))
            }
            (Some((_, name)), _) => Some(Kept::Helper(name.clone())),
            (None, Some((_, credential))) => Some(Kept::Credential(credential)),
            (None, None) => self.store.clone().map(Kept::Helper),
        }
    }
}

impl Key {
    fn parse(text: &str) -> Option<Self> {
        let bare = ["https://", "http://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme));
        let (host, path) = match bare.unwrap_or(text).split_once('/') {
            Some((host, path)) => (host, path.trim_matches('/')),
            None => (bare.unwrap_or(text), ""),
        };
        // Docker writes URLs with the path of its first API version. The path has no meaning.
        let path = if bare.is_some() || matches!(path, "v1" | "v2") {
            ""
        } else {
            path
        };
        Some(Key {
            host: host.parse().ok()?,
            path: path.to_owned(),
        })
    }

    fn covers(&self, namespace: &Namespace, repository: &Repository) -> bool {
        self.host == *namespace
            && (self.path.is_empty()
                || repository
                    .as_str()
                    .strip_prefix(&self.path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    }
}

impl AuthEntry {
    fn credential(&self) -> Option<Credential> {
        if !self.registrytoken.is_empty() {
            return Secret::bearer(&self.registrytoken).map(Credential::Bearer);
        }
        if !self.identitytoken.is_empty() {
            return Some(Credential::Identity(SecretText::new(self.identitytoken.clone())));
        }
        let pair = if self.auth.is_empty() {
            (!self.username.is_empty()).then(|| (self.username.clone(), self.password.clone()))?
        } else {
            let decoded = String::from_utf8(BASE64.decode(self.auth.trim()).ok()?).ok()?;
            let (username, password) = decoded.split_once(':')?;
            // Old versions of Docker padded the password with zeros.
            (username.to_owned(), password.trim_end_matches('\0').to_owned())
        };
        Some(Credential::of_pair(pair.0, SecretText::new(pair.1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str, namespace: &str, repository: &str) -> Option<String> {
        let config = DockerConfig::parse(text).unwrap();
        let kept = config.find(&namespace.parse().unwrap(), &repository.parse().unwrap())?;
        Some(match kept {
            Kept::Helper(name) => format!("helper {name}"),
            Kept::Credential(Credential::Password { username, password }) => {
                format!("{username}:{}", password.reveal())
            }
            Kept::Credential(Credential::Identity(token)) => format!("identity {}", token.reveal()),
            Kept::Credential(Credential::Bearer(secret)) => {
                secret.header_value().to_str().unwrap().to_owned()
            }
        })
    }

    #[test]
    fn entries_are_read_in_each_of_their_forms() {
        // `dTpw` is `u:p`.
        for (entry, expected) in [
            (r#"{"auth": "dTpw"}"#, Some("u:p")),
            (r#"{"auth": " dTpwOnE= "}"#, Some("u:p:q")),
            (r#"{"auth": "dTpwOnE"}"#, Some("u:p:q")),
            (r#"{"auth": "dTpwAAA="}"#, Some("u:p")),
            (r#"{"username": "u", "password": "p"}"#, Some("u:p")),
            (r#"{"auth": "dTpw", "identitytoken": "t"}"#, Some("identity t")),
            (r#"{"username": "<token>", "password": "t"}"#, Some("identity t")),
            (r#"{"registrytoken": "t"}"#, Some("Bearer t")),
            (r#"{"auth": "dTpw", "email": "x", "other": [1]}"#, Some("u:p")),
            ("{}", None),
            (r#"{"auth": ""}"#, None),
            (r#"{"auth": "!"}"#, None),
            (r#"{"auth": "dQ=="}"#, None),
        ] {
            let text = format!(r#"{{"auths": {{"r.lan": {entry}}}, "HttpHeaders": {{}}}}"#);
            assert_eq!(find(&text, "r.lan", "a").as_deref(), expected, "{entry}");
            assert_eq!(find(&text, "other.lan", "a"), None);
        }
    }

    #[test]
    fn keys_are_hosts_urls_and_beginnings_of_repositories() {
        let entry = r#"{"auth": "dTpw"}"#;
        for (key, namespace, repository, found) in [
            ("https://index.docker.io/v1/", "docker.io", "library/a", true),
            ("docker.io", "registry-1.docker.io", "library/a", true),
            ("https://r.lan/v1/", "r.lan", "a", true),
            ("r.lan/v2/", "r.lan", "a", true),
            ("http://r.lan:5000", "r.lan:5000", "a", true),
            ("r.lan:443", "r.lan", "a", true),
            ("R.lan", "r.lan", "a", true),
            ("r.lan:5000", "r.lan", "a", false),
            ("r.lan", "r.lan:5000", "a", false),
            ("lan", "r.lan", "a", false),
            ("r.lan/team", "r.lan", "team", true),
            ("r.lan/team", "r.lan", "team/app", true),
            ("r.lan/team/", "r.lan", "team/app", true),
            ("r.lan/team", "r.lan", "teams/app", false),
            ("r.lan/team/app", "r.lan", "team", false),
            ("docker.io/library/nginx", "docker.io", "library/nginx", true),
            ("not a host", "r.lan", "a", false),
            ("", "r.lan", "a", false),
        ] {
            let text = format!(r#"{{"auths": {{"{key}": {entry}}}}}"#);
            assert_eq!(
                find(&text, namespace, repository).is_some(),
                found,
                "{key} for {namespace}/{repository}"
            );
        }
    }

    #[test]
    fn the_longest_key_counts_and_the_store_comes_last() {
        let text = r#"{
            "auths": {
                "r.lan": {"username": "host", "password": "p"},
                "r.lan/team": {"username": "team", "password": "p"},
                "r.lan/team/app": {"username": "app", "password": "p"},
                "empty.lan": {}
            },
            "credHelpers": {"ecr.lan": "ecr-login", "r.lan/helped": "other"},
            "credsStore": "desktop"
        }"#;
        for (namespace, repository, expected) in [
            ("r.lan", "x", "host:p"),
            ("r.lan", "team/x", "team:p"),
            ("r.lan", "team/app", "app:p"),
            ("r.lan", "team/app/deep", "app:p"),
            ("r.lan", "helped/x", "helper other"),
            ("ecr.lan", "x", "helper ecr-login"),
            ("empty.lan", "x", "helper desktop"),
            ("elsewhere.lan", "x", "helper desktop"),
        ] {
            assert_eq!(
                find(text, namespace, repository).as_deref(),
                Some(expected),
                "{namespace}/{repository}"
            );
        }
    }

    #[test]
    fn an_invalid_file_is_reported_without_its_content() {
        for bad in [
            "",
            "5",
            r#"{"auths": 5}"#,
            r#"{"auths": {"a": {"auth": 5}}}"#,
            r#"{"auths": {"a": "S3CRET"}}"#,
        ] {
            let error = DockerConfig::parse(bad).err().expect(bad);
            assert!(!error.contains("S3CRET") && error.contains("line"), "{error}");
        }
    }
}
