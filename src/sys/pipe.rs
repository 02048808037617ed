//! A pipe that moves references to pages from a file to a socket.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::limits::{IDLE_PIPES_MAX, PIPE_BYTES, PIPES_MAX};

/// An empty pipe of [`Pipe::capacity`] bytes, or a pipe with `held` bytes of a body.
///
/// Belongs to one response at a time. Returns to the pool of its core only if drained, and is
/// otherwise closed.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
    held: usize,
    _place: Place,
}

thread_local! {
    static IDLE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
    /// The number of pipes of this core, including idle pipes.
    static COUNT: Arc<AtomicUsize> = Arc::default();
}

/// The count of one pipe of a core. A pipe may be dropped on the helper thread that fills it.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take() -> io::Result<Self> {
        // Only this core increments the count.
        let place = COUNT.with(|count| {
            (count.load(Ordering::Relaxed) < PIPES_MAX).then(|| {
                count.fetch_add(1, Ordering::Relaxed);
                Place(count.clone())
            })
        });
        place.ok_or_else(|| Errno::MFILE.into())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pipe {
    /// Takes an idle pipe of this core or creates one.
    ///
    /// # Errors
    ///
    /// Exhausted descriptors, exhausted pipe budget of an unprivileged user, or [`PIPES_MAX`]
    /// pipes. The caller then uses `sendfile`.
    pub fn take() -> io::Result<Self> {
        if let Some(pipe) = IDLE.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let place = Place::take()?;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let capacity = fcntl_setpipe_size(&write, PIPE_BYTES)?;
        Ok(Pipe {
            read,
            write,
            capacity,
            held: 0,
            _place: place,
        })
    }

    /// Returns the pipe to the pool of this core.
    pub fn put_back(self) {
        if self.held == 0 {
            IDLE.with_borrow_mut(|idle| {
                if idle.len() < IDLE_PIPES_MAX {
                    idle.push(self);
                }
            });
        }
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns the number of bytes in the pipe.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves up to `len` bytes of `file` at `offset` into the pipe. Waits for the disk if pages are
    /// not in memory. Returns 0 at the end of the file.
    pub fn fill(&mut self, file: &File, offset: u64, len: usize) -> io::Result<usize> {
        let mut offset = offset;
        loop {
            match splice(
                file,
                Some(&mut offset),
                &self.write,
                None,
                len,
                SpliceFlags::NONBLOCK,
            ) {
                Ok(moved) => {
                    self.held += moved;
                    return Ok(moved);
                }
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Moves at most `max` bytes from the pipe to a non-blocking socket. Returns `WouldBlock` if the
    /// socket accepts no bytes now.
    pub(super) fn drain_to(&mut self, socket: impl AsFd, max: u64, more: bool) -> io::Result<usize> {
        let len = self.held.min(usize::try_from(max).unwrap_or(usize::MAX));
        let flags = SpliceFlags::NONBLOCK
            | if more || len < self.held {
                SpliceFlags::MORE
            } else {
                SpliceFlags::empty()
            };
        loop {
            match splice(&self.read, None, &socket, None, len, flags) {
                Ok(moved) => {
                    self.held -= moved;
                    return Ok(moved);
                }
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_per_core_are_limited_and_returned_pipes_are_reusable() {
        let mut pipes: Vec<Pipe> = (0..PIPES_MAX).map(|_| Pipe::take().unwrap()).collect();
        assert_eq!(
            Pipe::take().unwrap_err().raw_os_error(),
            Some(Errno::MFILE.raw_os_error())
        );
        // A pipe may be dropped on any thread.
        let one = pipes.pop();
        std::thread::spawn(move || drop(one)).join().unwrap();
        pipes.push(Pipe::take().unwrap());
        assert!(Pipe::take().is_err());
        pipes.pop().unwrap().put_back();
        pipes.push(Pipe::take().unwrap());
        assert!(Pipe::take().is_err());
    }
}
