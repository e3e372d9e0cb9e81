//! Processes as file descriptors: `pidfd_open(2)`, `pidfd_getfd(2)`, `pidfd_send_signal(2)`; Linux 5.6.

#![allow(unsafe_code)]

use crate::{Errno, Pid, Result, errno::cvt};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: the callers pass what a system call just returned as a new descriptor; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// A descriptor for this process.
pub fn open(pid: Pid) -> Result<OwnedFd> {
    // SAFETY: takes numbers only.
    cvt(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).map(owned)
}

/// A descriptor for this thread (`PIDFD_THREAD`, Linux 6.9).
pub fn open_thread(tid: Pid) -> Result<OwnedFd> {
    const PIDFD_THREAD: i32 = libc::O_EXCL;
    // SAFETY: takes numbers only.
    cvt(unsafe { libc::syscall(libc::SYS_pidfd_open, tid, PIDFD_THREAD) }).map(owned)
}

/// The other process's descriptor `fd`, as a descriptor of ours for the same open file description.
pub fn getfd(process: BorrowedFd<'_>, fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: takes numbers only; `process` is open for as long as it is borrowed.
    cvt(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) }).map(owned)
}

/// A namespace of a process, by the number in its `ioctl(2)` of a pidfd (`linux/pidfd.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Namespace {
    /// `cgroup`
    Cgroup = 1,
    /// `ipc`
    Ipc = 2,
    /// `mnt`
    Mount = 3,
    /// `net`
    Net = 4,
    /// `pid`
    Pid = 5,
    /// `pid_for_children`
    PidForChildren = 6,
    /// `time`
    Time = 7,
    /// `time_for_children`
    TimeForChildren = 8,
    /// `uts`
    Uts = 9,
    /// `user`
    User = 10,
}

/// The inode number of a namespace of the process, as the link in `/proc/PID/ns` names it (Linux 6.11, else `ENOTTY` or `EINVAL`).
///
/// A third of the time that the link takes, for which procfs makes an inode of its own in each process.
pub fn namespace(process: BorrowedFd<'_>, which: Namespace) -> Result<u64> {
    /// `PIDFS_IOCTL_MAGIC`
    const MAGIC: libc::Ioctl = 0xff;
    // SAFETY: takes numbers only, and returns a new descriptor, which is close-on-exec.
    let fd =
        cvt(unsafe { libc::ioctl(process.as_raw_fd(), MAGIC << 8 | which as libc::Ioctl, 0) } as i64).map(owned)?;
    // SAFETY: plain data, which the kernel fills.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `stat`, which is ours.
    cvt(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) } as i64)?;
    Ok(stat.st_ino)
}

/// Sends a signal.
pub fn signal(process: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: no siginfo is given, so the kernel reads no memory of ours.
    cvt(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, none, 0) }).map(drop)
}

/// Waits until the process has ended, for at most `limit`, and takes its status if it is a child of ours.
pub fn reap(process: BorrowedFd<'_>, limit: Duration) -> Result<()> {
    if !wait_end(process, Some(limit))? {
        return Err(Errno(libc::ETIMEDOUT));
    }
    // SAFETY: plain data, which the kernel fills.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let how = libc::WEXITED | libc::WNOHANG | libc::__WALL;
    // SAFETY: the kernel writes one siginfo, which is ours; a process that is no child of ours is an error that says so.
    match cvt(unsafe { libc::waitid(libc::P_PIDFD, process.as_raw_fd() as u32, &raw mut info, how) } as i64) {
        Ok(_) | Err(Errno(libc::ECHILD)) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Waits until the process has ended (it need not be a child); false when `limit` passed first.
pub fn wait_end(process: BorrowedFd<'_>, limit: Option<Duration>) -> Result<bool> {
    let mut poll = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let deadline = limit.map(|l| std::time::Instant::now() + l);
    loop {
        let ms = deadline.map_or(-1, |d| {
            let left = d.saturating_duration_since(std::time::Instant::now());
            i32::try_from(left.as_millis() + u128::from(!left.is_zero())).unwrap_or(i32::MAX)
        });
        // SAFETY: one pollfd, which is ours.
        match cvt(unsafe { libc::poll(&raw mut poll, 1, ms) } as i64) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno(libc::EINTR)) => {}
            Err(e) => return Err(e),
        }
    }
}
