//! Tests of the harness itself. A wrong test tool invalidates every other test.

use std::time::{Duration, Instant};

use crate::harness::client::{Flow, Why};
use crate::harness::*;

fn client(registry: &Registry) -> Client {
    Client::new(registry.addr())
}

fn blob_path(digest: &str) -> String {
    format!("/v2/any/repo/blobs/{digest}")
}

#[test]
fn an_image_can_be_pulled_from_the_fake_registry() {
    let registry = Registry::new();
    let layer = PseudoRandom::new(1, 300_000);
    let image = Image::push_index(
        &registry,
        "a/b",
        "v1",
        Flavor::Oci,
        [&[layer.clone().into()], &["x".into()]],
    );
    let client = client(&registry);
    let by_tag = client.get("/v2/a/b/manifests/v1");
    by_tag.expect(&image.manifest);
    assert_eq!(by_tag.field("docker-content-digest"), Some(image.digest.as_str()));
    assert_eq!(
        by_tag.field("content-type"),
        Some("application/vnd.oci.image.index.v1+json")
    );
    for (digest, content) in image.all_blobs() {
        client.get(&blob_path(digest)).expect(&content.bytes());
    }
    client.pull(&blob_path(&layer.digest()), &layer);
    let head = client.head(&blob_path(&layer.digest()));
    assert_eq!((head.content_length(), head.body.len()), (Some(300_000), 0));
    assert_eq!(registry.gets("/v2/a/b/manifests/v1"), 1);
    assert_eq!(registry.heads(&layer.digest()), 1);
    client
        .get("/v2/a/b/manifests/none")
        .expect_error(404, "MANIFEST_UNKNOWN");
}

#[test]
fn one_connection_carries_pipelined_requests() {
    let registry = Registry::new();
    let digest = registry.blob("hello");
    let mut connection = client(&registry).open();
    for _ in 0..3 {
        connection.request("GET", &blob_path(&digest), &[]).unwrap();
        connection.request("HEAD", &blob_path(&digest), &[]).unwrap();
    }
    for _ in 0..3 {
        connection.read("GET").unwrap().expect(b"hello");
        connection.read("HEAD").unwrap().expect(b"");
    }
    assert!(connection.extra().is_empty());
}

#[test]
fn each_kind_of_broken_response_is_classified() {
    let registry = Registry::new();
    let content = PseudoRandom::new(2, 200_000);
    let digest = registry.blob(content.clone());
    let path = blob_path(&digest);
    let client = client(&registry);
    let cases = [
        (Reply::new().cut_at(100, Cut::Fin), Why::Truncated, 100),
        // The piece fits into the first receive window. A reset discards unsent bytes.
        (Reply::new().cut_at(30_000, Cut::Rst), Why::Reset, 30_000),
        (
            Reply::new().framing(Framing::Chunked).cut_at(99, Cut::Fin),
            Why::Truncated,
            99,
        ),
        (
            Reply::new().framing(Framing::Chunked).cut_at(99, Cut::Rst),
            Why::Reset,
            99,
        ),
        (Reply::new().length_delta(1), Why::Truncated, 200_000),
        (Reply::new().flip(123_456), Why::WrongByte(123_456), 0),
        (
            Reply::new().framing(Framing::Chunked).flip(3),
            Why::WrongByte(3),
            0,
        ),
        (Reply::hang_up(Cut::Fin), Why::NoResponse, 0),
        (Reply::hang_up(Cut::Rst), Why::Reset, 0),
        (
            Reply::raw("HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n"),
            Why::Malformed("bad line `X: a\\rb`".into()),
            0,
        ),
        (Reply::raw("HTTP/1.1 200 OK\r\nContent-Le"), Why::Truncated, 0),
    ];
    for (reply, why, received) in cases {
        registry.on(On::path(&digest).once(), reply);
        let broken = client.try_pull(&path, &[], &content, 0).unwrap_err();
        assert_eq!(broken.why, why);
        assert!(received == 0 || broken.received == received, "{broken:?}");
    }
    // Early but valid ends are complete responses. Only the length differs.
    for reply in [
        Reply::new().framing(Framing::Chunked).cut_at(99, Cut::LastChunk),
        Reply::new().framing(Framing::Close).cut_at(99, Cut::Fin),
        Reply::new().length_delta(-199_901),
    ] {
        registry.on(On::path(&digest).once(), reply);
        assert_eq!(client.try_pull(&path, &[], &content, 0).unwrap().received, 99);
    }
    for framing in [Framing::Length, Framing::Chunked, Framing::Close] {
        registry.on(On::path(&digest).once(), Reply::new().framing(framing));
        client.pull(&path, &content);
    }
}

