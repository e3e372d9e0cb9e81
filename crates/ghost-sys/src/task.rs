//! What one thread may ask and set about another from outside: scheduling, CPUs, I/O priority, limits, robust list.
//!
//! `sched_setattr(2)` (Linux 3.14), `sched_setaffinity(2)`, `ioprio_set(2)`, `prlimit(2)` (2.6.36), `get_robust_list(2)`.
//! Reading needs the rights of `PTRACE_MODE_READ` at most; setting asks the same of the caller as of the thread itself
//! (`CAP_SYS_NICE` for what raises, `CAP_SYS_RESOURCE` for higher hard limits).

#![allow(unsafe_code)]

use crate::{Errno, Pid, Result, errno::cvt};
use std::mem::size_of;

/// `struct sched_attr` as of Linux 5.3 (`SCHED_ATTR_SIZE_VER1`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedAttr {
    /// Bytes that count.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value, for the policies that have one.
    pub nice: i32,
    /// Real-time priority.
    pub priority: u32,
    /// SCHED_DEADLINE: nanoseconds a period; else the slice asked for.
    pub runtime: u64,
    /// SCHED_DEADLINE.
    pub deadline: u64,
    /// SCHED_DEADLINE.
    pub period: u64,
    /// Utilization clamp.
    pub util_min: u32,
    /// Utilization clamp.
    pub util_max: u32,
}
const _: () = assert!(size_of::<SchedAttr>() == 56);

/// The scheduling attributes of a thread.
pub fn sched_attr(tid: Pid) -> Result<SchedAttr> {
    let mut attr = SchedAttr::default();
    // SAFETY: the kernel writes at most the size given, which is that of `attr`.
    cvt(unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut attr, size_of::<SchedAttr>() as u32, 0_u32) })?;
    Ok(attr)
}

/// Sets the scheduling attributes of a thread; `size` is filled in.
pub fn set_sched_attr(tid: Pid, attr: &SchedAttr) -> Result<()> {
    let mut attr = SchedAttr { size: size_of::<SchedAttr>() as u32, ..*attr };
    // SAFETY: the kernel reads `attr.size` bytes and may write that field; both are within `attr`.
    cvt(unsafe { libc::syscall(libc::SYS_sched_setattr, tid, &raw mut attr, 0_u32) }).map(drop)
}

/// On which CPUs a thread may run, one bit each, as long as the kernel makes it.
pub fn affinity(tid: Pid) -> Result<Vec<u8>> {
    let mut mask = vec![0_u8; 1024];
    // SAFETY: the kernel writes at most `mask.len()` bytes, a multiple of 8.
    let n = cvt(unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, mask.len(), mask.as_mut_ptr()) })?;
    mask.truncate(n as usize);
    Ok(mask)
}

/// Sets on which CPUs a thread may run; those that this host does not have are left out by the kernel.
pub fn set_affinity(tid: Pid, mask: &[u8]) -> Result<()> {
    // SAFETY: the kernel reads `mask.len()` bytes.
    cvt(unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid, mask.len(), mask.as_ptr()) }).map(drop)
}

const IOPRIO_WHO_PROCESS: i32 = 1;

/// The I/O priority of a thread: class in the upper, level in the lower bits; 0 when it was never set.
pub fn ioprio(tid: Pid) -> Result<u32> {
    // SAFETY: takes numbers only.
    cvt(unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid) }).map(|v| v as u32)
}

/// Sets the I/O priority of a thread.
pub fn set_ioprio(tid: Pid, value: u32) -> Result<()> {
    // SAFETY: takes numbers only.
    cvt(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, value) }).map(drop)
}

/// Resource limits there are (`RLIM_NLIMITS`).
pub const LIMITS: u32 = 16;

fn prlimit(pid: Pid, which: u32, new: Option<[u64; 2]>) -> Result<[u64; 2]> {
    let mut old = [0_u64; 2];
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both point at two 64-bit words, which is `struct rlimit64`, or the new one is null.
    cvt(unsafe { libc::syscall(libc::SYS_prlimit64, pid, which, new, &raw mut old) })?;
    Ok(old)
}

/// A resource limit (`RLIMIT_*`) of a process: soft, hard; `u64::MAX` is none.
pub fn limit(pid: Pid, which: u32) -> Result<(u64, u64)> {
    prlimit(pid, which, None).map(|[soft, hard]| (soft, hard))
}

/// Sets a resource limit of a process.
pub fn set_limit(pid: Pid, which: u32, soft: u64, hard: u64) -> Result<()> {
    prlimit(pid, which, Some([soft, hard])).map(drop)
}

/// (head, length) of a thread's list of robust futexes; a head of 0 when it has none.
pub fn robust_list(tid: Pid) -> Result<(u64, u64)> {
    let (mut head, mut len) = (0_u64, 0_u64);
    // SAFETY: two words of ours that the kernel writes.
    cvt(unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) })?;
    Ok((head, len))
}

/// Sends a signal to a process.
pub fn kill(pid: Pid, signal: i32) -> Result<()> {
    if pid <= 0 {
        // Whole groups are never meant.
        return Err(Errno(libc::ESRCH));
    }
    // SAFETY: takes numbers only.
    cvt(unsafe { libc::kill(pid, signal) } as i64).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_attributes_come_back_as_set() {
        let handle = std::thread::spawn(|| {
            // SAFETY: takes nothing.
            let tid = unsafe { libc::gettid() };
            let attr = sched_attr(tid).expect("sched_getattr");
            set_sched_attr(tid, &SchedAttr { nice: attr.nice + 3, ..attr }).expect("sched_setattr");
            assert_eq!(sched_attr(tid).expect("again").nice, attr.nice + 3);
            let mask = affinity(tid).expect("affinity");
            assert!(mask.iter().any(|b| *b != 0));
            set_affinity(tid, &mask).expect("set affinity");
            set_ioprio(tid, (2 << 13) | 6).expect("ioprio_set");
            assert_eq!(ioprio(tid), Ok((2 << 13) | 6));
            assert_ne!(robust_list(tid).expect("robust list").0, 0, "glibc registers one for each thread");
        });
        handle.join().expect("thread");
        let (soft, hard) = limit(0, libc::RLIMIT_CORE).expect("limit");
        set_limit(0, libc::RLIMIT_CORE, soft.min(hard), hard).expect("set limit");
        assert_eq!(kill(0, 0), Err(Errno(libc::ESRCH)));
        assert!(limit(0, LIMITS).is_err(), "there are no more limits");
    }
}
