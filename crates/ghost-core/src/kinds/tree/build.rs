//! Making the processes of a tree, each a [`Stub`] that the other kinds fill.

mod adopt;
mod ends;
mod groups;

use super::order::{self, Forker, Step};
use super::plan::Plan;
use super::taken::retry;
use super::terminal;
use super::{BUILDING_MASK, CLONE_PARENT};
use crate::error::{Context, KindError};
use crate::import::{Building, ImportCx, remote};
use crate::options::Pids;
use ghost_image::record as rec;
use ghost_sys::remote::{Batch, Executor, Outcome, Stub};
use ghost_sys::{Pid, nr, proc};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const SIGCHLD: u32 = libc::SIGCHLD as u32;
const PR_SET_CHILD_SUBREAPER: i32 = 36;

/// A process that exists only until the tree stands: it leads a session or a group whose leader has died.
#[derive(Debug)]
struct Helper {
    stub: Stub,
    /// The process that has to wait for it; None when that is ghost.
    parent: Option<usize>,
    sid: Pid,
}

struct Builder<'a, 'b> {
    cx: &'a mut ImportCx<'b>,
    plan: Plan,
    records: &'b [rec::Process],
    stubs: Vec<Option<Stub>>,
    /// The session that each is in now, by its number in the ghost.
    sids: Vec<Pid>,
    helpers: Vec<Helper>,
    /// Leaders of sessions that have their controlling terminal.
    in_control: Vec<usize>,
    deadline: Instant,
}

/// Makes every process with its pid, parent, session, group and shared objects; zombies end here.
pub fn import(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let records: &[rec::Process] = &cx.model.processes;
    if records.is_empty() {
        return Err(KindError::conflict("making the processes", "the ghost has no process"));
    }
    let plan = Plan::new(records).map_err(|words| KindError::conflict("ordering the processes", words))?;
    if cx.options.pids != Pids::New {
        for process in records {
            cx.pids.insert(process.pid, process.pid);
            cx.pids.extend(process.threads.iter().map(|t| (t.tid, t.tid)));
        }
    }
    let steps = order::of(&plan, records).map_err(|(pid, words)| cannot(pid, words))?;
    // What was ended to make room holds its pid until its parent has waited for it.
    let least_ms = if cx.options.replace { 5_000 } else { 0 };
    let deadline = Instant::now() + Duration::from_millis(cx.options.wait_for_pids_ms.max(least_ms));
    let n = records.len();
    let mut builder = Builder {
        cx,
        plan,
        records,
        stubs: (0..n).map(|_| None).collect(),
        sids: vec![0; n],
        helpers: Vec::new(),
        in_control: Vec::new(),
        deadline,
    };
    for step in steps {
        builder.take(step)?;
    }
    builder.groups()?;
    builder.in_front()?;
    builder.end_helpers()?;
    builder.end_zombies()?;
    builder.hand_in()
}

impl Builder<'_, '_> {
    /// The pid to ask for: the kernel's choice (0) when any will do.
    fn wanted(&self, pid: Pid) -> Pid {
        if self.cx.options.pids == Pids::New { 0 } else { pid }
    }

    fn take(&mut self, step: Step) -> Result<(), KindError> {
        match step {
            Step::Root => {
                let pid = self.records[0].pid;
                let stub = self.spawn(pid)?;
                self.born(0, stub, 0)
            }
            Step::Lead { parent: None, sid } => {
                let stub = self.spawn(sid)?;
                self.lead(stub, None, sid)
            }
            Step::Lead { parent: Some(parent), sid } => {
                let wanted = self.wanted(sid);
                let from = self.stubs[parent].as_mut().expect("parents are born first");
                let stub = retry(sid, self.deadline, || from.fork(wanted, 0, SIGCHLD))?;
                self.lead(stub, Some(parent), sid)
            }
            Step::Fork { forker, child, flags } => self.fork(forker, child, flags),
            Step::Together { parent, children } => self.fork_together(parent, &children),
            Step::Setsid(i) => self.setsid(i),
            Step::Orphan { parent, member, child } => self.orphan(parent, member, child),
        }
    }

    /// Makes a child of ghost.
    fn spawn(&mut self, pid: Pid) -> Result<Stub, KindError> {
        let keep = [self.cx.control_fd];
        let (layout, wanted) = (self.cx.layout, self.wanted(pid));
        retry(pid, self.deadline, || Stub::spawn(wanted, layout, &keep))
    }

