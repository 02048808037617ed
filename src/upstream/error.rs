//! Errors of requests to an upstream: the side at fault, and whether a retry may help.
//!
//! Texts name the host and the phase. They never hold a query string (presigned URLs are secrets) nor
//! any credential.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use reqwest::Url;

use super::verdict::Verdict;

/// Why a request brought no usable answer, or a body no clean end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The registry, or the token service it sent us to, said no. `headers` holds only what a client
    /// may need (challenges, `Retry-After`, `Warning`, rate limits); `body` is cut at 64 KiB and empty for HEAD.
    #[error("{host} answered {status} to the {phase} request")]
    Status {
        host: Arc<str>,
        phase: Phase,
        status: u16,
        /// What that says about the content.
        verdict: Verdict,
        /// Boxed: it is most of the size of every `Result`.
        headers: Box<HeaderMap>,
        body: Bytes,
    },
    /// The registry answered with a redirect, and the target did not accept it (400, 401 or 403: an expired or wrongly
    /// signed URL). Not the client's credentials are at fault; another request to the registry may help.
    #[error("{host} answered {status} to a request the registry redirected there")]
    RedirectTarget { host: Arc<str>, status: u16 },
    /// We do not contact this place. The client chose it, or the registry did by a redirect or realm.
    #[error("{host} is not contacted: {reason}")]
    Refused { host: Arc<str>, reason: Refusal },
    /// The proxy that was to be used did not let us through. There is no way around it.
    #[error("the proxy {proxy} does not lead to {host}: {cause}")]
    Proxy {
        host: Arc<str>,
        proxy: Arc<str>,
        cause: Arc<str>,
    },
    /// The configured credentials cannot be had: a file that cannot be read, a helper that fails.
    #[error("no credentials for {host}: {cause}")]
    Credentials { host: Arc<str>, cause: Arc<str> },
    /// The maximum number of requests to this registry is in flight, and none ended in time.
    #[error("too many requests to {host} are in flight")]
    Overloaded { host: Arc<str> },
    /// The blob is elsewhere, and the operator wants clients to go there themselves. No failure; the answer.
    #[error("{host} redirected to another place")]
    Redirected { host: Arc<str>, location: Location },
    /// No connection: name resolution, routing, refusal.
    #[error("cannot connect to {host}: {cause}")]
    Connect { host: Arc<str>, cause: Arc<str> },
    /// The TLS handshake failed: certificate or protocol.
    #[error("no TLS session with {host}: {cause}")]
    Tls { host: Arc<str>, cause: Arc<str> },
    /// Silence for longer than we wait.
    #[error("{host} did not answer in time ({phase})")]
    Timeout { host: Arc<str>, phase: Phase },
    /// The connection broke, or carried nonsense, before the response head was complete.
    #[error("{host} broke off before its response head: {cause}")]
    Head { host: Arc<str>, cause: Arc<str> },
    /// The upstream broke a rule of HTTP or of the distribution specification.
    #[error("{host} broke the protocol: {what}")]
    Protocol { host: Arc<str>, what: Arc<str> },
    /// The body broke off, or does not have the promised length.
    #[error("{host} broke off its body: {cause}")]
    Body { host: Arc<str>, cause: Arc<str> },
    /// The request was not sent: the registry has failed for `lasting`. Probes detect its recovery.
    #[error("{host} has been unavailable for {} s; requests are suspended: {why}", lasting.as_secs())]
    Unavailable {
        host: Arc<str>,
        lasting: Duration,
        /// The last failure.
        why: Arc<str>,
        /// Whether that was silence.
        timed_out: bool,
    },
    /// The request was not sent: the registry limits our requests. Requests are sent again after `retry_after`.
    #[error(
        "requests to {host} are suspended for {} s: {restraint}",
        seconds_left(retry_after)
    )]
    RateLimited {
        host: Arc<str>,
        restraint: Restraint,
        retry_after: Duration,
    },
    /// The request was not sent: the operator has chosen air-gapped mode.
    #[error("not cached, and air-gapped mode forbids contacting {host}")]
    AirGapped { host: Arc<str> },
}

