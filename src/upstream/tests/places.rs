//! The endpoints of a registry's content: mirrors, limits, redirects for the client, and reloads.

use std::num::NonZeroUsize;

use super::*;
use crate::config::{Auth, FollowRedirects, Mirror, SecretText};

fn mirror(server: &Server) -> Mirror {
    Mirror {
        url: format!("http://127.0.0.1:{}", server.port).parse().unwrap(),
        pull: true,
        resolve: true,
    }
}

async fn holding(content: &'static str) -> Server {
    Server::start(|_| move |_: &str| reply(200, "", content)).await
}

#[tokio::test]
async fn a_mirror_that_fails_in_any_way_hands_over_to_the_next() {
    let registry = holding("from the registry").await;
    let second = holding("from the second").await;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    for status in [0, 400, 401, 403, 404, 429, 500, 503] {
        let first = Server::start(|port| {
            move |_: &str| match status {
                0 => raw("", Then::Close),
                401 => challenge_of(port),
                _ => reply(status, "", ""),
            }
        })
        .await;
        let mut config = plain("r.lan", registry.port);
        config.settings.mirrors = vec![mirror(&first), mirror(&second)];
        config.settings.mirrors[1].resolve = false;
        let upstreams = upstreams(&[config], deadlines());
        assert_eq!(
            pull(&upstreams, &blob("r.lan")).await.unwrap(),
            "from the second",
            "{status}"
        );
        let tag = Target::Manifest(Reference::Tag("v1".parse().unwrap()));
        let by_tag = UpstreamRequest {
            target: tag,
            ..blob("r.lan")
        };
        assert_eq!(
            pull(&upstreams, &by_tag).await.unwrap(),
            "from the registry",
            "{status}"
        );
        assert!(
            path(&first.heads()[0]).ends_with("?ns=r.lan"),
            "{}",
            first.heads()[0]
        );
    }
    // A mirror that is down, and a silent mirror.
    let silent = Server::start(|_| |_: &str| raw("", Then::Silence)).await;
    let mut config = plain("r.lan", registry.port);
    config.settings.mirrors = vec![mirror(&silent), mirror(&silent)];
    config.settings.mirrors[0].url = format!("http://127.0.0.1:{closed}").parse().unwrap();
    let deadlines = Deadlines {
        mirror: QUICK,
        ..deadlines()
    };
    let upstreams = upstreams(&[config], deadlines);
    assert_eq!(
        pull(&upstreams, &blob("r.lan")).await.unwrap(),
        "from the registry"
    );
}

