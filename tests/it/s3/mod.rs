//! Pulls with a bucket.

/// Pulls with a bucket alone and with a bucket behind the local store.
mod pulls;

/// Access to content of a shared bucket.
mod access;

/// Buckets that fail, lose objects or return wrong bytes.
mod faults;

/// Content of a bucket over every protocol and under every access rule.
mod front;

/// TLS with the storage engine.
mod certificates;
