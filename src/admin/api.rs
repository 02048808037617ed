//! Answers the requests of the admin API.

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::process::Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::Semaphore;

use super::AdminSubjects;
use super::access::{Access, Actor, Peer, Role};
use super::body::{self, Body, Form};
use super::change::Change;
use super::job_work::JobWork;
use super::listen::Serves;
use super::metrics;
use super::operation::Operation;
use super::plans::Plans;
use super::problem::{Problem, json_response};
use super::process::send_signal;
use super::streams;
use crate::http::RequestId;
use crate::limits::{ADMIN_BODY_BYTES_MAX, CONNECTION_SWEEP_INTERVAL, LOAD_BODY_BYTES_MAX};
use crate::manage::{
    LoadProgress, LoadRequest, PlannedRemoval, PruneRequest, UpstreamReport, VerifyProgress, VerifyRequest,
    active_registries, plan_prune, plan_purge, plan_verify, registry_stats,
};
use crate::oci::ImageName;
use crate::runtime::helper::blocking;
use crate::store::{Pin, StoreReader, Stores};

pub(super) type Answer = Result<Response<Body>, Problem>;

/// The description of the API, in OpenAPI 3.1.
const OPEN_API: &[u8] = include_bytes!("openapi.json");

/// The state behind the resources.
pub struct Api {
    pub(super) subjects: AdminSubjects,
    access: Access,
    plans: Plans,
    /// One import at a time uses the disk and the memory of a decompression.
    pub(super) imports: Semaphore,
}

impl Api {
    pub fn new(subjects: AdminSubjects, access: Access) -> Self {
        Api {
            subjects,
            access,
            plans: Plans::default(),
            imports: Semaphore::new(1),
        }
    }

    /// Answers one request.
    pub async fn answer(&self, peer: Peer, serves: Serves, request: Request<Incoming>) -> Response<Body> {
        let id = request_id();
        let answer = self.checked(peer, serves, id, request).await;
        let mut response = answer.unwrap_or_else(Problem::response);
        let id = HeaderValue::from_str(&id.to_string()).expect("an id is hexadecimal digits");
        response.headers_mut().insert("x-request-id", id);
        response
    }

    /// Checks the target of a request and the role of its client, and answers.
    async fn checked(&self, peer: Peer, serves: Serves, id: RequestId, request: Request<Incoming>) -> Answer {
        let uri = request.uri();
        let operation = Operation::parse(request.method(), uri.path(), uri.query());
        match (serves, &operation) {
            (Serves::Everything | Serves::Health, Ok(Operation::Health)) => return self.health(),
            (Serves::Metrics, Ok(Operation::Metrics)) => return self.metrics().await,
            (Serves::Health | Serves::Metrics, _) => return Err(Problem::NotFound),
            (Serves::Everything, _) => {}
        }
        self.access.check_target(request.headers())?;
        let actor = self.access.actor(peer, request.headers(), id).await?;
        let operation = match operation {
            // A client without a token learns nothing about the form of requests.
            Err(Problem::Invalid(_)) => {
                actor.check(Role::Read)?;
                operation?
            }
            operation => operation?,
        };
        actor.check(operation.role())?;
        self.run(operation, actor, request).await
    }

    async fn run(&self, operation: Operation, actor: Actor, request: Request<Incoming>) -> Answer {
        let form = Form::of(request.headers());
        match operation {
            Operation::Health => self.health(),
            Operation::OpenApi => {
                let mut response = Response::new(body::whole(OPEN_API));
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                Ok(response)
            }
            Operation::Web => self.web(request.uri().path(), request.headers()),
            Operation::Metrics => self.metrics().await,
            Operation::RegistryStats => {
                let AdminSubjects {
                    stores,
                    upstreams,
                    lookup_counts,
                    ..
                } = self.subjects.clone();
                let stats = blocking(move || {
                    let (statuses, requests) = (upstreams.statuses(), lookup_counts.totals());
                    let active = active_registries(&statuses, &requests);
                    let contents = stores.map_or_else(Vec::new, |stores| stores.registry_contents(&active));
                    registry_stats(&statuses, contents, requests)
                });
                ok(StatusCode::OK, &stats.await.map_err(|_| Problem::Panicked)?)
            }
            Operation::StoreStats => ok(StatusCode::OK, &self.stores()?.stats()),
            Operation::Upstreams => {
                let statuses = self.subjects.upstreams.statuses();
                let upstreams: Vec<_> = statuses.iter().map(UpstreamReport::new).collect();
                Ok(form.list("upstreams", &upstreams))
            }
            Operation::ListImages(query) => self.list(*query, form).await,
            Operation::ShowImage(name) => self.show(name).await,
            Operation::PurgeImage { name, dry_run } => self.purge(actor, name, dry_run).await,
            Operation::ShowBlob(digest) => self.blob(digest).await,
            Operation::Explain { name, user } => self.explain(name, user).await,
            Operation::ListFills => Ok(form.list("fills", &self.subjects.cache.fill_statuses())),
            Operation::ListMissing => self.missing(form).await,
            Operation::ClearMissing => Ok(self.clear_missing(&actor)),
            Operation::CheckReadiness => self.readiness(request, form).await,
            Operation::Events => self.events(),
            Operation::ListPins => self.pins(form),
            Operation::ChangePin { pin, is_added } => self.change_pin(actor, pin, is_added).await,
            Operation::PlanPrune => self.plan(request, form).await,
            Operation::ApplyPrune { plan } => self.apply(actor, plan).await,
            Operation::Verify => self.verify(actor, request).await,
            Operation::Preload => self.preload(actor, request).await,
            Operation::Import(rule) => self.import(actor, *rule, request).await,
            Operation::ListJobs => Ok(form.list("jobs", &self.subjects.jobs.list())),
            Operation::ShowJob { id } => self.show_job(id, form),
            Operation::CancelJob { id } => ok(StatusCode::OK, &self.subjects.jobs.cancel(id)?),
            Operation::Reload => signal(&actor, "reload", Signal::HUP),
            Operation::Stop => signal(&actor, "stop", Signal::TERM),
        }
    }

