//! Traces: images and the requests for them.

use crate::store::eviction::Kind;

pub const CI_ONE_SHOTS: &str = "CI one-shots";
pub const NIGHTLY_SCAN: &str = "nightly scan";

pub const DAY: u32 = 24 * 60;
/// The traces start at a moment after 1970, as real clocks do.
const START: u32 = 1_000_000;
const HOSTS: usize = 200;
/// A host keeps the layers of an image for this time after it used the image.
const HOST_KEEPS: u32 = 3 * DAY;
/// Bytes that a client receives in a minute.
const BYTES_PER_MINUTE: u64 = 600_000_000;

/// Splitmix64: small, and the same on each machine.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`.
    fn below(&mut self, end: u32) -> u32 {
        (self.next() % u64::from(end)) as u32
    }

    /// Returns a number of `from..=to`.
    fn between(&mut self, from: u32, to: u32) -> u32 {
        from + self.below(to - from + 1)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn happens(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Returns a size whose logarithm is uniform.
    fn size(&mut self, from: f64, to: f64) -> u64 {
        (from * (to / from).powf(self.unit())) as u64
    }

    /// About 65 % of layers are below 1 MB and 80 % below 10 MB.
    fn layer_bytes(&mut self) -> u64 {
        match self.below(100) {
            0..65 => self.size(200.0, 1e6),
            65..80 => self.size(1e6, 1e7),
            _ => self.size(1e7, 6e8),
        }
    }
}

/// Ranks with the probabilities of Zipf's law.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(ranks: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let weights = (1..=ranks).map(|rank| (rank as f64).powf(-exponent));
        let sums: Vec<f64> = weights
            .map(|weight| {
                sum += weight;
                sum
            })
            .collect();
        Zipf(sums.iter().map(|part| part / sum).collect())
    }

    fn rank(&self, random: &mut Random) -> usize {
        let unit = random.unit();
        self.0.partition_point(|&sum| sum <= unit).min(self.0.len() - 1)
    }
}

pub struct Image {
    pub tag: u32,
    pub index: Option<u32>,
    pub manifest: u32,
    /// The config and the layers.
    pub blobs: Vec<u32>,
}

impl Image {
    /// Returns the object that the tag names.
    pub fn top(&self) -> u32 {
        self.index.unwrap_or(self.manifest)
    }
}

#[derive(Clone, Copy)]
pub struct Request {
    pub minute: u32,
    pub object: u32,
    /// The image that the client pulls.
    pub image: u32,
}

pub struct Trace {
    pub name: &'static str,
    pub seed: u64,
    pub kinds: Vec<Kind>,
    pub bytes: Vec<u64>,
    /// The objects that a manifest or an index names. The object of a tag is in the requests, as
    /// tags move.
    pub named: Vec<Vec<u32>>,
    /// The images that name a blob.
    pub images_of: Vec<Vec<u32>>,
    pub images: Vec<Image>,
    /// By time.
    pub requests: Vec<Request>,
}

impl Trace {
    /// Returns the bytes of all requested objects, each once.
    pub fn unique_bytes(&self) -> u64 {
        let mut is_requested = vec![false; self.bytes.len()];
        for request in &self.requests {
            is_requested[request.object as usize] = true;
        }
        let bytes = self.bytes.iter().zip(is_requested);
        bytes
            .map(|(bytes, is_requested)| u64::from(is_requested) * bytes)
            .sum()
    }
}

struct Builder {
    random: Random,
    trace: Trace,
    /// The end of the time in which a host holds an object, by object and host.
    held_until: Vec<[u32; HOSTS]>,
}

impl Builder {
    fn new(name: &'static str, seed: u64) -> Self {
        Builder {
            random: Random(seed),
            trace: Trace {
                name,
                seed,
                kinds: Vec::new(),
                bytes: Vec::new(),
                named: Vec::new(),
                images_of: Vec::new(),
                images: Vec::new(),
                requests: Vec::new(),
            },
            held_until: Vec::new(),
        }
    }

    fn object(&mut self, kind: Kind, bytes: u64) -> u32 {
        self.trace.kinds.push(kind);
        self.trace.bytes.push(bytes);
        self.trace.named.push(Vec::new());
        self.trace.images_of.push(Vec::new());
        self.held_until.push([0; HOSTS]);
        self.trace.kinds.len() as u32 - 1
    }

    fn tag(&mut self) -> u32 {
        self.object(Kind::Tag, 200)
    }

