//! Compares the parser with hyper: hyper splits every accepted byte stream into the same requests
//! or rejects the stream.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use oci_pull_through::server::h1::parse::parse_head;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::corpus::{self, Expect};

/// Method and target of each request, in order.
type Requests = Vec<(String, String)>;

/// Normalizes a target: scheme and host in lower case, an empty path as `/`.
fn normal(target: &str) -> String {
    let lower = |target: &str| match target.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (host, path) = rest.split_at(end);
            format!("{}://{}{path}", scheme.to_lowercase(), host.to_lowercase())
        }
        None => target.to_owned(),
    };
    let target = lower(target);
    target.parse::<http::Uri>().map_or(target, |uri| uri.to_string())
}

/// Returns the requests found by the cache's parser, up to the first rejected request.
fn ours(bytes: &[u8]) -> Requests {
    let (mut from, mut requests) = (0, Vec::new());
    while let Ok(Some((head, len))) = parse_head(&bytes[from..], &mut 0) {
        let text = String::from_utf8_lossy(&bytes[from..from + len]);
        let line = text.trim_start_matches("\r\n").lines().next().unwrap_or_default();
        let mut words = line.split(' ');
        let [method, target] = [(); 2].map(|()| words.next().unwrap_or_default().to_owned());
        requests.push((method, normal(&target)));
        from += len;
        if !head.keep_alive {
            break;
        }
    }
    requests
}

/// Returns the requests found by hyper.
async fn theirs(bytes: &[u8]) -> Requests {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let found = Arc::new(Mutex::new(Vec::new()));
    let into = found.clone();
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let target = normal(&request.uri().to_string());
        into.lock().unwrap().push((request.method().to_string(), target));
        async { Ok::<_, Infallible>(hyper::Response::new(String::new())) }
    });
    let serve = tokio::spawn(async move {
        let _ = hyper::server::conn::http1::Builder::new()
            .max_headers(200)
            .serve_connection(TokioIo::new(server), service)
            .await;
    });
    let _ = client.write_all(bytes).await;
    let _ = client.shutdown().await;
    let mut answers = Vec::new();
    let _ = client.read_to_end(&mut answers).await;
    let _ = tokio::time::timeout(Duration::from_secs(10), serve).await;
    let found = found.lock().unwrap();
    found.clone()
}

#[test]
fn hyper_never_splits_accepted_requests_differently() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let (mut same, mut refused, mut wrong) = (0, 0, Vec::new());
    for case in corpus::cases() {
        let (Expect::Accept { .. } | Expect::RefuseAfter { .. }) = case.expect else {
            continue;
        };
        let ours = ours(&case.bytes);
        let theirs = runtime.block_on(theirs(&case.bytes));
        let agreed = ours.iter().zip(&theirs).all(|(one, other)| one == other);
        match theirs.len() {
            // Hyper may stop earlier. Additional requests in hyper only matter if the cache accepts
            // the complete case.
            _ if !agreed => wrong.push(format!("{}: {ours:?}, other parser: {theirs:?}", case.name)),
            more if more > ours.len() && matches!(case.expect, Expect::Accept { .. }) => {
                wrong.push(format!("{}: {ours:?}, other parser: {theirs:?}", case.name));
            }
            fewer if fewer < ours.len() => refused += 1,
            _ => same += 1,
        }
    }
    eprintln!("{same} streams are split equally, the other parser rejects {refused}");
    assert!(wrong.is_empty(), "{} streams:\n{}", wrong.len(), wrong.join("\n"));
    assert!(same > 100, "too few streams were compared: {same}");
}
