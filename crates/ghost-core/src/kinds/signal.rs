//! Signals: what a process does about each, and those that wait.
//!
//! Read: `rt_sigaction(2)` asked inside, PTRACE_PEEKSIGINFO (Linux 3.10) for both queues, `SigPnd`/`ShdPnd` of
//! `/proc/PID/status` for a signal that waits without a siginfo. Rebuilt: `rt_sigaction(2)`, and `rt_sigqueueinfo(2)` by the
//! process to itself, which may then give any siginfo, also those of the kernel (`si_code >= 0`); threads likewise by
//! `rt_tgsigqueueinfo(2)` (in [`super::thread`]). Order within each queue is kept.
//!
//! While the tree was made, helpers and zombies ended and left their SIGCHLD: ignoring a signal for a moment takes it out of
//! every queue, so the action of each that waits is set twice. Masks are full until the last moment.
//!
//! The signal of a periodic POSIX timer is sent again by the timer itself ([`super::timer`]).

use crate::abreast;
use crate::error::{Context, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use ghost_image::record as rec;
use ghost_sys::proc::{self, ProcDir};
use ghost_sys::ptrace::Stopped;
use ghost_sys::remote::{Batch, DataRef, Label, Memory, RemoteAddr};
use ghost_sys::{Errno, Pid, nr};
use std::collections::HashSet;

const SIG_IGN: u64 = 1;
const SI_LEN: usize = 128;
const SI_TKILL: i32 = -6;
const SI_QUEUE: i32 = -1;
const SI_MESGQ: i32 = -3;

/// Adds actions and the queue of the process to the records.
pub fn export(cx: &mut ExportCx<'_>) -> Result<(), KindError> {
    let view = cx.view;
    for (index, process) in view.processes.iter().enumerate() {
        let answers = &cx.answers.processes[index];
        let frozen = cx.frozen.processes.iter().find(|p| p.pid == process.pid).and_then(|p| p.threads.first());
        let Some(frozen) = frozen else { continue };
        let record = &mut cx.model.processes[index];
        record.actions = answers
            .actions
            .iter()
            .zip(1..)
            .filter(|(a, _)| **a != [0; 4])
            .map(|(&[handler, flags, restorer, mask], signal)| rec::SignalAction {
                signal,
                handler,
                flags,
                restorer,
                mask,
            })
            .collect();
        record.pending = pending(&frozen.stopped, true, process.status.shared_pending)
            .map_err(|e| e.on(process.pid, "pending signals"))?;
    }
    Ok(())
}

/// The signals that wait for a thread, or for its process, in order.
pub(super) fn pending(thread: &Stopped, process_wide: bool, bits: u64) -> Result<Vec<rec::SigInfo>, KindError> {
    let mut all: Vec<rec::SigInfo> = thread
        .pending_signals(process_wide)
        .step("reading the signals that wait")?
        .into_iter()
        .map(|raw| rec::SigInfo { raw: raw.to_vec() })
        .collect();
    let known: HashSet<i32> = all.iter().map(|i| field(&i.raw, 0)).collect();
    // A signal whose siginfo found no memory is delivered as if nobody had sent it.
    for signal in (1..=64).filter(|s| bits >> (s - 1) & 1 != 0 && !known.contains(s)) {
        let mut raw = vec![0; SI_LEN];
        raw[..4].copy_from_slice(&signal.to_ne_bytes());
        all.push(rec::SigInfo { raw });
    }
    Ok(all)
}

fn field(raw: &[u8], at: usize) -> i32 {
    raw.get(at..at + 4).map_or(0, |b| i32::from_ne_bytes(b.try_into().expect("four bytes")))
}

/// Which signal it is.
pub(super) fn number(info: &rec::SigInfo) -> i32 {
    field(&info.raw, 0)
}

/// Whether the kernel sent it, and no process.
pub(super) fn is_of_the_kernel(info: &rec::SigInfo) -> bool {
    const SI_KERNEL: i32 = 0x80;
    field(&info.raw, 8) == SI_KERNEL
}

/// Whether this signal was sent by the POSIX timer with this id.
pub(super) fn is_of_timer(info: &rec::SigInfo, id: i32) -> bool {
    const SI_TIMER: i32 = -2;
    field(&info.raw, 8) == SI_TIMER && field(&info.raw, 16) == id
}

/// Whether the kernel sent it for what the thread itself did (a fault, a bad instruction).
///
/// Such a signal is taken before all others as soon as any of its sort may be delivered, even while it is itself blocked: as a rule
/// the trap at the end of a batch. So it is queued when the last batch is over.
pub(super) fn is_fault(info: &rec::SigInfo) -> bool {
    let faults = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGTRAP, libc::SIGFPE, libc::SIGSYS];
    field(&info.raw, 8) > 0 && faults.contains(&field(&info.raw, 0))
}

