//! Every system call of the store fails with every errno: once, the third time, and always. No
//! wrong byte, no crash and no waiting client may result.
//!
//! `strace` attaches to the running server and returns the errors instead of the kernel. Therefore
//! only the calls of the epoll driver and of the blocking threads can fail. `CELLS` is the number
//! of matrix cells to test, in random order. `CELLS=all` tests every cell. Prints `SKIPPED` if
//! tracing is not possible.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::client::Why;
use crate::harness::server::TempDir;
use crate::harness::*;

/// The calls of the store: open, create a directory, read, write, reserve, sync, link, rename,
/// remove, stat, list.
const CALLS: [&str; 11] = [
    "?open,openat",
    "?mkdir,mkdirat",
    "pread64,preadv2",
    "pwrite64",
    "fallocate",
    "fdatasync",
    "?link,linkat",
    "?rename,?renameat,renameat2",
    "?unlink,unlinkat",
    "?fstat,?newfstatat,statx",
    "getdents64",
];

const ERRNOS: [&str; 8] = [
    "EIO", "ENOSPC", "EDQUOT", "EROFS", "EMFILE", "ENOENT", "EACCES", "EINTR",
];

/// The first call, the third call, every call.
const WHENS: [&str; 3] = ["1", "3", "1+"];

/// Number of cells in every test run.
const CELLS_DEFAULT: usize = 24;

/// Upper bound for the time of each answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

struct Injector {
    strace: Child,
    log: std::path::PathBuf,
}

impl Injector {
    /// Attaches `strace` to all threads of `cache`. Returns `None` if `strace` cannot attach.
    fn attach(cache: &Server, dir: &TempDir, calls: &str, errno: &str, when: &str) -> Option<Self> {
        let log = dir.path.join("injected");
        let _ = std::fs::remove_file(&log);
        let mut strace = Command::new("strace")
            .args([
                "-f",
                "-p",
                &cache.pid().to_string(),
                "-e",
                &format!("trace={calls}"),
            ])
            .args(["-e", &format!("inject={calls}:error={errno}:when={when}")])
            .arg("-o")
            .arg(&log)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let mut lines = BufReader::new(strace.stderr.take().expect("piped")).lines();
        let attached = lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line.contains(" attached"));
        // Reads further lines, so that `strace` never blocks on the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        if !attached {
            let _ = strace.wait();
            return None;
        }
        Some(Injector { strace, log })
    }

    /// Detaches from the server. Returns the number of failed calls.
    fn detach(&mut self) -> usize {
        let pid = rustix::process::Pid::from_child(&self.strace);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.strace.wait();
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.matches("(INJECTED)").count()
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// Pulls `path` and fails on a wrong byte or a late answer. Returns whether the complete `content`
/// arrived.
fn came(cache: &Server, path: &str, content: &PseudoRandom, at: &str) -> bool {
    let began = Instant::now();
    let got = cache.client().try_pull(path, &[], content, 0);
    let took = began.elapsed();
    assert!(took < ANSWER_WITHIN, "{at}: {took:?} for {path}");
    match got {
        Ok(got) => {
            assert!(got.status != 200 || got.received == content.size, "{at}: {got}");
            got.status == 200
        }
        Err(broken) => {
            assert!(!matches!(broken.why, Why::WrongByte(_)), "{at}: {broken:?}");
            false
        }
    }
}

#[test]
fn no_errno_of_any_call_of_the_store_fails_a_pull_or_stores_something_wrong() {
    let upstream = Registry::new();
    let dir = TempDir::new();
    let mut random = Random::for_test("errno matrix");
    let mut cells: Vec<(&str, &str, &str)> = CALLS
        .iter()
        .flat_map(|calls| ERRNOS.iter().map(move |errno| (*calls, *errno)))
        .flat_map(|(calls, errno)| WHENS.iter().map(move |when| (calls, errno, *when)))
        // The store retries an interrupted call, so permanent interruption is an endless loop.
        .filter(|(_, errno, when)| !(*errno == "EINTR" && *when == "1+"))
        .collect();
    let wanted = match std::env::var("CELLS").as_deref() {
        Ok("all") => cells.len(),
        Ok(text) => text.parse().expect("CELLS is a number or `all`"),
        Err(_) => CELLS_DEFAULT,
    };
    for index in (1..cells.len()).rev() {
        cells.swap(index, random.below(index as u64 + 1) as usize);
    }
    let mut cache = Server::options(&upstream)
        .env("IO_DRIVER", "epoll")
        .env("TAG_TTL", "0s")
        .start();
    let kept = PseudoRandom::new(fresh_seed(), 700_000);
    let kept_path = upstream.blob_url("a", &upstream.blob(kept.clone()));
    cache.client().pull(&kept_path, &kept);
    cache.wait_stored(&kept.digest());
    let (mut injected, mut met) = (0, 0);
    for (calls, errno, when) in cells.iter().take(wanted) {
        let at = format!("{calls}: {errno}, {when}");
        // A restart, because the cache does not use a failed store for a while.
        cache.restart();
        let image = Image::small(&upstream, "a", "v1", random.next());
        let fresh = [5_000, 1_300_000].map(|size| PseudoRandom::new(random.next(), size));
        let paths = fresh
            .clone()
            .map(|content| upstream.blob_url("a", &upstream.blob(content)));
        let Some(mut injector) = Injector::attach(&cache, &dir, calls, errno, when) else {
            eprintln!("SKIPPED: errno matrix: strace cannot attach to a process here");
            return;
        };
        let pulled = std::thread::scope(|scope| {
            let (cache, at) = (&cache, &at);
            let pulls: Vec<_> = fresh
                .iter()
                .zip(&paths)
                .chain([(&kept, &kept_path), (&kept, &kept_path)])
                .map(|(content, path)| scope.spawn(move || came(cache, path, content, at)))
                .collect();
            let tagged = cache.client().try_get(&upstream.manifest_url("a", "v1"));
            let tagged = tagged.is_ok_and(|got| got.status == 200 && got.body == image.manifest);
            let pulled: Vec<bool> = pulls
                .into_iter()
                .map(|pull| pull.join().expect("a client"))
                .collect();
            assert!(tagged, "{at}: the manifest was not served");
            pulled
        });
        // A read error in the middle of a response can only end the response. Clients that follow a
        // fill are affected too, if the fill has been stored meanwhile.
        if !calls.contains("pread64") {
            assert!(pulled.iter().all(|came| *came), "{at}: {pulled:?}");
        }
        let count = injector.detach();
        drop(injector);
        injected += count;
        met += usize::from(count > 0);
        assert!(cache.is_running(), "{at}: {}", cache.stderr());
        disk::check(cache.root()).expect_sound();
        for (content, path) in fresh.iter().zip(&paths).chain([(&kept, &kept_path)]) {
            eventually(&format!("{at}: a pull after the faults succeeds"), || {
                came(&cache, path, content, &at)
            });
        }
    }
    eprintln!(
        "errno matrix: {wanted} cells of {}, {met} with a failed call, {injected} calls failed",
        cells.len()
    );
    assert!(
        met * 8 > wanted,
        "too few cells have a failed call: {met} of {wanted}"
    );
}
