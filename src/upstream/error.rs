//! Errors of upstream requests: the host at fault, the phase, and whether a retry may help.
//!
//! The texts contain the host and the phase. The texts never contain credentials or a query string,
//! because presigned URLs are secrets.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use reqwest::Url;

use super::verdict::ResponseVerdict;

/// The reason why a request has no usable answer or a body has no clean end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The registry or its token service refused the request. `headers` contains only the fields
    /// for clients (challenges, `Retry-After`, `Warning`, rate limits). `body` is cut at 64 KiB,
    /// and empty for HEAD.
    #[error("{host} answered {status} to the {phase} request")]
    Status {
        host: Arc<str>,
        phase: Phase,
        status: u16,
        /// The meaning of the status for the content.
        verdict: ResponseVerdict,
        /// Boxed, because the map would dominate the size of every `Result`.
        headers: Box<HeaderMap>,
        body: Bytes,
    },
    /// The registry redirected the request, and the target refused it (400, 401 or 403: an expired
    /// or wrongly signed URL). The client's credentials are not at fault, and another request to
    /// the registry may help.
    #[error("{host}, the target of a redirect by the registry, answered {status}")]
    RedirectTarget { host: Arc<str>, status: u16 },
    /// The policy forbids this host. The client chose the host, or the registry chose it in a
    /// redirect or realm.
    #[error("{host} is not contacted: {reason}")]
    Refused { host: Arc<str>, reason: Refusal },
    /// The configured proxy failed or refused the connection. There is no fallback.
    #[error("cannot reach {host} through the proxy {proxy}: {cause}")]
    Proxy {
        host: Arc<str>,
        proxy: Arc<str>,
        cause: Arc<str>,
    },
    /// The configured credentials are not available, such as an unreadable file or a failed helper.
    #[error("no credentials for {host}: {cause}")]
    Credentials { host: Arc<str>, cause: Arc<str> },
    /// The maximum number of requests to this registry is in flight, and none ended in time.
    #[error("the limit of concurrent requests to {host} is reached; retry later")]
    Overloaded { host: Arc<str> },
    /// The registry redirected to another host, and the operator lets clients follow redirects
    /// themselves. Not a failure but the answer.
    #[error("{host} redirected the request to another host")]
    Redirected {
        host: Arc<str>,
        status: u16,
        location: Location,
    },
    /// No connection, because of name resolution, routing or a refusal.
    #[error("cannot connect to {host}: {cause}")]
    Connect { host: Arc<str>, cause: Arc<str> },
    /// The TLS handshake failed: certificate or protocol.
    #[error("no TLS session with {host}: {cause}")]
    Tls { host: Arc<str>, cause: Arc<str> },
    /// No answer within the deadline.
    #[error("{host} did not answer in time ({phase})")]
    Timeout { host: Arc<str>, phase: Phase },
    /// The connection broke or sent invalid data before the response head was complete.
    #[error("no complete response head from {host}: {cause}")]
    Head { host: Arc<str>, cause: Arc<str> },
    /// The upstream broke a rule of HTTP or of the distribution specification.
    #[error("{host} violated the protocol: {what}")]
    Protocol { host: Arc<str>, what: Arc<str> },
    /// The body broke off or has another length than announced.
    #[error("no complete body from {host}: {cause}")]
    Body { host: Arc<str>, cause: Arc<str> },
    /// The request was not sent, because the registry has failed for `lasting`. Probes detect its
    /// recovery.
    #[error("{host} has been unavailable for {} s; requests are suspended: {why}", lasting.as_secs())]
    Unavailable {
        host: Arc<str>,
        lasting: Duration,
        /// The last failure.
        why: Arc<str>,
        /// Whether the last failure was a timeout.
        timed_out: bool,
    },
    /// The request was not sent, because the registry limits our requests. Requests resume after
    /// `retry_after`.
    #[error(
        "requests to {host} are suspended for {} s: {restraint}",
        seconds_left(retry_after)
    )]
    RateLimited {
        host: Arc<str>,
        restraint: Restraint,
        retry_after: Duration,
    },
    /// The request was not sent, because the cache is in air-gapped mode.
    #[error("air-gapped mode forbids contacting {host}")]
    AirGapped { host: Arc<str> },
}

