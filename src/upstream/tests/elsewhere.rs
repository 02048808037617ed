//! Registries behind redirects of other registries, and registries that challenge at `/v2/` only.

use super::*;
use crate::config::{Auth, SecretText};

/// `user:hunter2`.
const BASIC: &str = "Basic dXNlcjpodW50ZXIy";

fn with_password(server: &Server) -> RegistryConfig {
    let mut config = plain("r.lan", server.port);
    config.settings.auth = Auth::Basic {
        username: "user".into(),
        password: SecretText::new("hunter2".into()),
    };
    config
}

fn ours(request: UpstreamRequest) -> UpstreamRequest {
    UpstreamRequest {
        credentials: Credentials::Operator,
        ..request
    }
}

fn secrets(server: &Server) -> Vec<Option<String>> {
    let heads = server.heads();
    heads
        .iter()
        .map(|head| header(head, "authorization").map(str::to_owned))
        .collect()
}

/// A front that redirects its whole API to the registry at `port`.
async fn front(port: u16) -> Server {
    Server::start(|_| move |head: &str| redirect_to(format_args!("http://127.0.0.1:{port}{}", path(head))))
        .await
}

/// A registry with `content` for a token of its own service, complete or from an offset.
async fn challenger(content: &'static str) -> Server {
    Server::start(|port| {
        move |head: &str| match header(head, "authorization") {
            None if path(head).starts_with("/token") => reply(200, "", r#"{"token":"anonymous"}"#),
            Some("Bearer anonymous") => match header(head, "range") {
                Some("bytes=4-") => reply(206, "Content-Range: bytes 4-6/7\r\n", &content[4..]),
                _ if head.starts_with("HEAD") => raw(
                    &format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n", content.len()),
                    Then::KeepAlive,
                ),
                _ => reply(200, "", content),
            },
            _ => challenge_of(port),
        }
    })
    .await
}

#[tokio::test]
async fn a_redirect_into_another_registry_is_answered_with_an_anonymous_token_of_its_own() {
    let registry = challenger("content").await;
    let front = front(registry.port).await;
    let upstreams = lan(&front);
    for _ in 0..2 {
        let response = upstreams.fetch(&blob("r.lan")).await.unwrap();
        assert!(response.public, "the response required no password");
        assert_eq!(read(response).await.unwrap(), "content");
    }
    assert_eq!(registry.count("/token"), 1, "the token is cached");
    let heads = registry.heads();
    let token = heads
        .iter()
        .find(|head| path(head).starts_with("/token"))
        .unwrap();
    assert_eq!(
        path(token),
        "/token?kept=1&service=s&scope=repository%3Aa%2Fb%3Apull"
    );
    // Resumed requests and HEAD requests follow the redirect too.
    let resumed = UpstreamRequest {
        range_from: Some(4),
        ..blob("r.lan")
    };
    let response = upstreams.fetch(&resumed).await.unwrap();
    assert_eq!(response.status, 206);
    assert_eq!(read(response).await.unwrap(), "ent");
    let looked = UpstreamRequest {
        target: Target::Manifest(Reference::Tag("v1".parse().unwrap())),
        method: UpstreamMethod::Head,
        ..blob("r.lan")
    };
    let response = upstreams.fetch(&looked).await.unwrap();
    assert_eq!(response.content_length, Some(7));
    assert_eq!(registry.count("/token"), 1);
}

#[tokio::test]
async fn no_credentials_of_the_front_or_a_client_reach_the_registry_behind_it() {
    let registry = challenger("content").await;
    let port = registry.port;
    // The front requires a password before the redirect.
    let front = Server::start(|_| {
        move |head: &str| match header(head, "authorization") {
            Some(BASIC) => redirect_to(format_args!("http://127.0.0.1:{port}{}", path(head))),
            _ => reply(401, "WWW-Authenticate: Basic realm=\"front\"\r\n", ""),
        }
    })
    .await;
    let upstreams = upstreams(&[with_password(&front)], deadlines());
    let response = upstreams.fetch(&ours(blob("r.lan"))).await.unwrap();
    assert!(!response.public, "the redirect required a password");
    assert_eq!(read(response).await.unwrap(), "content");
    for sent in [BASIC, "Bearer clients"] {
        let request = UpstreamRequest {
            credentials: Credentials::Client(Secret::new(sent.as_bytes()).unwrap()),
            ..blob("r.lan")
        };
        let _ = pull(&upstreams, &request).await;
    }
    let expected = [None, Some("Bearer anonymous".to_owned())];
    assert!(!registry.heads().is_empty());
    for secret in secrets(&registry) {
        assert!(expected.contains(&secret), "{secret:?}");
    }
}

#[tokio::test]
async fn a_chain_of_registries_is_followed_and_a_circle_ends() {
    let last = challenger("content").await;
    let to = last.port;
    // A front with its own challenge. Redirects after authentication.
    let middle = Server::start(|port| {
        move |head: &str| match header(head, "authorization") {
            _ if path(head).starts_with("/token") => reply(200, "", r#"{"token":"middle"}"#),
            Some("Bearer middle") => redirect_to(format_args!("http://127.0.0.1:{to}{}", path(head))),
            _ => challenge_of(port),
        }
    })
    .await;
    let first = front(middle.port).await;
    assert_eq!(pull(&lan(&first), &blob("r.lan")).await.unwrap(), "content");
    assert!(
        secrets(&last)
            .iter()
            .all(|secret| secret.as_deref() != Some("Bearer middle"))
    );

    let endless = Server::start(|port| {
        move |head: &str| match path(head).starts_with("/token") {
            true => reply(200, "", r#"{"token":"useless"}"#),
            false => challenge_of(port),
        }
    })
    .await;
    let first = front(endless.port).await;
    let outcome = pull(&lan(&first), &blob("r.lan")).await;
    match outcome {
        Err(UpstreamError::Status {
            status: 401, headers, ..
        }) => {
            assert!(!headers.contains_key("www-authenticate"), "{headers:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        endless.heads().len(),
        3,
        "the requests are a challenge, a token and a rejection"
    );
}

#[tokio::test]
async fn not_found_behind_a_front_is_a_404() {
    let registry = Server::start(|port| {
        move |head: &str| match header(head, "authorization") {
            _ if path(head).starts_with("/token") => reply(200, "", r#"{"token":"anonymous"}"#),
            Some(_) => reply(404, "", "{}"),
            None => challenge_of(port),
        }
    })
    .await;
    let front = front(registry.port).await;
    let outcome = pull(&lan(&front), &blob("r.lan")).await;
    assert!(
        matches!(outcome, Err(UpstreamError::Status { status: 404, .. })),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn redirect_from_an_unlisted_registry_to_a_private_address_is_rejected() {
    // The target registry names a token service at a private address.
    let policy = Policy::public();
    for realm in [
        "https://10.0.0.1/token",
        "https://localhost/token",
        "https://r.example:22/token",
    ] {
        assert!(policy.check_url(&realm.parse().unwrap()).is_err(), "{realm}");
    }
    // A configured front may lead to internal hosts, but not to metadata services.
    let registry = Server::start(|_| {
        |_: &str| {
            reply(
                401,
                "WWW-Authenticate: Bearer realm=\"http://169.254.169.254/token\"\r\n",
                "",
            )
        }
    })
    .await;
    let front = front(registry.port).await;
    let outcome = pull(&lan(&front), &blob("r.lan")).await;
    assert!(
        matches!(
            outcome,
            Err(UpstreamError::Refused {
                reason: Refusal::ForbiddenAddress,
                ..
            })
        ),
        "{outcome:?}"
    );
}

/// A registry with challenges at `/v2/` only. Answers anonymous clients with `status`.
async fn challenging_only_at_v2(status: u16, bearer: bool) -> Server {
    Server::start(|port| {
        move |head: &str| match (path(head), header(head, "authorization")) {
            (p, Some(BASIC)) if p.starts_with("/token") => reply(200, "", r#"{"token":"good"}"#),
            (p, _) if p.starts_with("/token") => reply(401, "", ""),
            ("/v2/", _) if bearer => reply(
                401,
                &format!(
                    "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:{port}/token\",scope=\"registry:catalog:*\"\r\n"
                ),
                "",
            ),
            ("/v2/", _) => reply(401, "WWW-Authenticate: Basic realm=\"r\"\r\n", ""),
            (p, _) if p.contains("/missing/") => reply(404, "", "{}"),
            (_, Some("Bearer good")) if bearer => reply(200, "", "content"),
            (_, Some(BASIC)) if !bearer => reply(200, "", "content"),
            _ => reply(status, "", "{}"),
        }
    })
    .await
}

fn of_repository(name: &str) -> UpstreamRequest {
    ours(UpstreamRequest {
        repository: name.parse().unwrap(),
        ..blob("r.lan")
    })
}

#[tokio::test]
async fn credentials_are_used_where_only_the_ping_challenges() {
    for status in [401, 403, 404] {
        for bearer in [true, false] {
            let server = challenging_only_at_v2(status, bearer).await;
            let upstreams = upstreams(&[with_password(&server)], deadlines());
            for name in ["a/b", "a/b", "other"] {
                let response = upstreams.fetch(&of_repository(name)).await.unwrap();
                assert!(!response.public, "the response required a password");
                assert_eq!(read(response).await.unwrap(), "content", "{status}");
            }
            let pings = server.heads().iter().filter(|head| path(head) == "/v2/").count();
            assert_eq!(pings, 1, "one request for all repositories");
            // With credentials, the answer is a verdict.
            let outcome = pull(&upstreams, &of_repository("missing/app")).await;
            assert!(
                matches!(outcome, Err(UpstreamError::Status { status: 404, .. })),
                "{status}: {outcome:?}"
            );
            let scopes = server.heads();
            let mut scopes = scopes.iter().filter(|head| path(head).starts_with("/token"));
            assert!(scopes.all(|head| path(head).contains("repository") && !path(head).contains("catalog")));
        }
    }
}

#[tokio::test]
async fn a_client_s_credentials_are_exchanged_where_only_the_ping_names_the_token_service() {
    let server = challenging_only_at_v2(404, true).await;
    let request = UpstreamRequest {
        credentials: Credentials::Client(Secret::new(BASIC.as_bytes()).unwrap()),
        ..blob("r.lan")
    };
    assert_eq!(pull(&lan(&server), &request).await.unwrap(), "content");
}

#[tokio::test]
async fn simultaneous_requests_ping_once_and_only_with_credentials() {
    let server = challenging_only_at_v2(404, true).await;
    let upstreams = upstreams(&[with_password(&server)], deadlines());
    let mut pulls = JoinSet::new();
    for n in 0..20 {
        let upstreams = upstreams.clone();
        pulls.spawn(async move { pull(&upstreams, &of_repository(&format!("r{n}"))).await });
    }
    while let Some(content) = pulls.join_next().await {
        assert_eq!(content.unwrap().unwrap(), "content");
    }
    let pings = |server: &Server| server.heads().iter().filter(|head| path(head) == "/v2/").count();
    assert_eq!(pings(&server), 1);

    let server = challenging_only_at_v2(404, true).await;
    assert!(pull(&lan(&server), &ours(blob("r.lan"))).await.is_err());
    assert!(pull(&lan(&server), &blob("r.lan")).await.is_err());
    assert_eq!((pings(&server), server.heads().len()), (0, 2));
}

#[tokio::test]
async fn a_ping_without_a_challenge_leaves_the_first_answer() {
    let server = Server::start(|_| {
        |head: &str| match path(head) {
            "/v2/" => reply(200, "", "{}"),
            _ => reply(404, "", "{}"),
        }
    })
    .await;
    let upstreams = upstreams(&[with_password(&server)], deadlines());
    for _ in 0..3 {
        let outcome = pull(&upstreams, &ours(blob("r.lan"))).await;
        assert!(
            matches!(outcome, Err(UpstreamError::Status { status: 404, .. })),
            "{outcome:?}"
        );
    }
    assert_eq!(server.heads().len(), 3 + 1);
}

#[tokio::test]
async fn an_error_names_the_setting_that_would_help() {
    // A registry with plain http only. Below, a registry with TLS only.
    for answer in ["HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request", ""] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut hello = [0; 2048];
                let _ = stream.read(&mut hello).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let mut config = plain("r.lan", port);
        config.settings.url = Some(format!("https://127.0.0.1:{port}").parse().unwrap());
        config.settings.insecure = false;
        let text = pull(&upstreams(&[config], deadlines()), &blob("r.lan"))
            .await
            .unwrap_err()
            .to_string();
        assert!(text.contains("insecure: true"), "{text}");
        serving.abort();
    }
    for (status, body) in [
        (
            "HTTP/1.0 400 Bad Request",
            "Client sent an HTTP request to an HTTPS server.\n",
        ),
        ("\x15\x03\x01\0\x02\x02", ""),
    ] {
        let server =
            Server::start(|_| move |_: &str| raw(&format!("{status}\r\n\r\n{body}"), Then::Close)).await;
        let text = pull(&lan(&server), &blob("r.lan")).await.unwrap_err().to_string();
        assert!(
            text.contains("remove `insecure: true`") && text.contains("https://"),
            "{text}"
        );
    }
}
