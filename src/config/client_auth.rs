//! `auth` at the top: client authentication.

use std::path::Path;

use super::diagnostics::{Diagnostic, Place};
use super::glob::Glob;
use super::htpasswd::Htpasswd;
use super::reader::{Field, Reader, Source, Spanned};
use super::resolve::Sources;
use super::schema_tables::KeySpec;
use super::secret::SecretText;
use super::server_tls::ClientCertificateConfig;
use super::setting::{Given, Layer, Setting};

/// The accepted client credentials. At least one kind is set, and one credential is enough.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ClientAuthConfig {
    /// One name with its password.
    pub user: Option<(String, SecretText)>,
    pub htpasswd: Option<Htpasswd>,
    /// Patterns of accepted client certificates.
    pub certificates: Vec<CertificatePattern>,
}

impl ClientAuthConfig {
    /// Returns whether a password is accepted. Otherwise a rejection has no password challenge.
    pub fn accepts_passwords(&self) -> bool {
        self.user.is_some() || self.htpasswd.is_some()
    }
}

/// A pattern of client certificates that client authentication accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificatePattern {
    /// `CN=`: the subject's common name; `*` is anything.
    CommonName(Glob),
    /// `DNS:`: a name of a host; `*` stays within a label. Without regard to case.
    Dns(Glob),
    /// `EMAIL:`; `*` stays on its side of the `@`.
    Mail(Glob),
    /// `URI:`; `*` stays between two slashes.
    Uri(Glob),
}

impl CertificatePattern {
    const ACCEPTED: &str = "accepted is CN=, DNS:, EMAIL: or URI: with a pattern behind it";

    /// # Errors
    ///
    /// What is accepted.
    pub fn new(text: &str) -> Result<Self, String> {
        let (kind, pattern) = match text.split_once(['=', ':']) {
            Some((kind, pattern)) => (&text[..=kind.len()], pattern),
            None => return Err(Self::ACCEPTED.to_owned()),
        };
        match kind {
            "CN=" => Glob::new(pattern, None).map(CertificatePattern::CommonName),
            "DNS:" => Glob::new(&pattern.to_ascii_lowercase(), Some('.')).map(CertificatePattern::Dns),
            "EMAIL:" => Glob::new(pattern, Some('@')).map(CertificatePattern::Mail),
            "URI:" => Glob::new(pattern, Some('/')).map(CertificatePattern::Uri),
            _ => Err(Self::ACCEPTED.to_owned()),
        }
    }
}

impl std::fmt::Display for CertificatePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, glob) = match self {
            CertificatePattern::CommonName(glob) => ("CN=", glob),
            CertificatePattern::Dns(glob) => ("DNS:", glob),
            CertificatePattern::Mail(glob) => ("EMAIL:", glob),
            CertificatePattern::Uri(glob) => ("URI:", glob),
        };
        write!(f, "{kind}{}", glob.as_str())
    }
}

/// What the file's `auth` says besides the settings of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PartialClientAuth {
    pub user: Option<Spanned<(String, Source)>>,
    pub certificates: Option<Spanned<Vec<CertificatePattern>>>,
}

/// The places of the parts of a [`ClientAuthConfig`], for `config print`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ClientAuthOrigins {
    pub username: Option<Place>,
    pub password: Option<Place>,
    /// The file or variable that has the password.
    pub from: Option<String>,
    pub htpasswd: Option<Place>,
}

/// What makes a pair of name and password outside of the file's `auth`.
const PAIR: [Setting; 3] = [
    Setting::AuthUsername,
    Setting::AuthPassword,
    Setting::AuthPasswordFile,
];

impl Reader<'_> {
    /// Reads `auth`. A user name without a password is an error, so that a typing error does not disable client authentication.
    pub(super) fn client_auth(
        &mut self,
        field: Option<Field>,
        table: &'static [KeySpec],
        settings: &mut Layer,
    ) -> PartialClientAuth {
        let Some(field) = field else {
            return PartialClientAuth::default();
        };
        let (line, path) = (field.node.line, field.path.clone());
        let before = self.diagnostics.len();
        let mut fields = self.fields(&path, field.node, table);
        if let Some(field) = fields.take("htpasswd_file") {
            let key = field.path.clone();
            if let Some(spanned) = self.text(field) {
                self.give(Setting::AuthHtpasswdFile, spanned, &key, settings);
            }
        }
        let certificates = fields.take("client_certificates");
        let certificates_at = certificates.as_ref().map(|field| field.path.clone());
        let certificates = self.list(certificates, CertificatePattern::new);
        if let (Some(spanned), Some(path)) = (&certificates, certificates_at)
            && spanned.value.is_empty()
            && self.diagnostics.len() == before
        {
            self.record_error_at(spanned.line, &path, "is empty; name certificates or leave it out");
        }
        let user = self.basic(&path, line, before, &mut fields);
        if user.is_some() && PAIR.iter().any(|setting| settings.find(*setting).is_some()) {
            self.record_error_at(line, &path, "name and password are said outside of it already");
        }
        PartialClientAuth { user, certificates }
    }
}

