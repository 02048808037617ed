//! Certificate reload: a thread compares the certificate files every few seconds. Only polling
//! works alike for renamed files, for links to another directory, and for network file systems.

use std::path::Path;
use std::time::Duration;

use super::acceptor::{Acceptor, ClientCertificates, Material, Pem, ServerIdentity};

/// The interval between two checks, which call `stat` once per file.
const LOOK: Duration = Duration::from_secs(2);

/// The interval between reminders of a certificate that expires soon.
const REMIND: Duration = Duration::from_secs(24 * 60 * 60);

/// The identity of one state of a file. Links are followed, so a moved link changes the stamp.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Stamp {
    /// Returns `None` if the file does not exist.
    fn of(path: &Path) -> Option<Stamp> {
        use std::os::unix::fs::MetadataExt as _;
        let found = std::fs::metadata(path).ok()?;
        Some(Stamp {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            seconds: found.mtime(),
            nanoseconds: found.mtime_nsec(),
        })
    }
}

impl Material {
    /// Returns the files of this material.
    fn pems(&mut self) -> Vec<&mut Pem> {
        let mut pems = Vec::new();
        if let ServerIdentity::Files { chain, key } = &mut self.identity {
            pems.extend([chain, key]);
        }
        if let ClientCertificates::Requested {
            roots: Some(roots), ..
        } = &mut self.clients
        {
            pems.push(roots);
        }
        pems
    }

    fn stamps(&mut self) -> Vec<Option<Stamp>> {
        self.pems().iter().map(|pem| Stamp::of(&pem.path)).collect()
    }

    fn read_again(mut self) -> Result<Material, String> {
        for pem in self.pems() {
            pem.text = std::fs::read_to_string(&pem.path)
                .map_err(|error| format!("cannot read {}: {error}", pem.path.display()))?;
        }
        Ok(self)
    }
}

/// Starts the thread that reloads the files of `acceptor`.
///
/// # Errors
///
/// The thread cannot be started.
pub fn start(acceptor: Acceptor) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("cert-reload".into())
        .spawn(move || {
            let mut reload = CertReload {
                stamps: acceptor.material().stamps(),
                failed: None,
            };
            let mut since = Duration::ZERO;
            loop {
                std::thread::park_timeout(LOOK);
                reload.check(&acceptor);
                since += LOOK;
                if since >= REMIND {
                    since = Duration::ZERO;
                    acceptor.remind();
                }
            }
        })?;
    Ok(())
}

struct CertReload {
    stamps: Vec<Option<Stamp>>,
    /// The error of the last reload.
    failed: Option<String>,
}

impl CertReload {
    /// Checks the files and reloads them after a change. An operator replaces certificate and key
    /// in two steps. Therefore an error is logged only if it persists at the next check, and only
    /// once.
    fn check(&mut self, acceptor: &Acceptor) {
        let mut material = acceptor.material();
        let stamps = material.stamps();
        let changed = stamps != self.stamps;
        self.stamps = stamps;
        if !changed {
            if let Some(error) = self.failed.take() {
                tracing::error!(%error, "TLS files not reloaded");
            }
            return;
        }
        let read = material.read_again();
        self.failed = read
            .and_then(|new| acceptor.replace(new).map_err(|error| error.to_string()))
            .err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tls::KtlsSupport;
    use std::path::PathBuf;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("cert-reload-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).unwrap();
            Dir(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn pair(dir: &Path) -> (String, String) {
        let (chain, key) = super::super::self_signed::generate().unwrap();
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("tls.crt"), &chain).unwrap();
        std::fs::write(dir.join("tls.key"), &key).unwrap();
        (chain, key)
    }

    fn shown(acceptor: &Acceptor) -> String {
        match acceptor.material().identity {
            ServerIdentity::Files { chain, .. } => chain.text,
            ServerIdentity::SelfSigned => String::new(),
        }
    }

    /// Uses a directory like Kubernetes creates: file names are links to `..data`, and `..data` is
    /// a link that moves.
    #[test]
    fn moved_symlink_is_a_change_and_an_incomplete_pair_is_not() {
        let dir = Dir::new("links");
        let (first, key) = pair(&dir.0.join("..1"));
        let (second, _) = pair(&dir.0.join("..2"));
        let data = dir.0.join("..data");
        std::os::unix::fs::symlink("..1", &data).unwrap();
        let file = |name: &str, text: &str| {
            std::os::unix::fs::symlink(Path::new("..data").join(name), dir.0.join(name)).unwrap();
            Pem {
                path: dir.0.join(name),
                text: text.to_owned(),
            }
        };
        let identity = ServerIdentity::Files {
            chain: file("tls.crt", &first),
            key: file("tls.key", &key),
        };
        let material = Material {
            identity,
            clients: ClientCertificates::NotRequested,
        };
        let acceptor = Acceptor::new(material, KtlsSupport::NONE).unwrap();
        let mut reload = CertReload {
            stamps: acceptor.material().stamps(),
            failed: None,
        };
        reload.check(&acceptor);
        assert_eq!(shown(&acceptor), first);

        let moved = dir.0.join("..moved");
        std::os::unix::fs::symlink("..2", &moved).unwrap();
        std::fs::rename(&moved, &data).unwrap();
        reload.check(&acceptor);
        assert_eq!(shown(&acceptor), second);

        // A certificate without its new key.
        let (third, key) = super::super::self_signed::generate().unwrap();
        std::fs::write(dir.0.join("..2/tls.crt"), format!("{third}\n")).unwrap();
        reload.check(&acceptor);
        assert_eq!(shown(&acceptor), second);
        assert!(
            reload
                .failed
                .as_ref()
                .unwrap()
                .contains("the key does not match the certificate")
        );
        std::fs::write(dir.0.join("..2/tls.key"), format!("{key}\n")).unwrap();
        reload.check(&acceptor);
        assert_eq!(shown(&acceptor), format!("{third}\n"));
        assert_eq!(reload.failed, None);
        // A missing file is an error, reported once.
        std::fs::remove_file(dir.0.join("..2/tls.key")).unwrap();
        reload.check(&acceptor);
        assert!(reload.failed.is_some());
        reload.check(&acceptor);
        assert_eq!(reload.failed, None);
        assert_eq!(shown(&acceptor), format!("{third}\n"));
    }
}
