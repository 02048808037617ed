//! `server_tls_config` of the file: the settings of TLS towards clients, under the names of ociregistry.

use super::super::options::Setting;
use super::keys::SERVER_TLS;
use super::layer::Layer;
use super::reader::{Field, Reader};

impl Reader<'_> {
    /// Reads `server_tls_config` into `settings`. Returns whether the authorities of the system verify clients. In
    /// ociregistry, `verify` without `ca` has this meaning.
    pub(super) fn server_tls(&mut self, field: Field, settings: &mut Layer) -> bool {
        let mut fields = self.fields(&field.path, field.node, SERVER_TLS);
        let mut copy = |reader: &mut Self, name: &str, setting: Setting| {
            let field = fields.take(name)?;
            let path = field.path.clone();
            let spanned = reader.text(field)?;
            let text = spanned.value.clone();
            reader.give(setting, spanned, &path, settings);
            Some(text)
        };
        copy(self, "cert", Setting::TlsCertFile);
        copy(self, "key", Setting::TlsKeyFile);
        let ca = copy(self, "ca", Setting::TlsClientCaFile);
        // In ociregistry, a `ca` alone requests no certificate. Here, a `ca` alone requires certificates: an operator
        // with an authority does not want to accept every client, and notices a rejected client.
        let auth = copy(self, "client_auth", Setting::TlsClientAuth);
        auth.is_some_and(|auth| auth.trim().eq_ignore_ascii_case("verify")) && ca.is_none()
    }
}
