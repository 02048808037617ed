//! Signals to this process, which the main thread handles.

use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use super::change::Change;

/// Logs the request of `change`, and sends `signal` to this process.
///
/// # Errors
///
/// The kernel rejects the signal. A process may signal itself.
pub fn send_signal(change: &Change, signal: Signal) -> Result<(), Errno> {
    change.requested(None);
    kill_process(getpid(), signal)
}
