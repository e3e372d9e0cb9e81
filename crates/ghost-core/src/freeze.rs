//! Freezing a process tree: every thread of it in a ptrace stop, until the value is dropped.
//!
//! `PTRACE_SEIZE` and `PTRACE_INTERRUPT` (Linux 3.4) disturb nothing: no signal is sent, a system call that was under way
//! is restarted by the kernel as it would be after a signal without a handler. A thread or child that appears while we
//! freeze is found by looking again until nothing is new. Job-control stops and signals that were about to be delivered are
//! let through first, so that each thread rests in a plain trap or in its group stop.
//!
//! All ptrace calls of a tree come from the thread that froze it: ptrace belongs to a thread, not to a process.
//! If ghost dies the kernel detaches all of them and the tree runs on.

use crate::abreast;
use crate::asleep::{self, Asleep, Sampler};
use crate::detour::Slots;
use crate::error::{Cause, Context, KindError};
use crate::inquiry::alike;
use ghost_sys::bpf::threads::Threads;
use ghost_sys::proc::{self, ProcDir};
use ghost_sys::ptrace::{self, Running, Stop, Stopped, Waited};
use ghost_sys::{Errno, Pid};
use std::collections::{BTreeMap, HashSet};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One frozen thread.
#[derive(Debug)]
pub struct FrozenThread {
    /// The thread, stopped.
    pub stopped: Stopped,
    /// The job-control signal that had stopped it, 0 if it ran.
    pub group_stop: i32,
    /// The call it slept in before it was stopped, where that is not to be seen afterwards.
    pub asleep: Option<Asleep>,
}

/// One process whose threads are all stopped; none for a zombie.
#[derive(Debug)]
pub struct FrozenProcess {
    /// Its pid.
    pub pid: Pid,
    /// The pid of the process of the tree under which it was found, 0 for the root.
    pub parent: Pid,
    /// Its threads, the leader first.
    pub threads: Vec<FrozenThread>,
}

/// A frozen tree, parents before children. Dropping it thaws.
#[derive(Debug, Default)]
pub struct FrozenTree {
    /// Its processes.
    pub processes: Vec<FrozenProcess>,
    /// Where one has many threads: a way to tell which of them are alike, if there is one here.
    pub alike: Option<Threads>,
}

impl FrozenTree {
    /// Freezes `root` and everything below it.
    pub fn freeze(root: Pid) -> Result<Self, KindError> {
        let mut tree = Self::default();
        let mut queue = std::collections::VecDeque::from([(root, 0)]);
        let mut seen = HashSet::from([root]);
        let mut sampler = Sampler::default();
        let mut beside = None;
        while let Some((pid, parent)) = queue.pop_front() {
            let Some(threads) = freeze_process(pid, pid == root, &mut sampler, &mut beside)? else { continue };
            for child in children(pid) {
                if seen.insert(child) {
                    queue.push_back((child, pid));
                }
            }
            tree.processes.push(FrozenProcess { pid, parent, threads });
        }
        tree.alike = beside.and_then(|thread| thread.join().ok()?.ok());
        Ok(tree)
    }

    /// Lets everything run on. Threads in a group stop stay in it.
    pub fn thaw(self) -> Result<(), KindError> {
        let mut first = Ok(());
        for process in self.processes.into_iter().rev() {
            for thread in process.threads.into_iter().rev() {
                let tid = thread.stopped.tid();
                match thread.stopped.detach() {
                    Ok(()) | Err(Errno(libc::ESRCH)) => {}
                    Err(e) if first.is_ok() => {
                        first = Err(KindError::new("letting a thread run on", e).on(process.pid, format!("tid {tid}")));
                    }
                    Err(_) => {}
                }
            }
        }
        first
    }

    /// Ends every process as by SIGKILL and waits until each is a zombie or gone.
    pub fn kill(self) -> Result<(), KindError> {
        for process in &self.processes {
            if !process.threads.is_empty() {
                let _ = signal(process.pid, libc::SIGKILL);
            }
        }
        for process in self.processes {
            // The leader is waited for last: it is reported only once its threads are gone.
            for thread in process.threads.into_iter().rev() {
                let tid = thread.stopped.tid();
                thread.stopped.wait_for_end().step_on(process.pid, || format!("tid {tid}"), "waiting for its end")?;
            }
        }
        Ok(())
    }
}

