//! Making the processes of a tree, each a [`Stub`] that the other kinds fill.

mod adopt;
mod ends;
mod groups;

use super::plan::{Birth, Plan};
use super::taken::retry;
use super::terminal;
use super::{BUILDING_MASK, CLONE_FILES, CLONE_FS, CLONE_PARENT, CLONE_SIGHAND, CLONE_VM};
use crate::error::{Context, KindError};
use crate::import::{Building, ImportCx, remote};
use crate::options::Pids;
use ghost_image::record as rec;
use ghost_sys::remote::{Batch, Executor, Outcome, Stub};
use ghost_sys::{Pid, nr, proc};
use std::collections::HashMap;
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
    /// First process with each shared object, by sort and id.
    owners: [HashMap<u32, usize>; 4],
}

/// Which process forks another.
#[derive(Clone, Copy)]
enum Forker {
    Process(usize),
    Helper(usize),
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
    let mut owners: [HashMap<u32, usize>; 4] = Default::default();
    for (i, process) in records.iter().enumerate().filter(|(_, p)| p.zombie.is_none()) {
        for (map, (_, id)) in owners.iter_mut().zip(objects(process)) {
            map.entry(id).or_insert(i);
        }
    }
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
        owners,
    };
    builder.root()?;
    builder.births()?;
    builder.groups()?;
    builder.in_front()?;
    builder.end_helpers()?;
    builder.end_zombies()?;
    builder.hand_in()
}

/// What a process may share, with the clone flag of each.
fn objects(p: &rec::Process) -> [(u64, u32); 4] {
    [(CLONE_VM, p.mm_id), (CLONE_FILES, p.fd_table_id), (CLONE_FS, p.fs_id), (CLONE_SIGHAND, p.sighand_id)]
}

impl Builder<'_, '_> {
    /// The pid to ask for: the kernel's choice (0) when any will do.
    fn wanted(&self, pid: Pid) -> Pid {
        if self.cx.options.pids == Pids::New { 0 } else { pid }
    }

    fn root(&mut self) -> Result<(), KindError> {
        let keep = [self.cx.control_fd];
        let layout = self.cx.layout;
        let pid = self.records[0].pid;
        let Birth::Into(sid @ 1..) = self.plan.births[0] else {
            let wanted = self.wanted(pid);
            let stub = retry(pid, self.deadline, || Stub::spawn(wanted, layout, &keep))?;
            return self.born(0, stub, 0);
        };
        if !self.plan.dead_sessions.contains(&sid) {
            return Err(cannot(pid, format!("its session {sid} is led by one of its own descendants")));
        }
        let wanted = self.wanted(sid);
        let stub = retry(sid, self.deadline, || Stub::spawn(wanted, layout, &keep))?;
        let helper = self.lead(stub, None, sid)?;
        self.fork(Forker::Helper(helper), 0, CLONE_PARENT)
    }

