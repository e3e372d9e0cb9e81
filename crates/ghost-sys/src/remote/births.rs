//! The children and the threads that a stub makes, by clone3 inside it: stubs like itself.

use super::process::{Guard, Newborn, Process};
use super::stub::{ForkOptions, Stub, step};
use super::{Batch, Label, Memory, RemoteError};
use crate::clone3::CloneArgs;
use crate::ptrace::{self, Stopped, Waited};
use crate::{Errno, Pid};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

impl Stub {
    /// Makes a child process of this one by clone3 inside it, with the pid and the clone flags given
    /// (CLONE_VM, CLONE_FILES, CLONE_FS, CLONE_SIGHAND, CLONE_PARENT...); it starts as a stub.
    pub fn fork(&mut self, pid: Pid, flags: u64, exit_signal: u32) -> Result<Self, RemoteError> {
        let pids = [pid];
        let pids = if pid == 0 { &pids[..0] } else { &pids[..] };
        self.fork_with(&ForkOptions { pids, flags, exit_signal, cgroup: None })
    }

    /// The same with namespaces, a cgroup, or pids in nested pid namespaces.
    pub fn fork_with(&mut self, options: &ForkOptions<'_>) -> Result<Self, RemoteError> {
        let args = CloneArgs {
            flags: options.flags,
            exit_signal: options.exit_signal.into(),
            cgroup: options.cgroup.unwrap_or(0) as u64,
            ..CloneArgs::default()
        };
        let (born, outcome) = self.births(&[(args, options.pids)]);
        let born = born.into_iter().map(Newborn::new).next_back();
        outcome?;
        self.claim(born.ok_or_else(|| step("making a child process")(Errno(libc::ECHILD)))?, options.flags)
    }

    /// Makes a stub of a child process. On an error the child is killed.
    fn claim(&self, born: Newborn, flags: u64) -> Result<Self, RemoteError> {
        let pid = born.pid();
        let thread = match first_stop(pid) {
            // It has ended and been reaped, by us or by a host that waits for all children: the pid may be another's by now.
            Err(e @ (RemoteError::Died(_) | RemoteError::Step { errno: Errno(libc::ECHILD), .. })) => {
                born.disarm();
                return Err(e);
            }
            other => other?,
        };
        // Dropped before the thread, which would let it run.
        let born = born;
        let process = Process::new(pid).map_err(step("opening the new process"))?;
        let guard = Guard::new(&process, pid);
        born.disarm();
        self.sibling(thread, guard, pid, flags)
    }

