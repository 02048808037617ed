//! Records the system calls of a real run, then builds and opens every state of the store that a
//! crash can leave.
//!
//! The model follows ALICE (OSDI '14) with the weakest file system guarantees. Names, renames and
//! removals reach the disk in any combination, because no directory is synced. After a crash, the
//! unsynced bytes of a file are complete, missing, partial, or zeros of the correct length.
//!
//! Needs `strace`. Prints `SKIPPED` if `strace` is missing or cannot trace.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use oci_pull_through::oci::{Digest, Namespace, Repository, Tag};
use oci_pull_through::store::{FsStore, Key};

use crate::harness::server::TempDir;
use crate::harness::*;

/// Calls that change files or names, or make changes durable. A `?` marks calls that some
/// architectures lack.
const CALLS: &str = "trace=?open,openat,?mkdir,mkdirat,write,pwrite64,ftruncate,fdatasync,fsync,close,\
    ?link,linkat,?rename,?renameat,renameat2,?unlink,unlinkat";

/// Longer than any file of these runs, so that the trace contains all bytes.
const STRING_BYTES_MAX: &str = "100000";

/// A larger number indicates an error in the model, not a thorough test.
const STATES_MAX: usize = 20_000;

/// Number of states for which a server is started after the check of the files.
const SERVED_STATES: usize = 6;

/// The number of a file in the run. A rename keeps the number.
type FileId = usize;

#[derive(Clone, Debug, PartialEq)]
enum Op {
    MakeDir(PathBuf),
    Name(FileId, PathBuf),
    Rename(FileId, PathBuf, PathBuf),
    Remove(PathBuf),
    Write(FileId, u64, Rc<Vec<u8>>),
    Truncate(FileId, u64),
    Sync(FileId),
}

/// The calls of a trace below one directory.
#[derive(Default)]
struct Trace {
    root: PathBuf,
    ops: Vec<Op>,
    files: usize,
    open: HashMap<i64, (FileId, u64)>,
    names: HashMap<PathBuf, FileId>,
}

impl Trace {
    fn read(text: &str, root: &Path) -> Self {
        let mut trace = Trace {
            root: root.to_owned(),
            ..Trace::default()
        };
        let mut unfinished: HashMap<&str, String> = HashMap::new();
        for line in text.lines() {
            let Some((thread, call)) = line.split_once(' ') else {
                continue;
            };
            let call = call.trim_start();
            if let Some(begun) = call.strip_suffix("<unfinished ...>") {
                // The kernel may reuse the descriptor for another thread before `close` returns.
                if begun.starts_with("close(") {
                    trace.call(&format!("{}) = 0", begun.trim_end()));
                    continue;
                }
                unfinished.insert(thread, begun.to_owned());
            } else if let Some((_, rest)) = call
                .strip_prefix("<... ")
                .and_then(|rest| rest.split_once(" resumed>"))
            {
                let begun = unfinished.remove(thread).unwrap_or_default();
                trace.call(&format!("{begun}{rest}"));
            } else {
                trace.call(call);
            }
        }
        trace
    }

