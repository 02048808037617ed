//! Mixed load with a fault in every second. No corrupt body completes, no request hangs, and
//! neither memory nor descriptors grow.
//!
//! `SOAK_SECONDS` is the duration, 20 by default. `scripts/soak.sh` runs the test for eight hours.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oci_pull_through::limits::HELD_WHOLE_BYTES_MAX;

use crate::harness::client::Flow;
use crate::harness::disk::SmallDisk;
use crate::harness::*;

const MIB: u64 = 1024 * 1024;

/// Long enough for every kind of fault, and short enough for every test run.
const SECONDS_DEFAULT: u64 = 20;

const CLIENTS: u64 = 6;

/// Half of the disk. A fault fills the other half.
const DISK_BYTES: u64 = 128 * MIB;
const BLOBS: usize = 60;
const BLOB_BYTES_MAX: u64 = 2 * MIB;
const IMAGES: usize = 8;

/// Temporary memory: in-progress fills, idle buffers, and memory that the allocator has not
/// returned yet.
const MEMORY_NOISE_BYTES: u64 = 24 * MIB;

/// Permitted growth in a long run.
const MEMORY_BYTES_PER_HOUR: u64 = MIB;

/// Temporary descriptors: open connections and fills at the time of a sample.
const FILES_NOISE: u64 = 64;

struct Fixture {
    upstream: Registry,
    cache: Server,
    blobs: Vec<PseudoRandom>,
    images: Vec<Image>,
    over: AtomicBool,
    whole: AtomicU64,
    refused: AtomicU64,
    broken: AtomicU64,
}

impl Fixture {
    /// Sends one request of a client. A fault may reject the request or break the response off. A
    /// body with a wrong byte never completes. A small body with a wrong byte is never sent at all.
    fn request(&self, random: &mut Random) {
        let client = self.cache.client();
        let content = random.pick(&self.blobs);
        let path = self.upstream.blob_url("a", &content.digest());
        let got = match random.below(10) {
            0 => {
                let start = random.below(content.size);
                let end = start + random.below(content.size - start);
                let range = format!("bytes={start}-{end}");
                Self::pull(&client, &path, &[("Range", &range)], content, start)
            }
            1 => client.try_request("HEAD", &path, &[]),
            2 => return self.abort(&path, random),
            3 | 4 => {
                let image = random.pick(&self.images);
                let got = client.try_get(&self.upstream.manifest_url("a", &image.digest));
                if let Ok(got) = &got
                    && got.status == 200
                {
                    assert!(got.body == image.manifest, "a wrong manifest: {got}");
                }
                got
            }
            5 => {
                let got = client.try_get(&self.upstream.manifest_url("a", "moving"));
                if let Ok(got) = &got
                    && got.status == 200
                {
                    let known = self.images.iter().any(|image| got.body == image.manifest);
                    assert!(known, "a wrong manifest: {got}");
                }
                got
            }
            _ => Self::pull(&client, &path, &[], content, 0),
        };
        match got {
            Ok(got) if got.status < 300 => &self.whole,
            Ok(got) => {
                assert!(matches!(got.status, 429 | 502..=504), "{got}");
                &self.refused
            }
            Err(_) => &self.broken,
        }
        .fetch_add(1, Ordering::Relaxed);
    }

    /// Reads a body to its end, complete or not, and compares the bytes with `content` from
    /// `offset` on.
    fn pull(
        client: &Client,
        path: &str,
        fields: &[(&str, &str)],
        content: &PseudoRandom,
        offset: u64,
    ) -> Result<Response, Broken> {
        let mut wrong = None;
        let got = client.pull_pieces(path, fields, &mut |at, piece| {
            wrong = wrong.or(content.compare(offset + at, piece).err());
            Flow::Go
        });
        if let Some(at) = wrong {
            assert!(got.is_err(), "{path}: a complete body has a wrong byte at {at}");
            assert!(
                content.size > HELD_WHOLE_BYTES_MAX,
                "{path}: a wrong byte at {at}"
            );
        }
        got
    }

    fn abort(&self, path: &str, random: &mut Random) {
        let Ok(mut connection) = self.cache.client().connect() else {
            return;
        };
        let _ = connection.request("GET", path, &[]);
        let stop = random.below(BLOB_BYTES_MAX);
        let _ = connection.read_into("GET", &mut |at, piece| match at + (piece.len() as u64) < stop {
            true => Flow::Go,
            false => Flow::Stop,
        });
        connection.abort();
    }

