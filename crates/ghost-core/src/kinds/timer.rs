//! Timers that send signals: the three of `setitimer(2)` and those of `timer_create(2)`.
//!
//! Read: `getitimer(2)`, `timer_gettime(2)` asked inside, `/proc/PID/timers` (Linux 3.10, CONFIG_CHECKPOINT_RESTORE). Rebuilt by
//! the process itself. A timer keeps its id: with PR_TIMER_CREATE_RESTORE_IDS (Linux 6.16) the program's number is given to
//! `timer_create(2)`; before, ids are handed out in ascending order, so timers are made and deleted up to the one that is due.
//!
//! Each goes on with the time that was left at the freeze. A periodic timer whose signal waits to be taken counts what it missed
//! until then: it is armed for one interval ago, so that it sends that signal itself and counts on in step. Lost: the
//! expirations that it had counted before the checkpoint, which the kernel tells only with the signal: noted. Neither
//! `/proc/PID/timers` nor the siginfo that waits (PTRACE_PEEKSIGINFO) has their number: the kernel counts when it delivers the signal,
//! from an expiry that it shows to nobody. To take the signal and send it again (`rt_sigqueueinfo(2)`) would change its place in
//! the queue, and the timer would send a second one.
//! Refused: nothing. A CPU-time clock counts from the new process's own zero, but what is left of the timer is kept.