/// A time to wait in whole seconds, never too short and never none.
pub fn seconds_left(wait: &Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// Why a request to an available registry is suppressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Restraint {
    #[error("it has answered 429")]
    Refused,
    /// The rest of the budget is for requests without a held copy.
    #[error("little is left of the requests it grants")]
    NearlySpent,
}

/// Which part of an exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Resolve,
    /// TCP and TLS.
    Connect,
    /// From the request to the response head.
    Head,
    /// Between two pieces of a body.
    Body,
    /// The request for a token, all of it.
    Token,
    /// The whole way to a response head: token, redirects, repetitions.
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

/// Which rule keeps us from contacting a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("only https is used with registries that are not configured as plain http")]
    Scheme,
    #[error("only port 443 is used with registries that are not configured")]
    Port,
    #[error("registries that are not configured are named by a host name with a dot, not by address")]
    Host,
    #[error("the URL carries a user name")]
    UserInfo,
    #[error("its address is not a public one, and the registry is not configured")]
    Address,
    #[error("its address is link-local, multicast, or a metadata service")]
    ForbiddenAddress,
    #[error(
        "it is a token service of another domain than the registry's; only a host listed in realm_hosts gets the registry's credentials"
    )]
    Realm,
    #[error("a redirect leads from https to http")]
    Downgrade,
}

/// Where a redirect leads, as the value of a `Location` field. Signed URLs are secrets, so it prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Location(HeaderValue);

impl Location {
    /// `None` for what cannot be a header value, which no parsed URL is.
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
    /// Returns whether a second request for the same bytes within seconds may succeed: the way to resume a broken body.
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
            // 429 too: clients are waiting in the middle of a body, and limits are often per second.
            UpstreamError::Status { verdict, .. } => verdict.may_pass(),
            // A certificate, a rule of ours or a broken implementation is the same a second later.
            UpstreamError::Tls { .. }
            | UpstreamError::Refused { .. }
            | UpstreamError::Redirected { .. }
            | UpstreamError::Protocol { .. }
            | UpstreamError::AirGapped { .. } => false,
        }
    }

    /// Whether this says nothing about the content, so that a stale copy may be served: the upstream is
    /// down, broken or overloaded. A refusal (401, 403, 404, our own rules) is an answer.
    pub fn is_outage(&self) -> bool {
        match self {
            UpstreamError::Status { verdict, .. } => verdict.serves_stale(),
            UpstreamError::Refused { .. } | UpstreamError::Redirected { .. } => false,
            _ => true,
        }
    }

    /// What the upstream's status says about the content, where it gave one.
    pub fn verdict(&self) -> Option<Verdict> {
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

/// A configuration no upstream can be built from. A configuration error, or an unusable TLS set-up.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("registry {name}: {reason}")]
    Registry { name: String, reason: &'static str },
    #[error("registry {name}: {file} cannot be used: {reason}")]
    Pem {
        name: String,
        file: String,
        reason: String,
    },
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the HTTP client cannot be set up: {0}")]
    Client(#[from] reqwest::Error),
}

/// The innermost reason of an error, which is the most specific one. Never holds a URL.
pub(super) fn cause(error: reqwest::Error) -> String {
    innermost(&error.without_url()).to_string()
}

/// The innermost reason itself. The outermost holds the URL.
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

/// All reasons of an error that are of one kind, the outermost first.
pub(super) fn all<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a E> {
    std::iter::successors(Some(error), |error| source_of(*error)).filter_map(|error| error.downcast_ref())
}

/// Like [`Error::source`], but stops at what an [`std::io::Error`] wraps instead of stepping over it.
fn source_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref()) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// `host` or `host:port`, for messages.
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
            verdict: Verdict::of_status(status),
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
            "requests to r.example are suspended for 2 s: it has answered 429"
        );
        // What we hold is all there is, and serves.
        let gap = UpstreamError::AirGapped { host };
        assert!(!gap.is_retryable() && gap.is_outage());
    }

    #[test]
    fn errors_can_be_shared_between_threads() {
        fn shared<T: Send + Sync + Clone + 'static>() {}
        shared::<UpstreamError>();
    }
}
