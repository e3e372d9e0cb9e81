//! Threads: registers, and all that the kernel keeps for each thread of a process apart.
//!
//! Read: PTRACE_GETREGSET (NT_PRSTATUS, NT_X86_XSTATE), debug registers, PTRACE_GET_RSEQ_CONFIGURATION (Linux 5.13),
//! PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG (6.4), PTRACE_SECCOMP_GET_FILTER (4.4), `get_robust_list(2)`,
//! `/proc/PID/task/TID/status`, and what [`crate::inquiry`] asked. Rebuilt: `clone3(2)` with `set_tid`, then calls made by
//! the thread itself, then (in [`settle`]) seccomp and registers, so that the kernel itself restarts what was interrupted.
//!
//! Order inside a thread: attributes while it still has every right; credentials, which clear the parent-death signal, so
//! that comes after; no_new_privs and seccomp last.
//!
//! Lost: the default timer slack that PR_SET_TIMERSLACK(0) would go back to. A critical section of `rseq(2)` in which the thread
//! was caught is aborted, as the kernel does when it takes the CPU away. Refused: shadow stacks, seccomp without CAP_SYS_ADMIN.

pub(crate) mod apart;
mod interrupted;
mod launch;
pub(crate) mod name;
mod sched;

use super::process::{self, cred, limits};
use super::{signal, tree};
use crate::detour::Slots;
use crate::error::{Blocker, Context, KindError};
use crate::export::ExportCx;
use crate::freeze::FrozenThread;
use crate::import::{Building, ImportCx, remote};
use crate::inquiry::ThreadAnswers;
use crate::options::Pids;
use crate::view::{ProcessView, ThreadView, TreeView};
use ghost_image::record as rec;
use ghost_sys::proc::{self, ProcDir};
use ghost_sys::remote::{Batch, Memory, Stub};
use ghost_sys::{Pid, nr, process as sys_process, sched as sys_sched};
use std::collections::HashMap;

pub(crate) use launch::encode;
pub use launch::{go, settle};

const PR_SET_PDEATHSIG: i32 = 1;
const PR_SET_TSC: i32 = 26;
const PR_SET_TIMERSLACK: i32 = 29;
const PR_MCE_KILL: i32 = 33;
const PR_SET_NO_NEW_PRIVS: i32 = 38;
const PR_SET_SPECULATION_CTRL: i32 = 53;
const ARCH_SET_CPUID: i32 = 0x1012;
/// The kernel's own timer slack.
const DEFAULT_SLACK_NS: u64 = 50_000;
/// PR_MCE_KILL_DEFAULT.
const MCE_KILL_DEFAULT: u32 = 2;
/// PR_SPEC_PRCTL: the thread may choose.
const SPEC_PRCTL: u32 = 1;
/// PR_SPEC_ENABLE: what a thread has that never chose.
const SPEC_ENABLE: u32 = 2;
/// SS_ONSTACK: where it is at the moment, no setting.
const SS_ONSTACK: u32 = 1;
/// SS_DISABLE.
const SS_DISABLE: u32 = 2;

/// Names what of the threads cannot travel.
pub fn check(view: &TreeView, out: &mut Vec<Blocker>) {
    check_apart(view, out);
    let may_suspend = std::cell::LazyCell::new(may_suspend_seccomp);
    for process in &view.processes {
        if process.is_zombie() {
            continue;
        }
        let mut block = |kind: &'static str, tid: Pid, why: &str, advice: &str| {
            out.push(Blocker {
                pid: process.pid,
                comm: process.comm(),
                kind,
                subject: format!("thread {tid}"),
                why: why.into(),
                advice: advice.into(),
                passes: false,
            });
        };
        for thread in process.threads.iter().filter(|t| !t.status.is_dead()) {
            if thread.status.seccomp != 0 && !*may_suspend {
                block(
                    "seccomp",
                    thread.tid,
                    "it is under seccomp, which would judge ghost's calls too, and ghost may not suspend that here",
                    "run ghost with CAP_SYS_ADMIN in the initial user namespace and under no seccomp filter itself",
                );
            }
            if has_shadow_stack(process, thread) {
                block(
                    "shadow stack",
                    thread.tid,
                    "it runs with a shadow stack, which ghost cannot rebuild",
                    "start it with GLIBC_TUNABLES=glibc.cpu.hwcaps=-SHSTK",
                );
            }
        }
    }
}

