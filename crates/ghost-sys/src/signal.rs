//! Signals with their siginfo put into queues: `rt_sigqueueinfo(2)`, `rt_tgsigqueueinfo(2)`; Linux 2.6.31.
//!
//! From outside, the kernel takes only `si_code < 0` other than `SI_TKILL` (it must not look as if the kernel or `kill` had sent it); a
//! process may queue anything to itself, so a stub makes these calls for signals of any origin.

#![allow(unsafe_code)]

use crate::{Pid, Result, errno::cvt};

/// Bytes of a siginfo_t.
pub const SIGINFO_LEN: usize = 128;

/// The signal number in a siginfo.
pub fn number(info: &[u8; SIGINFO_LEN]) -> i32 {
    word(info, 0)
}

/// Where it came from (`si_code`).
pub fn code(info: &[u8; SIGINFO_LEN]) -> i32 {
    word(info, 8)
}

fn word(info: &[u8; SIGINFO_LEN], at: usize) -> i32 {
    i32::from_ne_bytes(info[at..at + 4].try_into().expect("four bytes"))
}

/// Queues a signal to a process.
pub fn queue(pid: Pid, info: &[u8; SIGINFO_LEN]) -> Result<()> {
    // SAFETY: the kernel reads one siginfo_t, which is 128 bytes long.
    cvt(unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, pid, number(info), info.as_ptr()) }).map(drop)
}

/// Queues a signal to one thread.
pub fn queue_to_thread(tgid: Pid, tid: Pid, info: &[u8; SIGINFO_LEN]) -> Result<()> {
    // SAFETY: the kernel reads one siginfo_t, which is 128 bytes long.
    cvt(unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, tgid, tid, number(info), info.as_ptr()) }).map(drop)
}

/// Sends a signal to one thread of a process (`tgkill(2)`).
pub fn kill_thread(tgid: Pid, tid: Pid, signal: i32) -> Result<()> {
    // SAFETY: takes numbers only.
    cvt(unsafe { libc::syscall(libc::SYS_tgkill, tgid, tid, signal) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_queued_signal_arrives_with_its_value() {
        // A thread of its own, since the mask is the thread's; the signal is directed at it.
        std::thread::spawn(|| {
            let fd = crate::fdops::signalfd(1 << (libc::SIGRTMIN() - 1), 0).expect("signalfd");
            // SAFETY: an empty set, filled by libc, then read by the kernel.
            let tid = unsafe {
                let mut set = std::mem::zeroed();
                libc::sigemptyset(&raw mut set);
                libc::sigaddset(&raw mut set, libc::SIGRTMIN());
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
                libc::gettid()
            };
            let mut info = [0; SIGINFO_LEN];
            info[..4].copy_from_slice(&libc::SIGRTMIN().to_ne_bytes());
            info[8..12].copy_from_slice(&libc::SI_QUEUE.to_ne_bytes());
            info[24..32].copy_from_slice(&0x1234_5678_9abc_u64.to_ne_bytes());
            queue_to_thread(std::process::id() as Pid, tid, &info).expect("queue");
            let mut got = [0_u8; 128];
            // SAFETY: room for one signalfd_siginfo, which is 128 bytes long.
            let n = unsafe { libc::read(fd.as_raw_fd(), got.as_mut_ptr().cast(), 128) };
            assert_eq!(n, 128);
            assert_eq!(i32::from_ne_bytes(got[..4].try_into().unwrap()), number(&info));
            assert_eq!(code(&info), libc::SI_QUEUE);
            assert_eq!(u64::from_ne_bytes(got[48..56].try_into().unwrap()), 0x1234_5678_9abc);
        })
        .join()
        .expect("thread");
    }
}
