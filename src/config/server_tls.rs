//! TLS towards clients: what is said in four settings, or in `server_tls_config` of the file, as one checked whole.

use std::path::PathBuf;

use super::diagnostics::Diagnostic;
use super::reader::{Field, Reader};
use super::registry::Pem;
use super::resolve::Sources;
use super::schema_tables::SERVER_TLS;
use super::secret::SecretText;
use super::setting::{Layer, Setting};
use super::tls::{check_roots, fit, parse_certificates, parse_key};
use super::units;

/// How TLS is spoken with clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    pub identity: ServerIdentityConfig,
    pub clients: ClientCertificateConfig,
}

/// Who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerIdentityConfig {
    /// A certificate of our own making.
    SelfSigned,
    Files {
        chain: Pem,
        key: Pem,
    },
}

/// Whether clients are asked who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificateConfig {
    NotRequested,
    Requested {
        /// Authorities of their certificates; `None` means those of the system.
        roots: Option<Pem>,
        /// Whether the handshake rejects a client without certificate.
        required: bool,
    },
}

/// The words of `tls_client_auth`.
pub(super) const TLS_CLIENT_AUTH: &[&str] = &["auto", "none", "optional", "verify"];

/// Where TLS is on, and what that is called in a message.
const SWITCHES: [Setting; 3] = [
    Setting::TlsCertFile,
    Setting::TlsKeyFile,
    Setting::GenerateSelfSignedTls,
];

impl Sources<'_> {
    /// Whether TLS is asked for, well or not.
    pub(super) fn wants_tls(&self) -> bool {
        SWITCHES.into_iter().any(|setting| match self.find(setting) {
            None => false,
            Some(given) if setting == Setting::GenerateSelfSignedTls => {
                units::parse_bool(given.text.trim()) == Some(true)
            }
            Some(_) => true,
        })
    }

    /// Resolves TLS towards clients, and records errors.
    pub(super) fn server_tls(&mut self) -> Option<ServerTls> {
        let generate = self.parse(
            Setting::GenerateSelfSignedTls,
            units::BOOL_ACCEPTED,
            units::parse_bool,
        );
        let auth = self.parse(Setting::TlsClientAuth, "auto, none, optional or verify", |text| {
            let word = text.to_ascii_lowercase();
            TLS_CLIENT_AUTH.iter().copied().find(|known| *known == word)
        });
        let chain = self.pem(Setting::TlsCertFile);
        let key = self.pem(Setting::TlsKeyFile);
        let roots = self.pem(Setting::TlsClientCaFile);
        let (said_chain, said_key) = (
            self.find(Setting::TlsCertFile).is_some(),
            self.find(Setting::TlsKeyFile).is_some(),
        );
        let generate = generate?;
        if generate && (said_chain || said_key) {
            self.record_setting_error(
                Setting::GenerateSelfSignedTls,
                "not together with a certificate of yours (TLS_CERT_FILE): which one shall clients see?",
            );
            return None;
        }
        if said_chain != said_key {
            let (there, missing) = if said_chain {
                (Setting::TlsCertFile, "TLS_KEY_FILE")
            } else {
                (Setting::TlsKeyFile, "TLS_CERT_FILE")
            };
            self.record_setting_error(
                there,
                &format!("needs {missing}: certificate and key belong together"),
            );
            return None;
        }
        let clients = self.clients(auth?, roots);
        if !generate && !said_chain {
            if !matches!(clients, Some(ClientCertificateConfig::NotRequested) | None) {
                let setting = match self.find(Setting::TlsClientCaFile) {
                    Some(_) => Setting::TlsClientCaFile,
                    None => Setting::TlsClientAuth,
                };
                self.record_setting_error(setting, "needs TLS: set TLS_CERT_FILE and TLS_KEY_FILE as well");
            }
            return None;
        }
        let identity = if generate {
            ServerIdentityConfig::SelfSigned
        } else {
            let (chain, key) = (chain?, key?);
            self.check_pair(&chain, &key)?;
            ServerIdentityConfig::Files { chain, key }
        };
        Some(ServerTls {
            identity,
            clients: clients?,
        })
    }

    fn clients(&mut self, auth: &str, roots: Option<Pem>) -> Option<ClientCertificateConfig> {
        let said = self.find(Setting::TlsClientCaFile).is_some();
        if said && roots.is_none() {
            // The error is recorded already.
            return None;
        }
        if let Some(pem) = &roots
            && let Err(why) = check_roots(pem.text.reveal())
        {
            self.record_setting_error(Setting::TlsClientCaFile, why);
            return None;
        }
        let required = match (auth, said) {
            ("auto", false) | ("none", _) => return Some(ClientCertificateConfig::NotRequested),
            ("optional", _) => false,
            _ => true,
        };
        if !said && !self.file.clients_by_system {
            self.record_setting_error(
                Setting::TlsClientAuth,
                "needs TLS_CLIENT_CA_FILE: the authority of the certificates that may come in",
            );
            return None;
        }
        Some(ClientCertificateConfig::Requested { roots, required })
    }

    /// Returns the file that `setting` names; `None` without a file, or after recording a read error.
    fn pem(&mut self, setting: Setting) -> Option<Pem> {
        let path = PathBuf::from(self.find(setting)?.text.trim());
        let read = match setting {
            Setting::TlsKeyFile => self.environment.read_secret(&path, &mut self.warnings),
            _ => self.environment.read(&path),
        };
        match read {
            Ok(text) => Some(Pem {
                path,
                text: SecretText::new(text),
            }),
            Err(error) => {
                self.record_setting_error(setting, &format!("cannot be read: {error}"));
                None
            }
        }
    }

    fn check_pair(&mut self, chain: &Pem, key: &Pem) -> Option<()> {
        let certificates = match parse_certificates(chain.text.reveal()) {
            Ok(certificates) => certificates,
            Err(why) => {
                self.record_setting_error(Setting::TlsCertFile, why);
                return None;
            }
        };
        let fits = parse_key(key.text.reveal()).and_then(|key| fit(certificates, key));
        match fits {
            Ok(()) => Some(()),
            Err(why) => {
                self.record_setting_error(Setting::TlsKeyFile, why);
                None
            }
        }
    }

    /// Records an error of a setting, with the setting as written.
    pub(super) fn record_setting_error(&mut self, setting: Setting, why: &str) {
        let what = match self.find(setting) {
            Some(given) => given.place.with_value(&given.text),
            None => setting.env().to_owned(),
        };
        self.diagnostics.push(Diagnostic {
            what,
            why: why.to_owned(),
        });
    }
}

