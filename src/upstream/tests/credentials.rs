//! The operator's credentials: the time and target of each use, and the treatment of refusals.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::config::{Auth, SecretText};

/// `user:hunter2`.
const BASIC: &str = "Basic dXNlcjpodW50ZXIy";

fn secret(text: &str) -> SecretText {
    SecretText::new(text.into())
}

fn password() -> Auth {
    Auth::Basic {
        username: "user".into(),
        password: secret("hunter2"),
    }
}

fn with_auth(server: &Server, auth: Auth) -> RegistryConfig {
    let mut config = plain("r.lan", server.port);
    config.settings.auth = auth;
    config
}

fn of(server: &Server, auth: Auth) -> Upstreams {
    upstreams(&[with_auth(server, auth)], deadlines())
}

fn ours() -> UpstreamRequest {
    UpstreamRequest {
        credentials: Credentials::Operator,
        ..blob("r.lan")
    }
}

/// Returns the kind and the `Authorization` of each request.
fn shown(server: &Server) -> Vec<(String, Option<String>)> {
    let heads = server.heads();
    let one = |head: &String| {
        let kind = if path(head).starts_with("/token") {
            "token"
        } else {
            "content"
        };
        (kind.to_owned(), header(head, "authorization").map(str::to_owned))
    };
    heads.iter().map(one).collect()
}

fn expect(server: &Server, expected: &[(&str, Option<&str>)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(kind, secret)| ((*kind).to_owned(), secret.map(str::to_owned)))
        .collect();
    assert_eq!(shown(server), expected);
}

/// A registry with the challenge `challenge`, for the credential `wanted`.
async fn guarded(challenge: &'static str, wanted: &'static str) -> Server {
    Server::start(|_| {
        move |head: &str| match header(head, "authorization") {
            Some(secret) if secret == wanted => reply(200, "", "content"),
            _ => reply(401, &format!("WWW-Authenticate: {challenge}\r\n"), ""),
        }
    })
    .await
}

/// A registry whose token service issues `Bearer good` to the requests that `grants` accepts.
async fn with_token_service(grants: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(|port| {
        move |head: &str| match header(head, "authorization") {
            _ if path(head).starts_with("/token") => grants(head),
            Some("Bearer good") => reply(200, "", "content"),
            _ => challenge_of(port),
        }
    })
    .await
}

