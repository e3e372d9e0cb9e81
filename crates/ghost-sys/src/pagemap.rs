//! Which pages of an address space are its own: the PAGEMAP_SCAN ioctl of `/proc/PID/pagemap`, Linux 6.7
//! (kernel `Documentation/admin-guide/mm/pagemap.rst`).
//!
//! One pass over the page tables for the whole address space. Soft-dirty and write tracking are not touched.

#![allow(unsafe_code)]

use crate::proc::{ProcDir, ProcResult};
use crate::{Errno, Result};
use std::os::fd::AsRawFd;

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// PAGE_IS_* of all its pages.
    pub categories: u64,
}

impl Region {
    /// Whether it is a guard region (MADV_GUARD_INSTALL).
    pub fn is_guard(&self) -> bool {
        self.categories & GUARD != 0
    }
    /// Whether its pages are huge (THP or hugetlb).
    pub fn is_huge(&self) -> bool {
        self.categories & HUGE != 0
    }
}

#[repr(C)]
#[derive(Default)]
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

const PAGEMAP_SCAN: u64 = 0xc060_6610; // _IOWR('f', 16, struct pm_scan_arg)
const _: () = assert!(size_of::<ScanArg>() == 0x60 && size_of::<Region>() == 24);

const FILE: u64 = 1 << 2;
const PRESENT: u64 = 1 << 3;
const SWAPPED: u64 = 1 << 4;
const PFNZERO: u64 = 1 << 5;
const HUGE: u64 = 1 << 6;
const GUARD: u64 = 1 << 8; // Linux 6.15

const REGIONS: usize = 8192;

/// Pages that hold the process's own data (private, written, present or swapped), and its guard regions; ascending.
pub fn scan(process: &ProcDir) -> ProcResult<Vec<Region>> {
    let pagemap = process.open_file("pagemap", libc::O_RDONLY)?;
    let mut found = Vec::new();
    // A kernel before 6.15 does not know guard regions and refuses to be asked about them.
    let all = scan_for(pagemap.as_raw_fd(), GUARD, &mut found).or_else(|e| match e {
        Errno(libc::EINVAL) => {
            found.clear();
            scan_for(pagemap.as_raw_fd(), 0, &mut found)
        }
        e => Err(e),
    });
    match all {
        Ok(()) => Ok(found),
        Err(errno) => {
            Err(crate::proc::ProcError::Kernel { path: format!("/proc/{}/pagemap", process.pid()), errno })
        }
    }
}

fn scan_for(fd: i32, guard: u64, found: &mut Vec<Region>) -> Result<()> {
    let mut vec = vec![Region::default(); REGIONS];
    let mut arg = ScanArg {
        size: size_of::<ScanArg>() as u64,
        end: 0x7fff_ffff_f000,
        vec: vec.as_mut_ptr() as u64,
        vec_len: REGIONS as u64,
        // neither of a file nor the shared zero page, and one of: present, swapped, guard
        category_inverted: FILE | PFNZERO,
        category_mask: FILE | PFNZERO,
        category_anyof_mask: PRESENT | SWAPPED | guard,
        return_mask: HUGE | guard,
        ..ScanArg::default()
    };
    while arg.start < arg.end {
        // SAFETY: `arg` is the structure that this request reads and writes, and `vec` has room for `vec_len` regions;
        // both outlive the call.
        let n = unsafe { libc::ioctl(fd, PAGEMAP_SCAN as libc::Ioctl, &raw mut arg) };
        if n < 0 {
            return Err(Errno::last());
        }
        found.extend_from_slice(&vec[..n as usize]);
        if arg.walk_end <= arg.start {
            break;
        }
        arg.start = arg.walk_end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_written_and_nothing_else() {
        let memory = vec![1_u8; 1 << 20];
        let (start, end) = (memory.as_ptr() as u64, memory.as_ptr() as u64 + (1 << 20));
        let regions = scan(&ProcDir::own().unwrap()).unwrap();
        assert!(regions.iter().any(|r| r.start < end && r.end > start));
        assert!(regions.windows(2).all(|w| w[0].end <= w[1].start));
    }
}