/// Stops all threads of a process. None: it has ended meanwhile. No threads: a zombie.
///
/// `beside` is a thread that makes what is of use where there are many.
fn freeze_process(
    pid: Pid,
    is_root: bool,
    sampler: &mut Sampler,
    beside: &mut Option<JoinHandle<ghost_sys::Result<Threads>>>,
) -> Result<Option<Vec<FrozenThread>>, KindError> {
    let mut stopped: BTreeMap<Pid, FrozenThread> = BTreeMap::new();
    let mut dead = HashSet::new();
    let mut began = None;
    let gone = |e| if is_root { Err(KindError::new("looking for its threads", e).on(pid, "")) } else { Ok(None) };
    let dir = match ProcDir::open(pid) {
        Ok(dir) => dir,
        Err(e) => return gone(e),
    };
    loop {
        let mut fresh = Vec::new();
        let tids = match proc::read_threads(&dir) {
            Ok(tids) => tids,
            Err(e) => return gone(e),
        };
        if tids.len() >= alike::MANY && beside.is_none() {
            *beside = std::thread::Builder::new().spawn(Threads::load).ok();
        }
        for tid in tids {
            if stopped.contains_key(&tid) || dead.contains(&tid) {
                continue;
            }
            match seize(tid) {
                Ok(running) => fresh.push(running),
                Err(Errno(libc::ESRCH)) => {
                    dead.insert(tid);
                }
                Err(e) => match proc::state(pid, tid) {
                    None | Some(b'Z' | b'X') => {
                        dead.insert(tid);
                    }
                    _ => return Err(refused_by_ptrace(pid, tid, e)),
                },
            }
        }
        if fresh.is_empty() {
            if all_are_there(&dir, pid, &stopped) {
                break;
            }
            if began.get_or_insert_with(Instant::now).elapsed() > ENDING {
                let e = KindError::conflict("freezing", "its threads begin and end faster than they can be stopped");
                return Err(e.on(pid, "").advise("try again, or when it is less busy"));
            }
            std::thread::sleep(Duration::from_micros(50));
            continue;
        }
        // The end of a process is told with its leader, and of the leader only when all others have been waited for.
        fresh.sort_by_key(|running| running.tid() == pid);
        let tids: Vec<Pid> = fresh.iter().map(Running::tid).collect();
        let glimpses = abreast::each(&tids, abreast::TASKS, |&tid| asleep::look(&dir, tid));
        let asleep: Vec<Option<Asleep>> = glimpses.into_iter().map(|g| g.map(|g| sampler.read(g))).collect();
        for running in &fresh {
            match running.interrupt() {
                Ok(()) | Err(Errno(libc::ESRCH)) => {}
                Err(e) => return Err(KindError::new("PTRACE_INTERRUPT", e).on(pid, format!("tid {}", running.tid()))),
            }
        }
        let mut stopping: Vec<(Running, Option<Asleep>)> = fresh.into_iter().zip(asleep).collect();
        // When the last of the others has stopped, mostly all have.
        let others = stopping.len() - usize::from(tids.last() == Some(&pid));
        stopping[..others].reverse();
        for (running, asleep) in stopping {
            let tid = running.tid();
            match rest(running, pid)? {
                Some((thread, group_stop)) => {
                    if group_stop == 0 {
                        asleep::restart_later(&thread).step_on(
                            pid,
                            || format!("tid {tid}"),
                            "looking at its registers",
                        )?;
                    }
                    let thread = FrozenThread { stopped: thread, group_stop, asleep };
                    stopped.insert(tid, thread);
                }
                None => {
                    dead.insert(tid);
                }
            }
        }
    }
    if stopped.is_empty() && proc::state(pid, pid).is_none() {
        if is_root {
            return Err(KindError::new("freezing", Errno(libc::ESRCH)).on(pid, "").advise("the process has ended"));
        }
        return Ok(None);
    }
    detours(pid, &stopped);
    let mut threads = Vec::with_capacity(stopped.len());
    threads.extend(stopped.remove(&pid));
    threads.extend(stopped.into_values());
    Ok(Some(threads))
}

/// Lets calls with a time limit go on with what is left of it, whenever their threads go on.
fn detours(pid: Pid, stopped: &BTreeMap<Pid, FrozenThread>) {
    let mut slots = None;
    for thread in stopped.values().filter(|t| t.group_stop == 0) {
        let Some(asleep) = thread.asleep.filter(|a| a.age_ns.is_some()) else { continue };
        let live = thread.stopped.tid();
        let slots = slots.get_or_insert_with(|| ProcDir::open(live).ok().and_then(|dir| Slots::of(live, &dir)));
        let Some(slots) = slots else { return };
        // Where that fails the call begins its time anew: a loss, but none that may keep anybody from travelling.
        if slots.send(&thread.stopped, asleep).is_err() && proc::state(pid, live).is_none() {
            return;
        }
    }
}

/// How long threads may take to end that cannot be stopped any more.
const ENDING: Duration = Duration::from_secs(3);

/// Whether all threads of a process are stopped, but for a leader that is dead.
///
/// The kernel ends the list of threads where the one dies that it has just named: others may be behind it, and run. Their number is
/// certain.
fn all_are_there(dir: &ProcDir, pid: Pid, stopped: &BTreeMap<Pid, FrozenThread>) -> bool {
    let Ok(count) = proc::thread_count(dir) else { return true };
    let dead_leader = u64::from(!stopped.contains_key(&pid));
    count <= stopped.len() as u64 + dead_leader
}

