//! Generates a certificate for an operator without one. The certificate exists only in memory and
//! changes with each restart.

use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};

use crate::runtime::clock::unix_seconds;

/// The names of the server for clients on this machine and in local containers.
pub const NAMES: [&str; 4] = ["localhost", "127.0.0.1", "::1", "host.docker.internal"];

/// Ten years, with two or three leap days.
const LIFE: Duration = Duration::from_secs(3_652 * 24 * 60 * 60);

/// The clocks of clients may be slow.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

/// Generates a certificate and its key (ECDSA, P-256) as PEM.
///
/// # Errors
///
/// The system provides no randomness.
pub fn generate() -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(NAMES.map(str::to_owned).to_vec())?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "oci-pull-through");
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(unix_seconds());
    params.not_before = now - BACKDATED;
    params.not_after = now + LIFE;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}
