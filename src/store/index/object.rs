//! An object of the index, packed into 56 bytes.

use super::ObjectFacts;
use crate::limits::{STORED_LAG_MINUTES, USED_LAG_MINUTES};
use crate::oci::{Digest, DigestPrefix};
use crate::store::eviction::{Kind, Minute, Object};

/// The length of a SHA-256 digest, and of half a SHA-512 digest.
pub const SPLIT_BYTES: usize = 32;

/// The unit of sizes: a page, and the usual block of a file system.
const BLOCK_BYTES: u64 = 4096;

#[derive(Clone, Debug)]
pub struct IndexedObject {
    /// The digest, or the first half of a SHA-512 digest. For a tag: the beginning of the digest that
    /// the tag names.
    digest: [u8; SPLIT_BYTES],
    /// The repository of a manifest or a tag, or the set of the registries of a blob.
    pub repository: u32,
    blocks: u32,
    pub stored: Minute,
    pub used: Minute,
    /// The last use on disk.
    pub saved: Minute,
    /// `None` in a slot without an object.
    kind: Option<Kind>,
    /// [`IS_LONG`], [`IS_VERIFIED`] and [`IS_IN_BUCKET`].
    flags: u8,
    /// The uses in this process. An object of an earlier process with a later use begins with 2.
    uses: u16,
}

const _: () = assert!(size_of::<IndexedObject>() == 56);

/// The digest is a SHA-512 digest.
const IS_LONG: u8 = 1;
/// This process has hashed the content, and the hash matched.
const IS_VERIFIED: u8 = 1 << 1;
/// The bucket surely has the object.
const IS_IN_BUCKET: u8 = 1 << 2;

impl IndexedObject {
    /// Returns the object, and the second half of a SHA-512 digest.
    pub fn new(
        kind: Kind,
        repository: u32,
        digest: &Digest,
        facts: ObjectFacts,
    ) -> (Self, Option<[u8; SPLIT_BYTES]>) {
        let (first, rest) = match digest {
            Digest::Sha256(hash) => (*hash, None),
            Digest::Sha512(hash) => {
                let (first, rest) = hash.split_at(SPLIT_BYTES);
                (half(first), Some(half(rest)))
            }
        };
        let object = IndexedObject {
            digest: first,
            repository,
            blocks: blocks(facts.bytes),
            stored: facts.stored,
            used: facts.used.max(facts.stored),
            saved: facts.used,
            kind: Some(kind),
            flags: if rest.is_some() { IS_LONG } else { 0 },
            uses: 1 + u16::from(facts.used.is_reuse_after(facts.stored)),
        };
        (object, rest)
    }

    pub fn tag(repository: u32, names: DigestPrefix, facts: ObjectFacts) -> Self {
        let mut digest = [0; SPLIT_BYTES];
        digest[..size_of::<u64>()].copy_from_slice(&names.0.to_be_bytes());
        let (object, _) = Self::new(Kind::Tag, repository, &Digest::Sha256(digest), facts);
        object
    }

    pub fn kind(&self) -> Option<Kind> {
        self.kind
    }

    pub fn bytes(&self) -> u64 {
        u64::from(self.blocks) * BLOCK_BYTES
    }

    pub fn prefix(&self) -> DigestPrefix {
        let first = self.digest.first_chunk().expect("a half has 32 bytes");
        DigestPrefix(u64::from_be_bytes(*first))
    }

    /// Returns the digest. `rest` is the second half of a SHA-512 digest, and `None` for SHA-256.
    pub fn digest(&self, rest: Option<&[u8; SPLIT_BYTES]>) -> Digest {
        match rest {
            Some(rest) if self.is_long() => {
                let mut hash = [0; 2 * SPLIT_BYTES];
                hash[..SPLIT_BYTES].copy_from_slice(&self.digest);
                hash[SPLIT_BYTES..].copy_from_slice(rest);
                Digest::Sha512(hash)
            }
            _ => Digest::Sha256(self.digest),
        }
    }

    /// Returns the set of the registries of a blob.
    pub fn source_set(&self) -> u32 {
        self.repository
    }

    pub fn set_source_set(&mut self, set: u32) {
        self.repository = set;
    }

    pub fn is_long(&self) -> bool {
        self.flags & IS_LONG != 0
    }

    /// Returns whether this process has hashed the content, with success.
    pub fn is_verified(&self) -> bool {
        self.flags & IS_VERIFIED != 0
    }

    pub fn set_verified(&mut self, is_verified: bool) {
        self.set_flag(IS_VERIFIED, is_verified);
    }

    /// Returns whether the bucket surely has the object.
    pub fn is_in_bucket(&self) -> bool {
        self.flags & IS_IN_BUCKET != 0
    }

    pub fn set_in_bucket(&mut self, is_in_bucket: bool) {
        self.set_flag(IS_IN_BUCKET, is_in_bucket);
    }

    fn set_flag(&mut self, flag: u8, is_set: bool) {
        self.flags &= !flag;
        if is_set {
            self.flags |= flag;
        }
    }

    pub fn record_use(&mut self, now: Minute) {
        if now.is_another_use(self.used, self.stored) {
            self.uses = self.uses.saturating_add(1);
        }
        self.used = self.used.max(now);
    }

    /// Empties the slot.
    pub fn clear(&mut self) {
        self.kind = None;
        self.blocks = 0;
    }

    /// Returns the object for the eviction policy, with the latest possible times. `started` is the
    /// start of the process.
    pub fn object(&self, started: Minute) -> Option<Object> {
        Some(Object {
            kind: self.kind?,
            bytes: self.bytes(),
            stored: self.stored.plus(STORED_LAG_MINUTES),
            used: self.used.plus(USED_LAG_MINUTES),
            uses: self.uses,
            counted: self.stored.max(started),
            is_in_bucket: self.is_in_bucket(),
        })
    }
}

/// Rounds up. A larger object counts as 16 TiB, the largest file of ext4.
fn blocks(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX)
}

fn half(bytes: &[u8]) -> [u8; SPLIT_BYTES] {
    let mut half = [0; SPLIT_BYTES];
    half.copy_from_slice(bytes);
    half
}
