//! `auth` at the top of the file: client authentication.

use super::super::model::CertificatePattern;
use super::super::options::Setting;
use super::keys::CLIENT_AUTH;
use super::layer::Layer;
use super::reader::{Field, Reader, Spanned};
use super::secret::FoundSecret;

/// The values of `auth`, besides `htpasswd_file`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::config) struct PartialClientAuth {
    pub user: Option<Spanned<(String, FoundSecret)>>,
    pub certificates: Option<Spanned<Vec<CertificatePattern>>>,
}

/// The settings of the user name and its password, outside of `auth`.
pub(in crate::config) const PAIR: [Setting; 3] = [
    Setting::AuthUsername,
    Setting::AuthPassword,
    Setting::AuthPasswordFile,
];

impl Reader<'_> {
    /// Reads `auth`. A user name without a password is an error. A typing error thus does not disable client
    /// authentication.
    pub(super) fn client_auth(&mut self, field: Field, settings: &mut Layer) -> PartialClientAuth {
        let (line, path) = (field.node.line, field.path.clone());
        let before = self.diagnostics.len();
        let mut fields = self.fields(&path, field.node, CLIENT_AUTH);
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
            self.record_error_at(
                spanned.line,
                &path,
                "is empty; name certificates or remove the key",
            );
        }
        let user = self.basic(&path, line, before, &mut fields);
        if user.is_some() && PAIR.iter().any(|setting| settings.find(*setting).is_some()) {
            self.record_error_at(line, &path, "name and password are already set outside of auth");
        }
        PartialClientAuth { user, certificates }
    }
}
