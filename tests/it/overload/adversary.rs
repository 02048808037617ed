//! A client or registry uses all of a shared resource that it can get. Another registry is served
//! about as fast as without the adversary.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::client::Flow;
use crate::harness::disk::SmallDisk;
use crate::harness::*;

const MIB: u64 = 1024 * 1024;

/// Number of requests of the adversary, more than the cache has slots for.
const GREEDY: usize = 300;

/// Bytes per second. So slow that no request of the adversary ends during a test.
pub const DRIBBLE: u64 = 200;

/// Number of measured cold pulls of the bystander.
const PULLS: usize = 8;

/// Returns the longest time of a few cold pulls, each of a manifest by tag and a blob.
#[track_caller]
fn cold_pulls(cache: &Server, upstream: &Registry, of: &str) -> Duration {
    (0..PULLS)
        .map(|n| {
            let tag = format!("{of}-{n}");
            let image = Image::small(upstream, "a", &tag, fresh_seed());
            let (digest, layer) = &image.blobs[2];
            let began = Instant::now();
            let got = cache.client().get(&upstream.manifest_url("a", &tag));
            got.expect(&image.manifest);
            let Content::PseudoRandom(layer) = layer else {
                panic!("a layer is generated")
            };
            cache.client().pull(&upstream.blob_url("a", digest), layer);
            began.elapsed()
        })
        .max()
        .expect("at least one pull")
}

/// Fails unless cold pulls from `upstream` take about as long as without the adversary. Other tests
/// on the machine delay single pulls, but a bystander that waits for a slot waits for half a
/// minute.
#[track_caller]
fn expect_undisturbed(cache: &Server, upstream: &Registry, alone: Duration, tags: &str) {
    let beside = cold_pulls(cache, upstream, tags);
    let allowed = 20 * alone.max(Duration::from_millis(500));
    assert!(
        beside < allowed,
        "{beside:?} beside the adversary, {alone:?} alone"
    );
}

/// Waits until `registry` has received requests, and then no further request for one second.
pub fn wait_until_taken(registry: &Registry) {
    let mut last = (0, Instant::now());
    eventually("the adversary causes no further requests", || {
        let now = registry.requests();
        if now != last.0 {
            last = (now, Instant::now());
        }
        now > 0 && last.1.elapsed() > Duration::from_secs(1)
    });
}

/// Requests each path of `paths` on a separate connection and reads no response.
pub fn ask_for(cache: &Server, paths: impl IntoIterator<Item = String>) -> Vec<Connection> {
    let ask = |path: String| {
        let mut connection = cache.client().open();
        connection.request("GET", &path, &[]).expect("send");
        connection
    };
    paths.into_iter().map(ask).collect()
}

/// Returns the paths of `count` blobs that `registry` sends at [`DRIBBLE`].
pub fn dribbling_blobs(registry: &Registry, count: usize) -> Vec<String> {
    registry.on(On::kind(Kind::Blob).get(), Reply::new().rate(DRIBBLE));
    (0..count)
        .map(|_| registry.blob_url("a", &registry.blob(PseudoRandom::new(fresh_seed(), 2 * MIB))))
        .collect()
}

/// Returns the options of a cache with both registries configured.
fn between(greedy: &Registry, other: &Registry) -> server::Options {
    raise_file_limit();
    Server::options(greedy).registry(other.name(), other.addr())
}

#[test]
fn slow_blobs_of_one_registry_do_not_delay_another_registry() {
    let (greedy, other) = (Registry::new(), Registry::new());
    let cache = between(&greedy, &other).start();
    let alone = cold_pulls(&cache, &other, "alone");
    let held = ask_for(&cache, dribbling_blobs(&greedy, GREEDY));
    wait_until_taken(&greedy);
    expect_undisturbed(&cache, &other, alone, "beside");
    // The clients abort their connections. Their requests must not keep a slot either.
    held.into_iter().for_each(Connection::abort);
    expect_undisturbed(&cache, &other, alone, "afterwards");
}

