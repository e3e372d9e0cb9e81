//! Memory hidden from the kernel itself: `memfd_secret(2)`, Linux 5.14 (on without a boot option since 6.5).
//!
//! Its pages are in no map of the kernel's; neither `ptrace(2)`, `process_vm_readv(2)` nor `read(2)` of the file reach them. Whoever
//! has the descriptor can map it, and see them there.

#![allow(unsafe_code)]

use crate::{Errno, Result, errno::cvt};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

const PAGE: usize = 4096;
/// What is looked at in one go.
const PART: usize = 1 << 20;

/// A new one of this size, which can't be changed any more.
pub fn create(size: u64) -> Result<OwnedFd> {
    // SAFETY: takes a number only.
    let fd = cvt(unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) })?;
    // SAFETY: what was just made is nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    if size > 0 {
        // SAFETY: takes numbers only.
        cvt(i64::from(unsafe { libc::ftruncate(fd.as_raw_fd(), size as i64) }))?;
    }
    Ok(fd)
}

/// A part of it, mapped here.
struct Window {
    at: *mut libc::c_void,
    len: usize,
}

impl Window {
    fn of(fd: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, fd.as_raw_fd(), offset as libc::off_t)
        };
        if at == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(Self { at, len }) }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: what `of` has mapped; nothing borrows from it any more.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

/// The pages of it that are there: offset and bytes of each run. `size` is what `fstat(2)` says.
pub fn read(fd: BorrowedFd<'_>, size: u64) -> Result<Vec<(u64, Vec<u8>)>> {
    let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
    let end = size.next_multiple_of(PAGE as u64);
    for offset in (0..end).step_by(PART) {
        let len = PART.min((end - offset) as usize);
        let window = Window::of(fd, offset, len)?;
        let mut there = vec![0_u8; len / PAGE];
        // SAFETY: the window is mapped, and there is a byte for each of its pages.
        cvt(i64::from(unsafe { libc::mincore(window.at, len, there.as_mut_ptr()) }))?;
        for page in (0..len / PAGE).filter(|p| there[*p] & 1 != 0) {
            let mut bytes = [0_u8; PAGE];
            // SAFETY: the page lies within the window and within the file, whose size never changes once it has one.
            unsafe {
                let from = window.at.cast::<u8>().add(page * PAGE);
                std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), PAGE);
            }
            let at = offset + (page * PAGE) as u64;
            match runs.last_mut() {
                Some((start, run)) if *start + run.len() as u64 == at => run.extend_from_slice(&bytes),
                _ => runs.push((at, bytes.to_vec())),
            }
        }
    }
    Ok(runs)
}

/// Writes whole pages of it.
pub fn write(fd: BorrowedFd<'_>, offset: u64, bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    // SAFETY: all zeros is a stat, which the kernel fills.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: one stat, which is ours.
    cvt(i64::from(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) }))?;
    let end = (stat.st_size as u64).next_multiple_of(PAGE as u64);
    let len = bytes.len().next_multiple_of(PAGE);
    if !offset.is_multiple_of(PAGE as u64) || offset.checked_add(len as u64).is_none_or(|e| e > end) {
        return Err(Errno(libc::EINVAL));
    }
    let window = Window::of(fd, offset, len)?;
    // SAFETY: the window is as long as the bytes at least, and lies within the file.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), window.at.cast(), bytes.len()) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_written_is_read_and_what_is_not_is_not_there() {
        let fd = match create(3 << 20) {
            Err(Errno(libc::ENOSYS)) => return,
            made => made.unwrap(),
        };
        assert_eq!(read(fd.as_fd(), 3 << 20).unwrap(), []);
        let bytes: Vec<u8> = (0..2 * PAGE).map(|i| (i % 251) as u8).collect();
        write(fd.as_fd(), (1 << 20) - PAGE as u64, &bytes).unwrap();
        write(fd.as_fd(), 2 << 20, &bytes[..PAGE]).unwrap();
        let runs = read(fd.as_fd(), 3 << 20).unwrap();
        assert_eq!(runs, [((1 << 20) - PAGE as u64, bytes.clone()), (2 << 20, bytes[..PAGE].to_vec())]);
        assert_eq!(write(fd.as_fd(), 3 << 20, &bytes), Err(Errno(libc::EINVAL)));
    }
}