fn good() -> Reply {
    reply(200, "", r#"{"token":"good","expires_in":300}"#)
}

#[tokio::test]
async fn a_password_waits_for_its_challenge_and_is_sent_first_afterwards() {
    let server = guarded("Basic realm=\"r\"", BASIC).await;
    let upstreams = of(&server, password());
    for _ in 0..2 {
        let response = upstreams.fetch(&ours()).await.unwrap();
        assert!(!response.public, "the response required a password");
        assert_eq!(read(response).await.unwrap(), "content");
    }
    expect(
        &server,
        &[
            ("content", None),
            ("content", Some(BASIC)),
            ("content", Some(BASIC)),
        ],
    );
    // An anonymous request carries no password.
    let outcome = pull(&upstreams, &blob("r.lan")).await;
    assert!(
        matches!(outcome, Err(UpstreamError::Status { status: 401, .. })),
        "{outcome:?}"
    );
    assert_eq!(shown(&server).last().unwrap().1, None);
}

#[tokio::test]
async fn content_without_a_challenge_is_public_despite_a_configured_password() {
    let server = Server::start(|_| |_: &str| reply(200, "", "content")).await;
    let response = of(&server, password()).fetch(&ours()).await.unwrap();
    assert!(response.public);
    expect(&server, &[("content", None)]);
}

#[tokio::test]
async fn a_wrong_password_is_sent_once_per_request() {
    let server = guarded("Basic realm=\"r\"", "Basic other").await;
    let upstreams = of(&server, password());
    for _ in 0..2 {
        let outcome = pull(&upstreams, &ours()).await;
        assert!(
            matches!(outcome, Err(UpstreamError::Status { status: 401, .. })),
            "{outcome:?}"
        );
    }
    expect(
        &server,
        &[
            ("content", None),
            ("content", Some(BASIC)),
            ("content", Some(BASIC)),
        ],
    );
}

#[tokio::test]
async fn clients_without_credentials_receive_a_separate_token() {
    let server = with_token_service(|head| match header(head, "authorization") {
        Some(BASIC) => good(),
        None => reply(200, "", r#"{"token":"anonymous"}"#),
        Some(_) => reply(401, "", ""),
    })
    .await;
    let upstreams = of(&server, password());
    for _ in 0..2 {
        let response = upstreams.fetch(&ours()).await.unwrap();
        assert!(!response.public, "the token required a password");
    }
    assert!(pull(&upstreams, &blob("r.lan")).await.is_err());
    expect(
        &server,
        &[
            ("content", None),
            ("token", Some(BASIC)),
            ("content", Some("Bearer good")),
            ("content", Some("Bearer good")),
            ("content", None),
            ("token", None),
            ("content", Some("Bearer anonymous")),
        ],
    );
}

#[tokio::test]
async fn simultaneous_requests_with_a_password_fetch_one_token() {
    let server = with_token_service(|_| good()).await;
    let upstreams = of(&server, password());
    let mut pulls = JoinSet::new();
    for _ in 0..20 {
        let upstreams = upstreams.clone();
        pulls.spawn(async move { pull(&upstreams, &ours()).await });
    }
    while let Some(content) = pulls.join_next().await {
        assert_eq!(content.unwrap().unwrap(), "content");
    }
    assert_eq!(server.count("/token"), 1);
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let server = with_token_service(|head| {
        let (head, body) = head.split_once("\r\n\r\n").unwrap();
        let form = "client_id=oci-pull-through&scope=repository%3Aa%2Fb%3Apull&service=s&grant_type=refresh_token&\
                    refresh_token=re%2Ffresh%2B";
        match head.starts_with("POST /token?kept=1 ") && body == form {
            true => reply(200, "", r#"{"access_token":"good"}"#),
            false => reply(401, "", ""),
        }
    })
    .await;
    let upstreams = of(&server, Auth::IdentityToken(secret("re/fresh+")));
    let response = upstreams.fetch(&ours()).await.unwrap();
    assert!(!response.public);
    assert_eq!(read(response).await.unwrap(), "content");
    expect(
        &server,
        &[
            ("content", None),
            ("token", None),
            ("content", Some("Bearer good")),
        ],
    );
    // An identity token is never sent to a registry with a Basic challenge.
    let server = guarded("Basic realm=\"r\"", BASIC).await;
    assert!(
        pull(&of(&server, Auth::IdentityToken(secret("t"))), &ours())
            .await
            .is_err()
    );
    expect(&server, &[("content", None)]);
}

#[tokio::test]
async fn a_token_service_gets_requests_in_its_own_dialect() {
    let post = "grant_type=password&username=user&password=hunter2";
    for status in [401, 404, 405] {
        let server =
            with_token_service(
                move |head| match head.starts_with("POST ") && head.ends_with(post) {
                    true => good(),
                    false => reply(status, "", ""),
                },
            )
            .await;
        assert_eq!(
            pull(&of(&server, password()), &ours()).await.unwrap(),
            "content",
            "{status}"
        );
    }
    for status in [400, 401, 404, 405] {
        // `:refresh`.
        let server = with_token_service(move |head| match header(head, "authorization") {
            Some("Basic OnJlZnJlc2g=") if head.starts_with("GET ") => good(),
            _ => reply(status, "", ""),
        })
        .await;
        let upstreams = of(&server, Auth::IdentityToken(secret("refresh")));
        assert_eq!(pull(&upstreams, &ours()).await.unwrap(), "content", "{status}");
    }
    // If neither method helps, the first refusal is returned.
    let server = with_token_service(|head| match head.starts_with("POST ") {
        true => reply(404, "", ""),
        false => reply(401, "", "wrong password"),
    })
    .await;
    match pull(&of(&server, password()), &ours()).await {
        Err(UpstreamError::Status {
            status: 401,
            body,
            phase: Phase::Token,
            ..
        }) => {
            assert_eq!(&body[..], b"wrong password");
        }
        other => panic!("{other:?}"),
    }
    // An outage does not depend on the method.
    let server = with_token_service(|_| reply(503, "", "")).await;
    assert!(pull(&of(&server, password()), &ours()).await.is_err());
    assert_eq!(server.count("/token"), 1);
}

#[tokio::test]
async fn a_registry_token_is_sent_as_it_is() {
    let server = with_token_service(|_| reply(500, "", "")).await;
    let upstreams = of(&server, Auth::RegistryToken(secret("good")));
    for _ in 0..2 {
        assert_eq!(pull(&upstreams, &ours()).await.unwrap(), "content");
    }
    let bearer = Some("Bearer good");
    expect(
        &server,
        &[("content", None), ("content", bearer), ("content", bearer)],
    );
    // After a refusal, the token is not sent again.
    let upstreams = of(&server, Auth::RegistryToken(secret("bad")));
    assert!(pull(&upstreams, &ours()).await.is_err());
    assert_eq!(server.count("/v2"), 5);
}

#[tokio::test]
async fn password_is_used_if_the_token_is_rejected_and_basic_is_offered() {
    let server = Server::start(|port| {
        move |head: &str| match header(head, "authorization") {
            _ if path(head).starts_with("/token") => reply(200, "", r#"{"token":"useless"}"#),
            Some(BASIC) => reply(200, "", "content"),
            _ => reply(
                401,
                &format!(
                    "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:{port}/token\", Basic realm=\"r\"\r\n"
                ),
                "",
            ),
        }
    })
    .await;
    assert_eq!(pull(&of(&server, password()), &ours()).await.unwrap(), "content");
    assert_eq!(server.count("/token"), 1);
}

#[tokio::test]
async fn an_old_token_that_is_refused_with_403_is_replaced_once() {
    let tokens = Arc::new(AtomicUsize::new(0));
    let given = tokens.clone();
    let server = Server::start(|port| {
        move |head: &str| match header(head, "authorization") {
            _ if path(head).starts_with("/token") => {
                let number = given.fetch_add(1, Ordering::Relaxed);
                reply(200, "", &format!("{{\"token\":\"t{number}\"}}"))
            }
            None => challenge_of(port),
            // Each token is valid until there is a newer one.
            Some(token) if token == format!("Bearer t{}", given.load(Ordering::Relaxed) - 1) => {
                reply(200, "", "content")
            }
            Some(_) => reply(403, "", "denied"),
        }
    })
    .await;
    let upstreams = of(&server, password());
    pull(&upstreams, &ours()).await.unwrap();
    let other = UpstreamRequest {
        repository: "other".parse().unwrap(),
        ..ours()
    };
    pull(&upstreams, &other).await.unwrap();
    assert_eq!(pull(&upstreams, &ours()).await.unwrap(), "content");
    assert_eq!(tokens.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn failed_credentials_are_dropped_within_seconds() {
    let open = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_open = open.clone();
    let server = with_token_service(move |_| match is_open.load(Ordering::Relaxed) {
        true => good(),
        false => reply(403, "", ""),
    })
    .await;
    let upstreams = of(&server, password());
    for _ in 0..5 {
        assert!(pull(&upstreams, &ours()).await.is_err());
    }
    open.store(true, Ordering::Relaxed);
    let started = std::time::Instant::now();
    while pull(&upstreams, &ours()).await.is_err() {
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "the failure is cached without a limit"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A temporary file, removed on drop.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("oci-pull-through-unit-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn a_docker_config_is_read_per_repository_and_anew_when_it_changes() {
    let server = guarded("Basic realm=\"r\"", BASIC).await;
    let file = File::new(
        "config.json",
        r#"{"auths": {"r.lan": {"username": "other", "password": "p"}, "r.lan/a": {"auth": "dXNlcjpodW50ZXIy"}}}"#,
    );
    let upstreams = of(&server, Auth::DockerConfig { path: file.0.clone() });
    assert_eq!(pull(&upstreams, &ours()).await.unwrap(), "content");
    let elsewhere = UpstreamRequest {
        repository: "elsewhere".parse().unwrap(),
        ..ours()
    };
    assert!(pull(&upstreams, &elsewhere).await.is_err());
    std::fs::write(&file.0, r#"{"auths": {"r.lan": {"auth": "dXNlcjpodW50ZXIy"}}}"#).unwrap();
    assert_eq!(pull(&upstreams, &elsewhere).await.unwrap(), "content");
    // A request to a registry without an entry in the file is anonymous.
    std::fs::write(&file.0, "{}").unwrap();
    let sent = shown(&server).len();
    assert!(pull(&upstreams, &ours()).await.is_err());
    assert_eq!(shown(&server)[sent..], [("content".to_owned(), None)]);
    // A broken file is an error and does not lead to anonymous requests.
    std::fs::write(&file.0, r#"{"auths": {"r.lan": {"auth": 5, "x": "S3CRET"}}}"#).unwrap();
    match pull(&upstreams, &ours()).await {
        Err(error @ UpstreamError::Credentials { .. }) => {
            let text = format!("{error} {error:?}");
            assert!(text.contains("config.json") && !text.contains("S3CRET"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_token_service_of_somebody_else_gets_no_credentials() {
    let untrusted_service = Server::start(|_| |_: &str| good()).await;
    let realm = format!("http://127.0.0.1:{}/token", untrusted_service.port);
    let challenge = format!("WWW-Authenticate: Bearer realm=\"{realm}\"\r\n");
    let server = Server::start(|_| {
        move |head: &str| match header(head, "authorization") {
            Some("Bearer good") => reply(200, "", "content"),
            _ => reply(401, &challenge, ""),
        }
    })
    .await;
    for auth in [password(), Auth::IdentityToken(secret("t"))] {
        match pull(&of(&server, auth.clone()), &ours()).await {
            Err(UpstreamError::Refused {
                reason: Refusal::Realm,
                host,
            }) => assert_eq!(*host, *format!("127.0.0.1:{}", untrusted_service.port)),
            other => panic!("{other:?}"),
        }
        assert_eq!(untrusted_service.heads().len(), 0);
        // A listed host receives the credentials.
        let mut config = with_auth(&server, auth);
        config.settings.realm_hosts = vec![format!("127.0.0.1:{}", untrusted_service.port).into()];
        let listed = upstreams(&[config], deadlines());
        assert_eq!(pull(&listed, &ours()).await.unwrap(), "content");
        untrusted_service.log.lock().clear();
    }
    // Without credentials, there is nothing to protect.
    assert_eq!(
        pull(&of(&server, password()), &blob("r.lan")).await.unwrap(),
        "content"
    );
    assert_eq!(header(&untrusted_service.heads()[0], "authorization"), None);
}
