//! Stops and restarts with TLS and HTTP/2 clients.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::restart::{Broken, FIRST_REQUEST_TIMEOUT, Load, listener, restarts_under_load, stops_under_load};
use crate::harness::client::Why;
use crate::harness::h2::*;
use crate::harness::*;
use crate::tls::Pki;

const MIB: u64 = 1024 * 1024;

/// Far less than the timeout of a handshake or request, and far more than a stop without active
/// requests.
const SOON: Duration = Duration::from_secs(8);

fn https(pki: &Pki, cache: &Server) -> Client {
    Client::with_tls(cache.addr_for("https"), pki.authority.client())
}

/// Runs an HTTP/2 client. Each connection of `begin` carries a few rounds of one to four concurrent
/// requests. A request that the server reports as unprocessed is repeated on another connection.
/// All other requests must be answered.
fn run_h2(load: &Load, begin: impl Fn() -> Result<Peer, Why>, seed: u64, broken: &Broken<'_>) {
    let mut random = Random::new(seed);
    while !load.stop.load(Ordering::Relaxed) {
        let opened = Instant::now();
        let mut peer = match begin() {
            Ok(peer) => peer,
            Err(why) => {
                broken(&why, false);
                continue;
            }
        };
        // The last stream that the server will answer, after a GOAWAY.
        let mut last = u32::MAX;
        let mut begun = false;
        'rounds: for round in 0..=random.below(4) {
            let asked = 1 + random.below(4);
            let mut open = BTreeSet::new();
            let mut wanted = Vec::new();
            for _ in 0..asked {
                let (path, content) = random.pick(&load.paths);
                let id = peer.next_id();
                let block = request_block("GET", path, &[]);
                let frame = Frame::new(HEADERS, END_STREAM | END_HEADERS, id, block);
                if peer.send(&frame).is_ok() {
                    open.insert(id);
                    wanted.push((id, content));
                }
            }
            let late = round == 0 && opened.elapsed() >= FIRST_REQUEST_TIMEOUT;
            while open.iter().any(|&id| id <= last) {
                match peer.step() {
                    Ok(_) => begun = true,
                    // A server that stops may have closed the connection without a request.
                    Err(_) if late => break 'rounds,
                    Err(why) => {
                        // A connection without any received frame was not accepted. An accepted
                        // connection must answer all requests.
                        broken(&why, begun);
                        break 'rounds;
                    }
                }
                last = peer.goaways.last().map_or(u32::MAX, |(last, _)| *last);
                open.retain(|id| !peer.answers.get(id).is_some_and(Answer::is_over));
            }
            for (id, content) in wanted {
                if open.contains(&id) {
                    continue;
                }
                let answer = peer.answers.remove(&id).expect("over");
                assert_eq!((answer.status, answer.reset), (200, None), "{answer:?}");
                assert_eq!(answer.received, content.size);
                assert_eq!(content.compare(0, &answer.body), Ok(()));
                load.done.fetch_add(1, Ordering::Relaxed);
            }
            if last != u32::MAX {
                break;
            }
        }
    }
}

fn plain_h2(load: &Load, client: &Client, seed: u64, broken: &Broken<'_>) {
    run_h2(load, || Peer::try_begin(client.addr), seed, broken);
}

/// Returns the HTTP/2 client over TLS, for the certificates of `pki`.
fn h2_over_tls(pki: &Pki) -> impl Fn(&Load, &Client, u64, &Broken<'_>) + Sync + use<> {
    let config = pki.authority.client_config(rustls::ALL_VERSIONS, &["h2"], None);
    move |load, client, seed, broken| {
        run_h2(
            load,
            || Peer::try_begin_tls(client.addr, config.clone()),
            seed,
            broken,
        );
    }
}

#[test]
fn a_stop_under_load_over_tls_cuts_no_response() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    stops_under_load(
        pki.serve(Server::options(&upstream)),
        &upstream,
        |cache| https(&pki, cache),
        |load, client, seed, broken| load.run(client, seed, broken),
    );
}

#[test]
fn a_stop_under_load_over_http2_cuts_no_response() {
    let upstream = Registry::new();
    stops_under_load(Server::options(&upstream), &upstream, Server::client, plain_h2);
}

#[test]
fn a_stop_under_load_over_http2_and_tls_cuts_no_response() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    let h2 = h2_over_tls(&pki);
    stops_under_load(
        pki.serve(Server::options(&upstream)),
        &upstream,
        |cache| https(&pki, cache),
        h2,
    );
}

#[test]
fn a_rolling_restart_over_tls_fails_no_request() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    restarts_under_load(
        pki.serve(Server::options(&upstream)).pass("https", &listener()),
        &upstream,
        |cache| https(&pki, cache),
        |load, client, seed, broken| load.run(client, seed, broken),
    );
}

