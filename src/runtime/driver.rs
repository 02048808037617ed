//! The choice between io_uring and epoll. The driver is probed once at start and logged once.

use std::io;

use io_uring::{IoUring, Probe, opcode};

use crate::limits::{RING_SETUP_ATTEMPTS_MAX, RING_SETUP_RETRY_INTERVAL};

/// The I/O driver in the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IoDriver {
    #[default]
    Auto,
    IoUring,
    Epoll,
}

/// The I/O driver in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    IoUring,
    Epoll,
}

impl Driver {
    pub fn name(self) -> &'static str {
        match self {
            Driver::IoUring => "io_uring",
            Driver::Epoll => "epoll",
        }
    }
}

/// A driver and the reason for its choice.
#[derive(Debug)]
pub struct Choice {
    pub driver: Driver,
    pub why: String,
    /// Whether `auto` fell back to epoll because io_uring is not available. Logged as a warning.
    pub fell_back: bool,
}

/// Submission entries per core. Recent kernels charge rings of unprivileged users to the memlock
/// limit again. A ring of this size takes about 350 KiB, so several fit the 8 MiB limit of common
/// service managers.
pub const RING_ENTRIES: u32 = 1_024;

/// Completion entries per core, one poll per connection. The kernel must buffer any excess.
const RING_COMPLETIONS: u32 = 16_384;

/// Returns the builder of all rings. The owning thread reaps completions on its own calls, the
/// fastest mode in measurements. Kernels before 6.1 do not support these flags and get plain rings.
pub fn ring_builder(modern: bool) -> io_uring::Builder {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(RING_COMPLETIONS);
    if modern {
        builder.setup_single_issuer().setup_defer_taskrun();
    }
    builder
}

/// Creates a ring. Retries on `ENOMEM`, because the kernel releases the locked memory of closed
/// rings late.
pub(super) fn patiently<T>(make: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let mut tries = 0;
    loop {
        match make() {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && tries < RING_SETUP_ATTEMPTS_MAX => {
                tries += 1;
                std::thread::park_timeout(RING_SETUP_RETRY_INTERVAL);
            }
            outcome => return outcome,
        }
    }
}

/// Creates `count` rings and drops them again. Returns whether the modern flags work. All rings
/// exist at the same time, because the memlock limit may allow one ring but not ten.
///
/// # Errors
///
/// Fails if `count` rings cannot be created, or the kernel is older than 5.11.
fn probe(count: usize) -> io::Result<bool> {
    let (first, modern) = match ring_builder(true).build(RING_ENTRIES) {
        Ok(ring) => (ring, true),
        Err(_) => (patiently(|| ring_builder(false).build(RING_ENTRIES))?, false),
    };
    let mut probe = Probe::new();
    first.submitter().register_probe(&mut probe)?;
    let needed = [
        opcode::PollAdd::CODE,
        opcode::AsyncCancel::CODE,
        opcode::Close::CODE,
        opcode::Timeout::CODE,
    ];
    if !needed.iter().all(|&code| probe.is_supported(code)) || !first.params().is_feature_ext_arg() {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel is older than 5.11",
        ));
    }
    let others: Vec<IoUring> = (1..count)
        .map(|_| patiently(|| ring_builder(modern).build(RING_ENTRIES)))
        .collect::<io::Result<_>>()?;
    drop(others);
    Ok(modern)
}

/// Chooses the driver of all `cores` cores. Returns the choice and whether rings use the modern
/// flags.
///
/// # Errors
///
/// Fails if io_uring is required but not available. The text contains the cause and the remedy.
pub fn choose(wanted: IoDriver, cores: usize) -> Result<(Choice, bool), String> {
    if wanted == IoDriver::Epoll {
        let why = "IO_DRIVER=epoll".to_owned();
        return Ok((
            Choice {
                driver: Driver::Epoll,
                why,
                fell_back: false,
            },
            false,
        ));
    }
    match probe(cores) {
        Ok(modern) => {
            let flags = if modern {
                "single issuer, deferred task work"
            } else {
                "plain flags"
            };
            let why = format!("kernel {}, {RING_ENTRIES} entries, {flags}", kernel_release());
            Ok((
                Choice {
                    driver: Driver::IoUring,
                    why,
                    fell_back: false,
                },
                modern,
            ))
        }
        Err(error) => {
            let why = explain(&error);
            if wanted == IoDriver::IoUring {
                return Err(format!(
                    "IO_DRIVER=io_uring, but {why}; IO_DRIVER=auto falls back to epoll"
                ));
            }
            Ok((
                Choice {
                    driver: Driver::Epoll,
                    why,
                    fell_back: true,
                },
                false,
            ))
        }
    }
}

/// Returns the likely cause of a failed setup and its remedy, from the errno and the state of the
/// system.
fn explain(error: &io::Error) -> String {
    let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let seccomp = std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .any(|line| line.starts_with("Seccomp:") && line.ends_with('2'))
    });
    let cause = cause(error.raw_os_error(), sysctl.trim(), seccomp);
    format!("io_uring cannot be used ({error}): {cause}")
}

/// Returns the probable cause and its remedy.
fn cause(errno: Option<i32>, sysctl: &str, seccomp: bool) -> &'static str {
    match errno {
        Some(libc::EPERM) if matches!(sysctl, "1" | "2") => {
            "forbidden by sysctl kernel.io_uring_disabled; set the sysctl to 0, or set kernel.io_uring_group to the group of the process"
        }
        Some(libc::EPERM | libc::ENOSYS) if seccomp => {
            "blocked by a seccomp filter, as Docker 25, containerd 2.0 and podman have by default; run with \
             --security-opt seccomp=deploy/seccomp.json (Kubernetes: seccompProfile Localhost), or allow io_uring_setup, \
             io_uring_enter and io_uring_register"
        }
        Some(libc::ENOSYS) => "this kernel has no io_uring",
        Some(libc::EPERM | libc::EACCES) => {
            "forbidden by the kernel or a security module (SELinux, AppArmor)"
        }
        Some(libc::ENOMEM) => {
            "the memlock limit is too small for one ring per core; raise the limit (LimitMEMLOCK=infinity, --ulimit memlock=-1), or \
             set fewer cores (CORES)"
        }
        _ => "setup failed",
    }
}

fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_io_uring_failure_names_a_remedy() {
        for (errno, sysctl, seccomp, cure) in [
            (libc::EPERM, "2", false, "sysctl kernel.io_uring_disabled"),
            (libc::EPERM, "1", true, "sysctl kernel.io_uring_disabled"),
            (libc::EPERM, "0", true, "--security-opt seccomp="),
            (libc::ENOSYS, "", true, "--security-opt seccomp="),
            (libc::ENOSYS, "0", false, "no io_uring"),
            (libc::EPERM, "", false, "security module"),
            (libc::ENOMEM, "0", true, "--ulimit memlock=-1"),
        ] {
            let text = cause(Some(errno), sysctl, seccomp);
            assert!(text.contains(cure), "{errno} {sysctl:?} {seccomp}: {text}");
        }
    }
}
