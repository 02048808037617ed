//! Errors of the admin API, as problem details (RFC 9457).

use http::{Response, StatusCode, header};
use serde_json::json;

use super::body::{Body, whole};
use crate::manage::PlanError;
use crate::runtime::heartbeat::HealthError;
use crate::store::PinError;

/// The challenge of a resource that needs a token (RFC 6750, section 3).
const CHALLENGE: &str = "Bearer realm=\"admin\"";

/// The reason why a request failed. Each has one status.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("no such resource; see docs/reference/admin-api.md")]
    NotFound,
    #[error("the resource has no such method; allowed: {0}")]
    Method(&'static str),
    #[error("{0}")]
    Invalid(String),
    #[error("the content type of the body must be application/json")]
    MediaType,
    #[error("the socket serves the user of the cache and root; run the command as one of them")]
    Forbidden,
    #[error(
        "the field Host must be an address, localhost or the name of this machine; set the field in the client"
    )]
    Host,
    #[error("a page of another site must not use this API")]
    Origin,
    #[error("the resource needs a token; send Authorization: Bearer with a token of ADMIN_TOKENS_FILE")]
    TokenNeeded,
    #[error("the token is unknown; use a token of ADMIN_TOKENS_FILE")]
    Token,
    #[error("the token {name} expired at {at}; create a token, or change the date in ADMIN_TOKENS_FILE")]
    TokenExpired { name: String, at: String },
    #[error("the cache has no tokens; set ADMIN_TOKENS_FILE, or use the socket in the store's directory")]
    NoTokens,
    #[error("no token is valid; the log has the reason")]
    Tokens,
    #[error("the token has the role {0}, and the operation needs a higher role")]
    Role(&'static str),
    #[error("the cache has no store on this machine; set FS_ROOT and STORAGE_BACKEND to fs or tiered")]
    NoStore,
    #[error("no stored content has this name; list the images with GET /api/v1/images")]
    NotStored,
    #[error("cannot read the store: {0}; check the disk")]
    Unreadable(String),
    #[error("{0}; the log has the reason")]
    Unhealthy(HealthError),
    #[error("the plan is unknown or older than ten minutes; plan the removal again")]
    NoPlan,
    #[error("the job is unknown, or too many jobs have ended since; `oci-pull-through jobs` prints the jobs")]
    NoJob,
    #[error("too many jobs run; wait for the end of a job, or cancel it with `oci-pull-through jobs cancel`")]
    TooManyJobs,
    #[error("another import runs; repeat the command after its end")]
    Importing,
    #[error("too many clients read the events; close one of their connections")]
    TooManyReaders,
    #[error("the listing takes too long to sort; select fewer images, or leave out the parameter sort")]
    SortTooSlow,
    #[error("cannot start a thread: {0}; increase the limits on processes (ulimit -u, TasksMax)")]
    NoThread(String),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error("the operation panicked, which is a bug; the log has the message")]
    Panicked,
}

impl Problem {
    fn status(&self) -> StatusCode {
        match self {
            Problem::NotFound | Problem::NoPlan | Problem::NoJob | Problem::NotStored => {
                StatusCode::NOT_FOUND
            }
            Problem::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Problem::Invalid(_) => StatusCode::BAD_REQUEST,
            Problem::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Problem::Forbidden | Problem::Origin | Problem::Role(_) => StatusCode::FORBIDDEN,
            Problem::Host => StatusCode::MISDIRECTED_REQUEST,
            Problem::TokenNeeded
            | Problem::Token
            | Problem::TokenExpired { .. }
            | Problem::NoTokens
            | Problem::Tokens => StatusCode::UNAUTHORIZED,
            Problem::Plan(PlanError::NotScanned)
            | Problem::Unhealthy(_)
            | Problem::TooManyReaders
            | Problem::SortTooSlow => StatusCode::SERVICE_UNAVAILABLE,
            Problem::Plan(PlanError::Pinned(_))
            | Problem::Pin(PinError::TooMany)
            | Problem::NoStore
            | Problem::TooManyJobs
            | Problem::Importing => StatusCode::CONFLICT,
            Problem::Pin(PinError::Invalid(_)) => StatusCode::BAD_REQUEST,
            Problem::Pin(PinError::NotWritten(_))
            | Problem::Unreadable(_)
            | Problem::NoThread(_)
            | Problem::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub fn response(self) -> Response<Body> {
        let status = self.status();
        let details = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": self.to_string(),
        });
        let mut response = json_response(status, &details, "application/problem+json");
        let field = match &self {
            Problem::Method(allowed) => Some((header::ALLOW, *allowed)),
            _ if status == StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, CHALLENGE)),
            _ => None,
        };
        if let Some((name, value)) = field {
            let value = header::HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// Returns a response with `content` as JSON.
pub fn json_response(
    status: StatusCode,
    content: &impl serde::Serialize,
    media_type: &'static str,
) -> Response<Body> {
    let body = serde_json::to_vec(content).expect("the content is strings and numbers");
    let mut response = Response::new(whole(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media_type));
    headers.insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-store"),
    );
    response
}
