//! Sends a request, follows redirects, and converts the answer to a response or an error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_RANGE};
use http::{HeaderMap, HeaderName};
use reqwest::Url;
use tokio::time::timeout;

use super::auth::Secret;
use super::content_range::ReceivedRange;
use super::endpoint::Endpoint;
use super::error::{Location, Phase, Refusal, UpstreamError, cause, find, host_of};
use super::resolve::AddressesRefused;
use super::response::{UpstreamBody, UpstreamResponse};
use super::verdict::ResponseVerdict;
use super::{Deadlines, cure, headers, redirect};
use crate::metrics::{self, UpstreamKind};
use crate::oci::Namespace;
use crate::trace::{self, Attribute, OpenSpan, Operation};

/// The maximum size of an error body. OCI error bodies are below 4 KiB, and HTML pages of load
/// balancers are below this limit.
const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;

/// The maximum size of a response head. Google's registries send several KiB, and signed URLs add a
/// few more.
const HEAD_BYTES_MAX: usize = 128 * 1024;

/// The deadline for the body of a redirect or refusal. Reading the body yields the error text and
/// keeps the connection, but neither justifies a longer wait.
const ERROR_BODY_DEADLINE: Duration = Duration::from_secs(2);

/// W3C Trace Context, 3.2.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The HTTP request that is sent to each hop.
pub(super) struct OutgoingRequest {
    pub method: http::Method,
    /// The header fields, without `Authorization`.
    pub headers: HeaderMap,
    /// The body of a POST to a token service.
    pub body: Option<Bytes>,
    pub redirects: Redirects,
    /// The registry and the kind for the metrics.
    pub registry: Namespace,
    pub kind: UpstreamKind,
}

impl OutgoingRequest {
    /// Returns the request with the method GET.
    pub fn by_get(&self) -> OutgoingRequest {
        OutgoingRequest {
            method: http::Method::GET,
            headers: self.headers.clone(),
            body: None,
            redirects: self.redirects,
            registry: self.registry.clone(),
            kind: self.kind,
        }
    }
}

impl OutgoingRequest {
    /// Counts one exchange with an upstream that took `duration`.
    fn count(&self, outcome: &Result<reqwest::Response, UpstreamError>, duration: Duration) {
        let registry = self.registry.as_str();
        let status = outcome.as_ref().ok().map(|response| response.status().as_u16());
        // Names of registries that exist have labels. Clients can choose other names.
        if status.is_some_and(|status| status < 300) {
            metrics::admit_registry(registry);
        }
        metrics::count_upstream_request(registry, self.kind, status, duration);
    }
}

impl OutgoingRequest {
    /// Adds one exchange with `host` to its span.
    fn describe(
        &self,
        span: &mut OpenSpan,
        host: &Arc<str>,
        outcome: &Result<reqwest::Response, UpstreamError>,
    ) {
        let method = match self.method {
            http::Method::GET => "GET",
            http::Method::HEAD => "HEAD",
            http::Method::POST => "POST",
            _ => "_OTHER",
        };
        span.add(Attribute::Method(method));
        span.add(Attribute::Server(host.clone()));
        span.add(Attribute::Registry(self.registry.as_str().into()));
        let status = outcome.as_ref().ok().map(|response| response.status().as_u16());
        match status {
            Some(status) => span.add(Attribute::Status(status)),
            None => span.fail(),
        }
        if status.is_some_and(|status| status >= 400) {
            span.fail();
        }
    }
}

/// Returns the `traceparent` of a request to `url`. `None` without a traced request, for registries,
/// and for redirects to another host.
fn trace_of(endpoint: &Endpoint, url: &Url, span: Option<&OpenSpan>) -> Option<http::HeaderValue> {
    if !endpoint.joins_traces || !redirect::same_origin(url, endpoint.origin()) {
        return None;
    }
    let context = span.map(OpenSpan::context).or_else(trace::current)?;
    http::HeaderValue::from_str(&context.to_string()).ok()
}

/// The treatment of redirects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Redirects {
    Follow,
    /// A redirect to another origin is the answer ([`UpstreamError::Redirected`]).
    Pass,
    /// A redirect within the registry API is followed. Any other redirect is a refusal, because
    /// some registries redirect unsupported requests to an HTML page.
    WithinApi,
}

/// A response head of any status that is not a redirect.
pub(super) struct Answer {
    pub response: reqwest::Response,
    /// The answering host.
    pub host: Arc<str>,
    /// Whether the answer is from another origin than the registry's.
    pub foreign: bool,
}

