//! Resolution of client authentication.

use std::path::Path;

use super::super::model::{ClientAuthConfig, ClientCertificateConfig, Htpasswd, SecretText, ServerTls};
use super::super::options::Setting;
use super::super::sources::{Given, PAIR, PartialClientAuth, Place, Spanned, without_line_end};
use super::{Recorded, Sources};

/// The places of the parts of a [`ClientAuthConfig`], for `config print`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::config) struct ClientAuthOrigins {
    pub username: Option<Place>,
    pub password: Option<Place>,
    /// The file or variable with the password.
    pub from: Option<String>,
    pub htpasswd: Option<Place>,
}

impl Sources<'_> {
    /// Resolves client authentication, and records errors. `None` means that no credential is configured.
    pub(super) fn client_auth(
        &mut self,
        tls: &Result<Option<ServerTls>, Recorded>,
    ) -> Option<ClientAuthConfig> {
        let user = self.client_auth_user();
        let htpasswd = self.find(Setting::AuthHtpasswdFile).cloned();
        let htpasswd = htpasswd.and_then(|given| self.htpasswd(&given));
        self.check_certificates(tls);
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

    /// Returns the user name with its password: from the settings if any of them is given, otherwise from `auth`.
    fn client_auth_user(&mut self) -> Option<(String, SecretText)> {
        let [username, password, file] = PAIR.map(|setting| self.find(setting).cloned());
        match (username, password, file) {
            (None, None, None) => self.user_of_file(),
            (_, Some(_), Some(file)) => {
                self.record_error(
                    file.place.alone(),
                    "the password is set in two ways; set one of them",
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
            (Some(username), Some(password), None) => {
                self.check_username(&username)?;
                self.client_auth_origins.password = Some(password.place.clone());
                self.file.holds_secret |= matches!(password.place, Place::File { .. });
                Some((username.text, SecretText::new(password.text)))
            }
            (Some(username), None, Some(file)) => {
                self.check_username(&username)?;
                self.client_auth_origins.password = Some(file.place.clone());
                self.client_auth_origins.from = Some(format!("file {}", file.text));
                let secret = self.secret_of(&file)?;
                Some((username.text, SecretText::new(secret)))
            }
        }
    }

    fn user_of_file(&mut self) -> Option<(String, SecretText)> {
        let Spanned { value, line } = self.file.client_auth.user.clone()?;
        let (username, found) = value;
        let place = self.place_in_file(line, "auth");
        self.client_auth_origins.username = Some(place.clone());
        self.client_auth_origins.password = Some(place);
        self.client_auth_origins.from = found.from;
        Some((username, found.secret))
    }

    fn check_username(&mut self, username: &Given) -> Option<()> {
        if username.text.contains(':') || username.text.chars().any(char::is_control) {
            let why = "a user name has no colon and no control characters";
            self.record_error(username.place.with_value(&username.text), why);
            return None;
        }
        self.client_auth_origins.username = Some(username.place.clone());
        Some(())
    }

    /// Reads a file with a secret, and removes the last line end.
    fn secret_of(&mut self, given: &Given) -> Option<String> {
        let path = Path::new(&given.text);
        let why = match self.environment.read_secret(path, &mut self.warnings) {
            Ok(text) => match without_line_end(&text) {
                "" => "the file is empty".to_owned(),
                secret => return Some(secret.to_owned()),
            },
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

    /// Records an error if certificates are accepted but TLS requests none. After a TLS error, this check would report the
    /// same error again.
    fn check_certificates(&mut self, tls: &Result<Option<ServerTls>, Recorded>) {
        let requested = match tls {
            Ok(Some(tls)) => tls.clients != ClientCertificateConfig::NotRequested,
            Ok(None) => false,
            Err(Recorded) => return,
        };
        if let (Some(spanned), false) = (&self.file.client_auth.certificates, requested) {
            let place = self.place_in_file(spanned.line, "auth.client_certificates");
            let why = "needs TLS that requests client certificates: set tls_client_ca_file, and tls_client_auth to verify or optional";
            self.record_error(place.alone(), why);
        }
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
                "f.yaml:1: auth.htpasswd_file: \"/md5\": line 2: only bcrypt hashes are supported",
            ),
            (
                plain("auth: {htpasswd_file: /none}\n"),
                "\"/none\": cannot be read",
            ),
            (
                plain("auth: {username: u, password: canary}\nauth_username: v\nauth_password: canary\n"),
                "already set outside of auth",
            ),
            (
                plain("auth: {client_certificates: [CN=a]}\n"),
                "f.yaml:1: auth.client_certificates: needs TLS that requests",
            ),
            (
                plain("auth: {htpasswd_file: /h}\n").env("CLIENT_LOGIN", "true"),
                "CLIENT_LOGIN=\"true\": conflicts with",
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
        // A TLS error gives a single diagnostic.
        let broken = with("tls_cert_file: /c.pem\ntls_client_ca_file: /ca.pem").diagnostics();
        assert_eq!(broken.len(), 1, "{broken:#?}");
        assert!(broken[0].contains("needs TLS_KEY_FILE"), "{broken:#?}");
    }
}