/// Queues a fault ([`is_fault`]) to a thread that stands in its trap, by a call of its own through the instruction at `at`.
pub(super) fn queue_fault(
    thread: &Stopped,
    info: &rec::SigInfo,
    (memory, scratch): (&Memory, RemoteAddr),
    at: u64,
    tgid: Pid,
) -> Result<(), KindError> {
    let mut raw = info.raw.clone();
    raw.resize(SI_LEN, 0);
    memory.write(scratch, &raw).step("writing a signal that waited")?;
    let args = [tgid as u64, thread.tid() as u64, field(&raw, 0) as u64, scratch.0, 0, 0];
    thread
        .call(at, nr::RT_TGSIGQUEUEINFO, args)
        .and_then(Errno::check)
        .step("queueing of a signal that waited")
        .map(drop)
}

/// Queues the sending of these signals by a process (or one thread of it) to itself.
pub(super) fn queue(batch: &mut Batch, infos: &[rec::SigInfo], tgid: Pid, tid: Option<Pid>, now: &dyn Fn(Pid) -> Pid) {
    for info in infos.iter().filter(|i| tid.is_none() || !is_fault(i)) {
        let mut raw = info.raw.clone();
        raw.resize(SI_LEN, 0);
        let (signal, code) = (field(&raw, 0), field(&raw, 8));
        let from_process = matches!(code, 0 | SI_TKILL | SI_QUEUE | SI_MESGQ) || (signal == libc::SIGCHLD && code > 0);
        if from_process {
            let sender = now(field(&raw, 16));
            raw[16..20].copy_from_slice(&sender.to_ne_bytes());
        }
        let data = batch.data(&raw);
        let label = format!("queueing of signal {signal} that waited");
        match tid {
            None => batch.call(label, nr::RT_SIGQUEUEINFO, &[tgid.into(), signal.into(), data.into()]),
            Some(tid) => {
                batch.call(label, nr::RT_TGSIGQUEUEINFO, &[tgid.into(), tid.into(), signal.into(), data.into()])
            }
        };
    }
}

/// Empties the queues of what building the tree left there, sets every action and queues what waited.
pub fn finish(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let model = cx.model;
    let pids: Vec<Pid> = cx.building.iter().map(|b| b.pid).collect();
    let waiting = abreast::each(&pids, abreast::PROCESSES, |&pid| waiting(pid));
    for (index, record) in model.processes.iter().enumerate().filter(|(_, p)| p.zombie.is_none()) {
        let pid = cx.building[index].pid;
        // Threads that are there already have queues of their own.
        let waiting = if cx.apart.iter().any(|a| a.process == index) { u64::MAX } else { waiting[index] };
        if let Some(leader) = cx.building[index].leader.as_ref() {
            hold_traps(&leader.thread, &record.pending).map_err(|e| e.on(record.pid, "pending signals"))?;
        }
        let pids = std::mem::take(&mut cx.pids);
        let batch = &mut cx.building[index].batch;
        let (ignored, default) = (action_data(batch, [SIG_IGN, 0, 0, 0]), action_data(batch, [0; 4]));
        for signal in (1..=64_u32).filter(|s| ![libc::SIGKILL as u32, libc::SIGSTOP as u32].contains(s)) {
            let action = record.actions.iter().find(|a| a.signal == signal);
            if signal == libc::SIGTRAP as u32 && action.is_none() {
                // Nobody sends it to a process under construction, and its batches are faster with the default.
                continue;
            }
            let waits = waiting >> (signal - 1) & 1 != 0;
            if waits {
                set_action(batch, signal, ignored);
            }
            // A process that shares its actions with an earlier one sets them again: it has its own queue to empty.
            let own = action.map(|a| action_data(batch, [a.handler, a.flags, a.restorer, a.mask]));
            if let Some(wanted) = own.or(waits.then_some(default)) {
                set_action(batch, signal, wanted);
            }
        }
        queue(batch, &record.pending, pid, None, &|p| pids.get(&p).copied().unwrap_or(p));
        cx.pids = pids;
    }
    cx.flush_all()
}

/// Signals that wait for a new process or its first thread, as a mask; all, where that cannot be read.
fn waiting(pid: Pid) -> u64 {
    let status = ProcDir::open(pid).and_then(|dir| proc::read_status(&dir));
    status.map_or(u64::MAX, |s| s.sig_pending | s.shared_pending)
}

/// Blocks SIGTRAP too, where one has to wait: unblocked it would be lost.
pub(super) fn hold_traps(thread: &Stopped, pending: &[rec::SigInfo]) -> Result<(), KindError> {
    if pending.iter().any(|i| field(&i.raw, 0) == libc::SIGTRAP && !is_fault(i)) {
        thread.set_signal_mask(u64::MAX).step("blocking its signals")?;
    }
    Ok(())
}

fn action_data(batch: &mut Batch, words: [u64; 4]) -> DataRef {
    batch.data(&words.map(u64::to_ne_bytes).concat())
}

fn set_action(batch: &mut Batch, signal: u32, data: DataRef) {
    let args = [signal.into(), data.into(), 0.into(), 8.into()];
    batch.call(Label::Number("rt_sigaction of signal", signal.into()), nr::RT_SIGACTION, &args);
}
