//! Content of an air-gapped cache under the names of other repositories of its registry.

use crate::harness::*;

/// Pulls a small image of `repository` into the cache, with this login unless empty.
fn warm(cache: &Server, upstream: &Registry, repository: &str, login: &str) -> Image {
    let image = Image::small(upstream, repository, "v1", fresh_seed());
    get(cache, &upstream.manifest_url(repository, "v1"), login).expect(&image.manifest);
    for (digest, content) in &image.blobs {
        get(cache, &upstream.blob_url(repository, digest), login).expect(&content.bytes());
        cache.wait_stored(digest);
    }
    cache.wait_stored(&image.digest);
    image
}

fn get(cache: &Server, path: &str, login: &str) -> Response {
    let fields = [("Authorization", login)];
    let count = usize::from(!login.is_empty());
    cache.client().get_with(path, &fields[..count])
}

/// Returns the statuses of the manifest and of each blob of `image` under the name `repository`.
fn statuses(cache: &Server, upstream: &Registry, repository: &str, image: &Image, login: &str) -> Vec<u16> {
    let manifest = upstream.manifest_url(repository, &image.digest);
    let blobs = image
        .blobs
        .iter()
        .map(|(digest, _)| upstream.blob_url(repository, digest));
    let paths = [manifest].into_iter().chain(blobs);
    paths.map(|path| get(cache, &path, login).status).collect()
}

/// Starts the cache again, in the air gap, and waits until its index is complete.
fn cut_off(cache: &mut Server) {
    cache.set_env("AIR_GAPPED", "true");
    cache.restart();
    cache.wait_stderr("store scanned");
}

fn yaml(upstream: &Registry, top: &str, keys: &str) -> String {
    let name = upstream.name();
    format!("{top}\nregistries:\n  - {{name: \"{name}\", url: \"http://{name}\"{keys}}}\n")
}

fn registry_with_tokens() -> Registry {
    let upstream = Registry::new();
    upstream.require_tokens(Auth {
        scheme: Scheme::Either,
        ..Auth::default()
    });
    upstream
}

/// Returns a registry with a private repository for each of two users.
fn registry_of_alice_and_bob() -> Registry {
    let upstream = registry_with_tokens();
    for user in ["alice", "bob"] {
        upstream.user(user, "secret");
        upstream.allow(user, &format!("private/{user}"));
    }
    upstream
}

#[test]
fn digest_of_another_repository_is_served_in_the_air_gap_and_its_tag_is_not() {
    let (upstream, other) = (Registry::new(), Registry::new());
    let mut cache = Server::options(&upstream)
        .env("STORAGE_BACKEND", "fs")
        .registry(other.name(), other.addr())
        .start();
    let image = warm(&cache, &upstream, "team/a", "");
    let path = upstream.manifest_url("team/b", &image.digest);
    assert_eq!(get(&cache, &path, "").status, 404, "the registry answers");
    cut_off(&mut cache);
    let connections = upstream.connections();
    for _ in 0..2 {
        let got = get(&cache, &path, "");
        got.expect(&image.manifest);
        assert_eq!(got.field("docker-content-digest"), Some(&*image.digest), "{got}");
        assert_eq!(cache.client().head(&path).status, 200);
        let all = statuses(&cache, &upstream, "team/b", &image, "");
        assert!(all.iter().all(|status| *status == 200), "{all:?}");
    }
    let got = get(&cache, &upstream.manifest_url("team/b", "v1"), "");
    got.expect_error(404, "MANIFEST_UNKNOWN");
    let text = String::from_utf8_lossy(&got.body).into_owned();
    assert!(text.contains("loaded by digest has no tag"), "{text}");
    // The manifests of another registry say nothing about this registry.
    let foreign = get(&cache, &other.manifest_url("team/a", &image.digest), "");
    foreign.expect_error(404, "MANIFEST_UNKNOWN");
    assert_eq!(upstream.connections(), connections);
}

