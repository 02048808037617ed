//! Requests to raw servers on loopback with failures, timeouts or rate limits.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use super::super::availability::{AvailabilityState, AvailabilityTable, Source};
use super::*;

fn manifest(namespace: &str, purpose: Purpose) -> UpstreamRequest {
    UpstreamRequest {
        target: Target::Manifest(Reference::Tag("v1".parse().unwrap())),
        method: UpstreamMethod::Head,
        purpose,
        ..blob(namespace)
    }
}

fn in_repository(name: &str) -> UpstreamRequest {
    UpstreamRequest {
        repository: name.parse().unwrap(),
        ..blob("r.lan")
    }
}

fn status(upstreams: &Upstreams, name: &str) -> RegistryStatus {
    let availability = upstreams.statuses();
    availability
        .into_iter()
        .find(|status| status.namespace.as_str() == name)
        .expect("the registry received a request")
}

/// A server with the answer `failing` while the flag is set, and good answers otherwise.
async fn switchable(failing: fn() -> Reply) -> (Server, Arc<AtomicBool>) {
    let bad = Arc::new(AtomicBool::new(true));
    let flag = bad.clone();
    let server = Server::start(|_| {
        move |_: &str| match flag.load(Ordering::SeqCst) {
            true => failing(),
            false => reply(200, "", "content"),
        }
    })
    .await;
    (server, bad)
}

