//! A client of the admin socket, for the command line.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::socket_path;
use crate::limits::ADMIN_REQUEST_TIMEOUT;
use crate::manage::{Explanation, MissingImage, PruneRequest, RemovalReport};
use crate::oci::{ImageName, Platforms};
use crate::store::{Pin, StoresStats};

/// The body of a request.
pub(super) type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// A connection per request to the cache with a store in one directory. Blocks.
#[derive(Debug)]
pub struct AdminClient {
    path: std::path::PathBuf,
    runtime: tokio::runtime::Runtime,
}

/// A planned removal of the cache.
#[derive(Debug, Deserialize)]
pub struct ServerPlan {
    plan: u64,
    pub removal: RemovalReport,
}

/// The reason why a request to the cache failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("cannot reach the cache at {path}: {source}; run the command as the user of the cache")]
    Unreachable { path: String, source: io::Error },
    #[error("the cache at {0} sent no valid response; the log of the cache may have the reason")]
    NoResponse(String),
    /// The body of the request cannot be read.
    #[error("{0}")]
    Input(io::Error),
    /// The cache rejected the request.
    #[error("{0}")]
    Rejected(String),
}

#[derive(Deserialize)]
struct PinList {
    pins: Vec<String>,
    /// The platforms of pins that do not hold all platforms.
    #[serde(default)]
    platforms: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
struct MissingList {
    missing: Vec<MissingImage>,
}

#[derive(Deserialize)]
struct PinChange {
    changed: bool,
}

#[derive(Deserialize)]
struct ProblemDetails {
    detail: String,
}

impl AdminClient {
    /// Returns a client of the cache with the store in `root`. `None` if no cache runs there.
    ///
    /// # Errors
    ///
    /// A cache may run there, and this user cannot reach it.
    pub fn of_running(root: &Path) -> Result<Option<Self>, AdminError> {
        let path = socket_path(root);
        let unreachable = |source| AdminError::Unreachable {
            path: path.display().to_string(),
            source,
        };
        match std::os::unix::net::UnixStream::connect(&path) {
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(unreachable(error)),
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Some(AdminClient {
            runtime: runtime.map_err(unreachable)?,
            path,
        }))
    }

    /// Removes an image, or plans its removal only.
    ///
    /// # Errors
    ///
    /// The request failed, and the cache may have removed a part.
    pub fn purge(&self, name: &ImageName, dry_run: bool) -> Result<RemovalReport, AdminError> {
        let name = name.to_string();
        let name = utf8_percent_encode(&name, NON_ALPHANUMERIC);
        let target = format!("/api/v1/images/{name}?dry_run={dry_run}");
        self.send(Method::DELETE, &target, None)
    }

    /// Plans a prune.
    ///
    /// # Errors
    ///
    /// The request failed. Nothing is removed.
    pub fn plan_prune(&self, request: &PruneRequest) -> Result<ServerPlan, AdminError> {
        let body = serde_json::to_vec(request).expect("a request is strings and numbers");
        self.send(Method::POST, "/api/v1/prune", Some(body))
    }

    /// Applies a planned prune.
    ///
    /// # Errors
    ///
    /// The request failed, and the cache may have removed a part.
    pub fn apply(&self, plan: &ServerPlan) -> Result<RemovalReport, AdminError> {
        self.send(Method::POST, &format!("/api/v1/prune/{}/apply", plan.plan), None)
    }

    /// Explains how the next pull of an image is answered.
    ///
    /// # Errors
    ///
    /// The request failed.
    pub fn explain(&self, name: &ImageName, user: Option<&str>) -> Result<Explanation, AdminError> {
        let name = name.to_string();
        let name = utf8_percent_encode(&name, NON_ALPHANUMERIC);
        let user = utf8_percent_encode(user.unwrap_or_default(), NON_ALPHANUMERIC);
        self.send(
            Method::GET,
            &format!("/api/v1/explain?ref={name}&user={user}"),
            None,
        )
    }

