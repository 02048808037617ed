//! Measures cold pulls of a bystander alone and beside an adversary, in alternation. Prints the
//! median and the 99th percentile.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::adversary::{DRIBBLE, ask_for, dribbling_blobs, wait_until_taken};
use crate::harness::*;

const MIB: u64 = 1024 * 1024;

/// Default number of pairs of pulls in each scene. The environment variable `PULLS` overrides the
/// value.
const PULLS: usize = 200;

/// Number of requests of the adversary.
const REQUESTS: usize = 300;

/// Number of configured registries in the scene with many registries.
const REGISTRIES: usize = 20;

/// Pulls a manifest by tag and its three blobs, one after another.
fn pull(cache: &Server, upstream: &Registry, tag: &str, image: &Image) -> Duration {
    let began = Instant::now();
    let client = cache.client();
    client
        .get(&upstream.manifest_url("a", tag))
        .expect(&image.manifest);
    for (digest, content) in &image.blobs {
        client
            .get(&upstream.blob_url("a", digest))
            .expect(&content.bytes());
    }
    began.elapsed()
}

/// Alternates pulls from the two caches and prints the times of both.
fn measure(what: &str, quiet: &Server, busy: &Server, other: &Registry) {
    let pulls = std::env::var("PULLS").map_or(PULLS, |text| text.parse().expect("a number"));
    let mut taken = [Vec::new(), Vec::new()];
    for n in 0..pulls {
        let tag = format!("t{:x}", fresh_seed());
        let image = Image::small(other, "a", &tag, fresh_seed());
        for turn in [n % 2, (n + 1) % 2] {
            let cache = [quiet, busy][turn];
            taken[turn].push(pull(cache, other, &tag, &image));
        }
    }
    let mut line = format!("{what:58}");
    let mut figures = Vec::new();
    for (name, taken) in ["alone", "beside"].iter().zip(&mut taken) {
        taken.sort();
        let at = |percent: usize| taken[(taken.len() * percent / 100).min(taken.len() - 1)];
        write!(line, " {name} p50 {:>7.1?} p99 {:>7.1?};", at(50), at(99)).expect("memory");
        figures.push([at(50), at(99)]);
    }
    let ratio = |n: usize| figures[1][n].as_secs_f64() / figures[0][n].as_secs_f64();
    eprintln!("{line} {:.2} {:.2}", ratio(0), ratio(1));
}

/// Measures while the clients of the adversary are connected, and again after their disconnection.
fn scene(
    what: &str,
    greedy: &Registry,
    options: &dyn Fn() -> server::Options,
    other: &Registry,
    paths: Vec<String>,
) {
    let (quiet, busy) = (options().start(), options().start());
    // Excludes the one-time work of the first pull of a process.
    measure_idle(&quiet, &busy, other);
    let held = ask_for(&busy, paths);
    wait_until_taken(greedy);
    measure(what, &quiet, &busy, other);
    held.into_iter().for_each(Connection::abort);
    measure(&format!("{what}, after the clients left"), &quiet, &busy, other);
}

fn measure_idle(quiet: &Server, busy: &Server, other: &Registry) {
    let image = Image::small(other, "a", "first", fresh_seed());
    for cache in [quiet, busy] {
        pull(cache, other, "first", &image);
    }
}

fn known(registries: &[&Registry]) -> server::Options {
    let all = registries.iter().flat_map(|registry| registry.addrs());
    all.fold(Server::bare(), |options, addr| {
        options.registry(addr.to_string(), addr)
    })
}

#[test]
#[ignore = "prints figures; takes minutes"]
fn cold_pulls_beside_an_adversary() {
    raise_file_limit();
    let other = Registry::new();
    let blobs_of = |greedy: &Registry, names: &[String], each: usize| {
        greedy.on(On::kind(Kind::Blob).get(), Reply::new().rate(DRIBBLE));
        let names = names.iter().flat_map(|name| std::iter::repeat_n(name, each));
        names
            .map(|name| {
                format!(
                    "/v2/{name}/a/blobs/{}",
                    greedy.blob(PseudoRandom::new(fresh_seed(), 2 * MIB))
                )
            })
            .collect()
    };

    let greedy = Registry::new();
    scene(
        "nothing",
        &greedy,
        &|| known(&[&greedy, &other]),
        &other,
        vec!["/v2/_catalog".to_owned(), greedy.manifest_url("a", "none")],
    );

    let paths = dribbling_blobs(&greedy, REQUESTS);
    scene(
        "300 slow blobs of one registry",
        &greedy,
        &|| known(&[&greedy, &other]),
        &other,
        paths,
    );

    let (greedy, gate) = (Registry::new(), Gate::new());
    greedy.on(On::kind(Kind::Manifest), Reply::new().hold_head(&gate));
    let paths = (0..REQUESTS)
        .map(|n| greedy.manifest_url("a", &format!("t{n}")))
        .collect();
    scene(
        "300 silent manifests of one registry",
        &greedy,
        &|| known(&[&greedy, &other]),
        &other,
        paths,
    );
    gate.open();

    let greedy = Registry::new();
    let names: Vec<_> = (0..REGISTRIES)
        .map(|_| greedy.add_listener().to_string())
        .collect();
    let paths = blobs_of(&greedy, &names, 30);
    scene(
        "20 configured registries with 30 slow blobs each",
        &greedy,
        &|| known(&[&greedy, &other]),
        &other,
        paths,
    );

    let greedy = Registry::new();
    let names: Vec<_> = (0..REQUESTS).map(|_| greedy.add_listener().to_string()).collect();
    let paths = blobs_of(&greedy, &names, 1);
    let config = format!(
        "defaults: {{insecure: true, allow_private: true}}\n\
         registries: [{{name: \"{0}\", url: \"http://{0}\"}}]\n",
        other.addr()
    );
    scene(
        "300 registries without an entry",
        &greedy,
        &|| Server::bare().config(config.clone()),
        &other,
        paths,
    );
}
