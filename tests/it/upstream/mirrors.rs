//! Mirrors with correct response heads and wrong bodies. The cache continues with the next
//! endpoint.

use std::time::Duration;

use crate::harness::*;

const MIB: u64 = 1024 * 1024;

/// Starts a cache of `registry` with mirrors. The first mirror gets the first request.
fn cache(registry: &Registry, mirrors: &[&Registry]) -> Server {
    let list: Vec<_> = mirrors
        .iter()
        .map(|mirror| format!("{{url: \"http://{}\", resolve: true}}", mirror.addr()))
        .collect();
    let (name, addr) = (registry.name(), registry.addr());
    Server::bare()
        .config(format!(
            "registries:\n  - name: \"{name}\"\n    url: \"http://{addr}\"\n    insecure: true\n    mirrors: [{}]\n",
            list.join(", ")
        ))
        .start()
}

/// Stores one blob in all registries of `places`.
fn blob_in(places: &[&Registry], size: u64) -> (PseudoRandom, String) {
    let content = PseudoRandom::new(fresh_seed(), size);
    for place in places {
        place.blob(content.clone());
    }
    let digest = content.digest();
    (content, digest)
}

#[test]
fn a_small_blob_that_a_mirror_gives_wrongly_comes_from_the_next_place() {
    let (registry, first, second) = (Registry::new(), Registry::new(), Registry::new());
    let cache = cache(&registry, &[&first, &second]);
    for framing in [Framing::Length, Framing::Chunked, Framing::Close] {
        for (size, wrong) in [(100_000, 1), (MIB, 2)] {
            let (content, digest) = blob_in(&[&registry, &first, &second], size);
            let mirrors = &[&first, &second][..wrong];
            for mirror in mirrors {
                mirror.on(On::path(&digest), Reply::new().framing(framing).flip(77));
            }
            let got = cache
                .client()
                .try_pull(&registry.blob_url("a", &digest), &[], &content, 0)
                .unwrap_or_else(|broken| panic!("{framing:?} {size}: {broken:?}"));
            assert_eq!((got.status, got.received), (200, size), "{framing:?} {size}");
            for mirror in mirrors {
                assert_eq!(mirror.gets(&digest), 1, "{framing:?} {size}");
            }
            cache.wait_stored(&digest);
        }
    }
    cache.settled_store().expect_clean();
}

#[test]
fn html_page_of_a_mirror_instead_of_a_blob_falls_back_to_the_registry() {
    for size in [100_000, 3 * MIB] {
        let (registry, mirror) = (Registry::new(), Registry::new());
        let cache = cache(&registry, &[&mirror]);
        let (content, digest) = blob_in(&[&registry], size);
        mirror.on(
            On::path(&digest),
            Reply::status(200)
                .body("<html>Please log in</html>")
                .set("Content-Type", "text/html"),
        );
        cache.client().pull(&registry.blob_url("a", &digest), &content);
        assert_eq!(mirror.gets(&digest), 1);
    }
}

#[test]
fn a_large_blob_that_a_mirror_gives_wrongly_comes_from_elsewhere_the_next_time() {
    let (registry, mirror) = (Registry::new(), Registry::new());
    let cache = cache(&registry, &[&mirror]);
    let (content, digest) = blob_in(&[&registry, &mirror], 3 * MIB);
    let gate = Gate::new();
    mirror.on(
        On::path(&digest),
        Reply::new().flip(2 * MIB).hold_at(MIB + MIB / 2, &gate),
    );
    let path = registry.blob_url("a", &digest);
    cache.client().get_broken(&path, &gate);
    eventually("the failed fill has ended", || {
        cache
            .client()
            .try_pull(&path, &[], &content, 0)
            .is_ok_and(|got| got.received == content.size)
    });
    assert_eq!(
        mirror.gets(&digest),
        1,
        "the cache does not use the failed mirror again for this blob"
    );
    // For other blobs, the mirror is used as before.
    let (other, digest) = blob_in(&[&mirror], 3 * MIB);
    cache.client().pull(&registry.blob_url("a", &digest), &other);
}

