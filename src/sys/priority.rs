//! The I/O priority of a thread.

/// `IOPRIO_WHO_PROCESS`: the target is a thread. The thread 0 is the calling thread.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;

/// `IOPRIO_CLASS_IDLE` in the place of the class: the disk serves the thread only if no other thread
/// waits for the disk.
const IOPRIO_IDLE: libc::c_int = 3 << 13;

/// Gives the calling thread the idle class of I/O. A failure is ignored, because some sandboxes forbid
/// the call, and many I/O schedulers ignore the class. The CPU priority stays, because other threads
/// wait for locks that the thread holds.
pub fn lower_io_priority() {
    // SAFETY: the call takes three numbers and accesses no memory of the process.
    unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the I/O priority of the calling thread.
    fn io_priority() -> libc::c_long {
        // SAFETY: the call takes two numbers and accesses no memory of the process.
        unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) }
    }

    #[test]
    fn priority_changes_for_the_calling_thread_only() {
        let before = io_priority();
        let lowered = || {
            lower_io_priority();
            io_priority()
        };
        let lowered = std::thread::spawn(lowered).join().unwrap();
        assert_eq!(lowered, libc::c_long::from(IOPRIO_IDLE));
        assert_eq!(io_priority(), before);
    }
}
