//! The sources of credentials for one registry: the configuration, a file, or a helper. A file is
//! read again after changes, and answers of helpers are cached.

use std::collections::HashMap;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::credential::{Credential, CredentialId};
use super::docker_config::{DockerConfig, Kept};
use super::{Secret, credential, helper};
use crate::config::Auth;
use crate::oci::{Namespace, Repository};
use crate::sync::Mutex;
use crate::upstream::error::UpstreamError;

/// How long a helper's answer is used. The answer contains no lifetime. ECR tokens are valid for 12
/// h. The shortest lifetime among the clouds is an hour, and 48 minutes are 80 % of it.
const HELPER_AGE: Duration = Duration::from_secs(48 * 60);

/// The minimum age of a refused helper answer before the helper runs again. A registry may refuse
/// permanently, and not every refusal should start a process.
const HELPER_AGE_DOUBTED: Duration = Duration::from_secs(1);

/// How long a failed or empty answer of a helper is used.
const HELPER_FAILURE_AGE: Duration = Duration::from_secs(2);

/// The maximum number of servers with cached answers per helper setting. For entries such as
/// `*.example.com`, clients choose the server.
const SERVERS_MAX: usize = 256;

/// The maximum number of concurrent helper processes per registry entry.
const HELPERS_MAX: usize = 4;

/// The maximum size of a `config.json`. Real files have a few KiB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The server name of Docker Hub for helpers.
const DOCKER_HUB_SERVER: &str = "https://index.docker.io/v1/";

/// The credentials of the registries of one entry.
pub(in crate::upstream) struct CredentialSource {
    source: Source,
    /// Answers of helpers, by helper and server.
    helped: Mutex<HashMap<(String, String), Arc<HelperSlot>>>,
    running: Semaphore,
}

enum Source {
    Nothing,
    Given(LoadedCredential),
    Helper(String),
    File {
        path: PathBuf,
        read: tokio::sync::Mutex<Option<ReadFile>>,
    },
}

struct ReadFile {
    stamp: Stamp,
    config: Arc<DockerConfig>,
}

/// The identity of a file version.
#[derive(PartialEq, Eq, Clone, Copy)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// Locked while the helper runs, so one process serves all waiting requests.
type HelperSlot = tokio::sync::Mutex<Option<HelperAnswer>>;

struct HelperAnswer {
    outcome: Result<Option<LoadedCredential>, UpstreamError>,
    requested: Instant,
    until: Instant,
}

/// A credential and the time of its helper run.
#[derive(Clone)]
pub(in crate::upstream) struct LoadedCredential {
    pub credential: Arc<Credential>,
    pub id: CredentialId,
    /// The time of the helper run. `None` if another run cannot change the credential.
    pub requested: Option<Instant>,
}

impl LoadedCredential {
    /// Returns the client's own credential. `None` without a user name and password.
    pub fn of_client(authorization: &Secret) -> Option<Self> {
        Credential::of_client(authorization).map(|credential| LoadedCredential::new(credential, None))
    }

    fn new(credential: Credential, requested: Option<Instant>) -> Self {
        LoadedCredential {
            id: credential.id(),
            credential: Arc::new(credential),
            requested,
        }
    }

    /// Returns whether a newer credential may exist, for a request started at `started`.
    pub fn may_be_old(&self, started: Instant) -> bool {
        self.requested
            .is_some_and(|requested| requested + HELPER_AGE_DOUBTED < started)
    }
}

