//! What a thread was asleep in before it was stopped: what the stop itself wipes out.
//!
//! Three things. First, a call that the kernel has already restarted once shows as `restart_syscall`, whose number says
//! nothing; the kernel function in which it sleeps (`/proc/PID/task/TID/wchan`) tells which it is. Second, how long it has been
//! asleep: a relative limit (of `poll(2)`, `futex(2)`, a sleep whose remainder nobody asked for) is known to the kernel only
//! as an end that it shows to nobody; `se.exec_start` of `/proc/PID/task/TID/sched` (CONFIG_SCHED_DEBUG, always on since Linux 6.3)
//! is the time at which the thread last gave its CPU away. Third, some calls answer a stop with EINTR instead of being
//! restarted ([`restart_later`]).
//!
//! `exec_start` is in the clock of the CPU that the thread slept on, which leaves out time stolen by a hypervisor; so
//! ghost reads its own on the same CPU, a moment after it slept there itself.
//!
//! Lost: time that passed before an earlier stop of the very same call, when the kernel did not write the remainder to the program.

use ghost_sys::proc::{self, InSyscall, ProcDir};
use ghost_sys::ptrace::{Registers, Stopped};
use ghost_sys::{Pid, Result, clock, sched};
use std::collections::HashMap;
use std::time::Duration;

/// A thread that slept in a call whose rest has to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asleep {
    /// The call, as the program made it.
    pub nr: i64,
    /// For how long it had slept.
    pub age_ns: Option<i64>,
}

/// What was seen of a thread that is about to be stopped, by anybody.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Glimpse {
    nr: i64,
    /// Where its age matters and is told: its CPU, when it gave that away by its clock, and when we looked by ours.
    since: Option<(i32, i64, i64)>,
}

/// Looks at a thread that is about to be stopped; None when the stop will tell all there is to know.
pub(crate) fn look(process: &ProcDir, tid: Pid) -> Option<Glimpse> {
    let call = process.parse(&format!("task/{tid}/syscall"), proc::parse_syscall).ok()?;
    let InSyscall::Call { nr, args, .. } = call else { return None };
    let real = if nr == libc::SYS_restart_syscall { restarted(process, tid, &args)? } else { nr };
    let needs_age = crate::detour::needs_age(real, &args);
    if nr == real && !needs_age {
        return None;
    }
    Some(Glimpse { nr: real, since: if needs_age { since(process, tid) } else { None } })
}

fn since(process: &ProcDir, tid: Pid) -> Option<(i32, i64, i64)> {
    let stat = process.parse(&format!("task/{tid}/stat"), proc::parse_stat).ok()?;
    let since = process.with_bytes(&format!("task/{tid}/sched"), exec_start).ok()??;
    Some((stat.processor, since, clock::monotonic_ns()))
}

/// Tells how old sleeps are; keeps what it learns about the clocks of the CPUs.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    /// CLOCK_MONOTONIC less the clock of each CPU.
    ahead: HashMap<i32, Option<i64>>,
}

/// No pointer is below this: `clock_nanosleep` has a clock there, `nanosleep` a pointer.
const FIRST_ADDRESS: u64 = 4096;

impl Sampler {
    /// What a glimpse says.
    pub(crate) fn read(&mut self, glimpse: Glimpse) -> Asleep {
        Asleep { nr: glimpse.nr, age_ns: glimpse.since.and_then(|since| self.age_ns(since)) }
    }

    fn age_ns(&mut self, (cpu, since, seen): (i32, i64, i64)) -> Option<i64> {
        let ahead = *self.ahead.entry(cpu).or_insert_with(|| calibrate(cpu));
        Some((seen - ahead? - since).max(0))
    }
}

/// Which call a thread in `restart_syscall` goes on with: the kernel has four that it restarts so.
fn restarted(process: &ProcDir, tid: Pid, args: &[u64; 6]) -> Option<i64> {
    let place = process.parse(&format!("task/{tid}/wchan"), proc::parse_wchan).ok()??;
    Some(if place.contains("futex") {
        libc::SYS_futex
    } else if place.contains("poll") {
        libc::SYS_poll
    } else if place.contains("nanosleep") || place.contains("syscall") {
        // Sleeping functions are left out of wchan, so that of a restarted sleep may be the system call's entry.
        if args[0] < FIRST_ADDRESS { libc::SYS_clock_nanosleep } else { libc::SYS_nanosleep }
    } else {
        return None;
    })
}

