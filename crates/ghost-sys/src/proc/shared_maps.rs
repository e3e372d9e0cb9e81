//! The mappings of a process that others may share, and nothing else of its address space.
//!
//! `ioctl(PROCMAP_QUERY)` on `/proc/PID/maps` (Linux 6.11) steps from one shared mapping to the next without printing a line:
//! most processes have one or two among hundreds. Where the kernel does not know it, `maps` is read and sorted out. Needs
//! `PTRACE_MODE_READ`.

use super::{Perms, ProcDir, ProcError, ProcResult, read_maps};
use crate::{Errno, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// A mapping with MAP_SHARED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedMapping {
    /// Its first address.
    pub start: u64,
    /// The address after its last.
    pub end: u64,
    /// The device of the inode behind it, as `stat(2)` has it.
    pub dev: u64,
    /// The inode; anonymous shared memory has one too.
    pub inode: u64,
}

impl SharedMapping {
    /// Its name under `/proc/PID/map_files`.
    pub fn map_file(&self) -> String {
        format!("map_files/{:x}-{:x}", self.start, self.end)
    }
}

/// `struct procmap_query`
#[repr(C)]
#[derive(Default)]
struct Query {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}
const _: () = assert!(size_of::<Query>() == 104);

/// `_IOWR('f', 17, struct procmap_query)`
const PROCMAP_QUERY: libc::Ioctl = 0xc068_6611;
const PROCMAP_QUERY_VMA_SHARED: u64 = 8;
const PROCMAP_QUERY_COVERING_OR_NEXT_VMA: u64 = 16;
const PROCMAP_QUERY_FILE_BACKED_VMA: u64 = 32;

/// The shared mappings of a process, ascending; none of a kernel thread or a zombie.
pub fn read_shared_maps(dir: &ProcDir) -> ProcResult<Vec<SharedMapping>> {
    let maps = match dir.open_file("maps", libc::O_RDONLY) {
        Ok(maps) => maps,
        // Somebody whose memory is gone already.
        Err(e) if e.is_gone() => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    let mut from = 0;
    loop {
        match next(maps.as_fd(), from) {
            Ok(Some(mapping)) => {
                from = mapping.end;
                found.push(mapping);
            }
            Ok(None) | Err(Errno(libc::ESRCH)) => return Ok(found),
            Err(Errno(libc::ENOTTY)) => return sorted_out(dir),
            Err(errno) => return Err(ProcError::Kernel { path: format!("/proc/{}/maps", dir.pid()), errno }),
        }
    }
}

/// The first shared mapping at or after this address.
fn next(maps: BorrowedFd<'_>, from: u64) -> Result<Option<SharedMapping>> {
    let mut query = Query {
        size: size_of::<Query>() as u64,
        query_flags: PROCMAP_QUERY_VMA_SHARED | PROCMAP_QUERY_COVERING_OR_NEXT_VMA | PROCMAP_QUERY_FILE_BACKED_VMA,
        query_addr: from,
        ..Query::default()
    };
    // SAFETY: `query` has the kernel's layout and size (asserted above) and outlives the call, which writes only to it: the
    // addresses for a name and a build id are 0 with length 0.
    let done = unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY, &raw mut query) };
    match crate::errno::cvt(done.into()) {
        Ok(_) => Ok(Some(SharedMapping {
            start: query.vma_start,
            end: query.vma_end,
            dev: libc::makedev(query.dev_major, query.dev_minor),
            inode: query.inode,
        })),
        Err(Errno(libc::ENOENT)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The same from the text.
fn sorted_out(dir: &ProcDir) -> ProcResult<Vec<SharedMapping>> {
    let shared = |m: &super::Mapping| m.perms.contains(Perms::SHARED) && m.is_file();
    let maps = read_maps(dir)?;
    let found = maps.iter().filter(|m| shared(m));
    Ok(found.map(|m| SharedMapping { start: m.start, end: m.end, dev: m.dev, inode: m.inode }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_find_the_same() {
        // SAFETY: the kernel chooses the places, so no memory of ours is replaced; they are unmapped below.
        let map = |flags| unsafe {
            libc::mmap(std::ptr::null_mut(), 8192, libc::PROT_READ, flags | libc::MAP_ANONYMOUS, -1, 0)
        };
        let (shared, private) = (map(libc::MAP_SHARED), map(libc::MAP_PRIVATE));
        assert!(shared != libc::MAP_FAILED && private != libc::MAP_FAILED);
        let own = ProcDir::own().unwrap();
        let (queried, read) = (read_shared_maps(&own).unwrap(), sorted_out(&own).unwrap());
        assert_eq!(queried, read);
        assert!(queried.iter().any(|m| m.start == shared as u64 && m.end - m.start == 8192 && m.inode != 0));
        assert!(!queried.iter().any(|m| (m.start..m.end).contains(&(private as u64))));
        for at in [shared, private] {
            // SAFETY: mapped above with this length, and nobody else knows of it.
            unsafe { libc::munmap(at, 8192) };
        }
    }

    #[test]
    fn a_kernel_thread_has_none() {
        // Pid 2 is a kernel thread, or in a pid namespace anybody or nobody.
        if let Ok(dir) = ProcDir::open(2)
            && dir.bytes("cmdline").is_ok_and(|line| line.is_empty())
        {
            assert_eq!(read_shared_maps(&dir).map_err(|e| e.errno()), Ok(Vec::new()));
        }
    }
}