/// Names the threads that have something apart in a way that cannot be made again.
fn check_apart(view: &TreeView, out: &mut Vec<Blocker>) {
    let mut block = |index: usize, tid: Pid, why: String| {
        let process = &view.processes[index];
        out.push(Blocker {
            pid: process.pid,
            comm: process.comm(),
            kind: "unshared",
            subject: format!("thread {tid}"),
            why,
            advice: "such threads cannot be rebuilt; let the program finish that work first".into(),
            passes: false,
        });
    };
    for crossed in &view.crossed {
        let why = format!("it shares {} with a thread of another process that has it apart from that", crossed.what);
        block(crossed.process, crossed.tid, why);
    }
    for apart in view.apart.iter().filter(|a| a.files && a.pidfd.is_none()) {
        let why = "it has a descriptor table of its own, which this kernel gives no copies from (Linux 6.9 does)";
        block(apart.process, apart.tid, why.into());
    }
    let n = view.processes.len();
    for (index, process) in view.processes.iter().enumerate() {
        let id = |k: Option<usize>| k.map_or(0, |k| (n + k) as u32);
        let has = process.threads.iter().map(|t| (id(t.files), id(t.fs))).filter(|has| *has != (0, 0));
        if !apart::can_be_made(&has.collect::<Vec<_>>()) {
            block(
                index,
                process.pid,
                "some of its threads share descriptors with one and directories with another".into(),
            );
        }
    }
}

/// Whether PTRACE_O_SUSPEND_SECCOMP is ours to use: CAP_SYS_ADMIN in the first user namespace, no seccomp ourselves.
fn may_suspend_seccomp() -> bool {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let Ok(own) = ProcDir::own() else { return false };
    let whole =
        |map: Vec<proc::IdRange>| matches!(map.as_slice(), [r] if (r.inside, r.outside, r.count) == (0, 0, u32::MAX));
    proc::read_status(&own).is_ok_and(|s| s.cap_effective & CAP_SYS_ADMIN != 0 && s.seccomp == 0)
        && proc::read_uid_map(&own).is_ok_and(whole)
}

/// Whether `x86_Thread_features` (Linux 6.6) lists a shadow stack.
fn has_shadow_stack(process: &ProcessView, thread: &ThreadView) -> bool {
    // The mapping is there whenever a thread has one: only then is it worth another look.
    if !process.smaps.iter().any(|m| m.flags.contains(proc::VmFlags::SHADOW_STACK)) {
        return false;
    }
    let lists = |text: &[u8]| {
        let line = text.split(|b| *b == b'\n').find(|l| l.starts_with(b"x86_Thread_features:"));
        line.is_some_and(|l| l.windows(5).any(|w| w == b"shstk"))
    };
    process.dir.thread(thread.tid).and_then(|d| d.with_bytes("status", lists)).unwrap_or(false)
}

/// Adds the threads to the process records.
pub fn export(cx: &mut ExportCx<'_>) -> Result<(), KindError> {
    let view = cx.view;
    let frozen: HashMap<Pid, &FrozenThread> =
        cx.frozen.processes.iter().flat_map(|p| &p.threads).map(|t| (t.stopped.tid(), t)).collect();
    let mut filters = Filters::default();
    let fair_slice = sys_sched::attributes(0).map_or(0, |a| a.runtime);
    let all_cpus = sched::online_cpus();
    for (index, process) in view.processes.iter().enumerate() {
        if process.is_zombie() {
            continue;
        }
        let memory = Memory::of_stopped(process.live);
        let id = cx.model.processes[index].mm_id;
        let mm = cx.model.mms.iter_mut().find(|m| m.id == id);
        let slots = mm.as_ref().filter(|mm| mm.vdso != 0).and_then(|mm| Slots::at(memory.share(), mm.vdso));
        if let (Some(mm), Some((at, bytes))) = (mm, slots.as_ref().and_then(Slots::kept)) {
            (mm.detours_at, mm.detours) = (at, bytes);
        }
        let mut threads = Vec::with_capacity(process.threads.len());
        for (thread, answers) in process.threads.iter().zip(&cx.answers.processes[index].threads) {
            let comm = &thread.status.name;
            let Some(frozen) = frozen.get(&thread.tid) else {
                // Only a leader stays behind when it ends before its threads.
                threads.push(name::named(rec::Thread { tid: thread.tid, ..rec::Thread::default() }, comm));
                continue;
            };
            let stopped = &frozen.stopped;
            let what = || format!("tid {}", thread.tid);
            let mut record = export_thread(thread, frozen, answers, &memory, slots.as_ref())
                .map_err(|e| e.on(process.pid, what()))?;
            record.sched = Some(sched::export(thread.tid, fair_slice, all_cpus).step_on(
                process.pid,
                what,
                "reading how it is scheduled",
            )?);
            record = name::named(record, comm);
            record.fd_table_id = thread.files.map_or(0, |k| view.table_id(view.processes.len() + k));
            record.fs_id = thread.fs.map_or(0, |k| view.fs_id(view.processes.len() + k));
            if thread.status.seccomp == 2 {
                let programs = stopped.seccomp_filters().step_on(process.pid, what, "reading its seccomp filters")?;
                record.seccomp_filter_ids = filters.ids(programs, &mut cx.model.seccomp_filters);
            }
            threads.push(record);
        }
        cx.model.processes[index].threads = threads;
    }
    Ok(())
}