use crate::error::{Blocker, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use crate::kinds::process::limits;
use crate::kinds::signal;
use crate::view::TreeView;
use ghost_image::record as rec;
use ghost_sys::remote::Batch;
use ghost_sys::{Pid, nr};

const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;
const TIMER_ABSTIME: i32 = 1;
const NS: i64 = 1_000_000_000;
/// Ids that are reached by making and deleting timers; each costs two calls.
const REACHABLE: i32 = 20_000;

/// Nothing about a timer keeps it from travelling.
pub fn check(_view: &TreeView, _out: &mut Vec<Blocker>) {}

/// Adds the timers to the process records.
pub fn export(cx: &mut ExportCx<'_>) -> Result<(), KindError> {
    for (answers, record) in cx.answers.processes.iter().zip(&mut cx.model.processes) {
        record.itimers = answers
            .itimers
            .iter()
            .zip(0..)
            .filter_map(|(&(interval_us, value_us), which)| {
                let value_us = if which == 0 { value_of_real(record, interval_us, value_us) } else { value_us };
                (value_us != 0).then(|| rec::Interval {
                    which,
                    interval_ns: interval_us.saturating_mul(1000),
                    value_ns: value_us.saturating_mul(1000),
                })
            })
            .collect();
        record.posix_timers = answers
            .timers
            .iter()
            .map(|t| rec::PosixTimer {
                id: t.timer.id,
                clock: t.timer.clock,
                signal: t.timer.signal as u32,
                notify: t.timer.notify as u32,
                thread: if t.timer.notify & libc::SIGEV_THREAD_ID != 0 { t.timer.target } else { 0 },
                sigval: t.timer.sigval,
                interval_ns: t.interval_ns,
                value_ns: t.value_ns,
                overrun: t.overrun,
                signal_waits: false,
            })
            .collect();
        record.posix_timers.sort_unstable_by_key(|t| t.id);
        for timer in record.posix_timers.iter_mut().filter(|t| t.interval_ns > 0 && has_time_of_day(t.clock)) {
            let queues = record.threads.iter_mut().map(|t| &mut t.pending).chain([&mut record.pending]);
            for queue in queues {
                let before = queue.len();
                queue.retain(|info| !signal::is_of_timer(info, timer.id));
                timer.signal_waits |= queue.len() < before;
            }
            if timer.signal_waits {
                let text = "how often it expired before the checkpoint while its signal waits is not known: the signal will tell of the times since";
                cx.notes.push(rec::Note {
                    pid: record.pid,
                    kind: "timer".into(),
                    subject: format!("timer {}", timer.id),
                    text: text.into(),
                });
            }
        }
    }
    Ok(())
}

/// What is left of the timer of real time, in us; 0 if it stands still.
///
/// The kernel starts its next interval when a thread takes SIGALRM: of one that has expired until then it tells that nothing is left. If its
/// signal waits, the next interval begins now: also if the timer was asked a moment before it expired, so that it does not expire twice. If
/// none waits, it has expired since the signals were read, and does so again.
fn value_of_real(record: &rec::Process, interval_us: i64, value_us: i64) -> i64 {
    const SIG_IGN: u64 = 1;
    const A_MOMENT: i64 = 250_000;
    let alarms = || record.pending.iter().filter(|info| signal::number(info) == libc::SIGALRM);
    if value_us <= A_MOMENT && alarms().any(signal::is_of_the_kernel) {
        return interval_us;
    }
    if value_us != 0 || interval_us == 0 {
        return value_us;
    }
    if alarms().next().is_some() {
        return interval_us;
    }
    // An ignored signal is never taken: such a timer stays as it is.
    let ignored = record.actions.iter().any(|a| a.signal == libc::SIGALRM as u32 && a.handler == SIG_IGN);
    i64::from(!ignored)
}

/// Makes and arms the timers.
pub fn finish(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let model = cx.model;
    let has_timers = model.processes.iter().any(|p| !p.posix_timers.is_empty());
    let own_limits = if has_timers { limits::own()? } else { Vec::new() };
    // Made first, all of them, so that nothing comes between arming and running.
    for (index, record) in model.processes.iter().enumerate().filter(|(_, p)| p.zombie.is_none()) {
        if record.posix_timers.is_empty() && !record.timer_restore_ids {
            continue;
        }
        create(cx, index, &record.posix_timers)?;
        if let Some(limit) = limits::after_timers(record, &own_limits) {
            limits::set(&mut cx.building[index].batch, limit);
        }
        for t in record.posix_timers.iter().filter(|t| t.overrun > 0) {
            cx.notes.push(rec::Note {
                pid: record.pid,
                kind: "timer".into(),
                subject: format!("timer {}", t.id),
                text: format!("timer_getoverrun no longer tells of {} expirations before the checkpoint", t.overrun),
            });
        }
    }
    for (index, record) in model.processes.iter().enumerate().filter(|(_, p)| p.zombie.is_none()) {
        let batch = &mut cx.building[index].batch;
        for t in &record.posix_timers {
            let (flags, value_ns) = if t.signal_waits { (TIMER_ABSTIME, one_interval_ago(t)) } else { (0, t.value_ns) };
            let spec = batch.data(&spans(t.interval_ns, value_ns, 1));
            let args = [t.id.into(), flags.into(), spec.into(), 0.into()];
            batch.call(format!("timer_settime of timer {}", t.id), nr::TIMER_SETTIME, &args);
        }
        for t in &record.itimers {
            // The kernel adds a tick to the value of those that count CPU time, each time anew.
            let value_ns = if t.which == 0 { t.value_ns } else { (t.value_ns - tick_ns()).max(1) };
            let spec = batch.data(&spans(t.interval_ns, value_ns, 1000));
            batch.call(format!("setitimer {}", t.which), nr::SETITIMER, &[t.which.into(), spec.into(), 0.into()]);
        }
    }
    // Made with the last that all processes do.
    Ok(())
}

/// Whether this clock runs by itself, so that a time on it can be given: not one of CPU time.
fn has_time_of_day(clock: i32) -> bool {
    clock >= 0 && !matches!(clock, libc::CLOCK_PROCESS_CPUTIME_ID | libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The time on its clock at which a timer expired last, going by when it will next.
fn one_interval_ago(t: &rec::PosixTimer) -> i64 {
    let now = ghost_sys::clock::now_ns(t.clock).unwrap_or(1);
    (now + t.value_ns - t.interval_ns).max(1)
}

/// Length of the kernel's tick: what a coarse clock resolves.
fn tick_ns() -> i64 {
    let tick = rustix::time::clock_getres(rustix::time::ClockId::RealtimeCoarse);
    tick.tv_sec * NS + tick.tv_nsec
}

/// struct itimerspec or itimerval: interval and value in seconds and units of `unit` nanoseconds; never rounded to "off".
fn spans(interval_ns: i64, value_ns: i64, unit: i64) -> Vec<u8> {
    let parts = |ns: i64| {
        let units = ns.max(0).div_euclid(unit) + i64::from(ns.max(0) % unit != 0);
        [units / (NS / unit), units % (NS / unit)]
    };
    [parts(interval_ns), parts(value_ns)].concat().into_iter().flat_map(i64::to_ne_bytes).collect()
}

fn create(cx: &mut ImportCx<'_>, index: usize, timers: &[rec::PosixTimer]) -> Result<(), KindError> {
    let mut batch = Batch::new();
    let on = batch.try_call(
        "PR_TIMER_CREATE_RESTORE_IDS",
        nr::PRCTL,
        &[PR_TIMER_CREATE_RESTORE_IDS.into(), 1.into(), 0.into(), 0.into(), 0.into()],
    );
    let has_ids = cx.run(index, &batch)?.result(on).is_ok();
    let old = cx.record(index).pid;
    let mut next = 0;
    for t in timers {
        if t.id < 0 || (!has_ids && t.id >= REACHABLE) {
            let words = format!("its id {} cannot be reached on this kernel (Linux 6.15 can)", t.id);
            return Err(KindError::conflict("making its timers", words).on(old, format!("timer {}", t.id)));
        }
        let mut batch = Batch::new();
        while !has_ids && next < t.id {
            let id = batch.data(&next.to_ne_bytes());
            batch.call(
                format!("timer_create of timer {next} on the way"),
                nr::TIMER_CREATE,
                &[0.into(), 0.into(), id.into()],
            );
            batch.call(format!("timer_delete of timer {next} on the way"), nr::TIMER_DELETE, &[next.into()]);
            next += 1;
        }
        let t = &of_the_living(cx.record(index), t);
        let event = batch.data(&event(t, cx.pid(t.thread)));
        let id = batch.data(&t.id.to_ne_bytes());
        let clock = clock(t.clock, |p| cx.pid(p));
        batch.call(
            format!("timer_create of timer {}", t.id),
            nr::TIMER_CREATE,
            &[clock.into(), event.into(), id.into()],
        );
        let got = cx.run(index, &batch)?.u32(id) as i32;
        next = t.id + 1;
        if got != t.id {
            let words = format!("the kernel gave it the id {got}");
            return Err(KindError::conflict("making its timers", words).on(old, format!("timer {}", t.id)));
        }
    }
    if has_ids && !cx.record(index).timer_restore_ids {
        let args = [PR_TIMER_CREATE_RESTORE_IDS.into(), 0.into(), 0.into(), 0.into(), 0.into()];
        cx.building[index].batch.call("PR_TIMER_CREATE_RESTORE_IDS off", nr::PRCTL, &args);
    }
    Ok(())
}

/// The timer without its thread, if that has ended: its signals reach nobody, and the kernel makes no timer for it any more.
fn of_the_living(record: &rec::Process, t: &rec::PosixTimer) -> rec::PosixTimer {
    let lives = t.thread == 0 || record.threads.iter().any(|thread| thread.tid == t.thread);
    if lives { *t } else { rec::PosixTimer { notify: libc::SIGEV_NONE as u32, thread: 0, ..*t } }
}

/// struct sigevent: value, signal, notify, tid.
fn event(t: &rec::PosixTimer, tid: Pid) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..8].copy_from_slice(&t.sigval.to_ne_bytes());
    bytes[8..12].copy_from_slice(&t.signal.to_ne_bytes());
    bytes[12..16].copy_from_slice(&t.notify.to_ne_bytes());
    bytes[16..20].copy_from_slice(&tid.to_ne_bytes());
    bytes
}

/// The clock of a timer: that of another process's or thread's CPU time has its pid in it.
fn clock(clock: i32, now: impl Fn(Pid) -> Pid) -> i32 {
    const OF_FD: i32 = 3;
    if clock >= 0 || clock & 7 == OF_FD {
        return clock;
    }
    match !(clock >> 3) {
        0 => clock,
        pid => (!now(pid) << 3) | (clock & 7),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_rounded_up_and_never_off() {
        let words =
            |b: Vec<u8>| -> Vec<i64> { b.chunks(8).map(|c| i64::from_ne_bytes(c.try_into().unwrap())).collect() };
        assert_eq!(words(spans(0, 1, 1000)), [0, 0, 0, 1]);
        assert_eq!(words(spans(2 * NS, NS + 999_999_001, 1000)), [2, 0, 2, 0]);
        assert_eq!(words(spans(-5, 3, 1)), [0, 0, 0, 3]);
    }

    #[test]
    fn cpu_clocks_follow_their_process() {
        // MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED): (~pid << 3) | 2.
        let of = |pid: i32| (!pid << 3) | 2;
        assert_eq!(clock(of(500), |_| 77), of(77));
        assert_eq!(clock(of(0), |_| 77), of(0), "its own");
        assert_eq!(clock(1, |_| 77), 1, "CLOCK_MONOTONIC");
    }
}
