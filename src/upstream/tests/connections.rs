//! Connections that died while they were kept, and names that are looked up slowly.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

/// How a dead connection answers the next request.
#[derive(Clone, Copy, Debug)]
enum End {
    Fin,
    Rst,
}

/// A registry whose connections can all die at once, as when its pod is replaced: their ends notice at the next request.
struct Mortal {
    port: u16,
    generation: Arc<AtomicUsize>,
    answered: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

impl Mortal {
    /// Answers each request with `answer`.
    async fn start(end: End, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Mortal {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (generation, answered) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (alive, count, answer) = (generation.clone(), answered.clone(), Arc::new(answer));
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let born = alive.load(Ordering::SeqCst);
                let (alive, count, answer) = (alive.clone(), count.clone(), answer.clone());
                connections.spawn(async move {
                    let mut buffer = Vec::new();
                    loop {
                        while !buffer.ends_with(b"\r\n\r\n") {
                            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                                return;
                            }
                        }
                        if alive.load(Ordering::SeqCst) != born {
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
        Mortal {
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

impl Drop for Mortal {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Makes as many connections as there are responses at once, all kept afterwards.
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
        let registry = Mortal::start(end, |_| reply(200, "", "content")).await;
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
        assert_eq!(registry.answered() - before, 4, "{end:?}: each is answered once");
        let conditions = upstreams.conditions();
        assert_eq!(
            (conditions[0].failures, conditions[0].state),
            (0, State::Well),
            "{end:?}"
        );
    }
}

#[tokio::test]
async fn dead_connections_to_where_a_registry_sends_us_cost_no_request_either() {
    for end in [End::Fin, End::Rst] {
        let store = Mortal::start(end, |_| reply(200, "", "content")).await;
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

/// Looks names up slowly, or not at all.
#[derive(Default)]
struct Slow {
    takes: Duration,
    silent: AtomicBool,
    asked: AtomicUsize,
}

impl Resolve for Slow {
    fn resolve(&self, _: Name) -> Resolving {
        self.asked.fetch_add(1, Ordering::SeqCst);
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
    // The deadline of a connection is long enough for one, and too short for the lookup.
    let deadlines = Deadlines {
        connect: 2 * QUICK,
        ..deadlines()
    };
    let upstreams = by_name(server.port, deadlines, &resolver);
    let request = blob("r.lan");
    let crowd = futures_util::future::join_all((0..10).map(|_| pull(&upstreams, &request))).await;
    for outcome in crowd {
        assert_eq!(outcome.unwrap(), "content");
    }
    for _ in 0..10 {
        assert_eq!(pull(&upstreams, &request).await.unwrap(), "content");
    }
    assert_eq!(resolver.asked.load(Ordering::SeqCst), 1);
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
        let request = Request {
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
async fn a_remembered_address_is_judged_at_each_use() {
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
    assert_eq!(resolver.asked.load(Ordering::SeqCst), 1);
}