fn seize(tid: Pid) -> Result<Running, Errno> {
    // Seccomp would judge the calls that ghost makes inside; only CAP_SYS_ADMIN may suspend it.
    ptrace::seize(tid, ptrace::SUSPEND_SECCOMP)
        .or_else(|e| match e {
            Errno(libc::EPERM) => ptrace::seize(tid, 0),
            e => Err(e),
        })
        .or_else(|e| {
            // One that could not be stopped at an earlier try (vfork) is still ours: its stop is yet to come.
            let status = ProcDir::open(tid).and_then(|dir| proc::read_status(&dir));
            let ours = e == Errno(libc::EPERM) && status.is_ok_and(|s| s.tracer_pid == std::process::id() as Pid);
            if ours { Ok(ptrace::adopt(tid)) } else { Err(e) }
        })
}

/// How long a thread may take to stop before we ask what holds it up.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long we wait for a thread that waits for a disk or a server.
const LIMIT: Duration = Duration::from_secs(20);

/// Waits until the thread rests in a trap or in its group stop (then with its signal); signals on their way are let through.
fn rest(running: Running, pid: Pid) -> Result<Option<(Stopped, i32)>, KindError> {
    let tid = running.tid();
    let began = Instant::now();
    let mut running = running;
    loop {
        let settled =
            running.settle_within(PATIENCE).step_on(pid, || format!("tid {tid}"), "waiting for it to stop")?;
        running = match settled {
            Ok(Waited::Stopped(stopped, Stop::Group(signal))) => return Ok(Some((stopped, signal))),
            Ok(Waited::Stopped(stopped, _)) => return Ok(Some((stopped, 0))),
            Ok(Waited::Gone(_)) => return Ok(None),
            Err(running) => running,
        };
        let dir =
            ProcDir::open(pid).and_then(|d| d.thread(tid)).step_on(pid, String::new, "looking what holds it up")?;
        let Ok(status) = proc::read_status(&dir) else { continue };
        if tid == pid && status.is_dead() {
            return Ok(None); // its threads live on, and the kernel keeps its end for the last of them
        }
        if crate::kinds::tree::in_vfork(&dir, &status) {
            let comm = String::from_utf8_lossy(&status.name).into_owned();
            let blocker = crate::kinds::tree::vfork_blocker(pid, comm, tid);
            return Err(KindError::new("freezing", Cause::Refused(Box::new(blocker))).on(pid, format!("tid {tid}")));
        }
        if began.elapsed() > LIMIT {
            let what = proc::read_wchan(&dir).ok().flatten().unwrap_or_else(|| "an uninterruptible sleep".into());
            let e = KindError::conflict(
                "waiting for it to stop",
                format!("it stays in {what} (state {})", status.state as char),
            );
            return Err(e
                .on(pid, format!("tid {tid}"))
                .advise("wait until its disk or file server answers, and try again"));
        }
    }
}

fn refused_by_ptrace(pid: Pid, tid: Pid, e: Errno) -> KindError {
    let status = ProcDir::open(pid).and_then(|d| d.thread(tid)).and_then(|d| proc::read_status(&d)).ok();
    if let Some(s) = status.filter(|s| s.tracer_pid > 0) {
        let comm = String::from_utf8_lossy(&s.name).into_owned();
        let blocker = crate::kinds::tree::traced_blocker(pid, comm, tid, s.tracer_pid);
        return KindError::new("PTRACE_SEIZE", Cause::Refused(Box::new(blocker))).on(pid, format!("tid {tid}"));
    }
    KindError::new("PTRACE_SEIZE", e)
        .on(pid, format!("tid {tid}"))
        .advise("run ghost as the owner of the process or as root; kernel threads can't travel")
}

pub(crate) fn children(pid: Pid) -> Vec<Pid> {
    let Ok(dir) = ProcDir::open(pid) else { return Vec::new() };
    let threads = proc::read_threads(&dir).unwrap_or_default();
    // A file for each thread: there is none for all of them.
    let parts: Vec<&[Pid]> = threads.chunks(CHILDREN_AT_ONCE).collect();
    let all = abreast::each(&parts, abreast::TASKS / CHILDREN_AT_ONCE, |part| match proc::read_children(&dir, part) {
        // Alone among threads that are gone, or never there.
        Err(e) if e.is_gone() && threads.len() > 1 => Ok(Vec::new()),
        other => other,
    });
    all.into_iter().collect::<Result<Vec<_>, _>>().map_or_else(|_| Vec::new(), |all| all.concat())
}

/// Threads whose children are read by one thread of ours before it takes others.
const CHILDREN_AT_ONCE: usize = 8;

/// Children of a process, where it is no matter if some are missed: those of its first threads.
pub(crate) fn some_children(pid: Pid) -> Vec<Pid> {
    let Ok(dir) = ProcDir::open(pid) else { return Vec::new() };
    let threads = proc::read_threads(&dir).unwrap_or_default();
    proc::read_children(&dir, &threads[..threads.len().min(CHILDREN_AT_ONCE)]).unwrap_or_default()
}

/// Sends a signal; an error means that there is nobody to get it.
pub(crate) fn signal(pid: Pid, signal: i32) -> Result<(), Errno> {
    let handle = ghost_sys::pidfd::open(pid)?;
    ghost_sys::pidfd::signal(std::os::fd::AsFd::as_fd(&handle), signal)
}
