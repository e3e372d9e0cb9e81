//! Processes and threads of a victim.
use super::{Res, Sys, sys};

/// The pid of the caller.
pub fn pid() -> i32 {
    // SAFETY: no memory is involved.
    unsafe { libc::getpid() }
}

/// The pid of the caller's parent.
pub fn ppid() -> i32 {
    // SAFETY: no memory is involved.
    unsafe { libc::getppid() }
}

/// fork(2): `None` in the child. Victims fork while they have one thread.
pub fn fork() -> Sys<Option<i32>> {
    // SAFETY: the caller has one thread, so that no lock is held by another one in the child.
    let p = sys("fork", unsafe { libc::fork() }.into())? as i32;
    Ok((p != 0).then_some(p))
}

/// _exit(2).
pub fn exit(code: i32) -> ! {
    // SAFETY: ends the process without touching memory.
    unsafe { libc::_exit(code) }
}

/// kill(2).
pub fn kill(pid: i32, signal: i32) -> Sys {
    // SAFETY: no memory is involved.
    sys("kill", unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// waitpid(2): pid and status.
pub fn wait(pid: i32, flags: i32) -> Sys<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    sys("waitpid", unsafe { libc::waitpid(pid, &raw mut status, flags) }.into()).map(|p| (p as i32, status))
}

/// waitid(2) that leaves the child waitable; says whether one has ended.
pub fn ended(pid: i32) -> Sys<bool> {
    // SAFETY: an all-zero siginfo is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOWAIT | libc::WNOHANG;
    // SAFETY: `info` outlives the call.
    sys("waitid", unsafe { libc::waitid(libc::P_PID, pid as u32, &raw mut info, flags) }.into())?;
    // SAFETY: waitid filled the part of a child's siginfo, or left it zero.
    Ok(unsafe { info.si_pid() } == pid)
}

/// pidfd_open(2).
pub fn pidfd(pid: i32, flags: u32) -> Sys<i32> {
    // SAFETY: no memory is involved.
    sys("pidfd_open", unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) }).map(|v| v as i32)
}

/// pidfd_send_signal(2).
pub fn pidfd_kill(fd: i32, signal: i32) -> Sys {
    // SAFETY: a null siginfo asks for the one of kill(2).
    let r = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<u8>(), 0) };
    sys("pidfd_send_signal", r).map(drop)
}

/// A signal set of these signals.
pub fn set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: an all-zero set is valid, and sigemptyset fills it.
    let mut s: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `s` outlives the calls.
    unsafe {
        libc::sigemptyset(&raw mut s);
        for n in signals {
            libc::sigaddset(&raw mut s, *n);
        }
    }
    s
}

/// Blocks these signals in the calling thread.
pub fn block(signals: &[i32]) -> Sys {
    let s = set(signals);
    // SAFETY: `s` outlives the call.
    sys("sigprocmask", unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const s, std::ptr::null_mut()) }.into())
        .map(drop)
}

/// Lets this thread have these signals again.
pub fn unblock(signals: &[i32]) -> Sys {
    let mut set = signals.iter().fold(0u64, |m, s| m | 1 << (s - 1));
    let args = [libc::SIG_UNBLOCK.into(), 0, 0, 8, 0, 0];
    super::fd::raw_ref("rt_sigprocmask", libc::SYS_rt_sigprocmask, args, 1, &mut set).map(drop)
}

/// Ignores a signal.
pub fn ignore(signal: i32) {
    // SAFETY: SIG_IGN is always a valid disposition.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Takes one of these blocked signals: number, si_code, si_pid, si_fd; `None` when there is none in time.
pub fn take_signal(signals: &[i32], ms: i64) -> Option<(i32, i32, i32)> {
    let s = set(signals);
    let t = libc::timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    // SAFETY: an all-zero siginfo is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: all three outlive the call.
    let n = unsafe { libc::sigtimedwait(&raw const s, &raw mut info, &raw const t) };
    // For SIGIO: si_band at 16, si_fd at 24 (siginfo_t of x86-64 and aarch64).
    // SAFETY: siginfo_t has 128 bytes.
    let fd = unsafe { std::ptr::from_ref(&info).cast::<u8>().add(24).cast::<i32>().read_unaligned() };
    (n > 0).then_some((n, info.si_code, fd))
}

/// Runs a step in a child and waits: `Ok` when it exits 0.
pub fn in_child(what: &str, step: impl FnOnce() -> Res) -> Res {
    match fork()? {
        None => match step() {
            Ok(()) => exit(0),
            Err(e) => {
                eprintln!("{what}, in a child: {e}");
                exit(1)
            }
        },
        Some(p) => super::same(what, 0, wait(p, 0)?.1),
    }
}

/// prctl(2) with integers.
pub fn prctl(option: i32, a: i64, b: i64, c: i64, d: i64) -> Sys<i64> {
    // SAFETY: used with options that take integers.
    sys("prctl", unsafe { libc::prctl(option, a, b, c, d) }.into())
}