/// Seccomp programs met so far: threads mostly share them.
#[derive(Default)]
struct Filters {
    known: HashMap<(Vec<u8>, u64), u32>,
}

impl Filters {
    fn ids(&mut self, programs: Vec<(Vec<u8>, u64)>, records: &mut Vec<rec::SeccompFilter>) -> Vec<u32> {
        let id = |key: (Vec<u8>, u64)| {
            let next = self.known.len() as u32 + 1;
            *self.known.entry(key).or_insert_with_key(|(program, flags)| {
                records.push(rec::SeccompFilter { id: next, program: program.clone(), flags: *flags });
                next
            })
        };
        programs.into_iter().map(id).collect()
    }
}

fn export_thread(
    thread: &ThreadView,
    frozen: &FrozenThread,
    answers: &ThreadAnswers,
    memory: &Memory,
    slots: Option<&Slots>,
) -> Result<rec::Thread, KindError> {
    let stopped = &frozen.stopped;
    let mut general = answers.registers.clone();
    let detour = slots.zip(launch::decode(&general)).and_then(|(slots, regs)| slots.home(&regs));
    let interrupted = match detour {
        Some((home, call)) => {
            general = encode(&home);
            call.map(|(nr, left)| interrupted::limited(nr, left))
        }
        None => interrupted::export(&general, memory, frozen.asleep)?,
    };
    let debug = stopped.debug_registers().step("reading its debug registers")?;
    let (robust_list, robust_list_len) = sys_process::robust_list(thread.tid).step("reading its robust list")?;
    let dispatch = answers.syscall_dispatch;
    let status = &thread.status;
    let speculation = answers.speculation.iter().enumerate().filter_map(|(which, value)| {
        let value = value.filter(|v| v & SPEC_PRCTL != 0 && v & !SPEC_PRCTL != SPEC_ENABLE)?;
        Some(rec::SpecCtrl { which: which as u32, value: value & !SPEC_PRCTL })
    });
    Ok(rec::Thread {
        tid: thread.tid,
        interrupted,
        registers: Some(rec::Registers {
            general,
            xstate: stopped.xstate().step("reading its vector registers")?,
            debug: if debug[5].trailing_zeros() >= 8 {
                Vec::new()
            } else {
                debug.iter().flat_map(|d| d.to_ne_bytes()).collect()
            },
        }),
        signal_mask: answers.signal_mask,
        pending: signal::pending(stopped, false, status.sig_pending)?,
        alt_stack: (answers.alt_stack.1 & SS_DISABLE == 0).then_some(rec::AltStack {
            sp: answers.alt_stack.0,
            flags: answers.alt_stack.1,
            size: answers.alt_stack.2,
        }),
        clear_child_tid: answers.clear_child_tid,
        robust_list: robust_list.0,
        robust_list_len,
        rseq: answers.rseq.map(|(address, size, signature, flags)| rec::Rseq { address, size, signature, flags }),
        cred: Some(cred::of(status, answers.securebits)),
        pdeath_signal: answers.pdeath_signal,
        no_new_privs: status.no_new_privs,
        seccomp_mode: status.seccomp,
        personality: answers.personality as u64,
        timer_slack_ns: answers.timer_slack_ns,
        tsc_mode: answers.tsc_mode,
        cpuid_mode: answers.cpuid.map_or(0, |enabled| 1 + u32::from(enabled)),
        spec_ctrl: speculation.collect(),
        syscall_dispatch: (dispatch.0 != 0).then_some(rec::SyscallDispatch {
            mode: dispatch.0,
            selector: dispatch.1,
            offset: dispatch.2,
            len: dispatch.3,
        }),
        mce_kill: answers.mce_kill.map_or(0, |v| v + 1),
        mempolicy: answers.mempolicy.clone(),
        request_key_keyring: answers.request_key_keyring,
        tls: stopped.tls_entries().step("reading its entries of the descriptor table")?.concat(),
        keep_caps: answers.securebits & cred::SECBIT_KEEP_CAPS != 0,
        ..rec::Thread::default()
    })
}