/// `se.exec_start` in nanoseconds; printed in milliseconds with six digits behind the point.
fn exec_start(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let line = text.lines().find(|l| l.starts_with("se.exec_start"))?;
    let (ms, fraction) = line.rsplit_once(':')?.1.trim().split_once('.')?;
    let fraction: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    ms.parse::<i64>().ok()?.checked_mul(1_000_000)?.checked_add(fraction)
}

/// How far CLOCK_MONOTONIC is ahead of the clock of a CPU: ghost sleeps there and looks when it was woken.
fn calibrate(cpu: i32) -> Option<i64> {
    let before = sched::affinity(0).ok()?;
    let mut only = vec![0_u8; (cpu as usize / 64 + 1) * 8];
    only[cpu as usize / 8] |= 1 << (cpu % 8);
    sched::set_affinity(0, &only).ok()?;
    let own = ProcDir::own().and_then(|d| d.thread(rustix::thread::gettid().as_raw_nonzero().get()));
    let sample = || {
        std::thread::sleep(Duration::from_micros(10));
        let now = clock::monotonic_ns();
        Some(now - own.as_ref().ok()?.with_bytes("sched", exec_start).ok()??)
    };
    // Or each sleep would last 50 µs longer, while the program waits.
    let slack = sched::own_timer_slack();
    let _ = sched::set_own_timer_slack(1);
    // A tick between waking and looking makes the difference smaller than it is.
    let best = (0..3).filter_map(|_| sample()).max();
    if let Ok(slack) = slack {
        let _ = sched::set_own_timer_slack(slack);
    }
    let _ = sched::set_affinity(0, &before);
    best
}

const EINTR: u64 = -(libc::EINTR as i64) as u64;
const ERESTARTNOHAND: u64 = (-514_i64) as u64;

/// Calls that answer every interruption with EINTR, also one without a handler such as ours, and may simply be made again.
const ANSWERS_EINTR: [i64; 19] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_io_getevents,
    libc::SYS_io_uring_enter,
    // On sockets with a time limit (SO_RCVTIMEO, SO_SNDTIMEO).
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Makes the kernel restart a call that was interrupted by nobody but ghost and would say EINTR.
///
/// It then has the answer of a call that only a handler interrupts: a signal that comes before the thread runs on still
/// ends it with EINTR. The kernel acts on this however the thread is let go, also when ghost dies.
pub(crate) fn restart_later(thread: &Stopped) -> Result<()> {
    let regs = thread.registers()?;
    if regs.rax != EINTR || !ANSWERS_EINTR.contains(&(regs.orig_rax as i64)) {
        return Ok(());
    }
    let mask = thread.signal_mask()?;
    for process_wide in [false, true] {
        let waits = |info: &[u8; 128]| {
            let signal = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            (1..=64).contains(&signal) && mask >> (signal - 1) & 1 == 0
        };
        if thread.pending_signals(process_wide)?.iter().any(waits) {
            return Ok(());
        }
    }
    thread.set_registers(&Registers { rax: ERESTARTNOHAND, ..regs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_start_is_read_to_the_nanosecond() {
        let text = b"head (17620, #threads: 1)\n-----\nse.exec_start                                :       2203941.787114\nse.vruntime : 1.0\n";
        assert_eq!(exec_start(text), Some(2_203_941_787_114));
        assert_eq!(exec_start(b"nothing"), None);
    }

    #[test]
    fn a_sleeper_is_as_old_as_its_sleep() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let dir = ProcDir::open(child.id() as Pid).unwrap();
        while !matches!(proc::parse_syscall(&dir.bytes("syscall").unwrap()), Ok(InSyscall::Call { nr: 230 | 35, .. })) {
            std::thread::yield_now();
        }
        let began = std::time::Instant::now();
        std::thread::sleep(Duration::from_millis(300));
        let age = since(&dir, child.id() as Pid).and_then(|since| Sampler::default().age_ns(since));
        let real = began.elapsed().as_nanos() as i64;
        child.kill().unwrap();
        child.wait().unwrap();
        let age = age.expect("this kernel tells");
        assert!((age - real).abs() < 20_000_000, "{age} ns instead of {real}");
    }
}
