//! Maps every failure of the registry API to a status code and an OCI error body.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::respond::{add_cache, add_stale, add_warning, common, in_memory};
use super::route_error::RouteError;
use super::via::Loop;
use crate::cache::{Absence, FetchError, ListingError};
use crate::http::{CacheResult, Fields, Response};
use crate::oci::{ErrorCode, Namespace, Origin, ParseDigestError};
use crate::runtime::clock::unix_seconds;
use crate::runtime::heartbeat::HealthError;
use crate::upstream::{ResponseVerdict, UpstreamError, seconds_left};

/// An error that ends a request.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("this cache is read-only; push to the registry itself")]
    ReadOnly,
    #[error(transparent)]
    Listing(#[from] ListingError),
    #[error("authentication required: send a user name and a password for this cache")]
    Unauthorized,
    #[error("the user name or the password for this cache is wrong; check the login")]
    WrongPassword,
    #[error("a trusted client certificate is required; connect with a certificate that this cache accepts")]
    CertificateRequired,
    #[error("the limit of concurrent password checks is reached; retry later")]
    AuthOverloaded,
    /// No rule allows the client to read the repository. The error does not depend on the existence
    /// of the content.
    #[error("this cache does not allow this client to read the repository; request access from the operator")]
    Forbidden,
    #[error(
        "authentication required: send a user name and a password, which this cache forwards to the registry"
    )]
    Login,
    #[error(transparent)]
    Loop(#[from] Loop),
    /// `X-Registry` or `ns` chose a registry that the cache does not serve. The flag marks a
    /// request for referrers.
    #[error("the registry {0} is not listed in this cache; use the registry directly")]
    Unlisted(Namespace, bool),
    #[error("this cache does not serve the registry {0}; list the registry under `registries`")]
    NotAllowed(Namespace),
    /// A failed health check.
    #[error(transparent)]
    Health(#[from] HealthError),
    /// A failed health check. The store does not respond, and the cache is air-gapped.
    #[error(
        "the store does not respond, and air-gapped mode forbids requests to registries; check the disk or the bucket"
    )]
    StoreSilent,
}

/// The requested content. Empty until the route is known.
#[derive(Default, Debug)]
pub struct Wanted {
    /// The content with its registry and repository, as text for messages.
    pub subject: Option<String>,
    pub origin: Option<Origin>,
    pub kind: Kind,
    /// Whether the content is the manifest of a tag.
    pub is_tag: bool,
    pub challenges: Challenges,
}

/// The challenges of an upstream that the client receives. The answer to a Basic challenge is a
/// password, sent to this cache. For a token challenge, the client sends credentials to the token
/// service in the challenge.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Challenges {
    /// No challenge, because the cache does not forward the client's credentials.
    #[default]
    None,
    /// Token challenges only. The client requests a token for the registry in the image name. A
    /// Basic challenge from an arbitrary registry would make clients send this cache a password for
    /// another service.
    Tokens,
    /// All challenges. The operator configured the registry, and so trusts the registry with the
    /// credentials of clients for this cache.
    All,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Kind {
    Manifest,
    Blob,
    #[default]
    Other,
}

impl Wanted {
    /// Returns the text of an error, beginning with the requested content. The host in the error
    /// may be a mirror, or an address that clients do not know.
    fn message(&self, error: &dyn std::fmt::Display) -> String {
        match &self.subject {
            Some(subject) => format!("cannot get {subject}: {error}"),
            None => error.to_string(),
        }
    }
}

impl PullError {
    /// Returns the status of the upstream response that caused the error.
    pub fn upstream_status(&self) -> Option<u16> {
        match self {
            PullError::Fetch(error) => error.upstream_status(),
            PullError::Listing(error) => error.upstream_status(),
            _ => None,
        }
    }

