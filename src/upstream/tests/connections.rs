//! Kept connections that died, and slow name lookups.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::*;
use crate::config::{ProxyUrl, SecretText};

/// How a dead connection answers the next request.
#[derive(Clone, Copy, Debug)]
enum End {
    Fin,
    Rst,
}

/// A registry whose connections can all die at once, like those of a replaced pod. Clients notice
/// at the next request.
struct Stoppable {
    port: u16,
    generation: Arc<AtomicUsize>,
    answered: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

impl Stoppable {
    /// Starts a registry with `answer` as the answer to each request.
    async fn start(end: End, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Stoppable {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (generation, answered) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (alive, count, answer) = (generation.clone(), answered.clone(), Arc::new(answer));
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let generation = alive.load(Ordering::SeqCst);
                let (alive, count, answer) = (alive.clone(), count.clone(), answer.clone());
                connections.spawn(async move {
                    let mut buffer = Vec::new();
                    loop {
                        while !buffer.ends_with(b"\r\n\r\n") {
                            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                                return;
                            }
                        }
                        if alive.load(Ordering::SeqCst) != generation {
                            if let End::Rst = end {
                                let socket = socket2::SockRef::from(&stream);
                                socket.set_linger(Some(Duration::ZERO)).unwrap();
                            }
                            return;
                        }
                        let Reply(bytes, _) = answer(std::str::from_utf8(&buffer).unwrap());
                        buffer.clear();
                        count.fetch_add(1, Ordering::SeqCst);
                        if stream.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Stoppable {
            port,
            generation,
            answered,
            accepting: accepting.abort_handle(),
        }
    }

    fn replace(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }
}

impl Drop for Stoppable {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Opens `connections` connections with concurrent requests. All are kept afterwards.
async fn open(upstreams: &Upstreams, connections: usize) {
    let request = blob("r.lan");
    let under_way = (0..connections).map(|_| upstreams.fetch(&request));
    let responses = futures_util::future::join_all(under_way).await;
    for response in responses {
        assert_eq!(read(response.unwrap()).await.unwrap(), "content");
    }
}

#[tokio::test]
async fn kept_connections_that_all_died_cost_no_request() {
    for end in [End::Fin, End::Rst] {
        let registry = Stoppable::start(end, |_| reply(200, "", "content")).await;
        let upstreams = upstreams(&[plain("r.lan", registry.port)], deadlines());
        open(&upstreams, 8).await;
        registry.replace();
        let before = registry.answered();
        for _ in 0..4 {
            assert_eq!(
                pull(&upstreams, &blob("r.lan")).await.unwrap(),
                "content",
                "{end:?}"
            );
        }
        assert_eq!(
            registry.answered() - before,
            4,
            "{end:?}: each request has one response"
        );
        let statuses = upstreams.statuses();
        assert_eq!(
            (statuses[0].failures, statuses[0].state),
            (0, AvailabilityState::Available),
            "{end:?}"
        );
    }
}

#[tokio::test]
async fn dead_connections_to_where_a_registry_sends_us_cost_no_request_either() {
    for end in [End::Fin, End::Rst] {
        let store = Stoppable::start(end, |_| reply(200, "", "content")).await;
        let there = format!("http://127.0.0.1:{}/blob", store.port);
        let registry = Server::start(|_| move |_: &str| redirect_to(&there)).await;
        let upstreams = lan(&registry);
        open(&upstreams, 8).await;
        store.replace();
        for _ in 0..4 {
            assert_eq!(
                pull(&upstreams, &blob("r.lan")).await.unwrap(),
                "content",
                "{end:?}"
            );
        }
    }
}

/// Returns requests for tokens of `count` repositories.
fn blobs_of_repositories(
    of: &'static str,
    count: usize,
    credentials: &Credentials,
) -> impl Iterator<Item = UpstreamRequest> {
    (0..count).map(move |n| UpstreamRequest {
        repository: format!("{of}/{n}").parse().unwrap(),
        credentials: credentials.clone(),
        ..blob("r.lan")
    })
}

#[track_caller]
fn expect_well(upstreams: &Upstreams, end: End) {
    let status = &upstreams.statuses()[0];
    assert_eq!(
        (status.failures, status.state),
        (0, AvailabilityState::Available),
        "{end:?}"
    );
}

#[tokio::test]
async fn dead_connections_to_a_token_service_cost_no_request() {
    let ours = crate::config::Auth::Basic {
        username: "robot".into(),
        password: SecretText::new("canary".into()),
    };
    for (end, auth) in [
        (End::Fin, None),
        (End::Rst, None),
        (End::Fin, Some(ours.clone())),
        (End::Rst, Some(ours)),
    ] {
        let tokens = Stoppable::start(end, |_| reply(200, "", "{\"token\":\"t\",\"expires_in\":300}")).await;
        let realm = tokens.port;
        let registry = Server::start(|_| {
            move |head: &str| match header(head, "authorization") {
                Some("Bearer t") => reply(200, "", "content"),
                _ => challenge_of(realm),
            }
        })
        .await;
        let mut config = plain("r.lan", registry.port);
        config.settings.realm_hosts = vec![format!("127.0.0.1:{realm}").into()];
        let mut credentials = Credentials::None;
        if let Some(auth) = auth {
            config.settings.auth = auth;
            credentials = Credentials::Operator;
        }
        let upstreams = upstreams(&[config], deadlines());
        let before: Vec<_> = blobs_of_repositories("before", 8, &credentials).collect();
        let pulls = before.iter().map(|request| pull(&upstreams, request));
        for content in futures_util::future::join_all(pulls).await {
            assert_eq!(content.unwrap(), "content");
        }
        tokens.replace();
        let answered = tokens.answered();
        for request in blobs_of_repositories("after", 4, &credentials) {
            assert_eq!(pull(&upstreams, &request).await.unwrap(), "content", "{end:?}");
        }
        assert_eq!(
            tokens.answered() - answered,
            4,
            "{end:?}: each request has one response"
        );
        expect_well(&upstreams, end);
    }
}

fn through(proxy: u16, config: RegistryConfig) -> Upstreams {
    let url = ProxyUrl {
        url: format!("http://127.0.0.1:{proxy}").parse().unwrap(),
        credentials: None,
    };
    let environment = ProxyEnvironment {
        https: Some(url.clone()),
        http: Some(url),
        ..ProxyEnvironment::default()
    };
    let options = Options {
        deadlines: deadlines(),
        resolver: Table::new(&[]),
    };
    Upstreams::with_options(entries(&[config]), environment, options).unwrap()
}

#[tokio::test]
async fn dead_connections_to_a_proxy_that_forwards_cost_no_request() {
    for end in [End::Fin, End::Rst] {
        let proxy = Stoppable::start(end, |head| {
            assert!(path(head).starts_with("http://"), "{head}");
            reply(200, "", "content")
        })
        .await;
        // No server listens there.
        let upstreams = through(proxy.port, plain("r.lan", 9));
        open(&upstreams, 8).await;
        proxy.replace();
        let answered = proxy.answered();
        for _ in 0..4 {
            assert_eq!(
                pull(&upstreams, &blob("r.lan")).await.unwrap(),
                "content",
                "{end:?}"
            );
        }
        assert_eq!(
            proxy.answered() - answered,
            4,
            "{end:?}: each request has one response"
        );
        expect_well(&upstreams, end);
    }
}

/// A proxy whose tunnels can all die at once, in front of a TLS registry.
struct Tunnels {
    port: u16,
    generation: Arc<AtomicUsize>,
    tunnels: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

impl Tunnels {
    async fn start(end: End, to: u16) -> Tunnels {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (generation, tunnels) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (alive, count) = (generation.clone(), tunnels.clone());
        let accepting = tokio::spawn(async move {
            let mut tunnels = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tunnels.spawn(tunnel(client, end, to, alive.clone(), count.clone()));
            }
        });
        Tunnels {
            port,
            generation,
            tunnels,
            accepting: accepting.abort_handle(),
        }
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn tunnel(
    mut client: TcpStream,
    end: End,
    to: u16,
    alive: Arc<AtomicUsize>,
    count: Arc<AtomicUsize>,
) -> Option<()> {
    let generation = alive.load(Ordering::SeqCst);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        client.read_buf(&mut head).await.ok().filter(|read| *read > 0)?;
    }
    assert!(head.starts_with(b"CONNECT "));
    let mut server = TcpStream::connect(("127.0.0.1", to)).await.ok()?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
    count.fetch_add(1, Ordering::SeqCst);
    let (mut requests, mut answered) = (Vec::new(), Vec::new());
    loop {
        tokio::select! {
            read = client.read_buf(&mut requests) => {
                read.ok().filter(|read| *read > 0)?;
                if alive.load(Ordering::SeqCst) != generation {
                    if let End::Rst = end {
                        let socket = socket2::SockRef::from(&client);
                        socket.set_linger(Some(Duration::ZERO)).unwrap();
                    }
                    return None;
                }
                server.write_all(&requests).await.ok()?;
                requests.clear();
            }
            read = server.read_buf(&mut answered) => {
                read.ok().filter(|read| *read > 0)?;
                client.write_all(&answered).await.ok()?;
                answered.clear();
            }
        }
    }
}

/// Starts a TLS registry with the answer `content` to each request. Returns its port. The registry
/// runs until the process ends.
fn speaks_tls() -> u16 {
    let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    let (config, listener) = (
        Arc::new(config),
        std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
    );
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            std::thread::spawn(move || answer_over_tls(rustls::StreamOwned::new(connection, stream)));
        }
    });
    port
}

fn answer_over_tls(mut stream: impl std::io::Read + std::io::Write) -> Option<()> {
    let mut head = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            let Reply(bytes, _) = reply(200, "", "content");
            stream.write_all(&bytes).ok()?;
            stream.flush().ok()?;
        }
    }
}

#[tokio::test]
async fn dead_tunnels_through_a_proxy_cost_no_request() {
    let port = speaks_tls();
    for end in [End::Fin, End::Rst] {
        let proxy = Tunnels::start(end, port).await;
        let mut config = plain("r.lan", port);
        config.settings.url = Some(format!("https://127.0.0.1:{port}").parse().unwrap());
        config.settings.tls.insecure_skip_verify = true;
        let upstreams = through(proxy.port, config);
        open(&upstreams, 8).await;
        let tunnels = proxy.tunnels.load(Ordering::SeqCst);
        assert!(tunnels >= 4, "{end:?}: {tunnels} tunnels");
        proxy.generation.fetch_add(1, Ordering::SeqCst);
        for _ in 0..4 {
            assert_eq!(
                pull(&upstreams, &blob("r.lan")).await.unwrap(),
                "content",
                "{end:?}"
            );
        }
        assert_eq!(
            proxy.tunnels.load(Ordering::SeqCst) - tunnels,
            4,
            "{end:?}: each request uses a new tunnel"
        );
        expect_well(&upstreams, end);
    }
}

/// A resolver with slow answers or none.
#[derive(Default)]
struct Slow {
    takes: Duration,
    silent: AtomicBool,
    requests: AtomicUsize,
}

impl Resolve for Slow {
    fn resolve(&self, _: Name) -> Resolving {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let (takes, silent) = (self.takes, self.silent.load(Ordering::SeqCst));
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            if silent {
                std::future::pending::<()>().await;
            }
            let address: SocketAddr = ([127, 0, 0, 1], 0).into();
            Ok(Box::new(std::iter::once(address)) as Addrs)
        })
    }
}