/// The stubs of a process in the order of its record's threads.
fn stubs(building: &mut Building) -> impl Iterator<Item = &mut Stub> {
    building.leader.iter_mut().chain(building.threads.iter_mut())
}

/// Makes the other threads of every process and gives all of them their attributes and credentials.
pub fn finish(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let mut apart = apart::reunite(cx)?.into_iter().peekable();
    let model = cx.model;
    let Some(first) = cx.building.first() else { return Ok(()) };
    let read = ProcDir::open(first.pid).and_then(|d| Ok((proc::read_status(&d)?, proc::read_limits(&d)?)));
    let (own, own_limits) = read.step("looking at a new process")?;
    let now = cred::of(&own, cred::own_securebits());
    for (i, record) in model.processes.iter().enumerate() {
        let (Some((_, others)), Some(leader)) = (record.threads.split_first(), cx.building[i].leader.as_mut()) else {
            continue;
        };
        if others.is_empty() {
            continue;
        }
        let new = cx.options.pids == Pids::New;
        let mut there: HashMap<usize, Stub> = HashMap::new();
        while let Some((at, stub)) = apart.next_if(|(at, _)| at.process == i) {
            there.insert(at.thread, stub);
        }
        let missing = others.iter().enumerate().filter(|(k, _)| !there.contains_key(&(k + 1)));
        let wanted: Vec<(Pid, u64)> = missing.map(|(_, t)| (if new { 0 } else { t.tid }, t.clear_child_tid)).collect();
        let mut made = leader.spawn_threads(&wanted).map_err(|e| remote(record.pid, e))?.into_iter();
        let threads = (1..=others.len()).filter_map(|nth| there.remove(&nth).or_else(|| made.next()));
        let threads: Vec<Stub> = threads.collect();
        for (stub, thread) in threads.iter().zip(others) {
            let tid = thread.tid;
            stub.thread.set_signal_mask(tree::BUILDING_MASK).step_on(
                record.pid,
                || format!("tid {tid}"),
                "blocking its signals",
            )?;
            cx.pids.insert(tid, stub.thread.tid());
        }
        cx.building[i].threads = threads;
    }
    let mut batches = Vec::new();
    let mut notes = Vec::new();
    for (i, record) in model.processes.iter().enumerate().filter(|(_, p)| p.zombie.is_none()) {
        for (nth, thread) in record.threads.iter().enumerate() {
            let mut batch = Batch::new();
            if nth == 0 {
                limits::queue(&mut batch, record, &own_limits, &now, &mut |subject, text| {
                    notes.push(rec::Note { pid: record.pid, kind: "rlimit".into(), subject, text });
                });
            }
            if nth == 0 && record.leader_dead {
                name::give(&mut batch, thread);
            } else {
                let on = |e: KindError| e.on(record.pid, format!("tid {}", thread.tid));
                attributes(&mut batch, cx, i, thread);
                if let Some(wanted) = &thread.cred {
                    cred::queue(&mut batch, wanted, &now).map_err(on)?;
                }
                last_attributes(&mut batch, cx, i, thread);
            }
            batches.push(batch);
        }
    }
    let mut next = batches.iter();
    let mut work = Vec::new();
    let mut whose = Vec::new();
    for (building, record) in cx.building.iter_mut().zip(&model.processes).filter(|(_, p)| p.zombie.is_none()) {
        for (stub, thread) in stubs(building).zip(&record.threads) {
            let batch = next.next().expect("one batch a thread");
            if !batch.is_empty() {
                signal::hold_traps(&stub.thread, &thread.pending).map_err(|e| e.on(record.pid, "pending signals"))?;
                work.push((stub, batch));
                whose.push((record.pid, thread.tid));
            }
        }
    }
    for (result, (pid, tid)) in Stub::run_all_to_trap(&mut work).into_iter().zip(whose) {
        result.map_err(|e| cred::explain(KindError::new("rebuilding the thread", e).on(pid, format!("tid {tid}"))))?;
    }
    // All were made by the first, directly or not, and have what it has.
    let now = sched::Now::of(cx.building[0].pid);
    for (building, record) in cx.building.iter_mut().zip(&model.processes) {
        for (stub, thread) in stubs(building).zip(&record.threads) {
            if let Some(wanted) = &thread.sched {
                sched::import(stub.thread.tid(), wanted, &now, &mut |subject, text| {
                    notes.push(rec::Note { pid: record.pid, kind: "sched".into(), subject, text });
                });
            }
        }
    }
    cx.notes.append(&mut notes);
    process::last(cx);
    Ok(())
}

