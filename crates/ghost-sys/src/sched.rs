//! How a thread is scheduled: `sched_getattr(2)`, `sched_setaffinity(2)`, `ioprio_get(2)`; by tid, 0 is the caller.
//!
//! Raising a priority needs `CAP_SYS_NICE`. Not read here: timer slack (`/proc/PID/timerslack_ns`), autogroup (`/proc/PID/autogroup`).

#![allow(unsafe_code)]

use crate::{Errno, Pid, Result, errno::cvt};

/// `struct sched_attr` (linux/sched/types.h), as of Linux 5.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SchedAttr {
    /// Bytes of this structure.
    pub size: u32,
    /// `SCHED_OTHER`, `SCHED_FIFO`, ...
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value of the ordinary policies.
    pub nice: i32,
    /// Priority of the real-time policies.
    pub priority: u32,
    /// SCHED_DEADLINE, nanoseconds; for ordinary policies the slice (Linux 6.12).
    pub runtime: u64,
    /// SCHED_DEADLINE, nanoseconds.
    pub deadline: u64,
    /// SCHED_DEADLINE, nanoseconds.
    pub period: u64,
    /// Lower clamp of utilization.
    pub util_min: u32,
    /// Upper clamp of utilization.
    pub util_max: u32,
}
const _: () = assert!(size_of::<SchedAttr>() == 56);

/// Policy and parameters of a thread.
pub fn attributes(tid: Pid) -> Result<SchedAttr> {
    let mut attr = SchedAttr::default();
    // SAFETY: the kernel writes at most the size given.
    cvt(unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut attr, size_of::<SchedAttr>(), 0) })?;
    Ok(attr)
}

/// Sets them; `size` is filled in.
pub fn set_attributes(tid: Pid, attr: &SchedAttr) -> Result<()> {
    let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, ..*attr };
    // SAFETY: the kernel reads as many bytes as `size` says, which is the size of the structure.
    cvt(unsafe { libc::syscall(libc::SYS_sched_setattr, tid, &raw const attr, 0) }).map(drop)
}

/// By how many nanoseconds the calling thread's sleeps may be longer than asked for (PR_GET_TIMERSLACK).
pub fn own_timer_slack() -> Result<u64> {
    // SAFETY: takes no pointers.
    cvt(unsafe { libc::prctl(libc::PR_GET_TIMERSLACK) } as i64).map(|slack| slack as u64)
}

/// Sets it; 0: as it was when the thread began.
pub fn set_own_timer_slack(nanoseconds: u64) -> Result<()> {
    // SAFETY: takes no pointers.
    cvt(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, nanoseconds) } as i64).map(drop)
}

/// Nice value of a thread, whatever its policy: one that is scheduled in real time keeps it for afterwards, where
/// [`attributes`] tells 0.
pub fn nice(tid: Pid) -> Result<i32> {
    // SAFETY: takes numbers only. The raw call answers 20 less the value, which is never negative.
    let raised = cvt(unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, tid) })?;
    Ok(20 - raised as i32)
}

/// Sets it.
pub fn set_nice(tid: Pid, value: i32) -> Result<()> {
    // SAFETY: takes numbers only.
    cvt(unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, tid, value) }).map(drop)
}

/// The processors it may run on, as a bit mask of as many bytes as the kernel keeps.
pub fn affinity(tid: Pid) -> Result<Vec<u8>> {
    let mut mask = vec![0_u64; 128];
    loop {
        // SAFETY: the kernel writes at most the size given; the raw call answers how much.
        let n = unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, mask.len() * 8, mask.as_mut_ptr()) };
        match cvt(n) {
            Ok(n) => return Ok(mask.iter().flat_map(|w| w.to_ne_bytes()).take(n as usize).collect()),
            // More processors than the mask has bits.
            Err(Errno(libc::EINVAL)) if mask.len() < 1 << 16 => mask.resize(mask.len() * 4, 0),
            Err(e) => return Err(e),
        }
    }
}

/// Sets the processors it may run on.
pub fn set_affinity(tid: Pid, mask: &[u8]) -> Result<()> {
    // SAFETY: the kernel reads at most the length given.
    cvt(unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid, mask.len(), mask.as_ptr()) }).map(drop)
}

const IOPRIO_WHO_PROCESS: i32 = 1;

/// I/O priority (class and data as `ioprio_get` packs them) of one thread.
pub fn io_priority(tid: Pid) -> Result<i32> {
    // SAFETY: takes numbers only.
    cvt(unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid) }).map(|v| v as i32)
}

/// Sets it.
pub fn set_io_priority(tid: Pid, value: i32) -> Result<()> {
    // SAFETY: takes numbers only.
    cvt(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, value) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_read_back() {
        std::thread::spawn(|| {
            let mut attr = attributes(0).expect("attributes");
            assert_eq!(attr.policy, libc::SCHED_OTHER as u32);
            (attr.policy, attr.nice) = (libc::SCHED_BATCH as u32, 7);
            set_attributes(0, &attr).expect("set");
            let now = attributes(0).expect("attributes");
            assert_eq!((now.policy, now.nice), (libc::SCHED_BATCH as u32, 7));
            let all = affinity(0).expect("affinity");
            let bit = all.iter().position(|b| *b != 0).expect("a processor");
            let mut one = vec![0; all.len()];
            one[bit] = 1 << all[bit].trailing_zeros();
            set_affinity(0, &one).expect("set");
            assert_eq!(affinity(0), Ok(one));
            // Best effort, level 6.
            set_io_priority(0, 2 << 13 | 6).expect("set");
            assert_eq!(io_priority(0), Ok(2 << 13 | 6));
        })
        .join()
        .expect("thread");
    }
}
