//! Giving missing pages of another process their content in one step: `userfaultfd(2)`, `UFFDIO_COPY`, Linux 4.3.
//!
//! The kernel fills a new page from our memory and maps it, without clearing it first and without the walk that
//! `process_vm_writev(2)` makes for each page: a quarter less work. The descriptor must be made inside the process whose
//! memory it speaks of ([`CREATE_FLAGS`], no privilege needed since Linux 5.11); ranges are ours to register from outside.
//! While a range is registered, nothing else may touch its missing pages: a fault there waits for an answer, or with
//! `UFFD_USER_MODE_ONLY` fails if the kernel itself makes it. When the last descriptor is closed the ranges are as before.

#![allow(unsafe_code)]

use crate::{Errno, Result, errno::cvt};
use std::os::fd::{AsRawFd, OwnedFd};

/// What `userfaultfd(2)` is called with: `O_CLOEXEC | UFFD_USER_MODE_ONLY` (linux/userfaultfd.h).
pub const CREATE_FLAGS: i32 = libc::O_CLOEXEC | 1;

const UFFD_API: u64 = 0xaa;
const MODE_MISSING: u64 = 1;
const COPY_DONTWAKE: u64 = 1;
// _IOWR(0xaa, number, struct)
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_COPY: u64 = 0xc028_aa03;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copy: i64,
}

/// The missing pages of some ranges of another process.
#[derive(Debug)]
pub struct Missing(OwnedFd);

impl Missing {
    /// Takes a descriptor that `userfaultfd(2)` has just made in the other process.
    pub fn new(fd: OwnedFd) -> Result<Self> {
        let mut api = Api { api: UFFD_API, features: 0, ioctls: 0 };
        let this = Self(fd);
        // SAFETY: UFFDIO_API reads and writes one `struct uffdio_api`, which `api` is.
        unsafe { this.ioctl(UFFDIO_API, (&raw mut api).cast()) }?;
        Ok(this)
    }

    /// Registers a range, which must lie in anonymous mappings; both numbers are multiples of the page size.
    pub fn register(&self, start: u64, len: u64) -> Result<()> {
        let mut register = Register { start, len, mode: MODE_MISSING, ioctls: 0 };
        // SAFETY: UFFDIO_REGISTER reads and writes one `struct uffdio_register`, which `register` is.
        unsafe { self.ioctl(UFFDIO_REGISTER, (&raw mut register).cast()) }
    }

    /// Gives missing pages from `start` on these bytes, whole pages of them. How many bytes were taken: fewer than given
    /// only right before a page that is there already.
    pub fn copy(&self, start: u64, bytes: &[u8]) -> Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            let rest = &bytes[done..];
            let mut copy = Copy {
                dst: start + done as u64,
                src: rest.as_ptr() as u64,
                len: rest.len() as u64,
                mode: COPY_DONTWAKE,
                copy: 0,
            };
            // SAFETY: UFFDIO_COPY reads and writes one `struct uffdio_copy`, which `copy` is; of our other memory the kernel
            // only reads the `len` bytes at `src`, which are borrowed for the call. The other process's side it checks itself.
            match unsafe { self.ioctl(UFFDIO_COPY, (&raw mut copy).cast()) } {
                Ok(()) => done = bytes.len(),
                // Some were taken; it says so and wants to be asked again.
                Err(Errno(libc::EAGAIN)) => done += usize::try_from(copy.copy).unwrap_or(0),
                Err(Errno(libc::EEXIST)) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// # Safety
    ///
    /// `argument` must point at what the kernel expects with this number.
    unsafe fn ioctl(&self, number: u64, argument: *mut libc::c_void) -> Result<()> {
        // SAFETY: the descriptor is open; the argument is as the caller promises.
        cvt(i64::from(unsafe { libc::ioctl(self.0.as_raw_fd(), number, argument) })).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::FromRawFd;

    #[test]
    fn missing_pages_get_their_bytes_and_those_that_are_there_keep_theirs() {
        const LEN: usize = 8 * 4096;
        // SAFETY: takes a number only.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, CREATE_FLAGS) };
        assert!(fd >= 0, "{}", Errno::last());
        // SAFETY: the kernel just made it for us.
        let missing = Missing::new(unsafe { OwnedFd::from_raw_fd(fd as i32) }).expect("api");
        // SAFETY: a new mapping at a place of the kernel's choice.
        let area = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), LEN, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        assert_ne!(area, libc::MAP_FAILED);
        // SAFETY: the fifth page of the mapping, which is ours and writable.
        unsafe { area.cast::<u8>().add(4 * 4096).write(7) };
        let start = area as u64;
        missing.register(start, LEN as u64).expect("register");
        let bytes: Vec<u8> = (0..LEN).map(|i| (i / 4096 + 1) as u8).collect();
        assert_eq!(missing.copy(start, &bytes), Ok(4 * 4096));
        assert_eq!(missing.copy(start + 5 * 4096, &bytes[5 * 4096..]), Ok(3 * 4096));
        drop(missing);
        // SAFETY: all of the mapping is there now.
        let found = unsafe { std::slice::from_raw_parts(area.cast::<u8>(), LEN) };
        assert_eq!(found[4 * 4096], 7);
        assert!(found.iter().zip(&bytes).enumerate().all(|(i, (f, b))| i / 4096 == 4 || f == b));
        // SAFETY: nothing refers to the mapping any more.
        unsafe { libc::munmap(area, LEN) };
    }
}
