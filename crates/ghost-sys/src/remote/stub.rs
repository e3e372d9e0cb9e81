//! Batches inside a process that is being built from nothing.
//!
//! A stub executes an image of one page (`process`) that lies where the caller wants it, with its room for batches
//! behind it; nothing else is in its address space but the vDSO and its data. Its batches end in a trap, so waiting is a plain
//! `waitpid`. Only when the batches have made SIGTRAP blocked or ignored, which a trap would undo, it sleeps at the end and ghost looks.
//!
//! Every stub is traced with `PTRACE_O_EXITKILL`: until [`Stub::into_thread`] it lives no longer than ghost, and a stub that is dropped
//! takes its process with it. Signals that reach it unblocked are thrown away: it is not yet the program that they may be meant for.
//!
//! Stubs that share memory (threads, `CLONE_VM`) share its room too, which is no matter as long as each runs alone;
//! [`Stub::run_all`] divides it. All calls must come from the host thread that made the first stub.

use super::births::first_stop;
use super::process::{self, Birth, Guard, StubPlaces};
use super::program::{self, Program};
use super::wait::{Seen, stop_in_sleep, wait_until_done};
use super::{Arg, Batch, Executor, Memory, Outcome, RemoteAddr, RemoteError};
use crate::ptrace::{Stop, Stopped};
use crate::{Errno, Pid, arch};
use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Room for batches that each further thread of a process needs, in bytes.
pub const THREAD_ROOM: u64 = 8192;

/// Where the executor lives in the address space of a process that is being built: one page of code, then
/// `data_len` bytes of room for batches; all of it lies in `base..base + StubLayout::len()`.
#[derive(Clone, Copy, Debug)]
pub struct StubLayout {
    /// First byte, page aligned.
    pub base: RemoteAddr,
    /// Room for batches in bytes, a multiple of the page size.
    pub data_len: u64,
}

impl StubLayout {
    /// Bytes taken in all.
    pub fn len(&self) -> u64 {
        4096 + self.data_len
    }
    /// Never.
    pub fn is_empty(&self) -> bool {
        false
    }
    fn room(&self) -> u64 {
        self.base.0 + 4096
    }
}

/// What a new process shares and where it begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForkOptions<'a> {
    /// Its pids, innermost pid namespace first; empty: any.
    pub pids: &'a [Pid],
    /// `CLONE_*` flags (sharing, namespaces, CLONE_PARENT).
    pub flags: u64,
    /// The signal that tells its parent of its end; 0: none.
    pub exit_signal: u32,
    /// A descriptor of the cgroup directory to start in, as the maker of the process has it.
    pub cgroup: Option<RawFd>,
}

/// One thread of a process under construction: it exists only to run batches until its registers are set.
#[derive(Debug)]
pub struct Stub {
    // Dropped first: kills the process before `thread` would let it run.
    pub(super) guard: Guard,
    /// The thread, stopped.
    pub thread: Stopped,
    /// The process it belongs to.
    pub pid: Pid,
    pub(super) memory: Memory,
    pub(super) layout: StubLayout,
    pub(super) places: StubPlaces,
    /// Whether pids are the same numbers for it and for ghost.
    pub(super) knows_pids: bool,
    /// Same for all that share an address space.
    pub(super) mm: Arc<()>,
    /// Whether SIGTRAP may not be at its default action; same for all that share signal actions.
    pub(super) trap_changed: Arc<AtomicBool>,
}

/// A batch under way.
pub(super) struct Started {
    pub(super) program: Program,
    /// It ends in sleep, not in a trap.
    quiet: bool,
}

pub(super) fn step(step: &'static str) -> impl Fn(Errno) -> RemoteError {
    move |errno| RemoteError::Step { step, errno }
}

impl Stub {
    /// Makes the first process: clone3 with the given pid (0: any), then a clean address space that holds only the
    /// executor at `layout` and the vDSO/vvar mappings. It inherits no descriptor but `keep` (same numbers); it dies if ghost dies.
    pub fn spawn(pid: Pid, layout: StubLayout, keep: &[RawFd]) -> Result<Self, RemoteError> {
        let pids = [pid];
        let pids = if pid == 0 { &pids[..0] } else { &pids[..] };
        Self::spawn_with(
            layout,
            keep,
            &ForkOptions { pids, exit_signal: libc::SIGCHLD as u32, ..ForkOptions::default() },
        )
    }