#[test]
fn rules_apply_in_order_and_are_spent() {
    let registry = Registry::new();
    let digest = registry.blob("hello");
    let path = blob_path(&digest);
    registry.on(On::path(&digest).get().after(1).once(), Reply::status(500));
    registry.on(On::path(&digest).range(true), Reply::too_many_requests("7"));
    let client = client(&registry);
    client.get(&path).expect(b"hello");
    assert_eq!(client.head(&path).status, 200);
    assert_eq!(client.get(&path).status, 500);
    client.get(&path).expect(b"hello");
    let busy = client.get_with(&path, &[("Range", "bytes=1-")]);
    assert_eq!((busy.status, busy.field("retry-after")), (429, Some("7")));
}

#[test]
fn ranges_are_served_ignored_or_wrong_as_scripted() {
    let registry = Registry::new();
    let digest = registry.blob("0123456789");
    let path = blob_path(&digest);
    let client = client(&registry);
    let ask = || client.get_with(&path, &[("Range", "bytes=4-")]);
    let part = ask();
    assert_eq!(
        (part.status, part.field("content-range")),
        (206, Some("bytes 4-9/10"))
    );
    assert_eq!(part.body, b"456789");
    for (mode, status, said, body) in [
        (Range::Off, 200, None, "0123456789"),
        (Range::WrongTotal, 206, Some("bytes 4-9/11"), "456789"),
        (Range::WrongStart, 206, Some("bytes 5-9/10"), "56789"),
        (Range::WrongBytes, 206, Some("bytes 4-9/10"), "012345"),
        (Range::Refused, 416, Some("bytes */10"), ""),
    ] {
        registry.on(On::any().once(), Reply::new().range(mode));
        let answer = ask();
        assert_eq!(
            (answer.status, answer.field("content-range")),
            (status, said),
            "{mode:?}"
        );
        assert_eq!(answer.body, body.as_bytes(), "{mode:?}");
    }
}

#[test]
fn a_gate_holds_an_answer_until_it_opens() {
    let registry = Registry::new();
    let content = PseudoRandom::new(3, 500_000);
    let digest = registry.blob(content.clone());
    let gate = Gate::new();
    registry.on(On::path(&digest), Reply::new().hold_at(123_457, &gate));
    let mut connection = client(&registry).open();
    connection.request("GET", &blob_path(&digest), &[]).unwrap();
    gate.wait_arrived(1);
    registry.wait_until("the first part is sent", |log| log[0].sent == 123_457);
    assert!(!registry.log()[0].done);
    let head = connection.read_head().unwrap();
    let mut received = 0;
    let whole = connection.read_body(head, "GET", &mut |at, piece| {
        received = at + piece.len() as u64;
        if received == 123_457 {
            gate.open();
        }
        assert_eq!(content.compare(at, piece), Ok(()));
        Flow::Go
    });
    assert_eq!(whole.unwrap().received, 500_000);
}

#[test]
fn content_can_require_a_token() {
    let registry = Registry::new();
    let digest = registry.blob("secret");
    registry.require_tokens(Auth {
        token_ttl: Duration::from_secs(60),
        ..Auth::default()
    });
    let client = client(&registry);
    let path = blob_path(&digest);
    let refused = client.get(&path);
    let challenge = refused.field("www-authenticate").unwrap();
    assert_eq!(refused.status, 401);
    let want = format!(
        r#"Bearer realm="http://{}/token",service="fake, registry",scope="repository:any/repo:pull""#,
        registry.addr()
    );
    assert_eq!(challenge, want);
    let answer = client.get("/token?service=fake%2C%20registry&scope=repository%3Aany%2Frepo%3Apull");
    let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let bearer = format!("Bearer {}", json["token"].as_str().unwrap());
    client
        .get_with(&path, &[("Authorization", &bearer)])
        .expect(b"secret");
    let elsewhere = path.replace("any/repo", "any/other");
    assert_eq!(
        client.get_with(&elsewhere, &[("Authorization", &bearer)]).status,
        401
    );
    registry.revoke_tokens();
    assert_eq!(client.get_with(&path, &[("Authorization", &bearer)]).status, 401);
    assert_eq!(registry.count(|seen| seen.kind == Kind::Token), 1);
}

