//! Descriptors that were open at the start of the process.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor that systemd passes (`sd_listen_fds(3)`).
const FIRST: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes ownership of the `count` descriptors that systemd has opened for this process. Programs
/// that the process starts do not inherit them. Must be called once, before the process opens
/// descriptors. A second call returns an error.
///
/// # Errors
///
/// A descriptor is not open, or the descriptors were already taken.
pub fn take_inherited(count: usize) -> io::Result<Vec<OwnedFd>> {
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Err(io::Error::other("the inherited descriptors were already taken"));
    }
    let count = RawFd::try_from(count).unwrap_or(RawFd::MAX - FIRST);
    (FIRST..FIRST + count)
        .map(|number| {
            // Checked before taking ownership, because an `OwnedFd` must be open.
            if !std::path::Path::new(&format!("/proc/self/fd/{number}")).exists() {
                let text = format!("descriptor {number} is not open");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            // SAFETY: the descriptor is open, as checked above, and has no other owner. systemd has
            // passed the descriptor to this process, and the process has opened no other descriptor
            // under that number. `TAKEN` prevents a second call.
            let fd = unsafe { OwnedFd::from_raw_fd(number) };
            rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
            Ok(fd)
        })
        .collect()
}
