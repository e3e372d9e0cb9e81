//! What procfs tells of a process tree: the eyes of every `check`, and the first half of every `export`.
//!
//! A view is taken without touching anything, of a running tree (`ghost check`) or of a frozen one (export).

use crate::error::{Context, KindError};
use ghost_sys::kcmp::{self, Resource};
use ghost_sys::proc::{self, ProcDir};
use ghost_sys::{Pid, pidfd};
use std::cmp::Ordering;
use std::os::fd::{AsFd, OwnedFd};

/// One open descriptor, seen from outside.
#[derive(Debug)]
pub struct FdView {
    /// Its number.
    pub fd: i32,
    /// What /proc/PID/fd/N names: a path, `pipe:[123]`, `anon_inode:[eventfd]`.
    pub link: Vec<u8>,
    /// /proc/PID/fdinfo/N.
    pub info: proc::FdInfo,
    /// The same open file description, as a descriptor of ours (pidfd_getfd).
    pub ours: OwnedFd,
    /// Its inode.
    pub stat: rustix::fs::Stat,
}

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
}

impl ProcessView {
    /// Whether it has ended and waits to be reaped.
    pub fn is_zombie(&self) -> bool {
        self.stat.state == b'Z' && self.threads.len() <= 1
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
    /// Descriptions that the user leaves behind by name: `pipe:[123]`, `fd:5`.
    pub external: Vec<String>,
    /// Who outside holds pipes and sockets of the tree; searched once, when somebody asks.
    pub outside: std::cell::OnceCell<crate::kinds::fd::outside::Outside>,
    /// Who outside has mapped memory without a name; searched once, if the tree has some.
    pub neighbours: std::cell::OnceCell<crate::kinds::memory::outside::Neighbours>,
    /// The pseudo-terminals whose masters are in the tree; looked for once, when there is a terminal.
    pub ptys: std::cell::OnceCell<crate::kinds::fd::pty::Inside>,
    /// What sock_diag tells of the sockets of the host; asked once, when somebody wants to know.
    pub sockets: std::cell::OnceCell<crate::kinds::socket::Facts>,
    /// The System V segments of the host; listed once, when one is attached in the tree.
    pub sysv: std::cell::OnceCell<Vec<proc::ShmSegment>>,
}

impl TreeView {
    /// Looks at these processes, given parents before children.
    ///
    /// A process that has gone meanwhile is left out, unless it is the root.
    pub fn collect(pids: &[Pid]) -> Result<Self, KindError> {
        let mut view = Self::default();
        let mut sharers = [
            Sharers::new(Resource::Vm),
            Sharers::new(Resource::Files),
            Sharers::new(Resource::Fs),
            Sharers::new(Resource::Sighand),
        ];
        for &pid in pids {
            let index = view.processes.len();
            let Some(mut process) = look(pid, index == 0)? else { continue };
            if !process.is_zombie() {
                let live = process.live;
                let [mm, files, fs, sighand] =
                    sharers.each_mut().map(|s| s.find(&view.processes, live, index).step_on(pid, String::new, "kcmp"));
                (process.shares_mm, process.shares_files) = (mm?, files?);
                (process.shares_fs, process.shares_sighand) = (fs?, sighand?);
                if process.shares_mm.is_none() {
                    process.smaps = proc::read_smaps(&process.dir).step_on(pid, String::new, "reading its smaps")?;
                }
                if process.shares_files.is_none() {
                    process.fds = descriptors(&process)?;
                }
            }
            view.processes.push(process);
        }
        Ok(view)
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

/// Processes that have an object of one sort of their own, in the order in which kcmp sorts those objects.
struct Sharers {
    sort: Resource,
    ordered: Vec<usize>,
}

impl Sharers {
    fn new(sort: Resource) -> Self {
        Self { sort, ordered: Vec::new() }
    }
    /// The earlier process with the same object, found by binary search; or notes this one as the first.
    fn find(&mut self, before: &[ProcessView], pid: Pid, index: usize) -> ghost_sys::Result<Option<usize>> {
        let mut failed = None;
        let found = self.ordered.binary_search_by(|&other| {
            kcmp::kcmp(before[other].live, pid, self.sort, 0, 0).unwrap_or_else(|e| {
                failed = Some(e);
                Ordering::Equal
            })
        });
        match (failed, found) {
            (Some(e), _) => Err(e),
            (None, Ok(at)) => Ok(Some(self.ordered[at])),
            (None, Err(at)) => {
                self.ordered.insert(at, index);
                Ok(None)
            }
        }
    }
}

fn look(pid: Pid, is_root: bool) -> Result<Option<ProcessView>, KindError> {
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
    tids.sort_unstable_by_key(|&tid| (tid != pid, tid));
    let mut threads = Vec::with_capacity(tids.len());
    for tid in tids {
        if tid == pid {
            threads.push(ThreadView { tid, status: status.clone() });
        } else if let Ok(status) = dir.thread(tid).and_then(|d| proc::read_status(&d)) {
            threads.push(ThreadView { tid, status });
        }
    }
    // A leader that has ended before its threads has neither memory nor descriptors any more.
    let live = if status.is_dead() { threads.iter().find(|t| !t.status.is_dead()).map_or(pid, |t| t.tid) } else { pid };
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
    Ok(Some(ProcessView {
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
    }))
}

fn descriptors(process: &ProcessView) -> Result<Vec<FdView>, KindError> {
    let pid = process.pid;
    let mut numbers = proc::read_fds(&process.dir).step_on(pid, String::new, "listing its descriptors")?;
    numbers.sort_unstable();
    let mut fds = Vec::with_capacity(numbers.len());
    for fd in numbers {
        let what = || format!("fd {fd}");
        let ours = match pidfd::getfd(process.pidfd.as_fd(), fd) {
            Ok(ours) => ours,
            Err(ghost_sys::Errno(9)) => continue, // EBADF: closed since it was listed; a running process may do so
            Err(e) => return Err(KindError::new("pidfd_getfd", e).on(pid, what())),
        };
        let link = process.dir.link(&format!("fd/{fd}")).step_on(pid, what, "reading its link")?;
        let info = proc::read_fdinfo(&process.dir, fd).step_on(pid, what, "reading its fdinfo")?;
        let stat = rustix::fs::fstat(&ours).step_on(pid, what, "fstat")?;
        fds.push(FdView { fd, link, info, ours, stat });
    }
    Ok(fds)
}