    /// The same with namespaces, a cgroup, or pids in nested pid namespaces.
    ///
    /// The process starts with default signal actions, no blocked signal and no rseq, robust list or clear_child_tid of its own.
    /// All else (credentials, limits, working directory, session) is the caller's.
    pub fn spawn_with(layout: StubLayout, keep: &[RawFd], options: &ForkOptions<'_>) -> Result<Self, RemoteError> {
        let birth = Birth {
            pids: options.pids,
            flags: options.flags,
            exit_signal: options.exit_signal,
            cgroup: options.cgroup,
            keep,
        };
        let (thread, process) = process::spawn(layout, &birth)?;
        let pid = thread.tid();
        // On an error it is dropped before the thread, which would let it run.
        let guard = Guard::new(&process, pid);
        let memory = Memory::open(pid).map_err(step("opening the memory of the new process"))?;
        let mut stub = Self {
            guard,
            thread,
            pid,
            memory,
            layout,
            places: StubPlaces::of(layout),
            knows_pids: false,
            mm: Arc::new(()),
            trap_changed: Arc::new(AtomicBool::new(false)),
        };
        let mut batch = Batch::new();
        for (start, len) in process::surplus(pid, layout).map_err(step("reading the new process's mappings"))? {
            batch.call("munmap of what exec made", libc::SYS_munmap, &[start.0.into(), len.into()]);
        }
        let known_as = batch.call("getpid", libc::SYS_getpid, &[]);
        // Of several pids one may be equal by chance.
        let alone = options.pids.len() <= 1 && options.flags & libc::CLONE_NEWPID as u64 == 0;
        stub.knows_pids = stub.run(&batch)?.result(known_as) == Ok(pid.into()) && alone;
        stub.leave_image()?;
        Ok(stub)
    }

    /// Moves the executor into memory of no file: the kernel lets a process name another executable (PR_SET_MM_MAP) only when
    /// nothing of the old one is mapped.
    fn leave_image(&mut self) -> Result<(), RemoteError> {
        let base = self.layout.base;
        let mut code = vec![0; 4096];
        self.memory.read(base, &mut code).map_err(step("reading the executor"))?;
        let (rw, rx) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
        let mut batch = Batch::new();
        let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let args = [0.into(), 4096.into(), rw.into(), private.into(), (-1).into(), 0.into()];
        let copy = batch.call("mmap for the executor", libc::SYS_mmap, &args);
        let copy = self.run(&batch)?.result(copy).map_err(step("mmap for the executor"))? as u64;
        self.memory.write(RemoteAddr(copy), &code).map_err(step("copying the executor"))?;
        let mut batch = Batch::new();
        batch.call("mprotect of the executor", libc::SYS_mprotect, &[copy.into(), 4096.into(), rx.into()]);
        // It comes back from this call into the copy: the same bytes at the same place.
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let args = [copy.into(), 4096.into(), 4096.into(), flags.into(), base.0.into()];
        batch.call("mremap of the executor", libc::SYS_mremap, &args);
        self.run(&batch).map(drop)
    }

    /// Runs one batch in each of several stubs at the same time.
    ///
    /// Stubs that share an address space share its room: when it is too small for all their batches, they run in turns.
    pub fn run_all(work: &mut [(&mut Stub, &Batch)]) -> Vec<Result<Outcome, RemoteError>> {
        Self::run_all_to(work, false, &mut || ())
    }

    /// Runs a batch; `beside` is done here meanwhile, once.
    pub fn run_beside(&mut self, batch: &Batch, beside: &mut dyn FnMut()) -> Result<Outcome, RemoteError> {
        let mut results = Self::run_all_to(&mut [(self, batch)], false, beside);
        results.pop().expect("one stub has one result")
    }

    /// The same; all stand in their trap afterwards ([`Stop::Trap`]), from where their registers can be set for good.
    pub fn run_all_to_trap(work: &mut [(&mut Stub, &Batch)]) -> Vec<Result<Outcome, RemoteError>> {
        Self::run_all_to(work, true, &mut || ())
    }