#[test]
fn silent_manifest_requests_do_not_delay_other_registries_or_blobs() {
    let (greedy, other) = (Registry::new(), Registry::new());
    let cache = between(&greedy, &other).start();
    let alone = cold_pulls(&cache, &other, "alone");
    let content = PseudoRandom::new(fresh_seed(), 70_000);
    let digest = greedy.blob(content.clone());
    let gate = Gate::new();
    greedy.on(On::kind(Kind::Manifest), Reply::new().hold_head(&gate));
    let held = ask_for(
        &cache,
        (0..GREEDY).map(|n| greedy.manifest_url("a", &format!("t{n}"))),
    );
    wait_until_taken(&greedy);
    expect_undisturbed(&cache, &other, alone, "beside");
    cache.client().pull(&greedy.blob_url("a", &digest), &content);
    drop(held);
    gate.open();
}

#[test]
fn unconfigured_registries_do_not_delay_a_configured_registry() {
    const REGISTRIES: usize = 50;
    const EACH: usize = 6;
    raise_file_limit();
    let (greedy, other) = (Registry::new(), Registry::new());
    let config = format!(
        "defaults: {{insecure: true, allow_private: true}}\n\
         registries: [{{name: \"{0}\", url: \"http://{0}\"}}]\n",
        other.addr()
    );
    let cache = Server::bare().config(config).start();
    let alone = cold_pulls(&cache, &other, "alone");
    greedy.on(On::kind(Kind::Blob).get(), Reply::new().rate(DRIBBLE));
    let names: Vec<_> = (0..REGISTRIES).map(|_| greedy.add_listener()).collect();
    let paths = names.iter().flat_map(|name| {
        let blob = || greedy.blob(PseudoRandom::new(fresh_seed(), 2 * MIB));
        (0..EACH).map(move |_| format!("/v2/{name}/a/blobs/{}", blob()))
    });
    let _held = ask_for(&cache, paths);
    wait_until_taken(&greedy);
    expect_undisturbed(&cache, &other, alone, "beside");
}

#[test]
fn many_configured_registries_leave_slots_to_another_one() {
    // Each registry takes half of the remaining slots.
    const REGISTRIES: usize = 6;
    let (greedy, other) = (Registry::new(), Registry::new());
    let names: Vec<_> = (0..REGISTRIES).map(|_| greedy.add_listener()).collect();
    let cache = between(&greedy, &other).start();
    let alone = cold_pulls(&cache, &other, "alone");
    greedy.on(On::kind(Kind::Blob).get(), Reply::new().rate(DRIBBLE));
    let paths = names.iter().flat_map(|name| {
        let blob = || greedy.blob(PseudoRandom::new(fresh_seed(), 2 * MIB));
        (0..GREEDY / REGISTRIES).map(move |_| format!("/v2/{name}/a/blobs/{}", blob()))
    });
    let _held = ask_for(&cache, paths);
    wait_until_taken(&greedy);
    expect_undisturbed(&cache, &other, alone, "beside");
}

#[test]
fn each_configured_registry_has_reserved_slots_among_many_others() {
    // More registries than needed for all shared slots. Each registry takes half of the remaining
    // ones.
    const REGISTRIES: usize = 24;
    const EACH: usize = 12;
    let (greedy, other) = (Registry::new(), Registry::new());
    let names: Vec<_> = (0..REGISTRIES).map(|_| greedy.add_listener()).collect();
    let cache = between(&greedy, &other).start();
    let gate = Gate::new();
    greedy.on(On::kind(Kind::Blob).get(), Reply::new().rate(DRIBBLE));
    greedy.on(On::kind(Kind::Manifest), Reply::new().hold_head(&gate));
    let blob = &|| greedy.blob(PseudoRandom::new(fresh_seed(), 2 * MIB));
    let blobs = names.iter().flat_map(|name| {
        let blob = move |_| format!("/v2/{name}/a/blobs/{}", blob());
        (0..2 * EACH).map(blob)
    });
    let manifests = names.iter().flat_map(|name| {
        let manifest = move |n| format!("/v2/{name}/a/manifests/t{n}");
        (0..EACH).map(manifest)
    });
    let alone = cold_pulls(&cache, &other, "alone");
    let _held = ask_for(&cache, blobs.chain(manifests));
    wait_until_taken(&greedy);
    expect_undisturbed(&cache, &other, alone, "beside");
    gate.open();
}