    pub fn response(&self, wanted: &Wanted) -> Response {
        match self {
            PullError::Route(error) => route(error),
            PullError::Fetch(error) => fetch(error, wanted),
            PullError::ReadOnly => refuse(
                405,
                ErrorCode::Unsupported,
                &self.to_string(),
                Fields::new().with("Allow", "GET, HEAD"),
            ),
            PullError::Listing(ListingError::Fetch(error)) => fetch(error, wanted),
            PullError::Listing(ListingError::NoReferrers(_) | ListingError::NotAnIndex { .. }) => {
                let text = wanted.message(self);
                refuse(404, ErrorCode::ManifestUnknown, &text, Fields::new())
            }
            PullError::Listing(ListingError::TooLarge { .. }) => {
                refuse(502, ErrorCode::Unknown, &wanted.message(self), Fields::new())
            }
            PullError::Unauthorized | PullError::WrongPassword | PullError::Login => refuse(
                401,
                ErrorCode::Unauthorized,
                &self.to_string(),
                Fields::new().with("WWW-Authenticate", "Basic realm=\"oci-pull-through\""),
            ),
            // Clients and caches retry a 502, but a retry of a loop always fails (RFC 5842, 7.2).
            PullError::Loop(error) => refuse(508, ErrorCode::Unknown, &error.to_string(), Fields::new()),
            // After a 404, a client with `ns` contacts the registry directly. `NAME_UNKNOWN` would
            // end a search for referrers, although the client has a fallback.
            PullError::Unlisted(_, referrers) => {
                let code = if *referrers {
                    ErrorCode::ManifestUnknown
                } else {
                    ErrorCode::NameUnknown
                };
                refuse(404, code, &self.to_string(), Fields::new())
            }
            PullError::Health(_) | PullError::StoreSilent => refuse(
                503,
                ErrorCode::Unavailable,
                &self.to_string(),
                Fields::new().with("Cache-Control", "no-store"),
            ),
            // A challenge would make clients send passwords that the cache never accepts.
            PullError::CertificateRequired | PullError::Forbidden => {
                refuse(403, ErrorCode::Denied, &self.to_string(), Fields::new())
            }
            PullError::AuthOverloaded => refuse(
                503,
                ErrorCode::Unavailable,
                &self.to_string(),
                Fields::new().with("Retry-After", "1"),
            ),
            PullError::NotAllowed(_) => refuse(403, ErrorCode::Denied, &self.to_string(), Fields::new()),
        }
    }
}

fn route(error: &RouteError) -> Response {
    let (status, code) = match error {
        RouteError::NotFound => (404, ErrorCode::NameUnknown),
        RouteError::Catalog => (404, ErrorCode::Unsupported),
        RouteError::Name | RouteError::Namespace | RouteError::NoRegistry | RouteError::Disagree => {
            (400, ErrorCode::NameInvalid)
        }
        RouteError::Reference => (400, ErrorCode::ManifestInvalid),
        RouteError::Page => (400, ErrorCode::Unsupported),
        RouteError::Digest(ParseDigestError::Algorithm) => (400, ErrorCode::Unsupported),
        RouteError::Digest(_) => (400, ErrorCode::DigestInvalid),
    };
    refuse(status, code, &error.to_string(), Fields::new())
}

fn fetch(error: &FetchError, wanted: &Wanted) -> Response {
    let text = wanted.message(error);
    let bad_gateway = |code| refuse(502, code, &text, Fields::new());
    match error {
        FetchError::Upstream(error) => upstream(error, wanted),
        FetchError::Absent(absence) => absent(absence, wanted),
        FetchError::DigestMismatch { .. } => bad_gateway(ErrorCode::DigestInvalid),
        FetchError::ManifestTooLarge { .. } | FetchError::Schema1 | FetchError::NotManifest { .. } => {
            bad_gateway(ErrorCode::ManifestInvalid)
        }
        FetchError::Unproven(UpstreamError::AirGapped { .. }) => {
            refuse(404, wanted.kind.unknown(), &text, Fields::new())
        }
        FetchError::Unproven(_) => refuse(
            502,
            ErrorCode::Unavailable,
            &text,
            Fields::new().with("Retry-After", "1"),
        ),
        FetchError::Incomplete { .. } => refuse(504, ErrorCode::Unavailable, &text, Fields::new()),
        FetchError::Overloaded
        | FetchError::Abandoned(_)
        | FetchError::Displaced
        | FetchError::Gone
        | FetchError::NotStored => refuse(
            503,
            ErrorCode::Unavailable,
            &text,
            Fields::new().with("Retry-After", "1"),
        ),
        FetchError::Lost => refuse(500, ErrorCode::Unknown, &text, Fields::new()),
    }
}

/// Builds a 404 from a kept absence, marked as stale.
fn absent(absence: &Absence, wanted: &Wanted) -> Response {
    let age = unix_seconds().saturating_sub(absence.checked_ms / 1000);
    let mut fields = Fields::new().with("Age", age.to_string());
    if let Some(origin) = &wanted.origin {
        add_stale(&mut fields, &origin.namespace, &absence.why);
    }
    add_cache(&mut fields, CacheResult::Stale);
    Response {
        cache: CacheResult::Stale,
        ..refuse(404, wanted.kind.unknown(), &absence.to_string(), fields)
    }
}

