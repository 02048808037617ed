//! Order and age of tag versions. A tag never returns to an old version and never exceeds its
//! lifetime, even after clock jumps.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::*;

const READERS: usize = 8;
const FLIPS: usize = 150;
const LIFETIME: Duration = Duration::from_millis(50);

/// Permitted excess over the lifetime. The documented value is one second, the rest is for a busy
/// test machine.
const SLACK: Duration = Duration::from_secs(10);

/// The number of a version is its position in the order in which the tag moved.
#[test]
fn a_tag_never_goes_back_on_any_core_and_is_never_older_than_its_lifetime() {
    let upstream = Registry::new();
    let images: Vec<Image> = (0..FLIPS)
        .map(|_| Image::small(&upstream, "a", "v1", fresh_seed()))
        .collect();
    upstream.tag("a", "v1", &images[0].digest);
    let cache = Server::options(&upstream)
        .cores(2)
        .env("TAG_TTL", format!("{}ms", LIFETIME.as_millis()))
        .env("ACCESS_LOG", "off")
        .start();
    let path = upstream.manifest_url("a", "v1");
    let over = AtomicBool::new(false);
    // The newest version in all complete responses.
    let newest = AtomicUsize::new(0);
    // The time at which the tag moved to each version.
    let since = Mutex::new(vec![Instant::now()]);
    let answers = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let (asked, before) = (Instant::now(), newest.load(Ordering::SeqCst));
                    // Each request uses a new connection, so that all cores respond.
                    let got = cache.client().get(&path);
                    let version = images.iter().position(|image| image.manifest == got.body);
                    let version =
                        version.unwrap_or_else(|| panic!("the body is no version of the tag: {got}"));
                    assert_eq!(
                        got.field("docker-content-digest"),
                        Some(images[version].digest.as_str())
                    );
                    assert!(
                        version >= before,
                        "version {version} was served after version {before}"
                    );
                    newest.fetch_max(version, Ordering::SeqCst);
                    answers.fetch_add(1, Ordering::SeqCst);
                    let replaced = since.lock().unwrap().get(version + 1).copied();
                    if let Some(replaced) = replaced {
                        let age = asked.saturating_duration_since(replaced);
                        assert!(
                            age < LIFETIME + SLACK,
                            "version {version} was served {age:?} after its replacement"
                        );
                    }
                }
            });
        }
        for image in &images[1..] {
            upstream.tag("a", "v1", &image.digest);
            since.lock().unwrap().push(Instant::now());
            let read = answers.load(Ordering::SeqCst);
            // Some responses arrive before the next version, even on a busy machine.
            eventually("the readers receive responses", || {
                answers.load(Ordering::SeqCst) >= read + READERS
            });
            std::thread::sleep(LIFETIME / 5);
        }
        over.store(true, Ordering::SeqCst);
    });
    let newest = newest.into_inner();
    eprintln!(
        "tag order: {} responses, the last version is {newest}",
        answers.into_inner()
    );
    assert!(newest > FLIPS / 4, "too few versions were served: {newest}");
}

/// The clock changes during a restart. The stored time of the last check is then in the future, in
/// the past, or invalid.
#[test]
fn clock_jump_causes_one_revalidation_per_core_at_most() {
    const DAY_MS: i64 = 86_400_000;
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).cores(2).env("TAG_TTL", "1h").start();
    let path = upstream.manifest_url("a", "v1");
    let mut image = Image::small(&upstream, "a", "v1", fresh_seed());
    cache.client().get(&path).expect(&image.manifest);
    let pointer = disk::tag_path(cache.root(), &upstream.name(), "a", "v1");
    let now_ms = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.expect("after 1970").as_millis() as i64
    };
    let jumps: [(&str, u64, bool); 8] = [
        ("now", now_ms() as u64, true),
        ("in one day", (now_ms() + DAY_MS) as u64, false),
        ("in ten minutes", (now_ms() + 600_000) as u64, false),
        ("a day ago", (now_ms() - DAY_MS) as u64, false),
        ("1970", 0, false),
        ("1970, one millisecond later", 1, false),
        ("the maximum of an unsigned time", u64::MAX, false),
        ("the maximum of a signed time", i64::MAX as u64, false),
    ];
    for (jump, checked_ms, fresh) in jumps {
        eventually("the pointer is stored", || {
            std::fs::read_to_string(&pointer).is_ok_and(|text| text.contains(&image.digest))
        });
        cache.kill9();
        let text = std::fs::read_to_string(&pointer).expect("a pointer");
        let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        json["checkedAtMs"] = checked_ms.into();
        std::fs::write(&pointer, json.to_string()).expect("write the pointer");
        let before = image;
        image = Image::small(&upstream, "a", "v1", fresh_seed());
        upstream.clear_log();
        cache.restart();
        let expected = if fresh { &before } else { &image };
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| cache.client().get(&path).expect(&expected.manifest).status);
            }
        });
        // Each core may send one request for the tag.
        let asked = upstream.count(|seen| seen.target.contains("/manifests/v1"));
        assert!(
            if fresh {
                asked == 0
            } else {
                (1..=2).contains(&asked)
            },
            "{jump}: {asked} upstream requests for 64 clients"
        );
        if fresh {
            upstream.tag("a", "v1", &before.digest);
            image = before;
        }
    }
}
