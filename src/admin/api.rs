//! The resources of the admin API.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Actor;
use super::jobs::Jobs;
use super::plans::Plans;
use super::problem::{Problem, json_response};
use crate::limits::{ADMIN_BODY_BYTES_MAX, CONNECTION_SWEEP_INTERVAL};
use crate::log;
use crate::manage::{
    PlannedRemoval, PruneRequest, RemovalReport, VerifyRequest, plan_prune, plan_purge, plan_verify,
};
use crate::oci::ImageName;
use crate::runtime::helper::blocking;
use crate::store::{FsStore, Pin};

type Answer = Result<Response<Full<Bytes>>, Problem>;

/// The state behind the resources.
pub struct Api {
    store: Arc<FsStore>,
    plans: Plans,
    jobs: Jobs,
}

/// A change, for the log.
struct Change {
    actor: Actor,
    action: &'static str,
    selector: String,
}

const PINS: &str = "/api/v1/pins";
const IMAGES: &str = "/api/v1/images/";
const PRUNE: &str = "/api/v1/prune";
const VERIFY: &str = "/api/v1/verify";
const JOBS: &str = "/api/v1/jobs";

impl Api {
    pub fn new(store: Arc<FsStore>) -> Self {
        Api {
            store,
            plans: Plans::default(),
            jobs: Jobs::default(),
        }
    }

    /// Answers one request of `actor`.
    pub async fn answer(self: &Arc<Self>, actor: Actor, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        let method = request.method().clone();
        if let Some(name) = path.strip_prefix(IMAGES) {
            return match method {
                Method::DELETE => self.purge(actor, name, request.uri().query()).await,
                _ => Err(Problem::Method("DELETE")),
            };
        }
        if let Some(id) = path.strip_prefix(PRUNE).and_then(plan_of) {
            return match method {
                Method::POST => self.apply(actor, id).await,
                _ => Err(Problem::Method("POST")),
            };
        }
        if let Some(pattern) = path.strip_prefix(PINS).and_then(|rest| rest.strip_prefix('/')) {
            return self.change_pin(actor, &method, pattern).await;
        }
        if let Some(id) = path.strip_prefix(JOBS).and_then(|rest| rest.strip_prefix('/')) {
            return match method {
                Method::GET => ok(StatusCode::OK, &self.jobs.get(id)?),
                Method::DELETE => ok(StatusCode::OK, &self.jobs.cancel(id)?),
                _ => Err(Problem::Method("GET, DELETE")),
            };
        }
        match (&*path, method) {
            (PINS, Method::GET) => ok(StatusCode::OK, &json!({"pins": self.store.pins()})),
            (PINS, _) => Err(Problem::Method("GET")),
            (PRUNE, Method::POST) => self.plan(request).await,
            (PRUNE, _) => Err(Problem::Method("POST")),
            (VERIFY, Method::POST) => self.verify(actor, request).await,
            (VERIFY, _) => Err(Problem::Method("POST")),
            (JOBS, Method::GET) => ok(StatusCode::OK, &json!({"jobs": self.jobs.list()})),
            (JOBS, _) => Err(Problem::Method("GET")),
            ("/api/v1/stats", Method::GET) => ok(StatusCode::OK, &self.store.stats()),
            ("/api/v1/stats", _) => Err(Problem::Method("GET")),
            _ => Err(Problem::NotFound),
        }
    }

    /// `DELETE /api/v1/images/{name}`
    async fn purge(self: &Arc<Self>, actor: Actor, name: &str, query: Option<&str>) -> Answer {
        let name = percent_decode_str(name).decode_utf8_lossy();
        let invalid = |error: &dyn std::fmt::Display| Problem::Invalid(error.to_string());
        let name: ImageName = name.parse().map_err(|error| invalid(&error))?;
        let dry_run = match query {
            None | Some("dry_run=false") => false,
            Some("dry_run=true") => true,
            Some(_) => return Err(invalid(&"the query must be dry_run=true or dry_run=false")),
        };
        let store = self.store.clone();
        let selector = name.to_string();
        let plan = blocking(move || plan_purge(&store, &name)).await;
        let plan = plan.map_err(|_| Problem::Panicked)??;
        if dry_run {
            return ok(StatusCode::OK, &plan.report());
        }
        let change = Change {
            actor,
            action: "purge",
            selector,
        };
        self.remove(change, plan).await
    }