fn upstream(error: &UpstreamError, wanted: &Wanted) -> Response {
    let origin = wanted.origin.as_ref();
    let mut text = wanted.message(error);
    if let Some(words) = error.words() {
        text += &format!("; message: {words}");
    }
    match error {
        UpstreamError::Status { status, verdict, .. } => refusal(error, *status, *verdict, wanted, &text),
        // If the client named the host, the client is at fault (403). Otherwise the registry that
        // referred to the host is at fault (502).
        UpstreamError::Refused { host, .. } => {
            let chosen = origin.is_some_and(|origin| origin.namespace.as_str() == &**host);
            let (status, code) = if chosen {
                (403, ErrorCode::Denied)
            } else {
                (502, ErrorCode::Unavailable)
            };
            refuse(status, code, &text, Fields::new())
        }
        UpstreamError::Redirected { location, .. } => {
            let fields = common().with("Location", location.as_bytes());
            in_memory(307, fields, Bytes::new(), CacheResult::None)
        }
        UpstreamError::Overloaded { .. } => refuse(
            503,
            ErrorCode::Unavailable,
            &text,
            Fields::new().with("Retry-After", "1"),
        ),
        UpstreamError::Timeout { .. } => refuse(504, ErrorCode::Unavailable, &text, Fields::new()),
        // The probe of another request may succeed a second later.
        UpstreamError::Unavailable { timed_out, .. } => refuse(
            if *timed_out { 504 } else { 502 },
            ErrorCode::Unavailable,
            &text,
            Fields::new().with("Retry-After", "1"),
        ),
        UpstreamError::RateLimited { retry_after, .. } => refuse(
            429,
            ErrorCode::TooManyRequests,
            &text,
            Fields::new().with("Retry-After", seconds_left(retry_after).to_string()),
        ),
        UpstreamError::AirGapped { .. } => {
            let by_tag = match wanted.is_tag {
                true => "; content that was loaded by digest has no tag, so load the tag",
                false => "",
            };
            let text = wanted.message(&format_args!(
                "not cached, and {error}; turn air-gapped mode off to fetch the content{by_tag}"
            ));
            refuse(404, wanted.kind.unknown(), &text, Fields::new())
        }
        _ => refuse(502, ErrorCode::Unavailable, &text, Fields::new()),
    }
}

/// Builds the response for a refusal of the upstream. `text` is the message for the client.
fn refusal(
    error: &UpstreamError,
    status: u16,
    verdict: ResponseVerdict,
    wanted: &Wanted,
    text: &str,
) -> Response {
    let mut fields = Fields::new();
    let wait = match (error.retry_after(), status) {
        // Without `Retry-After`, clients retry at once.
        (None, 429) => Some(Duration::ZERO),
        (wait, _) => wait,
    };
    if let Some(wait) = wait {
        fields.add("Retry-After", seconds_left(&wait).to_string());
    }
    for warning in error.warnings() {
        add_warning(&mut fields, &warning);
    }
    match verdict {
        ResponseVerdict::Gone => refuse(404, wanted.kind.unknown(), text, fields),
        ResponseVerdict::Challenge => unauthorized(error, wanted.challenges, text, fields),
        ResponseVerdict::Forbidden => refuse(403, ErrorCode::Denied, text, fields),
        ResponseVerdict::Limited => refuse(429, ErrorCode::TooManyRequests, text, fields),
        ResponseVerdict::Trouble => refuse(
            if status == 504 { 504 } else { 502 },
            ErrorCode::Unavailable,
            text,
            fields,
        ),
        // Clients cannot handle any other status either.
        ResponseVerdict::NotFinal
        | ResponseVerdict::Content
        | ResponseVerdict::Redirect
        | ResponseVerdict::Unfit => refuse(502, ErrorCode::Unknown, text, fields),
    }
}

/// Builds a 401 with the challenges for the client. Without a challenge, the status is 403, because
/// a client cannot answer such a 401.
fn unauthorized(error: &UpstreamError, forwarded: Challenges, text: &str, mut fields: Fields) -> Response {
    let challenges = match forwarded {
        Challenges::None => Vec::new(),
        Challenges::Tokens => error.challenges(false),
        Challenges::All => error.challenges(true),
    };
    for challenge in &challenges {
        fields.add("WWW-Authenticate", challenge);
    }
    if challenges.is_empty() {
        refuse(403, ErrorCode::Denied, text, fields)
    } else {
        refuse(401, ErrorCode::Unauthorized, text, fields)
    }
}

impl Kind {
    fn unknown(self) -> ErrorCode {
        match self {
            Kind::Manifest => ErrorCode::ManifestUnknown,
            Kind::Blob => ErrorCode::BlobUnknown,
            Kind::Other => ErrorCode::NameUnknown,
        }
    }
}

fn refuse(status: u16, code: ErrorCode, message: &str, fields: Fields) -> Response {
    let body = json!({ "errors": [{ "code": code.as_str(), "message": message }] }).to_string();
    let mut all = common().with("Content-Type", "application/json");
    all.append(&fields);
    in_memory(status, all, body.into(), CacheResult::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abandoned_fetch_is_answered_with_503_and_does_not_blame_the_store() {
        let error = FetchError::Abandoned("no client left");
        let response = fetch(&error, &Wanted::default());
        let fields = response.fields.to_map();
        assert_eq!(
            (response.status, &fields["retry-after"]),
            (503, &"1".parse().unwrap())
        );
        let text = error.to_string();
        assert!(
            text.contains("no client left") && !text.contains("store"),
            "{text}"
        );
    }
}
