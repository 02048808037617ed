//! Reads of committed files at offsets.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;

use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// Reads the bytes at `offset` that the page cache holds, at most the length of `bytes`. Returns 0
/// at the end of the file, and `None` if the first byte requires a wait. File systems without
/// `RWF_NOWAIT` always return `None`.
pub fn read_resident(file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        return match preadv2(
            file,
            &mut [IoSliceMut::new(&mut *bytes)],
            offset,
            ReadWriteFlags::NOWAIT,
        ) {
            Ok(read) => Ok(Some(read)),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error.into()),
        };
    }
}

/// Reads exactly `len` bytes at `offset`. Blocking; not for a core.
pub fn read_exact_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}