    fn call(&mut self, line: &str) {
        let Some((call, result)) = line.rsplit_once(" = ") else {
            return;
        };
        let result: i64 = match result
            .split_whitespace()
            .next()
            .and_then(|word| word.parse().ok())
        {
            Some(result) if result >= 0 => result,
            _ => return,
        };
        let Some((name, arguments)) = call.split_once('(') else {
            return;
        };
        let texts = strings(arguments);
        let number = |index: usize| -> Option<i64> {
            let bare = without_strings(arguments);
            bare.trim()
                .trim_end_matches(')')
                .split(',')
                .nth(index)?
                .trim()
                .parse()
                .ok()
        };
        let path = |index: usize| -> Option<PathBuf> {
            let text = texts.get(index)?;
            Some(PathBuf::from(std::str::from_utf8(text).ok()?))
        };
        let ours = |path: Option<PathBuf>| -> Option<PathBuf> {
            Some(path?.strip_prefix(&self.root).ok()?.to_owned())
        };
        match name {
            "open" | "openat" => {
                self.open.remove(&result);
                let Some(path) = ours(path(0)) else { return };
                if arguments.contains("O_TMPFILE") {
                    self.files += 1;
                    self.open.insert(result, (self.files, 0));
                } else if arguments.contains("O_CREAT")
                    || arguments.contains("O_WRONLY")
                    || arguments.contains("O_RDWR")
                {
                    let known = self.names.get(&path).copied();
                    let id = known.unwrap_or_else(|| {
                        self.files += 1;
                        self.names.insert(path.clone(), self.files);
                        self.ops.push(Op::Name(self.files, path));
                        self.files
                    });
                    if arguments.contains("O_TRUNC") {
                        self.ops.push(Op::Truncate(id, 0));
                    }
                    self.open.insert(result, (id, 0));
                }
            }
            "close" => {
                if let Some(fd) = number(0) {
                    self.open.remove(&fd);
                }
            }
            "mkdir" | "mkdirat" => {
                if let Some(path) = ours(path(0)) {
                    self.ops.push(Op::MakeDir(path));
                }
            }
            "write" | "pwrite64" => {
                let Some((id, at)) = number(0).and_then(|fd| self.open.get_mut(&fd)) else {
                    return;
                };
                let bytes: Vec<u8> = texts[0][..result as usize].to_vec();
                let offset = if name == "write" {
                    *at += bytes.len() as u64;
                    *at - bytes.len() as u64
                } else {
                    // The string counts as one argument, even with commas inside.
                    number(3).expect("an offset") as u64
                };
                self.ops.push(Op::Write(*id, offset, Rc::new(bytes)));
            }
            "ftruncate" => {
                if let (Some((id, _)), Some(len)) = (number(0).and_then(|fd| self.open.get(&fd)), number(1)) {
                    self.ops.push(Op::Truncate(*id, len as u64));
                }
            }
            "fdatasync" | "fsync" => {
                if let Some((id, _)) = number(0).and_then(|fd| self.open.get(&fd)) {
                    self.ops.push(Op::Sync(*id));
                }
            }
            "link" | "linkat" => {
                let Some(to) = ours(path(1)) else { return };
                let from = path(0).expect("a source");
                let id = match from.strip_prefix("/proc/self/fd") {
                    Ok(fd) => {
                        let fd: i64 = fd.to_str().and_then(|fd| fd.parse().ok()).expect("a descriptor");
                        self.open[&fd].0
                    }
                    Err(_) => self.names[from.strip_prefix(&self.root).expect("a link within the store")],
                };
                self.names.insert(to.clone(), id);
                self.ops.push(Op::Name(id, to));
            }
            "rename" | "renameat" | "renameat2" => {
                let (Some(from), Some(to)) = (ours(path(0)), ours(path(1))) else {
                    return;
                };
                if from.ends_with("admin.sock") {
                    // A socket has no content. The next start replaces the socket.
                    return;
                }
                let id = self.names.remove(&from).expect("a renamed file has a name");
                self.names.insert(to.clone(), id);
                self.ops.push(Op::Rename(id, from, to));
            }
            "unlink" | "unlinkat" => {
                if let Some(path) = ours(path(0)) {
                    self.names.remove(&path);
                    self.ops.push(Op::Remove(path));
                }
            }
            _ => {}
        }
    }
}

/// Returns the strings of a call's arguments, printed by `-xx` in hexadecimal.
fn strings(arguments: &str) -> Vec<Vec<u8>> {
    let quoted = arguments.split('"').skip(1).step_by(2);
    quoted
        .map(|text| {
            let digits = text.split("\\x").skip(1);
            digits
                .map(|digits| u8::from_str_radix(digits, 16).expect("strace -xx writes two digits"))
                .collect()
        })
        .collect()
}

fn without_strings(arguments: &str) -> String {
    arguments.split('"').step_by(2).collect::<Vec<_>>().join("$")
}

/// Directories, and file names with their files.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Names {
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, FileId>,
}

impl Names {
    fn has_dir_of(&self, path: &Path) -> bool {
        let dir = path.parent().unwrap_or(Path::new(""));
        dir.as_os_str().is_empty() || self.dirs.contains(dir)
    }

