//! Signals: what is done at each, which are blocked, which wait, and which interrupt what.
use crate::Victim;

mod during;
mod pending;
mod settings;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[settings::VICTIMS, pending::VICTIMS, during::VICTIMS];

/// Installs a handler with these flags.
fn handle(sig: i32, handler: usize, flags: i32) {
    // SAFETY: a plain C structure.
    let mut act: libc::sigaction = unsafe { crate::sys::zeroed() };
    act.sa_sigaction = handler;
    act.sa_flags = flags;
    crate::must!(sigaction(sig, &act, std::ptr::null_mut()));
}

/// A mask as the kernel has it: bit `n - 1` for signal `n`.
fn mask(signals: &[i32]) -> u64 {
    signals.iter().fold(0, |m, s| m | 1 << (s - 1))
}

/// Blocks exactly these signals in this thread.
fn block(signals: &[i32]) {
    let m = mask(signals);
    crate::raw!(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const m, 0, 8).unwrap();
}

/// The signals that are blocked in this thread.
fn blocked() -> u64 {
    let mut m = 0u64;
    crate::raw!(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, 0, &raw mut m, 8).unwrap();
    m
}

/// A signal taken from the queue.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Taken {
    signo: i32,
    code: i32,
    value: u64,
    pid: i32,
    uid: u32,
}

/// Takes the next of these signals, if one waits.
fn take(signals: &[i32]) -> Option<Taken> {
    let m = mask(signals);
    // SAFETY: plain C structures.
    let (mut info, none): (libc::siginfo_t, libc::timespec) = unsafe { (crate::sys::zeroed(), crate::sys::zeroed()) };
    loop {
        match crate::raw!(libc::SYS_rt_sigtimedwait, &raw const m, &raw mut info, &raw const none, 8) {
            Ok(_) => {
                // SAFETY: the kernel filled it; for these codes the fields are those of a queued signal.
                let (value, pid, uid) = unsafe { (info.si_value().sival_ptr as u64, info.si_pid(), info.si_uid()) };
                return Some(Taken { signo: info.si_signo, code: info.si_code, value, pid, uid });
            }
            Err(libc::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// Queues a signal with a value to this process, or to the calling thread of it.
fn queue(sig: i32, value: u64, to_thread: bool) {
    #[repr(C, align(8))]
    struct Info {
        signo: i32,
        errno: i32,
        code: i32,
        pad: i32,
        pid: i32,
        uid: u32,
        value: u64,
        rest: [u64; 12],
    }
    const SI_QUEUE: i32 = -1;
    let pid = std::process::id() as i32;
    let info = Info { signo: sig, errno: 0, code: SI_QUEUE, pad: 0, pid: 4321, uid: 99, value, rest: [0; 12] };
    if to_thread {
        let tid = crate::raw!(libc::SYS_gettid).unwrap();
        crate::raw!(libc::SYS_rt_tgsigqueueinfo, pid, tid, sig, &raw const info).unwrap();
    } else {
        crate::raw!(libc::SYS_rt_sigqueueinfo, pid, sig, &raw const info).unwrap();
    }
}
