//! Decides which bytes of a file a core can read without waiting for a disk.
//!
//! A core may read a window of a file only under two conditions. First, a helper thread has touched
//! every page of the window since the process last read missing pages of the file. Then no page is
//! still being read from the disk, and no page triggers a readahead. Second, the page cache holds
//! every page of the window now. A core remembers a check of the page cache for a moment. Helper
//! threads read everything else.
//!
//! All cores share the record of touched and checked windows in tables of atomics. The key is the
//! inode, because a file can be open several times.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::{COLD_READ_BYTES, MEMORY_PRESSURE_TIME, RESIDENCY_CHECK_INTERVAL};
use crate::runtime::clock::monotonic_millis;
use crate::runtime::split_mix::mixed;
use crate::shared_file::{SharedFile, WeakFile};
use crate::sys::{Inode, Presence, presence, read_exact_at};

/// The number of miss counters (32 KiB). Files with a common counter invalidate each other's marks,
/// which costs extra helper reads.
const FILES: usize = 4_096;

/// The number of touched windows remembered: 256 GiB of files in 16 MiB, of which only the used
/// part takes memory. The marks of one file are adjacent, so they do not overwrite each other.
const WINDOWS: usize = 1_024 * 1_024;

/// The number of files whose inode a core remembers, at about 100 bytes each.
const KNOWN_FILES: usize = 256;

/// The size of one read when a helper thread only touches pages.
const SCRATCH_BYTES: usize = 64 * 1024;

/// The number of reads of missing pages per file, indexed by [`Pages::file`].
static MISSES: [AtomicU64; FILES] = [const { AtomicU64::new(0) }; FILES];

/// The touched windows.
static TOUCHED: [TouchedWindow; WINDOWS] = [const { TouchedWindow::new() }; WINDOWS];

/// The end of the current memory shortage, in monotonic milliseconds. 0 if memory was never short.
static SHORT_UNTIL: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// The open files that this core has examined. A [`WeakFile`] prevents reuse of the address of
    /// its file.
    static KNOWN: RefCell<Vec<(WeakFile, Pages)>> = const { RefCell::new(Vec::new()) };
}

/// The record of a touched window.
struct TouchedWindow {
    /// A hash of the file, the window and the miss count at the time of the touch. 0 if unused.
    mark: AtomicU64,
    /// The time of the last check of the page cache, in monotonic milliseconds. A time of an
    /// earlier mark is older than the touch of the current mark, and therefore valid.
    checked: AtomicU64,
}

impl TouchedWindow {
    const fn new() -> Self {
        TouchedWindow {
            mark: AtomicU64::new(0),
            checked: AtomicU64::new(0),
        }
    }
}

/// The touched bytes from an offset.
struct Touched {
    bytes: u64,
    /// Whether a recent check found every page of their windows.
    checked: bool,
}

/// The thread that may read the next bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// The core may read the given number of bytes.
    Core(u64),
    /// A helper thread. The page cache probably holds every page.
    HelperCached,
    /// A helper thread, because the read waits for a disk.
    HelperMissing,
}

/// The identity of one file for page lookups.
#[derive(Clone, Copy, Debug)]
pub struct Pages {
    inode: Option<Inode>,
    /// A hash of device, inode number and time of creation.
    file: u64,
}

impl Pages {
    /// Returns the pages of an open file. The first call for a file, and an occasional later call,
    /// costs one short system call.
    pub fn of(file: &SharedFile) -> Self {
        // Addresses of small allocations differ from bit 5 upwards.
        let slot = (file.address() >> 5) % KNOWN_FILES;
        KNOWN.with_borrow_mut(|known| {
            if known.is_empty() {
                known.resize_with(KNOWN_FILES, || (WeakFile::default(), Pages::unknown()));
            }
            let (owner, pages) = &mut known[slot];
            if !owner.is(file) || pages.inode.is_none() {
                (*owner, *pages) = (file.downgrade(), Pages::find(file));
            }
            *pages
        })
    }

    fn unknown() -> Self {
        Pages { inode: None, file: 0 }
    }

    fn find(file: &File) -> Self {
        let inode = Inode::of(file);
        let file = inode.map_or(0, |inode| {
            let device = u64::from(inode.device.0) << 32 | u64::from(inode.device.1);
            let (seconds, nanoseconds) = inode.created;
            let created = seconds.cast_unsigned() << 30 ^ u64::from(nanoseconds);
            mixed(mixed(mixed(device) ^ inode.number) ^ created)
        });
        Pages { inode, file }
    }