    /// Returns the names after `op`, or `None` if no file system can reach such a state.
    fn after(&self, op: &Op) -> Option<Names> {
        let mut names = self.clone();
        match op {
            Op::MakeDir(path) if self.has_dir_of(path) => {
                names.dirs.insert(path.clone());
            }
            Op::Name(id, path) if self.has_dir_of(path) => {
                names.files.insert(path.clone(), *id);
            }
            Op::Rename(id, from, to) if self.has_dir_of(to) => {
                names.files.remove(from);
                names.files.insert(to.clone(), *id);
            }
            Op::Remove(path) => {
                names.files.remove(path);
            }
            _ => return None,
        }
        Some(names)
    }
}

/// The durable bytes of a file, and all written bytes.
#[derive(Clone, Default)]
struct Content {
    durable: Vec<u8>,
    written: Vec<u8>,
}

impl Content {
    /// Returns all contents that a crash may leave.
    fn variants(&self) -> BTreeSet<Vec<u8>> {
        let (durable, written) = (&self.durable, &self.written);
        let mut zeros = durable.clone();
        zeros.resize(written.len(), 0);
        let mut half = zeros.clone();
        let middle = written.len() / 2;
        half[..middle].copy_from_slice(&written[..middle]);
        let short = written[..middle.max(durable.len().min(written.len()))].to_vec();
        [durable.clone(), written.clone(), zeros, half, short].into()
    }
}

/// A tree of directories and files after the crash.
type Tree = (BTreeSet<PathBuf>, BTreeMap<PathBuf, Vec<u8>>);

/// Returns every tree that a crash can leave from the `from`-th call on. All earlier calls are
/// durable.
fn crash_states(trace: &Trace, from: usize) -> BTreeSet<Tree> {
    let mut contents: HashMap<FileId, Content> = HashMap::new();
    let mut names = BTreeSet::from([Names::default()]);
    let mut states = BTreeSet::new();
    for (index, op) in trace.ops.iter().enumerate() {
        let durable = index < from;
        match op {
            Op::Write(id, offset, bytes) => {
                let content = contents.entry(*id).or_default();
                let end = *offset as usize + bytes.len();
                if content.written.len() < end {
                    content.written.resize(end, 0);
                }
                content.written[*offset as usize..end].copy_from_slice(bytes);
            }
            Op::Truncate(id, len) => contents.entry(*id).or_default().written.resize(*len as usize, 0),
            Op::Sync(id) => {
                let content = contents.entry(*id).or_default();
                content.durable.clone_from(&content.written);
            }
            _ => {
                let after: BTreeSet<Names> = names.iter().filter_map(|names| names.after(op)).collect();
                if durable {
                    assert!(!after.is_empty(), "{op:?} cannot follow {names:?}");
                    names = after;
                } else {
                    names.extend(after);
                }
            }
        }
        if durable {
            for content in contents.values_mut() {
                content.durable.clone_from(&content.written);
            }
            continue;
        }
        for names in &names {
            let mut trees = vec![BTreeMap::new()];
            for (path, id) in &names.files {
                let content = contents.get(id).cloned().unwrap_or_default();
                let variants = content.variants();
                trees = trees
                    .into_iter()
                    .flat_map(|tree| {
                        variants.iter().map(move |bytes| {
                            let mut tree: BTreeMap<PathBuf, Vec<u8>> = tree.clone();
                            tree.insert(path.clone(), bytes.clone());
                            tree
                        })
                    })
                    .collect();
            }
            states.extend(trees.into_iter().map(|files| (names.dirs.clone(), files)));
        }
        assert!(states.len() < STATES_MAX, "{} states and more", states.len());
    }
    states
}

fn build(tree: &Tree, root: &Path) {
    let _ = std::fs::remove_dir_all(root);
    std::fs::create_dir_all(root).expect("create the store");
    for dir in &tree.0 {
        std::fs::create_dir_all(root.join(dir)).expect("create a directory");
    }
    for (path, bytes) in &tree.1 {
        std::fs::write(root.join(path), bytes).expect("write a file");
    }
}