    /// Makes a helper the leader of a session.
    fn lead(&mut self, mut stub: Stub, parent: Option<usize>, sid: Pid) -> Result<(), KindError> {
        make(&mut stub, sid, "setsid for a session whose leader has died", nr::SETSID, &[])?;
        self.cx.pids.insert(sid, stub.pid);
        self.helpers.push(Helper { stub, parent, sid });
        Ok(())
    }

    fn born(&mut self, index: usize, stub: Stub, sid: Pid) -> Result<(), KindError> {
        let old = self.records[index].pid;
        // Signals wait until the program itself decides about them.
        stub.thread.set_signal_mask(BUILDING_MASK).step_on(old, String::new, "blocking its signals")?;
        self.cx.pids.insert(old, stub.pid);
        self.sids[index] = sid;
        self.stubs[index] = Some(stub);
        Ok(())
    }

    fn fork(&mut self, forker: Forker, index: usize, flags: u64) -> Result<(), KindError> {
        let record = &self.records[index];
        let wanted = self.wanted(record.pid);
        // A sibling made by CLONE_PARENT has the exit signal of the one that forked it.
        let signal = if flags & CLONE_PARENT == 0 { record.exit_signal } else { 0 };
        let (from, sid) = match forker {
            Forker::Process(i) => (self.stubs[i].as_mut(), self.sids[i]),
            Forker::Helper(i) => {
                let helper = &mut self.helpers[i];
                (Some(&mut helper.stub), helper.sid)
            }
        };
        let from = from.ok_or_else(|| cannot(record.pid, "the process that has to fork it is not there".into()))?;
        let stub = retry(record.pid, self.deadline, || from.fork(wanted, flags, signal))?;
        self.born(index, stub, sid)
    }

    /// Makes a process the leader of its session, which may have a terminal.
    fn setsid(&mut self, i: usize) -> Result<(), KindError> {
        let own = self.records[i].pid;
        let stub = self.stubs[i].as_mut().expect("it was just born");
        make(stub, own, "setsid", nr::SETSID, &[])?;
        self.sids[i] = own;
        if terminal::wanted(&self.records[i]) {
            let tty = terminal::of(self.cx, &self.records[i])?;
            let note = terminal::control(stub, (self.cx.control.as_fd(), self.cx.control_fd), tty, own)?;
            self.in_control.extend(note.is_none().then_some(i));
            self.cx.notes.extend(note);
        }
        Ok(())
    }

    /// Forks children of one process in one batch: one round trip each instead of three. Stops at the first that fails.
    fn fork_together(&mut self, parent: usize, children: &[(usize, u64)]) -> Result<(), KindError> {
        let wanted = children.iter().map(|&(child, flags)| {
            let record = &self.records[child];
            (self.wanted(record.pid), flags, record.exit_signal)
        });
        let wanted: Vec<(Pid, u64, u32)> = wanted.collect();
        let sid = self.sids[parent];
        let old = self.records[parent].pid;
        let from = self.stubs[parent].as_mut().expect("parents are born first");
        let stubs = from.fork_many(&wanted).map_err(|e| remote(old, e))?;
        for (stub, &(child, _)) in stubs.into_iter().zip(children) {
            self.born(child, stub, sid)?;
        }
        Ok(())
    }

    fn hand_in(self) -> Result<(), KindError> {
        if self.cx.options.pids != Pids::Same || self.records[0].sid_outside {
            // What refers to a session or group outside means that of the restorer now.
            let own = proc::ProcDir::own().and_then(|d| proc::read_stat(&d));
            let own = own.step("looking up the session of ghost")?;
            for p in self.records {
                if p.sid_outside {
                    self.cx.pids.insert(p.sid, own.sid);
                }
                if p.pgid_outside {
                    self.cx.pids.insert(p.pgid, own.pgid);
                }
            }
        }
        let pids: Vec<Pid> = self.records.iter().map(|p| self.cx.pid(p.pid)).collect();
        self.cx.building = self
            .stubs
            .into_iter()
            .zip(pids)
            .map(|(leader, pid)| Building { pid, leader, threads: Vec::new(), batch: Batch::new() })
            .collect();
        Ok(())
    }
}

fn cannot(pid: Pid, words: String) -> KindError {
    KindError::conflict("making the process", words).on(pid, "")
}

/// Makes one call that must succeed.
fn make(
    stub: &mut Stub,
    old: Pid,
    label: impl Into<ghost_sys::remote::Label>,
    nr: i64,
    args: &[u64],
) -> Result<(), KindError> {
    let args: Vec<_> = args.iter().map(|a| (*a).into()).collect();
    let mut batch = Batch::new();
    batch.call(label, nr, &args);
    stub.run(&batch).map(|_: Outcome| ()).map_err(|e| remote(old, e))
}