#[test]
fn a_rolling_restart_over_http2_fails_no_request() {
    let upstream = Registry::new();
    restarts_under_load(
        Server::options(&upstream).pass("http", &listener()),
        &upstream,
        Server::client,
        plain_h2,
    );
}

#[test]
fn a_rolling_restart_over_http2_and_tls_fails_no_request() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    let h2 = h2_over_tls(&pki);
    restarts_under_load(
        pki.serve(Server::options(&upstream)).pass("https", &listener()),
        &upstream,
        |cache| https(&pki, cache),
        h2,
    );
}

/// At the stop, TLS connections are in several states: in a body, idle, before the first request,
/// before the handshake.
#[test]
fn a_stop_over_tls_closes_idle_sessions_cleanly_and_finishes_responses() {
    for _ in 0..20 {
        if stop_over_tls() {
            return;
        }
    }
    panic!("every first request was late: the machine is too busy for this test");
}

/// Returns `false` without a check of the stop if this client sent the first request of a session
/// so late after the signal that the server may have closed the session.
fn stop_over_tls() -> bool {
    let (pki, upstream) = (Pki::new(), Registry::new());
    let mut cache = pki.serve(Server::options(&upstream)).start();
    let client = https(&pki, &cache);
    let content = PseudoRandom::new(fresh_seed(), 8 * MIB);
    let digest = upstream.blob(content.clone());
    let gate = Gate::new();
    upstream.on(On::path(&digest), Reply::new().hold_at(4 * MIB, &gate));
    let mut busy = client.open();
    busy.request("GET", &upstream.blob_url("a", &digest), &[])
        .unwrap();
    let head = busy.read_head().unwrap();
    let mut idle = client.open();
    idle.request("GET", "/v2/", &[]).unwrap();
    idle.read("GET").unwrap().expect(b"{}");
    let mut asking = client.open();
    let silent = Connection::open(client.addr).unwrap();
    let signalled = Instant::now();
    cache.sigterm();
    let sent = asking.request("GET", "/v2/", &[]);
    if signalled.elapsed() >= FIRST_REQUEST_TIMEOUT {
        gate.open();
        return false;
    }
    sent.unwrap();
    asking.read("GET").unwrap().expect(b"{}");
    // A TLS session without close alert would be an error here.
    assert_eq!(idle.read_to_close(), (Vec::new(), Why::Truncated));
    let mut silent = silent;
    assert_eq!(silent.read_to_close().0, b"");
    assert!(
        cache.is_running(),
        "the server runs while a response is incomplete"
    );
    gate.open();
    let whole = busy.read_body(head, "GET", &mut |at, piece| {
        content
            .compare(at, piece)
            .map_or_else(client::Flow::Wrong, |()| client::Flow::Go)
    });
    assert_eq!(whole.unwrap().received, content.size);
    assert_eq!(busy.read_to_close(), (Vec::new(), Why::Truncated));
    let status = cache.wait_exit(PATIENCE).expect("the server exits");
    assert!(status.success(), "{status:?}");
    true
}

/// Silent connections and TLS sessions without a request do not delay a stop.
#[test]
fn silent_connections_do_not_delay_a_stop() {
    let pki = Pki::new();
    let listen = "https://127.0.0.1:0,http://127.0.0.1:0";
    let mut took = Vec::new();
    // A server that waits for a timeout is late at every stop. A busy machine is not.
    while took.len() < 5 {
        let mut cache = pki.serve(Server::bare()).env("LISTEN_ADDR", listen).start();
        let (http, tls) = (cache.addr_for("http"), https(&pki, &cache));
        let _silent = [http, tls.addr].map(|addr| Connection::open(addr).unwrap());
        let _session = tls.open();
        let _peer = Peer::begin(http);
        let began = Instant::now();
        cache.stop();
        took.push(began.elapsed());
        if took.last() < Some(&SOON) {
            return;
        }
    }
    panic!("silent connections delay every stop: {took:?}");
}

/// An HTTP/2 client sends another request before processing the GOAWAY.
#[test]
fn http2_requests_after_the_first_goaway_are_answered() {
    let mut cache = Server::bare().start();
    let mut peer = Peer::begin(cache.addr());
    peer.get("/v2/").expect(b"{}");
    cache.sigterm();
    while peer.goaways.is_empty() {
        peer.step().unwrap();
    }
    // The first of two GOAWAYs does not contain the last stream yet.
    assert_eq!(peer.goaways.last(), Some(&(i32::MAX as u32, NO_ERROR)));
    let id = peer.request("GET", "/v2/", &[]);
    peer.answer(id).expect(b"{}");
    let end = peer.until_ended();
    assert_eq!(
        (end, peer.goaways.last()),
        (Why::NoResponse, Some(&(id, NO_ERROR)))
    );
    let status = cache.wait_exit(PATIENCE).expect("the server exits");
    assert!(status.success(), "{status:?}");
}
