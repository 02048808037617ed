//! `tls` of a registry: PEM files, read and checked when the configuration is.

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::reader::{Field, Reader, Spanned};
use super::registry::{Pem, Tls};
use super::schema_tables::TLS;
use super::secret::SecretText;

/// What a file says about `tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PartialTls {
    pub ca: Option<Spanned<Pem>>,
    /// Certificates and key; chosen together.
    pub client: Option<(Spanned<Pem>, Spanned<Pem>)>,
    pub insecure_skip_verify: Option<Spanned<bool>>,
}

impl PartialTls {
    /// Fills in what is not said from `defaults`.
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
            self.record_error_at(
                line,
                &path,
                "cert and key belong together; one of them is missing",
            );
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
        let private = parse_key(&key_text);
        let fits = match (chain, private) {
            (Ok(chain), Ok(private)) => fit(chain, private),
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

/// The certificates of a file.
pub(super) fn parse_certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    const NONE: &str = "holds no certificate in PEM form";
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(NONE),
    }
}

/// The key of a file.
pub(super) fn parse_key(text: &str) -> Result<PrivateKeyDer<'static>, &'static str> {
    PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| "holds no private key in PEM form (an encrypted one cannot be used)")
}

/// Whether a file holds authorities and nothing else.
pub(super) fn check_roots(text: &str) -> Result<(), &'static str> {
    let mut roots = RootCertStore::empty();
    for certificate in parse_certificates(text)? {
        roots
            .add(certificate)
            .map_err(|_| "holds something that is no certificate")?;
    }
    Ok(())
}

/// Whether a key is that of a certificate, and both are of a kind we can use.
pub(super) fn fit(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(), &'static str> {
    match CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err("does not fit the certificate"),
        Err(_) => Err("the key, or its certificate, is of a kind that cannot be used"),
    }
}
