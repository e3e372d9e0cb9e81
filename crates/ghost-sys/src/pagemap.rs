//! Which pages of an address space hold something: `ioctl(PAGEMAP_SCAN)` on `/proc/PID/pagemap`, Linux 6.7.
//!
//! One call walks the page tables and returns runs of pages by category, some hundred times faster than reading a
//! word per page. With a userfaultfd in WP_ASYNC mode over the range it also tells what was written since, and can
//! protect those pages again in the same walk (kernel `Documentation/admin-guide/mm/pagemap.rst`). Guard regions
//! are told apart since Linux 6.15. Needs `PTRACE_MODE_READ`; categories need no privilege, page frame numbers do.

#![allow(unsafe_code)]

use crate::proc::{ProcDir, ProcError, ProcResult};
use crate::{Errno, Result};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

bitflags::bitflags! {
    /// What a page is.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Categories: u64 {
        /// In a range that a userfaultfd can write-protect asynchronously.
        const WP_ALLOWED = 1;
        /// Written since it was last protected.
        const WRITTEN = 1 << 1;
        /// A page of a file or of shared memory, not private.
        const FILE = 1 << 2;
        /// In memory.
        const PRESENT = 1 << 3;
        /// Swapped out, or a marker where a page would be (guards are such).
        const SWAPPED = 1 << 4;
        /// The zero page.
        const PFNZERO = 1 << 5;
        /// Part of a huge page.
        const HUGE = 1 << 6;
        /// Soft-dirty.
        const SOFT_DIRTY = 1 << 7;
        /// A guard (MADV_GUARD_INSTALL): touching it is a fault. Linux 6.15.
        const GUARD = 1 << 8;
    }
}

/// A run of pages of equal categories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    categories: u64,
}

impl Region {
    /// Its categories, as far as they were asked for.
    pub fn categories(&self) -> Categories {
        Categories::from_bits_retain(self.categories)
    }
    /// Whether it is a guard region.
    pub fn is_guard(&self) -> bool {
        self.categories().contains(Categories::GUARD)
    }
    /// Whether huge pages are there.
    pub fn is_huge(&self) -> bool {
        self.categories().contains(Categories::HUGE)
    }
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }
    /// Never: the kernel returns no empty run.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// Which pages to return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// All of these.
    pub all: Categories,
    /// None of these.
    pub none: Categories,
    /// At least one of these, unless empty.
    pub any: Categories,
    /// What to tell of them; runs are cut where it changes.
    pub tell: Categories,
    /// Protect what is returned again (needs a WP_ASYNC userfaultfd over it; else those ranges are left alone).
    pub protect: bool,
    /// Fail with `EPERM` when a page of the range cannot be tracked.
    pub must_track: bool,
}

impl Query {
    /// What only this address space holds: neither files' pages nor zero pages; and guards, told as such.
    pub fn own_pages() -> Self {
        Self {
            none: Categories::FILE | Categories::PFNZERO,
            any: Categories::PRESENT | Categories::SWAPPED,
            tell: Categories::PRESENT | Categories::SWAPPED | Categories::HUGE | Categories::GUARD,
            ..Self::default()
        }
    }
    /// What was written since it was protected, protecting it again in the same walk.
    pub fn written() -> Self {
        let written = Categories::WRITTEN;
        Self { all: written, tell: written | Categories::HUGE, protect: true, ..Self::default() }
    }
}

/// `struct pm_scan_arg`
#[repr(C)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}
const _: () = assert!(size_of::<ScanArg>() == 96 && size_of::<Region>() == 24);

/// `_IOWR('f', 16, struct pm_scan_arg)`
const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610;
const PM_SCAN_WP_MATCHING: u64 = 1;
const PM_SCAN_CHECK_WPASYNC: u64 = 2;
/// Runs returned by one call.
const VECTOR: usize = 8192;
/// Ends of user space, from the largest that any processor has: the first that the kernel accepts is this one's.
const ENDS: [u64; 5] = [(1 << 56) - 4096, 1 << 52, (1 << 48) - 4096, (1 << 47) - 4096, 1 << 46];

/// The page tables of one process.
#[derive(Debug)]
pub struct PageMap {
    fd: OwnedFd,
}

impl PageMap {
    /// Opens `/proc/PID/pagemap`.
    pub fn open(dir: &ProcDir) -> ProcResult<Self> {
        Ok(Self { fd: dir.open_file("pagemap", libc::O_RDONLY)? })
    }

    /// The runs within `range` that `query` asks for, ascending. `ENOTTY` before Linux 6.7.
    ///
    /// A kernel that knows no guards is asked without them.
    pub fn scan(&self, range: Range<u64>, query: &Query) -> Result<Vec<Region>> {
        let mut found = Vec::new();
        self.scan_into(range, query, &mut found)?;
        Ok(found)
    }

