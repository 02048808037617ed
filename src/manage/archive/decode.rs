//! Decompresses an archive.

use std::io::{self, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use super::ArchiveError;
use crate::limits::{ARCHIVE_EXPANSION_FREE_BYTES, ARCHIVE_EXPANSION_MAX, ARCHIVE_ZSTD_WINDOW_LOG_MAX};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Bytes that are read from the compressed file at once.
const READ_BYTES: usize = 256 * 1024;

/// Returns a reader of the decompressed bytes of `source`. A file with another first bytes than gzip and
/// zstd is returned as it is.
///
/// # Errors
///
/// `source` cannot be read. A later read fails with [`ArchiveError::Expansion`] for a compression bomb.
pub fn decoded(mut source: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut first = [0; ZSTD.len()];
    let mut length = 0;
    while length < first.len() {
        match source.read(&mut first[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let is_gzip = first[..length].starts_with(&GZIP);
    let is_zstd = first[..length].starts_with(&ZSTD);
    let whole = Cursor::new(first).take(length as u64).chain(source);
    if !is_gzip && !is_zstd {
        return Ok(Box::new(whole));
    }
    let encoded = Arc::new(AtomicU64::new(0));
    let counted = Counted {
        source: whole,
        count: encoded.clone(),
    };
    let counted = BufReader::with_capacity(READ_BYTES, counted);
    let decoder: Box<dyn Read + Send> = match is_gzip {
        true => Box::new(MultiGzDecoder::new(counted)),
        false => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(counted)?;
            decoder.window_log_max(ARCHIVE_ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    };
    Ok(Box::new(Bounded {
        decoder,
        encoded,
        decoded: 0,
    }))
}

/// Counts the bytes of a compressed file.
struct Counted<R> {
    source: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.count.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

/// Ends a decompression that yields too many bytes for its input.
struct Bounded {
    decoder: Box<dyn Read + Send>,
    encoded: Arc<AtomicU64>,
    decoded: u64,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.decoder.read(buffer)?;
        self.decoded += length as u64;
        let encoded = self.encoded.load(Ordering::Relaxed);
        let decoded_max =
            ARCHIVE_EXPANSION_FREE_BYTES.saturating_add(encoded.saturating_mul(ARCHIVE_EXPANSION_MAX));
        match self.decoded <= decoded_max {
            true => Ok(length),
            false => Err(io::Error::other(ArchiveError::Expansion)),
        }
    }
}