/// The pulls of a run, and the entries that may exist afterwards.
struct Scene {
    name: &'static str,
    /// All contents of the run, by digest.
    contents: HashMap<String, Vec<u8>>,
    blobs: Vec<String>,
    manifests: Vec<String>,
    tag: Option<String>,
}

impl Scene {
    /// Opens the store as a server does, and reads every possible entry. Returns the numbers of
    /// hits and misses.
    fn check(&self, root: &Path, registry: &str) -> (usize, usize) {
        let namespace: Namespace = registry.parse().expect("a namespace");
        let repository: Repository = "a".parse().expect("a repository");
        let store = FsStore::open(root).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        store.scan();
        let blobs = self.blobs.iter().map(|text| (text, true));
        let manifests = self.manifests.iter().map(|text| (text, false));
        let (mut hits, mut misses) = (0, 0);
        for (text, is_blob) in blobs.chain(manifests) {
            let digest: Digest = text.parse().expect("a digest");
            let key = match is_blob {
                true => Key::Blob(digest),
                false => Key::Manifest {
                    namespace: namespace.clone(),
                    repository: repository.clone(),
                    digest,
                },
            };
            match store.find(&key).expect("the directory can be read") {
                Some(entry) => {
                    let size = entry.file.metadata().expect("stat").len() as usize;
                    let bytes = oci_pull_through::sys::read_exact_at(&entry.file, 0, size).expect("read");
                    assert!(
                        bytes == self.contents[text],
                        "{}: a hit with wrong bytes",
                        self.name
                    );
                    hits += 1;
                }
                None => misses += 1,
            }
        }
        if let Some(tag) = &self.tag {
            let tag: Tag = tag.parse().expect("a tag");
            let pointer = store.tag(&namespace, &repository, &tag, "native");
            match pointer.expect("the directory can be read") {
                Some(pointer) => {
                    let digest = pointer.digest.to_string();
                    assert!(
                        self.manifests.contains(&digest),
                        "{}: a tag of {digest}",
                        self.name
                    );
                    hits += 1;
                }
                None => misses += 1,
            }
        }
        (hits, misses)
    }
}

/// Runs `prepare` and `act` with a traced server, and checks every state that a crash during `act`
/// can leave.
fn every_crash(
    name: &'static str,
    prepare: impl Fn(&Server, &Registry),
    act: impl Fn(&Server, &Registry) -> Scene,
) {
    let upstream = Registry::new();
    upstream.add_listener();
    let logs = TempDir::new();
    let log = logs.path.join("trace");
    let text = log.to_str().expect("a temporary path is UTF-8");
    // With `-D`, the server is a direct child of the test, as without `strace`.
    let launcher = [
        "strace",
        "-D",
        "-f",
        "--seccomp-bpf",
        "-xx",
        "-s",
        STRING_BYTES_MAX,
        "-e",
        CALLS,
        "-o",
        text,
    ];
    let traceable = std::process::Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .output();
    if !traceable.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: crash states: strace cannot trace here");
        return;
    }
    let mut options = Server::bare();
    for addr in upstream.addrs() {
        // With `access: verify`, the cache also records which registries have a blob.
        options = options.registry_with(addr.to_string(), addr, "access: verify");
    }
    let mut cache = options.env("TAG_TTL", "0s").launched_by(&launcher).start();
    let read = |cache: &Server| {
        let text = std::fs::read_to_string(&log).expect("strace writes its log");
        Trace::read(&text, cache.root())
    };
    prepare(&cache, &upstream);
    cache.settled_store().expect_clean();
    let from = read(&cache).ops.len();
    let scene = act(&cache, &upstream);
    cache.settled_store().expect_clean();
    // The server exits after SIGTERM, so that the log is complete.
    cache.signal(rustix::process::Signal::TERM);
    let _ = cache.wait_exit(PATIENCE);
    eventually("the trace is complete", || {
        std::fs::read_to_string(&log)
            .is_ok_and(|text| text.lines().last().is_some_and(|line| line.contains("+++")))
    });
    let trace = read(&cache);
    cache.kill9();
    let states = crash_states(&trace, from);
    let dir = TempDir::new();
    let root = dir.path.join("store");
    let (mut all, mut none) = (0, 0);
    for state in &states {
        build(state, &root);
        let (hits, misses) = scene.check(&root, &upstream.name());
        all += usize::from(misses == 0);
        none += usize::from(hits == 0);
        disk::check(&root).expect_clean();
    }
    eprintln!(
        "{name}: {} states of {} calls; states with every entry: {all}, without any entry: {none}",
        states.len(),
        trace.ops.len() - from
    );
    assert!(states.len() > 10, "{name}: {:?}", &trace.ops[from..]);
    assert!(all > 0, "{name}: no state has every entry");

    // Starts a server on some of the states. The responses must be correct in every state.
    let mut random = Random::for_test(name);
    let states: Vec<&Tree> = states.iter().collect();
    for _ in 0..SERVED_STATES {
        build(states[random.below(states.len() as u64) as usize], &root);
        let cache = Server::options(&upstream).root(&root).start();
        for digest in &scene.blobs {
            cache
                .client()
                .get(&upstream.blob_url("a", digest))
                .expect(&scene.contents[digest]);
        }
        for digest in &scene.manifests {
            cache
                .client()
                .get(&upstream.manifest_url("a", digest))
                .expect(&scene.contents[digest]);
        }
        cache.settled_store().expect_clean();
    }
}

