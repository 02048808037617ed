//! The tar stream of a bundle. Equal entries give equal bytes: headers have no time and no owner.

use std::io::{self, Write};

use bytes::Bytes;
use tar::{EntryType, Header};
use zstd::stream::write::Encoder;

use super::output::Output;
use crate::limits::EXPORT_ZSTD_LEVEL;

/// The mode of files in a bundle.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;

/// The unit of tar: each header, and the padding of each file.
const BLOCK_BYTES: u64 = 512;

/// The end of a tar stream: two empty blocks.
const END_BYTES: usize = 2 * BLOCK_BYTES as usize;

/// A tar stream, compressed or not.
pub(super) enum TarStream {
    Plain(Output),
    Zstd(Box<Encoder<'static, Output>>),
}

impl TarStream {
    pub fn new(output: Output, is_compressed: bool) -> io::Result<Self> {
        Ok(match is_compressed {
            false => TarStream::Plain(output),
            true => TarStream::Zstd(Box::new(Encoder::new(output, EXPORT_ZSTD_LEVEL)?)),
        })
    }

    /// Writes a whole file.
    pub fn file(&mut self, path: &str, content: Bytes) -> io::Result<()> {
        let size = content.len() as u64;
        self.begin_file(path, size)?;
        self.write(content)?;
        self.end_file(size)
    }

    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        self.write(header(path, EntryType::Directory, DIRECTORY_MODE, 0)?)
    }

    /// Begins a file. The caller writes `size` bytes, then calls [`TarStream::end_file`].
    pub fn begin_file(&mut self, path: &str, size: u64) -> io::Result<()> {
        self.write(header(path, EntryType::Regular, FILE_MODE, size)?)
    }

    pub fn end_file(&mut self, size: u64) -> io::Result<()> {
        let padding = size.next_multiple_of(BLOCK_BYTES) - size;
        match padding {
            0 => Ok(()),
            padding => self.write(vec![0; padding as usize].into()),
        }
    }

    pub fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        match self {
            TarStream::Plain(output) => output.write_chunk(chunk),
            TarStream::Zstd(encoder) => encoder.write_all(&chunk),
        }
    }

    /// Writes the end of the stream. Returns the output, whose files have no names yet.
    pub fn finish(mut self) -> io::Result<Output> {
        self.write(vec![0; END_BYTES].into())?;
        match self {
            TarStream::Plain(output) => Ok(output),
            TarStream::Zstd(encoder) => encoder.finish(),
        }
    }
}

fn header(path: &str, kind: EntryType, mode: u32, size: u64) -> io::Result<Bytes> {
    // Sizes from 8 GiB on have the binary form of GNU tar.
    let mut header = Header::new_gnu();
    header.set_path(path)?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(Bytes::copy_from_slice(header.as_bytes()))
}
