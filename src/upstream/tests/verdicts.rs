//! The treatment of HEAD, and of web pages.

use super::*;

const PAGE: &str = "Content-Type: text/html\r\n";

fn by_tag(method: UpstreamMethod) -> UpstreamRequest {
    UpstreamRequest {
        target: Target::Manifest(Reference::Tag("v1".parse().unwrap())),
        method,
        ..blob("r.lan")
    }
}

/// A registry with one answer to HEAD and another to GET.
async fn registry(head: (u16, &'static str), get: (u16, &'static str)) -> Server {
    Server::start(|_| {
        move |request: &str| match request.starts_with("HEAD ") {
            // With the body length of a GET.
            true => Reply(
                format!("HTTP/1.1 {} X\r\nContent-Length: 4\r\n{}\r\n", head.0, head.1).into_bytes(),
                Then::KeepAlive,
            ),
            false => reply(get.0, get.1, "body"),
        }
    })
    .await
}

fn methods(server: &Server) -> Vec<String> {
    let method = |head: &String| head.split(' ').next().unwrap().to_owned();
    server.heads().iter().map(method).collect()
}

#[tokio::test]
async fn a_refusal_of_head_is_decided_by_get_and_once_for_a_registry() {
    for status in [204, 300, 400, 401, 403, 404, 405, 406, 410, 415, 501] {
        let server = registry((status, ""), (200, "")).await;
        let upstreams = lan(&server);
        for method in [UpstreamMethod::Head, UpstreamMethod::Probe, UpstreamMethod::Head] {
            let outcome = upstreams.fetch(&by_tag(method)).await;
            let mut response = outcome.unwrap_or_else(|error| panic!("{status}: {error}"));
            assert!(response.body.chunk().await.unwrap().is_none(), "HEAD has no body");
        }
        assert_eq!(methods(&server), ["HEAD", "GET", "GET", "GET"], "{status}");
        let elsewhere = "r.lan".parse().unwrap();
        assert!(upstreams.is_head_in_vain(&elsewhere));
    }
}

#[tokio::test]
async fn a_refusal_of_head_that_get_has_confirmed_is_final_from_then_on() {
    for status in [401, 403, 404, 410] {
        let server = registry((status, ""), (status, "")).await;
        let upstreams = lan(&server);
        for _ in 0..3 {
            match upstreams.fetch(&by_tag(UpstreamMethod::Head)).await {
                Err(UpstreamError::Status { status: actual, .. }) => assert_eq!(actual, status),
                other => panic!("{status}: {other:?}"),
            }
        }
        assert_eq!(methods(&server), ["HEAD", "GET", "HEAD", "HEAD"], "{status}");
        // Another repository may behave differently.
        let other = UpstreamRequest {
            repository: "other/repository".parse().unwrap(),
            ..by_tag(UpstreamMethod::Head)
        };
        upstreams.fetch(&other).await.unwrap_err();
        assert_eq!(methods(&server)[4..], ["HEAD", "GET"], "{status}");
    }
}

#[tokio::test]
async fn a_failing_registry_gets_no_second_request() {
    for status in [408, 429, 500, 502, 503, 504] {
        let server = registry((status, ""), (200, "")).await;
        lan(&server)
            .fetch(&by_tag(UpstreamMethod::Head))
            .await
            .unwrap_err();
        assert_eq!(methods(&server), ["HEAD"], "{status}");
    }
}

#[tokio::test]
async fn a_page_is_neither_a_verdict_nor_leave_to_read() {
    for status in [401, 403, 404, 410] {
        for method in [UpstreamMethod::Get, UpstreamMethod::Head, UpstreamMethod::Probe] {
            let server = registry((status, PAGE), (status, PAGE)).await;
            let error = lan(&server).fetch(&by_tag(method)).await.unwrap_err();
            assert!(error.is_outage(), "{status} {method:?}: {error}");
            let signed = "Content-Type: text/html\r\nDocker-Distribution-Api-Version: registry/2.0\r\n";
            let server = registry((status, signed), (status, signed)).await;
            let error = lan(&server).fetch(&by_tag(method)).await.unwrap_err();
            assert!(!error.is_outage(), "{status} {method:?}: {error}");
            let plain = "Content-Type: text/plain; charset=utf-8\r\n";
            let server = registry((status, plain), (status, plain)).await;
            let error = lan(&server).fetch(&by_tag(method)).await.unwrap_err();
            assert!(!error.is_outage(), "{status} {method:?}: {error}");
        }
    }
    // A login page in place of content does not permit reading.
    let server = registry((200, PAGE), (200, PAGE)).await;
    let blob_probe = UpstreamRequest {
        method: UpstreamMethod::Probe,
        ..blob("r.lan")
    };
    for probe in [by_tag(UpstreamMethod::Probe), blob_probe] {
        let outcome = lan(&server).fetch(&probe).await;
        assert!(
            matches!(outcome, Err(UpstreamError::Protocol { .. })),
            "{outcome:?}"
        );
    }
    // HEAD gets the page, GET does not.
    let server = registry((200, PAGE), (200, "")).await;
    lan(&server).fetch(&by_tag(UpstreamMethod::Probe)).await.unwrap();
}
