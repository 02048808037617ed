//! File systems in an image file, for tests with power failures and disk errors.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::server::TempDir;

/// Shuts down an ext4 or xfs file system (`_IOR('X', 125, u32)`), with the flag that suppresses
/// even the log write. Runs in a child process because the call is unsafe. The child starts early
/// and waits for a byte, because a start takes time.
const CUT: &str = "
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
print(flush=True)
sys.stdin.read(1)
fcntl.ioctl(fd, 0x8004587d, struct.pack('I', 2))
";

/// A file system on a loop device. Unmounted on drop.
pub struct Volume {
    kind: String,
    /// The mount point.
    pub path: PathBuf,
    image: PathBuf,
    _dir: TempDir,
}

impl Volume {
    /// Makes and mounts a file system of `kind` in a sparse file of `bytes`. The file is in
    /// `inside` or in a temporary directory. On failure, returns the reason as a single line.
    pub fn mount(kind: &str, options: &[&str], bytes: u64, inside: Option<&Path>) -> Result<Self, String> {
        let dir = TempDir::new();
        let image = inside.unwrap_or(&dir.path).join("image");
        let path = dir.path.join("volume");
        std::fs::create_dir(&path).expect("create a mount point");
        File::create(&image)
            .and_then(|file| file.set_len(bytes))
            .map_err(|error| error.to_string())?;
        let mut make = Command::new(format!("mkfs.{kind}"));
        make.env("PATH", search_path()).args(options).arg(&image);
        run(&mut make)?;
        let volume = Volume {
            kind: kind.to_owned(),
            path,
            image,
            _dir: dir,
        };
        volume.mount_again()?;
        Ok(volume)
    }

    fn mount_again(&self) -> Result<(), String> {
        run(Command::new("mount")
            .args(["-o", "loop"])
            .args([&self.image, &self.path]))
    }

    /// Whether the file system has no shutdown request. Then the image is copied atomically
    /// instead, and later writes are discarded.
    fn is_cut_by_copy(&self) -> bool {
        self.kind == "btrfs"
    }

    fn copy(&self) -> PathBuf {
        self.image.with_extension("cut")
    }

    /// Writes all data to the disk.
    pub fn sync(&self) -> Result<(), String> {
        run(Command::new("sync").arg("-f").arg(&self.path))
    }

    /// Prepares a power cut, so that the cut itself is immediate.
    pub fn power_switch(&self) -> Result<PowerSwitch, String> {
        if self.is_cut_by_copy() {
            return Ok(PowerSwitch::Copy {
                image: self.image.clone(),
                copy: self.copy(),
            });
        }
        let mut child = Command::new("python3")
            .args(["-c", CUT])
            .arg(&self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("python3: {error}"))?;
        let mut ready = [0];
        // A failed child writes nothing here. The cut then returns the error.
        let _ = child.stdout.as_mut().expect("piped").read(&mut ready);
        Ok(PowerSwitch::Request(child))
    }

    /// Restores power: mounts the volume again, which replays its log. All files on the volume must
    /// be closed.
    pub fn restore_power(&self) {
        super::eventually("the file system without its device can be unmounted", || {
            run(Command::new("umount").arg(&self.path)).is_ok()
        });
        if self.is_cut_by_copy() {
            std::fs::rename(self.copy(), &self.image).expect("the copy of the image exists");
        }
        self.mount_again()
            .expect("the file system can be mounted after the power cut");
    }
}

/// Cuts the power of a volume.
pub enum PowerSwitch {
    Request(Child),
    /// The copy shares the blocks of the image, so the copy is atomic. Requires xfs or btrfs below
    /// the image.
    Copy {
        image: PathBuf,
        copy: PathBuf,
    },
}

impl PowerSwitch {
    /// Discards all data that is not yet on the disk. Afterwards every access fails, except if the
    /// cut is a copy.
    pub fn cut(self) -> Result<(), String> {
        let mut child = match self {
            PowerSwitch::Request(child) => child,
            PowerSwitch::Copy { image, copy } => {
                return run(Command::new("cp").arg("--reflink=always").args([image, copy]));
            }
        };
        let _ = child.stdin.take().expect("piped").write_all(b"x");
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(text.lines().last().unwrap_or("no message").to_owned())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Unmounts lazily, because a server of a failed test may still have open files.
        let _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}

/// Drops the kernel's cache of this file, so that the next read comes from the disk.
pub fn forget_cached(path: &Path) {
    let file = File::open(path).expect("open a stored file");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice on a regular file");
}

/// Runs a command. On failure, returns the command's stderr.
pub fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(format!("{name}: {}", text.trim().replace('\n', "; ")))
        }
        Err(error) => Err(format!("{name}: {error}")),
    }
}

/// Returns a search path with the administrators' directories, which some users lack in `PATH`.
fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}
