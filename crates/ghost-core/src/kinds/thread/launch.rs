//! The last steps: seccomp, calls continued, the executor unmapped, registers; then all threads go.
//!
//! [`settle`] brings every thread into the trap in which the kernel judges interrupted calls ([`Stopped::trap`]), where it has
//! its final state and only has to be let go. All of it can still be undone: the threads end with ghost. [`go`] lets them go.

use super::interrupted::{self, Continue, Plan};
use super::stubs;
use crate::detour::Slots;
use crate::error::{Context, KindError};
use crate::failpoint;
use crate::freeze::signal;
use crate::import::{Building, ImportCx, first_users};
use crate::kinds;
use crate::model::Model;
use crate::names::Names;
use ghost_image::record as rec;
use ghost_image::record::vma::Special;
use ghost_sys::proc::{self, ProcDir};
use ghost_sys::ptrace::{self, NT_PRSTATUS, Registers, Stopped, Waited};
use ghost_sys::remote::{Batch, Executor, Memory, RemoteAddr, RemoteError, Stub};
use ghost_sys::{Errno, Pid, nr, pidfd};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

const SECCOMP_SET_MODE_STRICT: u32 = 0;
const SECCOMP_SET_MODE_FILTER: u32 = 1;
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// Gives every thread its registers and takes the executor away; all are stopped before their first instruction.
pub fn settle(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let model = cx.model;
    let users = first_users(model);
    let mut instructions: HashMap<u32, u64> = HashMap::new();
    let mut hint = None;
    for (building, record) in cx.building.iter_mut().zip(&model.processes) {
        let Some(leader) = building.leader.as_mut() else { continue };
        let on = |e: KindError| e.on(record.pid, "");
        for (stub, thread) in stubs_of(leader, &mut building.threads).zip(&record.threads) {
            if thread.seccomp_mode == 0 {
                continue;
            }
            if !stub.thread.prepare_calls().step("making its thread ready").map_err(on)? {
                let e = KindError::conflict(
                    "putting it under seccomp",
                    "ghost may not suspend seccomp while it works inside",
                );
                return Err(e.on(record.pid, format!("tid {}", thread.tid)).advise(
                    "restart it with CAP_SYS_ADMIN in the initial user namespace, from under no seccomp filter",
                ));
            }
            seccomp(stub, thread, model).map_err(|e| e.on(record.pid, format!("tid {}", thread.tid)))?;
            failpoint::hit("settle.filters")?;
        }
        let leader = building.leader.as_ref().expect("it was there a moment ago");
        if let std::collections::hash_map::Entry::Vacant(entry) = instructions.entry(record.mm_id) {
            let found = syscall_instruction(model, record.mm_id, leader.memory(), hint).map_err(on)?;
            hint = Some(*entry.insert(found));
        }
    }
    for (building, record) in cx.building.iter_mut().zip(&model.processes) {
        for (stub, thread) in stubs(building).zip(&record.threads) {
            let what = || format!("tid {}", thread.tid);
            stub.thread.begin_trap().step_on(record.pid, what, "bringing it to its trap")?;
            failpoint::hit("settle.begin")?;
        }
    }
    for (building, record) in cx.building.iter_mut().zip(&model.processes) {
        // Whoever waits for the last finds the others there.
        let all: Vec<_> = stubs(building).zip(&record.threads).collect();
        for (stub, thread) in all.into_iter().rev() {
            let what = || format!("tid {}", thread.tid);
            stub.thread.end_trap().step_on(record.pid, what, "bringing it to its trap")?;
            failpoint::hit("settle.trap")?;
        }
    }
    let ends = continue_calls(cx, &instructions)?;
    let (base, len) = (cx.layout.base.0, cx.layout.len());
    let mut unmapping = Vec::with_capacity(users.len());
    let mut whose = Vec::with_capacity(users.len());
    for (mm_id, index) in users {
        let Some(leader) = cx.building[index].leader.as_ref() else { continue };
        unmapping.push((&leader.thread, instructions[&mm_id], nr::MUNMAP, [base, len, 0, 0, 0, 0]));
        whose.push(model.processes[index].pid);
    }
    for (gone, pid) in Stopped::call_each(&unmapping).into_iter().zip(whose) {
        let gone = gone.and_then(Errno::check);
        gone.step_on(pid, String::new, "unmapping ghost's own code")?;
        failpoint::hit("settle.unmapped")?;
    }
    for ((building, record), ends) in cx.building.iter_mut().zip(&model.processes).zip(ends) {
        for ((nth, (stub, thread)), end) in stubs(building).zip(&record.threads).enumerate().zip(ends) {
            let done = if nth == 0 && record.leader_dead {
                end_leader(&stub.thread, instructions[&record.mm_id], record.leader_exit_status)
            } else {
                state(&stub.thread, thread, end)
            };
            done.map_err(|e| e.on(record.pid, format!("tid {}", thread.tid)))?;
            failpoint::hit("settle.registers")?;
        }
    }
    Ok(())
}