    /// `beside` is done after each launch of those that run at the same time.
    fn run_all_to(
        work: &mut [(&mut Stub, &Batch)],
        trap: bool,
        beside: &mut dyn FnMut(),
    ) -> Vec<Result<Outcome, RemoteError>> {
        let mut results: Vec<Option<Result<Outcome, RemoteError>>> = work.iter().map(|_| None).collect();
        let mut next = 0;
        while next < work.len() {
            let first = next;
            let mut used: HashMap<*const (), u64> = HashMap::new();
            let mut runs = Vec::new();
            while let Some((stub, batch)) = work.get_mut(next) {
                let used = used.entry(Arc::as_ptr(&stub.mm)).or_default();
                let size = (program::size(batch) as u64).next_multiple_of(64);
                if *used > 0 && *used + size > stub.layout.data_len {
                    break;
                }
                runs.push(stub.prepare(batch, *used, trap));
                *used += size;
                next += 1;
            }
            let work = &mut work[first..next];
            write_all(work, &mut runs);
            let then = |run: &mut Result<Started, RemoteError>,
                        next: &mut dyn FnMut(&Started) -> Result<(), RemoteError>| {
                if let Ok(started) = run
                    && let Err(e) = next(started)
                {
                    *run = Err(e);
                }
            };
            for ((stub, _), run) in work.iter_mut().zip(&mut runs) {
                then(run, &mut |run| stub.launch(run));
            }
            beside();
            // All are on their way to a stop before the first is waited for; whoever waits for the last finds mostly all others there.
            for ((stub, _), run) in work.iter_mut().zip(&mut runs).rev() {
                then(run, &mut |run| stub.halt(run, &mut None));
            }
            for ((stub, _), run) in work.iter_mut().zip(&mut runs).rev() {
                then(run, &mut |run| stub.stand(run, &mut None));
            }
            let answers = read_all(work, &mut runs);
            for ((((_, batch), run), answer), result) in work.iter().zip(runs).zip(answers).zip(&mut results[first..]) {
                *result = Some(run.and_then(|run| run.program.outcome_of(batch, &answer)));
            }
        }
        results.into_iter().map(|r| r.expect("every stub had its turn")).collect()
    }

    /// Makes one last call by a `syscall` instruction at `at` (in the process's own vDSO), for unmapping the executor itself.
    pub fn call_at(&mut self, at: RemoteAddr, nr: i64, args: [u64; 6]) -> Result<i64, RemoteError> {
        const WHAT: &str = "making a call outside the executor";
        let regs = self.thread.registers().map_err(step(WHAT))?;
        self.thread.set_registers(&arch::call_registers(&regs, at.0, nr, args)).map_err(step(WHAT))?;
        for _ in 0..2 {
            self.thread.run_to_syscall(0).map_err(step(WHAT))?;
            while self.next_stop(WHAT)? != Stop::Syscall {
                self.thread.run_to_syscall(0).map_err(step(WHAT))?;
            }
        }
        Ok(arch::return_value(&self.thread.registers().map_err(step(WHAT))?))
    }

    /// A `syscall` instruction in the process's vDSO, for [`Stub::call_at`].
    pub fn find_syscall_instruction(&self) -> Result<Option<RemoteAddr>, RemoteError> {
        const WHAT: &str = "looking for a system call instruction in the vDSO";
        let Some((start, len)) = process::vdso(self.pid).map_err(step(WHAT))? else { return Ok(None) };
        let mut code = vec![0; len as usize];
        self.memory.read(start, &mut code).map_err(step(WHAT))?;
        Ok(arch::find_syscall(&code).map(|i| start.plus(i as u64)))
    }

    /// Gives the thread out of hand, stopped in the kernel's signal path: set its registers and mask, then detach it.
    ///
    /// From here on it outlives ghost unless the caller keeps `PTRACE_O_EXITKILL` (which is on until changed or detached).
    pub fn into_thread(mut self) -> Result<Stopped, RemoteError> {
        self.thread.swallow();
        if let Err(status) = self.thread.settle().map_err(step("releasing a thread"))? {
            self.guard.disarm();
            return Err(RemoteError::Died(status));
        }
        self.guard.disarm();
        let Self { thread, .. } = self;
        Ok(thread)
    }

    /// Where the executor lies.
    pub fn layout(&self) -> StubLayout {
        self.layout
    }