fn by_name(port: u16, deadlines: Deadlines, resolver: &Arc<Slow>) -> Upstreams {
    let mut config = plain("r.lan", port);
    config.settings.url = Some(format!("http://registry.test:{port}").parse().unwrap());
    let options = Options {
        deadlines,
        resolver: resolver.clone(),
    };
    Upstreams::with_options(entries(&[config]), ProxyEnvironment::default(), options).unwrap()
}

#[tokio::test]
async fn a_slow_name_server_is_waited_for_once_and_not_by_the_connection() {
    let server = Server::start(|_| |_: &str| reply(200, "Connection: close\r\n", "content")).await;
    let resolver = Arc::new(Slow {
        takes: 4 * QUICK,
        ..Slow::default()
    });
    // The deadline of a connection is long enough for a connection, and too short for the lookup.
    let deadlines = Deadlines {
        connect: 2 * QUICK,
        ..deadlines()
    };
    let upstreams = by_name(server.port, deadlines, &resolver);
    let request = blob("r.lan");
    let outcomes = futures_util::future::join_all((0..10).map(|_| pull(&upstreams, &request))).await;
    for outcome in outcomes {
        assert_eq!(outcome.unwrap(), "content");
    }
    for _ in 0..10 {
        assert_eq!(pull(&upstreams, &request).await.unwrap(), "content");
    }
    assert_eq!(resolver.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_silent_name_server_has_a_deadline_of_its_own_and_a_shorter_one_where_something_is_held() {
    let resolver = Arc::new(Slow::default());
    resolver.silent.store(true, Ordering::SeqCst);
    for (purpose, resolve, revalidate) in [
        (Purpose::Pull, QUICK, Duration::from_secs(600)),
        (Purpose::Revalidate, Duration::from_secs(600), 4 * QUICK),
    ] {
        let deadlines = Deadlines {
            resolve,
            revalidate,
            exchange: Duration::from_secs(600),
            ..deadlines()
        };
        let upstreams = by_name(1, deadlines, &resolver);
        let request = UpstreamRequest {
            purpose,
            ..blob("r.lan")
        };
        match upstreams.fetch(&request).await {
            Err(UpstreamError::Timeout { phase, .. }) => assert_eq!(phase, Phase::Resolve, "{purpose:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_address_is_judged_for_each_registry_that_leads_there() {
    let server = Server::start(|_| |_: &str| reply(200, "", "content")).await;
    let resolver = Arc::new(Slow::default());
    let mut own = plain("r.lan", server.port);
    own.settings.url = Some(format!("http://registry.test:{}", server.port).parse().unwrap());
    let mut public = own.clone();
    public.name = RegistryName::Exact("public.lan".parse().unwrap());
    public.settings.allow_private = Some(false);
    let options = Options {
        deadlines: deadlines(),
        resolver: resolver.clone(),
    };
    let upstreams =
        Upstreams::with_options(entries(&[own, public]), ProxyEnvironment::default(), options).unwrap();
    assert_eq!(pull(&upstreams, &blob("r.lan")).await.unwrap(), "content");
    let outcome = pull(&upstreams, &blob("public.lan")).await;
    assert!(
        matches!(outcome, Err(UpstreamError::Refused { .. })),
        "{outcome:?}"
    );
    assert_eq!(resolver.requests.load(Ordering::SeqCst), 2);
}

/// A resolver without answers. Sends each requested name to the test.
struct Silent(mpsc::UnboundedSender<String>);

impl Resolve for Silent {
    fn resolve(&self, name: Name) -> Resolving {
        let _test_has_ended = self.0.send(name.as_str().to_owned());
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn names_that_are_never_answered_delay_neither_an_entry_nor_docker_hub() {
    let (requests, mut names) = mpsc::unbounded_channel();
    let options = Options {
        deadlines: Deadlines {
            resolve: Duration::from_secs(600),
            exchange: Duration::from_secs(600),
            ..deadlines()
        },
        resolver: Arc::new(Silent(requests)),
    };
    let named = RegistryConfig::named("named.example".parse().unwrap());
    let suffix = RegistryConfig {
        name: RegistryName::Suffix(".suffix.example".into()),
        settings: RegistrySettings::default(),
    };
    let other = RegistryConfig {
        name: RegistryName::Suffix(".other.example".into()),
        settings: RegistrySettings::default(),
    };
    let registries = entries(&[named, suffix, other]);
    let upstreams = Upstreams::with_options(registries, ProxyEnvironment::default(), options).unwrap();
    let mut pulls = JoinSet::new();
    let mut begin = |registry: String| {
        let (upstreams, request) = (upstreams.clone(), blob(&registry));
        pulls.spawn(async move { pull(&upstreams, &request).await });
    };
    for n in 0..200 {
        begin(format!("r{n}.made-up.example"));
        begin(format!("r{n}.suffix.example"));
    }
    for registry in ["named.example", "a.other.example", "docker.io"] {
        begin(registry.into());
    }
    let mut expected = vec!["named.example", "a.other.example", "registry-1.docker.io"];
    while !expected.is_empty() {
        let name = tokio::time::timeout(Duration::from_secs(60), names.recv()).await;
        let name = name
            .unwrap_or_else(|_| panic!("not looked up: {expected:?}"))
            .unwrap();
        expected.retain(|expected| *expected != name);
    }
}