/// A call that a thread has to be put back into.
struct Continued<'a> {
    /// Which process and thread it is.
    at: (usize, usize),
    thread: &'a Stopped,
    instruction: u64,
    call: interrupted::Call,
}

/// Calls that are continued at the same time, by all processes together; a process has room for its own threads besides.
const CALLS_AT_ONCE: usize = 4096;

/// Queues signals of faults, and puts each thread into the call in which it was stopped; how each goes on, by process.
fn continue_calls(
    cx: &ImportCx<'_>,
    instructions: &HashMap<u32, u64>,
) -> Result<Vec<Vec<Option<Continue>>>, KindError> {
    let model = cx.model;
    // Continued calls need a little room, which the executor still has.
    let scratch = cx.layout.base.plus(4096);
    let mut ends: Vec<Vec<Option<Continue>>> = Vec::new();
    let mut calls = Vec::new();
    for (index, (building, record)) in cx.building.iter().zip(&model.processes).enumerate() {
        let mut of_process = Vec::new();
        let mut slots = slots(model, record, building)?;
        let (pid, mut times) = (building.pid, Vec::new());
        let here = scratch.plus((calls.len() * interrupted::TIME_LEN) as u64);
        let stubs = || building.leader.iter().chain(&building.threads);
        for (nth, (stub, thread)) in stubs().zip(&record.threads).enumerate() {
            let what = || format!("tid {}", thread.tid);
            for fault in thread.pending.iter().filter(|i| kinds::signal::is_fault(i)) {
                // Blocked until the thread goes.
                stub.thread.set_signal_mask(u64::MAX).step_on(record.pid, what, "blocking its signals")?;
                let place = (stub.memory(), here);
                kinds::signal::queue_fault(&stub.thread, fault, place, instructions[&record.mm_id], pid)
                    .map_err(|e| e.on(record.pid, what()))?;
            }
            failpoint::hit("settle.continue")?;
            let registers = thread.registers.as_ref().and_then(|r| decode(&r.general));
            let (Some(i), Some(regs)) = (&thread.interrupted, registers) else {
                of_process.push(None);
                continue;
            };
            let room = scratch.plus((calls.len() * interrupted::TIME_LEN) as u64);
            of_process.push(match interrupted::plan(i, &regs, room, slots.as_mut()) {
                Plan::Known(end) => Some(end),
                Plan::Call(call) => {
                    times.extend_from_slice(&call.time);
                    let instruction = instructions[&record.mm_id];
                    calls.push(Continued { at: (index, nth), thread: &stub.thread, instruction, call });
                    None
                }
            });
        }
        if let Some(stub) = stubs().next().filter(|_| !times.is_empty()) {
            stub.memory().write(here, &times).step_on(record.pid, String::new, "continuing its system calls")?;
        }
        ends.push(of_process);
        if calls.len() >= CALLS_AT_ONCE {
            make_calls(model, &mut calls, &mut ends)?;
        }
    }
    make_calls(model, &mut calls, &mut ends)?;
    Ok(ends)
}

/// Makes these calls, and notes how their threads go on.
fn make_calls(
    model: &Model,
    calls: &mut Vec<Continued<'_>>,
    ends: &mut [Vec<Option<Continue>>],
) -> Result<(), KindError> {
    let work: Vec<_> = calls.iter().map(|c| (c.thread, c.instruction, c.call.nr, c.call.args)).collect();
    for (value, Continued { at: (index, nth), call, .. }) in
        Stopped::call_interrupted_each(&work).into_iter().zip(calls.drain(..))
    {
        let record = &model.processes[index];
        let what = || format!("tid {}", record.threads[nth].tid);
        let value = value.step_on(record.pid, what, "continuing its system call")?;
        ends[index][nth] = Some(call.end(value));
    }
    Ok(())
}

