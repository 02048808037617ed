//! Caches: the policy of this project, and others to compare it with.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use super::trace::{DAY, Request, Trace};
use crate::store::eviction::{Kind, Minute, Need, Object, Objects, choose};

pub trait Cache {
    /// Serves a request. Returns whether the object was held.
    fn serve(&mut self, request: Request) -> bool;

    fn holds(&self, object: u32) -> bool;

    /// Returns whether the bucket behind the cache had the object that was just requested and not held.
    fn was_in_bucket(&self) -> bool {
        false
    }

    /// Returns the objects that left since the last call.
    fn evicted(&mut self) -> Vec<u32>;
}

const UNUSED: u32 = u32::MAX;

/// A cache of images with the policy of this project.
pub struct ImageCache<'a> {
    trace: &'a Trace,
    restart_each: u32,
    started: u32,
    bound: u64,
    bytes: u64,
    held: Held<'a>,
    free: Vec<u32>,
    evicted: Vec<u32>,
    bucket: Option<Bucket>,
}

/// A bucket behind the cache that takes uploads on each second day only.
#[derive(Default)]
struct Bucket {
    /// The uploaded objects of the trace.
    uploaded: HashSet<u32>,
    was_read: bool,
}

/// The held objects, by number.
struct Held<'a> {
    trace: &'a Trace,
    objects: Vec<Option<(Object, u32)>>,
    /// The number of each object of the trace.
    numbers: Vec<u32>,
    /// The object that each tag names.
    tags: Vec<u32>,
    /// Whether the policy sees no copies in the bucket.
    hides_copies: bool,
}

impl Objects for Held<'_> {
    fn numbers(&self) -> u32 {
        self.objects.len() as u32
    }

    fn get(&self, number: u32) -> Option<Object> {
        self.objects[number as usize].map(|(object, _)| Object {
            is_in_bucket: object.is_in_bucket && !self.hides_copies,
            ..object
        })
    }

    fn for_each_named(&self, number: u32, mut visit: impl FnMut(u32)) {
        let Some((object, id)) = self.objects[number as usize] else {
            return;
        };
        let mut visit = |named: u32| {
            let number = self.numbers[named as usize];
            if number != UNUSED {
                visit(number);
            }
        };
        if object.kind == Kind::Tag {
            visit(self.tags[id as usize]);
        } else {
            self.trace.named[id as usize]
                .iter()
                .for_each(|&named| visit(named));
        }
    }
}

impl<'a> ImageCache<'a> {
    pub fn new(trace: &'a Trace, bound: u64) -> Self {
        ImageCache {
            trace,
            restart_each: u32::MAX,
            started: 0,
            bound,
            bytes: 0,
            held: Held {
                trace,
                objects: Vec::new(),
                numbers: vec![UNUSED; trace.bytes.len()],
                tags: vec![UNUSED; trace.bytes.len()],
                hides_copies: false,
            },
            free: Vec::new(),
            evicted: Vec::new(),
            bucket: None,
        }
    }

    /// Puts the cache in front of a bucket. With `is_known`, the policy knows the copies.
    pub fn before_bucket(mut self, is_known: bool) -> Self {
        self.bucket = Some(Bucket::default());
        self.held.hides_copies = !is_known;
        self
    }

    /// The process restarts after each `minutes`.
    pub fn restart_each(mut self, minutes: u32) -> Self {
        self.restart_each = minutes;
        self
    }

    fn restart(&mut self, now: Minute) {
        self.started = now.0;
        for (object, _) in self.held.objects.iter_mut().flatten() {
            object.counted = now;
            object.uses = 1 + u16::from(object.used.is_reuse_after(object.stored));
        }
    }

    fn store(&mut self, id: u32, now: Minute) {
        let is_in_bucket = self.bucket.as_mut().is_some_and(|bucket| {
            bucket.was_read = bucket.uploaded.contains(&id);
            if (now.0 / DAY).is_multiple_of(2) {
                bucket.uploaded.insert(id);
            }
            bucket.uploaded.contains(&id)
        });
        let object = Object {
            kind: self.trace.kinds[id as usize],
            bytes: self.trace.bytes[id as usize],
            stored: now,
            used: now,
            uses: 1,
            counted: now,
            is_in_bucket,
        };
        self.bytes += object.bytes;
        let number = self.free.pop().unwrap_or_else(|| {
            self.held.objects.push(None);
            self.held.objects.len() as u32 - 1
        });
        self.held.objects[number as usize] = Some((object, id));
        self.held.numbers[id as usize] = number;
    }

