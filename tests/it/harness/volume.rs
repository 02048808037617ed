//! File systems of their own, in an image file: to cut their power, and to let them fail.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::server::TempDir;

/// The shutdown request of ext4 and xfs (`_IOR('X', 125, u32)`), and the flag that says not even the log is written.
/// In a child, because the call itself is not a safe one; it waits for a word, because starting it takes its time.
const CUT: &str = "
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
print(flush=True)
sys.stdin.read(1)
fcntl.ioctl(fd, 0x8004587d, struct.pack('I', 2))
";

/// A file system on a loop device; unmounted on drop.
pub struct Volume {
    kind: String,
    /// Where it is mounted.
    pub path: PathBuf,
    image: PathBuf,
    _dir: TempDir,
}

impl Volume {
    /// Makes and mounts a file system of `kind` in a sparse file of `bytes`, which lies in `inside` or in a
    /// temporary directory. The reason, in a line, where that is not possible.
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

    /// Whether there is no request that cuts the power: the image is copied instead, at one moment, and what is written
    /// afterwards is thrown away.
    fn is_cut_by_copy(&self) -> bool {
        self.kind == "btrfs"
    }

    fn copy(&self) -> PathBuf {
        self.image.with_extension("cut")
    }

    /// Writes everything to the disk.
    pub fn sync(&self) -> Result<(), String> {
        run(Command::new("sync").arg("-f").arg(&self.path))
    }

    /// Whatever is needed to cut the power at once.
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
        // If there is nothing to read it has failed, which the cut will say.
        let _ = child.stdout.as_mut().expect("piped").read(&mut ready);
        Ok(PowerSwitch::Request(child))
    }

    /// Power is back: mounts it anew, which replays its log. Nobody may have files of it open.
    pub fn restore_power(&self) {
        super::eventually("the cut file system can be unmounted", || {
            run(Command::new("umount").arg(&self.path)).is_ok()
        });
        if self.is_cut_by_copy() {
            std::fs::rename(self.copy(), &self.image).expect("there was a cut");
        }
        self.mount_again()
            .expect("a file system that was cut off can be mounted");
    }
}

/// Cuts the power of one volume.
pub enum PowerSwitch {
    Request(Child),
    /// The copy shares the blocks of the image, so that it is made at one moment. Needs xfs or btrfs below the image.
    Copy {
        image: PathBuf,
        copy: PathBuf,
    },
}

impl PowerSwitch {
    /// What was not yet on the disk never will be. Every access fails from now on, except where the cut is a copy.
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
        Err(text.lines().last().unwrap_or("no reason given").to_owned())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: a server that a failed test left behind may still hold files open.
        let _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}

/// Forgets what the kernel has cached of this file, so that the next read is from the disk.
pub fn forget_cached(path: &Path) {
    let file = File::open(path).expect("open a stored file");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice on a regular file");
}

/// Runs a command; what it wrote to stderr if it failed.
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

/// Where administrators' commands are, even for users who have them not in their path.
fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}