/// Sends a request to `url` and follows redirects. `secret` is sent to the registry's origin only,
/// and never again after a redirect to another origin.
///
/// # Cancellation
///
/// Closes the connection in use. No other resource is held.
pub(super) async fn follow(
    endpoint: &Endpoint,
    mut url: Url,
    outgoing: &OutgoingRequest,
    secret: Option<&Secret>,
    deadlines: &Deadlines,
) -> Result<Answer, UpstreamError> {
    let mut secret = secret.filter(|_| redirect::same_origin(&url, endpoint.origin()));
    for _ in 0..=redirect::REDIRECTS_MAX {
        let host = host_of(&url);
        let response = send(endpoint, &url, outgoing, secret, deadlines).await?;
        let target = redirect::target(&url, response.headers());
        if !redirect::is_redirect(response.status().as_u16())
            || (outgoing.redirects == Redirects::WithinApi && !leads_within_api(&target))
        {
            let foreign = !redirect::same_origin(&url, endpoint.origin());
            return Ok(Answer {
                response,
                host,
                foreign,
            });
        }
        let from = url;
        let target = target.map_err(|what| UpstreamError::protocol(&host, what))?;
        url = redirect::upgraded(target, &from);
        if from.scheme() == "https" && url.scheme() == "http" {
            return Err(UpstreamError::Refused {
                host: host_of(&url),
                reason: Refusal::Downgrade,
            });
        }
        if !redirect::same_origin(&url, endpoint.origin()) {
            secret = None;
            if outgoing.redirects == Redirects::Pass {
                return Err(passed_on(endpoint, &url, host, response.status().as_u16()));
            }
        }
        tracing::debug!(from = %host, to = %host_of(&url), "redirect followed");
        read_error_body(response).await;
    }
    Err(UpstreamError::protocol(&host_of(&url), "more than 5 redirects"))
}

fn leads_within_api(target: &Result<Url, &'static str>) -> bool {
    target
        .as_ref()
        .is_ok_and(|url| redirect::repository_of(url.path()).is_some())
}

/// Returns the redirect as the answer. The policy also applies to redirects for clients.
fn passed_on(endpoint: &Endpoint, url: &Url, host: Arc<str>, status: u16) -> UpstreamError {
    if let Err(reason) = endpoint.policy.check_url(url) {
        let host = host_of(url);
        return UpstreamError::Refused { host, reason };
    }
    match Location::new(url) {
        Some(location) => UpstreamError::Redirected {
            host,
            status,
            location,
        },
        None => UpstreamError::protocol(&host, "the redirect has an invalid URL"),
    }
}

/// Checks `url` against the endpoint's policy, sends one request, and waits for the response head.
pub(super) async fn send(
    endpoint: &Endpoint,
    url: &Url,
    outgoing: &OutgoingRequest,
    secret: Option<&Secret>,
    deadlines: &Deadlines,
) -> Result<reqwest::Response, UpstreamError> {
    let host = host_of(url);
    let refused = |reason| UpstreamError::Refused {
        host: host.clone(),
        reason,
    };
    endpoint.policy.check_url(url).map_err(refused)?;
    // The resolver does not filter the addresses of a proxy's name, so this name is not allowed as
    // a registry.
    if !endpoint.policy.is_local() && url.host_str().is_some_and(|host| endpoint.routes.is_proxy(host)) {
        return Err(refused(Refusal::Address));
    }
    look_up(endpoint, url, deadlines.resolve).await?;
    let response = send_with_retry(endpoint, url, outgoing, secret, deadlines.head).await?;
    if let Some(way) = endpoint.routes.way(url)
        && response.status() == http::StatusCode::PROXY_AUTHENTICATION_REQUIRED
    {
        return Err(UpstreamError::Proxy {
            host,
            proxy: way.name.clone(),
            cause: "the proxy requires other credentials".into(),
        });
    }
    let head_bytes: usize = response
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if head_bytes > HEAD_BYTES_MAX {
        return Err(UpstreamError::protocol(
            &host,
            "the response head is larger than 128 KiB",
        ));
    }
    Ok(response)
}