impl Sources<'_> {
    /// Resolves client authentication; `None` where no credential is configured.
    /// `clients` is the TLS setting for client certificates; `None` where that setting has an error.
    pub(super) fn client_auth(
        &mut self,
        clients: Option<&ClientCertificateConfig>,
    ) -> Option<ClientAuthConfig> {
        let user = self.client_auth_user();
        let htpasswd = self.find(Setting::AuthHtpasswdFile).cloned();
        let htpasswd = htpasswd.and_then(|given| self.htpasswd(&given));
        self.check_certificates(clients);
        let certificates = self.file.client_auth.certificates.as_ref();
        let auth = ClientAuthConfig {
            user,
            htpasswd,
            certificates: certificates.map_or_else(Vec::new, |spanned| spanned.value.clone()),
        };
        (auth != ClientAuthConfig::default()).then_some(auth)
    }

    /// Returns the place of a setting that enables client authentication, for diagnostics about all of its settings.
    pub(super) fn client_auth_place(&self) -> Option<String> {
        let settings = PAIR.into_iter().chain([Setting::AuthHtpasswdFile]);
        let given = settings.filter_map(|setting| self.find(setting)).next();
        if let Some(given) = given {
            return Some(given.place.alone());
        }
        let PartialClientAuth { user, certificates } = &self.file.client_auth;
        let line = user.as_ref().map(|spanned| spanned.line);
        let line = line.or(certificates.as_ref().map(|spanned| spanned.line))?;
        Some(format!("`auth` (line {line})"))
    }

    /// The one name with its password: that of the settings, if any of them is given, else that of `auth`.
    fn client_auth_user(&mut self) -> Option<(String, SecretText)> {
        let [username, password, file] = PAIR.map(|setting| self.find(setting).cloned());
        let password_at = |given: &Given| Some(given.place.clone());
        match (username, password, file) {
            (None, None, None) => {
                let Spanned { value, line } = self.file.client_auth.user.clone()?;
                let (username, source) = value;
                let place = self.place_in_file(line, "auth");
                self.client_auth_origins.username = Some(place.clone());
                self.client_auth_origins.password = Some(place);
                self.client_auth_origins.from = source.from;
                Some((username, source.secret))
            }
            (_, Some(_), Some(file)) => {
                self.record_error(
                    file.place.alone(),
                    "the password is said in two ways; one is enough",
                );
                None
            }
            (None, Some(half), None) | (None, None, Some(half)) => {
                self.record_error(half.place.alone(), "a password needs a user name, AUTH_USERNAME");
                None
            }
            (Some(half), None, None) => {
                let why = "a user name needs a password, AUTH_PASSWORD_FILE or AUTH_PASSWORD";
                self.record_error(half.place.with_value(&half.text), why);
                None
            }
            (Some(username), password, file) => {
                if username.text.contains(':') || username.text.chars().any(char::is_control) {
                    let why = "a user's name has no colon and no control characters";
                    self.record_error(username.place.with_value(&username.text), why);
                    return None;
                }
                self.client_auth_origins.username = Some(username.place.clone());
                self.client_auth_origins.password = password.as_ref().or(file.as_ref()).and_then(password_at);
                let secret = match (password, file) {
                    (Some(password), _) => {
                        self.file.holds_secret |= matches!(password.place, Place::File { .. });
                        password.text
                    }
                    (None, Some(file)) => {
                        self.client_auth_origins.from = Some(format!("file {}", file.text));
                        self.secret_of(&file)?
                    }
                    (None, None) => return None,
                };
                Some((username.text, SecretText::new(secret)))
            }
        }
    }

    /// The content of a file with a secret, without the line end at its end.
    fn secret_of(&mut self, given: &Given) -> Option<String> {
        let why = match self
            .environment
            .read_secret(Path::new(&given.text), &mut self.warnings)
        {
            Ok(text) => {
                let secret = text.strip_suffix('\n').unwrap_or(&text);
                let secret = secret.strip_suffix('\r').unwrap_or(secret);
                if !secret.is_empty() {
                    return Some(secret.to_owned());
                }
                "the file is empty".to_owned()
            }
            Err(error) => format!("cannot be read: {error}"),
        };
        self.record_error(given.place.with_value(&given.text), &why);
        None
    }

    fn htpasswd(&mut self, given: &Given) -> Option<Htpasswd> {
        self.client_auth_origins.htpasswd = Some(given.place.clone());
        let path = Path::new(&given.text);
        let what = given.place.with_value(&given.text);
        match self.environment.read_secret(path, &mut self.warnings) {
            Ok(text) => match Htpasswd::parse(path.to_owned(), &text) {
                Ok(htpasswd) => return Some(htpasswd),
                Err(wrong) => {
                    for (line, why) in wrong {
                        self.record_error(what.clone(), &format!("line {line}: {why}"));
                    }
                }
            },
            Err(error) => self.record_error(what, &format!("cannot be read: {error}")),
        }
        None
    }

    /// Records an error where certificates are accepted and TLS requests none.
    fn check_certificates(&mut self, clients: Option<&ClientCertificateConfig>) {
        if let Some(spanned) = &self.file.client_auth.certificates
            && clients == Some(&ClientCertificateConfig::NotRequested)
        {
            let place = self.place_in_file(spanned.line, "auth.client_certificates");
            let why = "needs TLS that asks clients for a certificate: set tls_client_ca_file, and tls_client_auth to verify or optional";
            self.record_error(place.alone(), why);
        }
    }

    fn record_error(&mut self, what: String, why: &str) {
        self.diagnostics.push(Diagnostic {
            what,
            why: why.to_owned(),
        });
    }

    fn place_in_file(&self, line: u64, key: &str) -> Place {
        let path = self.find(Setting::ConfigFile).map(|given| given.text.clone());
        Place::File {
            path: path.unwrap_or_default().into(),
            line,
            key: key.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{CA, CERT, KEY, Machine};

    const HTPASSWD: &str = "alice:$2y$04$abcdefghijklmnopqrstuuZVtbkHNIzXDySbF5.qVDcG5jZkm0QVG\n";

    fn machine(text: &str) -> Machine {
        Machine::with_file(text)
            .file("/h", HTPASSWD)
            .file("/md5", "# x\nbob:$apr1$canary$canary\n")
            .file("/pw", "canary-file\n")
    }

    fn user(machine: &Machine) -> Option<(String, String)> {
        let auth = machine.config().client_auth?;
        auth.user
            .map(|(name, password)| (name, password.reveal().to_owned()))
    }

    #[test]
    fn a_name_and_its_password_come_from_the_environment_or_from_the_file() {
        let pair = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        let file = "auth: {username: f, password: fp}\n";
        assert_eq!(user(&machine("")), None);
        assert_eq!(user(&machine(file)), pair("f", "fp"));
        let env = machine(file).env("AUTH_USERNAME", "e").env("AUTH_PASSWORD", "ep");
        assert_eq!(user(&env), pair("e", "ep"));
        let env = machine("")
            .env("AUTH_USERNAME", "e")
            .env("AUTH_PASSWORD_FILE", "/pw");
        assert_eq!(user(&env), pair("e", "canary-file"));
        let text = "auth_username: a\nauth_password: b\n";
        assert_eq!(user(&machine(text)), pair("a", "b"));
        assert!(!format!("{:?}", env.config()).contains("canary"));
    }

    #[test]
    fn an_htpasswd_file_is_read_and_checked_with_the_rest() {
        for named in [
            machine("auth: {htpasswd_file: /h}\n"),
            machine("").env("AUTH_HTPASSWD_FILE", "/h"),
            machine("auth: {htpasswdFile: /md5}\n").env("AUTH_HTPASSWD_FILE", "/h"),
        ] {
            let auth = named.config().client_auth.unwrap();
            let htpasswd = auth.htpasswd.unwrap();
            assert_eq!((htpasswd.users.len(), htpasswd.users[0].0.as_str()), (1, "alice"));
            assert_eq!(auth.user, None);
        }
        let both = machine("auth: {htpasswd_file: /h, username: u, password: p}\n").config();
        let both = both.client_auth.unwrap();
        assert!(both.user.is_some() && both.htpasswd.is_some());
    }

    #[test]
    fn incomplete_client_auth_is_an_error_and_no_secret_is_shown() {
        let plain = |text: &str| machine(text);
        for (machine, expected) in [
            (
                plain("").env("AUTH_USERNAME", "u"),
                "AUTH_USERNAME=\"u\": a user name needs",
            ),
            (
                plain("").env("AUTH_PASSWORD", "canary"),
                "AUTH_PASSWORD: a password needs",
            ),
            (
                plain("")
                    .env("AUTH_USERNAME", "u:v")
                    .env("AUTH_PASSWORD", "canary"),
                "has no colon",
            ),
            (
                plain("")
                    .env("AUTH_USERNAME", "u")
                    .env("AUTH_PASSWORD", "canary")
                    .env("AUTH_PASSWORD_FILE", "/pw"),
                "in two ways",
            ),
            (
                plain("")
                    .env("AUTH_USERNAME", "u")
                    .env("AUTH_PASSWORD_FILE", "/none"),
                "AUTH_PASSWORD_FILE=\"/none\": cannot be read",
            ),
            (
                plain("auth: {htpasswd_file: /md5}\n"),
                "f.yaml:1: auth.htpasswd_file: \"/md5\": line 2: only bcrypt is accepted",
            ),
            (
                plain("auth: {htpasswd_file: /none}\n"),
                "\"/none\": cannot be read",
            ),
            (
                plain("auth: {username: u, password: canary}\nauth_username: v\nauth_password: canary\n"),
                "said outside of it already",
            ),
            (
                plain("auth: {client_certificates: [CN=a]}\n"),
                "f.yaml:1: auth.client_certificates: needs TLS that asks",
            ),
            (
                plain("auth: {htpasswd_file: /h}\n").env("CLIENT_LOGIN", "true"),
                "CLIENT_LOGIN=\"true\": not together with",
            ),
        ] {
            let diagnostics = machine.diagnostics();
            assert_eq!(diagnostics.len(), 1, "{diagnostics:#?}");
            assert!(
                diagnostics[0].contains(expected),
                "{expected} in {diagnostics:#?}"
            );
            assert!(!diagnostics[0].contains("canary"), "{diagnostics:#?}");
        }
    }

    /// Whether they are is looked at where everything about TLS has been put together.
    #[test]
    fn certificates_are_accepted_only_where_tls_requests_them() {
        let with = |more: &str| {
            machine(&format!("auth: {{client_certificates: [CN=a]}}\n{more}\n"))
                .file("/c.pem", CERT)
                .file("/k.pem", KEY)
                .file("/ca.pem", CA)
        };
        let pair = "tls_cert_file: /c.pem\ntls_key_file: /k.pem";
        for asked in [
            "tls_client_ca_file: /ca.pem",
            "tls_client_ca_file: /ca.pem\ntls_client_auth: optional",
        ] {
            let auth = with(&format!("{pair}\n{asked}")).config().client_auth.unwrap();
            assert_eq!(auth.certificates.len(), 1);
        }
        let there = "serverTlsConfig: {cert: /c.pem, key: /k.pem, clientAuth: verify}";
        assert!(with(there).config().client_auth.is_some());
        for not_asked in [
            "".to_owned(),
            pair.to_owned(),
            format!("{pair}\ntls_client_ca_file: /ca.pem\ntls_client_auth: none"),
            "serverTlsConfig: {cert: /c.pem, key: /k.pem, ca: /ca.pem, clientAuth: none}".to_owned(),
        ] {
            let diagnostics = with(&not_asked).diagnostics();
            assert_eq!(diagnostics.len(), 1, "{not_asked}: {diagnostics:#?}");
            assert!(
                diagnostics[0].starts_with("f.yaml:1: auth.client_certificates: "),
                "{diagnostics:#?}"
            );
        }
        // One error gives one diagnostic.
        let broken = with("tls_cert_file: /c.pem\ntls_client_ca_file: /ca.pem").diagnostics();
        assert_eq!(broken.len(), 1, "{broken:#?}");
        assert!(broken[0].contains("needs TLS_KEY_FILE"), "{broken:#?}");
    }

    #[test]
    fn certificates_are_named_by_what_they_say() {
        for good in [
            "CN=builder-*",
            "DNS:*.nodes.example",
            "EMAIL:*@example.com",
            "URI:spiffe://c/ns/*/sa/x",
            "CN=a:b=c",
        ] {
            assert_eq!(CertificatePattern::new(good).unwrap().to_string(), good);
        }
        for bad in ["", "builder", "CN:", "CN=", "DNS=x", "O=x", "cn=x", "IP:10.0.0.1"] {
            assert!(CertificatePattern::new(bad).is_err(), "{bad}");
        }
    }
}