#[test]
fn a_body_that_breaks_off_at_a_mirror_goes_on_at_the_next_place() {
    for cut in [Cut::Fin, Cut::Rst] {
        for (size, at) in [(300_000, 123_457), (5 * MIB, 4 * MIB + 1)] {
            let (registry, mirror) = (Registry::new(), Registry::new());
            let cache = cache(&registry, &[&mirror]);
            let (content, digest) = blob_in(&[&registry, &mirror], size);
            mirror.on(On::path(&digest), Reply::new().cut_at(at, cut));
            cache.client().pull(&registry.blob_url("a", &digest), &content);
            assert_eq!(
                (mirror.gets(&digest), registry.gets(&digest)),
                (1, 1),
                "{cut:?} {size}"
            );
            let rest = registry
                .log()
                .into_iter()
                .find(|seen| seen.is_get(&digest))
                .unwrap();
            assert!(
                rest.has_range(),
                "{cut:?} {size}: the second request has no range"
            );
        }
    }
}

#[test]
fn broken_mirror_transfer_is_resumed_at_the_mirror_if_the_registry_is_down() {
    let (registry, mirror) = (Registry::new(), Registry::new());
    let cache = cache(&registry, &[&mirror]);
    let (content, digest) = blob_in(&[&mirror], 5 * MIB);
    registry.down();
    mirror.on(On::path(&digest).once(), Reply::new().cut_at(2 * MIB, Cut::Fin));
    cache.client().pull(&registry.blob_url("a", &digest), &content);
    assert_eq!(mirror.gets(&digest), 2);
}

#[test]
fn a_mirror_that_stalls_in_the_body_is_left_for_the_next_place() {
    let (registry, mirror) = (Registry::new(), Registry::new());
    let cache = cache(&registry, &[&mirror]);
    let (content, digest) = blob_in(&[&registry, &mirror], 3 * MIB);
    let gate = Gate::new();
    mirror.on(On::path(&digest), Reply::new().hold_at(2 * MIB, &gate));
    cache.client().pull(&registry.blob_url("a", &digest), &content);
    assert_eq!((mirror.gets(&digest), registry.gets(&digest)), (1, 1));
    gate.open();
}

#[test]
fn a_manifest_that_a_mirror_gives_wrongly_comes_from_the_next_place() {
    for reply in [
        Reply::new().flip(10),
        Reply::new().cut_at(20, Cut::Fin),
        Reply::new().delay_body(Duration::ZERO).cut_at(20, Cut::Rst),
    ] {
        let (registry, mirror) = (Registry::new(), Registry::new());
        let cache = cache(&registry, &[&mirror]);
        let seed = fresh_seed();
        let image = Image::small(&registry, "a", "v1", seed);
        Image::small(&mirror, "a", "v1", seed);
        mirror.on(On::kind(Kind::Manifest).get(), reply);
        for reference in ["v1", &image.digest] {
            cache
                .client()
                .get(&registry.manifest_url("a", reference))
                .expect(&image.manifest);
        }
    }
}

#[test]
fn a_list_that_a_mirror_does_not_give_comes_from_the_next_place() {
    let list = r#"{"name":"a","tags":["v1"]}"#;
    for reply in [
        Reply::status(200).body("<html>hello</html>"),
        Reply::status(200).body(list).cut_at(10, Cut::Fin),
    ] {
        let (registry, mirror) = (Registry::new(), Registry::new());
        let cache = cache(&registry, &[&mirror]);
        mirror.on(On::path("/tags/list"), reply);
        registry.on(
            On::path("/tags/list"),
            Reply::status(200)
                .body(list)
                .set("Content-Type", "application/json"),
        );
        let got = cache
            .client()
            .get(&format!("/v2/{}/a/tags/list", registry.name()));
        assert_eq!(got.status, 200, "{got}");
        assert!(got.body.windows(4).any(|part| part == b"\"v1\""), "{got}");
        assert_eq!(mirror.gets("/tags/list"), 1);
    }
}
