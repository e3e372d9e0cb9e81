//! What procfs tells of a process tree: the eyes of every `check`, and the first half of every `export`.
//!
//! A view is taken without touching anything, of a running tree (`ghost check`) or of a frozen one (export).

pub mod descriptor;
pub(crate) mod rows;
pub mod sharing;

pub use descriptor::{FdView, SocketView};
pub use sharing::{Apart, Crossed};

use crate::error::{Context, KindError};
use crate::kinds::socket;
use crate::{abreast, mappings, room};
use ghost_sys::proc::{self, ProcDir};
use ghost_sys::{Pid, kcmp, pidfd};
use sharing::Sharing;
use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// One process, seen from outside.
#[derive(Debug)]
pub struct ProcessView {
    /// Its pid.
    pub pid: Pid,
    /// A handle that no other process can take over.
    pub pidfd: OwnedFd,
    /// The leader, or another thread when the leader has ended: whose memory and descriptors can be read.
    pub live: Pid,
    /// /proc/PID, as that thread has it.
    pub dir: ProcDir,
    /// /proc/PID/stat.
    pub stat: proc::Stat,
    /// /proc/PID/status.
    pub status: proc::Status,
    /// Its threads, the leader first, with the status of each.
    pub threads: Vec<ThreadView>,
    /// Its mappings with their flags; empty for a zombie and for a process that shares an earlier one's memory.
    pub smaps: Vec<proc::Smap>,
    /// Its descriptors; empty for a zombie and for a process that shares an earlier one's table.
    pub fds: Vec<FdView>,
    /// The earlier process of the tree whose address space this one shares (kcmp), by index.
    pub shares_mm: Option<usize>,
    /// Likewise the descriptor table.
    pub shares_files: Option<usize>,
    /// Likewise cwd, root and umask.
    pub shares_fs: Option<usize>,
    /// Likewise the signal actions.
    pub shares_sighand: Option<usize>,
}

/// One thread, seen from outside.
#[derive(Debug)]
pub struct ThreadView {
    /// Its tid.
    pub tid: Pid,
    /// /proc/PID/task/TID/status.
    pub status: proc::Status,
    /// Whose descriptor table it has, when it is not that of its process: by index into [`TreeView::apart`].
    pub files: Option<usize>,
    /// Likewise cwd, root and umask.
    pub fs: Option<usize>,
    /// Whether its descriptor table and its directories are others than those of its process.
    differs: (bool, bool),
}

impl ThreadView {
    /// Looks at one thread of a process; `live` is another. None when it is gone.
    fn of(dir: &ProcDir, live: Pid, tid: Pid) -> Result<Option<Self>, KindError> {
        let Ok(status) = dir.parse(&format!("task/{tid}/status"), proc::parse_status) else { return Ok(None) };
        let differs = if tid == live || status.is_dead() { (false, false) } else { sharing::differs(live, tid)? };
        Ok(Some(Self { tid, status, files: None, fs: None, differs }))
    }
}

impl ProcessView {
    /// Whether it has ended and waits to be reaped.
    pub fn is_zombie(&self) -> bool {
        self.stat.state == b'Z' && self.threads.len() <= 1
    }
    /// Our copy of its descriptor `fd`, if that is the same description as another's of that number.
    fn same_description(&self, other: Pid, fd: i32) -> Option<Arc<OwnedFd>> {
        let at = self.fds.binary_search_by_key(&fd, |view| view.fd).ok()?;
        let order = kcmp::kcmp(self.live, other, kcmp::Resource::File, fd as u64, fd as u64);
        (order == Ok(Ordering::Equal)).then(|| Arc::clone(&self.fds[at].ours))
    }
    /// Its name, for messages.
    pub fn comm(&self) -> String {
        String::from_utf8_lossy(&self.stat.comm).into_owned()
    }
}

