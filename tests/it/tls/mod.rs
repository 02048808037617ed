//! TLS with clients.

/// Versions, resumption, bodies, and certificates that change.
mod sessions;

/// Client certificates.
mod mtls;

/// TLS records that the kernel encrypts.
mod ktls;

pub use sessions::Pki;
