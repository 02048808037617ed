//! Reads a store without the server, and damages stores.
//!
//! Implements the format from its documentation, independently of the server's code.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256, Sha512};

/// Contents and defects of a store.
#[derive(Debug, Default)]
pub struct Report {
    /// Complete entries: data and sidecar agree, and the digest of the content equals the file
    /// name.
    pub blobs: Vec<PathBuf>,
    pub manifests: Vec<PathBuf>,
    pub tags: Vec<PathBuf>,
    /// Data files without a sidecar. Allowed between a kill and the next start; the server treats
    /// such a file as a miss.
    pub orphans: Vec<PathBuf>,
    /// Files below `.tmp`. Allowed during a fill, and between a kill and the next start.
    pub temps: Vec<PathBuf>,
    /// Defects that are never allowed.
    pub problems: Vec<String>,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty() && self.orphans.is_empty() && self.temps.is_empty()
    }

    /// Fails unless the store contains only complete entries.
    #[track_caller]
    pub fn expect_clean(&self) -> &Self {
        assert!(self.is_clean(), "{self:#?}");
        self
    }

    /// Fails on every defect that a kill cannot explain.
    #[track_caller]
    pub fn expect_sound(&self) -> &Self {
        assert!(self.problems.is_empty(), "{self:#?}");
        self
    }
}

/// Checks every file of the store under `root`. Does not follow symbolic links.
pub fn check(root: &Path) -> Report {
    let mut report = Report::default();
    for path in entries(root) {
        match path.file_name().and_then(|n| n.to_str()) {
            Some("blobs") => check_blobs(&path, &mut report),
            Some("manifests") => check_manifests(&path, &mut report),
            Some(".tmp") => report.temps.extend(files_below(&path)),
            Some(".lock" | ".admin.sock" | "pins.json" | "scrub.json" | "missing.json") => {}
            _ => report.problems.push(format!("unexpected: {}", path.display())),
        }
    }
    report
}

fn check_blobs(dir: &Path, report: &mut Report) {
    let mut found = Vec::new();
    check_directory(entries(dir), &mut found, report);
    report.blobs.append(&mut found);
}

fn check_manifests(dir: &Path, report: &mut Report) {
    let mut files = Vec::new();
    for path in entries(dir) {
        if path.is_dir() && !path.is_symlink() {
            if path.file_name().is_some_and(|n| n == "_tags") {
                check_tags(&path, report);
            } else {
                check_manifests(&path, report);
            }
        } else {
            files.push(path);
        }
    }
    let mut found = Vec::new();
    check_directory(files, &mut found, report);
    report.manifests.append(&mut found);
}

fn check_tags(dir: &Path, report: &mut Report) {
    for path in entries(dir) {
        match fs::read(&path) {
            Ok(bytes) if bytes.is_empty() => {
                report.problems.push(format!("empty pointer: {}", path.display()));
            }
            // A sidecar, or a pointer of a tag with the suffix of a sidecar. Both contain JSON.
            Ok(bytes)
                if is_sidecar(&path) && serde_json::from_slice::<serde_json::Value>(&bytes).is_err() =>
            {
                report.problems.push(format!("not JSON: {}", path.display()));
            }
            Ok(_) => report.tags.push(path),
            Err(error) => vanished_or(error, &path, report),
        }
    }
}

/// Checks the data files and sidecars of one directory.
fn check_directory(paths: Vec<PathBuf>, found: &mut Vec<PathBuf>, report: &mut Report) {
    let (sidecars, data): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| is_sidecar(path));
    for path in &data {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if !is_digest_name(name) {
            report
                .problems
                .push(format!("not named after a digest: {}", path.display()));
            continue;
        }
        let sidecar = sidecar_of(path);
        if !sidecars.contains(&sidecar) {
            // The listing is not atomic. The server may have completed the pair after the listing.
            if !sidecar.exists() {
                report.orphans.push(path.clone());
                continue;
            }
        }
        match check_pair(path, &sidecar) {
            Ok(()) => found.push(path.clone()),
            Err(_) if !sidecar.exists() => {}
            Err(problem) => report.problems.push(format!("{}: {problem}", path.display())),
        }
    }
    for sidecar in &sidecars {
        let text = sidecar.to_string_lossy();
        let path = PathBuf::from(text.trim_end_matches(SIDECAR));
        if !path.exists() && sidecar.exists() {
            report
                .problems
                .push(format!("sidecar without data: {}", sidecar.display()));
        }
    }
}

