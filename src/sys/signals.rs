//! Signals that a thread blocks.

use std::mem::MaybeUninit;

/// Has the calling thread, and the threads that it starts, block SIGTTOU and SIGTTIN and no other signal. The kernel lets a
/// process in the background of a terminal write to it then, also with `tostop`; otherwise the first line of the log would
/// stop the process. To be called before other threads are started.
///
/// Programs that the process starts block nothing, because the standard library empties their mask. They would inherit an
/// ignored signal.
pub fn block_terminal_stops() {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set that the other calls read, both signals exist, and all pointers are to
    // that set, which lives until the end of the block. A null pointer for the old mask is allowed.
    let code = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTTOU);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTTIN);
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut())
    };
    // The calls fail for signals and operations that do not exist.
    debug_assert_eq!(code, 0);
}
