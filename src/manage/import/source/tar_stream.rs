//! A tar file that is made while it is read.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::PathBuf;

use tar::{EntryType, Header};

/// Bytes of a header, and the unit of the content.
const BLOCK: u64 = 512;

/// Bytes of a name in a header, and the name of an entry with a longer name.
const NAME_BYTES: usize = 100;
const LONG_NAME: &str = "././@LongLink";

/// Blocks of zeros at the end.
const END_BYTES: u64 = 2 * BLOCK;

/// A file of the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub name: String,
    pub content: PartContent,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum PartContent {
    Bytes(Vec<u8>),
    File {
        path: PathBuf,
        /// Bytes.
        size: u64,
    },
}

impl Part {
    pub fn bytes(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Part {
            name: name.into(),
            content: PartContent::Bytes(bytes),
        }
    }

    pub fn file(name: impl Into<String>, path: PathBuf, size: u64) -> Self {
        Part {
            name: name.into(),
            content: PartContent::File { path, size },
        }
    }

    fn size(&self) -> u64 {
        match &self.content {
            PartContent::Bytes(bytes) => bytes.len() as u64,
            PartContent::File { size, .. } => *size,
        }
    }
}

/// Reads as a tar file with `parts`. Files are opened one after another.
pub(super) struct TarStream {
    parts: VecDeque<Part>,
    /// The rest of the part that is read.
    current: Box<dyn Read + Send>,
    has_ended: bool,
}

impl TarStream {
    pub fn new(parts: Vec<Part>) -> Self {
        TarStream {
            parts: parts.into(),
            current: Box::new(io::empty()),
            has_ended: false,
        }
    }

    /// Returns the bytes of the whole stream, before its first read.
    pub fn length(&self) -> u64 {
        let parts = self
            .parts
            .iter()
            .map(|part| headers_bytes(&part.name) + part.size().next_multiple_of(BLOCK));
        parts.sum::<u64>() + END_BYTES
    }

    fn begin(&mut self, part: Part) -> io::Result<()> {
        let size = part.size();
        let header = Cursor::new(headers(&part.name, size)?);
        let padding = io::repeat(0).take(size.next_multiple_of(BLOCK) - size);
        self.current = match part.content {
            PartContent::Bytes(bytes) => Box::new(header.chain(Cursor::new(bytes)).chain(padding)),
            PartContent::File { path, size } => {
                let file = ExactFile {
                    file: File::open(&path)?,
                    path,
                    left: size,
                };
                Box::new(header.chain(file).chain(padding))
            }
        };
        Ok(())
    }
}

/// Returns the header of a file, after an entry with its name if the name does not fit the header.
fn headers(name: &str, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let is_long = name.len() > NAME_BYTES;
    if is_long {
        let length = name.len() as u64 + 1;
        bytes.extend_from_slice(&header(LONG_NAME, EntryType::GNULongName, length)?);
        bytes.extend_from_slice(name.as_bytes());
        bytes.resize((BLOCK + length.next_multiple_of(BLOCK)) as usize, 0);
    }
    let shown = if is_long { LONG_NAME } else { name };
    bytes.extend_from_slice(&header(shown, EntryType::Regular, size)?);
    Ok(bytes)
}

fn headers_bytes(name: &str) -> u64 {
    match name.len() > NAME_BYTES {
        true => 2 * BLOCK + (name.len() as u64 + 1).next_multiple_of(BLOCK),
        false => BLOCK,
    }
}

fn header(name: &str, kind: EntryType, size: u64) -> io::Result<[u8; BLOCK as usize]> {
    let mut header = Header::new_gnu();
    header.set_path(name)?;
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    Ok(*header.as_bytes())
}

impl Read for TarStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.current.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            match self.parts.pop_front() {
                Some(part) => self.begin(part)?,
                None if self.has_ended => return Ok(0),
                None => {
                    self.has_ended = true;
                    self.current = Box::new(io::repeat(0).take(END_BYTES));
                }
            }
        }
    }
}

/// The first bytes of a file. A file that has become smaller is an error.
struct ExactFile {
    file: File,
    path: PathBuf,
    left: u64,
}

impl Read for ExactFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let length = self.file.read(&mut buffer[..wanted])?;
        if length == 0 {
            let message = format!("the file {} has become smaller", self.path.display());
            return Err(io::Error::other(message));
        }
        self.left -= length as u64;
        Ok(length)
    }
}
