//! Small things that a process may ask and set about another: `prlimit(2)`, `get_robust_list(2)`, `process_madvise(2)`; and `memfd_create(2)`.
//!
//! All need the rights of a tracer; raising a hard limit needs `CAP_SYS_RESOURCE`.

#![allow(unsafe_code)]

use crate::remote::RemoteAddr;
use crate::{Pid, Result, errno::cvt};
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Number of resource limits (`RLIM_NLIMITS`).
pub const LIMITS: u32 = 16;

/// A resource limit: (soft, hard); `u64::MAX` is unlimited.
pub fn limit(pid: Pid, resource: u32) -> Result<(u64, u64)> {
    let mut old = [0_u64; 2];
    let none = std::ptr::null::<u64>();
    // SAFETY: the kernel writes one struct rlimit64, two words.
    cvt(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, none, old.as_mut_ptr()) })?;
    Ok((old[0], old[1]))
}

/// Sets a resource limit to (soft, hard).
pub fn set_limit(pid: Pid, resource: u32, value: (u64, u64)) -> Result<()> {
    let new = [value.0, value.1];
    let none = std::ptr::null_mut::<u64>();
    // SAFETY: the kernel reads one struct rlimit64, two words.
    cvt(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, new.as_ptr(), none) }).map(drop)
}

/// A thread's list of robust futexes: (head, length); head 0 when none is registered.
pub fn robust_list(tid: Pid) -> Result<(RemoteAddr, u64)> {
    let (mut head, mut len) = (0_u64, 0_u64);
    // SAFETY: the kernel writes one pointer and one length, both 64 bits wide.
    cvt(unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) })?;
    Ok((RemoteAddr(head), len))
}

/// Advises the kernel about memory of a process (`MADV_COLD`, `MADV_PAGEOUT`, `MADV_WILLNEED`, `MADV_COLLAPSE`; Linux 5.10).
/// Returns the bytes advised.
pub fn madvise(process: BorrowedFd<'_>, ranges: &[(RemoteAddr, usize)], advice: i32) -> Result<u64> {
    let mut done = 0;
    for part in ranges.chunks(1024) {
        let iov: Vec<_> =
            part.iter().map(|r| libc::iovec { iov_base: r.0.0 as *mut libc::c_void, iov_len: r.1 }).collect();
        // SAFETY: the vector lives through the call; its addresses are of the other process and checked by the kernel.
        let n = unsafe {
            libc::syscall(libc::SYS_process_madvise, process.as_raw_fd(), iov.as_ptr(), iov.len(), advice, 0)
        };
        done += cvt(n)? as u64;
    }
    Ok(done)
}

/// An anonymous file (`MFD_*` flags; closed on exec in any case).
pub fn memfd(name: &CStr, flags: u32) -> Result<OwnedFd> {
    // SAFETY: a NUL-terminated string.
    let fd = cvt(unsafe { libc::memfd_create(name.as_ptr(), flags | libc::MFD_CLOEXEC) } as i64)?;
    // SAFETY: new, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Moves the calling thread into namespaces of a process (`setns(2)` with a pidfd, Linux 5.8), or into the one that `fd` stands for.
pub fn enter_namespaces(fd: BorrowedFd<'_>, flags: i32) -> Result<()> {
    // SAFETY: takes numbers only.
    cvt(unsafe { libc::setns(fd.as_raw_fd(), flags) } as i64).map(drop)
}

/// Gives the calling thread (or, by flag, its process) new namespaces or copies of what it shares (`unshare(2)`).
pub fn unshare(flags: i32) -> Result<()> {
    // SAFETY: takes numbers only. CLONE_FILES and CLONE_FS give the thread copies; no descriptor that others hold is closed.
    cvt(unsafe { libc::unshare(flags) } as i64).map(drop)
}

/// Makes the calling process adopt orphans below it (`PR_SET_CHILD_SUBREAPER`).
pub fn become_subreaper(on: bool) -> Result<()> {
    // SAFETY: takes numbers only.
    cvt(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, u64::from(on), 0_u64, 0_u64, 0_u64) } as i64).map(drop)
}

/// Waits for the end of a child and reaps it: its wait status. `None` when it has not ended (with `WNOHANG` in `flags`).
pub fn reap(pid: Pid, flags: i32) -> Result<Option<i32>> {
    loop {
        match crate::ptrace::wait_status(pid, flags)? {
            None => return Ok(None),
            Some(status) if libc::WIFSTOPPED(status) || libc::WIFCONTINUED(status) => {}
            ended => return Ok(ended),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_set_and_read() {
        let (soft, hard) = limit(0, libc::RLIMIT_CORE).expect("limit");
        set_limit(0, libc::RLIMIT_CORE, (0, hard)).expect("set");
        assert_eq!(limit(0, libc::RLIMIT_CORE), Ok((0, hard)));
        set_limit(0, libc::RLIMIT_CORE, (soft, hard)).expect("set back");
    }

    #[test]
    fn libc_registers_a_robust_list_for_every_thread() {
        let (head, len) = robust_list(0).expect("robust list");
        assert!(head.0 != 0 && len == 24);
    }
}
