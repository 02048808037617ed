//! Blocks signals of a thread.

use std::mem::MaybeUninit;

/// Blocks SIGTTOU and SIGTTIN, and no other signal, in the calling thread and all threads that it
/// starts. The kernel then lets a background process write to its terminal even with `tostop`.
/// Otherwise the first log line would stop the process. Must be called before the start of other
/// threads.
///
/// Programs that the process starts block no signals, because the standard library clears their
/// mask. Ignored signals, in contrast, would be inherited.
pub fn block_terminal_stops() {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initializes the set that the other calls read. Both signals exist. All
    // pointers refer to the set, which lives until the end of the block. A null pointer for the old
    // mask is allowed.
    let code = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTTOU);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTTIN);
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut())
    };
    // The calls fail only for invalid signals and operations.
    debug_assert_eq!(code, 0);
}
