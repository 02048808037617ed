//! `tls` of a registry. The PEM files are read and checked with the configuration.

use super::super::model::{Pem, SecretText, Tls};
use super::keys::TLS;
use super::pem::{check_pair, check_roots, parse_certificates, parse_key};
use super::reader::{Field, Reader, Spanned};

/// The map `tls` of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::config) struct PartialTls {
    pub ca: Option<Spanned<Pem>>,
    /// Certificate chain and key, always set together.
    pub client: Option<(Spanned<Pem>, Spanned<Pem>)>,
    pub insecure_skip_verify: Option<Spanned<bool>>,
}

impl PartialTls {
    /// Replaces absent values by `defaults`.
    pub(super) fn or(self, defaults: &PartialTls) -> PartialTls {
        PartialTls {
            ca: self.ca.or_else(|| defaults.ca.clone()),
            client: self.client.or_else(|| defaults.client.clone()),
            insecure_skip_verify: self
                .insecure_skip_verify
                .or_else(|| defaults.insecure_skip_verify.clone()),
        }
    }

    pub(super) fn settings(&self) -> Tls {
        let pem = |spanned: &Spanned<Pem>| spanned.value.clone();
        Tls {
            ca: self.ca.as_ref().map(pem),
            client: self.client.as_ref().map(|(cert, key)| (pem(cert), pem(key))),
            insecure_skip_verify: self
                .insecure_skip_verify
                .as_ref()
                .is_some_and(|spanned| spanned.value),
        }
    }
}

impl Reader<'_> {
    pub(super) fn tls(&mut self, field: Option<Field>) -> PartialTls {
        let Some(field) = field else {
            return PartialTls::default();
        };
        let (line, path) = (field.node.line, field.path.clone());
        let mut fields = self.fields(&field.path, field.node, TLS);
        let ca = fields.take("ca");
        let (cert, key) = (fields.take("cert"), fields.take("key"));
        let insecure_skip_verify = self.switch(fields.take("insecure_skip_verify"));
        if cert.is_some() != key.is_some() {
            self.record_error_at(line, &path, "cert and key belong together; set both");
        }
        PartialTls {
            ca: self.ca(ca),
            client: cert
                .zip(key)
                .and_then(|(cert, key)| self.client_certificate(cert, key)),
            insecure_skip_verify,
        }
    }

    fn ca(&mut self, field: Option<Field>) -> Option<Spanned<Pem>> {
        let (path, text, key) = self.file(field)?;
        match check_roots(&text) {
            Ok(()) => Some(pem(path, text)),
            Err(why) => {
                self.record_error(path.line, &key, &path.value.to_string_lossy(), why);
                None
            }
        }
    }

    fn client_certificate(&mut self, cert: Field, key: Field) -> Option<(Spanned<Pem>, Spanned<Pem>)> {
        let cert = self.file(Some(cert));
        let key = self.secret_file(key);
        let ((cert_path, cert_text, cert_key), (key_path, key_text, key_key)) = (cert?, key?);
        let chain = parse_certificates(&cert_text);
        if let Err(why) = &chain {
            self.record_error(cert_path.line, &cert_key, &cert_path.value.to_string_lossy(), why);
        }
        let fits = match (chain, parse_key(&key_text)) {
            (Ok(chain), Ok(key)) => check_pair(chain, key),
            (_, Err(why)) => Err(why),
            (Err(_), Ok(_)) => return None,
        };
        if let Err(why) = fits {
            self.record_error(key_path.line, &key_key, &key_path.value.to_string_lossy(), why);
            return None;
        }
        Some((pem(cert_path, cert_text), pem(key_path, key_text)))
    }
}

fn pem(path: Spanned<std::path::PathBuf>, text: String) -> Spanned<Pem> {
    path.map(|path| Pem {
        path,
        text: SecretText::new(text),
    })
}