    pub(super) fn stores(&self) -> Result<Stores, Problem> {
        self.subjects.stores.clone().ok_or(Problem::NoStore)
    }

    /// `GET /health`
    fn health(&self) -> Answer {
        match self.subjects.health.alive() {
            Ok(()) => ok(StatusCode::OK, &json!({"status": "healthy"})),
            Err(error) => Err(Problem::Unhealthy(error)),
        }
    }

    /// `GET /metrics`
    async fn metrics(&self) -> Answer {
        let (subjects, jobs) = (self.subjects.clone(), self.subjects.jobs.list());
        let text = blocking(move || metrics::scrape(&subjects, jobs)).await;
        let mut response = Response::new(body::whole(text.map_err(|_| Problem::Panicked)?));
        let media_type = HeaderValue::from_static(metrics::CONTENT_TYPE);
        response.headers_mut().insert(header::CONTENT_TYPE, media_type);
        Ok(response)
    }

    /// `DELETE /api/v1/images/{name}`
    async fn purge(&self, actor: Actor, name: ImageName, dry_run: bool) -> Answer {
        let stores = self.stores()?;
        let selector = name.to_string();
        let plan = blocking(move || plan_purge(&stores, &name)).await;
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
    async fn change_pin(&self, actor: Actor, pin: Pin, is_added: bool) -> Answer {
        let stores = self.stores()?;
        let pattern = pin.as_str().to_owned();
        let change = Change {
            actor,
            action: if is_added { "pin" } else { "unpin" },
            selector: pin.to_string(),
        };
        let changed = blocking(move || {
            change.requested(None);
            let changed = match is_added {
                true => stores.pin(&pin),
                false => stores.unpin(&pin),
            };
            change.pinned(changed.as_ref().ok().copied());
            changed
        });
        let changed = changed.await.map_err(|_| Problem::Panicked)??;
        ok(StatusCode::OK, &json!({"pin": pattern, "changed": changed}))
    }

    /// `DELETE /api/v1/missing`
    fn clear_missing(&self, actor: &Actor) -> Response<Body> {
        let change = Change {
            actor: actor.clone(),
            action: "clear missing",
            selector: String::new(),
        };
        change.requested(None);
        self.subjects.cache.clear_missing();
        change.pinned(Some(true));
        json_response(StatusCode::OK, &json!({"changed": true}), "application/json")
    }

    /// `POST /api/v1/prune`
    async fn plan(&self, request: Request<Incoming>, form: Form) -> Answer {
        let stores = self.stores()?;
        let invalid = |error: String| Problem::Invalid(format!("the body is no prune request: {error}"));
        let wanted: PruneRequest = json_body(request, ADMIN_BODY_BYTES_MAX, invalid).await?;
        let rule = wanted.rule().map_err(invalid)?;
        let plan = blocking(move || plan_prune(&stores, &rule)).await;
        let plan = plan.map_err(|_| Problem::Panicked)??;
        if form == Form::Lines {
            let (images, (objects, bytes)) = (plan.images(), plan.totals());
            let id = self.plans.add(plan);
            let head = json!({"plan": id, "images": images.len(), "objects": objects, "bytes": bytes});
            return Ok(body::lines(
                StatusCode::CREATED,
                streams::plan(body::line(&head), images),
            ));
        }
        let report = plan.report();
        let id = self.plans.add(plan);
        ok(StatusCode::CREATED, &json!({"plan": id, "removal": report}))
    }

    /// `POST /api/v1/verify`
    async fn verify(&self, actor: Actor, request: Request<Incoming>) -> Answer {
        let stores = self.stores()?;
        let invalid = |error: String| Problem::Invalid(format!("the body is no verify request: {error}"));
        let wanted: VerifyRequest = json_body(request, ADMIN_BODY_BYTES_MAX, invalid).await?;
        let rule = wanted.rule().map_err(invalid)?;
        let verified = stores.clone();
        let plan = blocking(move || plan_verify(&verified, &rule)).await;
        let plan = plan.map_err(|_| Problem::Panicked)??;
        let change = Change {
            actor,
            action: "verify",
            selector: wanted.selector(),
        };
        let progress = VerifyProgress::default();
        let work = JobWork::Verify {
            stores,
            plan,
            progress,
        };
        let id = self.subjects.jobs.start(change, work)?;
        ok(StatusCode::ACCEPTED, &json!({"job": id}))
    }

    /// `GET /api/v1/pins`
    fn pins(&self, form: Form) -> Answer {
        let pins = self.stores()?.pinned();
        match form {
            Form::Lines => Ok(form.list("pins", &pins.texts())),
            Form::Whole => ok(
                StatusCode::OK,
                &json!({"pins": pins.texts(), "platforms": pins.platforms()}),
            ),
        }
    }

    /// `POST /api/v1/preload`
    async fn preload(&self, actor: Actor, request: Request<Incoming>) -> Answer {
        let invalid = |error: String| Problem::Invalid(format!("the body is no preload request: {error}"));
        let wanted: LoadRequest = json_body(request, LOAD_BODY_BYTES_MAX, invalid).await?;
        let rule = wanted.rule(&self.subjects.load_settings).map_err(invalid)?;
        let change = Change {
            actor,
            action: "preload",
            selector: wanted.selector(),
        };
        let work = JobWork::Load {
            loader: self.subjects.loader.clone(),
            rule,
            progress: LoadProgress::default(),
        };
        let id = self.subjects.jobs.start(change, work)?;
        ok(StatusCode::ACCEPTED, &json!({"job": id}))
    }

    /// `POST /api/v1/prune/{plan}/apply`
    async fn apply(&self, actor: Actor, id: u64) -> Answer {
        let plan = self.plans.take(id).ok_or(Problem::NoPlan)?;
        let change = Change {
            actor,
            action: "prune",
            selector: format!("plan {id}"),
        };
        self.remove(change, plan).await
    }

    async fn remove(&self, change: Change, plan: PlannedRemoval) -> Answer {
        let stores = self.stores()?;
        let report = blocking(move || change.apply(&stores, plan)).await;
        let report = report.map_err(|_| Problem::Panicked)?;
        // The next request for the content must not find it in the memory of a core.
        tokio::time::sleep(2 * CONNECTION_SWEEP_INTERVAL).await;
        ok(StatusCode::OK, &report)
    }
}

/// Sends `signal` to this process, which the main thread handles.
fn signal(actor: &Actor, action: &'static str, signal: Signal) -> Answer {
    let change = Change {
        actor: actor.clone(),
        action,
        selector: String::new(),
    };
    match send_signal(&change, signal) {
        Ok(()) => ok(StatusCode::ACCEPTED, &json!({"action": action})),
        // A process may signal itself.
        Err(_) => Err(Problem::Panicked),
    }
}

pub(super) fn reader(stores: &Stores) -> Result<StoreReader, Problem> {
    stores
        .reader()
        .map_err(|error| Problem::Unreadable(error.to_string()))
}

fn request_id() -> RequestId {
    let mut bytes = [0; 8];
    // Without randomness, all requests have the id 0. The id is for the log only.
    let _ = SystemRandom::new().fill(&mut bytes);
    RequestId(u64::from_ne_bytes(bytes))
}

/// Reads a body of at most `bytes_max` as JSON. `invalid` makes a problem of the reason why the body is invalid.
pub(super) async fn json_body<T: DeserializeOwned>(
    request: Request<Incoming>,
    bytes_max: usize,
    invalid: impl Fn(String) -> Problem,
) -> Result<T, Problem> {
    let media_type = request.headers().get(header::CONTENT_TYPE);
    let media_type = media_type
        .and_then(|field| field.to_str().ok())
        .unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Problem::MediaType);
    }
    let body = Limited::new(request.into_body(), bytes_max).collect().await;
    let body = body.map_err(|error| invalid(error.to_string()))?.to_bytes();
    // A parser of structures reads lists too.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(invalid("expected an object".to_owned()));
    }
    serde_json::from_slice(&body).map_err(|error| invalid(error.to_string()))
}

pub(super) fn ok(status: StatusCode, content: &impl Serialize) -> Answer {
    Ok(json_response(status, content, "application/json"))
}