fn check_pair(path: &Path, sidecar: &Path) -> Result<(), String> {
    let text = fs::read(sidecar).map_err(|error| format!("sidecar: {error}"))?;
    let fields: HashMap<String, Vec<String>> = serde_json::from_slice(&text)
        .map_err(|error| format!("sidecar: {error}: {}", text.escape_ascii()))?;
    let length = fields
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, values)| values.first())
        .ok_or("sidecar without Content-Length")?;
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if *length != size.to_string() {
        return Err(format!("{size} bytes, but the sidecar says {length}"));
    }
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let hash = hash_file(path, name.starts_with("sha512")).map_err(|error| error.to_string())?;
    if name != hash {
        Err(format!("hashes to {hash}"))
    } else {
        Ok(())
    }
}

fn hash_file(path: &Path, sha512: bool) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut piece = vec![0; 1 << 20];
    let mut small = Sha256::new();
    let mut large = Sha512::new();
    loop {
        let n = file.read(&mut piece)?;
        if n == 0 {
            break;
        }
        if sha512 {
            large.update(&piece[..n]);
        } else {
            small.update(&piece[..n]);
        }
    }
    let hex = |hash: &[u8]| hash.iter().map(|b| format!("{b:02x}")).collect::<String>();
    Ok(if sha512 {
        format!("sha512-{}", hex(&large.finalize()))
    } else {
        format!("sha256-{}", hex(&small.finalize()))
    })
}

const SIDECAR: &str = ".meta.json";

fn is_sidecar(path: &Path) -> bool {
    path.to_string_lossy().ends_with(SIDECAR)
}

/// Returns the path of a data file's sidecar.
pub fn sidecar_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SIDECAR);
    name.into()
}

fn is_digest_name(name: &str) -> bool {
    let hex_of =
        |hex: &str, len| hex.len() == len && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    name.strip_prefix("sha256-").is_some_and(|hex| hex_of(hex, 64))
        || name.strip_prefix("sha512-").is_some_and(|hex| hex_of(hex, 128))
}

