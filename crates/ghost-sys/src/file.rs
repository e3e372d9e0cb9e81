//! What a file needs beyond the safe interfaces: a mapping of it, an inherited number, writeback begun early.
//!
//! Interfaces: `mmap(2)` and `munmap(2)`; `fcntl(2)` with `F_DUPFD_CLOEXEC` (Linux 2.6.24) and `F_GET_SEALS`
//! (Linux 3.17); `sync_file_range(2)` (Linux 2.6.17). No privilege is needed.
//!
//! # The hazard of a mapped file
//!
//! A file that shrinks while it is mapped raises SIGBUS in who touches the lost pages, and a page of a private
//! mapping that was not touched yet still shows later writes. Nothing in the kernel forbids both for an ordinary
//! file. [`MappedFile::new`] therefore maps only what nobody else can change: a regular file of the caller (or of
//! root) that neither group nor others may write, or a memfd sealed against shrinking and writing. What is left is
//! the user acting against their own program, as they could with a debugger.
#![allow(unsafe_code)] // mmap(2), and libc calls that rustix does not have

use crate::{Errno, Result};
use std::fs::File;
use std::ops::Deref;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;

/// A whole file as memory, read only; unmapped on drop.
#[derive(Debug)]
pub struct MappedFile {
    start: NonNull<u8>,
    len_bytes: usize,
}

// SAFETY: the mapping is read only, belongs to this value alone and is bound to no thread; it is unmapped once, on
// drop, which needs exclusive ownership.
unsafe impl Send for MappedFile {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for MappedFile {}

impl MappedFile {
    /// Maps the whole file, as long as it is now.
    ///
    /// Refused with `EPERM` where somebody else could change the file under the mapping (see the module page), with
    /// `EINVAL` where it is no regular file. An empty file gives an empty slice.
    pub fn new(file: &File) -> Result<Self> {
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(Errno(libc::EINVAL));
        }
        if !only_ours(&meta) && !sealed(file) {
            return Err(Errno(libc::EPERM));
        }
        let len_bytes = usize::try_from(meta.len()).map_err(|_| Errno(libc::EFBIG))?;
        if len_bytes == 0 {
            return Ok(Self { start: NonNull::dangling(), len_bytes });
        }
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing of ours; length is not zero
        // (mmap(2)), and the descriptor is open for the call.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), len_bytes, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let start = NonNull::new(start.cast()).ok_or(Errno(libc::EFAULT))?;
        Ok(Self { start, len_bytes })
    }
}

impl Deref for MappedFile {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start..start + len_bytes` was mapped readable by `new` and stays so until drop, which the lifetime
        // of `self` forbids meanwhile; when empty the pointer is dangling but aligned, as a slice of length 0 may be.
        // Others cannot write the bytes: `new` checked who may (module page).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len_bytes) }
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        if self.len_bytes > 0 {
            // SAFETY: exactly the range that `new` mapped, and no slice of it can outlive `self`.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.len_bytes) };
        }
    }
}

/// Only the caller, or root, may open the file for writing.
fn only_ours(meta: &std::fs::Metadata) -> bool {
    // SAFETY: geteuid(2) takes nothing and cannot fail.
    let me = unsafe { libc::geteuid() };
    (meta.uid() == me || meta.uid() == 0) && meta.mode() & 0o022 == 0
}

/// Nobody can shrink or write the memfd any more.
fn sealed(file: &File) -> bool {
    // SAFETY: F_GET_SEALS takes no pointer.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    let frozen = libc::F_SEAL_SHRINK | libc::F_SEAL_WRITE;
    seals >= 0 && seals & frozen == frozen
}

/// A descriptor of our own for a number that this process was started with, closed on exec.
///
/// `EBADF` where that number is not open. The number itself stays open and belongs to whoever passed it.
pub fn duplicate(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes no pointer; a number that is not open fails with EBADF (fcntl(2)).
    let fd = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the kernel just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets the kernel begin to write this range of the file to its disk, without waiting for it.
///
/// A hint that makes a later `fsync(2)` short; it promises nothing by itself (`sync_file_range(2)`).
pub fn start_writeback(file: &File, offset: u64, len_bytes: u64) -> Result<()> {
    let (offset, len) = (offset.cast_signed(), len_bytes.cast_signed());
    // SAFETY: no pointer is passed; the descriptor is open for the call.
    let rc = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    if rc < 0 { Err(Errno::last()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

    fn scratch(name: &str) -> (std::path::PathBuf, File) {
        let path = std::env::temp_dir().join(format!("ghost-sys-file-{}-{name}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path).unwrap();
        (path, file)
    }

    #[test]
    fn a_file_of_ours_is_mapped_whole() {
        let (path, mut file) = scratch("whole");
        file.write_all(&[7; 10_000]).unwrap();
        start_writeback(&file, 0, 8192).unwrap();
        let map = MappedFile::new(&file).unwrap();
        assert_eq!(&map[..], &[7; 10_000]);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_that_others_may_write_is_refused() {
        let (path, file) = scratch("shared");
        file.set_permissions(std::fs::Permissions::from_mode(0o620)).unwrap();
        assert_eq!(MappedFile::new(&file).unwrap_err(), Errno(libc::EPERM));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let (path, file) = scratch("empty");
        assert!(MappedFile::new(&file).unwrap().is_empty());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_number_that_is_not_open_is_said_to_be() {
        assert_eq!(duplicate(1_000_000).unwrap_err(), Errno(libc::EBADF));
        let mine = File::open("/dev/null").unwrap();
        assert_ne!(duplicate(mine.as_raw_fd()).unwrap().as_raw_fd(), mine.as_raw_fd());
    }
}
