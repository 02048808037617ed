//! `auth` of a registry: our credentials there.

use std::path::PathBuf;

use super::reader::{Field, Fields, Reader, Source, Spanned};
use super::registry::Auth;
use super::schema_tables::{ANONYMOUS, AUTH, TOKEN};
use super::secret::SecretText;
use super::yaml::Value;

/// Credentials, and where their secret is when it is not in the configuration file itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PartialAuth {
    pub auth: Auth,
    pub from: Option<String>,
}

/// The helper that asks ECR.
const ECR_HELPER: &str = "ecr-login";

/// How helpers are called.
const HELPER_PREFIX: &str = "docker-credential-";

const ONE_WAY: &str =
    "accepted is one of username with password, identity_token, registry_token, helper, docker_config";

impl Reader<'_> {
    /// Our credentials for a registry. Nothing, or empty names and passwords, say nothing; `none` says: nobody's.
    pub(super) fn auth(&mut self, field: Option<Field>) -> Option<Spanned<PartialAuth>> {
        let field = field?;
        let (line, path) = (field.node.line, field.path.clone());
        if let Value::Scalar(text) = &field.node.value {
            if ANONYMOUS.contains(&text.trim()) {
                return Some(Spanned {
                    value: PartialAuth {
                        auth: Auth::Anonymous,
                        from: None,
                    },
                    line,
                });
            }
            self.record_error_at(line, &path, &format!("{ONE_WAY}, or none"));
            return None;
        }
        let before = self.diagnostics.len();
        let mut fields = self.fields(&path, field.node, AUTH);
        let basic = self.basic(&path, line, before, &mut fields);
        let identity = self.secret(&mut fields, "identity_token");
        let registry = self.secret(&mut fields, "registry_token");
        let registry = registry.and_then(|spanned| self.header_safe(spanned, &path));
        let helper = self.parsed(fields.take("helper"), helper_name);
        let config = self.docker_config(fields.take("docker_config"));
        let token = fields.take("token").and_then(|field| self.token(field));
        if self.diagnostics.len() > before {
            return None;
        }
        let secret = |make: fn(SecretText) -> Auth| {
            move |spanned: Spanned<Source>| {
                spanned.map(|source| PartialAuth {
                    auth: make(source.secret),
                    from: source.from,
                })
            }
        };
        let plain = |spanned: Spanned<Auth>| spanned.map(|auth| PartialAuth { auth, from: None });
        let mut ways = [
            basic.map(|spanned| {
                spanned.map(|(username, source)| PartialAuth {
                    auth: Auth::Basic {
                        username,
                        password: source.secret,
                    },
                    from: source.from,
                })
            }),
            identity.map(secret(Auth::IdentityToken)),
            registry.map(secret(Auth::RegistryToken)),
            helper.map(|spanned| plain(spanned.map(|name| Auth::Helper { name }))),
            config.map(|spanned| plain(spanned.map(|path| Auth::DockerConfig { path }))),
            token,
        ]
        .into_iter()
        .flatten();
        let way = ways.next();
        if ways.next().is_some() {
            self.record_error_at(line, &path, ONE_WAY);
            return None;
        }
        way
    }

    /// Reads a name with its password. `before` is the number of diagnostics before this map.
    pub(super) fn basic(
        &mut self,
        path: &str,
        line: u64,
        before: usize,
        fields: &mut Fields,
    ) -> Option<Spanned<(String, Source)>> {
        let username = self.parsed(fields.take("username"), |text| {
            if text.contains(':') || text.chars().any(char::is_control) {
                return Err("a user's name has no colon and no control characters".to_owned());
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

    /// The form in which another system writes tokens.
    fn token(&mut self, field: Field) -> Option<Spanned<PartialAuth>> {
        let (line, path) = (field.node.line, field.path.clone());
        let before = self.diagnostics.len();
        let mut fields = self.fields(&path, field.node, TOKEN);
        let provider = self.parsed(fields.take("provider"), |text| match text {
            "ecr" => Ok(Auth::Helper {
                name: ECR_HELPER.to_owned(),
            }),
            _ => Err("accepted is ecr; others by helper".to_owned()),
        });
        let fixed = self.secret(&mut fields, "static");
        let fixed = fixed.and_then(|spanned| self.header_safe(spanned, &path));
        match (provider, fixed) {
            // A token that is given is used instead of asking for one.
            (_, Some(spanned)) => Some(spanned.map(|source| PartialAuth {
                auth: Auth::RegistryToken(source.secret),
                from: source.from,
            })),
            (Some(spanned), None) => Some(spanned.map(|auth| PartialAuth { auth, from: None })),
            (None, None) if self.diagnostics.len() > before => None,
            (None, None) => {
                self.record_error_at(line, &path, "needs provider or static");
                None
            }
        }
    }

    /// A token travels in a header field as it is.
    fn header_safe(&mut self, spanned: Spanned<Source>, path: &str) -> Option<Spanned<Source>> {
        if spanned
            .value
            .secret
            .reveal()
            .bytes()
            .all(|b| b.is_ascii_graphic())
        {
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

fn helper_name(text: &str) -> Result<String, String> {
    let name = text.strip_prefix(HELPER_PREFIX).unwrap_or(text);
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    // It becomes part of a program's name, which must not lead elsewhere.
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
        return Err("accepted is what follows docker-credential- in the program's name".to_owned());
    }
    Ok(name.to_owned())
}