/// The detours of a new process: those that its ghost had, at the same place.
fn slots(model: &Model, record: &rec::Process, building: &Building) -> Result<Option<Slots>, KindError> {
    let (Some(leader), Some(mm)) = (building.leader.as_ref(), model.mm(record.mm_id)) else { return Ok(None) };
    let Some(vdso) = mm.vmas.iter().find(|v| v.special() == Special::Vdso) else { return Ok(None) };
    if !mm.detours.is_empty() {
        let (at, len) = (mm.detours_at, mm.detours.len() as u64);
        if at < vdso.start || len > 4096 || at + len > vdso.end {
            return Err(
                KindError::conflict("reading the records", "its detours are not in its vDSO").on(record.pid, "")
            );
        }
        leader.memory().write_forced(RemoteAddr(at), &mm.detours).step_on(
            record.pid,
            String::new,
            "writing its detours",
        )?;
    }
    Ok(Slots::at(leader.memory().share(), vdso.start))
}

fn stubs_of<'a>(leader: &'a mut Stub, threads: &'a mut [Stub]) -> impl Iterator<Item = &'a mut Stub> {
    std::iter::once(leader).chain(threads)
}

/// Installs the seccomp programs of one thread, oldest first; each thread its own copy.
fn seccomp(stub: &mut Stub, thread: &rec::Thread, model: &Model) -> Result<(), KindError> {
    if thread.seccomp_mode == 1 {
        let mut batch = Batch::new();
        batch.call("seccomp strict", nr::SECCOMP, &[SECCOMP_SET_MODE_STRICT.into(), 0.into(), 0.into()]);
        stub.run(&batch).step("putting it under strict seccomp")?;
        return Ok(());
    }
    if thread.seccomp_filter_ids.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new();
    for id in &thread.seccomp_filter_ids {
        let filter = model.seccomp_filters.iter().find(|f| f.id == *id);
        let Some(filter) = filter.filter(|f| f.program.len() % 8 == 0) else {
            return Err(KindError::conflict("reading its seccomp filters", format!("the ghost has no filter {id}")));
        };
        let program = batch.data(&filter.program);
        // struct sock_fprog: the number of instructions and where they are.
        let header = batch.data(&[(filter.program.len() as u64 / 8).to_ne_bytes(), [0; 8]].concat());
        batch.point(header.at(8), program);
        let args = [SECCOMP_SET_MODE_FILTER.into(), filter.flags.into(), header.into()];
        batch.call(format!("seccomp filter {id}"), nr::SECCOMP, &args);
    }
    stub.run(&batch).step("putting it under seccomp").map(drop)
}

/// A `syscall` instruction that the program itself has mapped: in its vDSO, else in any of its code.
///
/// Mostly it is at the same address as in another process (`hint`).
fn syscall_instruction(model: &Model, mm_id: u32, memory: &Memory, hint: Option<u64>) -> Result<u64, KindError> {
    let mm =
        model.mm(mm_id).ok_or_else(|| KindError::conflict("reading the records", "an address space is missing"))?;
    let code = |vdso: bool| {
        mm.vmas.iter().filter(move |v| v.prot & libc::PROT_EXEC as u32 != 0 && (v.special() == Special::Vdso) == vdso)
    };
    let is_inside = |at: u64| code(true).chain(code(false)).any(|v| v.start <= at && at + 2 <= v.end);
    if let Some(at) = hint.filter(|at| is_inside(*at)) {
        let mut bytes = [0; 2];
        if memory.read(RemoteAddr(at), &mut bytes).is_ok() && bytes == SYSCALL {
            return Ok(at);
        }
    }
    for vma in code(true).chain(code(false)) {
        let mut at = vma.start;
        while at < vma.end {
            // A byte more than a step, for an instruction across its end.
            let mut bytes = vec![0; ((vma.end - at) as usize).min((1 << 20) + 1)];
            if memory.read(RemoteAddr(at), &mut bytes).is_err() {
                break;
            }
            if let Some(found) = bytes.windows(2).position(|w| w == SYSCALL) {
                return Ok(at + found as u64);
            }
            at += 1 << 20;
        }
    }
    Err(KindError::conflict(
        "unmapping ghost's own code",
        "the program has no system call instruction in any of its code",
    ))
}