    /// `PUT /api/v1/pins/{pattern}` and `DELETE /api/v1/pins/{pattern}`
    async fn change_pin(self: &Arc<Self>, actor: Actor, method: &Method, pattern: &str) -> Answer {
        let pin = Pin::parse(&percent_decode_str(pattern).decode_utf8_lossy())?;
        let is_added = match *method {
            Method::PUT => true,
            Method::DELETE => false,
            _ => return Err(Problem::Method("PUT, DELETE")),
        };
        let store = self.store.clone();
        let pattern = pin.as_str().to_owned();
        let changed = blocking(move || {
            if is_added {
                store.pin(pin)
            } else {
                store.unpin(&pin)
            }
        })
        .await;
        let changed = changed.map_err(|_| Problem::Panicked)??;
        let action = if is_added { "pin" } else { "unpin" };
        tracing::info!(
            uid = actor.uid,
            action,
            selector = pattern,
            changed,
            "change completed"
        );
        ok(StatusCode::OK, &json!({"pin": pattern, "changed": changed}))
    }

    /// `POST /api/v1/prune`
    async fn plan(self: &Arc<Self>, request: Request<Incoming>) -> Answer {
        let invalid = |error: String| Problem::Invalid(format!("the body is no prune request: {error}"));
        let wanted: PruneRequest = json_body(request, invalid).await?;
        let rule = wanted.rule().map_err(invalid)?;
        let store = self.store.clone();
        let plan = blocking(move || plan_prune(&store, &rule)).await;
        let plan = plan.map_err(|_| Problem::Panicked)??;
        let report = plan.report();
        let id = self.plans.add(plan);
        ok(StatusCode::CREATED, &json!({"plan": id, "removal": report}))
    }

    /// `POST /api/v1/verify`
    async fn verify(self: &Arc<Self>, actor: Actor, request: Request<Incoming>) -> Answer {
        let invalid = |error: String| Problem::Invalid(format!("the body is no verify request: {error}"));
        let wanted: VerifyRequest = json_body(request, invalid).await?;
        let rule = wanted.rule().map_err(invalid)?;
        let store = self.store.clone();
        let plan = blocking(move || plan_verify(&store, &rule)).await;
        let plan = plan.map_err(|_| Problem::Panicked)??;
        let id = self
            .jobs
            .start(self.store.clone(), actor, wanted.selector(), plan)?;
        ok(StatusCode::ACCEPTED, &json!({"job": id}))
    }

    /// `POST /api/v1/prune/{plan}/apply`
    async fn apply(self: &Arc<Self>, actor: Actor, id: &str) -> Answer {
        let plan = id.parse().ok().and_then(|id| self.plans.take(id));
        let plan = plan.ok_or(Problem::NoPlan)?;
        let change = Change {
            actor,
            action: "prune",
            selector: format!("plan {id}"),
        };
        self.remove(change, plan).await
    }

    async fn remove(self: &Arc<Self>, change: Change, plan: PlannedRemoval) -> Answer {
        let store = self.store.clone();
        let report = blocking(move || change.apply(&store, plan)).await;
        let report = report.map_err(|_| Problem::Panicked)?;
        // The next request for the content must not find it in the memory of a core.
        tokio::time::sleep(2 * CONNECTION_SWEEP_INTERVAL).await;
        ok(StatusCode::OK, &report)
    }
}

impl Change {
    /// Applies `plan`. Writes a log line before and a log line after the change.
    fn apply(&self, store: &FsStore, plan: PlannedRemoval) -> RemovalReport {
        let Change {
            actor,
            action,
            selector,
        } = self;
        let planned = plan.report();
        let (images, objects, bytes) = (planned.images.len(), planned.objects, planned.bytes);
        tracing::info!(
            uid = actor.uid,
            action,
            selector,
            images,
            objects,
            bytes,
            "change requested"
        );
        // A kill during the change must not lose the line.
        log::flush();
        let report = plan.apply(store);
        tracing::info!(
            uid = actor.uid,
            action,
            selector,
            objects = report.objects,
            bytes = report.bytes,
            kept = report.kept,
            "change completed"
        );
        report
    }
}

/// Returns the plan in the rest of the path of an application: `/{plan}/apply`.
fn plan_of(rest: &str) -> Option<&str> {
    rest.strip_prefix('/')?.strip_suffix("/apply")
}

/// Reads a body as JSON. `invalid` makes a problem of the reason why the body is invalid.
async fn json_body<T: DeserializeOwned>(
    request: Request<Incoming>,
    invalid: impl Fn(String) -> Problem,
) -> Result<T, Problem> {
    let is_json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|field| field.as_bytes().starts_with(b"application/json"));
    if !is_json {
        return Err(Problem::MediaType);
    }
    let body = Limited::new(request.into_body(), ADMIN_BODY_BYTES_MAX)
        .collect()
        .await;
    let body = body.map_err(|error| invalid(error.to_string()))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| invalid(error.to_string()))
}

fn ok(status: StatusCode, content: &impl Serialize) -> Answer {
    Ok(json_response(status, content, "application/json"))
}