#[test]
fn incomplete_image_of_another_repository_is_not_served() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).env("STORAGE_BACKEND", "fs").start();
    let image = warm(&cache, &upstream, "team/a", "");
    cache.stop();
    let (digest, _) = image.blobs.last().expect("an image has blobs");
    let data = disk::blob_path(cache.root(), digest);
    std::fs::remove_file(disk::sidecar_of(&data)).expect("remove the sidecar");
    std::fs::remove_file(data).expect("remove the blob");
    cut_off(&mut cache);
    let path = upstream.manifest_url("team/b", &image.digest);
    assert_eq!(get(&cache, &path, "").status, 404);
}

#[test]
fn private_manifest_is_not_served_under_the_name_of_another_repository() {
    let upstream = registry_of_alice_and_bob();
    upstream.allow_anybody("public/one");
    let (alice, bob) = (basic("alice", "secret"), basic("bob", "secret"));
    let mut cache = Server::options(&upstream).env("STORAGE_BACKEND", "fs").start();
    let image = warm(&cache, &upstream, "private/alice", &alice);
    // Bob may read two repositories of the registry.
    for repository in ["private/bob", "public/one"] {
        warm(&cache, &upstream, repository, &bob);
    }
    cut_off(&mut cache);
    for (repository, login) in [
        ("private/bob", &*bob),
        ("public/one", &*bob),
        ("public/one", ""),
        ("private/bob", &*alice),
        ("private/alice", &*bob),
    ] {
        let all = statuses(&cache, &upstream, repository, &image, login);
        assert!(
            all.iter().all(|status| *status == 404),
            "{repository} {login}: {all:?}"
        );
    }
}

#[test]
fn grant_of_one_client_opens_no_manifest_to_another_client_after_a_reload() {
    let upstream = registry_of_alice_and_bob();
    let (alice, bob) = (basic("alice", "secret"), basic("bob", "secret"));
    let options = Server::options(&upstream).env("STORAGE_BACKEND", "fs");
    let cache = options.config(yaml(&upstream, "air_gapped: false", "")).start();
    let image = warm(&cache, &upstream, "private/alice", &alice);
    warm(&cache, &upstream, "private/bob", &bob);
    let file = cache.home().join("config.yaml");
    std::fs::write(file, yaml(&upstream, "air_gapped: true", "")).expect("write the configuration");
    cache.sighup();
    cache.wait_stderr("configuration reloaded");
    for repository in ["private/bob", "private/alice"] {
        for login in ["", &*bob] {
            let path = upstream.manifest_url(repository, &image.digest);
            let got = get(&cache, &path, login);
            assert_ne!(got.status, 200, "{repository} {login}: {got}");
        }
    }
}

#[test]
fn shared_manifest_is_served_under_the_name_of_another_repository() {
    let upstream = registry_with_tokens();
    upstream.user("cache", "secret");
    upstream.allow("cache", "private/one");
    let keys = ", auth: {username: cache, password: secret}, access: shared";
    let options = Server::options(&upstream).env("STORAGE_BACKEND", "fs");
    let mut cache = options.config(yaml(&upstream, "", keys)).start();
    let image = warm(&cache, &upstream, "private/one", "");
    cut_off(&mut cache);
    let all = statuses(&cache, &upstream, "private/two", &image, "");
    assert!(all.iter().all(|status| *status == 200), "{all:?}");
}

#[test]
fn rules_must_allow_both_repositories() {
    let upstream = Registry::new();
    let directory = server::TempDir::new();
    let users = directory.path.join("users");
    let lines = ["alice", "bob"].map(|user| htpasswd::line(user, "secret", 4));
    std::fs::write(&users, lines.concat()).expect("the directory is writable");
    let top = format!(
        "auth: {{htpasswd_file: {}}}\nallow:\n- {{users: [alice], repositories: [\"team/*\"]}}\n- {{users: [bob], repositories: [team/b]}}",
        users.display()
    );
    let (alice, bob) = (basic("alice", "secret"), basic("bob", "secret"));
    let options = Server::options(&upstream).env("STORAGE_BACKEND", "fs");
    let mut cache = options.config(yaml(&upstream, &top, "")).start();
    let image = warm(&cache, &upstream, "team/a", &alice);
    cut_off(&mut cache);
    let path = upstream.manifest_url("team/b", &image.digest);
    // The response for Alice must not serve Bob from memory.
    for _ in 0..2 {
        assert_eq!(get(&cache, &path, &alice).status, 200);
        assert_eq!(get(&cache, &path, &bob).status, 404);
    }
}
