//! `auth` of a registry: our credentials there.

use std::path::PathBuf;

use super::super::model::{Auth, SecretText};
use super::super::value::Kind;
use super::keys::{ANONYMOUS, AUTH, PROVIDERS, TOKEN};
use super::reader::{Field, Fields, Reader, Spanned};
use super::secret::FoundSecret;
use super::yaml::Value;

/// Credentials, with the file or variable that holds the secret. `None` means the configuration file itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct PartialAuth {
    pub auth: Auth,
    pub from: Option<String>,
}

/// The credential helper for ECR.
const ECR_HELPER: &str = "ecr-login";

/// The prefix of the programs of credential helpers.
const HELPER_PREFIX: &str = "docker-credential-";

const ONE_WAY: &str =
    "expected one of username with password, identity_token, registry_token, helper, docker_config";

impl Reader<'_> {
    /// Reads our credentials for a registry. An absent value, or an empty name or password, sets no credentials. `none`
    /// sets anonymous access.
    pub(super) fn auth(&mut self, field: Option<Field>) -> Option<Spanned<PartialAuth>> {
        let field = field?;
        let (line, path) = (field.node.line, field.path.clone());
        if let Value::Scalar(text) = &field.node.value {
            if ANONYMOUS.contains(&text.trim()) {
                let auth = Auth::Anonymous;
                return Some(plain(Spanned { value: auth, line }));
            }
            self.record_error_at(line, &path, &format!("{ONE_WAY}, or none"));
            return None;
        }
        let before = self.diagnostics.len();
        let mut fields = self.fields(&path, field.node, AUTH);
        let ways = self.auth_ways(&path, line, before, &mut fields);
        if self.diagnostics.len() > before {
            return None;
        }
        let mut ways = ways.into_iter().flatten();
        let way = ways.next();
        if ways.next().is_some() {
            self.record_error_at(line, &path, ONE_WAY);
            return None;
        }
        way
    }

    /// Reads each kind of credentials that `auth` can hold.
    fn auth_ways(
        &mut self,
        path: &str,
        line: u64,
        before: usize,
        fields: &mut Fields,
    ) -> [Option<Spanned<PartialAuth>>; 6] {
        let basic = self.basic(path, line, before, fields);
        let identity = self.secret(fields, "identity_token");
        let registry = self.secret(fields, "registry_token");
        let registry = registry.and_then(|spanned| self.header_safe(spanned, path));
        let helper = self.parsed(fields.take("helper"), helper_name);
        let config = self.docker_config(fields.take("docker_config"));
        let token = fields.take("token").and_then(|field| self.token(field));
        [
            basic.map(|spanned| {
                spanned.map(|(username, found)| PartialAuth {
                    auth: Auth::Basic {
                        username,
                        password: found.secret,
                    },
                    from: found.from,
                })
            }),
            identity.map(|spanned| with_secret(spanned, Auth::IdentityToken)),
            registry.map(|spanned| with_secret(spanned, Auth::RegistryToken)),
            helper.map(|spanned| plain(spanned.map(|name| Auth::Helper { name }))),
            config.map(|spanned| plain(spanned.map(|path| Auth::DockerConfig { path }))),
            token,
        ]
    }

    /// Reads a name with its password. `before` is the number of diagnostics before this map.
    pub(super) fn basic(
        &mut self,
        path: &str,
        line: u64,
        before: usize,
        fields: &mut Fields,
    ) -> Option<Spanned<(String, FoundSecret)>> {
        let username = self.parsed(fields.take("username"), |text| {
            if text.contains(':') || text.chars().any(char::is_control) {
                return Err("a user name has no colon and no control characters".to_owned());
            }
            Ok(text.to_owned())
        });
        let password = self.secret(fields, "password");
        match (username, password) {
            (Some(username), Some(password)) => Some(Spanned {
                value: (username.value, password.value),
                line: password.line,
            }),
            (None, None) => None,
            _ if self.diagnostics.len() > before => None,
            (Some(_), None) => {
                self.record_error_at(line, path, "a username needs a password that is not empty");
                None
            }
            (None, Some(_)) => {
                self.record_error_at(line, path, "a password needs a username");
                None
            }
        }
    }

    /// Reads a token in the form of another system.
    fn token(&mut self, field: Field) -> Option<Spanned<PartialAuth>> {
        let (line, path) = (field.node.line, field.path.clone());
        let before = self.diagnostics.len();
        let mut fields = self.fields(&path, field.node, TOKEN);
        let provider = self.parsed(fields.take("provider"), |text| match text {
            "ecr" => Ok(Auth::Helper {
                name: ECR_HELPER.to_owned(),
            }),
            _ => {
                let expected = Kind::Word(PROVIDERS).expected();
                Err(format!("expected {expected}; set helper for other providers"))
            }
        });
        let fixed = self.secret(&mut fields, "static");
        let fixed = fixed.and_then(|spanned| self.header_safe(spanned, &path));
        match (provider, fixed) {
            // A fixed token takes precedence over a token of the provider.
            (_, Some(spanned)) => Some(with_secret(spanned, Auth::RegistryToken)),
            (Some(spanned), None) => Some(plain(spanned)),
            (None, None) if self.diagnostics.len() > before => None,
            (None, None) => {
                self.record_error_at(line, &path, "needs provider or static");
                None
            }
        }
    }

    /// Checks a token for a header field, because the cache sends the token unchanged.
    fn header_safe(&mut self, spanned: Spanned<FoundSecret>, path: &str) -> Option<Spanned<FoundSecret>> {
        let mut bytes = spanned.value.secret.reveal().bytes();
        if bytes.all(|b| b.is_ascii_graphic()) {
            return Some(spanned);
        }
        self.record_error_at(
            spanned.line,
            path,
            "the token has blanks, line ends or other characters that no token has",
        );
        None
    }

    fn docker_config(&mut self, field: Option<Field>) -> Option<Spanned<PathBuf>> {
        let (path, text, key) = self.file(field)?;
        match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text) {
            Ok(config) => {
                let logins = config.get("auths").and_then(|auths| auths.as_object());
                if logins.is_some_and(|logins| !logins.is_empty()) {
                    self.warn_if_exposed(&path.value);
                }
                Some(path)
            }
            Err(_) => {
                self.record_error(
                    path.line,
                    &key,
                    &path.value.to_string_lossy(),
                    "is not a JSON object",
                );
                None
            }
        }
    }
}

fn plain(spanned: Spanned<Auth>) -> Spanned<PartialAuth> {
    spanned.map(|auth| PartialAuth { auth, from: None })
}

fn with_secret(spanned: Spanned<FoundSecret>, make: fn(SecretText) -> Auth) -> Spanned<PartialAuth> {
    spanned.map(|found| PartialAuth {
        auth: make(found.secret),
        from: found.from,
    })
}

fn helper_name(text: &str) -> Result<String, String> {
    let name = text.strip_prefix(HELPER_PREFIX).unwrap_or(text);
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    // The name becomes part of a program's name, and must not lead to another directory.
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
        return Err("expected the part of the program's name after docker-credential-".to_owned());
    }
    Ok(name.to_owned())
}
