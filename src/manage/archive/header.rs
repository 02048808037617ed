//! The fields of one tar header (POSIX.1-2024 `pax`, and the GNU format).

use tar::{EntryType, Header};

use super::ArchiveError;

/// Bytes of a header, and the unit of the content.
pub const BLOCK: usize = 512;

/// The type of a file with holes, of old GNU archives.
const SPARSE: u8 = b'S';

/// The kind of an entry with its own header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderKind {
    File,
    Symlink,
    Hardlink,
    /// The name of the next entry.
    LongName,
    /// The target of the next entry.
    LongLink,
    /// Fields of the next entry.
    Extension,
    /// Fields of all following entries.
    GlobalExtension,
    /// Directories, devices and everything else. The content, if any, has no meaning here.
    Other {
        has_content: bool,
    },
}

/// A header with a correct checksum.
#[derive(Debug)]
pub struct ParsedHeader {
    pub kind: HeaderKind,
    /// Bytes of the content by the header. Zero for a kind without content.
    pub size: u64,
    pub path: Vec<u8>,
    pub target: Vec<u8>,
}

impl ParsedHeader {
    /// Parses the header at byte `at`.
    ///
    /// # Errors
    ///
    /// The checksum or the size is wrong, or the entry is a sparse file.
    pub fn parse(block: &[u8; BLOCK], at: u64) -> Result<Self, ArchiveError> {
        let header = Header::from_byte_slice(block);
        if header.cksum().ok() != Some(checksum(block)) {
            return Err(ArchiveError::Header(at));
        }
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous => HeaderKind::File,
            EntryType::Symlink => HeaderKind::Symlink,
            EntryType::Link => HeaderKind::Hardlink,
            EntryType::GNULongName => HeaderKind::LongName,
            EntryType::GNULongLink => HeaderKind::LongLink,
            EntryType::XHeader => HeaderKind::Extension,
            EntryType::XGlobalHeader => HeaderKind::GlobalExtension,
            EntryType::Directory | EntryType::Char | EntryType::Block | EntryType::Fifo => {
                HeaderKind::Other { has_content: false }
            }
            other if other.as_byte() == SPARSE => return Err(ArchiveError::Sparse),
            _ => HeaderKind::Other { has_content: true },
        };
        // Go and GNU tar also ignore the size of these kinds.
        let has_content = !matches!(
            kind,
            HeaderKind::Symlink | HeaderKind::Hardlink | HeaderKind::Other { has_content: false }
        );
        let size = match has_content {
            true => header
                .entry_size()
                .ok()
                .filter(|size| i64::try_from(*size).is_ok()),
            false => Some(0),
        };
        Ok(ParsedHeader {
            kind,
            size: size.ok_or(ArchiveError::Field { at, field: "size" })?,
            path: header.path_bytes().into_owned(),
            target: header
                .link_name_bytes()
                .map_or_else(Vec::new, |name| name.into_owned()),
        })
    }
}

/// Returns the sum of all bytes, with spaces in place of the checksum.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..])
}
