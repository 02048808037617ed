//! Small entries in memory.

use bytes::Bytes;

use super::{Key, Meta, Verified};

/// A verified entry, ready to be stored.
pub struct SmallEntry {
    pub key: Key,
    pub body: Bytes,
    pub meta: Meta,
    pub verified: Verified,
}