#[tokio::test]
async fn only_the_registry_itself_says_that_something_does_not_exist() {
    let missing = Server::start(|_| |_: &str| reply(404, "", "")).await;
    let down = Server::start(|_| |_: &str| reply(503, "", "")).await;
    for (first, last, status) in [(&missing, &down, 503), (&down, &missing, 404)] {
        let mut config = plain("r.lan", last.port);
        config.settings.mirrors = vec![mirror(first)];
        match pull(&upstreams(&[config], deadlines()), &blob("r.lan")).await {
            Err(UpstreamError::Status { status: actual, .. }) => assert_eq!(actual, status),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_mirror_is_never_shown_credentials() {
    let registry = Server::start(|_| {
        |head: &str| match header(head, "authorization") {
            Some(_) => reply(200, "", "content"),
            None => reply(401, "WWW-Authenticate: Basic realm=\"r\"\r\n", ""),
        }
    })
    .await;
    let challenging =
        Server::start(|_| |_: &str| reply(401, "WWW-Authenticate: Basic realm=\"r\"\r\n", "")).await;
    let mut config = plain("r.lan", registry.port);
    config.settings.mirrors = vec![mirror(&challenging)];
    config.settings.auth = Auth::Basic {
        username: "user".into(),
        password: SecretText::new("hunter2".into()),
    };
    let upstreams = upstreams(&[config], deadlines());
    let ours = UpstreamRequest {
        credentials: Credentials::Operator,
        ..blob("r.lan")
    };
    for _ in 0..2 {
        assert_eq!(pull(&upstreams, &ours).await.unwrap(), "content");
    }
    assert_eq!(challenging.heads().len(), 2);
    assert!(
        challenging
            .heads()
            .iter()
            .all(|head| header(head, "authorization").is_none())
    );
    // A request with a client's credentials goes to the registry only.
    let clients = UpstreamRequest {
        credentials: Credentials::Client(Secret::new(b"Basic Y2xpZW50").unwrap()),
        ..blob("r.lan")
    };
    assert_eq!(pull(&upstreams, &clients).await.unwrap(), "content");
    assert_eq!(challenging.heads().len(), 2);
}

#[tokio::test]
async fn no_more_requests_are_in_flight_than_the_operator_allows() {
    let server = holding("content").await;
    let mut config = plain("r.lan", server.port);
    config.settings.max_concurrency = NonZeroUsize::new(2);
    let short = Deadlines {
        queue: QUICK,
        ..deadlines()
    };
    let upstreams = upstreams(&[config.clone()], short);
    let first = upstreams.fetch(&blob("r.lan")).await.unwrap();
    let second = upstreams.fetch(&blob("r.lan")).await.unwrap();
    let outcome = upstreams.fetch(&blob("r.lan")).await;
    assert!(
        matches!(outcome, Err(UpstreamError::Overloaded { .. })),
        "{outcome:?}"
    );
    assert_eq!(server.heads().len(), 2);
    // A finished or dropped body releases its slot.
    assert_eq!(read(first).await.unwrap(), "content");
    let third = upstreams.fetch(&blob("r.lan")).await.unwrap();
    drop(second);
    let fourth = upstreams.fetch(&blob("r.lan")).await.unwrap();
    assert!(upstreams.fetch(&blob("r.lan")).await.is_err());
    // A refusal and an answer without a body release their slots.
    drop((third, fourth));
    let head = UpstreamRequest {
        method: UpstreamMethod::Head,
        ..blob("r.lan")
    };
    let held: Vec<_> = futures_util::future::join_all((0..4).map(|_| upstreams.fetch(&head))).await;
    assert!(held.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_blob_s_redirect_may_be_left_to_the_client() {
    let cdn = holding("content").await;
    let there = format!("http://127.0.0.1:{}/blob?sig=S3CRET", cdn.port);
    let away = there.clone();
    let server = Server::start(|_| {
        move |head: &str| match path(head) {
            "/near" => redirect_to(&away),
            _ => redirect_to("/near"),
        }
    })
    .await;
    let mut config = plain("r.lan", server.port);
    config.settings.follow_redirects = FollowRedirects::Pass;
    let upstreams = upstreams(&[config], deadlines());
    match pull(&upstreams, &blob("r.lan")).await {
        Err(error @ UpstreamError::Redirected { .. }) => {
            assert!(!format!("{error} {error:?}").contains("S3CRET"));
            assert!(!error.is_retryable() && !error.is_outage());
            assert_eq!(error.status(), Some(307));
            let UpstreamError::Redirected { location, .. } = error else {
                unreachable!()
            };
            assert_eq!(location.as_bytes(), there.as_bytes());
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((server.heads().len(), cdn.heads().len()), (2, 0));
    // Redirects of manifests are followed, because clients do not expect them.
    let manifest = UpstreamRequest {
        target: Target::Manifest(Reference::Digest(digest())),
        ..blob("r.lan")
    };
    assert_eq!(pull(&upstreams, &manifest).await.unwrap(), "content");
}

#[tokio::test]
async fn a_registry_that_may_not_be_private_is_not_contacted_inside() {
    let server = holding("content").await;
    let mut config = plain("r.lan", server.port);
    config.settings.allow_private = Some(false);
    let outcome = pull(&upstreams(&[config], deadlines()), &blob("r.lan")).await;
    assert!(
        matches!(outcome, Err(UpstreamError::Refused { .. })),
        "{outcome:?}"
    );
    assert_eq!(server.heads().len(), 0);
}

#[tokio::test]
async fn a_reload_keeps_the_tokens_of_registries_that_stay_the_same() {
    let server = registry_with_tokens(|_, _| true).await;
    let before = [plain("a.lan", server.port), plain("b.lan", server.port)];
    let upstreams = upstreams(&before, deadlines());
    for name in ["a.lan", "b.lan"] {
        pull(&upstreams, &blob(name)).await.unwrap();
    }
    assert_eq!(server.count("/token"), 2);
    let mut after = before.clone();
    after[1].settings.realm_hosts = vec!["auth.lan".into()];
    upstreams.reload(entries(&after)).unwrap();
    pull(&upstreams, &blob("a.lan")).await.unwrap();
    assert_eq!(server.count("/token"), 2, "an unchanged registry keeps the token");
    pull(&upstreams, &blob("b.lan")).await.unwrap();
    assert_eq!(server.count("/token"), 3);
    // An invalid configuration changes nothing.
    let twice = [plain("c.lan", server.port), plain("c.lan", server.port)];
    assert!(upstreams.reload(entries(&twice)).is_err());
    pull(&upstreams, &blob("a.lan")).await.unwrap();
    assert_eq!(
        (server.count("/token"), upstreams.registries().entries.len()),
        (3, 2)
    );
}

#[tokio::test]
async fn a_registry_keeps_its_token_whatever_repositories_clients_name_at_another() {
    let server = registry_with_tokens(|_, _| true).await;
    let upstreams = upstreams(
        &[plain("a.lan", server.port), plain("b.lan", server.port)],
        deadlines(),
    );
    pull(&upstreams, &blob("b.lan")).await.unwrap();
    // More tokens than the cache of one entry keeps.
    for number in 0..2_100 {
        let request = UpstreamRequest {
            repository: format!("made-up/{number}").parse().unwrap(),
            ..blob("a.lan")
        };
        pull(&upstreams, &request).await.unwrap();
    }
    let fetched = server.count("/token");
    assert_eq!(fetched, 2_101);
    pull(&upstreams, &blob("b.lan")).await.unwrap();
    assert_eq!(server.count("/token"), fetched);
}