/// A process and everything below it, parents before their children.
#[derive(Debug, Default)]
pub struct TreeView {
    /// The processes; the root is the first.
    pub processes: Vec<ProcessView>,
    /// Threads that have what others share with their process.
    pub apart: Vec<Apart>,
    /// Where such a thread shares it with another process.
    pub crossed: Vec<Crossed>,
    /// Descriptions that the user leaves behind by name: `pipe:[123]`, `fd:5`.
    pub external: Vec<String>,
    /// Who outside holds pipes and sockets of the tree; searched once, when somebody asks.
    pub outside: std::cell::OnceCell<crate::kinds::fd::outside::Outside>,
    /// Who outside has mapped memory without a name; searched once, if the tree has some.
    pub neighbours: std::cell::OnceCell<crate::kinds::memory::outside::Neighbours>,
    /// The pseudo-terminals whose masters are in the tree; looked for once, when there is a terminal.
    pub ptys: std::cell::OnceCell<crate::kinds::fd::pty::Inside>,
    /// What sock_diag tells of the sockets of the host; asked once, when somebody wants to know.
    pub sockets: std::cell::OnceCell<socket::Facts>,
    /// The System V segments of the host; listed once, when one is attached in the tree.
    pub sysv: std::cell::OnceCell<Vec<proc::ShmSegment>>,
    /// Its pipes and sockets by inode; sorted once, when somebody asks.
    pub inodes: std::cell::OnceCell<crate::kinds::fd::inodes::Inodes>,
}

/// A part of what is looked at in one process.
enum Part {
    Memory(usize),
    Threads(usize, Vec<Pid>),
}

/// What a part has shown.
enum Seen {
    Memory(usize, Vec<proc::Smap>),
    Threads(usize, Vec<ThreadView>),
}

/// Descriptors that one thread looks at before it takes the next part: of which table, by its number.
type Descriptors = (usize, Vec<i32>);

/// How many those are.
const DESCRIPTORS: usize = 64;
/// Threads that one thread of ours looks at before it takes the next part.
const THREADS: usize = 16;
/// Parts and processes from which on other threads are worth their start.
const WORTH: usize = 4;

impl TreeView {
    /// Looks at these processes, given parents before children.
    ///
    /// A process that has gone meanwhile is left out, unless it is the root.
    pub fn collect(pids: &[Pid]) -> Result<Self, KindError> {
        Self::collect_frozen(pids, rows::Teller::default())
    }

    /// The same of a tree whose descriptors stay what they are, so that a program in the kernel may tell of them.
    pub(crate) fn collect_frozen(pids: &[Pid], teller: rows::Teller) -> Result<Self, KindError> {
        let mut view = Self::default();
        room::make(3 * pids.len());
        let looked = abreast::each(&pids.iter().enumerate().collect::<Vec<_>>(), WORTH, |&(i, &pid)| look(pid, i == 0));
        let mut threads = Vec::with_capacity(pids.len());
        for process in looked {
            let Some((process, others)) = process? else { continue };
            view.processes.push(process);
            threads.push(others);
        }
        let mut sharing = Sharing::look(&mut view.processes)?;
        view.look_closer(threads)?;
        for index in 0..view.processes.len() {
            sharing.look_at_threads(&mut view, index)?;
        }
        view.look_at_descriptors(teller)?;
        Ok(view)
    }

    /// Looks at every address space, and at those threads that have not been looked at.
    fn look_closer(&mut self, threads: Vec<Vec<Pid>>) -> Result<(), KindError> {
        let processes = &self.processes;
        let mut parts = Vec::with_capacity(processes.len());
        for ((index, process), tids) in processes.iter().enumerate().zip(threads).filter(|((_, p), _)| !p.is_zombie()) {
            if process.shares_mm.is_none() {
                parts.push(Part::Memory(index));
            }
            parts.extend(tids.chunks(THREADS).map(|some| Part::Threads(index, some.to_vec())));
        }
        let reader = mappings::Reader::new(parts.iter().filter(|part| matches!(part, Part::Memory(_))).count());
        let seen = abreast::each(&parts, WORTH, |part| match part {
            Part::Memory(index) => {
                let process = &processes[*index];
                let smaps = reader.read(process.live, &process.dir, process.status.vm_rss_kb);
                let smaps = smaps.step_on(process.pid, String::new, "reading its mappings")?;
                Ok(Seen::Memory(*index, smaps))
            }
            Part::Threads(index, tids) => {
                let process = &processes[*index];
                let seen = tids.iter().filter_map(|&tid| ThreadView::of(&process.dir, process.live, tid).transpose());
                Ok(Seen::Threads(*index, seen.collect::<Result<_, _>>().map_err(|e| e.on(process.pid, ""))?))
            }
        });
        for seen in seen {
            match seen? {
                Seen::Memory(index, smaps) => self.processes[index].smaps = smaps,
                Seen::Threads(index, threads) => self.processes[index].threads.extend(threads),
            }
        }
        Ok(())
    }