/// Calls `enough` until it returns true, for at most ten seconds.
async fn until(what: &str, mut enough: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !enough().await {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_failing_registry_gets_one_request_a_second_and_the_others_are_unaffected() {
    let (bad, flag) = switchable(|| reply(503, "", "")).await;
    let good = Server::start(|_| |_: &str| reply(200, "", "content")).await;
    let upstreams = upstreams(
        &[plain("r.lan", bad.port), plain("good.lan", good.port)],
        deadlines(),
    );
    let began = Instant::now();
    let mut refusals = 0;
    for n in 0..100 {
        // Several repositories, so the failure is the registry's.
        let request = in_repository(&format!("a/{}", n % 7));
        let error = pull(&upstreams, &request).await.unwrap_err();
        assert!(error.is_outage() && error.is_retryable(), "{error:?}");
        if let UpstreamError::Unavailable { .. } = error {
            let text = error.to_string();
            assert!(text.contains("r.lan") && text.contains("503"), "{text}");
            refusals += 1;
        }
        assert_eq!(pull(&upstreams, &blob("good.lan")).await.unwrap(), "content");
    }
    let probes = began.elapsed().as_secs() as usize;
    assert!(bad.heads().len() <= 5 + probes, "{}", bad.heads().len());
    assert_eq!(bad.heads().len() + refusals, 100);
    assert_eq!(good.heads().len(), 100);
    let known = status(&upstreams, "r.lan");
    assert_eq!(
        (known.state, known.only.as_ref()),
        (AvailabilityState::Tripped, None)
    );
    assert_eq!(
        (known.failures, known.suppressed),
        (known.requests, refusals as u64)
    );

    flag.store(false, Ordering::SeqCst);
    until("the recovery is detected", async || {
        pull(&upstreams, &blob("r.lan")).await.is_ok()
    })
    .await;
    for _ in 0..20 {
        pull(&upstreams, &blob("r.lan")).await.unwrap();
    }
    assert_eq!(status(&upstreams, "r.lan").state, AvailabilityState::Available);
}

#[tokio::test]
async fn client_error_statuses_never_trip_the_breaker() {
    for status in [400, 401, 403, 404, 410, 501] {
        let server = Server::start(|_| move |_: &str| reply(status, "", "")).await;
        let upstreams = lan(&server);
        for _ in 0..12 {
            pull(&upstreams, &blob("r.lan")).await.unwrap_err();
        }
        assert_eq!(server.heads().len(), 12, "{status}");
    }
}

#[tokio::test]
async fn a_failing_token_service_is_a_failing_registry() {
    let server = Server::start(|port| {
        move |head: &str| match path(head).starts_with("/token") {
            true => reply(502, "", ""),
            false => challenge_of(port),
        }
    })
    .await;
    let upstreams = lan(&server);
    for n in 0..6 {
        pull(&upstreams, &in_repository(&format!("a/{n}")))
            .await
            .unwrap_err();
    }
    let known = status(&upstreams, "r.lan");
    assert_eq!((known.state, known.only), (AvailabilityState::Tripped, None));
    assert!(known.last_error.unwrap().contains("token"));
}

/// A registry that accepts connections and never answers. Only the first request with a held copy
/// waits.
#[tokio::test]
async fn a_silent_registry_holds_a_revalidation_up_once() {
    let (server, flag) = switchable(|| raw("HTTP/1.1 200", Then::Silence)).await;
    let upstreams = upstreams(
        &[plain("r.lan", server.port)],
        Deadlines {
            revalidate: QUICK,
            ..deadlines()
        },
    );
    let request = manifest("r.lan", Purpose::Revalidate);
    let error = upstreams.fetch(&request).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Timeout { .. }), "{error:?}");
    let began = Instant::now();
    let mut refusals = 0;
    while server.heads().len() == 1 {
        let error = upstreams.fetch(&request).await.unwrap_err();
        assert!(
            matches!(error, UpstreamError::Unavailable { timed_out: true, .. }),
            "{error:?}"
        );
        refusals += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(began.elapsed() < Duration::from_secs(10), "no probe was sent");
    }
    assert!(refusals > 0, "no request waited for the probe");
    assert_eq!(status(&upstreams, "r.lan").state, AvailabilityState::Failing);

    // The probes run in the background, and one of them detects the recovery.
    flag.store(false, Ordering::SeqCst);
    until("the recovery is detected", async || {
        upstreams.fetch(&request).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_request_without_a_copy_is_sent_to_a_registry_that_was_silent_once() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let server = Server::start(|_| {
        move |_: &str| match count.fetch_add(1, Ordering::SeqCst) {
            0 => raw("", Then::Silence),
            _ => reply(200, "", "content"),
        }
    })
    .await;
    let upstreams = upstreams(
        &[plain("r.lan", server.port)],
        Deadlines {
            revalidate: QUICK,
            ..deadlines()
        },
    );
    upstreams
        .fetch(&manifest("r.lan", Purpose::Revalidate))
        .await
        .unwrap_err();
    assert_eq!(pull(&upstreams, &blob("r.lan")).await.unwrap(), "content");
}

#[tokio::test]
async fn failing_repository_does_not_block_other_repositories() {
    let server = Server::start(|_| {
        |head: &str| match path(head).contains("/broken/") {
            true => reply(500, "", ""),
            false => reply(200, "", "content"),
        }
    })
    .await;
    let upstreams = lan(&server);
    for _ in 0..50 {
        pull(&upstreams, &in_repository("a/broken/x")).await.unwrap_err();
        assert_eq!(
            pull(&upstreams, &in_repository("a/well")).await.unwrap(),
            "content"
        );
    }
    let known = status(&upstreams, "r.lan");
    assert_eq!(known.state, AvailabilityState::Tripped);
    assert_eq!(known.only.unwrap().as_str(), "a/broken/x");
    assert!(
        server.heads().len() < 100,
        "the failing repository receives few requests"
    );
}

#[tokio::test]
async fn bodies_that_break_off_do_not_trip_the_breaker() {
    let long = Arc::new("x".repeat(4096));
    let server = Server::start(|_| {
        move |_: &str| {
            raw(
                &format!("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{long}"),
                Then::Close,
            )
        }
    })
    .await;
    let upstreams = lan(&server);
    for _ in 0..12 {
        let error = pull(&upstreams, &blob("r.lan")).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Body { .. }), "{error:?}");
    }
}

/// Single bytes are no progress.
#[tokio::test]
async fn a_body_that_dribbles_ends_at_the_idle_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let dribbling = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
            .await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(QUICK / 5).await;
        }
    });
    let upstreams = upstreams(
        &[plain("r.lan", port)],
        Deadlines {
            idle: 2 * QUICK,
            ..deadlines()
        },
    );
    let error = pull(&upstreams, &blob("r.lan")).await.unwrap_err();
    let silent = matches!(
        error,
        UpstreamError::Timeout {
            phase: Phase::Body,
            ..
        }
    );
    assert!(silent && error.is_retryable(), "{error:?}");
    // The connection ends with its body.
    dribbling.await.unwrap();
}

