//! Tests against raw TCP servers on loopback: the requests sent, and the treatment of the answers.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::policy::Policy;
use super::proxy::Routes;
use super::resolve::{AddressesRefused, FilteredResolver};
use super::*;
use crate::config::{RegistryConfig, RegistryName, RegistrySettings};
use crate::oci::{Digest, Reference};
use crate::sync::Mutex;

/// The operator's credentials: passwords, token services, helpers, files.
mod credentials;

/// Registries behind fronts, and challenges at `/v2/` only.
mod elsewhere;

/// Mirrors, limits, redirects for the client, and reloads.
mod places;

/// Unusual answers to HEAD, and web pages instead of answers.
mod verdicts;

/// Dead kept connections, and slow name lookups.
mod connections;

/// Registries that fail or limit requests.
#[path = "availability/tests.rs"]
mod availability;

/// The state of the connection after an answer.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    KeepAlive,
    Close,
    /// No further byte and no end.
    Silence,
}

struct Reply(Vec<u8>, Then);

/// A registry, CDN or token service with a function from request head to reply.
struct Server {
    port: u16,
    /// Request heads in order.
    log: Arc<Mutex<Vec<String>>>,
    accepting: AbortHandle,
}

impl Server {
    /// Starts a server. `script` receives the port and returns the answering function.
    async fn start<F>(script: impl FnOnce(u16) -> F) -> Server
    where
        F: Fn(&str) -> Reply + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (log, answer) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(script(port)));
        let shared = log.clone();
        let accepting = tokio::spawn(async move {
            // Dropped with this task. The drop ends the connections.
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, shared.clone(), answer.clone()));
            }
        });
        Server {
            port,
            log,
            accepting: accepting.abort_handle(),
        }
    }

    fn heads(&self) -> Vec<String> {
        self.log.lock().clone()
    }

    /// Returns the number of requests with this path prefix.
    fn count(&self, path_start: &str) -> usize {
        self.heads()
            .iter()
            .filter(|head| path(head).starts_with(path_start))
            .count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut stream: TcpStream, log: Arc<Mutex<Vec<String>>>, answer: Arc<impl Fn(&str) -> Reply>) {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                // A body is kept with its head.
                let head = std::str::from_utf8(&buffer[..end + 4]).unwrap();
                let length: usize =
                    header(head, "content-length").map_or(0, |length| length.parse().unwrap());
                if buffer.len() >= end + 4 + length {
                    break String::from_utf8(buffer.drain(..end + 4 + length).collect()).unwrap();
                }
            }
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        };
        log.lock().push(head.clone());
        let Reply(bytes, then) = answer(&head);
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
        match then {
            Then::KeepAlive => {}
            Then::Close => return,
            Then::Silence => std::future::pending().await,
        }
    }
}

