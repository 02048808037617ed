//! Reloads the htpasswd file on a separate thread. A change takes effect a few seconds later.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ClientAuth;
use super::credentials::CredentialStore;
use crate::config::{ClientAuthConfig, HTPASSWD_BYTES_MAX, Htpasswd};
use crate::limits::HTPASSWD_CHECK_INTERVAL;

/// Identifies a version of the file: path, device and inode, size, modification and change time.
type FileStamp = (PathBuf, [u64; 3], [i64; 4]);

/// Starts the thread, which runs until the process ends.
///
/// # Errors
///
/// The thread cannot be started.
pub fn start(client_auth: ClientAuth) -> io::Result<()> {
    std::thread::Builder::new()
        .name("htpasswd".into())
        .spawn(move || {
            // The first read of the file had no stamp, so the thread reads the file again.
            let mut seen = None;
            loop {
                std::thread::park_timeout(HTPASSWD_CHECK_INTERVAL);
                if let Some(store) = client_auth.credentials()
                    && let Some(htpasswd) = &store.auth().htpasswd
                {
                    let now = stamp(&htpasswd.path);
                    if seen.as_ref() != Some(&now) {
                        reload(&client_auth, &store, htpasswd);
                        seen = Some(now);
                    }
                }
            }
        })?;
    Ok(())
}

fn stamp(path: &Path) -> Result<FileStamp, io::ErrorKind> {
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

/// Replaces the credentials with the content of the file. A file with errors changes nothing.
fn reload(client_auth: &ClientAuth, store: &Arc<CredentialStore>, before: &Htpasswd) {
    let path = before.path.display();
    match read(&before.path) {
        Ok(now) if now == *before => {}
        Ok(now) => {
            let users = now.users.len();
            let auth = ClientAuthConfig {
                htpasswd: Some(now),
                ..store.auth().clone()
            };
            if client_auth.replace_if(store, auth) {
                tracing::info!(%path, users, "htpasswd file reloaded");
            }
        }
        Err(error) => tracing::error!(%path, %error, "htpasswd file not reloaded"),
    }
}

fn read(path: &Path) -> Result<Htpasswd, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > HTPASSWD_BYTES_MAX as u64 {
        return Err(format!("the file is larger than {HTPASSWD_BYTES_MAX} bytes"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    Htpasswd::parse(path.to_owned(), &text).map_err(|wrong| {
        let wrong = wrong.into_iter().map(|(line, why)| format!("line {line}: {why}"));
        wrong.collect::<Vec<_>>().join("; ")
    })
}
