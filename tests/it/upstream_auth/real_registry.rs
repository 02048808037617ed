//! Debian's `docker-registry` as upstream, with a password file and with tokens.

use std::time::Duration;

use crate::harness::jwt::Signer;
use crate::harness::real::{Login, RealRegistry};
use crate::harness::server::TempDir;
use crate::harness::*;

const REPOSITORY: &str = "team/app";
const SERVICE: &str = "a real registry";
const PASSWORD: &str = "canary-alice";

/// Returns a directory with an image, pushed through a public registry.
fn content() -> (TempDir, Image) {
    let dir = TempDir::new();
    let open = RealRegistry::start(&dir.path, &Login::Open);
    // A fake registry to create the image. The cache never uses this registry.
    let workshop = Registry::new();
    let seed = fresh_seed();
    let layers = [
        PseudoRandom::new(seed, 700).into(),
        PseudoRandom::new(seed + 1, 2_500_000).into(),
    ];
    let image = Image::push_index(
        &workshop,
        REPOSITORY,
        "v1",
        Flavor::Oci,
        [&layers[..1], &layers[1..]],
    );
    open.push(REPOSITORY, "v1", &image);
    (dir, image)
}

/// Pulls the complete image through the cache with `authorization` unless empty. All responses must
/// be private.
fn pull(cache: &Server, name: &str, image: &Image, authorization: &str) {
    let client = cache.client();
    let get = |path: &str| {
        let fields = [("Authorization", authorization)];
        let got = client.get_with(path, if authorization.is_empty() { &[] } else { &fields });
        let control = got.field("cache-control").unwrap_or_default();
        assert!(
            control.contains("private"),
            "Cache-Control of private content is not private: {got}"
        );
        got
    };
    get(&format!("/v2/{name}/{REPOSITORY}/manifests/v1")).expect(&image.manifest);
    for manifest in image.manifests() {
        let path = format!("/v2/{name}/{REPOSITORY}/manifests/{}", manifest.digest);
        get(&path).expect(&manifest.manifest);
    }
    for (digest, content) in image.all_blobs() {
        let path = format!("/v2/{name}/{REPOSITORY}/blobs/{digest}");
        get(&path).expect(&content.bytes());
        cache.wait_stored(digest);
    }
}

fn refused(cache: &Server, name: &str, image: &Image, authorization: &str) {
    for path in [
        format!("/v2/{name}/{REPOSITORY}/manifests/v1"),
        format!("/v2/{name}/{REPOSITORY}/manifests/{}", image.digest),
        format!("/v2/{name}/{REPOSITORY}/blobs/{}", image.all_blobs()[0].0),
    ] {
        let fields = [("Authorization", authorization)];
        let got = cache
            .client()
            .get_with(&path, if authorization.is_empty() { &[] } else { &fields });
        assert!(matches!(got.status, 401 | 403), "{path}: {got}");
    }
}

/// Fails if the log of the registry contains a second transfer of a blob.
fn each_blob_was_sent_once(registry: &RealRegistry, image: &Image) {
    for (digest, content) in image.all_blobs() {
        // The log line of a transfer ends with `200 <bytes>`. A probe has status 206 and one byte.
        let sent = format!("200 {}", content.size());
        let transfers = || {
            let log = registry.log();
            let of_blob = log
                .lines()
                .filter(|line| line.contains(&format!("\"GET /v2/{REPOSITORY}/blobs/{digest}")));
            of_blob.filter(|line| line.contains(&sent)).count()
        };
        eventually("the log of the registry has the transfer", || transfers() >= 1);
        assert_eq!(transfers(), 1, "{}", registry.log());
    }
}

fn users(dir: &TempDir) -> std::path::PathBuf {
    let file = dir.path.join("htpasswd");
    std::fs::write(&file, htpasswd::line("alice", PASSWORD, 4)).unwrap();
    file
}

#[test]
fn a_registry_with_a_password_file_is_pulled_from_with_the_server_s_password() {
    if !RealRegistry::is_installed() {
        return;
    }
    let (dir, image) = content();
    let file = users(&dir);
    let upstream = RealRegistry::start(&dir.path, &Login::Basic { htpasswd: &file });
    let keys = format!("auth: {{username: alice, password: {PASSWORD}}}");
    let cache = Server::bare()
        .registry_with("real.test", upstream.addr(), keys)
        .start();
    pull(&cache, "real.test", &image, "");
    pull(&cache, "real.test", &image, "");
    each_blob_was_sent_once(&upstream, &image);
    let wrong = Server::bare()
        .registry_with(
            "real.test",
            upstream.addr(),
            "auth: {username: alice, password: guessed}",
        )
        .start();
    refused(&wrong, "real.test", &image, "");
    for server in [&cache, &wrong] {
        assert!(!server.stderr().contains("canary") && !server.stderr().contains("guessed"));
    }
}

#[test]
fn a_registry_with_a_password_file_is_pulled_from_with_the_client_s_password() {
    if !RealRegistry::is_installed() {
        return;
    }
    let (dir, image) = content();
    let file = users(&dir);
    let upstream = RealRegistry::start(&dir.path, &Login::Basic { htpasswd: &file });
    let cache = Server::bare().registry("real.test", upstream.addr()).start();
    refused(&cache, "real.test", &image, "");
    pull(&cache, "real.test", &image, &basic("alice", PASSWORD));
    pull(&cache, "real.test", &image, &basic("alice", PASSWORD));
    each_blob_was_sent_once(&upstream, &image);
    refused(&cache, "real.test", &image, "");
    refused(&cache, "real.test", &image, &basic("alice", "guessed"));
}