impl CredentialSource {
    /// # Errors
    ///
    /// Fails if a credential contains characters invalid in a header.
    pub fn new(auth: &Auth) -> Result<Self, &'static str> {
        let given = |credential| Source::Given(LoadedCredential::new(credential, None));
        let source = match auth {
            Auth::Anonymous => Source::Nothing,
            Auth::Basic { username, password } => {
                let (username, password) = (username.clone(), password.clone());
                credential::basic(&username, &password)
                    .ok_or("the user name or the password is not valid in an HTTP header")?;
                given(Credential::of_pair(username, password))
            }
            Auth::IdentityToken(token) => given(Credential::Identity(token.clone())),
            Auth::RegistryToken(token) => {
                let secret = Secret::bearer(token.reveal())
                    .ok_or("the registry token is not valid in an HTTP header")?;
                given(Credential::Bearer(secret))
            }
            Auth::Helper { name } => Source::Helper(name.clone()),
            Auth::DockerConfig { path } => Source::File {
                path: path.clone(),
                read: tokio::sync::Mutex::default(),
            },
        };
        Ok(CredentialSource {
            source,
            helped: Mutex::default(),
            running: Semaphore::new(HELPERS_MAX),
        })
    }

    /// Returns whether no credentials are configured.
    pub fn is_nothing(&self) -> bool {
        matches!(self.source, Source::Nothing)
    }

    /// Returns the credential for `repository` of `namespace`, or `None` if there is none. Ignores
    /// a cached helper answer from before `not_before`.
    ///
    /// # Errors
    ///
    /// [`UpstreamError::Credentials`]. A helper's failure is also returned to requests within
    /// [`HELPER_FAILURE_AGE`] after it.
    ///
    /// # Cancellation
    ///
    /// Kills a running helper. The next waiting caller starts another.
    pub async fn find(
        &self,
        namespace: &Namespace,
        repository: &Repository,
        not_before: Option<Instant>,
    ) -> Result<Option<LoadedCredential>, UpstreamError> {
        match &self.source {
            Source::Nothing => Ok(None),
            Source::Given(loaded) => Ok(Some(loaded.clone())),
            Source::Helper(name) => self.run_helper(name, namespace, not_before).await,
            Source::File { path, read } => {
                let config = read_again(path, read)
                    .await
                    .map_err(|cause| unavailable(namespace, format!("{}: {cause}", path.display())))?;
                match config.find(namespace, repository) {
                    None => Ok(None),
                    Some(Kept::Credential(credential)) => Ok(Some(LoadedCredential::new(credential, None))),
                    Some(Kept::Helper(name)) => self.run_helper(&name, namespace, not_before).await,
                }
            }
        }
    }

    async fn run_helper(
        &self,
        name: &str,
        namespace: &Namespace,
        not_before: Option<Instant>,
    ) -> Result<Option<LoadedCredential>, UpstreamError> {
        let server = if namespace.is_docker_hub() {
            DOCKER_HUB_SERVER
        } else {
            namespace.as_str()
        };
        let slot = self.slot(name, server);
        let mut kept = slot.lock().await;
        if let Some(kept) = &*kept
            && Instant::now() < kept.until
            && not_before.is_none_or(|earliest| kept.requested >= earliest)
        {
            return kept.outcome.clone();
        }
        // The semaphore is never closed.
        let _running = self.running.acquire().await;
        let requested = Instant::now();
        let outcome = match helper::get(name, server).await {
            Ok(credential) => {
                Ok(credential.map(|credential| LoadedCredential::new(credential, Some(requested))))
            }
            Err(cause) => Err(unavailable(namespace, cause)),
        };
        let until = match &outcome {
            Ok(Some(_)) => requested + HELPER_AGE,
            _ => Instant::now() + HELPER_FAILURE_AGE,
        };
        let answer = HelperAnswer {
            outcome,
            requested,
            until,
        };
        kept.insert(answer).outcome.clone()
    }

    fn slot(&self, name: &str, server: &str) -> Arc<HelperSlot> {
        let mut helped = self.helped.lock();
        let key = (name.to_owned(), server.to_owned());
        if helped.len() >= SERVERS_MAX && !helped.contains_key(&key) {
            // A slot with a waiting request is kept.
            helped.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        helped.entry(key).or_default().clone()
    }
}

fn unavailable(namespace: &Namespace, cause: String) -> UpstreamError {
    UpstreamError::Credentials {
        host: namespace.as_str().into(),
        cause: cause.into(),
    }
}

/// Returns the parsed file, from memory unless the file has changed.
async fn read_again(
    path: &Path,
    read: &tokio::sync::Mutex<Option<ReadFile>>,
) -> Result<Arc<DockerConfig>, String> {
    let mut read = read.lock().await;
    let (path, known) = (path.to_owned(), read.as_ref().map(|read| read.stamp));
    let changed = tokio::task::spawn_blocking(move || read_if_changed(&path, known))
        .await
        .map_err(|error| error.to_string())??;
    if let Some((stamp, text)) = changed {
        let config = Arc::new(DockerConfig::parse(&text)?);
        *read = Some(ReadFile { stamp, config });
    }
    // An unchanged file has been read before.
    read.as_ref()
        .map(|read| read.config.clone())
        .ok_or_else(|| "the file was not read".into())
}

fn read_if_changed(path: &Path, known: Option<Stamp>) -> Result<Option<(Stamp, String)>, String> {
    let message = |error: std::io::Error| error.to_string();
    let file = std::fs::File::open(path).map_err(message)?;
    let meta = file.metadata().map_err(message)?;
    let stamp = Stamp {
        inode: meta.ino(),
        size: meta.size(),
        changed: (meta.mtime(), meta.mtime_nsec()),
    };
    if known == Some(stamp) {
        return Ok(None);
    }
    if !meta.is_file() || stamp.size > FILE_BYTES_MAX {
        return Err("expected a regular file of at most 1 MiB".into());
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(message)?;
    Ok(Some((stamp, text)))
}