    fn layers(&mut self, count: u32) -> Vec<u32> {
        let layer = |_| {
            let bytes = self.random.layer_bytes();
            self.object(Kind::Blob, bytes)
        };
        (0..count).map(layer).collect()
    }

    /// Returns the layers that the images of a family share: a distribution and its packages.
    fn base(&mut self) -> Vec<u32> {
        let bytes = self.random.size(3e6, 9e7);
        let mut base = vec![self.object(Kind::Blob, bytes)];
        let count = self.random.between(1, 3);
        base.extend(self.layers(count));
        base
    }

    /// Adds the image of a config and these layers. Half of the images have an index.
    fn image(&mut self, tag: u32, layers: &[u32]) -> usize {
        let bytes = self.random.size(2e3, 2e4);
        let mut blobs = vec![self.object(Kind::Blob, bytes)];
        blobs.extend(layers);
        let manifest = self.object(Kind::Manifest, 400 + 200 * blobs.len() as u64);
        self.trace.named[manifest as usize].clone_from(&blobs);
        let number = self.trace.images.len() as u32;
        for &blob in &blobs {
            self.trace.images_of[blob as usize].push(number);
        }
        let index = self.random.happens(0.5).then(|| {
            let index = self.object(Kind::Manifest, 2000);
            self.trace.named[index as usize].push(manifest);
            index
        });
        self.trace.images.push(Image {
            tag,
            index,
            manifest,
            blobs,
        });
        number as usize
    }

    /// Adds an image of a base and `own` more layers.
    fn image_on(&mut self, base: &[u32], own: (u32, u32)) -> usize {
        let count = self.random.between(own.0, own.1);
        let mut layers = base.to_vec();
        layers.extend(self.layers(count));
        let tag = self.tag();
        self.image(tag, &layers)
    }

    /// Returns `count` images on the bases of `families`, in a random order of popularity.
    fn catalogue(&mut self, families: usize, count: usize) -> Vec<usize> {
        let bases: Vec<Vec<u32>> = (0..families).map(|_| self.base()).collect();
        let image = |_| {
            let family = self.random.below(families as u32) as usize;
            self.image_on(&bases[family], (2, 8))
        };
        (0..count).map(image).collect()
    }

    fn host(&mut self) -> Option<usize> {
        Some(self.random.below(HOSTS as u32) as usize)
    }

    /// Adds the requests of a pull at `minute`. A `host` requests the blobs that it lacks. Without
    /// a host the client holds nothing, and keeps nothing.
    fn pull(&mut self, minute: u32, image: usize, host: Option<usize>) {
        let minute = START + minute;
        let trace = &mut self.trace;
        let pulled = &trace.images[image];
        let mut request = |minute: u32, object: u32| {
            let image = image as u32;
            trace.requests.push(Request {
                minute,
                object,
                image,
            });
        };
        request(minute, pulled.tag);
        pulled.index.iter().for_each(|&index| request(minute, index));
        request(minute, pulled.manifest);
        let mut received = 0;
        for &blob in &pulled.blobs {
            if let Some(host) = host {
                let until = &mut self.held_until[blob as usize][host];
                let is_held = *until > minute;
                *until = minute + HOST_KEEPS;
                if is_held {
                    continue;
                }
            }
            request(minute + (received / BYTES_PER_MINUTE) as u32, blob);
            received += trace.bytes[blob as usize];
        }
    }

    /// Adds pulls of `images` by hosts, by Zipf's law, at random minutes of `days`.
    fn zipf_pulls(&mut self, images: &[usize], pulls: u32, days: u32) {
        let zipf = Zipf::new(images.len(), 0.9);
        let mut minutes: Vec<u32> = (0..pulls).map(|_| self.random.below(days * DAY)).collect();
        minutes.sort_unstable();
        for minute in minutes {
            let image = images[zipf.rank(&mut self.random)];
            let host = self.host();
            self.pull(minute, image, host);
        }
    }

    fn finish(mut self) -> Trace {
        self.trace.requests.sort_by_key(|request| request.minute);
        self.trace
    }
}

/// Hosts pull images by Zipf's law.
pub fn steady_zipf(seed: u64) -> Trace {
    let mut builder = Builder::new("steady Zipf", seed);
    let images = builder.catalogue(40, 800);
    builder.zipf_pulls(&images, 12_000, 21);
    builder.finish()
}