    /// Looks at every descriptor table.
    fn look_at_descriptors(&mut self, teller: rows::Teller) -> Result<(), KindError> {
        let told = teller.arrive();
        let processes = &self.processes;
        let mut parts: Vec<Descriptors> = Vec::with_capacity(processes.len());
        let mut rows = HashMap::new();
        let mut list = |table: usize, pid: Pid, tid: Pid, dir: &ProcDir, what: &dyn Fn() -> String| {
            let all = told.rows(tid);
            let mut numbers = if all.is_empty() {
                proc::read_fds(dir).step_on(pid, what, "listing its descriptors")?
            } else {
                all.iter().map(|row| row.fd).collect()
            };
            numbers.sort_unstable();
            parts.extend(numbers.chunks(DESCRIPTORS).map(|some| (table, some.to_vec())));
            rows.insert(table, all);
            Ok::<_, KindError>(())
        };
        for (index, process) in processes.iter().enumerate().filter(|(_, p)| !p.is_zombie()) {
            if process.shares_files.is_none() {
                list(index, process.pid, process.live, &process.dir, &String::new)?;
            }
        }
        for (k, apart) in self.apart.iter().enumerate().filter(|(_, a)| a.files && a.pidfd.is_some()) {
            let what = || format!("tid {}", apart.tid);
            list(processes.len() + k, processes[apart.process].pid, apart.tid, &apart.dir, &what)?;
        }
        let wanted = parts.iter().map(|(_, numbers)| numbers.len()).sum();
        let left = room::left(wanted);
        if wanted > left {
            return self.look_sparingly(&parts, wanted, left);
        }
        room::make(wanted);
        let options = socket::options::Known::default();
        let seen = abreast::each(&parts, WORTH, |(index, numbers)| {
            let of = match (processes.get(*index), index.checked_sub(processes.len()).map(|k| &self.apart[k])) {
                (_, Some(Apart { process, pidfd: Some(pidfd), dir, .. })) => (processes[*process].pid, pidfd, dir),
                (Some(p), _) => (p.pid, &p.pidfd, &p.dir),
                _ => return Ok((*index, Vec::new())),
            };
            let rows = rows.get(index).map_or(&[][..], Vec::as_slice);
            Ok((*index, descriptor::look(of, numbers, &options, rows, |_| None)?))
        });
        for (index, rows) in rows {
            // Where they are many, memory that grows is copied and touched twice.
            match index.checked_sub(self.processes.len()) {
                None => self.processes[index].fds.reserve_exact(rows.len()),
                Some(k) => self.apart[k].fds.reserve_exact(rows.len()),
            }
        }
        for seen in seen {
            let (index, fds) = seen?;
            match index.checked_sub(self.processes.len()) {
                None => self.processes[index].fds.extend(fds),
                Some(k) => self.apart[k].fds.extend(fds),
            }
        }
        Ok(())
    }

    /// The same where we may not have as many descriptors as the tree: those that a process has from its parent, or from the sibling
    /// before it, are looked at through the copy that we have of that one's.
    fn look_sparingly(&mut self, parts: &[Descriptors], wanted: usize, left: usize) -> Result<(), KindError> {
        let shared = Cell::new(0);
        let options = socket::options::Known::default();
        for (index, numbers) in parts {
            if *index < self.processes.len() {
                let process = &self.processes[*index];
                let parent = self.processes[..*index].iter().rfind(|p| p.pid == process.stat.ppid);
                let sibling = self.processes[..*index].iter().rfind(|p| p.stat.ppid == process.stat.ppid);
                let relatives: Vec<&ProcessView> = parent.into_iter().chain(sibling).collect();
                let of = (process.pid, &process.pidfd, &process.dir);
                let known = |fd: i32| {
                    let ours = relatives.iter().find_map(|r| r.same_description(process.live, fd))?;
                    shared.set(shared.get() + 1);
                    Some(ours)
                };
                let fds = descriptor::look(of, numbers, &options, &[], known)
                    .map_err(|e| descriptor::full(e, wanted, left))?;
                self.processes[*index].fds.extend(fds);
            } else {
                let apart = &mut self.apart[*index - self.processes.len()];
                let Some(pidfd) = &apart.pidfd else { continue };
                let of = (self.processes[apart.process].pid, pidfd, &apart.dir);
                let fds = descriptor::look(of, numbers, &options, &[], |_| None)
                    .map_err(|e| descriptor::full(e, wanted, left))?;
                apart.fds.extend(fds);
            }
        }
        // The rest of the work takes some, too.
        if wanted - shared.get() > left { Err(room::too_many(wanted, left)) } else { Ok(()) }
    }