fn path(head: &str) -> &str {
    head.split(' ').nth(1).unwrap()
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// A complete reply with a length, on a connection kept open.
fn reply(status: u16, headers: &str, body: &str) -> Reply {
    let length = body.len();
    Reply(
        format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{headers}\r\n{body}").into_bytes(),
        Then::KeepAlive,
    )
}

fn raw(bytes: &str, then: Then) -> Reply {
    Reply(bytes.as_bytes().to_vec(), then)
}

fn redirect_to(location: impl std::fmt::Display) -> Reply {
    reply(307, &format!("Location: {location}\r\n"), "moved")
}

fn challenge_of(port: u16) -> Reply {
    let realm =
        format!("WWW-Authenticate: Bearer realm=\"http://127.0.0.1:{port}/token?kept=1\",service=\"s\"\r\n");
    reply(401, &realm, "{}")
}

/// A resolver with a fixed table of addresses.
struct Table(HashMap<&'static str, Vec<IpAddr>>);

impl Table {
    fn new(entries: &[(&'static str, &[&str])]) -> Arc<Self> {
        let parse = |addresses: &&[&str]| addresses.iter().map(|address| address.parse().unwrap()).collect();
        Arc::new(Table(
            entries
                .iter()
                .map(|(name, addresses)| (*name, parse(addresses)))
                .collect(),
        ))
    }
}

impl Resolve for Table {
    fn resolve(&self, name: Name) -> Resolving {
        let found: Vec<_> = self
            .0
            .get(name.as_str())
            .into_iter()
            .flatten()
            .map(|ip| SocketAddr::new(*ip, 0))
            .collect();
        Box::pin(async move { Ok(Box::new(found.into_iter()) as Addrs) })
    }
}

const QUICK: Duration = Duration::from_millis(150);

/// Deadlines out of reach on a busy machine. Tests shorten individual deadlines.
fn deadlines() -> Deadlines {
    Deadlines::default()
}

fn plain(name: &str, port: u16) -> RegistryConfig {
    let url = format!("http://127.0.0.1:{port}").parse().unwrap();
    RegistryConfig {
        name: RegistryName::Exact(name.parse().unwrap()),
        settings: RegistrySettings {
            insecure: true,
            url: Some(url),
            ..RegistrySettings::default()
        },
    }
}

/// Returns a configuration with these entries and defaults otherwise.
fn entries(entries: &[RegistryConfig]) -> Registries {
    Registries {
        entries: entries.to_vec(),
        ..Registries::default()
    }
}

fn upstreams(registries: &[RegistryConfig], deadlines: Deadlines) -> Upstreams {
    Upstreams::with_options(
        entries(registries),
        ProxyEnvironment::default(),
        Options {
            deadlines,
            resolver: Table::new(&[]),
        },
    )
    .unwrap()
}

/// Returns the setup of most tests, the registry `r.lan` at `server`.
fn lan(server: &Server) -> Upstreams {
    upstreams(&[plain("r.lan", server.port)], deadlines())
}

fn digest() -> Digest {
    format!("sha256:{}", "0a".repeat(32)).parse().unwrap()
}

fn blob(namespace: &str) -> UpstreamRequest {
    UpstreamRequest {
        namespace: namespace.parse().unwrap(),
        repository: "a/b".parse().unwrap(),
        target: Target::Blob(digest()),
        method: UpstreamMethod::Get,
        accept: Vec::new(),
        range_from: None,
        credentials: Credentials::None,
        purpose: Purpose::Pull,
    }
}

async fn read(mut response: UpstreamResponse) -> Result<String, UpstreamError> {
    let mut content = Vec::new();
    while let Some(bytes) = response.body.chunk().await? {
        content.extend_from_slice(&bytes);
    }
    Ok(String::from_utf8(content).unwrap())
}

async fn pull(upstreams: &Upstreams, request: &UpstreamRequest) -> Result<String, UpstreamError> {
    read(upstreams.fetch(request).await?).await
}

/// A registry and its token service; `accepts` checks the token of a request.
async fn registry_with_tokens(accepts: impl Fn(&str, usize) -> bool + Send + Sync + 'static) -> Server {
    let tokens = std::sync::atomic::AtomicUsize::new(0);
    Server::start(|port| {
        move |head: &str| {
            if path(head).starts_with("/token") {
                let number = 1 + tokens.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                return reply(
                    200,
                    "",
                    &format!("{{\"token\":\"t{number}\",\"expires_in\":300}}"),
                );
            }
            let latest = tokens.load(std::sync::atomic::Ordering::Relaxed);
            match header(head, "authorization") {
                Some(token) if accepts(token, latest) => reply(200, "", "content"),
                _ => challenge_of(port),
            }
        }
    })
    .await
}

#[tokio::test]
async fn simultaneous_requests_fetch_one_token_and_later_requests_send_it_first() {
    let server = registry_with_tokens(|token, _| token == "Bearer t1").await;
    let upstreams = lan(&server);
    let mut pulls = JoinSet::new();
    for _ in 0..20 {
        let upstreams = upstreams.clone();
        pulls.spawn(async move { pull(&upstreams, &blob("r.lan")).await });
    }
    while let Some(content) = pulls.join_next().await {
        assert_eq!(content.unwrap().unwrap(), "content");
    }
    assert_eq!(server.count("/token"), 1);
    let token_request = server
        .heads()
        .into_iter()
        .find(|head| path(head).starts_with("/token"))
        .unwrap();
    assert_eq!(
        path(&token_request),
        "/token?kept=1&service=s&scope=repository%3Aa%2Fb%3Apull"
    );
    assert_eq!(header(&token_request, "authorization"), None);

    let before = server.heads().len();
    assert_eq!(pull(&upstreams, &blob("r.lan")).await.unwrap(), "content");
    assert_eq!(
        server.heads().len(),
        before + 1,
        "a cached challenge saves a request"
    );
}

#[tokio::test]
async fn a_kept_token_that_is_refused_is_replaced_once() {
    // Each token is valid until the test revokes it.
    let refused = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let limit = refused.clone();
    let server = registry_with_tokens(move |token, _| {
        let number: usize = token.strip_prefix("Bearer t").unwrap().parse().unwrap();
        number > limit.load(std::sync::atomic::Ordering::Relaxed)
    })
    .await;
    let upstreams = lan(&server);
    assert_eq!(pull(&upstreams, &blob("r.lan")).await.unwrap(), "content");
    refused.store(1, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(pull(&upstreams, &blob("r.lan")).await.unwrap(), "content");
    assert_eq!((server.count("/token"), server.count("/v2")), (2, 4));

    // If no token helps, the refusal is the answer.
    refused.store(usize::MAX, std::sync::atomic::Ordering::Relaxed);
    match pull(&upstreams, &blob("r.lan")).await {
        Err(UpstreamError::Status {
            status: 401, headers, ..
        }) => assert!(headers.contains_key("www-authenticate")),
        other => panic!("{other:?}"),
    }
    assert_eq!((server.count("/token"), server.count("/v2")), (3, 6));
}

#[tokio::test]
async fn an_expired_token_is_renewed_before_it_is_sent() {
    let server = Server::start(|port| {
        move |head: &str| match header(head, "authorization") {
            _ if path(head).starts_with("/token") => reply(200, "", r#"{"access_token":"t","expires_in":1}"#),
            Some(_) => reply(200, "", "content"),
            None => challenge_of(port),
        }
    })
    .await;
    let upstreams = lan(&server);
    pull(&upstreams, &blob("r.lan")).await.unwrap();
    // The token lives for 0.8 s. The passing of time has no event to wait for.
    tokio::time::sleep(Duration::from_millis(900)).await;
    pull(&upstreams, &blob("r.lan")).await.unwrap();
    assert_eq!((server.count("/token"), server.count("/v2")), (2, 3));
}

#[tokio::test]
async fn public_ecr_answers_400_to_an_old_token_and_gets_a_new_one() {
    // A token is valid for one request. Later requests get 400.
    let server = Server::start(|port| {
        let (tokens, used) = (std::sync::atomic::AtomicUsize::new(0), Mutex::new(Vec::new()));
        move |head: &str| {
            if path(head).starts_with("/token") {
                let number = tokens.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                return reply(200, "", &format!("{{\"token\":\"t{number}\"}}"));
            }
            let Some(token) = header(head, "authorization").map(str::to_owned) else {
                return challenge_of(port);
            };
            let mut used = used.lock();
            if used.contains(&token) {
                return reply(400, "", "{}");
            }
            used.push(token);
            reply(200, "", "content")
        }
    })
    .await;
    let upstreams = upstreams(
        &[plain("public.ecr.aws", server.port), plain("r.lan", server.port)],
        deadlines(),
    );
    pull(&upstreams, &blob("public.ecr.aws")).await.unwrap();
    pull(&upstreams, &blob("public.ecr.aws")).await.unwrap();
    assert_eq!(server.count("/token"), 2);
    // For other registries, a 400 is final. Namespaces do not share tokens, or the first pull would
    // fail.
    pull(&upstreams, &blob("r.lan")).await.unwrap();
    let outcome = pull(&upstreams, &blob("r.lan")).await;
    assert!(
        matches!(outcome, Err(UpstreamError::Status { status: 400, .. })),
        "{outcome:?}"
    );
    assert_eq!(server.count("/token"), 3);
}

#[tokio::test]
async fn a_failing_token_service_gets_one_request_and_its_text_is_forwarded() {
    let server = Server::start(|port| {
        move |head: &str| match path(head).starts_with("/token") {
            true => reply(
                429,
                "WWW-Authenticate: Basic realm=x\r\nRetry-After: 7\r\n",
                "denied",
            ),
            false => challenge_of(port),
        }
    })
    .await;
    let upstreams = lan(&server);
    let mut pulls = JoinSet::new();
    for _ in 0..20 {
        let upstreams = upstreams.clone();
        pulls.spawn(async move { pull(&upstreams, &blob("r.lan")).await });
    }
    while let Some(outcome) = pulls.join_next().await {
        match outcome.unwrap() {
            Err(UpstreamError::Status {
                status: 429,
                phase: Phase::Token,
                headers,
                body,
                ..
            }) => {
                assert_eq!(&body[..], b"denied");
                assert!(headers.contains_key("retry-after") && !headers.contains_key("www-authenticate"));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(server.count("/token"), 1);
}

#[tokio::test]
async fn rejected_token_request_returns_the_challenge_of_the_registry() {
    for status in [401, 403] {
        let server = Server::start(|port| {
            move |head: &str| match path(head).starts_with("/token") {
                true => reply(status, "WWW-Authenticate: Basic realm=x\r\n", "denied"),
                false => challenge_of(port),
            }
        })
        .await;
        match pull(&lan(&server), &blob("r.lan")).await {
            Err(UpstreamError::Status {
                status: 401,
                phase: Phase::Head,
                headers,
                ..
            }) => {
                let challenge = headers["www-authenticate"].to_str().unwrap();
                assert!(challenge.starts_with("Bearer realm="), "{challenge}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_broken_token_service_never_looks_like_missing_content() {
    for (status, body) in [(404, "{}"), (400, "{}"), (200, "<html>"), (200, "{}"), (204, "")] {
        let server = Server::start(|port| {
            move |head: &str| match path(head).starts_with("/token") {
                true => reply(status, "", body),
                false => challenge_of(port),
            }
        })
        .await;
        let outcome = pull(&lan(&server), &blob("r.lan")).await;
        assert!(
            matches!(outcome, Err(UpstreamError::Protocol { .. })),
            "{status} {body}: {outcome:?}"
        );
    }
    let huge = "x".repeat(70_000);
    let server = Server::start(|port| {
        move |head: &str| match path(head).starts_with("/token") {
            true => reply(200, "", &format!("{{\"token\":\"{huge}\"}}")),
            false => challenge_of(port),
        }
    })
    .await;
    assert!(matches!(
        pull(&lan(&server), &blob("r.lan")).await,
        Err(UpstreamError::Protocol { .. })
    ));
}

#[tokio::test]
async fn a_silent_token_service_ends_at_its_deadline() {
    let server = Server::start(|port| {
        move |head: &str| match path(head).starts_with("/token") {
            true => raw("", Then::Silence),
            false => challenge_of(port),
        }
    })
    .await;
    let upstreams = upstreams(
        &[plain("r.lan", server.port)],
        Deadlines {
            token: QUICK,
            ..deadlines()
        },
    );
    let outcome = pull(&upstreams, &blob("r.lan")).await;
    assert!(
        matches!(
            outcome,
            Err(UpstreamError::Timeout {
                phase: Phase::Token,
                ..
            })
        ),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_token_redirect_stays_at_the_realms_origin() {
    let other = Server::start(|_| |_: &str| reply(200, "", r#"{"token":"stolen"}"#)).await;
    let elsewhere = other.port;
    let server = Server::start(|port| {
        move |head: &str| match (path(head), header(head, "authorization")) {
            (p, _) if p.starts_with("/token") => redirect_to("/moved?x"),
            (p, _) if p.starts_with("/moved") => redirect_to(format_args!("http://127.0.0.1:{elsewhere}/")),
            (_, None) => challenge_of(port),
            _ => reply(200, "", "content"),
        }
    })
    .await;
    assert!(matches!(
        pull(&lan(&server), &blob("r.lan")).await,
        Err(UpstreamError::Protocol { .. })
    ));
    assert_eq!((server.count("/moved"), other.heads().len()), (1, 0));
}

#[tokio::test]
async fn a_secret_stays_at_its_origin_and_stays_dropped_on_the_way_back() {
    // registry -> registry -> other port -> registry -> content
    let (to_cdn, from_cdn) = (Arc::new(Mutex::new(0_u16)), Arc::new(Mutex::new(0_u16)));
    let back = from_cdn.clone();
    let cdn = Server::start(|_| {
        move |_: &str| redirect_to(format_args!("http://127.0.0.1:{}/back?sig=S3CRET", back.lock()))
    })
    .await;
    *to_cdn.lock() = cdn.port;
    let server = Server::start(|port| {
        move |head: &str| match (path(head), header(head, "authorization")) {
            (p, _) if p.starts_with("/token") => reply(200, "", r#"{"token":"ours"}"#),
            (p, _) if p.starts_with("/back") => reply(200, "", "content"),
            (_, None) => challenge_of(port),
            (p, _) if p.starts_with("/v2") => redirect_to("/here"),
            _ => redirect_to(format_args!("http://127.0.0.1:{}/cdn", to_cdn.lock())),
        }
    })
    .await;
    *from_cdn.lock() = server.port;

    let upstreams = lan(&server);
    let with_client = UpstreamRequest {
        credentials: Credentials::Client(Secret::new(b"Basic Y2xpZW50").unwrap()),
        ..blob("r.lan")
    };
    for (request, secret) in [(with_client, "Basic Y2xpZW50"), (blob("r.lan"), "Bearer ours")] {
        server.log.lock().clear();
        cdn.log.lock().clear();
        assert_eq!(pull(&upstreams, &request).await.unwrap(), "content");
        let sent = |p: &str| {
            let heads = server.heads();
            let head = heads
                .iter()
                .rfind(|head| path(head).starts_with(p))
                .unwrap_or_else(|| panic!("{p}"));
            header(head, "authorization").map(str::to_owned)
        };
        assert_eq!(sent("/v2").as_deref(), Some(secret));
        assert_eq!(sent("/here").as_deref(), Some(secret), "the same origin");
        assert_eq!(sent("/back"), None, "the same origin, but after another one");
        assert_eq!(cdn.heads().len(), 1);
        assert!(
            cdn.heads()
                .iter()
                .all(|head| header(head, "authorization").is_none())
        );
    }
}

#[tokio::test]
async fn a_clients_refusal_is_passed_on_with_its_challenges_and_without_a_token() {
    let server = registry_with_tokens(|_, _| false).await;
    let request = UpstreamRequest {
        credentials: Credentials::Client(Secret::new(b"Bearer clients").unwrap()),
        ..blob("r.lan")
    };
    match pull(&lan(&server), &request).await {
        Err(error @ UpstreamError::Status { status: 401, .. }) => {
            assert!(!error.is_retryable());
            let UpstreamError::Status { headers, body, .. } = error else {
                unreachable!()
            };
            assert!(
                headers["www-authenticate"]
                    .to_str()
                    .unwrap()
                    .starts_with("Bearer realm=")
            );
            assert_eq!(&body[..], b"{}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((server.heads().len(), server.count("/token")), (1, 0));
}

#[tokio::test]
async fn redirects_are_followed_five_times() {
    let server = Server::start(|_| {
        |head: &str| match path(head) {
            "/hop5" => reply(200, "", "content"),
            p => redirect_to(format_args!(
                "/hop{}",
                p.strip_prefix("/hop")
                    .map_or(1, |n| n.parse::<u32>().unwrap() + 1)
            )),
        }
    })
    .await;
    assert_eq!(pull(&lan(&server), &blob("r.lan")).await.unwrap(), "content");
    let looping = Server::start(|_| |_: &str| redirect_to("/again")).await;
    assert!(matches!(
        pull(&lan(&looping), &blob("r.lan")).await,
        Err(UpstreamError::Protocol { .. })
    ));
    assert_eq!(looping.heads().len(), 1 + redirect::REDIRECTS_MAX);
}

#[tokio::test]
async fn a_refusal_by_a_redirect_target_is_not_the_clients_fault() {
    for status in [400, 401, 403, 404, 503] {
        let cdn = Server::start(|port| {
            move |_: &str| {
                if status == 401 {
                    challenge_of(port)
                } else {
                    reply(status, "", "")
                }
            }
        })
        .await;
        let there = format!("http://127.0.0.1:{}/x", cdn.port);
        let server = Server::start(|_| move |_: &str| redirect_to(&there)).await;
        match (status, pull(&lan(&server), &blob("r.lan")).await) {
            (400 | 401 | 403, Err(error @ UpstreamError::RedirectTarget { .. })) => {
                assert!(error.is_retryable());
            }
            (404 | 503, Err(UpstreamError::Status { status: actual, .. })) => assert_eq!(actual, status),
            (_, other) => panic!("{status}: {other:?}"),
        }
        assert_eq!(cdn.heads().len(), 1);
    }
}

#[tokio::test]
async fn a_body_is_resumed_with_206_and_a_full_answer_is_recognised() {
    let server = Server::start(|_| {
        |head: &str| match header(head, "range") {
            Some("bytes=4-") => reply(206, "Content-Range: bytes 4-9/10\r\n", "456789"),
            _ => reply(200, "", "0123456789"),
        }
    })
    .await;
    let upstreams = lan(&server);
    let response = upstreams
        .fetch(&UpstreamRequest {
            range_from: Some(4),
            ..blob("r.lan")
        })
        .await
        .unwrap();
    assert_eq!((response.status, response.content_length), (206, Some(6)));
    assert_eq!(
        response.content_range,
        Some(ReceivedRange {
            start: 4,
            end: 9,
            total: Some(10)
        })
    );
    assert_eq!(resume_matches(&response, 4, Some(10)), ResumeVerdict::Continue);
    assert_eq!(resume_matches(&response, 4, Some(11)), ResumeVerdict::Wrong);
    assert_eq!(read(response).await.unwrap(), "456789");

    let response = upstreams
        .fetch(&UpstreamRequest {
            range_from: Some(5),
            ..blob("r.lan")
        })
        .await
        .unwrap();
    assert_eq!(
        resume_matches(&response, 5, Some(10)),
        ResumeVerdict::SkipFirst(5)
    );
    assert_eq!(read(response).await.unwrap(), "0123456789");
}

#[tokio::test]
async fn a_range_survives_redirects_and_is_never_sent_for_manifests() {
    let server = Server::start(|_| {
        |head: &str| match path(head) {
            "/cdn" => reply(200, "", header(head, "range").unwrap_or("none")),
            _ => redirect_to("/cdn"),
        }
    })
    .await;
    let upstreams = lan(&server);
    let ranged = UpstreamRequest {
        range_from: Some(0),
        ..blob("r.lan")
    };
    assert_eq!(pull(&upstreams, &ranged).await.unwrap(), "bytes=0-");
    let manifest = UpstreamRequest {
        target: Target::Manifest(Reference::Digest(digest())),
        ..ranged
    };
    assert_eq!(pull(&upstreams, &manifest).await.unwrap(), "none");
}

#[tokio::test]
async fn a_body_that_ends_early_or_late_is_an_error() {
    let cases = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234", Then::Close),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", Then::Close),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n",
            Then::Close,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\nx\r\n",
            Then::Close,
        ),
        // Chunks hide the length, but a range states it.
        (
            "HTTP/1.1 206 X\r\nContent-Range: bytes 0-4/5\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n0\r\n\r\n",
            Then::KeepAlive,
        ),
        (
            "HTTP/1.1 206 X\r\nContent-Range: bytes 0-4/5\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n012345\r\n0\r\n\r\n",
            Then::KeepAlive,
        ),
        (
            "HTTP/1.1 206 X\r\nContent-Range: bytes 0-4/5\r\n\r\n0123",
            Then::Close,
        ),
    ];
    for (answer, then) in cases {
        let server = Server::start(|_| move |_: &str| raw(answer, then)).await;
        let mut response = lan(&server)
            .fetch(&UpstreamRequest {
                range_from: Some(0),
                ..blob("r.lan")
            })
            .await
            .unwrap();
        let error = loop {
            match response.body.chunk().await {
                Ok(Some(bytes)) => assert!(!bytes.is_empty()),
                Ok(None) => panic!("{answer:?} ended cleanly"),
                Err(error) => break error,
            }
        };
        assert!(
            matches!(error, UpstreamError::Body { .. }) && error.is_retryable(),
            "{answer:?}: {error:?}"
        );
        assert!(
            matches!(response.body.chunk().await, Err(UpstreamError::Body { .. })),
            "the error is repeated"
        );
    }
}

#[tokio::test]
async fn bodies_of_every_framing_are_read_to_their_end() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n01234",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n01\r\n3\r\n234\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\n01234",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Encoding: identity\r\n\r\n01234 and more",
    ] {
        let server = Server::start(|_| move |_: &str| raw(answer, Then::Close)).await;
        assert_eq!(
            pull(&lan(&server), &blob("r.lan")).await.unwrap(),
            "01234",
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_silent_body_ends_at_the_idle_deadline() {
    let server = Server::start(|_| {
        |_: &str| {
            raw(
                "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234",
                Then::Silence,
            )
        }
    })
    .await;
    let upstreams = upstreams(
        &[plain("r.lan", server.port)],
        Deadlines {
            idle: QUICK,
            ..deadlines()
        },
    );
    let mut response = upstreams.fetch(&blob("r.lan")).await.unwrap();
    assert_eq!(&response.body.chunk().await.unwrap().unwrap()[..], b"01234");
    let error = response.body.chunk().await.unwrap_err();
    assert!(
        matches!(
            error,
            UpstreamError::Timeout {
                phase: Phase::Body,
                ..
            }
        ) && error.is_retryable(),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_silent_registry_ends_at_the_head_deadline_and_a_slow_chain_at_the_whole() {
    let silent = Server::start(|_| |_: &str| raw("HTTP/1.1 200", Then::Silence)).await;
    let head = upstreams(
        &[plain("r.lan", silent.port)],
        Deadlines {
            head: QUICK,
            ..deadlines()
        },
    );
    let outcome = pull(&head, &blob("r.lan")).await;
    assert!(
        matches!(
            outcome,
            Err(UpstreamError::Timeout {
                phase: Phase::Head,
                ..
            })
        ),
        "{outcome:?}"
    );
    let whole = upstreams(
        &[plain("r.lan", silent.port)],
        Deadlines {
            exchange: QUICK,
            ..deadlines()
        },
    );
    let outcome = pull(&whole, &blob("r.lan")).await;
    assert!(
        matches!(
            outcome,
            Err(UpstreamError::Timeout {
                phase: Phase::Exchange,
                ..
            })
        ),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn unexpected_responses_are_protocol_errors() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Encoding: gzip\r\n\r\nx",
        "HTTP/1.1 206 X\r\nContent-Length: 1\r\nContent-Range: bytes 0-0/1\r\n\r\nx",
        "HTTP/1.1 204 X\r\n\r\n",
        "HTTP/1.1 304 X\r\n\r\n",
        "HTTP/1.1 300 X\r\nContent-Length: 0\r\nLocation: /x\r\n\r\n",
        "HTTP/1.1 302 X\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
    ] {
        let server = Server::start(|_| move |_: &str| raw(answer, Then::Close)).await;
        let outcome = pull(&lan(&server), &blob("r.lan")).await;
        assert!(
            matches!(outcome, Err(UpstreamError::Protocol { .. })),
            "{answer}: {outcome:?}"
        );
    }
    for answer in [
        "HTTP/1.1 206 X\r\nContent-Length: 1\r\n\r\nx",
        "HTTP/1.1 206 X\r\nContent-Length: 2\r\nContent-Range: bytes 4-4/5\r\n\r\nxy",
        "HTTP/1.1 206 X\r\nContent-Length: 2\r\nContent-Type: multipart/byteranges; boundary=x\r\n\r\nxy",
    ] {
        let server = Server::start(|_| move |_: &str| raw(answer, Then::Close)).await;
        let outcome = pull(
            &lan(&server),
            &UpstreamRequest {
                range_from: Some(4),
                ..blob("r.lan")
            },
        )
        .await;
        assert!(
            matches!(outcome, Err(UpstreamError::Protocol { .. })),
            "{answer}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_head_that_is_no_http_or_too_large_is_an_error() {
    let large = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: {}\r\n\r\n",
        "x".repeat(140_000)
    );
    let many = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n",
        "X: y\r\n".repeat(300)
    );
    let lengths = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy".to_owned();
    for answer in [
        large,
        many,
        lengths,
        "SSH-2.0-OpenSSH\r\n".into(),
        "HTTP/1.1 200 OK\r\nA B: c\r\n\r\n".into(),
        String::new(),
    ] {
        let shown: String = answer.chars().take(60).collect();
        let server = Server::start(|_| move |_: &str| raw(&answer, Then::Close)).await;
        let outcome = pull(&lan(&server), &blob("r.lan")).await;
        assert!(
            matches!(
                outcome,
                Err(UpstreamError::Protocol { .. } | UpstreamError::Head { .. })
            ),
            "{shown}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn upstream_requests_contain_accept_and_user_agent() {
    let server = Server::start(|_| |_: &str| reply(200, "", "content")).await;
    let upstreams = lan(&server);
    let accept = vec![
        "application/vnd.oci.image.index.v1+json".to_owned(),
        "*/*;q=0.5".to_owned(),
    ];
    let target = Target::Manifest(Reference::Tag("1.0".parse().unwrap()));
    pull(
        &upstreams,
        &UpstreamRequest {
            target,
            accept: accept.clone(),
            ..blob("r.lan")
        },
    )
    .await
    .unwrap();
    pull(
        &upstreams,
        &UpstreamRequest {
            accept,
            ..blob("r.lan")
        },
    )
    .await
    .unwrap();
    let heads = server.heads();
    assert!(
        heads[0].starts_with("GET /v2/a/b/manifests/1.0 HTTP/1.1\r\n"),
        "{}",
        heads[0]
    );
    assert_eq!(
        header(&heads[0], "accept"),
        Some("application/vnd.oci.image.index.v1+json, */*;q=0.5")
    );
    assert!(
        heads[1].starts_with(&format!("GET /v2/a/b/blobs/{} HTTP/1.1\r\n", digest())),
        "{}",
        heads[1]
    );
    assert_eq!(header(&heads[1], "accept"), Some("*/*"));
    for head in &heads {
        assert_eq!(header(head, "accept-encoding"), Some("identity"));
        assert_eq!(
            header(head, "user-agent"),
            Some(concat!("oci-pull-through/", env!("CARGO_PKG_VERSION")))
        );
        assert_eq!(
            header(head, "host"),
            Some(format!("127.0.0.1:{}", server.port).as_str())
        );
        for absent in [
            "authorization",
            "cookie",
            "referer",
            "range",
            "content-length",
            "transfer-encoding",
        ] {
            assert_eq!(header(head, absent), None, "{absent}");
        }
    }
}

#[tokio::test]
async fn answers_lose_the_headers_of_their_connection_and_head_has_a_length_without_a_body() {
    let server = Server::start(|_| {
        |_: &str| {
            raw(
                "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=1\r\nX-End: 1\r\n\
                 Docker-Content-Digest: d\r\nContent-Length: 4711\r\n\r\n",
                Then::KeepAlive,
            )
        }
    })
    .await;
    let response = lan(&server)
        .fetch(&UpstreamRequest {
            method: UpstreamMethod::Head,
            ..blob("r.lan")
        })
        .await
        .unwrap();
    let mut names: Vec<_> = response.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "docker-content-digest", "x-end"]);
    assert_eq!(response.content_length, Some(4711));
    assert_eq!(read(response).await.unwrap(), "");
    assert!(server.heads()[0].starts_with("HEAD "));
}

#[tokio::test]
async fn a_refusal_keeps_its_limits_and_the_beginning_of_its_body() {
    let server = Server::start(|_| {
        |_: &str| {
            reply(
                429,
                "Retry-After: 7\r\nRateLimit-Remaining: 0;w=21600\r\nSet-Cookie: a=b\r\n",
                &"x".repeat(100_000),
            )
        }
    })
    .await;
    match lan(&server).fetch(&blob("r.lan")).await {
        Err(UpstreamError::Status {
            status: 429,
            headers,
            body,
            phase: Phase::Head,
            ..
        }) => {
            assert_eq!((headers.len(), body.len()), (2, 64 * 1024));
            assert_eq!(headers["retry-after"], "7");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_connection_the_registry_gave_up_is_replaced_once() {
    let server = Server::start(|_| {
        let requests = std::sync::atomic::AtomicUsize::new(0);
        move |_: &str| match requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            1 => raw("", Then::Close),
            _ => reply(200, "", "content"),
        }
    })
    .await;
    let upstreams = lan(&server);
    for _ in 0..2 {
        assert_eq!(pull(&upstreams, &blob("r.lan")).await.unwrap(), "content");
    }
    assert_eq!(server.heads().len(), 3);
}

#[tokio::test]
async fn connection_failures_say_which_part_failed_and_nothing_secret() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let server = Server::start(|_| {
        move |_: &str| {
            redirect_to(format_args!(
                "http://127.0.0.1:{closed}/blob?X-Amz-Signature=S3CRET"
            ))
        }
    })
    .await;
    let request = UpstreamRequest {
        credentials: Credentials::Client(Secret::new(b"Basic S3CRET").unwrap()),
        ..blob("r.lan")
    };
    let error = lan(&server).fetch(&request).await.unwrap_err();
    assert!(
        matches!(error, UpstreamError::Connect { .. }) && error.is_retryable(),
        "{error:?}"
    );
    assert!(
        error.to_string().contains(&format!("127.0.0.1:{closed}")),
        "{error}"
    );
    assert!(!format!("{error} {error:?} {request:?}").contains("S3CRET"));

    // A server without TLS.
    let server = Server::start(|_| |_: &str| raw("", Then::Close)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let speaking = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let mut tls = plain("tls.lan", port);
    tls.settings.insecure = false;
    tls.settings.url = Some(format!("https://127.0.0.1:{port}").parse().unwrap());
    let error = upstreams(&[tls, plain("r.lan", server.port)], deadlines())
        .fetch(&blob("tls.lan"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, UpstreamError::Tls { .. }) && !error.is_retryable(),
        "{error:?}"
    );
    speaking.await.unwrap();

    // A name that does not exist.
    let error = upstreams(&[], deadlines())
        .fetch(&blob("nowhere.example"))
        .await
        .unwrap_err();
    assert!(matches!(error, UpstreamError::Connect { .. }), "{error:?}");
}

#[tokio::test]
async fn an_unconfigured_registry_that_resolves_inside_is_refused() {
    let table = Table::new(&[
        ("rebound.example", &["127.0.0.1"]),
        ("private.example", &["10.0.0.1", "192.168.1.1", "fd00::1"]),
        ("mapped.example", &["::ffff:127.0.0.1"]),
        ("metadata.google.internal", &["169.254.169.254"]),
        ("127.0.0.1.nip.example", &["127.0.0.1"]),
        ("six.example", &["::1"]),
        ("nothing.example", &["0.0.0.0"]),
    ]);
    let names: Vec<_> = table.0.keys().copied().collect();
    let upstreams = Upstreams::with_options(
        Registries::default(),
        ProxyEnvironment::default(),
        Options {
            deadlines: deadlines(),
            resolver: table,
        },
    )
    .unwrap();
    for name in names {
        match upstreams.fetch(&blob(name)).await {
            Err(UpstreamError::Refused {
                reason: Refusal::Address | Refusal::ForbiddenAddress,
                ..
            }) => {}
            other => panic!("{name}: {other:?}"),
        }
    }
    for name in [
        "localhost",
        "localhost:443",
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "2130706433",
        "[::1]",
        "r.example:5000",
        "registry",
    ] {
        match upstreams.fetch(&blob(name)).await {
            Err(UpstreamError::Refused {
                reason: Refusal::Host | Refusal::Port,
                ..
            }) => {}
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn of_a_mixed_name_only_the_public_addresses_are_used() {
    let inner = Table::new(&[
        (
            "mixed.example",
            &["10.0.0.1", "1.1.1.1", "::1", "2606:4700::1111"],
        ),
        ("inside.example", &["10.0.0.1"]),
    ]);
    let filter = FilteredResolver {
        policy: Policy::public(),
        routes: Routes::default(),
        inner: inner.clone(),
    };
    let found: Vec<_> = filter
        .resolve("mixed.example".parse().unwrap())
        .await
        .unwrap()
        .map(|a| a.ip().to_string())
        .collect();
    assert_eq!(found, ["1.1.1.1", "2606:4700::1111"]);
    let error = filter
        .resolve("inside.example".parse().unwrap())
        .await
        .err()
        .unwrap();
    assert_eq!(
        error.downcast_ref::<AddressesRefused>().unwrap().0,
        Refusal::Address
    );

    let filter = FilteredResolver {
        policy: Policy::written(&"https://r.lan".parse().unwrap(), true),
        routes: Routes::default(),
        inner,
    };
    assert_eq!(
        filter
            .resolve("mixed.example".parse().unwrap())
            .await
            .unwrap()
            .count(),
        4
    );
}

#[tokio::test]
async fn redirects_and_realms_of_a_configured_registry_may_be_inside_but_not_at_metadata() {
    let table = Table::new(&[
        ("metadata.lan", &["169.254.169.254"]),
        ("cdn.lan", &["127.0.0.1"]),
    ]);
    for target in [
        "http://169.254.169.254/latest",
        "http://0xa9fea9fe/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://metadata.lan/",
        "http://u:p@127.0.0.1/",
    ] {
        for realm in [false, true] {
            let server = Server::start(|_| {
                move |_: &str| match realm {
                    true => reply(
                        401,
                        &format!("WWW-Authenticate: Bearer realm=\"{target}\"\r\n"),
                        "",
                    ),
                    false => redirect_to(target),
                }
            })
            .await;
            let options = Options {
                deadlines: deadlines(),
                resolver: table.clone(),
            };
            let upstreams = Upstreams::with_options(
                entries(&[plain("r.lan", server.port)]),
                ProxyEnvironment::default(),
                options,
            )
            .unwrap();
            let outcome = upstreams.fetch(&blob("r.lan")).await;
            assert!(
                matches!(outcome, Err(UpstreamError::Refused { .. })),
                "{target}: {outcome:?}"
            );
        }
    }
    // Allowed by name, at an internal address.
    let cdn = Server::start(|_| |_: &str| reply(200, "", "content")).await;
    let there = format!("http://cdn.lan:{}/", cdn.port);
    let server = Server::start(|_| move |_: &str| redirect_to(&there)).await;
    let options = Options {
        deadlines: deadlines(),
        resolver: table,
    };
    let upstreams = Upstreams::with_options(
        entries(&[plain("r.lan", server.port)]),
        ProxyEnvironment::default(),
        options,
    )
    .unwrap();
    assert_eq!(pull(&upstreams, &blob("r.lan")).await.unwrap(), "content");
}

#[test]
fn upstreams_are_built_without_a_runtime_and_reject_bad_configuration() {
    assert!(Upstreams::new(Registries::default(), ProxyEnvironment::default()).is_ok());
    let twice = [plain("docker.io", 1), plain("index.docker.io", 2)];
    assert!(matches!(
        Upstreams::new(entries(&twice), ProxyEnvironment::default()),
        Err(BuildError::Registry { .. })
    ));
}