/// NT_PRSTATUS as bytes, the other way round.
pub(crate) fn encode(r: &Registers) -> Vec<u8> {
    let words = [
        r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10, r.r9, r.r8, r.rax, r.rcx, r.rdx, r.rsi, r.rdi,
        r.orig_rax, r.rip, r.cs, r.eflags, r.rsp, r.ss, r.fs_base, r.gs_base, r.ds, r.es, r.fs, r.gs,
    ];
    words.iter().flat_map(|w| w.to_ne_bytes()).collect()
}

/// NT_PRSTATUS as it is written in a ghost.
pub(super) fn decode(general: &[u8]) -> Option<Registers> {
    let word = |i: usize| general.get(i * 8..i * 8 + 8).map(|b| u64::from_ne_bytes(b.try_into().expect("eight bytes")));
    (general.len() == size_of::<Registers>()).then_some(())?;
    // The order of `struct user_regs_struct`.
    let [r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax, rip, cs, eflags, rsp, ss] =
        std::array::from_fn(|i| word(i).unwrap_or(0));
    let [fs_base, gs_base, ds, es, fs, gs] = std::array::from_fn(|i| word(21 + i).unwrap_or(0));
    Some(Registers {
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r11,
        r10,
        r9,
        r8,
        rax,
        rcx,
        rdx,
        rsi,
        rdi,
        orig_rax,
        rip,
        cs,
        eflags,
        rsp,
        ss,
        fs_base,
        gs_base,
        ds,
        es,
        fs,
        gs,
    })
}

/// Everything that only the tracer can set, registers last.
fn state(thread: &Stopped, record: &rec::Thread, end: Option<Continue>) -> Result<(), KindError> {
    let Some(registers) = &record.registers else {
        return Err(KindError::conflict("setting its registers", "the ghost has none for it"));
    };
    thread.set_xstate(&registers.xstate).map_err(|e| {
        KindError::new("setting its vector registers", e).advise(
            "this CPU lacks a feature that the program used: restart it on a host with the CPU that the ghost names",
        )
    })?;
    if registers.debug.len() == 48 {
        let word = |i: usize| u64::from_ne_bytes(registers.debug[i * 8..i * 8 + 8].try_into().expect("eight bytes"));
        thread.set_debug_registers(&std::array::from_fn(word)).step("setting its debug registers")?;
    }
    if let Some(d) = &record.syscall_dispatch {
        let config = (d.mode, d.selector, d.offset, d.len);
        thread.set_syscall_dispatch(config).step("setting its syscall user dispatch")?;
    }
    // Before the registers, which may select them.
    for entry in record.tls.as_chunks().0 {
        thread.set_tls_entry(entry).step("setting its entries of the descriptor table")?;
    }
    thread.set_signal_mask(record.signal_mask).step("setting its signal mask")?;
    match (end, decode(&registers.general)) {
        (Some(Continue::Registers(regs)), _) => thread.set_registers(&regs).step("setting its registers"),
        (Some(Continue::Returned(value)), Some(regs)) => {
            let regs = Registers { rax: value as u64, orig_rax: u64::MAX, ..regs };
            thread.set_registers(&regs).step("setting its registers")
        }
        _ => thread.set_regset(NT_PRSTATUS, &registers.general).step("setting its registers"),
    }
}

/// A leader that has ended before its threads ends again as soon as it goes.
fn end_leader(thread: &Stopped, at: u64, status: u32) -> Result<(), KindError> {
    let now = thread.registers().step("reading its registers")?;
    let regs =
        Registers { rip: at, rax: nr::EXIT as u64, rdi: u64::from(status >> 8 & 0xff), orig_rax: u64::MAX, ..now };
    thread.set_registers(&regs).step("setting its registers")
}

/// How long a stopped process may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Lets every thread go: all, or none is left. Processes that were stopped come first, children before parents.
///
/// A process ends with ghost until the last of its threads is let go, which is the kernel's doing (PTRACE_O_EXITKILL). Where there are
/// several, or one in several steps, those that are let go first would live on, so an undertaker ends them if ghost dies before it is through
/// ([`Names::let_go`]). Those inotifies are emptied when no child of ghost's is left that could still close what they watch.
pub fn go(model: &Model, building: Vec<Building>, names: &mut Names, inotifies: Vec<OwnedFd>) -> Result<(), KindError> {
    let alive = building.iter().filter(|b| b.leader.is_some());
    let all: ghost_sys::Result<Vec<OwnedFd>> = alive.map(|b| pidfd::open(b.pid)).collect();
    let all = all.step("holding the new processes")?;
    // A process that is let go to be stopped has its true signal mask only when it has stopped.
    let in_steps = all.len() > 1 || model.processes.iter().any(|p| p.stopped || p.continue_report_pending);
    names.let_go(&all, in_steps).step("making ready to let them go")?;
    kinds::fd::inotify::drain_all(&inotifies);
    drop(inotifies);
    let mut building: Vec<Option<Building>> = building.into_iter().map(Some).collect();
    let gone = release_all(model, &mut building);
    if gone.is_err() {
        for process in &all {
            // Those that have ended already need no more.
            let _ = pidfd::signal(process.as_fd(), libc::SIGKILL);
        }
        // The stubs see to the ends of those that were not let go.
        drop(building);
        for process in &all {
            let _ = pidfd::reap(process.as_fd(), STOP_LIMIT);
        }
        return gone;
    }
    names.keep();
    Ok(())
}