    /// Whether the batch must not end in a trap: the trap would force SIGTRAP to its default action and unblock it.
    fn is_quiet(&self, batch: &Batch) -> Result<bool, RemoteError> {
        let calls = || batch.calls.iter().chain(&batch.epilogue);
        if calls().any(|c| c.nr == libc::SYS_rt_sigaction && !is_other_signal(c.args[0])) {
            self.trap_changed.store(true, Ordering::Relaxed);
        }
        let masks = calls().any(|c| c.nr == libc::SYS_rt_sigprocmask);
        if masks || self.trap_changed.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let mask = self.thread.signal_mask().map_err(step("reading the signal mask"))?;
        Ok(mask & 1 << (libc::SIGTRAP - 1) != 0)
    }

    /// Starts a batch.
    pub(super) fn start(&mut self, batch: &Batch) -> Result<Started, RemoteError> {
        let started = self.prepare(batch, 0, false)?;
        started.program.write(&self.memory).map_err(step("writing a batch"))?;
        self.launch(&started)?;
        Ok(started)
    }

    /// Makes a program of a batch, to be written `skip` bytes into the room; `quiet` where it must end in sleep.
    fn prepare(&mut self, batch: &Batch, skip: u64, quiet: bool) -> Result<Started, RemoteError> {
        if skip + program::size(batch) as u64 > self.layout.data_len {
            return Err(step("fitting a batch into the stub's room")(Errno(libc::ENOSPC)));
        }
        let quiet = self.is_quiet(batch)? || quiet;
        Ok(Started { program: Program::new(batch, self.layout.room() + skip), quiet })
    }

    /// Lets the thread run a program that is written.
    fn launch(&mut self, started: &Started) -> Result<(), RemoteError> {
        const WHAT: &str = "starting a batch";
        let Started { program, quiet } = started;
        let entry = arch::Entry {
            exec: self.places.exec,
            block: 0,
            record: program.first_record(),
            results: program.first_result(),
            end: if *quiet { self.places.sleep } else { self.places.trap },
            scratch: (program.base(), 0),
        };
        let regs = self.thread.registers().map_err(step(WHAT))?;
        self.thread.set_registers(&arch::exec_registers(&regs, &entry)).map_err(step(WHAT))?;
        self.thread.swallow();
        // A batch that ends in a trap changes no mask: that is why it may.
        let mask = if *quiet { None } else { self.thread.known_mask() };
        self.thread.run(libc::PTRACE_CONT).map_err(step(WHAT))?;
        self.thread.remember_mask(mask);
        Ok(())
    }

    /// Waits for the end of a batch. Children that it makes are put into `born`, or let go to make their own calls.
    pub(super) fn finish(
        &mut self,
        started: &Started,
        batch: &Batch,
        mut born: Option<&mut Vec<Pid>>,
    ) -> Result<Outcome, RemoteError> {
        self.halt(started, &mut born)?;
        self.stand(started, &mut born)?;
        started.program.outcome(batch, &self.memory)
    }

    /// Asks a batch that ends in sleep to stop there, once it is done.
    fn halt(&mut self, started: &Started, born: &mut Option<&mut Vec<Pid>>) -> Result<(), RemoteError> {
        if started.quiet {
            let (thread, guard) = (&self.thread, &mut self.guard);
            wait_until_done(&started.program, &self.memory, thread, |seen| pass_seen(thread, guard, seen, born))?;
            thread.interrupt().map_err(step("waiting for a batch"))?;
        }
        Ok(())
    }

    /// Waits for the stop at the end of a batch after [`Stub::halt`].
    fn stand(&mut self, started: &Started, born: &mut Option<&mut Vec<Pid>>) -> Result<(), RemoteError> {
        const WHAT: &str = "waiting for a batch";
        if started.quiet {
            let (thread, guard) = (&self.thread, &mut self.guard);
            stop_in_sleep(thread, |seen| pass_seen(thread, guard, seen, born))?;
        } else {
            loop {
                let stop = self.next_stop(WHAT)?;
                if stop == Stop::Signal(libc::SIGTRAP) {
                    let regs = self.thread.registers().map_err(step(WHAT))?;
                    if arch::is_after_trap(&regs, self.places.trap) {
                        break;
                    }
                }
                pass(&self.thread, stop, born)?;
            }
            self.thread.swallow();
        }
        Ok(())
    }

    fn next_stop(&mut self, what: &'static str) -> Result<Stop, RemoteError> {
        match self.thread.wait_soon().map_err(step(what))? {
            Ok(stop) => Ok(stop),
            Err(status) => {
                self.guard.disarm();
                Err(RemoteError::Died(status))
            }
        }
    }
}

