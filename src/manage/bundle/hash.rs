//! Hashes a stream of chunks. A large stream is hashed on a second thread, beside the write of the chunks.

use std::io;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use crossbeam_channel::{Sender, bounded};

use crate::limits::{EXPORT_CHUNK_BYTES, EXPORT_CHUNKS_WAITING_MAX};
use crate::oci::{Algorithm, Digest, Hasher};

/// A running hash. A drop without [`ParallelHasher::finish`] ends the thread.
pub(super) struct ParallelHasher {
    chunks: Sender<Bytes>,
    thread: JoinHandle<Digest>,
}

impl ParallelHasher {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The thread cannot be created.
    pub fn start(algorithm: Algorithm) -> io::Result<Self> {
        let (chunks, received) = bounded::<Bytes>(EXPORT_CHUNKS_WAITING_MAX);
        let thread = thread::Builder::new().name("export-hash".into()).spawn(move || {
            let mut hasher = Hasher::new(algorithm);
            for chunk in received {
                hasher.update(&chunk);
            }
            hasher.finish()
        })?;
        Ok(ParallelHasher { chunks, thread })
    }

    /// Adds a chunk. Blocks while [`EXPORT_CHUNKS_WAITING_MAX`] chunks wait.
    pub fn update(&self, chunk: Bytes) {
        // The send fails only after a panic of the thread, which `finish` reports.
        let _ = self.chunks.send(chunk);
    }

    /// Returns the digest of all chunks.
    ///
    /// # Errors
    ///
    /// The thread has panicked.
    pub fn finish(self) -> io::Result<Digest> {
        drop(self.chunks);
        let joined = self.thread.join();
        joined.map_err(|_panic| io::Error::other("the hash thread panicked, which is a bug"))
    }
}

/// The hash of one object.
pub(super) enum ObjectHasher {
    /// A thread costs more than the hash of an object of one chunk.
    Here(Hasher),
    Beside(ParallelHasher),
}

impl ObjectHasher {
    /// Starts the hash of an object of `size` bytes.
    ///
    /// # Errors
    ///
    /// The thread cannot be created.
    pub fn start(algorithm: Algorithm, size: u64) -> io::Result<Self> {
        Ok(match size <= EXPORT_CHUNK_BYTES as u64 {
            true => ObjectHasher::Here(Hasher::new(algorithm)),
            false => ObjectHasher::Beside(ParallelHasher::start(algorithm)?),
        })
    }

    pub fn update(&mut self, chunk: &Bytes) {
        match self {
            ObjectHasher::Here(hasher) => hasher.update(chunk),
            ObjectHasher::Beside(hasher) => hasher.update(chunk.clone()),
        }
    }

    /// Returns the digest of all chunks.
    ///
    /// # Errors
    ///
    /// The thread has panicked.
    pub fn finish(self) -> io::Result<Digest> {
        match self {
            ObjectHasher::Here(hasher) => Ok(hasher.finish()),
            ObjectHasher::Beside(hasher) => hasher.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_that_of_all_chunks_in_order() {
        let content: Vec<u8> = (0..300_000_u32).map(|n| (n * 7) as u8).collect();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let hasher = ParallelHasher::start(algorithm).unwrap();
            content
                .chunks(1_009)
                .for_each(|chunk| hasher.update(Bytes::copy_from_slice(chunk)));
            assert_eq!(hasher.finish().unwrap(), Digest::of(algorithm, &content));
        }
    }
}
