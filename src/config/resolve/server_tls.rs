//! Resolution of TLS towards clients, from settings or from `server_tls_config` of the file.

use std::path::PathBuf;

use super::super::model::units::parse_bool;
use super::super::model::{
    ClientCertificateConfig, ClientCertificateMode, Pem, SecretText, ServerIdentityConfig, ServerTls,
};
use super::super::options::{Setting, Values};
use super::super::sources::{check_pair, check_roots, parse_certificates, parse_key};
use super::{Recorded, Sources};

/// The settings that enable TLS.
const SWITCHES: [Setting; 3] = [
    Setting::TlsCertFile,
    Setting::TlsKeyFile,
    Setting::GenerateSelfSignedTls,
];

impl Sources<'_> {
    /// Returns whether a setting enables TLS, valid or not.
    pub(super) fn wants_tls(&self) -> bool {
        SWITCHES.into_iter().any(|setting| match self.find(setting) {
            None => false,
            Some(given) if setting == Setting::GenerateSelfSignedTls => {
                parse_bool(given.text.trim()) == Some(true)
            }
            Some(_) => true,
        })
    }

    /// Resolves TLS towards clients, and records errors. `None` means no TLS.
    pub(super) fn server_tls(&mut self, values: &Values) -> Result<Option<ServerTls>, Recorded> {
        // All files are read first, so that the operator gets all read errors at once.
        let chain = self.pem(Setting::TlsCertFile);
        let key = self.pem(Setting::TlsKeyFile);
        let roots = self.pem(Setting::TlsClientCaFile);
        self.check_valid(Setting::GenerateSelfSignedTls)?;
        let generate = values.generate_self_signed_tls;
        let has_files = self.check_certificate_settings(generate)?;
        self.check_valid(Setting::TlsClientAuth)?;
        let clients = self.client_certificates(values.tls_client_auth, roots);
        if !generate && !has_files {
            return self.check_no_tls(&clients?).map(|()| None);
        }
        let identity = if let (Some(chain), Some(key)) = (chain?, key?) {
            self.check_files(&chain, &key)?;
            ServerIdentityConfig::Files { chain, key }
        } else {
            ServerIdentityConfig::SelfSigned
        };
        let clients = clients?;
        Ok(Some(ServerTls { identity, clients }))
    }

    /// Checks that the certificate is either generated, or set with its key. Returns whether certificate and key are set.
    fn check_certificate_settings(&mut self, generate: bool) -> Result<bool, Recorded> {
        let has_chain = self.find(Setting::TlsCertFile).is_some();
        let has_key = self.find(Setting::TlsKeyFile).is_some();
        if generate && (has_chain || has_key) {
            let why =
                "conflicts with TLS_CERT_FILE and TLS_KEY_FILE; set either a certificate or this setting";
            return Err(self.refuse(Setting::GenerateSelfSignedTls, why));
        }
        match (has_chain, has_key) {
            (true, false) => Err(self.refuse(
                Setting::TlsCertFile,
                "needs TLS_KEY_FILE: certificate and key belong together",
            )),
            (false, true) => Err(self.refuse(
                Setting::TlsKeyFile,
                "needs TLS_CERT_FILE: certificate and key belong together",
            )),
            (both, _) => Ok(both),
        }
    }

    /// Checks that no setting for client certificates is set without TLS.
    fn check_no_tls(&mut self, clients: &ClientCertificateConfig) -> Result<(), Recorded> {
        if *clients == ClientCertificateConfig::NotRequested {
            return Ok(());
        }
        let setting = match self.find(Setting::TlsClientCaFile) {
            Some(_) => Setting::TlsClientCaFile,
            None => Setting::TlsClientAuth,
        };
        Err(self.refuse(setting, "needs TLS: set TLS_CERT_FILE and TLS_KEY_FILE as well"))
    }

    fn client_certificates(
        &mut self,
        mode: ClientCertificateMode,
        roots: Result<Option<Pem>, Recorded>,
    ) -> Result<ClientCertificateConfig, Recorded> {
        let roots = roots?;
        if let Some(pem) = &roots
            && let Err(why) = check_roots(pem.text.reveal())
        {
            return Err(self.refuse(Setting::TlsClientCaFile, why));
        }
        let required = match (mode, &roots) {
            (ClientCertificateMode::Auto, None) | (ClientCertificateMode::None, _) => {
                return Ok(ClientCertificateConfig::NotRequested);
            }
            (ClientCertificateMode::Optional, _) => false,
            (ClientCertificateMode::Auto | ClientCertificateMode::Verify, _) => true,
        };
        if roots.is_none() && !self.file.clients_by_system {
            let why = "needs TLS_CLIENT_CA_FILE: the authority of client certificates";
            return Err(self.refuse(Setting::TlsClientAuth, why));
        }
        Ok(ClientCertificateConfig::Requested { roots, required })
    }

    /// Reads the file at the path of `setting`. `None` means that the setting is absent.
    fn pem(&mut self, setting: Setting) -> Result<Option<Pem>, Recorded> {
        let Some(given) = self.find(setting) else {
            return Ok(None);
        };
        let path = PathBuf::from(given.text.trim());
        let read = match setting {
            Setting::TlsKeyFile => self.environment.read_secret(&path, &mut self.warnings),
            _ => self.environment.read(&path),
        };
        match read {
            Ok(text) => {
                let text = SecretText::new(text);
                Ok(Some(Pem { path, text }))
            }
            Err(error) => Err(self.refuse(setting, &format!("cannot be read: {error}"))),
        }
    }

    fn check_files(&mut self, chain: &Pem, key: &Pem) -> Result<(), Recorded> {
        let certificates =
            parse_certificates(chain.text.reveal()).map_err(|why| self.refuse(Setting::TlsCertFile, why))?;
        parse_key(key.text.reveal())
            .and_then(|key| check_pair(certificates, key))
            .map_err(|why| self.refuse(Setting::TlsKeyFile, why))
    }

    fn refuse(&mut self, setting: Setting, why: &str) -> Recorded {
        self.record_setting_error(setting, why);
        Recorded
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
    fn ociregistry_client_auth_modes_are_read() {
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
        // An authority alone requires certificates, unlike in ociregistry.
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
                "GENERATE_SELF_SIGNED_TLS=\"true\": conflicts with",
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
                "TLS_KEY_FILE=\"/o.pem\": does not match the certificate",
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
                "TLS_CLIENT_AUTH=\"maybe\": expected auto, none",
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