#[tokio::test]
async fn a_limit_is_respected_and_forwarded() {
    let server = Server::start(|_| |_: &str| reply(429, "Retry-After: 30\r\n", "")).await;
    let upstreams = lan(&server);
    let error = pull(&upstreams, &blob("r.lan")).await.unwrap_err();
    assert!(
        matches!(error, UpstreamError::Status { status: 429, .. }),
        "{error:?}"
    );
    for request in [
        blob("r.lan"),
        manifest("r.lan", Purpose::Pull),
        in_repository("b"),
    ] {
        let error = upstreams.fetch(&request).await.unwrap_err();
        let UpstreamError::RateLimited { retry_after, .. } = error else {
            panic!("{error:?}");
        };
        assert!((1..=30).contains(&seconds_left(&retry_after)), "{retry_after:?}");
    }
    assert_eq!(server.heads().len(), 1);
    assert_eq!(status(&upstreams, "r.lan").state, AvailabilityState::Limited);
}

#[tokio::test]
async fn rate_limit_of_the_token_service_blocks_all_requests() {
    let server = Server::start(|port| {
        move |head: &str| match path(head).starts_with("/token") {
            true => reply(
                429,
                "Retry-After: 30\r\n",
                "You have reached your pull rate limit.",
            ),
            false => challenge_of(port),
        }
    })
    .await;
    let upstreams = lan(&server);
    upstreams
        .fetch(&manifest("r.lan", Purpose::Pull))
        .await
        .unwrap_err();
    let before = server.heads().len();
    let error = pull(&upstreams, &blob("r.lan")).await.unwrap_err();
    assert!(matches!(error, UpstreamError::RateLimited { .. }), "{error:?}");
    assert_eq!(server.heads().len(), before);
}

#[tokio::test]
async fn a_pull_limit_is_known_by_its_words_or_by_its_budget_and_leaves_blobs_alone() {
    let spent = "Retry-After: 30\r\nratelimit-limit: 100;w=21600\r\nratelimit-remaining: 0;w=21600\r\n";
    let words =
        r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#;
    for (headers, body) in [(spent, ""), ("Retry-After: 30\r\n", words)] {
        let server = Server::start(|_| {
            move |head: &str| match path(head).contains("/manifests/") {
                true => reply(429, headers, body),
                false => reply(200, "", "content"),
            }
        })
        .await;
        let upstreams = lan(&server);
        let request = UpstreamRequest {
            method: UpstreamMethod::Get,
            ..manifest("r.lan", Purpose::Pull)
        };
        upstreams.fetch(&request).await.unwrap_err();
        let error = upstreams.fetch(&request).await.unwrap_err();
        assert!(matches!(error, UpstreamError::RateLimited { .. }), "{error:?}");
        assert_eq!(pull(&upstreams, &blob("r.lan")).await.unwrap(), "content");
        // The client's own account may have pulls left.
        let before = server.heads().len();
        let own = UpstreamRequest {
            credentials: Credentials::Client(Secret::new(b"Basic b3du").unwrap()),
            ..request.clone()
        };
        let error = upstreams.fetch(&own).await.unwrap_err();
        assert!(
            matches!(error, UpstreamError::Status { status: 429, .. }),
            "{error:?}"
        );
        assert_eq!(server.heads().len(), before + 1);
    }
}

#[tokio::test]
async fn rate_limit_of_a_client_account_does_not_affect_other_clients() {
    let server = Server::start(|_| {
        |head: &str| match header(head, "authorization") {
            Some(_) => reply(
                429,
                "Retry-After: 30\r\nratelimit-limit: 9\r\nratelimit-remaining: 0\r\n",
                "",
            ),
            None => reply(200, "", "content"),
        }
    })
    .await;
    let upstreams = lan(&server);
    let own = UpstreamRequest {
        credentials: Credentials::Client(Secret::new(b"Basic b3du").unwrap()),
        ..manifest("r.lan", Purpose::Pull)
    };
    for _ in 0..3 {
        upstreams.fetch(&own).await.unwrap_err();
        upstreams
            .fetch(&manifest("r.lan", Purpose::Revalidate))
            .await
            .unwrap();
    }
    assert_eq!(status(&upstreams, "r.lan").budget, None);
}

