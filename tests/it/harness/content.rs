//! Generated content of any size, known without storage.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use sha2::{Digest as _, Sha256, Sha512};

/// Pseudo-random content: a function of seed and offset.
///
/// The content consists of blocks of [`BLOCK`] bytes. Each block is a window, at a pseudo-random
/// position, into a shared pool of random bytes. A comparison of received bytes is thus a `memcmp`
/// without any generation. In an unoptimised test, a hundred clients can check a quarter of a
/// gigabyte each.
#[derive(Clone)]
pub struct PseudoRandom {
    pub seed: u64,
    pub size: u64,
    pool: Arc<[u8]>,
}

const BLOCK: u64 = 64 * 1024;
const POOL: u64 = 1024 * 1024;

/// The finaliser of splitmix64.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl PseudoRandom {
    pub fn new(seed: u64, size: u64) -> Self {
        static POOL_BYTES: OnceLock<Arc<[u8]>> = OnceLock::new();
        let pool = POOL_BYTES.get_or_init(|| {
            (0..POOL / 8)
                .flat_map(|i| mix(i.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1).to_le_bytes())
                .collect()
        });
        PseudoRandom {
            seed,
            size,
            pool: pool.clone(),
        }
    }

    /// Returns the longest piece of content from `offset` on within a single window. Empty at the
    /// end.
    fn piece(&self, offset: u64) -> &[u8] {
        if offset >= self.size {
            return &[];
        }
        let block = offset / BLOCK;
        let within = offset % BLOCK;
        let len = (BLOCK - within).min(self.size - offset);
        let start = mix(self.seed ^ mix(block)) % (POOL - BLOCK) + within;
        &self.pool[start as usize..(start + len) as usize]
    }

    pub fn read_at(&self, mut offset: u64, mut into: &mut [u8]) {
        while !into.is_empty() {
            let piece = self.piece(offset);
            assert!(!piece.is_empty(), "a read past the end of the content");
            let n = piece.len().min(into.len());
            into[..n].copy_from_slice(&piece[..n]);
            into = &mut into[n..];
            offset += n as u64;
        }
    }

    /// Compares `bytes` with the content at `offset`. Returns the offset of the first difference as
    /// an error.
    pub fn compare(&self, mut offset: u64, mut bytes: &[u8]) -> Result<(), u64> {
        while !bytes.is_empty() {
            let piece = self.piece(offset);
            let n = piece.len().min(bytes.len());
            if n == 0 {
                return Err(offset);
            }
            if piece[..n] != bytes[..n] {
                let at = (0..n).find(|&i| piece[i] != bytes[i]).unwrap_or(0);
                return Err(offset + at as u64);
            }
            bytes = &bytes[n..];
            offset += n as u64;
        }
        Ok(())
    }

    /// Returns `sha256:<hex>` of the complete content. Computed once per seed and size.
    pub fn digest(&self) -> String {
        static KNOWN: Mutex<Option<HashMap<(u64, u64), String>>> = Mutex::new(None);
        let key = (self.seed, self.size);
        if let Some(known) = KNOWN.lock().unwrap().get_or_insert_default().get(&key) {
            return known.clone();
        }
        let mut hasher = Sha256::new();
        let mut offset = 0;
        while offset < self.size {
            let piece = self.piece(offset);
            hasher.update(piece);
            offset += piece.len() as u64;
        }
        let digest = format!("sha256:{}", hex(&hasher.finalize()));
        KNOWN
            .lock()
            .unwrap()
            .get_or_insert_default()
            .insert(key, digest.clone());
        digest
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut all = vec![0; self.size as usize];
        self.read_at(0, &mut all);
        all
    }
}

/// Bytes that the fake registry serves, either given or generated.
#[derive(Clone)]
pub enum Content {
    Bytes(Arc<[u8]>),
    PseudoRandom(PseudoRandom),
}

impl Content {
    pub fn size(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::PseudoRandom(content) => content.size,
        }
    }

    pub fn read_at(&self, offset: u64, into: &mut [u8]) {
        match self {
            Content::Bytes(bytes) => into.copy_from_slice(&bytes[offset as usize..][..into.len()]),
            Content::PseudoRandom(content) => content.read_at(offset, into),
        }
    }

    pub fn digest(&self) -> String {
        match self {
            Content::Bytes(bytes) => sha256(bytes),
            Content::PseudoRandom(content) => content.digest(),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Content::Bytes(bytes) => bytes.to_vec(),
            Content::PseudoRandom(content) => content.bytes(),
        }
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Content::Bytes(bytes.into())
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Content::Bytes(bytes.into())
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Content::Bytes(text.as_bytes().into())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Content::Bytes(text.into_bytes().into())
    }
}

impl From<PseudoRandom> for Content {
    fn from(content: PseudoRandom) -> Self {
        Content::PseudoRandom(content)
    }
}

/// Returns `sha256:<hex>` of `bytes`.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Returns `sha512:<hex>` of `bytes`.
pub fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex(&Sha512::digest(bytes)))
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_content_is_the_same_however_it_is_read() {
        let content = PseudoRandom::new(7, 3 * BLOCK + 17);
        let all = content.bytes();
        assert_eq!(sha256(&all), content.digest());
        for (offset, len) in [(0, 1), (BLOCK - 1, 2), (5, 2 * BLOCK as usize), (3 * BLOCK, 17)] {
            let mut part = vec![0; len];
            content.read_at(offset, &mut part);
            assert_eq!(part, all[offset as usize..][..len]);
            assert_eq!(content.compare(offset, &part), Ok(()));
            part[len - 1] ^= 1;
            assert_eq!(content.compare(offset, &part), Err(offset + len as u64 - 1));
        }
        assert_eq!(
            content.compare(content.size - 1, &[all[all.len() - 1], 0]),
            Err(content.size),
            "the body exceeds the content"
        );
        assert_ne!(
            PseudoRandom::new(8, BLOCK).bytes(),
            PseudoRandom::new(9, BLOCK).bytes()
        );
    }
}
