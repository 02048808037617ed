//! Open files of content, shared between threads. A separate thread closes large files.
//!
//! The last close of a file without a name frees the pages and the blocks of the file. On ext4, the
//! close takes 55 ms per GiB, and on tmpfs 115 ms. A core that closes such a file serves no other
//! connection meanwhile. A file may lose its name at any time, so the name is not examined.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;

use crossbeam_channel::{Sender, unbounded};
use rustix::fs::{AtFlags, StatxFlags, statx};

use crate::limits::CLOSE_AT_ONCE_BYTES_MAX;

/// The files for the closing thread. Each waiting file keeps its descriptor, so the limit on
/// descriptors also limits the queue.
static CLOSING: OnceLock<Sender<File>> = OnceLock::new();

/// An open file. Clones share the descriptor. The drop of the last clone never waits for the
/// release of a large file.
#[derive(Clone, Debug)]
pub struct SharedFile(Arc<Handle>);

/// A reference that does not keep the file open.
#[derive(Debug, Default)]
pub struct WeakFile(Weak<Handle>);

/// `None` only during the drop.
#[derive(Debug)]
struct Handle(Option<File>);

/// Starts the thread that closes large files. The thread has the CPU affinity of the caller and
/// runs until the process ends. Without the thread, a drop closes its file.
///
/// # Errors
///
/// Fails if the thread cannot be created.
pub fn start_closing_thread() -> io::Result<()> {
    let (sender, files) = unbounded::<File>();
    thread::Builder::new()
        .name("file-closer".into())
        .spawn(move || files.into_iter().for_each(drop))?;
    // A thread of an earlier call continues. The new thread then ends.
    let _ = CLOSING.set(sender);
    Ok(())
}

impl SharedFile {
    pub fn new(file: File) -> Self {
        SharedFile(Arc::new(Handle(Some(file))))
    }

    /// Returns the address of the shared handle. No other file has the address while a
    /// [`WeakFile`] of this file exists.
    pub fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Returns whether both values share one descriptor.
    pub fn is_clone_of(&self, other: &SharedFile) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub fn downgrade(&self) -> WeakFile {
        WeakFile(Arc::downgrade(&self.0))
    }
}

impl Deref for SharedFile {
    type Target = File;

    fn deref(&self) -> &File {
        self.0.0.as_ref().expect("a handle has its file until the drop")
    }
}

impl WeakFile {
    /// Returns whether `file` shares the handle of this reference.
    pub fn is(&self, file: &SharedFile) -> bool {
        self.0.as_ptr() == Arc::as_ptr(&file.0)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(file) = self.0.take()
            && is_large(&file)
            && let Some(closing) = CLOSING.get()
        {
            // After an error, the drop of the error closes the file.
            let _ = closing.send(file);
        }
    }
}

/// Returns whether the close of `file` may take long. Does not contact a network file system.
fn is_large(file: &File) -> bool {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    statx(file, c"", flags, StatxFlags::SIZE).is_ok_and(|found| found.stx_size > CLOSE_AT_ONCE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use std::os::linux::fs::MetadataExt as _;

    use super::*;

    fn unnamed(name: &str, size: u64) -> SharedFile {
        let path = std::env::temp_dir().join(format!("shared-file-{name}-{}", std::process::id()));
        let file = File::create_new(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(size).unwrap();
        SharedFile::new(file)
    }

    #[test]
    fn last_drop_of_a_large_file_leaves_the_close_to_another_thread() {
        let (sender, closing) = unbounded();
        CLOSING.set(sender).unwrap();
        let small = unnamed("small", CLOSE_AT_ONCE_BYTES_MAX);
        let large = unnamed("large", CLOSE_AT_ONCE_BYTES_MAX + 1);
        let number = |file: &File| file.metadata().unwrap().st_ino();
        let (number_of_small, number_of_large) = (number(&small), number(&large));
        // Other tests of the process may also leave files.
        let left = |wanted| closing.try_iter().any(|file| number(&file) == wanted);
        drop(small);
        assert!(!left(number_of_small), "the drop closes a small file");
        let (clone, weak) = (large.clone(), large.downgrade());
        assert!(weak.is(&clone));
        drop(large);
        assert!(!left(number_of_large), "a clone is left");
        drop(clone);
        assert!(left(number_of_large), "the large file is open and waits");
    }
}