#[test]
fn client_with_many_descriptors_does_not_exhaust_them_for_others() {
    const LIMIT: u32 = 600;
    let (greedy, other) = (Registry::new(), Registry::new());
    let cache = between(&greedy, &other)
        .file_limit(LIMIT)
        .env("MAX_CONNECTIONS_PER_CLIENT", 1_000)
        .start();
    let stored = PseudoRandom::new(fresh_seed(), 70_000);
    let stored_path = other.blob_url("a", &other.blob(stored.clone()));
    cache.client().pull(&stored_path, &stored);
    cache.wait_stored(&stored.digest());
    // Blobs for the slow readers. Each blob is a separate file, larger than the socket buffers.
    let large: Vec<String> = (0..20)
        .map(|_| {
            let content = PseudoRandom::new(fresh_seed(), 4 * MIB);
            let path = greedy.blob_url("a", &greedy.blob(content.clone()));
            cache.client().pull(&path, &content);
            cache.wait_stored(&content.digest());
            path
        })
        .collect();
    let alone = cold_pulls(&cache, &other, "alone");
    let source = std::net::Ipv4Addr::new(127, 0, 0, 9);
    let open = |target: Option<&str>| {
        let mut connection = Connection::open_from(source, cache.addr()).ok()?;
        match target {
            Some(target) => connection.request("GET", target, &[]).ok()?,
            None => connection.send(b"GET /v2/ HTTP/1.1\r\nHo").ok()?,
        }
        Some(connection)
    };
    let cold = dribbling_blobs(&greedy, GREEDY);
    let mut held: Vec<_> = large.iter().map(|path| open(Some(path))).collect();
    held.extend(cold.iter().map(|path| open(Some(path))));
    held.extend((0..GREEDY).map(|_| open(None)));
    wait_until_taken(&greedy);
    cache.client().pull(&stored_path, &stored);
    expect_undisturbed(&cache, &other, alone, "beside");
}

#[test]
fn small_memory_budget_reserves_memory_for_each_configured_registry() {
    const REGISTRIES: usize = 24;
    let (greedy, other) = (Registry::new(), Registry::new());
    let names: Vec<_> = (0..REGISTRIES).map(|_| greedy.add_listener()).collect();
    // Memory for 128 windows, fewer than the fetch slots. Each blob fetch takes one window.
    let cache = between(&greedy, &other).env("MEMORY_BUDGET", "512MiB").start();
    greedy.on(On::kind(Kind::Blob).get(), Reply::new().rate(DRIBBLE));
    let blob = &|| greedy.blob(PseudoRandom::new(fresh_seed(), 8 * MIB));
    let blobs = names.iter().flat_map(|name| {
        let blob = move |_| format!("/v2/{name}/a/blobs/{}", blob());
        (0..GREEDY / REGISTRIES).map(blob)
    });
    let alone = cold_pulls(&cache, &other, "alone");
    let _held = ask_for(&cache, blobs);
    wait_until_taken(&greedy);
    expect_undisturbed(&cache, &other, alone, "beside");
}

#[test]
fn slots_of_disconnected_clients_go_to_waiting_clients() {
    let upstream = Registry::new();
    raise_file_limit();
    let cache = Server::start(&upstream);
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    let held = ask_for(&cache, dribbling_blobs(&upstream, GREEDY));
    wait_until_taken(&upstream);
    held.into_iter().for_each(Connection::abort);
    upstream.clear_rules();
    let (digest, content) = &image.blobs[2];
    let got = cache.client().get(&upstream.blob_url("a", digest));
    got.expect(&content.bytes());
    cache.wait_stderr("fill abandoned");
}

#[test]
fn slow_registry_does_not_exhaust_the_memory_of_another_registry() {
    let (greedy, other) = (Registry::new(), Registry::new());
    let cache = between(&greedy, &other).env("MEMORY_BUDGET", "64MiB").start();
    let alone = cold_pulls(&cache, &other, "alone");
    greedy.on(On::kind(Kind::Blob).get(), Reply::new().rate(DRIBBLE));
    let blob = || greedy.blob(PseudoRandom::new(fresh_seed(), 8 * MIB));
    let _held = ask_for(&cache, (0..60).map(|_| greedy.blob_url("a", &blob())));
    wait_until_taken(&greedy);
    expect_undisturbed(&cache, &other, alone, "beside");
}

/// Returns the number of free bytes on the file system of `disk`.
fn free(disk: &SmallDisk) -> u64 {
    let told = rustix::fs::statvfs(&disk.path).expect("statvfs");
    told.f_bavail * told.f_frsize
}