#[test]
fn a_redirect_leads_to_another_origin_without_registry_headers() {
    let registry = Registry::new();
    let digest = registry.blob("far away");
    let second = registry.add_listener();
    registry.on(
        On::path(&digest).and_kind(Kind::Blob),
        Reply::redirect(307, format!("http://{second}/cdn/{digest}")),
    );
    let answer = client(&registry).get(&blob_path(&digest));
    assert_eq!(answer.status, 307);
    assert!(answer.field("location").unwrap().starts_with("http://127.0.0.1:"));
    let far = Client::new(second).get(&format!("/cdn/{digest}"));
    far.expect(b"far away");
    assert_eq!(far.field("docker-content-digest"), None);
    assert_eq!(
        registry
            .log()
            .iter()
            .map(|seen| seen.listener)
            .collect::<Vec<_>>(),
        [0, 1]
    );
}

#[test]
fn the_registry_goes_down_and_comes_back_on_the_same_port() {
    let registry = Registry::new();
    let digest = registry.blob("hello");
    let path = blob_path(&digest);
    let client = client(&registry);
    let mut kept = client.open();
    kept.request("GET", &path, &[]).unwrap();
    kept.read("GET").unwrap();
    registry.down();
    assert!(client.try_get(&path).is_err());
    assert!(matches!(
        kept.read("GET").unwrap_err().why,
        Why::NoResponse | Why::Reset
    ));
    registry.up();
    client.get(&path).expect(b"hello");
}

#[test]
fn rates_and_pauses_take_the_time_they_should() {
    let registry = Registry::new();
    let content = PseudoRandom::new(4, 100_000);
    let digest = registry.blob(content.clone());
    registry.on(On::any().once(), Reply::new().rate(500_000));
    registry.on(
        On::any().once(),
        Reply::new().pause_every(10_000, Duration::from_millis(10)),
    );
    for _ in 0..2 {
        let started = Instant::now();
        client(&registry).pull(&blob_path(&digest), &content);
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(90), "{took:?}");
    }
}

#[test]
fn users_read_only_permitted_repositories() {
    let registry = Registry::new();
    registry.require_tokens(Auth {
        scheme: Scheme::Either,
        hidden: 403,
        ..Auth::default()
    });
    registry.behaviour(|own| own.blobs_belong = true);
    registry.user("alice", "a");
    registry.user("bob", "b");
    registry.allow("alice", "team/app");
    registry.allow_anybody("public/app");
    let digest = registry.blob_in("team/app", "secret");
    let path = format!("/v2/team/app/blobs/{digest}");
    let status = |path: &str, authorization: &str| {
        let fields = [("Authorization", authorization)];
        let fields = if authorization.is_empty() {
            &[][..]
        } else {
            &fields
        };
        client(&registry).get_with(path, fields).status
    };
    let token = |authorization: &str| {
        let fields = [("Authorization", authorization)];
        let fields = if authorization.is_empty() {
            &[][..]
        } else {
            &fields
        };
        let got = client(&registry).get_with("/token?scope=repository:team/app:pull", fields);
        let json: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
        format!("Bearer {}", json["token"].as_str().unwrap_or_default())
    };
    let (alice, bob) = (basic("alice", "a"), basic("bob", "b"));
    assert_eq!(alice, "Basic YWxpY2U6YQ==");
    assert_eq!(status(&path, &alice), 200);
    assert_eq!(status(&path, &token(&alice)), 200);
    assert_eq!(status(&path, &bob), 403);
    assert_eq!(status(&path, &token(&bob)), 403);
    assert_eq!(status(&path, ""), 401);
    assert_eq!(status(&path, &token("")), 403);
    assert_eq!(status(&path, &basic("alice", "b")), 401);
    assert_eq!(status(&path, "Bearer made-up"), 401);
    // A token is valid only for its repository, and a blob belongs only to its repositories.
    let elsewhere = path.replace("team", "public");
    assert_eq!(status(&elsewhere, &token(&alice)), 403);
    assert_eq!(status(&elsewhere, &alice), 404);
    registry.mount("public/app", &digest);
    assert_eq!(status(&elsewhere, &bob), 200);
    // A revoked right ends immediately, also for tokens issued earlier.
    let kept = token(&alice);
    registry.revoke("alice", "team/app");
    assert_eq!(status(&path, &alice), 403);
    assert_eq!(status(&path, &kept), 403);
    registry.allow("alice", "team/app");
    assert_eq!(status(&path, &kept), 200);
    registry.expire_tokens();
    assert_eq!(status(&path, &kept), 401);
    let seen = registry.saw(&alice);
    assert!(
        !seen.is_empty()
            && seen
                .iter()
                .all(|seen| seen.field("authorization") == Some(&alice))
    );
}