    /// [`PageMap::scan`], appending to a vector that may be used again.
    pub fn scan_into(&self, range: Range<u64>, query: &Query, found: &mut Vec<Region>) -> Result<()> {
        let before = found.len();
        match self.walk(range.clone(), query, found) {
            Err(Errno(libc::EINVAL)) if query.tell.contains(Categories::GUARD) && found.len() == before => {
                self.walk(range, &Query { tell: query.tell - Categories::GUARD, ..*query }, found)
            }
            other => other,
        }
    }

    /// [`PageMap::scan`] of the whole address space.
    pub fn scan_all(&self, query: &Query) -> Result<Vec<Region>> {
        let mut last = Errno(libc::EFAULT);
        for end in ENDS {
            match self.scan(0..end, query) {
                Err(e @ Errno(libc::EFAULT)) => last = e,
                other => return other,
            }
        }
        Err(last)
    }

    fn walk(&self, range: Range<u64>, query: &Query, found: &mut Vec<Region>) -> Result<()> {
        let mut start = range.start;
        while start < range.end {
            let used = found.len();
            found.reserve(VECTOR);
            let mut arg = ScanArg {
                size: size_of::<ScanArg>() as u64,
                flags: if query.protect { PM_SCAN_WP_MATCHING } else { 0 }
                    | if query.must_track { PM_SCAN_CHECK_WPASYNC } else { 0 },
                start,
                end: range.end,
                walk_end: 0,
                vec: found.spare_capacity_mut().as_mut_ptr() as u64,
                vec_len: VECTOR as u64,
                max_pages: 0,
                category_inverted: query.none.bits(),
                category_mask: (query.all | query.none).bits(),
                category_anyof_mask: query.any.bits(),
                return_mask: query.tell.bits(),
            };
            // SAFETY: `arg` has the kernel's layout (asserted above) and outlives the call; its vector points at room
            // for VECTOR regions at the end of `found`, reserved just now.
            let n = unsafe { libc::ioctl(self.fd.as_raw_fd(), PAGEMAP_SCAN, &raw mut arg) };
            let n = match usize::try_from(n) {
                Ok(n) => n,
                Err(_) => match Errno::last() {
                    Errno(libc::EINTR) => continue,
                    e => return Err(e),
                },
            };
            assert!(n <= VECTOR, "the kernel fills no more regions than it was given");
            // SAFETY: the kernel has written `n` regions, plain numbers, into the room behind `used`.
            unsafe { found.set_len(used + n) };
            // Where its inner buffer was full at the very end, Linux 6.18 reports the start of the last stretch, whose runs
            // it has returned: going on from there would return them twice.
            let next = arg.walk_end.max(found[used..].last().map_or(0, |r| r.end));
            if next <= start {
                // It always moves on; a kernel that would not must not hang us.
                return Err(Errno(libc::EIO));
            }
            start = next;
            join(found, used);
        }
        Ok(())
    }

    /// The words of `pagemap` for the pages of `range`, which must be a multiple of the page size; the bits are in
    /// the kernel's pagemap.rst.
    pub fn words(&self, range: Range<u64>, page_size: u64) -> Result<Vec<u64>> {
        let mut words = vec![0_u64; (range.end.saturating_sub(range.start) / page_size) as usize];
        let mut done = 0;
        while done < words.len() {
            let rest = &mut words[done..];
            let offset = (range.start / page_size + done as u64) * 8;
            // SAFETY: the kernel writes at most the given number of bytes into `rest`; any bytes are valid words.
            let n = unsafe {
                libc::pread(self.fd.as_raw_fd(), rest.as_mut_ptr().cast(), size_of_val(rest), offset as libc::off_t)
            };
            match usize::try_from(n) {
                Ok(0) => return Err(Errno(libc::EFAULT)),
                Ok(n) => done += n / 8,
                Err(_) => return Err(Errno::last()),
            }
        }
        Ok(words)
    }
}

/// Joins a run that was cut only because one call's vector was full.
fn join(found: &mut Vec<Region>, at: usize) {
    if at == 0 || at >= found.len() {
        return;
    }
    let (last, next) = (found[at - 1], found[at]);
    if last.end == next.start && last.categories == next.categories {
        found[at - 1].end = next.end;
        found.remove(at);
    }
}

/// The pages that only this process holds, over its whole address space, and its guard regions; see [`Query::own_pages`].
pub fn scan(dir: &ProcDir) -> ProcResult<Vec<Region>> {
    let failed = |errno| ProcError::Kernel { path: format!("/proc/{}/pagemap (PAGEMAP_SCAN)", dir.pid()), errno };
    PageMap::open(dir)?.scan_all(&Query::own_pages()).map_err(failed)
}