    fn make_room(&mut self, now: Minute) {
        let need = Need {
            bytes: self.bytes - self.bound / 100 * 95,
            files: 0,
            metadata_bytes_max: (self.bound / 20).max(256 << 20),
        };
        for number in choose(&self.held, now, need) {
            let Some((object, id)) = self.held.objects[number as usize].take() else {
                continue;
            };
            self.bytes -= object.bytes;
            self.held.numbers[id as usize] = UNUSED;
            self.free.push(number);
            self.evicted.push(id);
        }
    }
}

impl Cache for ImageCache<'_> {
    fn serve(&mut self, request: Request) -> bool {
        let now = Minute(request.minute);
        if now.0 / self.restart_each != self.started / self.restart_each {
            self.restart(now);
        }
        let id = request.object;
        if self.trace.kinds[id as usize] == Kind::Tag {
            self.held.tags[id as usize] = self.trace.images[request.image as usize].top();
        }
        let number = self.held.numbers[id as usize];
        if number == UNUSED {
            self.store(id, now);
            if self.bytes > self.bound {
                self.make_room(now);
            }
            return false;
        }
        if let Some((object, _)) = &mut self.held.objects[number as usize] {
            let is_another = now.is_another_use(object.used, object.stored);
            object.uses = object.uses.saturating_add(u16::from(is_another));
            object.used = now;
        }
        true
    }

    fn was_in_bucket(&self) -> bool {
        self.bucket.as_ref().is_some_and(|bucket| bucket.was_read)
    }

    fn holds(&self, object: u32) -> bool {
        self.held.numbers[object as usize] != UNUSED
    }

    fn evicted(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.evicted)
    }
}

/// Objects that left, in the order in which they left.
#[derive(Default)]
struct Ghosts {
    queue: VecDeque<(u32, u64)>,
    /// The number of the newest entry of an object. Other entries of the queue are void.
    entries: HashMap<u32, u64>,
    next: u64,
}

impl Ghosts {
    fn add(&mut self, id: u32, capacity: usize) {
        self.next += 1;
        self.queue.push_back((id, self.next));
        self.entries.insert(id, self.next);
        while self.entries.len() > capacity {
            let Some((id, entry)) = self.queue.pop_front() else {
                break;
            };
            if self.entries.get(&id) == Some(&entry) {
                self.entries.remove(&id);
            }
        }
    }

    fn remove(&mut self, id: u32) -> bool {
        self.entries.remove(&id).is_some()
    }
}

/// The order in which a [`FileCache`] evicts files.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Least recently used first.
    Lru,
    /// First stored first.
    Fifo,
    /// The farthest next use first. Needs the future. Near to the largest possible hit ratio of
    /// bytes, but not equal to it, because files have different sizes.
    Belady,
}

/// A cache of files, ordered by one number.
pub struct FileCache<'a> {
    trace: &'a Trace,
    order: Order,
    bound: u64,
    bytes: u64,
    /// The rank of each held file. The lowest leaves first.
    ranks: Vec<Option<u64>>,
    queue: BTreeSet<(u64, u32)>,
    /// The place of the next request for the same object, by request, for [`Order::Belady`].
    next: Vec<u64>,
    at: usize,
    evicted: Vec<u32>,
}

impl<'a> FileCache<'a> {
    pub fn new(trace: &'a Trace, bound: u64, order: Order) -> Self {
        FileCache {
            trace,
            order,
            bound,
            bytes: 0,
            ranks: vec![None; trace.bytes.len()],
            queue: BTreeSet::new(),
            next: if order == Order::Belady {
                next_requests(trace)
            } else {
                Vec::new()
            },
            at: 0,
            evicted: Vec::new(),
        }
    }
}