    /// Injects a random fault and ends it before the function returns, except for the rules of the
    /// registry.
    fn fault(&self, disk: &SmallDisk, random: &mut Random) {
        let upstream = &self.upstream;
        let moment = Duration::from_millis(100 + random.below(300));
        match random.below(10) {
            0 => {
                upstream.down();
                std::thread::sleep(moment);
                upstream.up();
            }
            1 => upstream.on(On::any().times(5), Reply::status(503)),
            2 => upstream.on(
                On::any().times(3),
                Reply::new().cut_at(random.below(MIB), Cut::Rst),
            ),
            3 => upstream.on(
                On::any().times(3),
                Reply::new().cut_at(random.below(MIB), Cut::Fin),
            ),
            4 => upstream.on(On::any().times(2), Reply::new().flip(random.below(1_000))),
            5 => upstream.on(On::any().times(5), Reply::too_many_requests("1")),
            6 => upstream.on(On::any().times(5), Reply::new().delay_head(moment)),
            7 => {
                let filler = disk.fill_leaving(random.below(MIB));
                std::thread::sleep(moment);
                std::fs::remove_file(filler).expect("remove the filler");
            }
            8 => {
                // Removes entries, so that the cache must fill again.
                for content in self.blobs.iter().filter(|_| random.chance(2)) {
                    let path = disk::blob_path(self.cache.root(), &content.digest());
                    let _ = std::fs::remove_file(disk::sidecar_of(&path));
                    let _ = std::fs::remove_file(&path);
                }
            }
            _ => self.cache.sighup(),
        }
        let image = random.pick(&self.images);
        upstream.tag("a", "moving", &image.digest);
    }
}

fn middle(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

/// Fails if the median of the last quarter exceeds the median of the second quarter by more than
/// `allowed`. The first quarter is the start phase.
#[track_caller]
fn assert_level(what: &str, samples: &[u64], allowed: u64) {
    let quarter = samples.len() / 4;
    let before = middle(&samples[quarter..2 * quarter]);
    let after = middle(&samples[3 * quarter..]);
    eprintln!("soak: {what}: {before} in the second quarter, {after} in the last quarter");
    assert!(
        after <= before + allowed,
        "{what} grew from {before} to {after}: {samples:?}"
    );
}

#[test]
fn mixed_load_with_a_fault_per_second_causes_no_wrong_body_hang_or_growth() {
    let seconds =
        std::env::var("SOAK_SECONDS").map_or(SECONDS_DEFAULT, |text| text.parse().expect("seconds"));
    let Some(disk) = SmallDisk::mount(DISK_BYTES) else {
        return;
    };
    let mut random = Random::for_test("soak");
    let upstream = Registry::new();
    let blobs: Vec<PseudoRandom> = (0..BLOBS)
        .map(|_| PseudoRandom::new(random.next(), 1 + random.below(BLOB_BYTES_MAX)))
        .collect();
    for content in &blobs {
        upstream.blob(content.clone());
    }
    let images: Vec<Image> = (0..IMAGES)
        .map(|_| Image::small(&upstream, "a", "moving", random.next()))
        .collect();
    let cache = Server::options(&upstream)
        .cores(2)
        .env("TAG_TTL", "1s")
        .env("ACCESS_LOG", "off")
        .root(&disk.path.join("store"))
        .start();
    let mut fixture = Fixture {
        upstream,
        cache,
        blobs,
        images,
        over: AtomicBool::new(false),
        whole: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        broken: AtomicU64::new(0),
    };
    let (mut memory, mut files) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let fixture = &fixture;
        for _ in 0..CLIENTS {
            let mut random = Random::new(random.next());
            scope.spawn(move || {
                while !fixture.over.load(Ordering::Relaxed) {
                    fixture.request(&mut random);
                }
            });
        }
        let began = Instant::now();
        for second in 1..=seconds {
            fixture.fault(&disk, &mut random);
            // The only timer of this test, for one fault in each second.
            std::thread::sleep(Duration::from_secs(second).saturating_sub(began.elapsed()));
            fixture.upstream.clear_rules();
            if second % 60 == 0 {
                fixture.upstream.clear_log();
            }
            memory.push(fixture.cache.rss_bytes());
            files.push(fixture.cache.open_files() as u64);
        }
        fixture.over.store(true, Ordering::Relaxed);
    });
    assert!(fixture.cache.is_running());
    let [whole, refused, broken] =
        [&fixture.whole, &fixture.refused, &fixture.broken].map(|count| count.load(Ordering::Relaxed));
    eprintln!("soak: {seconds} s, requests: {whole} complete, {refused} rejected, {broken} ended by a fault");
    assert!(whole > refused + broken, "most requests are complete");
    assert_level(
        "resident bytes",
        &memory,
        MEMORY_NOISE_BYTES + MEMORY_BYTES_PER_HOUR * seconds / 3600,
    );
    assert_level("open files", &files, FILES_NOISE);
    // After the faults, every client is served again.
    fixture.cache.wait_asks(&fixture.upstream, "a");
    for content in &fixture.blobs {
        let path = fixture.upstream.blob_url("a", &content.digest());
        eventually("every blob is served again", || {
            fixture
                .cache
                .client()
                .try_pull(&path, &[], content, 0)
                .is_ok_and(|got| got.status == 200)
        });
    }
    disk::check(fixture.cache.root()).expect_sound();
    fixture.cache.stop();
}
