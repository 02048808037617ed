//! A pipe that carries references to pages from a file to a socket.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::limits::{IDLE_PIPES_MAX, PIPE_BYTES};

/// An empty pipe of [`Pipe::capacity`] bytes, or one with `held` bytes of a body in it.
///
/// Belongs to one response at a time; given back to its core's pool only when drained, otherwise closed.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
    held: usize,
}

thread_local! {
    static IDLE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

impl Pipe {
    /// Takes an idle pipe of this core or makes one.
    ///
    /// # Errors
    ///
    /// Out of descriptors, or of an unprivileged user's pipe budget; the caller uses `sendfile` then.
    pub fn take() -> io::Result<Self> {
        if let Some(pipe) = IDLE.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let capacity = fcntl_setpipe_size(&write, PIPE_BYTES)?;
        Ok(Pipe {
            read,
            write,
            capacity,
            held: 0,
        })
    }

    /// Gives the pipe back to this core.
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

    /// Bytes waiting in the pipe.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves up to `len` bytes of `file` at `offset` into the pipe; waits for the disk where pages are not
    /// in memory. Gives 0 at the end of the file.
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

    /// Moves what the pipe holds to a non-blocking socket; `WouldBlock` when that takes nothing now.
    pub(super) fn drain_to(&mut self, socket: impl AsFd, more: bool) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK
            | if more {
                SpliceFlags::MORE
            } else {
                SpliceFlags::empty()
            };
        loop {
            match splice(&self.read, None, &socket, None, self.held, flags) {
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
