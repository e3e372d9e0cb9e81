//! The processes of a tree: pids, parents, process groups, sessions, zombies, what they share.
//!
//! Read: `/proc/PID/stat` (parent, group, session, exit signal, exit code), `kcmp(2)` for what is shared.
//! Rebuilt: `clone3(2)` with `set_tid` (Linux 5.5; `CAP_CHECKPOINT_RESTORE` or `CAP_SYS_ADMIN` over the pid namespace), each
//! process by its parent, at a moment when its parent is in the session that it must be born in; see [`plan`]. A session or
//! group whose leader has died is led by a helper with the leader's pid for as long as it takes.
//!
//! A session or group whose leader lives *outside* of the tree (the shell that started the program) stays outside: its
//! members come back in the session and group of the restorer, which is what a program started there would have.
//!
//! Lost: the "core was dumped" flag of a zombie's wait status (noted). Refused: a traced process inside the tree, `vfork(2)`
//! in progress, a zombie root, sharing that no parent-child or sibling relation can make again, a process in a session that
//! no order of births puts it into (session).

mod build;
mod order;
mod plan;
pub(crate) mod taken;
pub(crate) mod terminal;

use crate::error::{Blocker, KindError, again_once};
use crate::export::ExportCx;
use crate::view::{ProcessView, ThreadView, TreeView};
use ghost_image::record as rec;
use ghost_sys::Pid;
use ghost_sys::proc::{self, InSyscall, ProcDir};
use std::collections::HashSet;

pub use build::import;

/// Every signal waits while a process is built, but SIGTRAP, which tells of the end of a batch.
pub(super) const BUILDING_MASK: u64 = !(1 << (libc::SIGTRAP - 1));

const CLONE_VM: u64 = 0x100;
const CLONE_FS: u64 = 0x200;
const CLONE_FILES: u64 = 0x400;
const CLONE_SIGHAND: u64 = 0x800;
const CLONE_VFORK: u64 = 0x4000;
const CLONE_PARENT: u64 = 0x8000;

/// Names what of the tree's shape cannot travel.
pub fn check(view: &TreeView, out: &mut Vec<Blocker>) {
    let own = std::process::id() as Pid;
    let mut shared_afar = false;
    for (index, process) in view.processes.iter().enumerate() {
        for thread in &process.threads {
            let tracer = thread.status.tracer_pid;
            // The kernel names the tracer by its process.
            if tracer != 0 && tracer != own {
                out.push(traced_blocker(process.pid, process.comm(), thread.tid, tracer));
            }
        }
        let mut block = |kind: &'static str, why: String, advice: &str| {
            out.push(Blocker {
                pid: process.pid,
                comm: process.comm(),
                kind,
                subject: "the process".into(),
                why,
                advice: advice.into(),
                passes: false,
            });
        };
        if index == 0 && process.is_zombie() {
            block("zombie", "it has ended and only waits for its parent".into(), "name a process that runs");
        }
        if shared_flags(view, index).is_some_and(|(flags, _)| flags != 0) && forkers(view, index).is_empty() {
            shared_afar = true;
            block(
                "clone sharing",
                "it shares memory, descriptors, cwd or signal actions with a process that is neither its parent nor a sibling".into(),
                "end one of the two first",
            );
        }
        let held = |t: &&ThreadView| {
            t.status.state == b'D' && process.dir.thread(t.tid).is_ok_and(|d| in_vfork(&d, &t.status))
        };
        if let Some(thread) = process.threads.iter().find(held) {
            out.push(vfork_blocker(process.pid, process.comm(), thread.tid));
        }
    }
    let impossible = || {
        let shape = shape(view);
        order::of(&plan::Plan::new(&shape).ok()?, &shape).err()
    };
    if !shared_afar && let Some((pid, why)) = impossible() {
        out.push(Blocker {
            pid,
            comm: view.processes.iter().find(|p| p.pid == pid).map(ProcessView::comm).unwrap_or_default(),
            kind: "session",
            subject: "the process".into(),
            why,
            advice: "end it or the leader of that session first".into(),
            passes: false,
        });
    }
}

/// Whether a thread is held up by vfork(2), posix_spawn(3) or their like.
pub(crate) fn in_vfork(dir: &ProcDir, status: &proc::Status) -> bool {
    // Killable but not interruptible: nothing else of clone(2) sleeps like that.
    status.state == b'D'
        && match proc::read_syscall(dir) {
            Ok(InSyscall::Call { nr: libc::SYS_vfork | libc::SYS_clone3, .. }) => true,
            Ok(InSyscall::Call { nr: libc::SYS_clone, args, .. }) => args[0] & CLONE_VFORK != 0,
            _ => false,
        }
}

/// What stands in the way of a process that a debugger has.
pub(crate) fn traced_blocker(pid: Pid, comm: String, tid: Pid, tracer: Pid) -> Blocker {
    Blocker {
        pid,
        comm,
        kind: "traced",
        subject: format!("thread {tid}"),
        why: format!("it is traced by pid {tracer}"),
        advice: "end that debugger or tracer first, or let it detach".into(),
        passes: false,
    }
}

