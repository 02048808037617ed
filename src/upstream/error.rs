//! What went wrong between us and an upstream, whose fault it was, and whether to ask again.
//!
//! Texts name the host and the phase. They never hold a query string (presigned URLs are secrets) nor
//! any credential.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

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
    /// signed URL). Not the client's credentials are at fault; asking the registry again may help.
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
    /// As many requests as the operator allows for this registry are under way, and none ended in time.
    #[error("too many requests to {host} are under way")]
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
    /// We have not asked: the registry has failed for `lasting`, and probes find out when it is back.
    #[error("{host} has failed for {} s and is hardly asked any more: {why}", lasting.as_secs())]
    Unavailable {
        host: Arc<str>,
        lasting: Duration,
        /// The last failure.
        why: Arc<str>,
        /// Whether that was silence.
        timed_out: bool,
    },
    /// We have not asked: the registry limits our requests. It is asked again after `retry_after`.
    #[error("{host} is not asked for {} s: {restraint}", seconds_left(retry_after))]
    RateLimited {
        host: Arc<str>,
        restraint: Restraint,
        retry_after: Duration,
    },
    /// We ask nobody: so the operator has decided.
    #[error("{host} is not asked: the cache is air-gapped, it has only what it has")]
    AirGapped { host: Arc<str> },
}

/// A time to wait in whole seconds, never too short and never none.
pub fn seconds_left(wait: &Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// Why we keep from asking a registry that would answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Restraint {
    #[error("it has answered 429")]
    Refused,
    /// What is left is for those who have nothing else to give.
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
    #[error("only https is spoken with registries that are not configured as plain http")]
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
        "it is a token service of another domain than the registry's; only one listed in realm_hosts is asked with the registry's credentials"
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
    /// Whether asking for the same bytes again within seconds may succeed: the way to resume a broken body.
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

/// A configuration no upstream can be built from. The operator's mistake, or an unusable TLS set-up.
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
    fn what_may_pass_by_itself_is_asked_again_and_an_answer_is_not() {
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
            "r.example is not asked for 2 s: it has answered 429"
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
