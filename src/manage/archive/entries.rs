//! The entries of a tar file, one after another.

use std::io::{self, Read};

use tar::PaxExtensions;

use super::header::{BLOCK, HeaderKind, ParsedHeader};
use super::{ArchiveError, inside, resolved};
use crate::limits::{ARCHIVE_ENTRIES_MAX, ARCHIVE_EXTENSION_BYTES_MAX, ARCHIVE_TAIL_BYTES_MAX};

/// The entries of a tar file. The content of an entry is read before the next entry.
pub struct Entries<R> {
    source: R,
    /// Bytes so far.
    at: u64,
    /// Bytes of the content of the last entry that were not read.
    content_left: u64,
    /// Bytes behind the content, up to the next header.
    padding: u64,
    count: usize,
}

/// A file or a link of an archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The path inside the archive, with normal components only.
    pub path: String,
    pub kind: EntryKind,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryKind {
    File {
        /// Bytes.
        size: u64,
    },
    /// A link to another path inside the archive.
    Link { target: String },
    /// A directory, a device, a link to the outside, or a name that is no UTF-8. The entry has no meaning for images.
    Ignored,
}

/// The fields that extensions set for the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
}

impl<R: Read> Entries<R> {
    pub fn new(source: R) -> Self {
        Entries {
            source,
            at: 0,
            content_left: 0,
            padding: 0,
            count: 0,
        }
    }

    /// Returns the next entry. `None` at the end of the archive.
    ///
    /// # Errors
    ///
    /// The archive is damaged, or has an entry that no archive of images has.
    pub fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut extended = Extended::default();
        loop {
            self.skip_content()?;
            let at = self.at;
            let Some(block) = self.header()? else {
                return Ok(None);
            };
            self.count += 1;
            if self.count > ARCHIVE_ENTRIES_MAX {
                return Err(ArchiveError::TooManyEntries);
            }
            let header = ParsedHeader::parse(&block, at)?;
            self.expect(header.size);
            match header.kind {
                HeaderKind::LongName => extended.path = Some(self.text()?),
                HeaderKind::LongLink => extended.target = Some(self.text()?),
                HeaderKind::Extension => extended.add(&self.extension()?, at)?,
                // The fields of all entries, such as a comment of git, say nothing about images.
                HeaderKind::GlobalExtension => drop(self.extension()?),
                kind => return self.entry(kind, header, extended).map(Some),
            }
        }
    }

    /// Reads the content of the entry. Returns 0 at its end.
    ///
    /// # Errors
    ///
    /// The archive ends early, or cannot be read.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let wanted = usize::try_from(self.content_left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let length = self.read_some(&mut buffer[..wanted])?;
        if length == 0 {
            return Err(ArchiveError::Truncated(self.at));
        }
        self.content_left -= length as u64;
        Ok(length)
    }

    /// Reads the rest of the source after the end of the archive. The check of a compressed file is at
    /// its end.
    ///
    /// # Errors
    ///
    /// The rest cannot be read, or has more than [`ARCHIVE_TAIL_BYTES_MAX`].
    pub fn finish(mut self) -> Result<(), ArchiveError> {
        let mut buffer = [0; 16 * 1024];
        let mut tail = 0;
        loop {
            match self.read_some(&mut buffer)? {
                0 => return Ok(()),
                length => tail += length as u64,
            }
            if tail > ARCHIVE_TAIL_BYTES_MAX {
                return Err(ArchiveError::Tail);
            }
        }
    }

    fn entry(
        &mut self,
        kind: HeaderKind,
        header: ParsedHeader,
        extended: Extended,
    ) -> Result<Entry, ArchiveError> {
        let mut size = header.size;
        let has_content = matches!(kind, HeaderKind::File | HeaderKind::Other { has_content: true });
        if let Some(extended) = extended.size.filter(|_| has_content) {
            size = extended;
            self.expect(size);
        }
        let path = extended.path.unwrap_or(header.path);
        let Ok(text) = std::str::from_utf8(&path) else {
            return Ok(Entry {
                path: String::new(),
                kind: EntryKind::Ignored,
            });
        };
        let path = inside(text).ok_or_else(|| ArchiveError::Outside(text.chars().take(200).collect()))?;
        let target = extended.target.unwrap_or(header.target);
        let target = std::str::from_utf8(&target).ok();
        let target = match kind {
            HeaderKind::Symlink => target.and_then(|target| resolved(&path, target)),
            HeaderKind::Hardlink => target.and_then(inside),
            _ => None,
        };
        let kind = match (kind, target) {
            (HeaderKind::File, _) => EntryKind::File { size },
            (HeaderKind::Symlink | HeaderKind::Hardlink, Some(target)) => EntryKind::Link { target },
            _ => EntryKind::Ignored,
        };
        Ok(Entry { path, kind })
    }

    /// Notes the size of the content that follows.
    fn expect(&mut self, size: u64) {
        self.content_left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    fn skip_content(&mut self) -> Result<(), ArchiveError> {
        let mut left = self.content_left + self.padding;
        (self.content_left, self.padding) = (0, 0);
        let mut buffer = [0; 16 * 1024];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            match self.read_some(&mut buffer[..wanted])? {
                0 => return Err(ArchiveError::Truncated(self.at)),
                length => left -= length as u64,
            }
        }
        Ok(())
    }

    /// Returns the next header. `None` at the end: two blocks of zeros, or no further byte.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, ArchiveError> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        let at = self.at;
        match self.block()? {
            None => Ok(None),
            Some(block) if block == [0; BLOCK] => Ok(None),
            Some(_) => Err(ArchiveError::Header(at)),
        }
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, ArchiveError> {
        let mut block = [0; BLOCK];
        let mut length = 0;
        while length < BLOCK {
            match self.read_some(&mut block[length..])? {
                0 if length == 0 => return Ok(None),
                0 => return Err(ArchiveError::Truncated(self.at)),
                more => length += more,
            }
        }
        Ok(Some(block))
    }

    /// Reads the content of an extension.
    fn extension(&mut self) -> Result<Vec<u8>, ArchiveError> {
        if self.content_left > ARCHIVE_EXTENSION_BYTES_MAX {
            return Err(ArchiveError::LongExtension);
        }
        let mut bytes = Vec::new();
        let mut buffer = [0; BLOCK];
        loop {
            match self.read(&mut buffer)? {
                0 => return Ok(bytes),
                length => bytes.extend_from_slice(&buffer[..length]),
            }
        }
    }

    /// Reads a name that ends with a zero byte.
    fn text(&mut self) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = self.extension()?;
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        bytes.truncate(end);
        Ok(bytes)
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        loop {
            match self.source.read(buffer) {
                Ok(length) => {
                    self.at += length as u64;
                    return Ok(length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(ArchiveError::Truncated(self.at));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Extended {
    /// Adds the records of an extended header.
    fn add(&mut self, records: &[u8], at: u64) -> Result<(), ArchiveError> {
        let invalid = || ArchiveError::Field {
            at,
            field: "extension",
        };
        for record in PaxExtensions::new(records) {
            let record = record.map_err(|_| invalid())?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.target = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    let size = size.filter(|size: &u64| i64::try_from(*size).is_ok());
                    self.size = Some(size.ok_or_else(invalid)?);
                }
                key if key.starts_with(b"GNU.sparse.") => return Err(ArchiveError::Sparse),
                _ => {}
            }
        }
        Ok(())
    }
}
