//! The requests of the command line about the work of the cache: metrics, registries and fills.

use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::client::{AdminClient, AdminError, RequestBody};
use super::jobs::JobStatus;
use crate::limits::ADMIN_VIEW_TIMEOUT;
use crate::store::StoresStats;

/// The members of a registry that the command line shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamView {
    pub registry: String,
    /// `available`, `failing`, `unavailable` or `limited`.
    pub state: String,
    pub rate_limit: Option<RateLimitView>,
}

/// The budget of a registry. A registry may leave out each number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitView {
    pub limit: Option<u64>,
    pub remaining: Option<u64>,
    pub reset_seconds: Option<u64>,
}

/// The members of a fill in progress that the command line shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FillView {
    pub registry: String,
    pub repository: String,
    pub digest: String,
    /// `upstream` or `bucket`.
    pub source: String,
    /// `host` or `host:port`. `None` before the head has arrived, and for a bucket.
    pub upstream: Option<String>,
    pub bytes: u64,
    pub bytes_total: Option<u64>,
    pub followers: u64,
}

/// The state of the cache at one moment, from several requests.
#[derive(Clone, Debug)]
pub struct CacheView {
    /// The metrics in the OpenMetrics text format.
    pub metrics: String,
    pub stores: StoresStats,
    pub upstreams: Vec<UpstreamView>,
    pub fills: Vec<FillView>,
    pub jobs: Vec<JobStatus>,
}

#[derive(Deserialize)]
struct UpstreamList {
    upstreams: Vec<UpstreamView>,
}

#[derive(Deserialize)]
struct FillList {
    fills: Vec<FillView>,
}

#[derive(Deserialize)]
struct JobList {
    jobs: Vec<JobStatus>,
}

impl AdminClient {
    /// Returns the state of the cache. Each request takes at most [`ADMIN_VIEW_TIMEOUT`].
    ///
    /// # Errors
    ///
    /// A request failed.
    pub fn view(&self) -> Result<CacheView, AdminError> {
        let fills: FillList = self.get("/api/v1/fills")?;
        let upstreams: UpstreamList = self.get("/api/v1/upstreams")?;
        let jobs: JobList = self.get("/api/v1/jobs")?;
        let metrics = self.send_for_body(empty_get(), "/metrics", ADMIN_VIEW_TIMEOUT)?;
        Ok(CacheView {
            metrics: String::from_utf8(metrics.into()).map_err(|_| self.no_response())?,
            stores: self.get("/api/v1/stats")?,
            upstreams: upstreams.upstreams,
            fills: fills.fills,
            jobs: jobs.jobs,
        })
    }

    fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, AdminError> {
        self.send_request(empty_get(), target, ADMIN_VIEW_TIMEOUT)
    }
}

fn empty_get() -> Request<RequestBody> {
    let mut request = Request::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *request.method_mut() = Method::GET;
    request
}