fn vanished_or(error: std::io::Error, path: &Path, report: &mut Report) {
    if error.kind() != std::io::ErrorKind::NotFound {
        report.problems.push(format!("{}: {error}", path.display()));
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

/// Returns all files and other non-directories below `dir`, sorted.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in entries(dir) {
        if path.is_dir() && !path.is_symlink() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// The bytes of the files below `root` on the disk, like `du`.
pub fn bytes_on_disk(root: &Path) -> u64 {
    let files = files_below(root);
    let metadata = files.iter().filter_map(|path| path.metadata().ok());
    metadata.map(|found| found.blocks() * 512).sum()
}

/// Makes the content of the store at `root` look unused for `hours`.
pub fn age(root: &Path, hours: u64) {
    let then = SystemTime::now() - Duration::from_secs(hours * 3600);
    // A killed process leaves its socket.
    for path in files_below(root).into_iter().filter(|path| path.is_file()) {
        let times = fs::FileTimes::new().set_modified(then).set_accessed(then);
        let file = File::open(path).expect("a file of the store");
        file.set_times(times).expect("set the times");
    }
}

/// Returns the path of a blob.
pub fn blob_path(root: &Path, digest: &str) -> PathBuf {
    root.join("blobs").join(digest.replace(':', "-"))
}

/// Returns the path of a manifest.
pub fn manifest_path(root: &Path, registry: &str, repository: &str, digest: &str) -> PathBuf {
    root.join("manifests")
        .join(registry)
        .join(repository)
        .join(digest.replace(':', "-"))
}

/// Returns the path of a tag's pointer.
pub fn tag_path(root: &Path, registry: &str, repository: &str, tag: &str) -> PathBuf {
    root.join("manifests")
        .join(registry)
        .join(repository)
        .join("_tags")
        .join(tag)
}

/// Whether this digest is committed, as a blob or as a manifest of any repository.
pub fn is_stored(root: &Path, digest: &str) -> bool {
    let blob = blob_path(root, digest);
    if sidecar_of(&blob).exists() {
        return true;
    }
    let name = sidecar_of(Path::new(&digest.replace(':', "-")));
    files_below(&root.join("manifests"))
        .iter()
        .any(|path| path.file_name() == Some(name.as_os_str()))
}

/// Whether `path` is on a tmpfs.
pub fn on_tmpfs(path: &Path) -> bool {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    rustix::fs::statfs(path).expect("a path of the store").f_type == TMPFS_MAGIC
}

/// Whether `fragment` occurs in any file of the store.
pub fn contains(root: &Path, fragment: &str) -> bool {
    files_below(root).iter().any(|path| {
        let bytes = fs::read(path).unwrap_or_default();
        memchr::memmem::find(&bytes, fragment.as_bytes()).is_some()
    })
}

/// Writes the entry of a public blob of `size` bytes into the store at `root`. `write` writes the
/// content.
pub fn plant_blob(root: &Path, digest: &str, size: u64, write: impl FnOnce(&mut File)) {
    let path = blob_path(root, digest);
    write(&mut File::create(&path).expect("create a data file"));
    fs::write(sidecar_of(&path), sidecar("application/octet-stream", size)).expect("write a sidecar");
}

/// Returns the sidecar of a public entry.
pub fn sidecar(media_type: &str, size: u64) -> String {
    serde_json::json!({
        "Content-Type": [media_type],
        "Content-Length": [size.to_string()],
        "X-Cache-Verified": ["sha256"],
        "X-Cache-Public": ["true"],
    })
    .to_string()
}

/// Inverts the lowest bit of one byte.
pub fn flip_byte(path: &Path, offset: u64) {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("open the file to change");
    let mut byte = [0];
    file.seek(SeekFrom::Start(offset)).expect("seek");
    file.read_exact(&mut byte).expect("read the byte to flip");
    byte[0] ^= 1;
    file.seek(SeekFrom::Start(offset)).expect("seek");
    file.write_all(&byte).expect("write the flipped byte");
}

pub fn truncate(path: &Path, len: u64) {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|file| file.set_len(len))
        .expect("truncate");
}

/// A small tmpfs. Unmounted on drop.
pub struct SmallDisk {
    pub path: PathBuf,
    _dir: super::server::TempDir,
}

impl SmallDisk {
    /// Mounts a tmpfs of `bytes`. Without the permission to mount, prints a reason and returns
    /// `None`.
    pub fn mount(bytes: u64) -> Option<Self> {
        Self::mount_with(&format!("size={bytes}"))
    }

    /// Mounts a tmpfs with `options`, like [`SmallDisk::mount`].
    pub fn mount_with(options: &str) -> Option<Self> {
        let dir = super::server::TempDir::new();
        let path = dir.path.join("disk");
        fs::create_dir(&path).expect("create a mount point");
        match Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&path)
            .output()
        {
            Ok(output) if output.status.success() => Some(SmallDisk { path, _dir: dir }),
            Ok(output) => {
                eprintln!(
                    "SKIPPED: mounting a tmpfs is not permitted: {}",
                    String::from_utf8_lossy(&output.stderr)
                );
                None
            }
            Err(error) => {
                eprintln!("SKIPPED: `mount` cannot be run: {error}");
                None
            }
        }
    }

    /// Remounts the file system read-only or writable.
    pub fn remount(&self, read_only: bool) -> bool {
        let mode = if read_only { "remount,ro" } else { "remount,rw" };
        Command::new("mount")
            .args(["-o", mode])
            .arg(&self.path)
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Fills the file system up to the last block, except for about `free` bytes. Returns the
    /// filler's path.
    pub fn fill_leaving(&self, free: u64) -> PathBuf {
        let path = self.path.join("filler");
        let mut file = File::create(&path).expect("create the filler");
        let piece = vec![0x55; 4096];
        let mut written = 0_u64;
        while let Ok(n) = file.write(&piece) {
            written += n as u64;
        }
        file.set_len(written.saturating_sub(free))
            .expect("shrink the filler");
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Unmounts lazily, because a server of a failed test may still have open files.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

#[cfg(test)]
mod tests {
    use super::super::content::sha256;
    use super::*;

    fn put(root: &Path, content: &[u8]) -> PathBuf {
        let path = blob_path(root, &sha256(content));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let sidecar = format!(r#"{{"Content-Length":["{}"],"Etag":["x"]}}"#, content.len());
        fs::write(sidecar_of(&path), sidecar).unwrap();
        path
    }

    #[test]
    fn the_checker_accepts_good_stores_and_names_each_kind_of_damage() {
        let dir = super::super::server::TempDir::new();
        let root = &dir.path;
        let path = put(root, b"hello");
        put(root, b"");
        assert_eq!(check(root).expect_clean().blobs.len(), 2);
        assert!(is_stored(root, &sha256(b"hello")));
        assert!(contains(root, "hell") && !contains(root, "hexx"));

        flip_byte(&path, 4);
        assert_eq!(check(root).problems.len(), 1, "flipped");
        flip_byte(&path, 4);
        truncate(&path, 4);
        assert_eq!(check(root).problems.len(), 1, "short");
        put(root, b"hello");
        fs::write(sidecar_of(&path), "").unwrap();
        assert_eq!(check(root).problems.len(), 1, "empty sidecar");
        fs::remove_file(sidecar_of(&path)).unwrap();
        assert_eq!(
            (check(root).problems.len(), check(root).orphans.len()),
            (0, 1),
            "no sidecar"
        );
        put(root, b"hello");
        fs::remove_file(&path).unwrap();
        assert_eq!(check(root).problems.len(), 1, "no data");
        put(root, b"hello");
        fs::create_dir(root.join(".tmp")).unwrap();
        fs::write(root.join(".tmp/x"), "").unwrap();
        assert_eq!(check(root).temps.len(), 1);
        fs::remove_file(root.join(".tmp/x")).unwrap();
        fs::write(root.join("stray"), "").unwrap();
        assert_eq!(check(root).problems.len(), 1, "stray");
    }
}
