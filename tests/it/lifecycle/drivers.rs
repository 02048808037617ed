//! If io_uring is unavailable, the cache uses epoll and logs reason and remedy. If the
//! configuration requires io_uring, the start fails.

use std::process::Command;

use crate::harness::*;

/// Runs a command under a seccomp filter that rejects the three io_uring calls, like the filters of
/// container runtimes do. The first argument is the errno, 0 for no filter. The second is a user ID
/// to switch to, 0 for no switch. The third is a limit on locked memory in bytes, 0 for no change.
const FILTER: &str = r#"
import ctypes, os, resource, struct, sys
errno, user, memlock = (int(word) for word in sys.argv[1:4])
if memlock:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (memlock, memlock))
# Opened first: the user need not reach the directory of the binary.
binary = os.open(sys.argv[4], os.O_RDONLY)
if user:
    os.chown(os.environ['CONFIG_FILE'], user, user)
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
if errno:
    ret = 0x00050000 | errno
    # Load the number of the call; 425 to 427 are io_uring_setup, io_uring_enter and io_uring_register.
    code = [(0x20, 0, 0, 0), (0x35, 0, 2, 425), (0x25, 1, 0, 427), (0x06, 0, 0, ret), (0x06, 0, 0, 0x7fff0000)]
    program = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *line) for line in code))
    header = ctypes.create_string_buffer(struct.pack('HxxxxxxP', len(code), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in [(38, 1, 0, 0, 0), (22, 2, ctypes.addressof(header), 0, 0)]:
        if libc.prctl(*(ctypes.c_ulong(word) for word in call)):
            sys.exit('prctl: ' + os.strerror(ctypes.get_errno()))
os.execve(binary, sys.argv[4:], os.environ)
"#;

const EPERM: &str = "1";
const ENOSYS: &str = "38";

fn launcher<'a>(errno: &'a str, user: &'a str, memlock: &'a str) -> [&'a str; 6] {
    ["python3", "-c", FILTER, errno, user, memlock]
}

pub(super) fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: python3 is not installed");
    }
    found
}

/// Whether io_uring is available without a filter.
fn has_io_uring() -> bool {
    let found = Server::bare().env("IO_DRIVER", "io_uring").try_start().is_ok();
    if !found {
        eprintln!("SKIPPED: io_uring is not available here");
    }
    found
}

#[test]
fn epoll_serves_and_logs_the_remedy_if_io_uring_is_unavailable() {
    if !has_python() {
        return;
    }
    for errno in [EPERM, ENOSYS] {
        let upstream = Registry::new();
        let mut cache = Server::options(&upstream)
            .cores(2)
            .env("IO_DRIVER", "auto")
            .launched_by(&launcher(errno, "0", "0"))
            .start();
        let log = cache.stderr();
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("io driver selected"))
            .collect();
        assert!(
            matches!(lines[..], [line] if line.contains("level=warn")
                && line.contains("driver=epoll")
                && line.contains("seccomp")
                && line.contains("io_uring_setup, io_uring_enter and io_uring_register")),
            "errno {errno}: {log}"
        );
        let content = PseudoRandom::new(fresh_seed(), 3_000_000);
        let digest = upstream.blob(content.clone());
        for _ in 0..2 {
            cache.client().pull(&upstream.blob_url("a", &digest), &content);
            cache.wait_stored(&digest);
        }
        assert_eq!(cache.client().get("/readyz").status, 200);
        cache.stop();
    }
}

#[test]
fn start_with_required_io_uring_fails_with_the_remedy_if_unavailable() {
    if !has_python() {
        return;
    }
    for errno in [EPERM, ENOSYS] {
        let started = Server::bare()
            .env("IO_DRIVER", "io_uring")
            .launched_by(&launcher(errno, "0", "0"))
            .try_start();
        let Err((status, stderr)) = started else {
            panic!("errno {errno}: the server started")
        };
        assert_eq!(status.and_then(|status| status.code()), Some(2), "{stderr}");
        for cure in ["IO_DRIVER=io_uring", "--security-opt seccomp=", "IO_DRIVER=auto"] {
            assert!(
                stderr.contains(cure),
                "errno {errno}: no {cure:?} in stderr: {stderr}"
            );
        }
    }
}

/// The limit applies per user and not to root. The test needs root to switch to an unprivileged
/// user.
#[test]
fn a_too_small_memlock_limit_is_reported_with_the_remedy() {
    if !has_python() || !has_io_uring() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can switch to another user");
        return;
    }
    let disk = server::TempDir::new();
    let root = disk.path.join("store");
    std::fs::create_dir(&root).unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&root, everybody).unwrap();
    // A user ID that no other test uses, because the limit counts all locked memory of a user.
    let started = Server::bare()
        .cores(2)
        .root(&root)
        .env("IO_DRIVER", "io_uring")
        .launched_by(&launcher("0", "64123", "65536"))
        .try_start();
    match started {
        Err((status, stderr)) => {
            assert_eq!(status.and_then(|status| status.code()), Some(2), "{stderr}");
            assert!(stderr.contains("--ulimit memlock=-1"), "{stderr}");
        }
        // Kernels from 5.12 on, until accounting was restored, do not count rings.
        Ok(cache) => cache
            .client()
            .get("/v2/")
            .expect(b"{}")
            .status
            .eq(&200)
            .then_some(())
            .unwrap(),
    }
}