#[test]
fn a_signed_url_is_valid_only_for_its_method_and_blob_and_a_limited_time() {
    let registry = Registry::preset(Preset::Mcr);
    let digest = registry.blob_in("a", "content");
    let other = registry.blob_in("a", "other");
    let signed = |method: &str| {
        let got = client(&registry).request(method, &format!("/v2/a/blobs/{digest}"), &[]);
        assert_eq!(got.status, 307);
        let location = got.field("location").unwrap().to_owned();
        let (_, rest) = location.split_once("//").unwrap();
        let (host, path) = rest.split_once('/').unwrap();
        (Client::new(host.parse().unwrap()), format!("/{path}"))
    };
    let (store, path) = signed("GET");
    assert_ne!(store.addr, registry.addr());
    store.get(&path).expect(b"content");
    assert_eq!(store.head(&path).status, 403);
    assert_eq!(store.get(&path.replace(&digest, &other)).status, 403);
    assert_eq!(
        store.get_with(&path, &[("Authorization", "Bearer x")]).status,
        400
    );
    let (store, head) = signed("HEAD");
    assert_eq!((store.head(&head).status, store.get(&head).status), (200, 403));
    registry.expire_signed_urls();
    assert_eq!(store.get(&path).status, 403);
}

#[test]
fn pulls_are_counted_until_none_is_left() {
    let registry = Registry::new();
    registry.behaviour(|own| own.budget = Some(Budget::hub(2)));
    let image = Image::small(&registry, "a", "v1", 7);
    let client = client(&registry);
    for _ in 0..3 {
        let head = client.head("/v2/a/manifests/v1");
        assert_eq!(head.field("ratelimit-remaining"), Some("2;w=21600"));
    }
    for left in ["1;w=21600", "0;w=21600"] {
        let got = client.get("/v2/a/manifests/v1");
        got.expect(&image.manifest);
        assert_eq!(got.field("ratelimit-remaining"), Some(left));
    }
    client
        .get("/v2/a/manifests/v1")
        .expect_error(429, "TOOMANYREQUESTS");
    assert_eq!(client.head("/v2/a/manifests/v1").status, 200);
    assert_eq!(registry.connections(), 7);
}

#[test]
fn a_password_or_an_identity_token_is_exchanged_by_post() {
    let registry = Registry::new();
    registry.require_tokens(Auth::default());
    registry.user("alice", "a+b c");
    registry.identity_token("alice", "identity");
    registry.allow("alice", "team/app");
    let post = |form: &str| {
        let mut connection = client(&registry).open();
        let length = form.len().to_string();
        connection
            .request("POST", "/token", &[("Content-Length", &length)])
            .unwrap();
        connection.send(form.as_bytes()).unwrap();
        connection.read("POST").unwrap()
    };
    let scope = "scope=repository%3Ateam%2Fapp%3Apull";
    for (form, status) in [
        (
            format!("grant_type=password&username=alice&password=a%2Bb+c&{scope}"),
            200,
        ),
        (
            format!("grant_type=refresh_token&refresh_token=identity&{scope}"),
            200,
        ),
        (
            format!("grant_type=password&username=alice&password=b&{scope}"),
            401,
        ),
        (
            format!("grant_type=refresh_token&refresh_token=other&{scope}"),
            401,
        ),
    ] {
        assert_eq!(post(&form).status, status, "{form}");
    }
    registry.auth(|auth| auth.post_refused = Some(405));
    assert_eq!(post("grant_type=password").status, 405);
}