/// Queues what needs no right that the program might not have.
fn attributes(batch: &mut Batch, cx: &ImportCx<'_>, index: usize, t: &rec::Thread) {
    name::give(batch, t);
    batch.call("set_tid_address", nr::SET_TID_ADDRESS, &[t.clear_child_tid.into()]);
    if t.robust_list != 0 {
        let args = [t.robust_list.into(), t.robust_list_len.into()];
        batch.call("set_robust_list", nr::SET_ROBUST_LIST, &args);
    }
    if let Some(stack) = &t.alt_stack {
        let mut bytes = stack.sp.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&((stack.flags & !SS_ONSTACK) as u64).to_ne_bytes());
        bytes.extend_from_slice(&stack.size.to_ne_bytes());
        let data = batch.data(&bytes);
        batch.call("sigaltstack", nr::SIGALTSTACK, &[data.into(), 0.into()]);
    }
    if let Some(r) = &t.rseq {
        let args = [r.address.into(), r.size.into(), r.flags.into(), r.signature.into()];
        batch.call("rseq", nr::RSEQ, &args);
    }
    if t.personality != 0 {
        batch.call("personality", nr::PERSONALITY, &[t.personality.into()]);
    }
    if t.timer_slack_ns != 0 && t.timer_slack_ns != DEFAULT_SLACK_NS {
        batch.call("PR_SET_TIMERSLACK", nr::PRCTL, &[PR_SET_TIMERSLACK.into(), t.timer_slack_ns.into()]);
    }
    if !t.mempolicy.is_empty() {
        super::memory::policy::set_mempolicy(batch, &t.mempolicy);
    }
    if t.tsc_mode > 1 {
        batch.call("PR_SET_TSC", nr::PRCTL, &[PR_SET_TSC.into(), t.tsc_mode.into()]);
    }
    if t.cpuid_mode == 1 {
        batch.call("ARCH_SET_CPUID", nr::ARCH_PRCTL, &[ARCH_SET_CPUID.into(), 0.into()]);
    }
    if let Some(value) = t.mce_kill.checked_sub(1).filter(|v| *v != MCE_KILL_DEFAULT) {
        // PR_MCE_KILL_SET
        batch.call("PR_MCE_KILL", nr::PRCTL, &[PR_MCE_KILL.into(), 1.into(), value.into()]);
    }
    super::keyring::choose(batch, t.request_key_keyring);
    for s in &t.spec_ctrl {
        let args = [PR_SET_SPECULATION_CTRL.into(), s.which.into(), s.value.into()];
        batch.call(format!("PR_SET_SPECULATION_CTRL of switch {}", s.which), nr::PRCTL, &args);
    }
    let tgid = cx.building[index].pid;
    signal::queue(batch, &t.pending, tgid, Some(cx.pid(t.tid)), &|p| cx.pid(p));
}

/// Queues what has to come after the credentials.
fn last_attributes(batch: &mut Batch, cx: &mut ImportCx<'_>, index: usize, t: &rec::Thread) {
    if t.pdeath_signal != 0 {
        if index == 0 && cx.options.detach {
            // Its parent is ghost, which is about to go: the program would take that for the death of its own parent.
            cx.notes.push(rec::Note {
                pid: cx.record(index).pid,
                kind: "pdeath_signal".into(),
                subject: format!("thread {}", t.tid),
                text: format!(
                    "signal {} at the death of its parent is off: it has no parent any more",
                    t.pdeath_signal
                ),
            });
        } else {
            batch.call("PR_SET_PDEATHSIG", nr::PRCTL, &[PR_SET_PDEATHSIG.into(), t.pdeath_signal.into()]);
        }
    }
    if t.no_new_privs {
        batch.call(
            "PR_SET_NO_NEW_PRIVS",
            nr::PRCTL,
            &[PR_SET_NO_NEW_PRIVS.into(), 1.into(), 0.into(), 0.into(), 0.into()],
        );
    }
}