    /// Returns the reader for up to `length` bytes at `offset` of `file`.
    pub fn reader(&self, file: &File, offset: u64, length: u64) -> Reader {
        self.reader_at(monotonic_millis(), file, offset, length)
    }

    fn reader_at(&self, now: u64, file: &File, offset: u64, length: u64) -> Reader {
        let Some(inode) = &self.inode else {
            return Reader::HelperMissing;
        };
        let is_short = now < SHORT_UNTIL.load(Ordering::Relaxed);
        let touched = if is_short {
            Touched::NONE
        } else {
            self.touched(now, offset, length)
        };
        if touched.checked || touched.bytes > 0 && self.check(now, file, inode, offset, touched.bytes) {
            return Reader::Core(touched.bytes);
        }
        let wanted = if touched.bytes > 0 {
            touched.bytes
        } else {
            length.min(step_at(offset))
        };
        match (presence(file, inode, offset, wanted), touched.bytes) {
            (Presence::Whole, 1..) => Reader::Core(touched.bytes),
            (Presence::Whole, 0) => Reader::HelperCached,
            (Presence::Partial | Presence::Reclaimed, _) => Reader::HelperMissing,
        }
    }

    /// Returns the bytes from `offset`, at most `length`, in contiguous touched windows.
    fn touched(&self, now: u64, offset: u64, length: u64) -> Touched {
        let misses = self.misses().load(Ordering::Acquire);
        let end = offset + length;
        let mut at = offset;
        let mut checked = true;
        while at < end {
            let (slot, mark) = self.mark(at / COLD_READ_BYTES, misses);
            let window = &TOUCHED[slot];
            if window.mark.load(Ordering::Acquire) != mark {
                break;
            }
            let age = now.saturating_sub(window.checked.load(Ordering::Relaxed));
            checked &= age < RESIDENCY_CHECK_INTERVAL.as_millis() as u64;
            at = (at + step_at(at)).min(end);
        }
        let bytes = at - offset;
        Touched {
            bytes,
            // The check of a growing file did not include later bytes.
            checked: checked && bytes > 0 && self.inode.is_some_and(|inode| at <= inode.size),
        }
    }

    /// Checks the windows of the `length` touched bytes at `offset`. Returns whether the page cache
    /// has every page, and then remembers the check.
    fn check(&self, now: u64, file: &File, inode: &Inode, offset: u64, length: u64) -> bool {
        let first = offset / COLD_READ_BYTES;
        let start = first * COLD_READ_BYTES;
        let end = (offset + length)
            .next_multiple_of(COLD_READ_BYTES)
            .min(inode.size);
        if offset + length > end || presence(file, inode, start, end - start) != Presence::Whole {
            return false;
        }
        for window in first..end.div_ceil(COLD_READ_BYTES) {
            TOUCHED[self.slot(window)].checked.store(now, Ordering::Relaxed);
        }
        true
    }

