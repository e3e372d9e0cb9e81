//! Mappings, as far as file victims need them.
use super::{Errno, Sys};
use std::os::fd::RawFd;

/// A mapping that is never unmapped.
#[derive(Clone, Copy, Debug)]
pub struct Map {
    at: *mut u8,
    /// Its length in bytes.
    pub len: usize,
}

/// mmap(2) anywhere.
pub fn map(len: usize, prot: i32, flags: i32, fd: RawFd, offset: i64) -> Sys<Map> {
    // SAFETY: the kernel chooses the place, so no memory of ours is replaced.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, offset) };
    if at == libc::MAP_FAILED { Err(Errno::last("mmap")) } else { Ok(Map { at: at.cast(), len }) }
}

/// Shared or private anonymous memory, readable and writable.
pub fn anon(len: usize, shared: bool) -> Sys<Map> {
    let kind = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    map(len, libc::PROT_READ | libc::PROT_WRITE, kind | libc::MAP_ANONYMOUS, -1, 0)
}

/// Private anonymous memory that may be in huge pages, from where the first of them begins; all of it is mapped.
pub fn huge(len: usize) -> Sys<Map> {
    const HUGE: usize = 2 << 20;
    let map = anon(len + HUGE, false)?;
    let skip = map.at.align_offset(HUGE);
    // SAFETY: the range lies in the mapping that was just made; the advice changes nothing of what is in it.
    let done = unsafe { libc::madvise(map.at.add(skip).cast(), len, libc::MADV_HUGEPAGE) };
    if done == 0 { Ok(Map { at: map.at.wrapping_add(skip), len }) } else { Err(Errno::last("madvise")) }
}

impl Map {
    /// A mapping some call other than mmap(2) made, and that stays.
    pub fn of(at: i64, len: usize) -> Self {
        Self { at: at as *mut u8, len }
    }

    /// Its address.
    pub fn address(self) -> u64 {
        self.at as u64
    }

    /// A copy of some bytes.
    pub fn get(self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= self.len, "inside the mapping");
        let mut out = vec![0; len];
        // SAFETY: the range lies in the mapping, which is readable and never unmapped.
        unsafe { std::ptr::copy(self.at.add(at), out.as_mut_ptr(), len) };
        out
    }

    /// Puts bytes there.
    pub fn put(self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len, "inside the mapping");
        // SAFETY: the range lies in the mapping, which is writable where victims write and never unmapped.
        unsafe { std::ptr::copy(bytes.as_ptr(), self.at.add(at), bytes.len()) };
    }

    /// An atomic word in it, aligned to 8 bytes, which processes may share.
    pub fn word(self, at: usize) -> &'static std::sync::atomic::AtomicU64 {
        assert!(at + 8 <= self.len && at.is_multiple_of(8), "inside the mapping");
        // SAFETY: aligned, inside a mapping that lives as long as the process, only used atomically.
        unsafe { std::sync::atomic::AtomicU64::from_ptr(self.at.add(at).cast()) }
    }
}
