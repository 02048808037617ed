//! Descriptors that were open when the process began.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor that systemd passes (`sd_listen_fds(3)`).
const FIRST: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes over the `count` descriptors that systemd has opened for this process. They are not passed on to programs we
/// start. To be called before anything else opens descriptors, and once: a second call gets an error.
///
/// # Errors
///
/// One of them is not open, or they were taken.
pub fn take_inherited(count: usize) -> io::Result<Vec<OwnedFd>> {
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Err(io::Error::other("the descriptors were taken over already"));
    }
    let count = RawFd::try_from(count).unwrap_or(RawFd::MAX - FIRST);
    (FIRST..FIRST + count)
        .map(|number| {
            // Asked before anybody owns it: an `OwnedFd` must be open.
            if !std::path::Path::new(&format!("/proc/self/fd/{number}")).exists() {
                let text = format!("descriptor {number} is not open");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            // SAFETY: open, as was just seen, and ours alone: systemd has passed it to this process, which has
            // opened nothing of its own under that number, and `TAKEN` keeps anybody from taking it twice.
            let fd = unsafe { OwnedFd::from_raw_fd(number) };
            rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
            Ok(fd)
        })
        .collect()
}