/// Each two hours 20 to 150 hosts pull one image within 20 minutes, beside Zipf pulls. One half of
/// the waves are new images, the other half images of the catalogue.
pub fn rollout_waves(seed: u64) -> Trace {
    const DAYS: u32 = 21;
    let mut builder = Builder::new("rollout waves", seed);
    let images = builder.catalogue(40, 600);
    let zipf = Zipf::new(images.len(), 0.9);
    builder.zipf_pulls(&images, 4_000, DAYS);
    for wave in 0..DAYS * 12 {
        let popular = images[zipf.rank(&mut builder.random)];
        let image = if builder.random.happens(0.5) {
            // The new image is on the base of the popular image.
            let base = builder.trace.images[popular].blobs[1..3].to_vec();
            builder.image_on(&base, (3, 9))
        } else {
            popular
        };
        let start = wave * 120 + builder.random.below(60);
        for _ in 0..builder.random.between(20, 150) {
            let minute = start + builder.random.below(20);
            let host = builder.host();
            builder.pull(minute, image, host);
        }
    }
    builder.finish()
}

/// 40 % of the pulls are of images that no client pulls again. One half of these pulls is by
/// machines that hold nothing.
pub fn ci_one_shots(seed: u64) -> Trace {
    const DAYS: u32 = 21;
    const PULLS: u32 = 12_000;
    let mut builder = Builder::new(CI_ONE_SHOTS, seed);
    let images = builder.catalogue(40, 800);
    let zipf = Zipf::new(images.len(), 0.9);
    builder.zipf_pulls(&images, PULLS * 6 / 10, DAYS);
    for _ in 0..PULLS * 4 / 10 {
        let popular = images[zipf.rank(&mut builder.random)];
        let base = builder.trace.images[popular].blobs[1..3].to_vec();
        let image = builder.image_on(&base, (1, 6));
        let minute = builder.random.below(DAYS * DAY);
        let host = builder.host().filter(|_| builder.random.happens(0.5));
        builder.pull(minute, image, host);
    }
    builder.finish()
}

/// From 1:00 to 5:00 a scanner that keeps nothing pulls each image of the catalogue. Hosts pull a
/// quarter of the catalogue by Zipf's law.
pub fn nightly_scan(seed: u64) -> Trace {
    const DAYS: u32 = 14;
    let mut builder = Builder::new(NIGHTLY_SCAN, seed);
    let images = builder.catalogue(40, 800);
    builder.zipf_pulls(&images[..200], 12_000, DAYS);
    for day in 0..DAYS {
        for &image in &images {
            let minute = day * DAY + 60 + builder.random.below(240);
            builder.pull(minute, image, None);
        }
    }
    builder.finish()
}

/// Each repository gets a version every 4 to 8 hours, with one or two new layers. Hosts pull the
/// newest version, and one pull of ten is of an older one.
pub fn tag_churn(seed: u64) -> Trace {
    const DAYS: u32 = 21;
    const REPOSITORIES: usize = 60;
    let mut builder = Builder::new("tag churn", seed);
    let bases: Vec<Vec<u32>> = (0..15).map(|_| builder.base()).collect();
    let zipf = Zipf::new(REPOSITORIES, 0.7);
    let popularity = |rank: usize| zipf.0[rank] - if rank == 0 { 0.0 } else { zipf.0[rank - 1] };
    for repository in 0..REPOSITORIES {
        let tag = builder.tag();
        let mut layers = bases[builder.random.below(15) as usize].clone();
        let count = builder.random.between(2, 7);
        layers.extend(builder.layers(count));
        let mut versions = Vec::new();
        let mut minute = builder.random.below(DAY / 4);
        while minute < DAYS * DAY {
            // The last layers are those that change.
            let changed = builder.random.between(1, 2);
            layers.truncate(layers.len() - changed as usize);
            layers.extend(builder.layers(changed));
            versions.push(builder.image(tag, &layers));
            let next = minute + builder.random.between(DAY / 6, DAY / 3);
            let pulls = (popularity(repository) * 150.0 * builder.random.unit() * 2.0) as u32;
            for _ in 0..=pulls {
                let newest = versions.len() - 1;
                let age = if builder.random.happens(0.1) {
                    builder.random.between(1, 4)
                } else {
                    0
                };
                let image = versions[newest.saturating_sub(age as usize)];
                let at = minute + builder.random.below(next - minute);
                let host = builder.host();
                builder.pull(at, image, host);
            }
            minute = next;
        }
    }
    builder.finish()
}