/// Fails unless a blob of `other` is stored while the adversary is active.
#[track_caller]
fn expect_stored(cache: &Server, other: &Registry, size: u64) {
    let content = PseudoRandom::new(fresh_seed(), size);
    let digest = other.blob(content.clone());
    cache.client().pull(&other.blob_url("a", &digest), &content);
    cache.wait_stored(&digest);
}

#[test]
fn declared_length_reserves_no_disk_space_before_the_bytes_arrive() {
    let Some(disk) = SmallDisk::mount(64 * MIB) else {
        return;
    };
    let (greedy, other) = (Registry::new(), Registry::new());
    let cache = between(&greedy, &other).root(&disk.path.join("store")).start();
    let before = free(&disk);
    // The registry sends only the first 100,000 bytes.
    let gate = Gate::new();
    greedy.on(On::kind(Kind::Blob).get(), Reply::new().hold_at(100_000, &gate));
    let blob = || greedy.blob(PseudoRandom::new(fresh_seed(), 60 * MIB));
    let held = ask_for(&cache, (0..4).map(|_| greedy.blob_url("a", &blob())));
    gate.wait_arrived(4);
    expect_stored(&cache, &other, 8 * MIB);
    held.into_iter().for_each(Connection::abort);
    expect_stored(&cache, &other, 8 * MIB);
    eventually("the fills end and release their disk space", || {
        free(&disk) + 18 * MIB > before
    });
}

/// Makes the registry send a blob without a length and without an end. Returns the path.
fn endless_blob(registry: &Registry) -> String {
    let digest = PseudoRandom::new(fresh_seed(), 10).digest();
    registry.blob_as(&digest, PseudoRandom::new(fresh_seed(), 1 << 42));
    registry.on(
        On::path(&digest).get(),
        Reply::new().framing(Framing::Chunked).rate(64 * MIB),
    );
    registry.blob_url("a", &digest)
}

#[test]
fn endless_body_ends_with_its_client_and_frees_its_disk_space() {
    let Some(disk) = SmallDisk::mount(64 * MIB) else {
        return;
    };
    let (greedy, other) = (Registry::new(), Registry::new());
    let cache = between(&greedy, &other).root(&disk.path.join("store")).start();
    let before = free(&disk);
    let path = endless_blob(&greedy);
    cache.client().get_and_abort(&path, 3 * MIB);
    eventually("the fill ends and closes the upstream connection", || {
        cache.stderr().contains("fill abandoned")
    });
    eventually("the fill releases its disk space", || free(&disk) + MIB > before);
    expect_stored(&cache, &other, 8 * MIB);
}

#[test]
fn a_body_without_end_leaves_room_on_the_disk_while_its_client_reads() {
    let Some(disk) = SmallDisk::mount(64 * MIB) else {
        return;
    };
    let (greedy, other) = (Registry::new(), Registry::new());
    let cache = between(&greedy, &other).root(&disk.path.join("store")).start();
    let path = endless_blob(&greedy);
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = cache.client().open();
            connection.request("GET", &path, &[]).unwrap();
            let _ = connection.read_into("GET", &mut |_, _| {
                if enough.load(Ordering::SeqCst) {
                    Flow::Stop
                } else {
                    Flow::Go
                }
            });
        });
        let _ended = Ended(&enough);
        cache.wait_stderr("pull continues without storing");
        let left = free(&disk);
        assert!(
            left >= 31 * MIB,
            "half of the disk is reserved, but only {left} bytes are free"
        );
        expect_stored(&cache, &other, 8 * MIB);
    });
}

/// Sets the flag that ends a thread, also if the test fails.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Starts a cache with a bucket and both registries.
fn between_with(bucket: &Bucket, backend: &str, greedy: &Registry, other: &Registry) -> Server {
    bucket
        .behind(between(greedy, other), backend)
        .env("TAG_TTL", "1h")
        .start()
}