fn next_requests(trace: &Trace) -> Vec<u64> {
    let mut next = vec![u64::MAX; trace.requests.len()];
    let mut last = vec![u64::MAX; trace.bytes.len()];
    for (at, request) in trace.requests.iter().enumerate().rev() {
        next[at] = std::mem::replace(&mut last[request.object as usize], at as u64);
    }
    next
}

impl Cache for FileCache<'_> {
    fn serve(&mut self, request: Request) -> bool {
        let id = request.object;
        let rank = &mut self.ranks[id as usize];
        let before = *rank;
        let now = match self.order {
            Order::Lru => self.at as u64,
            Order::Fifo => before.unwrap_or(self.at as u64),
            Order::Belady => u64::MAX - self.next[self.at],
        };
        self.at += 1;
        *rank = Some(now);
        match before {
            Some(before) if before == now => return true,
            Some(before) => _ = self.queue.remove(&(before, id)),
            None => self.bytes += self.trace.bytes[id as usize],
        }
        self.queue.insert((now, id));
        while self.bytes > self.bound {
            let Some((_, victim)) = self.queue.pop_first() else {
                break;
            };
            self.ranks[victim as usize] = None;
            self.bytes -= self.trace.bytes[victim as usize];
            self.evicted.push(victim);
        }
        before.is_some()
    }

    fn holds(&self, object: u32) -> bool {
        self.ranks[object as usize].is_some()
    }

    fn evicted(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.evicted)
    }
}

/// S3-FIFO with files as objects and bytes as sizes.
pub struct S3Fifo<'a> {
    trace: &'a Trace,
    bound: u64,
    small: VecDeque<u32>,
    small_bytes: u64,
    main: VecDeque<u32>,
    main_bytes: u64,
    /// The uses of each held file after its first, at most 3.
    uses: Vec<Option<u8>>,
    ghosts: Ghosts,
    evicted: Vec<u32>,
}

impl<'a> S3Fifo<'a> {
    pub fn new(trace: &'a Trace, bound: u64) -> Self {
        S3Fifo {
            trace,
            bound,
            small: VecDeque::new(),
            small_bytes: 0,
            main: VecDeque::new(),
            main_bytes: 0,
            uses: vec![None; trace.bytes.len()],
            ghosts: Ghosts::default(),
            evicted: Vec::new(),
        }
    }

    fn bytes_of(&self, id: u32) -> u64 {
        self.trace.bytes[id as usize]
    }

    fn push_main(&mut self, id: u32) {
        self.main.push_back(id);
        self.main_bytes += self.bytes_of(id);
    }

    fn leave(&mut self, id: u32) {
        self.uses[id as usize] = None;
        self.evicted.push(id);
    }

    fn evict_small(&mut self) {
        let Some(id) = self.small.pop_front() else { return };
        self.small_bytes -= self.bytes_of(id);
        if self.uses[id as usize] > Some(1) {
            self.uses[id as usize] = Some(0);
            self.push_main(id);
        } else {
            self.leave(id);
            self.ghosts.add(id, self.main.len());
        }
    }

    fn evict_main(&mut self) {
        let Some(id) = self.main.pop_front() else { return };
        self.main_bytes -= self.bytes_of(id);
        match self.uses[id as usize] {
            Some(uses) if uses > 0 => {
                self.uses[id as usize] = Some(uses - 1);
                self.push_main(id);
            }
            _ => self.leave(id),
        }
    }
}

impl Cache for S3Fifo<'_> {
    fn serve(&mut self, request: Request) -> bool {
        let id = request.object;
        if let Some(uses) = &mut self.uses[id as usize] {
            *uses = (*uses + 1).min(3);
            return true;
        }
        self.uses[id as usize] = Some(0);
        if self.ghosts.remove(id) {
            self.push_main(id);
        } else {
            self.small.push_back(id);
            self.small_bytes += self.bytes_of(id);
        }
        while self.small_bytes + self.main_bytes > self.bound {
            if self.small_bytes > self.bound / 10 || self.main.is_empty() {
                self.evict_small();
            } else {
                self.evict_main();
            }
        }
        false
    }

    fn holds(&self, object: u32) -> bool {
        self.uses[object as usize].is_some()
    }

    fn evicted(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.evicted)
    }
}