/// Returns a wait in whole seconds, rounded up, at least 1.
pub fn seconds_left(wait: &Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// The reason for a suppressed request to an available registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Restraint {
    #[error("the registry answered 429")]
    Refused,
    /// The rest of the budget is reserved for requests without a held copy.
    #[error("few requests remain in the rate limit")]
    NearlySpent,
}

/// The phase of an exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Resolve,
    /// TCP and TLS.
    Connect,
    /// From the request to the response head.
    Head,
    /// Between two chunks of a body.
    Body,
    /// The whole request for a token.
    Token,
    /// All steps up to a response head: token, redirects, retries.
    Exchange,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Resolve => "name resolution",
            Phase::Connect => "connect",
            Phase::Head => "content",
            Phase::Body => "body",
            Phase::Token => "token",
            Phase::Exchange => "whole exchange",
        })
    }
}

/// The policy rule for a forbidden host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("https is required, except for a registry that is configured with plain http")]
    Scheme,
    #[error("port 443 is required for a registry that is not configured")]
    Port,
    #[error("a registry that is not configured needs a host name with a dot, not an address")]
    Host,
    #[error("the URL contains a user name")]
    UserInfo,
    #[error(
        "the address is not public, and the registry is not configured; list the registry under `registries`"
    )]
    Address,
    #[error("the address is link-local, multicast, or a metadata service")]
    ForbiddenAddress,
    #[error(
        "the token service has another domain than the registry; list the host in realm_hosts to allow credentials"
    )]
    Realm,
    #[error("the redirect leads from https to http")]
    Downgrade,
}

/// The target of a redirect, as the value of a `Location` field. Prints as `***`, because signed
/// URLs are secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Location(HeaderValue);