    /// Returns the references that clients requested and the store lacks.
    ///
    /// # Errors
    ///
    /// The request failed.
    pub fn missing(&self) -> Result<Vec<MissingImage>, AdminError> {
        let list: MissingList = self.send(Method::GET, "/api/v1/missing", None)?;
        Ok(list.missing)
    }

    /// Forgets the references that clients requested.
    ///
    /// # Errors
    ///
    /// The request failed.
    pub fn clear_missing(&self) -> Result<(), AdminError> {
        let _: serde::de::IgnoredAny = self.send(Method::DELETE, "/api/v1/missing", None)?;
        Ok(())
    }

    /// Returns the state of the store.
    ///
    /// # Errors
    ///
    /// The request failed.
    pub fn stats(&self) -> Result<StoresStats, AdminError> {
        self.send(Method::GET, "/api/v1/stats", None)
    }

    /// Returns all pins: patterns, with platforms if a pin does not hold all.
    ///
    /// # Errors
    ///
    /// The request failed.
    pub fn pins(&self) -> Result<Vec<String>, AdminError> {
        let list: PinList = self.send(Method::GET, "/api/v1/pins", None)?;
        let described = list.pins.into_iter().map(|pin| match list.platforms.get(&pin) {
            Some(platforms) => format!("{pin} ({})", platforms.join(",")),
            None => pin,
        });
        Ok(described.collect())
    }

    /// Adds or removes a pin. Returns whether the pins have changed.
    ///
    /// # Errors
    ///
    /// The request failed. The pins are unchanged.
    pub fn change_pin(&self, pin: &Pin, is_added: bool) -> Result<bool, AdminError> {
        let method = if is_added { Method::PUT } else { Method::DELETE };
        let pattern = utf8_percent_encode(pin.as_str(), NON_ALPHANUMERIC);
        let platforms = match pin.platforms() {
            Platforms::Some(_) if is_added => format!("?platforms={}", pin.platforms()),
            _ => String::new(),
        };
        let change: PinChange = self.send(method, &format!("/api/v1/pins/{pattern}{platforms}"), None)?;
        Ok(change.changed)
    }

    pub(super) fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, AdminError> {
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        let mut request = Request::new(body.map_err(|never| match never {}).boxed_unsync());
        *request.method_mut() = method;
        let json = header::HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        self.send_request(request, target, ADMIN_REQUEST_TIMEOUT)
    }

    /// Sends `request` to `target`, and waits at most `limit` for the whole response.
    pub(super) fn send_request<T: DeserializeOwned>(
        &self,
        request: Request<RequestBody>,
        target: &str,
        limit: Duration,
    ) -> Result<T, AdminError> {
        let body = self.send_for_body(request, target, limit)?;
        serde_json::from_slice(&body).map_err(|_| self.no_response())
    }

    /// Sends `request` to `target`, and waits at most `limit` for the whole response. Returns the body of a
    /// response with a status of success.
    pub(super) fn send_for_body(
        &self,
        mut request: Request<RequestBody>,
        target: &str,
        limit: Duration,
    ) -> Result<Bytes, AdminError> {
        *request.uri_mut() = target.parse().map_err(|_| self.no_response())?;
        let host = header::HeaderValue::from_static("localhost");
        request.headers_mut().insert(header::HOST, host);
        // The timer needs the context of the runtime.
        let exchanged = self
            .runtime
            .block_on(async { timeout(limit, exchange(&self.path, request)).await });
        let (status, body) = exchanged
            .ok()
            .and_then(Result::ok)
            .ok_or_else(|| self.no_response())?;
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<ProblemDetails>(&body) {
            Ok(problem) => Err(AdminError::Rejected(problem.detail)),
            Err(_) => Err(self.no_response()),
        }
    }

    pub(super) fn no_response(&self) -> AdminError {
        AdminError::NoResponse(self.path.display().to_string())
    }
}

async fn exchange(
    path: &Path,
    request: Request<RequestBody>,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error>> {
    let stream = UnixStream::connect(path).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}
