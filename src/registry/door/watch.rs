//! Looks after the htpasswd file, on a thread of its own: what changes there holds a few seconds later.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::FrontDoor;
use super::locks::Locks;
use crate::config::{FrontAuth, HTPASSWD_BYTES_MAX, Htpasswd};
use crate::limits::HTPASSWD_LOOK;

/// What tells one content of a file from the next: path, device and inode, size, both times.
type Look = (PathBuf, [u64; 3], [i64; 4]);

/// Starts the thread. It lives as long as the process.
///
/// # Errors
///
/// When it cannot be had.
pub fn start(door: FrontDoor) -> io::Result<()> {
    std::thread::Builder::new()
        .name("htpasswd".into())
        .spawn(move || {
            // The file was read before anybody looked at its times, so it is read once more at the beginning.
            let mut seen = None;
            loop {
                std::thread::park_timeout(HTPASSWD_LOOK);
                if let Some(locks) = door.locks()
                    && let Some(htpasswd) = &locks.auth().htpasswd
                {
                    let now = look(&htpasswd.path);
                    if seen.as_ref() != Some(&now) {
                        reload(&door, &locks, htpasswd);
                        seen = Some(now);
                    }
                }
            }
        })?;
    Ok(())
}

fn look(path: &Path) -> Result<Look, io::ErrorKind> {
    let found = std::fs::metadata(path).map_err(|error| error.kind())?;
    Ok((
        path.to_owned(),
        [found.dev(), found.ino(), found.size()],
        [
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec(),
        ],
    ))
}

/// Takes over what the file says now. A file that cannot be used changes nothing.
fn reload(door: &FrontDoor, locks: &Arc<Locks>, before: &Htpasswd) {
    let path = before.path.display();
    match read(&before.path) {
        Ok(now) if now == *before => {}
        Ok(now) => {
            let users = now.users.len();
            let auth = FrontAuth {
                htpasswd: Some(now),
                ..locks.auth().clone()
            };
            if door.replace_if(locks, auth) {
                tracing::info!(%path, users, "htpasswd file reloaded");
            }
        }
        Err(why) => tracing::error!(%path, "htpasswd file not reloaded; the old one stays: {why}"),
    }
}

fn read(path: &Path) -> Result<Htpasswd, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > HTPASSWD_BYTES_MAX as u64 {
        return Err("it is too large".to_owned());
    }
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    Htpasswd::parse(path.to_owned(), &text).map_err(|wrong| {
        let wrong = wrong.into_iter().map(|(line, why)| format!("line {line}: {why}"));
        wrong.collect::<Vec<_>>().join("; ")
    })
}