    /// Makes several child processes in one batch, in this order: (pid or 0, clone flags, exit signal).
    ///
    /// Those made before an error are returned; the caller tries the others one by one to learn what is in their way.
    pub fn fork_many(&mut self, wanted: &[(Pid, u64, u32)]) -> Result<Vec<Self>, RemoteError> {
        let mut stubs = Vec::with_capacity(wanted.len());
        for part in wanted.chunks(self.births_at_once()) {
            let births: Vec<_> = part
                .iter()
                .map(|(pid, flags, exit_signal)| {
                    let args = CloneArgs { flags: *flags, exit_signal: (*exit_signal).into(), ..CloneArgs::default() };
                    (args, if *pid == 0 { &[][..] } else { std::slice::from_ref(pid) })
                })
                .collect();
            let (born, outcome) = self.births(&births);
            // All have somebody who ends them before the first can fail.
            let born: Vec<_> = born.into_iter().map(Newborn::new).collect();
            for (born, (_, flags, _)) in born.into_iter().zip(part) {
                stubs.push(self.claim(born, *flags)?);
            }
            match outcome {
                Ok(_) => {}
                Err(RemoteError::Call { .. }) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(stubs)
    }

    /// Makes children in one batch: (arguments, pids). Their tids, and what came of it; those made before an error are among them.
    ///
    /// Where the process says its children's tids as ghost knows them, they are attached by CLONE_PTRACE: the maker needs not stop at
    /// each of them. They have the options of its trace, as they would have by an event.
    fn births(&mut self, births: &[(CloneArgs, &[Pid])]) -> (Vec<Pid>, Result<(), RemoteError>) {
        let mut batch = Batch::new();
        for (args, pids) in births {
            let mut args = *args;
            if self.knows_pids {
                args.flags |= (libc::CLONE_PTRACE | libc::CLONE_UNTRACED) as u64;
            }
            let label = pids.last().map_or("clone3".into(), |pid| Label::from(format!("clone3 of {pid}")));
            clone_call(&mut batch, &args, pids, label);
        }
        let started = match self.start(&batch) {
            Ok(started) => started,
            Err(e) => return (Vec::new(), Err(e)),
        };
        let mut born = Vec::new();
        let outcome = self.finish(&started, &batch, Some(&mut born)).map(drop);
        if self.knows_pids && !matches!(outcome, Err(RemoteError::Died(_))) {
            match started.program.results(&batch, &self.memory) {
                Ok(results) => born.extend(results.into_iter().take_while(|tid| *tid > 0).map(|tid| tid as Pid)),
                Err(e) => return (born, Err(e)),
            }
        }
        (born, outcome)
    }

    /// How many births fit into one batch: each takes a record, a result, its arguments and its tid, 80 + 8 + 96 + 16 bytes.
    fn births_at_once(&self) -> usize {
        (self.layout.data_len as usize / 256).clamp(1, 1024)
    }

    /// Makes a thread with this tid and this clear_child_tid address (0: any, none) that shares of descriptors (CLONE_FILES) and
    /// directories (CLONE_FS) only what `shared` says; it starts as a stub.
    pub fn spawn_thread(&mut self, tid: (Pid, u64), shared: u64) -> Result<Stub, RemoteError> {
        let mut made = self.spawn_threads_sharing(&[tid], shared)?;
        made.pop().ok_or_else(|| step("making a thread")(Errno(libc::ECHILD)))
    }

    /// Makes threads with these tids and these clear_child_tid addresses (0: any, none); all start as stubs.
    pub fn spawn_threads(&mut self, tids: &[(Pid, u64)]) -> Result<Vec<Stub>, RemoteError> {
        self.spawn_threads_sharing(tids, (libc::CLONE_FS | libc::CLONE_FILES) as u64)
    }

    fn spawn_threads_sharing(&mut self, tids: &[(Pid, u64)], shared: u64) -> Result<Vec<Stub>, RemoteError> {
        let always = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD | libc::CLONE_SYSVSEM;
        let flags = always as u64 | shared;
        let mut stubs = Vec::with_capacity(tids.len());
        for part in tids.chunks(self.births_at_once()) {
            let births: Vec<_> = part
                .iter()
                .map(|(tid, clear)| {
                    let clear_flag = if *clear == 0 { 0 } else { libc::CLONE_CHILD_CLEARTID as u64 };
                    let args = CloneArgs { flags: flags | clear_flag, child_tid: *clear, ..CloneArgs::default() };
                    (args, if *tid == 0 { &[][..] } else { std::slice::from_ref(tid) })
                })
                .collect();
            let (born, outcome) = self.births(&births);
            let process = Arc::clone(self.guard.process());
            let born: Vec<_> = born.into_iter().map(|tid| (tid, Guard::new(&process, tid))).collect();
            for (tid, mut guard) in born {
                let thread = match first_stop(tid) {
                    Err(e @ RemoteError::Died(_)) => {
                        guard.disarm();
                        return Err(e);
                    }
                    other => other?,
                };
                stubs.push(self.sibling(thread, guard, self.pid, flags)?);
            }
            // Only now, so that the threads made before the error are in `stubs` and go with them.
            outcome?;
        }
        if stubs.len() == tids.len() { Ok(stubs) } else { Err(step("making threads")(Errno(libc::ECHILD))) }
    }

    /// On an error `guard` is dropped before the thread, which would let it run.
    fn sibling(&self, thread: Stopped, guard: Guard, pid: Pid, flags: u64) -> Result<Self, RemoteError> {
        let has = |flag: i32| flags & flag as u64 != 0;
        let knows_pids = self.knows_pids && !has(libc::CLONE_NEWPID);
        let memory = if pid == self.pid { Ok(self.memory.share()) } else { Memory::open(pid) };
        let memory = memory.map_err(step("opening the memory of the new process"))?;
        Ok(Self {
            guard,
            thread,
            pid,
            memory,
            layout: self.layout,
            places: self.places,
            knows_pids,
            mm: if has(libc::CLONE_VM) { Arc::clone(&self.mm) } else { Arc::new(()) },
            trap_changed: if has(libc::CLONE_SIGHAND) {
                Arc::clone(&self.trap_changed)
            } else {
                Arc::new(AtomicBool::new(self.trap_changed.load(Ordering::Relaxed)))
            },
        })
    }
}

fn clone_call(batch: &mut Batch, args: &CloneArgs, pids: &[Pid], label: Label) {
    let mut args = *args;
    args.set_tid_size = pids.len() as u64;
    let wanted: Vec<u8> = pids.iter().flat_map(|p| p.to_ne_bytes()).collect();
    let wanted = batch.data(&wanted);
    let room = batch.data(&args.bytes());
    if !pids.is_empty() {
        batch.point(room.at(std::mem::offset_of!(CloneArgs, set_tid) as u32), wanted);
    }
    batch.call(label, libc::SYS_clone3, &[room.into(), size_of::<CloneArgs>().into()]);
}

/// Waits for the first stop of a thread that ptrace attached by itself.
pub(super) fn first_stop(tid: Pid) -> Result<Stopped, RemoteError> {
    let fail = step("waiting for a new thread");
    match ptrace::adopt(tid).settle().map_err(fail)? {
        Waited::Stopped(thread, _) => Ok(thread),
        Waited::Gone(status) => Err(RemoteError::Died(status)),
    }
}