    /// Calls `read` with an offset and a length per step from `offset`, and records the touched
    /// pages. The first step always runs. Further steps of the `length` bytes run while the page
    /// cache has the bytes. Returns the number of bytes read, or 0 at the end of the file.
    /// Blocking; for a helper thread.
    pub fn read_steps(
        &self,
        file: &File,
        offset: u64,
        length: u64,
        mut read: impl FnMut(u64, u64) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let end = offset + length;
        let mut at = offset;
        let mut total = 0;
        while at < end {
            let step = step_at(at).min(end - at);
            let found = self
                .inode
                .map_or(Presence::Partial, |inode| presence(file, &inode, at, step));
            match found {
                Presence::Whole => {}
                _ if total > 0 => break,
                Presence::Partial => self.record_miss(),
                Presence::Reclaimed => {
                    let until = monotonic_millis().saturating_add(MEMORY_PRESSURE_TIME.as_millis() as u64);
                    SHORT_UNTIL.store(until, Ordering::Relaxed);
                    self.record_miss();
                }
            }
            let misses = self.misses().load(Ordering::Acquire);
            let done = match read(at, step) {
                Ok(done) => done,
                // The pipe is full.
                Err(error) if total > 0 && error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            total += done;
            if (done as u64) < step {
                break;
            }
            self.record_touched(file, at, step, misses);
            at += step;
        }
        Ok(total)
    }

    /// Reads exactly `length` bytes at `offset`, all in one window. Blocking; for a helper thread.
    pub fn read(&self, file: &File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // At most one window, so the cast never truncates.
        self.read_steps(file, offset, length, |at, step| {
            bytes = read_exact_at(file, at, step as usize)?;
            Ok(bytes.len())
        })?;
        Ok(bytes)
    }

    /// Records a miss. The read fetches missing pages and triggers readahead, so earlier marks of
    /// the file are no longer valid.
    fn record_miss(&self) {
        self.misses().fetch_add(1, Ordering::AcqRel);
    }

    /// Records that the `length` bytes at `offset`, all in one window, were touched. Also touches
    /// the rest of the window if no page must come from the disk.
    fn record_touched(&self, file: &File, offset: u64, length: u64, misses: u64) {
        let Some(inode) = &self.inode else { return };
        let window = offset / COLD_READ_BYTES;
        let start = window * COLD_READ_BYTES;
        let end = (start + COLD_READ_BYTES).min(inode.size);
        if offset > start || offset + length < end {
            let whole = end.saturating_sub(start);
            if presence(file, inode, start, whole) != Presence::Whole || touch(file, start, whole).is_err() {
                return;
            }
        }
        let (slot, mark) = self.mark(window, misses);
        TOUCHED[slot].mark.store(mark, Ordering::Release);
    }

    fn misses(&self) -> &'static AtomicU64 {
        &MISSES[self.file as usize % FILES]
    }

    /// Returns the slot of a window, and its mark. The size of the last window is a part of the
    /// mark, because the last window of a growing file grows.
    fn mark(&self, window: u64, misses: u64) -> (usize, u64) {
        let size = self.inode.map_or(0, |inode| inode.size);
        let length = size.saturating_sub(window * COLD_READ_BYTES).min(COLD_READ_BYTES);
        let identity = mixed(self.file ^ mixed(window ^ length << 32));
        // Never 0, because 0 means no mark.
        (self.slot(window), mixed(identity ^ misses) | 1)
    }

    fn slot(&self, window: u64) -> usize {
        self.file.wrapping_add(window) as usize % WINDOWS
    }
}

impl Touched {
    const NONE: Self = Touched {
        bytes: 0,
        checked: false,
    };
}

/// Returns the number of bytes from `offset` to the end of its window.
fn step_at(offset: u64) -> u64 {
    COLD_READ_BYTES - offset % COLD_READ_BYTES
}