/// Sends one request, and sends the request again on a new connection if the first connection breaks.
async fn send_with_retry(
    endpoint: &Endpoint,
    url: &Url,
    outgoing: &OutgoingRequest,
    secret: Option<&Secret>,
    within: Duration,
) -> Result<reqwest::Response, UpstreamError> {
    let host = host_of(url);
    let proxy = endpoint.routes.way(url).map(|way| &way.name);
    let once = async |client: reqwest::Client| {
        let mut request = reqwest::Request::new(outgoing.method.clone(), url.clone());
        *request.headers_mut() = outgoing.headers.clone();
        *request.body_mut() = outgoing.body.clone().map(reqwest::Body::from);
        if let Some(secret) = secret {
            request.headers_mut().insert(AUTHORIZATION, secret.header_value());
        }
        let mut span = trace::child(Operation::UpstreamRequest(outgoing.kind));
        if let Some(context) = trace_of(endpoint, url, span.as_ref()) {
            request.headers_mut().insert(TRACEPARENT, context);
        }
        let began = Instant::now();
        let outcome = match timeout(within, client.execute(request)).await {
            Ok(outcome) => outcome.map_err(|error| not_sent(&host, proxy, error)),
            Err(_elapsed) => Err(UpstreamError::Timeout {
                host: host.clone(),
                phase: Phase::Head,
            }),
        };
        outgoing.count(&outcome, began.elapsed());
        if let Some(span) = &mut span {
            outgoing.describe(span, &host, &outcome);
        }
        outcome
    };
    let client = endpoint.client(url);
    match once(client.kept.clone()).await {
        // A kept connection may have died while idle, perhaps with all others when the upstream was
        // replaced. The answer on a new connection decides.
        //
        // GET and HEAD are idempotent, so a repetition is safe (RFC 9110, 9.2.2). POST occurs only
        // in token requests. A second token request has no effect besides a second token. If the
        // token service accepts a refresh token only once, the second request fails. Without the
        // repetition, the next token request would fail too, because it has the same refresh token.
        Err(UpstreamError::Head { .. }) => once(client.fresh.clone()).await,
        // The cached addresses may be out of date.
        Err(UpstreamError::Connect { .. }) if has_moved(endpoint, url).await => {
            once(client.fresh.clone()).await
        }
        outcome => outcome,
    }
}

/// Resolves the hosts on the way to `url` in advance, so the lookup does not count against the
/// connection deadline.
///
/// # Errors
///
/// Fails if there is no answer within `within`. The connection attempt returns errors of the
/// resolver.
pub(super) async fn look_up(endpoint: &Endpoint, url: &Url, within: Duration) -> Result<(), UpstreamError> {
    let lookups = &endpoint.client(url).lookups;
    let all = async {
        for host in endpoint.routes.looked_up(url) {
            let _repeated = lookups.find(host, endpoint.routes.is_proxy(host)).await;
        }
    };
    timeout(within, all)
        .await
        .map_err(|_elapsed| UpstreamError::Timeout {
            host: host_of(url),
            phase: Phase::Resolve,
        })
}

/// Returns whether the hosts on the way to `url` have new addresses. Called if the cached addresses
/// are unreachable.
async fn has_moved(endpoint: &Endpoint, url: &Url) -> bool {
    let lookups = &endpoint.client(url).lookups;
    let mut moved = false;
    for host in endpoint.routes.looked_up(url) {
        moved |= lookups.renew(host).await;
    }
    moved
}

/// Converts a good answer to a response.
///
/// # Errors
///
/// [`UpstreamError::Status`] with the upstream's error text. [`UpstreamError::Protocol`] if the
/// answer does not fit the request.
pub(super) async fn conclude(
    answer: Answer,
    outgoing: &OutgoingRequest,
    deadlines: &Deadlines,
) -> Result<UpstreamResponse, UpstreamError> {
    let Answer {
        mut response,
        host,
        foreign,
    } = answer;
    let status = response.status().as_u16();
    match ResponseVerdict::of_status(status) {
        ResponseVerdict::Content if status == 200 || outgoing.headers.contains_key(http::header::RANGE) => {}
        // The refusal of an expired signed URL says nothing about the client's rights.
        _ if foreign && matches!(status, 400 | 401 | 403) => {
            return Err(UpstreamError::RedirectTarget { host, status });
        }
        ResponseVerdict::Redirect | ResponseVerdict::Unfit
            if status >= 400 || (outgoing.redirects == Redirects::WithinApi && status >= 300) =>
        {
            return Err(refusal(response, host, Phase::Head).await);
        }
        ResponseVerdict::Challenge
        | ResponseVerdict::Forbidden
        | ResponseVerdict::Gone
        | ResponseVerdict::Limited
        | ResponseVerdict::Trouble => {
            return Err(refusal(response, host, Phase::Head).await);
        }
        ResponseVerdict::NotFinal
        | ResponseVerdict::Content
        | ResponseVerdict::Redirect
        | ResponseVerdict::Unfit => {
            return Err(UpstreamError::protocol(
                &host,
                format!("unexpected status {status}"),
            ));
        }
    }

    let head = response.headers_mut();
    let wrong = |what: &'static str| UpstreamError::protocol(&host, what);
    if !headers::is_identity(head) {
        return Err(wrong(
            "the body is compressed, although the request accepts only `identity`",
        ));
    }
    let content_length = headers::content_length(head).map_err(wrong)?;
    let content_range = match status {
        206 => {
            let text = head.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
            let range = text
                .and_then(ReceivedRange::parse)
                .ok_or(wrong("the partial response has no valid Content-Range"))?;
            if content_length.is_some_and(|length| length != range.len()) {
                return Err(wrong("Content-Length and Content-Range contradict each other"));
            }
            Some(range)
        }
        _ => None,
    };
    let mut head = std::mem::take(head);
    headers::strip_hop_by_hop(&mut head);
    let endpoint = host.clone();
    let body = if outgoing.method == http::Method::HEAD {
        UpstreamBody::empty(host)
    } else {
        let expected = content_length.or(content_range.map(|range| range.len()));
        UpstreamBody::new(response, host, deadlines.idle, expected)
    };
    Ok(UpstreamResponse {
        status,
        headers: head,
        content_length,
        content_range,
        public: false,
        mirror: None,
        endpoint,
        body,
    })
}