/// Returns images that are stored in the bucket but in no running cache. Each image has a manifest
/// by tag, a small blob and a large blob.
fn images_in(bucket: &Bucket, cache: &Server, upstream: &Registry, of: &str) -> Vec<(String, Image)> {
    let images: Vec<_> = (0..PULLS)
        .map(|n| {
            let (tag, seed) = (format!("{of}-{n}"), fresh_seed());
            let layers = [900, 3 * MIB].map(|size| Content::from(PseudoRandom::new(seed + size, size)));
            let image = Image::push(upstream, "a", &tag, Flavor::Oci, &layers);
            pull_image(cache, upstream, &tag, &image);
            (tag, image)
        })
        .collect();
    for (tag, image) in &images {
        bucket.wait_has(&image.digest);
        image
            .all_blobs()
            .iter()
            .for_each(|(digest, _)| bucket.wait_has(digest));
        let pointer = format!("_tags/{tag}");
        eventually("the bucket has the tag", || {
            bucket.keys().iter().any(|key| key.ends_with(&pointer))
        });
    }
    images
}

#[track_caller]
fn pull_image(cache: &Server, upstream: &Registry, tag: &str, image: &Image) -> Duration {
    let began = Instant::now();
    let got = cache.get_from_bucket(&upstream.manifest_url("a", tag));
    got.expect(&image.manifest);
    for (digest, content) in image.all_blobs() {
        let got = cache.get_from_bucket(&upstream.blob_url("a", digest));
        got.expect(&content.bytes());
    }
    began.elapsed()
}

#[test]
fn stalled_bucket_bodies_do_not_delay_another_registry() {
    let (greedy, other, bucket) = (Registry::new(), Registry::new(), Bucket::new());
    let first = between_with(&bucket, "s3", &greedy, &other);
    let images = [
        images_in(&bucket, &first, &other, "alone"),
        images_in(&bucket, &first, &other, "beside"),
    ];
    let stalled = PseudoRandom::new(fresh_seed(), MIB + 1);
    let digest = greedy.blob(stalled.clone());
    first.client().pull(&greedy.blob_url("a", &digest), &stalled);
    bucket.wait_has(&digest);
    drop(first);
    // From here on, only the bucket is available.
    greedy.down();
    other.down();
    let cache = between_with(&bucket, "s3", &greedy, &other);
    let [alone, beside] = images;
    let pull_all = |images: &[(String, Image)]| {
        let pulls = images
            .iter()
            .map(|(tag, image)| pull_image(&cache, &other, tag, image));
        pulls.max().expect("at least one pull")
    };
    let alone = pull_all(&alone);
    bucket.add_fault("GET", &digest.replace(':', "-"), Fault::Rate(2_000));
    bucket.clear_log();
    let held = ask_for(&cache, (0..GREEDY).map(|_| greedy.blob_url("a", &digest)));
    let mut last = (0, Instant::now());
    eventually("the adversary causes no further requests", || {
        let now = bucket.count("GET", &Bucket::blob_key(&digest));
        if now != last.0 {
            last = (now, Instant::now());
        }
        now > 0 && last.1.elapsed() > Duration::from_secs(1)
    });
    let beside = pull_all(&beside);
    let allowed = 20 * alone.max(Duration::from_millis(500));
    assert!(
        beside < allowed,
        "{beside:?} beside the adversary, {alone:?} alone"
    );
    drop(held);
    bucket.clear_faults();
}

#[test]
fn uploads_of_a_registry_do_not_hold_up_those_of_another() {
    const UPLOADS: usize = 60;
    for backend in ["s3", "tiered"] {
        let (greedy, other, bucket) = (Registry::new(), Registry::new(), Bucket::new());
        let cache = between_with(&bucket, backend, &greedy, &other);
        let alone = Instant::now();
        images_in(&bucket, &cache, &other, "alone");
        let alone = alone.elapsed();
        for _ in 0..UPLOADS {
            let content = PseudoRandom::new(fresh_seed(), 50_000);
            let digest = greedy.blob(content.clone());
            bucket.add_fault(
                "PUT",
                &Bucket::blob_key(&digest),
                Fault::Late(Duration::from_millis(1_500)),
            );
            cache.client().pull(&greedy.blob_url("a", &digest), &content);
        }
        let beside = Instant::now();
        images_in(&bucket, &cache, &other, "beside");
        let beside = beside.elapsed();
        // All earlier uploads take 45 seconds.
        let allowed = 10 * alone.max(Duration::from_secs(1));
        assert!(
            beside < allowed,
            "{backend}: {beside:?} beside the adversary, {alone:?} alone"
        );
        bucket.clear_faults();
    }
}
