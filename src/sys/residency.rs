//! Checks which pages of a file are in memory, without reading them.

use std::ffi::c_void;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr;

use rustix::fs::{AtFlags, StatxFlags, statx};

/// The number of `cachestat`, equal on every architecture.
const SYS_CACHESTAT: libc::c_long = 451;

/// The maximum number of pages for the fallback: 1 MiB in pages of 4 KiB, plus one for an unaligned
/// start.
const PAGES_MAX: usize = 257;

/// The identity of a file, independent of the number of opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    pub device: (u32, u32),
    pub number: u64,
    /// The time of creation, in seconds and nanoseconds. Distinguishes the file from earlier files
    /// with the number. 0 if the file system keeps no such time.
    pub created: (i64, u32),
    pub size: u64,
    /// The process owns the file, so the result of `mincore` is reliable.
    own: bool,
}

impl Inode {
    /// Returns the inode of `file` from kernel memory, without contacting a network file system.
    pub fn of(file: &File) -> Option<Self> {
        let wanted = StatxFlags::INO | StatxFlags::BTIME | StatxFlags::SIZE | StatxFlags::UID;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let found = statx(file, c"", flags, wanted).ok()?;
        Some(Inode {
            device: (found.stx_dev_major, found.stx_dev_minor),
            number: found.stx_ino,
            created: (found.stx_btime.tv_sec, found.stx_btime.tv_nsec),
            size: found.stx_size,
            own: found.stx_uid == rustix::process::geteuid().as_raw(),
        })
    }
}

/// The extent to which a range is in the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Every page. `cachestat` also counts pages that are still being read.
    Whole,
    Partial,
    /// Not every page, and the kernel has recently evicted some missing pages because memory is
    /// short.
    Reclaimed,
}

#[repr(C)]
struct CachestatRange {
    offset: u64,
    length: u64,
}

#[repr(C)]
#[derive(Default)]
struct Cachestat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Returns how much of the `length` bytes of `file` at `offset` is in the page cache. Neither reads
/// nor triggers a read.
pub fn presence(file: &File, inode: &Inode, offset: u64, length: u64) -> Presence {
    if length == 0 {
        return Presence::Whole;
    }
    let page = page_bytes();
    let pages = (offset + length - 1) / page - offset / page + 1;
    if let Some(stat) = cachestat(file, offset, length) {
        return match (stat.cached >= pages, stat.recently_evicted) {
            (true, _) => Presence::Whole,
            (false, 0) => Presence::Partial,
            (false, _) => Presence::Reclaimed,
        };
    }
    // The kernel is older than 6.5, or a policy forbids the call.
    if inode.own && resident_pages(file, offset, pages, page) == Some(pages) {
        Presence::Whole
    } else {
        Presence::Partial
    }
}

/// Returns whether no page of the `length` bytes of `file` at `offset` is in the page cache. Returns
/// false if the state is unknown. Neither reads nor triggers a read.
pub fn is_absent(file: &File, inode: &Inode, offset: u64, length: u64) -> bool {
    if length == 0 {
        return false;
    }
    if let Some(stat) = cachestat(file, offset, length) {
        return stat.cached == 0;
    }
    let page = page_bytes();
    let pages = (offset + length - 1) / page - offset / page + 1;
    inode.own && resident_pages(file, offset, pages, page) == Some(0)
}

/// Returns the state of the `length` bytes at `offset`. `None` on a kernel before 6.5, and if a policy
/// forbids the call.
fn cachestat(file: &File, offset: u64, length: u64) -> Option<Cachestat> {
    let range = CachestatRange { offset, length };
    let mut stat = Cachestat::default();
    // SAFETY: the kernel reads one `cachestat_range` and writes one `cachestat`. Both live here and
    // have the layout that the kernel defines.
    let outcome = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_raw_fd(),
            &raw const range,
            &raw mut stat,
            0,
        )
    };
    (outcome == 0).then_some(stat)
}

fn page_bytes() -> u64 {
    // SAFETY: `sysconf` accesses no memory of this process. The page size is always known and
    // positive.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4_096)
}

/// Returns how many of `pages` pages from `offset` `mincore` finds. Excludes pages that are still
/// being read. `None` for more than [`PAGES_MAX`] pages, and if the call fails.
fn resident_pages(file: &File, offset: u64, pages: u64, page: u64) -> Option<u64> {
    let count = usize::try_from(pages).ok().filter(|&count| count <= PAGES_MAX)?;
    let start = libc::off_t::try_from(offset - offset % page).ok()?;
    // At most `PAGES_MAX` pages.
    let bytes = (pages * page) as usize;
    // SAFETY: a new mapping at an address chosen by the kernel touches no existing memory. The
    // mapping is never read, so a file that becomes shorter cannot raise a signal.
    let place = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            start,
        )
    };
    if place == libc::MAP_FAILED {
        return None;
    }
    let mut found = [0_u8; PAGES_MAX];
    // SAFETY: the mapping covers `bytes`. The kernel writes one byte for each of its `count` pages,
    // at most the length of `found`.
    let outcome = unsafe { libc::mincore(place, bytes, found.as_mut_ptr()) };
    // SAFETY: the mapping was created above and has no references.
    unsafe { libc::munmap(place.cast::<c_void>(), bytes) };
    (outcome == 0).then(|| found[..count].iter().map(|&page| u64::from(page & 1)).sum())
}