/// Reads a refusal and converts it to an error.
pub(super) async fn refusal(response: reqwest::Response, host: Arc<str>, phase: Phase) -> UpstreamError {
    let status = response.status().as_u16();
    let plain = response.url().scheme() == "http";
    let fields = response.headers().clone();
    let body = read_error_body(response).await;
    if plain && cure::wants_tls(status, &body) {
        let cause = cure::WANTS_TLS.into();
        return UpstreamError::Tls { host, cause };
    }
    let headers = Box::new(headers::keep_for_errors(&fields));
    UpstreamError::Status {
        host,
        phase,
        status,
        verdict: ResponseVerdict::of_refusal(status, &fields, &body),
        headers,
        body,
    }
}

/// Reads the body of a redirect or refusal, at most [`ERROR_BODY_BYTES_MAX`]. If the body breaks or is
/// slow, returns the bytes received. If the body ends in time, the connection stays usable.
pub(super) async fn read_error_body(mut response: reqwest::Response) -> Bytes {
    let mut body = BytesMut::new();
    let read = async {
        while let Ok(Some(bytes)) = response.chunk().await {
            let room = ERROR_BODY_BYTES_MAX - body.len();
            body.extend_from_slice(&bytes[..bytes.len().min(room)]);
            if bytes.len() > room {
                break;
            }
        }
    };
    let _ = timeout(ERROR_BODY_DEADLINE, read).await;
    body.freeze()
}

/// Converts the failure of a request without a response head. `proxy` is the proxy of the request.
fn not_sent(host: &Arc<str>, proxy: Option<&Arc<str>>, error: reqwest::Error) -> UpstreamError {
    let host = host.clone();
    if let Some(AddressesRefused(reason)) = find::<AddressesRefused>(&error) {
        let reason: Refusal = *reason;
        return UpstreamError::Refused { host, reason };
    }
    let cure = cure::of_connection(&error, proxy.is_some());
    if find::<rustls::Error>(&error).is_some() {
        let cause = match proxy {
            // The proxy may be at fault. The error does not distinguish.
            Some(proxy) => format!("{} (through the proxy {proxy})", cause(error)),
            None => cause(error),
        };
        let cause = cure::appended(cause, cure);
        return UpstreamError::Tls {
            host,
            cause: cause.into(),
        };
    }
    if let (true, Some(proxy)) = (error.is_connect(), proxy) {
        let cause = match error.is_timeout() {
            true => "no connection in time".to_owned(),
            false => cause(error),
        };
        return UpstreamError::Proxy {
            host,
            proxy: proxy.clone(),
            cause: cause.into(),
        };
    }
    if error.is_connect() && error.is_timeout() {
        return UpstreamError::Timeout {
            host,
            phase: Phase::Connect,
        };
    }
    if error.is_connect() {
        return UpstreamError::Connect {
            host,
            cause: cure::appended(cause(error), cure).into(),
        };
    }
    // Also for connections closed by the system. Our own deadlines return other errors.
    UpstreamError::Head {
        host,
        cause: cure::appended(cause(error), cure).into(),
    }
}