/// What stands in the way of a process that is held up by vfork(2).
pub(crate) fn vfork_blocker(pid: Pid, comm: String, tid: Pid) -> Blocker {
    Blocker {
        pid,
        comm,
        kind: "vfork",
        subject: format!("thread {tid}"),
        why: "it waits in vfork for a child that still runs in its memory".into(),
        advice: again_once("the child has called exec or ended"),
        passes: true,
    }
}

/// What a process shares, as clone flags, each with the earlier process it shares it with.
fn shares(view: &TreeView, index: usize) -> [(u64, Option<usize>); 4] {
    let p = &view.processes[index];
    [(CLONE_VM, p.shares_mm), (CLONE_FILES, p.shares_files), (CLONE_FS, p.shares_fs), (CLONE_SIGHAND, p.shares_sighand)]
}

/// The clone flags of a process that shares something, and the first owner; None when it shares nothing.
fn shared_flags(view: &TreeView, index: usize) -> Option<(u64, usize)> {
    let shared = shares(view, index);
    let owner = shared.iter().find_map(|(_, o)| *o)?;
    Some((shared.iter().filter(|(_, o)| o.is_some()).map(|(f, _)| f).sum(), owner))
}

/// Processes that could fork this one so that it shares what it must: its parent, or earlier siblings (CLONE_PARENT).
fn forkers(view: &TreeView, index: usize) -> Vec<usize> {
    let wanted = shares(view, index);
    let parent = view.processes[index].stat.ppid;
    let fits = |candidate: usize| {
        let c = &view.processes[candidate];
        let near = c.pid == parent || (c.stat.ppid == parent && !c.is_zombie());
        near && shares(view, candidate)
            .iter()
            .zip(&wanted)
            .all(|((_, own), (_, wanted))| wanted.is_none_or(|w| w == own.unwrap_or(candidate)))
    };
    (0..index).filter(|c| fits(*c)).collect()
}

/// Ids of every process for one sort of object, in one pass.
fn object_ids(view: &TreeView, shares: impl Fn(&ProcessView) -> Option<usize>) -> Vec<u32> {
    let mut ids: Vec<u32> = Vec::with_capacity(view.processes.len());
    let mut last = 0;
    for p in &view.processes {
        ids.push(match shares(p) {
            _ if p.is_zombie() => 0,
            Some(owner) => ids[owner],
            None => {
                last += 1;
                last
            }
        });
    }
    ids
}

/// Makes one [`rec::Process`] for every process, parents before children; the other kinds fill them.
pub fn export(cx: &mut ExportCx<'_>) -> Result<(), KindError> {
    let view = cx.view;
    for (mut record, process) in shape(view).into_iter().zip(&view.processes) {
        let stat = &process.stat;
        record.start_time_ns = stat.starttime.saturating_mul(10_000_000);
        if process.is_zombie() {
            // Who waits for it is told its user.
            let cred = Some(crate::kinds::process::cred::of(&process.status, 0));
            let thread = rec::Thread { tid: process.pid, cred, ..rec::Thread::default() };
            record.threads = vec![crate::kinds::thread::name::named(thread, &stat.comm)];
        } else {
            terminal::export(process, &mut record);
            if process.status.is_dead() {
                record.leader_dead = true;
                record.leader_exit_status = stat.exit_code as u32;
            }
        }
        cx.model.processes.push(record);
    }
    Ok(())
}

/// Who is whose child, in which session and group, and what they share.
fn shape(view: &TreeView) -> Vec<rec::Process> {
    let [mm, files, fs, sighand] = [
        object_ids(view, |p| p.shares_mm),
        object_ids(view, |p| p.shares_files),
        object_ids(view, |p| p.shares_fs),
        object_ids(view, |p| p.shares_sighand),
    ];
    let inside: HashSet<Pid> = view.processes.iter().map(|p| p.pid).collect();
    let one = |(index, process): (usize, &ProcessView)| {
        let stat = &process.stat;
        rec::Process {
            pid: process.pid,
            ppid: if index == 0 { 0 } else { stat.ppid },
            pgid: stat.pgid,
            sid: stat.sid,
            sid_outside: is_outside(stat.sid, &inside),
            pgid_outside: is_outside(stat.pgid, &inside),
            exit_signal: stat.exit_signal.max(0) as u32,
            zombie: process.is_zombie().then_some(rec::Zombie { status: stat.exit_code as u32 }),
            mm_id: mm[index],
            fd_table_id: files[index],
            fs_id: fs[index],
            sighand_id: sighand[index],
            ..rec::Process::default()
        }
    };
    view.processes.iter().enumerate().map(one).collect()
}

/// Whether the process that gave this session or group its number lives, but not in the tree.
///
/// 0 is the kernel's word for one that is outside of the pid namespace.
fn is_outside(id: Pid, inside: &HashSet<Pid>) -> bool {
    id == 0 || (!inside.contains(&id) && ProcDir::open(id).is_ok())
}

/// Whether a pid or tid of the ghost is in use on this host.
pub fn any_pid_taken(model: &crate::model::Model) -> bool {
    let tids = model.processes.iter().flat_map(|p| p.threads.iter().map(|t| t.tid).chain([p.pid]));
    tids.into_iter().any(|pid| ProcDir::open(pid).is_ok())
}