    /// Makes a helper the leader of a session.
    fn lead(&mut self, mut stub: Stub, parent: Option<usize>, sid: Pid) -> Result<usize, KindError> {
        make(&mut stub, sid, "setsid for a session whose leader has died", nr::SETSID, &[])?;
        self.cx.pids.insert(sid, stub.pid);
        self.helpers.push(Helper { stub, parent, sid });
        Ok(self.helpers.len() - 1)
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

    /// Forks all descendants of the root, each into its session.
    fn births(&mut self) -> Result<(), KindError> {
        let mut ready = vec![0];
        let mut deferred = Vec::new();
        while let Some(i) = ready.pop() {
            self.settle(i, &mut ready, &mut deferred)?;
            while ready.is_empty() && !deferred.is_empty() {
                let before = deferred.len();
                let mut still = Vec::new();
                for child in std::mem::take(&mut deferred) {
                    if self.adopt(child)? {
                        ready.push(child);
                    } else {
                        still.push(child);
                    }
                }
                if still.len() == before {
                    let record = &self.records[still[0]];
                    return Err(cannot(
                        record.pid,
                        format!("nobody below its parent can have its session {}", record.sid),
                    ));
                }
                deferred = still;
            }
        }
        Ok(())
    }

    /// A process that was just born: its early children, its own session, its other children.
    fn settle(&mut self, i: usize, ready: &mut Vec<usize>, deferred: &mut Vec<usize>) -> Result<(), KindError> {
        let children = std::mem::take(&mut self.plan.children[i]);
        let own = self.records[i].pid;
        let leads = self.plan.sids[i] == own;
        let mut late = Vec::new();
        for &child in &children {
            let early = leads && self.plan.births[child] == Birth::Into(self.sids[i]);
            if early && self.fork_child(i, child)? {
                ready.push(child);
            } else {
                late.push(child);
            }
        }
        if leads {
            let stub = self.stubs[i].as_mut().expect("it was just born");
            make(stub, own, "setsid", nr::SETSID, &[])?;
            self.sids[i] = own;
            if terminal::wanted(&self.records[i]) {
                let tty = terminal::of(self.cx, &self.records[i])?;
                let note = terminal::control(stub, (self.cx.control.as_fd(), self.cx.control_fd), tty, own)?;
                self.in_control.extend(note.is_none().then_some(i));
                self.cx.notes.extend(note);
            }
        }
        let here = |builder: &Self, child: usize| {
            matches!(builder.plan.births[child], Birth::Any)
                || builder.plan.births[child] == Birth::Into(builder.sids[i])
        };
        let plain = late.iter().copied().filter(|&c| here(self, c) && self.shares_enough(i, c));
        let plain: Vec<usize> = plain.collect();
        if plain.len() > 1 {
            self.fork_together(i, &plain)?;
        }
        for child in late {
            if self.stubs[child].is_some() || (here(self, child) && self.fork_child(i, child)?) {
                ready.push(child);
            } else {
                deferred.push(child);
            }
        }
        self.plan.children[i] = children;
        Ok(())
    }

    /// Forks children of one process in one batch: one round trip each instead of three. Stops at the first that fails.
    fn fork_together(&mut self, parent: usize, children: &[usize]) -> Result<(), KindError> {
        let wanted = children.iter().map(|&child| {
            let record = &self.records[child];
            (self.wanted(record.pid), self.shared_flags(parent, child), record.exit_signal)
        });
        let wanted: Vec<(Pid, u64, u32)> = wanted.collect();
        let sid = self.sids[parent];
        let old = self.records[parent].pid;
        let from = self.stubs[parent].as_mut().expect("parents are born first");
        let stubs = from.fork_many(&wanted).map_err(|e| remote(old, e))?;
        for (stub, &child) in stubs.into_iter().zip(children) {
            self.born(child, stub, sid)?;
        }
        Ok(())
    }

    /// Whether `by` has all the objects that the process must share with an earlier one.
    fn shares_enough(&self, by: usize, index: usize) -> bool {
        objects(&self.records[index]).iter().zip(objects(&self.records[by])).zip(&self.owners).all(
            |((&(_, own), (_, theirs)), owners)| {
                own == 0 || own == theirs || owners.get(&own).is_none_or(|&first| first == index)
            },
        )
    }

    fn shared_flags(&self, by: usize, index: usize) -> u64 {
        let pairs = objects(&self.records[index]).into_iter().zip(objects(&self.records[by]));
        pairs.filter(|((_, own), (_, theirs))| *own != 0 && own == theirs).map(|((flag, _), _)| flag).sum()
    }

    /// Forks a child by its parent, or by a sibling that has what it must share. False: not now.
    fn fork_child(&mut self, parent: usize, child: usize) -> Result<bool, KindError> {
        if self.shares_enough(parent, child) {
            self.fork(Forker::Process(parent), child, self.shared_flags(parent, child))?;
            return Ok(true);
        }
        let sid = self.sids[parent];
        self.fork_by_sibling(parent, child, sid)
    }

    fn fork_by_sibling(&mut self, parent: usize, child: usize, sid: Pid) -> Result<bool, KindError> {
        let siblings = &self.plan.children[parent];
        let siblings: Box<dyn Iterator<Item = usize>> = if siblings.is_empty() {
            // Taken out while its children are being born.
            Box::new((0..child).filter(|&s| self.plan.parents[s] == Some(parent)))
        } else {
            Box::new(siblings.iter().copied())
        };
        let mut fit = siblings.filter(|&s| {
            self.stubs[s].is_some()
                && self.sids[s] == sid
                && self.records[s].exit_signal == self.records[child].exit_signal
        });
        let Some(sibling) = fit.find(|&s| self.shares_enough(s, child)) else { return Ok(false) };
        drop(fit);
        self.fork(Forker::Process(sibling), child, CLONE_PARENT | self.shared_flags(sibling, child))?;
        Ok(true)
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