/// Reads `length` bytes at `offset` and discards them.
fn touch(file: &File, offset: u64, length: u64) -> io::Result<()> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(SCRATCH_BYTES, 0);
        let mut at = 0;
        while at < length {
            let step = (length - at).min(SCRATCH_BYTES as u64);
            match file.read_at(&mut scratch[..step as usize], offset + at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => at += read as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write as _;
    use std::path::PathBuf;

    use rustix::fs::{Advice, fadvise};

    use super::*;

    const SIZE: u64 = 4 * 1024 * 1024;
    const PAGE: u64 = 4_096;

    /// A file on the disk of the build directory, not on a file system in memory. Removed on drop.
    struct OnDisk(PathBuf, SharedFile);

    impl OnDisk {
        fn new(name: &str) -> Self {
            let place = std::env::current_exe().unwrap().with_file_name(name);
            let mut file = File::create(&place).unwrap();
            file.write_all(&vec![7; SIZE as usize]).unwrap();
            file.sync_all().unwrap();
            let file = File::open(&place).unwrap();
            // A read of one page fetches only one page.
            fadvise(&file, 0, None, Advice::Random).unwrap();
            OnDisk(place, SharedFile::new(file))
        }

        /// Drops every page from the page cache. Returns whether the file system did so.
        fn forget(&self) -> bool {
            fadvise(&*self.1, 0, None, Advice::DontNeed).unwrap();
            let inode = Inode::of(&self.1).unwrap();
            let gone = presence(&self.1, &inode, 0, PAGE) != Presence::Whole;
            if !gone {
                eprintln!("SKIPPED: the file system keeps cached pages");
            }
            gone
        }

        fn read_page(&self, page: u64) {
            self.1.read_exact_at(&mut [0], page * PAGE).unwrap();
        }

        /// Reads the whole file in as many helper-thread steps as necessary.
        fn read_all(&self, pages: &Pages) {
            let mut at = 0;
            while at < SIZE {
                let read = pages.read_steps(&self.1, at, SIZE - at, |at, step| {
                    touch(&self.1, at, step)?;
                    Ok(step as usize)
                });
                at += read.unwrap() as u64;
            }
        }
    }

    impl OnDisk {
        /// Reads the file until the core may read all of it. Memory may have been short a moment
        /// ago.
        fn settle(&self, pages: &Pages) {
            for _ in 0..600 {
                self.read_all(pages);
                if pages.reader(&self.1, 0, SIZE) == Reader::Core(SIZE) {
                    return;
                }
                pause();
            }
            panic!("{:?}", pages.reader(&self.1, 0, SIZE));
        }
    }

    /// Lets some time pass during a memory shortage. No event reports the end of a shortage.
    fn pause() {
        std::thread::park_timeout(std::time::Duration::from_millis(100));
    }

    /// Waits for the end of a memory shortage, in which helper threads read every file.
    fn await_memory() {
        while monotonic_millis() < SHORT_UNTIL.load(Ordering::Relaxed) {
            pause();
        }
    }

    impl Drop for OnDisk {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn core_never_reads_a_step_with_a_missing_page() {
        let disk = OnDisk::new("pages-missing");
        let pages = Pages::of(&disk.1);
        let mut now = monotonic_millis();
        for every in [2, 3, 16, 64, 255] {
            // All pages are touched and present first. Then pages are dropped.
            disk.settle(&pages);
            if !disk.forget() {
                return;
            }
            let here = |page: u64| page % every == every - 1;
            (0..SIZE / PAGE)
                .filter(|&page| here(page))
                .for_each(|page| disk.read_page(page));
            // Later than every remembered check.
            now = later(now);
            for first in 0..64 {
                for count in [1, 2, 16, 17, 64, 256] {
                    let length = count * PAGE;
                    let reader = pages.reader_at(now, &disk.1, first * PAGE + 1, length - 1);
                    if let Reader::Core(bytes) = reader {
                        let last = (first * PAGE + bytes) / PAGE;
                        assert!((first..=last).all(here), "{every} {first} {count} {reader:?}");
                    }
                }
            }
        }
    }

    /// Returns a time at which no check at `now` or before is remembered.
    fn later(now: u64) -> u64 {
        monotonic_millis().max(now) + RESIDENCY_CHECK_INTERVAL.as_millis() as u64
    }

    #[test]
    fn check_of_a_window_is_remembered_until_the_interval_a_miss_or_a_memory_shortage() {
        let disk = OnDisk::new("pages-remembered");
        let pages = Pages::of(&disk.1);
        disk.settle(&pages);
        // In the future, so that no other check counts.
        let now = later(monotonic_millis());
        let interval = RESIDENCY_CHECK_INTERVAL.as_millis() as u64;
        let reader = |now| pages.reader_at(now, &disk.1, 0, SIZE);
        // The kernel may reclaim pages of the file at any time.
        if reader(now) != Reader::Core(SIZE) || !disk.forget() {
            eprintln!("SKIPPED: the pages did not stay in the page cache");
            return;
        }
        assert_eq!(reader(now + interval - 1), Reader::Core(SIZE));
        assert_ne!(reader(now + interval), Reader::Core(SIZE));
        assert_eq!(
            reader(now),
            Reader::Core(SIZE),
            "a failed check leaves the last check"
        );
        let short_until = SHORT_UNTIL.swap(now + 1, Ordering::Relaxed);
        let while_short = reader(now);
        SHORT_UNTIL.store(short_until, Ordering::Relaxed);
        assert_eq!(while_short, Reader::HelperMissing);
        pages.record_miss();
        assert_eq!(reader(now), Reader::HelperMissing);
    }

    #[test]
    fn check_of_a_part_of_a_window_is_not_remembered_for_the_rest() {
        let disk = OnDisk::new("pages-part");
        let pages = Pages::of(&disk.1);
        disk.settle(&pages);
        if !disk.forget() {
            return;
        }
        (0..4).for_each(|page| disk.read_page(page));
        let now = later(monotonic_millis());
        // The kernel may have reclaimed the pages, so any reader is right.
        pages.reader_at(now, &disk.1, 0, 4 * PAGE);
        let rest = pages.reader_at(now, &disk.1, 4 * PAGE, COLD_READ_BYTES - 4 * PAGE);
        assert_eq!(rest, Reader::HelperMissing);
    }

    #[test]
    fn check_of_a_growing_file_is_not_remembered_beyond_its_known_size() {
        let disk = OnDisk::new("pages-growing");
        let mut pages = Pages::of(&disk.1);
        // The file has grown by a page since the core examined it.
        pages.inode.as_mut().unwrap().size -= PAGE;
        disk.settle(&pages);
        let now = later(monotonic_millis());
        let known = pages.reader_at(now, &disk.1, 0, SIZE - PAGE);
        // The kernel may have reclaimed pages.
        let is_core = known == Reader::Core(SIZE - PAGE);
        assert_eq!(pages.touched(now, 0, SIZE - PAGE).checked, is_core);
        assert!(!pages.touched(now, 0, SIZE).checked);
    }

    /// A round of the test below. Also fails if the kernel reclaims pages meanwhile, which can
    /// happen at any time.
    fn touches_and_misses(disk: &OnDisk) -> Result<(), String> {
        let pages = Pages::of(&disk.1);
        let now = Cell::new(monotonic_millis());
        let expect = |offset: u64, length: u64, wanted: Reader| {
            now.set(later(now.get()));
            let found = pages.reader_at(now.get(), &disk.1, offset, length);
            let message = || format!("{found:?} instead of {wanted:?} for {length} bytes at {offset}");
            (found == wanted).then_some(()).ok_or_else(message)
        };
        let read_pages = || (0..SIZE / PAGE).for_each(|page| disk.read_page(page));
        // The pages are in memory, but possibly only since a moment ago.
        expect(0, SIZE, Reader::HelperCached)?;
        // Reading a part of a window touches the whole window if the page cache holds it.
        let read = pages.read(&disk.1, 3 * COLD_READ_BYTES + 5, 7).unwrap();
        assert_eq!(read, vec![7; 7]);
        expect(0, SIZE, Reader::HelperCached)?;
        let rest = SIZE - 3 * COLD_READ_BYTES;
        expect(3 * COLD_READ_BYTES, rest, Reader::Core(COLD_READ_BYTES))?;
        disk.settle(&pages);
        // A second open of the same file.
        let again = SharedFile::new(File::open(&disk.0).unwrap());
        let reader = Pages::of(&again).reader_at(later(now.get()), &again, 9, 100);
        if reader != Reader::Core(100) {
            return Err(format!("{reader:?} when the file is open once more"));
        }

        if !disk.forget() {
            return Ok(());
        }
        expect(0, SIZE, Reader::HelperMissing)?;
        // Another reader fetches the pages again. The core may read them again.
        read_pages();
        expect(0, SIZE, Reader::Core(SIZE))?;
        // A miss of a helper thread triggers readahead. Only the window of the helper thread keeps
        // a valid mark.
        disk.forget();
        pages.read(&disk.1, 0, COLD_READ_BYTES).unwrap();
        read_pages();
        expect(0, SIZE, Reader::Core(COLD_READ_BYTES))?;
        expect(COLD_READ_BYTES, COLD_READ_BYTES, Reader::HelperCached)
    }

    #[test]
    fn core_reads_a_window_after_a_helper_touched_it_until_pages_are_missing() {
        // The files of earlier rounds remain, so that each round uses a new inode without marks.
        let mut files = Vec::new();
        let mut failures = Vec::new();
        for round in 0..20 {
            await_memory();
            let disk = OnDisk::new(&format!("pages-touched-{round}"));
            match touches_and_misses(&disk) {
                Ok(()) => return,
                Err(failure) => failures.push(failure),
            }
            files.push(disk);
        }
        panic!("no round succeeded: {failures:#?}");
    }

    #[test]
    fn read_beyond_the_end_of_a_truncated_file_is_unexpected_eof() {
        let disk = OnDisk::new("pages-short");
        let pages = Pages::of(&disk.1);
        let writer = File::options().write(true).open(&disk.0).unwrap();
        writer.set_len(SIZE - 100).unwrap();
        let error = pages.read(&disk.1, SIZE - 200, 150).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