    /// The process and everything below it, as it runs now.
    pub fn of_running(root: Pid) -> Result<Self, KindError> {
        let mut pids = vec![root];
        let mut next = 0;
        while let Some(&pid) = pids.get(next) {
            next += 1;
            for child in crate::freeze::children(pid) {
                if !pids.contains(&child) {
                    pids.push(child);
                }
            }
        }
        Self::collect(&pids)
    }
}

/// Looks at a process, and tells which of its threads are still to be looked at.
fn look(pid: Pid, is_root: bool) -> Result<Option<(ProcessView, Vec<Pid>)>, KindError> {
    let opened = ProcDir::open(pid).and_then(|dir| Ok((proc::read_stat(&dir)?, proc::read_status(&dir)?, dir)));
    let (stat, status, dir) = match opened {
        Ok(read) => read,
        Err(e) if e.is_gone() && !is_root => return Ok(None),
        Err(e) => return Err(KindError::new("looking at the process", e).on(pid, "")),
    };
    let pidfd = match pidfd::open(pid) {
        Ok(fd) => fd,
        Err(e) => return Err(KindError::new("pidfd_open", e).on(pid, "")),
    };
    let mut tids = proc::read_threads(&dir).step_on(pid, String::new, "listing its threads")?;
    tids.retain(|&tid| tid != pid);
    tids.sort_unstable();
    // A leader that has ended before its threads has neither memory nor descriptors any more.
    let is_alive =
        |tid: &Pid| dir.parse(&format!("task/{tid}/status"), proc::parse_status).is_ok_and(|status| !status.is_dead());
    let live = if status.is_dead() { tids.iter().copied().find(is_alive).unwrap_or(pid) } else { pid };
    let mut threads = Vec::with_capacity(tids.len() + 1);
    threads.push(ThreadView { tid: pid, status: status.clone(), files: None, fs: None, differs: (false, false) });
    if status.is_dead() {
        // Whether it is a zombie is asked before anybody looks closer.
        for tid in tids.drain(..) {
            threads.extend(ThreadView::of(&dir, live, tid).map_err(|e| e.on(pid, ""))?);
        }
    }
    let (dir, pidfd, stat, status) = if live == pid {
        (dir, pidfd, stat, status)
    } else {
        let what = || format!("tid {live}");
        let fd = pidfd::open_thread(live).step_on(pid, what, "pidfd_open of a thread")?;
        let dir = ProcDir::open(live).step_on(pid, what, "looking at the process")?;
        let seen = proc::read_stat(&dir).step_on(pid, what, "looking at the process")?;
        let umask = proc::read_status(&dir).step_on(pid, what, "looking at the process")?.umask;
        // Who it is says the leader, what its memory is says the thread.
        let (state, exit_signal, exit_code) = (stat.state, stat.exit_signal, stat.exit_code);
        let stat = proc::Stat { pid, comm: stat.comm, state, exit_signal, exit_code, ..seen };
        (dir, fd, stat, proc::Status { umask, ..status })
    };
    let view = ProcessView {
        pid,
        pidfd,
        live,
        dir,
        stat,
        status,
        threads,
        smaps: Vec::new(),
        fds: Vec::new(),
        shares_mm: None,
        shares_files: None,
        shares_fs: None,
        shares_sighand: None,
    };
    Ok(Some((view, tids)))
}