#[test]
fn a_registry_with_a_password_file_asks_clients_for_their_password() {
    if !RealRegistry::is_installed() {
        return;
    }
    let (dir, _) = content();
    let file = users(&dir);
    let upstream = RealRegistry::start(&dir.path, &Login::Basic { htpasswd: &file });
    let cache = Server::bare().registry("real.test", upstream.addr()).start();
    let got = cache
        .client()
        .get(&format!("/v2/real.test/{REPOSITORY}/manifests/v1"));
    assert_eq!(got.status, 401, "{got}");
    let challenge = got.field("www-authenticate").unwrap_or_default();
    assert!(challenge.starts_with("Basic "), "{got}");
}

/// Returns a token service that the real registry trusts, and the certificate of its key.
fn token_service(dir: &TempDir) -> (Registry, std::path::PathBuf) {
    let signer = Signer::new(&dir.path);
    let certificate = signer.certificate_path.clone();
    let tokens = Registry::new();
    tokens.require_tokens(Auth {
        service: SERVICE.into(),
        signer: Some(std::sync::Arc::new(signer)),
        ..Auth::default()
    });
    tokens.user("alice", PASSWORD);
    tokens.user("bob", "canary-bob");
    tokens.allow("alice", REPOSITORY);
    (tokens, certificate)
}

fn with_tokens(dir: &TempDir, tokens: &Registry, certificate: &std::path::Path) -> RealRegistry {
    RealRegistry::start(
        &dir.path,
        &Login::Tokens {
            realm: format!("http://{}/token", tokens.addr()),
            service: SERVICE,
            certificate,
        },
    )
}

#[test]
fn a_registry_with_tokens_is_pulled_from_with_the_server_s_password() {
    if !RealRegistry::is_installed() {
        return;
    }
    let (dir, image) = content();
    let (tokens, certificate) = token_service(&dir);
    let upstream = with_tokens(&dir, &tokens, &certificate);
    // The token service has another port, so the configuration must permit the service to receive
    // the password.
    let keys = format!(
        "auth: {{username: alice, password: {PASSWORD}}}, realm_hosts: [\"{}\"]",
        tokens.addr()
    );
    let cache = Server::bare()
        .registry_with("real.test", upstream.addr(), keys)
        .start();
    pull(&cache, "real.test", &image, "");
    pull(&cache, "real.test", &image, "");
    each_blob_was_sent_once(&upstream, &image);
    let asked = tokens.log();
    assert_eq!(
        asked.len(),
        1,
        "one repository caused several token requests: {asked:#?}"
    );
    assert_eq!(
        asked[0].field("authorization"),
        Some(basic("alice", PASSWORD).as_str())
    );
    assert!(!cache.stderr().contains("canary"));
}

#[test]
fn a_registry_with_tokens_is_pulled_from_with_the_client_s_token() {
    if !RealRegistry::is_installed() {
        return;
    }
    let (dir, image) = content();
    let (tokens, certificate) = token_service(&dir);
    let upstream = with_tokens(&dir, &tokens, &certificate);
    let cache = Server::bare().registry("real.test", upstream.addr()).start();
    let got = cache
        .client()
        .get(&format!("/v2/real.test/{REPOSITORY}/manifests/v1"));
    assert_eq!(got.status, 401, "{got}");
    let challenge = got
        .field("www-authenticate")
        .expect("the challenge of the registry")
        .to_owned();
    let fetched =
        |user: &str, password: &str| tokens::fetch(&challenge, &basic(user, password)).expect("a token");
    pull(&cache, "real.test", &image, &fetched("alice", PASSWORD));
    pull(&cache, "real.test", &image, &fetched("alice", PASSWORD));
    each_blob_was_sent_once(&upstream, &image);
    refused(&cache, "real.test", &image, "");
    refused(&cache, "real.test", &image, &fetched("bob", "canary-bob"));
    refused(&cache, "real.test", &image, "Bearer guessed");
}

#[test]
fn a_real_registry_refuses_a_token_whose_time_is_over_and_gets_another() {
    if !RealRegistry::is_installed() {
        return;
    }
    let (dir, image) = content();
    let (tokens, certificate) = token_service(&dir);
    tokens.allow_anybody(REPOSITORY);
    let upstream = with_tokens(&dir, &tokens, &certificate);
    let cache = Server::bare().registry("real.test", upstream.addr()).start();
    // The token claims a lifetime of five minutes and was signed ten minutes ago.
    tokens.auth(|auth| auth.token_age = Duration::from_secs(600));
    refused(&cache, "real.test", &image, "");
    tokens.auth(|auth| auth.token_age = Duration::ZERO);
    for (digest, content) in image.all_blobs() {
        let path = format!("/v2/real.test/{REPOSITORY}/blobs/{digest}");
        cache.client().get(&path).expect(&content.bytes());
        cache.wait_stored(digest);
    }
    each_blob_was_sent_once(&upstream, &image);
}
