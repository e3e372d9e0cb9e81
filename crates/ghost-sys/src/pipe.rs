//! Pipes: their size, and what is in them, looked at without taking it; `tee(2)`, `splice(2)`, `vmsplice(2)` (Linux 2.6.17),
//! `F_GETPIPE_SZ` and `F_SETPIPE_SZ` (2.6.35).
//!
//! Packet mode (`O_DIRECT` on the writing end, Linux 3.4) marks each write: a read ends where its packet does.

#![allow(unsafe_code)]

use crate::{Errno, Result, errno::cvt};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Most bytes that it holds; the kernel counts whole pages, so that small packets fill it earlier.
pub fn size(pipe: BorrowedFd<'_>) -> Result<usize> {
    // SAFETY: takes no pointer.
    cvt(unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_GETPIPE_SZ) } as i64).map(|n| n as usize)
}

/// Sets how much it holds. `EPERM` above `/proc/sys/fs/pipe-max-size` without CAP_SYS_RESOURCE, `EBUSY` when more is in it.
pub fn set_size(pipe: BorrowedFd<'_>, bytes: usize) -> Result<()> {
    // SAFETY: takes a number.
    cvt(unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, bytes as libc::c_int) } as i64).map(drop)
}

/// A new pipe with close-on-exec: `(reading end, writing end)`. `flags`: O_NONBLOCK, O_DIRECT.
pub fn new(flags: i32) -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0_i32; 2];
    // SAFETY: the kernel writes two numbers, which outlive the call.
    cvt(unsafe { libc::pipe2(ends.as_mut_ptr(), flags | libc::O_CLOEXEC) } as i64)?;
    // SAFETY: the kernel has just made these descriptors for us and nobody else knows them.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Copies up to `len` bytes from one pipe to another and leaves them in the first; no byte is moved.
pub fn tee(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> Result<usize> {
    // SAFETY: takes numbers only; both are open for as long as they are borrowed.
    cvt(unsafe { libc::tee(from.as_raw_fd(), to.as_raw_fd(), len, libc::SPLICE_F_NONBLOCK) } as i64).map(|n| n as usize)
}

/// Moves up to `len` bytes; one of both must be a pipe. `flags`: `SPLICE_F_*`.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize, flags: u32) -> Result<usize> {
    let none = std::ptr::null_mut();
    // SAFETY: no offsets are given, so that the kernel writes no memory of ours.
    cvt(unsafe { libc::splice(from.as_raw_fd(), none, to.as_raw_fd(), none, len, flags) } as i64).map(|n| n as usize)
}

/// Puts the pages of `bytes` into a pipe without copying. Until they are read, the reader sees what is written there meanwhile.
pub fn vmsplice(pipe: BorrowedFd<'_>, bytes: &[u8], flags: u32) -> Result<usize> {
    let iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: the kernel reads one iovec. It takes references to the pages, never writes them, and SPLICE_F_GIFT, which
    // would hand them over, is masked out.
    let n = unsafe { libc::vmsplice(pipe.as_raw_fd(), &raw const iov, 1, flags & !libc::SPLICE_F_GIFT) };
    cvt(n as i64).map(|n| n as usize)
}

/// What is in a pipe, given its reading end, left there: stretches as a reader would get them, which are the packets where
/// the writer made packets. Nothing when it is empty.
///
/// Works through a second pipe of the same size; `EPERM` when the user may have none so large.
pub fn peek(reader: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    let size = size(reader)?;
    let (copy, into) = new(libc::O_NONBLOCK)?;
    set_size(into.as_fd(), size)?;
    match tee(reader, into.as_fd(), usize::MAX >> 1) {
        Ok(_) => {}
        Err(Errno(libc::EAGAIN)) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    }
    drop(into);
    let mut copy = File::from(copy);
    let mut all = Vec::new();
    let mut buf = vec![0; size];
    loop {
        match copy.read(&mut buf) {
            Ok(0) => return Ok(all),
            Ok(n) => all.push(buf[..n].to_vec()),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn packets_and_bytes_are_seen_and_stay() {
        let (r, w) = new(libc::O_DIRECT).unwrap();
        set_size(w.as_fd(), 1 << 18).unwrap();
        assert_eq!(size(r.as_fd()), Ok(1 << 18));
        assert!(peek(r.as_fd()).unwrap().is_empty());
        let mut w = File::from(w);
        for i in 0..50_u8 {
            w.write_all(&vec![i; 10 + i as usize]).unwrap();
        }
        let packets = peek(r.as_fd()).unwrap();
        assert_eq!(packets.len(), 50);
        assert!(packets.iter().enumerate().all(|(i, p)| p.len() == 10 + i && p.iter().all(|&b| b == i as u8)));
        assert_eq!(peek(r.as_fd()).unwrap(), packets);
        let mut r = File::from(r);
        let mut buf = [0; 4096];
        assert_eq!(r.read(&mut buf).unwrap(), 10);
    }

    #[test]
    fn a_full_pipe_is_seen_whole() {
        let (r, w) = new(libc::O_NONBLOCK).unwrap();
        let mut w = File::from(w);
        while w.write(&[3; 1000]).is_ok() {}
        let n: usize = peek(r.as_fd()).unwrap().iter().map(Vec::len).sum();
        assert_eq!(n, crate::fdops::readable_bytes(r.as_fd()).unwrap());
        assert!(n > 60_000);
        drop(w);
        assert_eq!(peek(r.as_fd()).unwrap().iter().map(Vec::len).sum::<usize>(), n);
    }

    #[test]
    fn pages_go_in_and_on() {
        let (r, w) = new(libc::O_NONBLOCK).unwrap();
        let (r2, w2) = new(libc::O_NONBLOCK).unwrap();
        let bytes = vec![9_u8; 8192];
        assert_eq!(vmsplice(w.as_fd(), &bytes, 0), Ok(8192));
        assert_eq!(splice(r.as_fd(), w2.as_fd(), 8192, libc::SPLICE_F_MOVE), Ok(8192));
        assert_eq!(peek(r2.as_fd()).unwrap().concat(), bytes);
        assert_eq!(tee(r.as_fd(), w2.as_fd(), 1), Err(Errno(libc::EAGAIN)));
    }
}
