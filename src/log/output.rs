//! The outputs of the log: standard error, or a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::PIPE_BUF;

/// The mode of a new log file: the group may read.
const FILE_MODE: u32 = 0o640;

/// A place for log lines.
pub(super) trait Output {
    /// Writes a part of `text`, and returns its length.
    ///
    /// # Errors
    ///
    /// Nothing was written.
    fn write(&mut self, text: &[u8]) -> io::Result<usize>;

    /// Opens the file again by its path, after a rotation.
    ///
    /// # Errors
    ///
    /// The file cannot be opened. The earlier file stays in use.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Returns whether the output ended within a line when it was opened.
    fn was_torn(&self) -> bool {
        false
    }
}

/// Standard error without the lock of [`io::stderr`], which would be held during a write.
pub(super) struct Stderr;

impl Output for Stderr {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let stderr = rustix::stdio::stderr();
        loop {
            match rustix::io::write(stderr, text) {
                // `O_NONBLOCK` belongs to the open file, so another process with the file may have
                // set the flag.
                Err(rustix::io::Errno::AGAIN) => {
                    let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
                    match poll(&mut ready, None) {
                        Ok(_) | Err(rustix::io::Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                outcome => return Ok(outcome?),
            }
        }
    }
}

/// Writes `text` to standard error without a thread. Waits for the reader for `limit` at most, and
/// drops the rest.
pub(super) fn write_to_stderr(text: &[u8], limit: Duration) {
    let stderr = rustix::stdio::stderr();
    let deadline = Instant::now() + limit;
    let mut rest = text;
    while !rest.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        // A limit of seconds fits in a `Timespec`.
        let Ok(left) = Timespec::try_from(left) else {
            return;
        };
        let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
        match poll(&mut ready, Some(&left)) {
            Ok(0) => return,
            Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        // A ready pipe takes `PIPE_BUF` bytes without waiting.
        let chunk = &rest[..rest.len().min(PIPE_BUF)];
        match rustix::io::write(stderr, chunk) {
            Ok(written) => rest = &rest[written..],
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(_) => return,
        }
    }
}

/// A file to which lines are appended.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    was_torn: bool,
}

impl LogFile {
    /// Opens the file at `path`, or creates the file with mode 0640.
    ///
    /// # Errors
    ///
    /// The error of the system call.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = append(path)?;
        Ok(LogFile {
            path: path.to_owned(),
            was_torn: is_torn(path, &file).unwrap_or(false),
            file,
        })
    }
}

/// Opens a file or a named pipe. A named pipe without a reader is an error (`ENXIO`), and would
/// otherwise block the start.
fn append(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    // The log thread may wait in a write.
    fcntl_setfl(&file, OFlags::APPEND)?;
    Ok(file)
}

/// Returns whether the regular file `file` at `path` ends within a line, for example after a loss
/// of power.
fn is_torn(path: &Path, file: &File) -> io::Result<bool> {
    let found = file.metadata()?;
    if !found.is_file() || found.len() == 0 {
        return Ok(false);
    }
    // `file` is open for writing only.
    let mut last = [0];
    File::open(path)?.read_exact_at(&mut last, found.len() - 1)?;
    Ok(last != *b"\n")
}

impl Output for LogFile {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.file.write(text)
    }

    fn reopen(&mut self) -> io::Result<()> {
        *self = LogFile::open(&self.path)?;
        Ok(())
    }

    fn was_torn(&self) -> bool {
        self.was_torn
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use rustix::fs::{CWD, FileType, Mode, fcntl_getfl, mknodat};
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn file_is_torn_if_its_last_byte_is_no_newline() {
        let path = std::env::temp_dir().join(format!("log-output-torn-{}", std::process::id()));
        for (text, torn) in [("", false), ("one\n", false), ("one\ntw", true)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(LogFile::open(&path).unwrap().was_torn(), torn, "{text:?}");
        }
        let mut log = LogFile::open(&path).unwrap();
        std::fs::write(&path, "three\n").unwrap();
        log.reopen().unwrap();
        assert!(!log.was_torn());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn named_pipe_needs_a_reader_when_it_is_opened() {
        let path = std::env::temp_dir().join(format!("log-output-pipe-{}", std::process::id()));
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let error = LogFile::open(&path).map(drop).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NXIO.raw_os_error()));

        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let mut reader = OpenOptions::new()
            .read(true)
            .custom_flags(nonblocking)
            .open(&path)
            .unwrap();
        let mut log = LogFile::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!fcntl_getfl(&log.file).unwrap().contains(OFlags::NONBLOCK));
        assert_eq!(log.write(b"line\n").unwrap(), 5);
        let mut text = [0; 5];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"line\n");
    }
}