impl Reader<'_> {
    /// `server_tls_config`: the same settings under the names that another system gives them. `true` when clients are to
    /// be verified by the system's authorities, which is what that system does without `ca`.
    pub(super) fn server_tls(&mut self, field: Field, settings: &mut Layer) -> bool {
        let mut fields = self.fields(&field.path, field.node, SERVER_TLS);
        let mut said = |reader: &mut Self, name: &str, setting: Setting| {
            let field = fields.take(name)?;
            let path = field.path.clone();
            let spanned = reader.text(field)?;
            let text = spanned.value.clone();
            reader.give(setting, spanned, &path, settings);
            Some(text)
        };
        said(self, "cert", Setting::TlsCertFile);
        said(self, "key", Setting::TlsKeyFile);
        let ca = said(self, "ca", Setting::TlsClientCaFile);
        // In that system a `ca` alone requests no certificate. Here a `ca` alone requires certificates.
        // An operator who sets an authority does not want to accept every client, and notices a rejected client.
        let auth = said(self, "client_auth", Setting::TlsClientAuth);
        auth.is_some_and(|auth| auth.trim().eq_ignore_ascii_case("verify")) && ca.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{CA, CERT, KEY, Machine, OTHER_KEY};

    fn machine(file: &str) -> Machine {
        let machine = if file.is_empty() {
            Machine::default()
        } else {
            Machine::with_file(file)
        };
        machine
            .file("/c.pem", CERT)
            .file("/k.pem", KEY)
            .file("/o.pem", OTHER_KEY)
            .file("/ca.pem", CA)
    }

    fn pair(machine: Machine) -> Machine {
        machine
            .env("TLS_CERT_FILE", "/c.pem")
            .env("TLS_KEY_FILE", "/k.pem")
    }

    #[test]
    fn certificate_and_key_turn_tls_on_and_change_the_port() {
        let config = pair(machine("")).config();
        let tls = config.tls.unwrap();
        let ServerIdentityConfig::Files { chain, key } = tls.identity else {
            panic!("{tls:?}")
        };
        assert_eq!((chain.path, key.path), ("/c.pem".into(), "/k.pem".into()));
        assert_eq!(tls.clients, ClientCertificateConfig::NotRequested);
        let listen: Vec<_> = config.listen.iter().map(|a| (a.port, a.tls)).collect();
        assert_eq!(listen, [(8443, true)]);

        let both = pair(machine("")).env("LISTEN_ADDR", "http://:80, https://127.0.0.1:443,:9");
        let listen: Vec<_> = both.config().listen.iter().map(|a| (a.port, a.tls)).collect();
        assert_eq!(listen, [(80, false), (443, true), (9, true)]);
        let plain = machine("").config();
        assert_eq!((plain.tls, plain.listen[0].tls), (None, false));
    }

    #[test]
    fn the_words_of_another_system_mean_what_they_mean_there() {
        let tls = |more: &str| {
            let text = format!("serverTlsConfig: {{cert: /c.pem, key: /k.pem{more}}}\n");
            machine(&text).config().tls.unwrap().clients
        };
        assert_eq!(tls(""), ClientCertificateConfig::NotRequested);
        assert_eq!(
            tls(", ca: /ca.pem, clientAuth: none"),
            ClientCertificateConfig::NotRequested
        );
        assert_eq!(
            tls(", clientAuth: verify"),
            ClientCertificateConfig::Requested {
                roots: None,
                required: true
            }
        );
        assert!(matches!(
            tls(", ca: /ca.pem, clientAuth: verify"),
            ClientCertificateConfig::Requested {
                roots: Some(_),
                required: true
            }
        ));
        // But for an authority without a word what for.
        assert!(matches!(
            tls(", ca: /ca.pem"),
            ClientCertificateConfig::Requested { required: true, .. }
        ));
        assert_eq!(machine("serverTlsConfig: {}\n").config().tls, None);
    }

    #[test]
    fn an_authority_alone_means_that_clients_are_verified() {
        let with = |auth: &str| {
            let machine = pair(machine("")).env("TLS_CLIENT_CA_FILE", "/ca.pem");
            machine.env("TLS_CLIENT_AUTH", auth).config().tls.unwrap().clients
        };
        for (auth, expected) in [
            ("", Some(true)),
            ("auto", Some(true)),
            ("verify", Some(true)),
            ("optional", Some(false)),
            ("none", None),
        ] {
            let found = match with(auth) {
                ClientCertificateConfig::NotRequested => None,
                ClientCertificateConfig::Requested { roots, required } => {
                    assert!(roots.is_some());
                    Some(required)
                }
            };
            assert_eq!(found, expected, "{auth:?}");
        }
    }

    #[test]
    fn contradictory_settings_are_an_error() {
        let generate = || machine("").env("GENERATE_SELF_SIGNED_TLS", "true");
        for (machine, start) in [
            (
                pair(generate()),
                "GENERATE_SELF_SIGNED_TLS=\"true\": not together",
            ),
            (
                machine("").env("TLS_CERT_FILE", "/c.pem"),
                "TLS_CERT_FILE=\"/c.pem\": needs TLS_KEY_FILE",
            ),
            (
                machine("").env("TLS_KEY_FILE", "/k.pem"),
                "TLS_KEY_FILE=\"/k.pem\": needs TLS_CERT_FILE",
            ),
            (
                machine("")
                    .env("TLS_CERT_FILE", "/c.pem")
                    .env("TLS_KEY_FILE", "/o.pem"),
                "TLS_KEY_FILE=\"/o.pem\": does not fit the certificate",
            ),
            (
                machine("")
                    .env("TLS_CERT_FILE", "/k.pem")
                    .env("TLS_KEY_FILE", "/k.pem"),
                "TLS_CERT_FILE=\"/k.pem\": holds no certificate",
            ),
            (
                machine("")
                    .env("TLS_CERT_FILE", "/none")
                    .env("TLS_KEY_FILE", "/k.pem"),
                "TLS_CERT_FILE=\"/none\": cannot be read",
            ),
            (
                pair(machine("")).env("TLS_CLIENT_AUTH", "verify"),
                "TLS_CLIENT_AUTH=\"verify\": needs TLS_CLIENT_CA_FILE",
            ),
            (
                pair(machine("")).env("TLS_CLIENT_AUTH", "maybe"),
                "TLS_CLIENT_AUTH=\"maybe\": accepted is",
            ),
            (
                pair(machine("")).env("TLS_CLIENT_CA_FILE", "/k.pem"),
                "TLS_CLIENT_CA_FILE=\"/k.pem\": holds no certificate",
            ),
            (
                machine("").env("TLS_CLIENT_CA_FILE", "/ca.pem"),
                "TLS_CLIENT_CA_FILE=\"/ca.pem\": needs TLS",
            ),
            (
                machine("").env("LISTEN_ADDR", "https://:1"),
                "LISTEN_ADDR=\"https://:1\": https needs a certificate",
            ),
            (
                generate().env("LISTEN_ADDR", "http://:1"),
                "LISTEN_ADDR=\"http://:1\": TLS is configured",
            ),
            (
                machine("serverTlsConfig: {cert: /c.pem}\n"),
                "f.yaml:1: serverTlsConfig.cert: \"/c.pem\": needs",
            ),
        ] {
            let diagnostics = machine.diagnostics();
            assert!(
                diagnostics.len() == 1 && diagnostics[0].starts_with(start),
                "{start}: {diagnostics:#?}"
            );
        }
        let generated = generate().config();
        assert_eq!(generated.tls.unwrap().identity, ServerIdentityConfig::SelfSigned);
        let listen: Vec<_> = generated.listen.iter().map(|a| (a.port, a.tls)).collect();
        assert_eq!(listen, [(8443, true)]);
        assert_eq!(
            machine("").env("GENERATE_SELF_SIGNED_TLS", "false").config().tls,
            None
        );
    }
}