/// Whether this kernel has PAGEMAP_SCAN (Linux 6.7), and whether it tells guards (6.15).
pub fn support() -> Result<(bool, bool)> {
    let map = ProcDir::own().and_then(|dir| PageMap::open(&dir)).map_err(|e| e.errno().unwrap_or(Errno(libc::EIO)))?;
    let ask = |tell| {
        let query = Query { any: Categories::PRESENT, tell, ..Query::default() };
        map.walk(0..4096, &query, &mut Vec::new())
    };
    match ask(Categories::PRESENT) {
        Ok(()) => Ok((true, ask(Categories::GUARD).is_ok())),
        Err(Errno(libc::ENOTTY | libc::EINVAL)) => Ok((false, false)),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    /// Anonymous memory that is unmapped at the end.
    struct Pages(*mut u8, usize);
    impl Pages {
        fn new(pages: usize) -> Self {
            let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: a new mapping at an address of the kernel's choice.
            let p = unsafe { libc::mmap(std::ptr::null_mut(), pages * PAGE, prot, flags, -1, 0) };
            assert_ne!(p, libc::MAP_FAILED);
            // SAFETY: the range is the mapping just made; no huge pages, so that pages count singly.
            unsafe { libc::madvise(p, pages * PAGE, libc::MADV_NOHUGEPAGE) };
            Self(p.cast(), pages)
        }
        fn touch(&self, page: usize) {
            assert!(page < self.1);
            // SAFETY: within the mapping, as asserted.
            unsafe { self.0.add(page * PAGE).write_volatile(7) };
        }
        fn look(&self, page: usize) -> u8 {
            assert!(page < self.1);
            // SAFETY: within the mapping, as asserted.
            unsafe { self.0.add(page * PAGE).read_volatile() }
        }
        fn range(&self) -> Range<u64> {
            self.0 as u64..self.0 as u64 + (self.1 * PAGE) as u64
        }
    }
    impl Drop for Pages {
        fn drop(&mut self) {
            // SAFETY: the mapping is ours and nobody points into it any more.
            unsafe { libc::munmap(self.0.cast(), self.1 * PAGE) };
        }
    }

    fn offsets(pages: &Pages, regions: &[Region]) -> Vec<(usize, usize, bool)> {
        let page = |addr: u64| (addr - pages.range().start) as usize / PAGE;
        regions.iter().map(|r| (page(r.start), page(r.end), r.is_guard())).collect()
    }

    #[test]
    fn touched_pages_and_guards_are_found_and_nothing_else() {
        let pages = Pages::new(16);
        for i in [2, 3, 9] {
            pages.touch(i);
        }
        assert_eq!(pages.look(12), 0); // a zero page: nothing to export
        let map = PageMap::open(&ProcDir::own().unwrap()).unwrap();
        let regions = map.scan(pages.range(), &Query::own_pages()).unwrap();
        assert_eq!(offsets(&pages, &regions), [(2, 4, false), (9, 10, false)]);
        const MADV_GUARD_INSTALL: i32 = 102;
        // SAFETY: one page of our own mapping, which nobody reads any more.
        let guarded = unsafe { libc::madvise(pages.0.add(5 * PAGE).cast(), PAGE, MADV_GUARD_INSTALL) } == 0;
        if guarded && support().unwrap().1 {
            let regions = map.scan(pages.range(), &Query::own_pages()).unwrap();
            assert_eq!(offsets(&pages, &regions), [(2, 4, false), (5, 6, true), (9, 10, false)]);
        }
        let zero = Query { all: Categories::PFNZERO, tell: Categories::PFNZERO, ..Query::default() };
        assert_eq!(offsets(&pages, &map.scan(pages.range(), &zero).unwrap()), [(12, 13, false)]);
        let words = map.words(pages.range(), PAGE as u64).unwrap();
        let present: Vec<usize> = (0..16).filter(|&i| words[i] >> 63 == 1).collect();
        assert_eq!(present, [2, 3, 9, 12]);
    }

    #[test]
    fn more_runs_than_one_call_returns() {
        let count = VECTOR + VECTOR / 2;
        let pages = Pages::new(count * 2);
        for i in 0..count {
            pages.touch(i * 2);
        }
        let map = PageMap::open(&ProcDir::own().unwrap()).unwrap();
        let regions = map.scan(pages.range(), &Query::own_pages()).unwrap();
        assert_eq!(regions.len(), count);
        assert!(regions.is_sorted_by_key(|r| r.start));
        for i in 0..count {
            pages.touch(i * 2 + 1);
        }
        let regions = map.scan(pages.range(), &Query::own_pages()).unwrap();
        assert_eq!(offsets(&pages, &regions), [(0, count * 2, false)]);
    }

    #[test]
    fn the_whole_address_space() {
        let here = Box::new([1_u8; PAGE]);
        let addr = here.as_ptr() as u64;
        let regions = scan(&ProcDir::own().unwrap()).unwrap();
        assert!(regions.iter().any(|r| (r.start..r.end).contains(&addr)));
        assert!(support().unwrap().0);
    }
}
