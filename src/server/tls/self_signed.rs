//! A certificate of our own making, for those who have none. It lives in memory and is another one after a restart.

use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};

use crate::runtime::clock::unix_seconds;

/// What clients on the same machine, and containers on it, call us.
pub const NAMES: [&str; 4] = ["localhost", "127.0.0.1", "::1", "host.docker.internal"];

/// Ten years, two leap days among them or three.
const LIFE: Duration = Duration::from_secs(3_652 * 24 * 60 * 60);

/// Clocks of clients may be behind ours.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

/// A certificate and its key (ECDSA, P-256), in PEM.
///
/// # Errors
///
/// When there is no randomness to be had.
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