#[tokio::test]
async fn the_end_of_a_budget_is_left_to_those_who_have_no_copy() {
    let left = Arc::new(AtomicUsize::new(96));
    let remaining = left.clone();
    let server = Server::start(|_| {
        move |_: &str| {
            let left = remaining.load(Ordering::SeqCst);
            let headers = format!(
                "ratelimit-limit: 100;w=21600\r\nratelimit-remaining: {left};w=21600\r\n\
                 docker-ratelimit-source: 203.0.113.9\r\n"
            );
            reply(200, &headers, "")
        }
    })
    .await;
    let upstreams = lan(&server);
    let revalidation = manifest("r.lan", Purpose::Revalidate);
    upstreams.fetch(&revalidation).await.unwrap();
    left.store(9, Ordering::SeqCst);
    upstreams.fetch(&revalidation).await.unwrap();
    let requests = server.heads().len();
    for _ in 0..5 {
        let error = upstreams.fetch(&revalidation).await.unwrap_err();
        let UpstreamError::RateLimited {
            restraint: Restraint::NearlySpent,
            retry_after,
            ..
        } = error
        else {
            panic!("{error:?}");
        };
        assert!(retry_after <= Duration::from_secs(60));
    }
    assert_eq!(server.heads().len(), requests);
    upstreams.fetch(&manifest("r.lan", Purpose::Pull)).await.unwrap();
    pull(&upstreams, &blob("r.lan")).await.unwrap();

    let known = status(&upstreams, "r.lan");
    let budget = known.budget.unwrap();
    assert_eq!((budget.limit, budget.remaining), (Some(100), Some(9)));
    assert_eq!(budget.window, Some(Duration::from_secs(21_600)));
    assert_eq!(budget.source, Some(Source::Address));
    assert!(!format!("{known:?}").contains("203.0.113.9"));
    // The budget has grown again, as stated in the answer to the next patient request.
    left.store(100, Ordering::SeqCst);
    upstreams.fetch(&manifest("r.lan", Purpose::Pull)).await.unwrap();
    upstreams.fetch(&revalidation).await.unwrap();
}

#[tokio::test]
async fn an_air_gapped_cache_sends_no_request() {
    let server = Server::start(|_| |_: &str| reply(200, "", "content")).await;
    let upstreams = lan(&server);
    let open = (*upstreams.registries()).clone();
    let gapped = Registries {
        air_gapped: true,
        ..open.clone()
    };
    upstreams.reload(gapped).unwrap();
    for request in [
        blob("r.lan"),
        manifest("r.lan", Purpose::Revalidate),
        blob("other.example"),
    ] {
        let error = upstreams.fetch(&request).await.unwrap_err();
        assert!(matches!(error, UpstreamError::AirGapped { .. }), "{error:?}");
        assert!(error.to_string().contains("air-gapped"), "{error}");
    }
    assert_eq!(server.heads().len(), 0);
    assert!(upstreams.statuses().is_empty());
    upstreams.reload(open).unwrap();
    pull(&upstreams, &blob("r.lan")).await.unwrap();
}

#[test]
fn availability_table_is_bounded_and_evicts_unconfigured_registries_first() {
    let availability = Arc::new(AvailabilityTable::default());
    let mut now = Instant::now();
    let mut fail = |name: &str, named: bool| {
        now += Duration::from_millis(1);
        let request = blob(name);
        let Decision::Send(tracker) = availability.admit(&request, named, now) else {
            panic!("{name} has not failed often");
        };
        let host: Arc<str> = name.into();
        let cause = "down".into();
        let _ = tracker.record(Err(UpstreamError::Connect { host, cause }), now);
    };
    fail("named.example", true);
    for n in 0..5_000 {
        fail(&format!("r{n}.example"), false);
        fail("busy.example", false);
        if n % 4 == 0 {
            // Too few consecutive failures to trip the breaker.
            now_answers(&availability, "busy.example");
        }
    }
    fail("last.example", false);
    let known = availability.report(Instant::now());
    assert_eq!(known.len(), 4_096);
    for name in ["named.example", "busy.example", "last.example", "r4999.example"] {
        assert!(known.iter().any(|one| one.namespace.as_str() == name), "{name}");
    }
    assert!(known.is_sorted_by(|one, other| one.namespace < other.namespace));
}

/// Records an answer of `name`.
fn now_answers(availability: &Arc<AvailabilityTable>, name: &str) {
    // Much later, so no other event is newer.
    let now = Instant::now() + Duration::from_secs(3_600);
    if let Decision::Send(tracker) = availability.admit(&blob(name), false, now) {
        let (host, what): (Arc<str>, Arc<str>) = (name.into(), "odd".into());
        let _ = tracker.record(Err(UpstreamError::Protocol { host, what }), now);
    }
}