fn scene(name: &'static str, blobs: &[PseudoRandom], images: &[&Image], tag: Option<&str>) -> Scene {
    let mut contents: HashMap<String, Vec<u8>> = blobs
        .iter()
        .map(|content| (content.digest(), content.bytes()))
        .collect();
    contents.extend(
        images
            .iter()
            .map(|image| (image.digest.clone(), image.manifest.clone())),
    );
    Scene {
        name,
        contents,
        blobs: blobs.iter().map(PseudoRandom::digest).collect(),
        manifests: images.iter().map(|image| image.digest.clone()).collect(),
        tag: tag.map(str::to_owned),
    }
}

fn pull_image(cache: &Server, upstream: &Registry) -> Image {
    let image = Image::small(upstream, "a", "v1", fresh_seed());
    let path = upstream.manifest_url("a", "v1");
    cache.client().get(&path).expect(&image.manifest);
    cache.wait_stored(&image.digest);
    let pointer = disk::tag_path(cache.root(), &upstream.name(), "a", "v1");
    eventually("the tag points at the manifest", || {
        std::fs::read_to_string(&pointer).is_ok_and(|text| text.contains(&image.digest))
    });
    image
}

#[test]
fn a_crash_in_a_blob_s_fill_leaves_a_hit_or_a_miss_whatever_reached_the_disk() {
    let nothing = |_: &Server, _: &Registry| {};
    every_crash("a blob", nothing, |cache, upstream| {
        let blobs = [
            PseudoRandom::new(fresh_seed(), 20_000),
            PseudoRandom::new(fresh_seed(), 1),
        ];
        for content in &blobs {
            let path = upstream.blob_url("a", &upstream.blob(content.clone()));
            cache.client().pull(&path, content);
            cache.wait_stored(&content.digest());
        }
        scene("a blob", &blobs, &[], None)
    });
}

#[test]
fn a_crash_while_a_tag_is_stored_leaves_it_whole_or_away() {
    let nothing = |_: &Server, _: &Registry| {};
    every_crash("a tag", nothing, |cache, upstream| {
        let image = pull_image(cache, upstream);
        scene("a tag", &[], &[&image], Some("v1"))
    });
}

#[test]
fn a_crash_while_a_tag_moves_leaves_the_old_or_the_new() {
    let first = std::cell::RefCell::new(None);
    let prepare = |cache: &Server, upstream: &Registry| {
        *first.borrow_mut() = Some(pull_image(cache, upstream));
    };
    every_crash("a moved tag", prepare, |cache, upstream| {
        let image = pull_image(cache, upstream);
        let first = first.borrow();
        let images = [first.as_ref().expect("prepared"), &image];
        scene("a moved tag", &[], &images, Some("v1"))
    });
}