impl Executor for Stub {
    fn run(&mut self, batch: &Batch) -> Result<Outcome, RemoteError> {
        let started = self.start(batch)?;
        self.finish(&started, batch, None)
    }
    fn memory(&self) -> &Memory {
        &self.memory
    }
}

/// Stubs and their batches that follow each other in one address space, by their places.
fn by_memory(work: &[(&mut Stub, &Batch)]) -> Vec<std::ops::Range<usize>> {
    let mut groups: Vec<std::ops::Range<usize>> = Vec::new();
    for (at, (stub, _)) in work.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if Arc::ptr_eq(&work[group.start].0.mm, &stub.mm) => group.end = at + 1,
            _ => groups.push(at..at + 1),
        }
    }
    groups
}

/// Writes the programs of all, each address space in one call.
fn write_all(work: &[(&mut Stub, &Batch)], runs: &mut [Result<Started, RemoteError>]) {
    for group in by_memory(work) {
        let memory = &work[group.start].0.memory;
        let (mut ranges, mut bytes) = (Vec::new(), Vec::new());
        for started in runs[group.clone()].iter().flatten() {
            ranges.push((RemoteAddr(started.program.base()), started.program.bytes().len()));
            bytes.extend_from_slice(started.program.bytes());
        }
        if let Err(e) = memory.write_ranges(&ranges, &bytes) {
            runs[group].iter_mut().filter(|run| run.is_ok()).for_each(|run| *run = Err(step("writing a batch")(e)));
        }
    }
}

/// Reads what came of the programs of all, each address space in one call.
fn read_all(work: &[(&mut Stub, &Batch)], runs: &mut [Result<Started, RemoteError>]) -> Vec<Vec<u8>> {
    let mut answers = vec![Vec::new(); work.len()];
    for group in by_memory(work) {
        let memory = &work[group.start].0.memory;
        let done: Vec<_> =
            group.filter_map(|at| Some((at, runs[at].as_ref().ok()?.program.answer(work[at].1)))).collect();
        let ranges: Vec<_> = done.iter().flat_map(|(_, parts)| *parts).collect();
        let mut bytes = vec![0; ranges.iter().map(|part| part.1).sum()];
        let read = memory.read_ranges(&ranges, &mut bytes);
        let mut rest = &bytes[..];
        for (at, parts) in done {
            let (answer, others) = rest.split_at(parts[0].1 + parts[1].1);
            (answers[at], rest) = (answer.to_vec(), others);
            if let Err(e) = read {
                runs[at] = Err(step("reading the results of a batch")(e));
            }
        }
    }
    answers
}

fn is_other_signal(arg: Arg) -> bool {
    matches!(arg, Arg::Value(v) if v as i32 != libc::SIGTRAP)
}

fn pass_seen(
    thread: &Stopped,
    guard: &mut Guard,
    seen: Seen,
    born: &mut Option<&mut Vec<Pid>>,
) -> Result<(), RemoteError> {
    match seen {
        Ok(stop) => pass(thread, stop, born),
        Err(status) => {
            guard.disarm();
            Err(RemoteError::Died(status))
        }
    }
}

/// Lets the thread run on after a stop that is not the end of its batch. Signals are thrown away.
fn pass(thread: &Stopped, stop: Stop, born: &mut Option<&mut Vec<Pid>>) -> Result<(), RemoteError> {
    if let Stop::Event(libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK, tid) = stop {
        match born {
            Some(born) => born.push(tid as Pid),
            // A child with calls of its own (`Batch::fork_call`): it is not ours to hold.
            None => match first_stop(tid as Pid) {
                Ok(child) => child.detach().map_err(step("letting a child go"))?,
                Err(RemoteError::Died(_)) => {}
                Err(e) => return Err(e),
            },
        }
    }
    if let Stop::Signal(signal) = stop {
        let made_by_kernel = thread.siginfo().is_ok_and(|i| i32::from_ne_bytes([i[8], i[9], i[10], i[11]]) > 0);
        if made_by_kernel && [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGSYS].contains(&signal) {
            thread.swallow();
            return Err(step("running a batch, which a fault or a seccomp filter ended")(Errno(libc::EFAULT)));
        }
    }
    thread.swallow();
    thread.run(libc::PTRACE_CONT).map_err(step("running a batch"))
}
