//! Memory to read into and write from, in huge pages where the machine has them (`mmap(2)`, MADV_HUGEPAGE, Linux 2.6.38).
//!
//! A disk is given such memory in few large pieces where small pages are one piece each: with `O_DIRECT` that makes twice the
//! speed. And it is cleared and mapped by one fault for each 2 MiB.

#![allow(unsafe_code)]

use crate::{Errno, Result};
use std::ptr::NonNull;

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Zeroed memory of our own. What is never touched takes no memory.
#[derive(Debug)]
pub struct Huge {
    map: NonNull<u8>,
    map_len: usize,
    /// Where in it the first whole huge page begins.
    skip: usize,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone and is reached only through borrows of it.
unsafe impl Send for Huge {}
// SAFETY: the same; shared borrows only read.
unsafe impl Sync for Huge {}

impl Huge {
    /// At least this many bytes, aligned to a huge page.
    pub fn new(bytes: usize) -> Result<Self> {
        let len = bytes.max(1).checked_next_multiple_of(HUGE).ok_or(Errno(libc::ENOMEM))?;
        let map_len = len.checked_add(HUGE).ok_or(Errno(libc::ENOMEM))?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let map =
            unsafe { libc::mmap(std::ptr::null_mut(), map_len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        let Some(map) = NonNull::new(map.cast::<u8>()).filter(|_| map != libc::MAP_FAILED) else {
            return Err(Errno::last());
        };
        let skip = map.as_ptr().align_offset(HUGE) % HUGE;
        let this = Self { map, map_len, skip, len };
        // Half a page is not worth a whole one, which a host may give slowly.
        if bytes > HUGE / 2 {
            // SAFETY: the range lies in the mapping; the advice changes nothing of what is in it. Without huge pages it is as good.
            unsafe { libc::madvise(this.map.as_ptr().add(skip).cast(), len, libc::MADV_HUGEPAGE) };
        }
        Ok(this)
    }
}

impl std::ops::Deref for Huge {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `skip + len` bytes are mapped, readable, initialised (zeroes at first), and borrowed from `self`.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.skip), self.len) }
    }
}

impl std::ops::DerefMut for Huge {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and writable; `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_ptr().add(self.skip), self.len) }
    }
}

impl Drop for Huge {
    fn drop(&mut self) {
        // SAFETY: the whole mapping is ours, and nothing borrows it any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.map_len) };
    }
}

/// Whether the machine gives huge pages to those who ask.
pub fn available() -> bool {
    std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").is_ok_and(|t| !t.contains("[never]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_aligned_zeroed_and_ours() {
        for bytes in [0, 1, HUGE, HUGE + 1] {
            let mut memory = Huge::new(bytes).expect("map");
            assert_eq!(memory.as_ptr() as usize % HUGE, 0);
            assert!(memory.len() >= bytes && memory.len().is_multiple_of(HUGE));
            let last = memory.len() - 1;
            assert!(memory[0] == 0 && memory[last] == 0);
            memory[last] = 7;
            assert_eq!(memory[last], 7);
        }
        assert_eq!(Huge::new(usize::MAX).expect_err("too much"), Errno(libc::ENOMEM));
    }
}