fn release_all(model: &Model, building: &mut [Option<Building>]) -> Result<(), KindError> {
    let index: HashMap<Pid, usize> = model.processes.iter().enumerate().map(|(i, p)| (p.pid, i)).collect();
    for (i, (building, record)) in building.iter_mut().zip(&model.processes).enumerate() {
        if let Some(building) = building.as_mut().filter(|_| record.leader_dead) {
            end_leader_first(building, record, i == 0)?;
        }
    }
    for (i, record) in model.processes.iter().enumerate().rev() {
        if !record.stopped && !record.continue_report_pending {
            continue;
        }
        let Some(stopping) = building[i].take_if(|b| b.leader.is_some() || !b.threads.is_empty()) else { continue };
        let pid = stopping.pid;
        // The signal waits for the process to go and stops it before its first instruction.
        failpoint::hit("go.stopping")?;
        let on = |e: KindError| e.on(record.pid, "");
        let masks = hold_back(&stopping, stop_signal(record)).step("stopping it as it was").map_err(on)?;
        signal(pid, stop_signal(record)).step_on(record.pid, String::new, "stopping it as it was")?;
        release(stopping, record.pid, i == 0)?;
        wait_until_stopped(pid, record)?;
        failpoint::hit("go.stopped")?;
        unmask(&masks).step("stopping it as it was").map_err(on)?;
        if !record.stopped {
            signal(pid, libc::SIGCONT).step_on(record.pid, String::new, "continuing it as it was")?;
        }
        let parent = index.get(&record.ppid).copied();
        if let Some((parent, Some(building))) = parent.map(|p| (&model.processes[p], building[p].as_ref())) {
            let keeps_report = record.stop_report_pending || record.continue_report_pending;
            settle_parent(model, parent, building, pid, keeps_report).step_on(
                parent.pid,
                || format!("child {}", record.pid),
                "taking back the news of its child's stop",
            )?;
        }
    }
    for (i, (building, record)) in building.iter_mut().zip(&model.processes).enumerate() {
        if let Some(building) = building.take() {
            release(building, record.pid, i == 0)?;
        }
    }
    Ok(())
}

/// Blocks every signal but those that stop: one that waits for the process would come before the stop, and it may be its end.
/// Gives back the mask of each thread.
fn hold_back(building: &Building, stop: i32) -> ghost_sys::Result<Vec<(Pid, u64)>> {
    let threads = building.threads.iter().chain(&building.leader).map(|stub| &stub.thread);
    threads
        .map(|thread| {
            let mask = thread.signal_mask()?;
            thread.set_signal_mask(!(1 << (stop - 1)))?;
            Ok((thread.tid(), mask))
        })
        .collect()
}

/// Gives the threads of a stopped process their masks back; they stay stopped (kernel `__ptrace_unlink`).
fn unmask(masks: &[(Pid, u64)]) -> ghost_sys::Result<()> {
    for &(tid, mask) in masks {
        if let Waited::Stopped(thread, _) = ptrace::seize(tid, 0)?.stop()? {
            thread.set_signal_mask(mask)?;
            thread.detach()?;
        }
    }
    Ok(())
}

/// How long the news of a stop may take to reach the parent.
const NEWS_LIMIT: Duration = Duration::from_millis(100);