impl Location {
    /// Returns `None` if the URL is not a valid header value. Parsed URLs always are.
    pub(super) fn new(url: &reqwest::Url) -> Option<Self> {
        HeaderValue::from_str(url.as_str()).ok().map(Location)
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl UpstreamError {
    /// Returns whether another request for the same bytes may succeed within seconds. Used to
    /// resume broken bodies.
    pub fn is_retryable(&self) -> bool {
        match self {
            UpstreamError::Connect { .. }
            | UpstreamError::Timeout { .. }
            | UpstreamError::Head { .. }
            | UpstreamError::Body { .. }
            | UpstreamError::Proxy { .. }
            | UpstreamError::Credentials { .. }
            | UpstreamError::Overloaded { .. }
            | UpstreamError::Unavailable { .. }
            | UpstreamError::RateLimited { .. }
            | UpstreamError::RedirectTarget { .. } => true,
            // Includes 429. Clients are waiting in the middle of a body, and limits are often per
            // second.
            UpstreamError::Status { verdict, .. } => verdict.may_pass(),
            // A retry does not change a certificate, a policy or a broken implementation.
            UpstreamError::Tls { .. }
            | UpstreamError::Refused { .. }
            | UpstreamError::Redirected { .. }
            | UpstreamError::Protocol { .. }
            | UpstreamError::AirGapped { .. } => false,
        }
    }

    /// Returns whether the error gives no information about the content, so a stale copy may be
    /// served. True if the upstream is down, broken or overloaded. A refusal (401, 403, 404, our
    /// own policy) is an answer.
    pub fn is_outage(&self) -> bool {
        match self {
            UpstreamError::Status { verdict, .. } => verdict.serves_stale(),
            UpstreamError::Refused { .. } | UpstreamError::Redirected { .. } => false,
            _ => true,
        }
    }

    /// Returns whether the upstream answered about the content, or the request was not sent. The
    /// cache reports a suspension of requests once, and not for each request.
    pub fn is_answer_or_suspension(&self) -> bool {
        match self {
            UpstreamError::Unavailable { .. }
            | UpstreamError::RateLimited { .. }
            | UpstreamError::AirGapped { .. } => true,
            error => !error.is_outage(),
        }
    }

    /// Returns the status of the upstream's response, if the response decided the outcome.
    pub fn status(&self) -> Option<u16> {
        match self {
            UpstreamError::Status { status, .. }
            | UpstreamError::RedirectTarget { status, .. }
            | UpstreamError::Redirected { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Returns the verdict of the upstream's status, if there is a status.
    pub fn verdict(&self) -> Option<ResponseVerdict> {
        match self {
            UpstreamError::Status { verdict, .. } => Some(*verdict),
            _ => None,
        }
    }

    pub(super) fn protocol(host: &Arc<str>, what: impl Into<Arc<str>>) -> Self {
        UpstreamError::Protocol {
            host: host.clone(),
            what: what.into(),
        }
    }
}

/// A configuration or TLS setup without a usable upstream.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("registry {name}: {reason}")]
    Registry { name: String, reason: &'static str },
    #[error("registry {name}: cannot use {file}: {reason}")]
    Pem {
        name: String,
        file: String,
        reason: String,
    },
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot set up the HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// Returns the text of the innermost and most specific cause of an error. Never contains a URL.
pub(super) fn cause(error: reqwest::Error) -> String {
    innermost(&error.without_url()).to_string()
}

/// Returns the innermost cause. The outermost error contains the URL.
pub(super) fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut innermost = error;
    while let Some(source) = source_of(innermost) {
        innermost = source;
    }
    innermost
}

pub(super) fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    all(error).next()
}

/// Returns all causes of type `E`, outermost first.
pub(super) fn all<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a E> {
    std::iter::successors(Some(error), |error| source_of(*error)).filter_map(|error| error.downcast_ref())
}

/// Like [`Error::source`], but does not skip the error inside an [`std::io::Error`].
fn source_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref()) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// Returns `host` or `host:port`, for messages.
pub(super) fn host_of(url: &Url) -> Arc<str> {
    let host = url.host_str().unwrap_or("(no host)");
    match url.port() {
        Some(port) => format!("{host}:{port}").into(),
        None => host.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16) -> UpstreamError {
        let (headers, body) = (Box::default(), Bytes::new());
        UpstreamError::Status {
            host: "r.example".into(),
            phase: Phase::Head,
            status,
            verdict: ResponseVerdict::of_status(status),
            headers,
            body,
        }
    }

    #[test]
    fn transient_failures_are_retried_and_answers_are_not() {
        for again in [408, 429, 500, 502, 503, 504] {
            assert!(
                status(again).is_retryable() && status(again).is_outage(),
                "{again}"
            );
        }
        for answer in [401, 403, 404, 410, 451] {
            assert!(
                !status(answer).is_retryable() && !status(answer).is_outage(),
                "{answer}"
            );
        }
        for unfit in [400, 405, 416, 501] {
            assert!(
                !status(unfit).is_retryable() && status(unfit).is_outage(),
                "{unfit}"
            );
        }
        let host: Arc<str> = "r.example".into();
        let refused = UpstreamError::Refused {
            host: host.clone(),
            reason: Refusal::Address,
        };
        assert!(!refused.is_retryable() && !refused.is_outage());
        let tls = UpstreamError::Tls {
            host: host.clone(),
            cause: "expired".into(),
        };
        assert!(!tls.is_retryable() && tls.is_outage());
        let body = UpstreamError::Body {
            host,
            cause: "reset".into(),
        };
        assert!(body.is_retryable() && body.is_outage());
        let host: Arc<str> = "r.example".into();
        let limited = UpstreamError::RateLimited {
            host: host.clone(),
            restraint: Restraint::Refused,
            retry_after: Duration::from_millis(1_500),
        };
        assert!(limited.is_retryable() && limited.is_outage());
        assert_eq!(
            limited.to_string(),
            "requests to r.example are suspended for 2 s: the registry answered 429"
        );
        // The held copy is the only one, and is served.
        let gap = UpstreamError::AirGapped { host };
        assert!(!gap.is_retryable() && gap.is_outage());
    }

    #[test]
    fn answers_and_suspended_requests_are_told_from_failures() {
        let host: Arc<str> = "r.example".into();
        let suspended = UpstreamError::Unavailable {
            host: host.clone(),
            lasting: Duration::from_secs(3),
            why: "reset".into(),
            timed_out: false,
        };
        let air_gapped = UpstreamError::AirGapped { host: host.clone() };
        for expected in [status(401), status(403), status(404), suspended, air_gapped] {
            assert!(expected.is_answer_or_suspension(), "{expected}");
        }
        let broken = UpstreamError::Body {
            host,
            cause: "reset".into(),
        };
        for failure in [status(400), status(429), status(500), broken] {
            assert!(!failure.is_answer_or_suspension(), "{failure}");
        }
    }

    #[test]
    fn errors_can_be_shared_between_threads() {
        fn shared<T: Send + Sync + Clone + 'static>() {}
        shared::<UpstreamError>();
    }
}