/// Takes back what a parent has heard of its child's stop while the tree was built: the signal, and the report of wait(2).
fn settle_parent(
    model: &Model,
    record: &rec::Process,
    building: &Building,
    child: Pid,
    keeps_report: bool,
) -> ghost_sys::Result<()> {
    let Some(stub) = building.leader.iter().chain(&building.threads).next() else { return Ok(()) };
    let thread = &stub.thread;
    let action = record.actions.iter().find(|a| a.signal == libc::SIGCHLD as u32);
    let hears = action.is_none_or(|a| a.handler != 1 && a.flags & libc::SA_NOCLDSTOP as u64 == 0);
    let is_news = |info: &rec::SigInfo| info.raw.starts_with(&libc::SIGCHLD.to_ne_bytes());
    if hears && !record.pending.iter().any(is_news) {
        let began = Instant::now();
        while !thread.has_pending(libc::SIGCHLD)? && began.elapsed() < NEWS_LIMIT {
            std::thread::sleep(Duration::from_micros(100));
        }
        thread.discard(libc::SIGCHLD)?;
    }
    if !keeps_report {
        let at = syscall_instruction(model, record.mm_id, stub.memory(), None).map_err(|_| Errno(libc::ENOEXEC))?;
        let (general, mask) = (thread.regset(NT_PRSTATUS)?, thread.signal_mask()?);
        thread.set_signal_mask(u64::MAX)?;
        let how = (libc::WUNTRACED | libc::WNOHANG) as u64;
        thread.call(at, nr::WAIT4, [child as u64, 0, how, 0, 0, 0])?;
        thread.set_signal_mask(mask)?;
        thread.set_regset(NT_PRSTATUS, &general)?;
    }
    Ok(())
}

/// The signal that stopped it, if that still would: else SIGSTOP, which differs only in what wait(2) tells.
fn stop_signal(record: &rec::Process) -> i32 {
    let signal = record.stop_signal;
    let handled = record.actions.iter().any(|a| a.signal == signal);
    let blocked =
        record.threads.iter().any(|t| t.signal_mask.checked_shr(signal.wrapping_sub(1)).unwrap_or(0) & 1 != 0);
    let stops = matches!(signal as i32, libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU);
    if stops && record.stop_report_pending && !handled && !blocked { signal as i32 } else { libc::SIGSTOP }
}

fn wait_until_stopped(pid: Pid, record: &rec::Process) -> Result<(), KindError> {
    let began = Instant::now();
    let dir = ProcDir::open(pid).step_on(record.pid, String::new, "looking whether it has stopped")?;
    let mut asked = false;
    loop {
        let stat = proc::read_stat(&dir).step_on(record.pid, String::new, "looking whether it has stopped")?;
        if stat.state == b'T' {
            return Ok(());
        }
        if began.elapsed() > STOP_LIMIT / 50 && !asked {
            // In an orphaned group the terminal's stop signals do nothing.
            asked = true;
            signal(pid, libc::SIGSTOP).step_on(record.pid, String::new, "stopping it as it was")?;
        }
        if began.elapsed() > STOP_LIMIT {
            return Err(KindError::conflict("stopping it as it was", "it does not stop").on(record.pid, ""));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A leader that had ended must have ended before its threads go on: they can see it.
fn end_leader_first(building: &mut Building, record: &rec::Process, is_root: bool) -> Result<(), KindError> {
    let Some(leader) = building.leader.take() else { return Ok(()) };
    let_go(leader, record.pid, is_root)?;
    let began = Instant::now();
    while proc::state(building.pid, building.pid) != Some(b'Z') && began.elapsed() < STOP_LIMIT {
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(())
}

fn release(building: Building, old: Pid, is_root: bool) -> Result<(), KindError> {
    building.threads.into_iter().chain(building.leader).try_for_each(|stub| let_go(stub, old, is_root))
}

fn let_go(stub: Stub, old: Pid, is_root: bool) -> Result<(), KindError> {
    let tid = stub.thread.tid();
    failpoint::hit("go.thread")?;
    // Already in its trap, where it stays: its registers are set. Those of the tree that run already may have ended it: then
    // it only remains to take note of its end, so that its parent gets to know.
    let thread = match stub.into_thread() {
        Ok(thread) => thread,
        Err(RemoteError::Died(_)) => return Ok(()),
        Err(e) => return Err(KindError::new("letting it go", e).on(old, format!("tid {tid}"))),
    };
    // The end of the root is ghost's own child's: it is waited for as such.
    match if is_root { thread.detach() } else { thread.detach_or_end() } {
        Ok(()) | Err(Errno(libc::ESRCH)) => Ok(()),
        Err(e) => Err(KindError::new("letting it go", e).on(old, format!("tid {tid}"))),
    }
}
