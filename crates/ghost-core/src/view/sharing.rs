//! Who shares what with whom: address spaces, descriptor tables, directories, signal actions, by `kcmp(2)` (Linux 3.5).
//!
//! Nearly always a process has each once for all its threads. A thread that has called `unshare(2)`, or was made without
//! CLONE_FILES or CLONE_FS, has a table or directories *apart*: those are looked at through the thread.

use super::{FdView, ProcessView, TreeView};
use crate::abreast;
use crate::error::{Context, KindError};
use ghost_sys::kcmp::{self, Resource};
use ghost_sys::proc::ProcDir;
use ghost_sys::{Errno, Pid, pidfd};
use std::cmp::Ordering;
use std::os::fd::OwnedFd;

/// A thread that has a descriptor table or directories apart from its process: the first of those that have them.
#[derive(Debug)]
pub struct Apart {
    /// Its process, by index.
    pub process: usize,
    /// Its tid.
    pub tid: Pid,
    /// A handle of the thread; None before Linux 6.9, where its table can't be copied from.
    pub pidfd: Option<OwnedFd>,
    /// /proc/TID.
    pub dir: ProcDir,
    /// Whether it is the first to have its table.
    pub files: bool,
    /// Whether it is the first to have its directories.
    pub fs: bool,
    /// The descriptors of its table.
    pub fds: Vec<FdView>,
}

/// Shares across processes what its own process has not: nobody could make that again.
#[derive(Debug)]
pub struct Crossed {
    /// The process of the later one, by index.
    pub process: usize,
    /// Its tid.
    pub tid: Pid,
    /// What it shares.
    pub what: &'static str,
}

/// Whose an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// Of a process and those of its threads that have nothing apart.
    Process(usize),
    /// Of a thread, by index into [`TreeView::apart`].
    Apart(usize),
}

/// The objects of one sort, in the order in which kcmp sorts them.
struct Sharers {
    sort: Resource,
    ordered: Vec<(Pid, Owner)>,
}

impl Sharers {
    fn new(sort: Resource) -> Self {
        Self { sort, ordered: Vec::new() }
    }
    /// The earlier owner of the same object, found by binary search; or notes this one as the first.
    fn find(&mut self, pid: Pid, owner: Owner) -> ghost_sys::Result<Option<Owner>> {
        let mut failed = None;
        let found = self.ordered.binary_search_by(|&(other, _)| {
            kcmp::kcmp(other, pid, self.sort, 0, 0).unwrap_or_else(|e| {
                failed = Some(e);
                Ordering::Equal
            })
        });
        match (failed, found) {
            (Some(e), _) => Err(e),
            (None, Ok(at)) => Ok(Some(self.ordered[at].1)),
            (None, Err(at)) => {
                self.ordered.insert(at, (pid, owner));
                Ok(None)
            }
        }
    }
}

/// What the processes of a tree share that their threads may have apart.
pub(super) struct Sharing {
    files: Sharers,
    fs: Sharers,
}

impl Sharing {
    /// Fills in what each process shares with earlier ones. The sorts have nothing to do with each other: all CPUs look at once.
    pub(super) fn look(processes: &mut [ProcessView]) -> Result<Self, KindError> {
        let living = processes.iter().enumerate().filter(|(_, p)| !p.is_zombie()).map(|(i, p)| (i, p.pid, p.live));
        let living: Vec<(usize, Pid, Pid)> = living.collect();
        let sorts = [Resource::Vm, Resource::Files, Resource::Fs, Resource::Sighand];
        let worth = if living.len() < abreast::PROCESSES { usize::MAX } else { 1 };
        let looked = abreast::each(&sorts, worth, |&sort| {
            let mut sharers = Sharers::new(sort);
            let owners = living.iter().map(|&(index, pid, live)| {
                let owner = sharers.find(live, Owner::Process(index)).step_on(pid, String::new, "kcmp")?;
                Ok(match owner {
                    Some(Owner::Process(other)) => Some(other),
                    // Threads come after all processes.
                    Some(Owner::Apart(_)) | None => None,
                })
            });
            let owners: Vec<Option<usize>> = owners.collect::<Result<_, KindError>>()?;
            Ok::<_, KindError>((sharers, owners))
        });
        let [mm, files, fs, sighand] =
            <[_; 4]>::try_from(looked).unwrap_or_else(|_| unreachable!("one result for each sort"));
        let ((_, of_mm), (files, of_files), (fs, of_fs), (_, of_sighand)) = (mm?, files?, fs?, sighand?);
        let shared = of_mm.into_iter().zip(of_files).zip(of_fs).zip(of_sighand);
        for ((index, ..), (((mm, files), fs), sighand)) in living.into_iter().zip(shared) {
            let process = &mut processes[index];
            (process.shares_mm, process.shares_files) = (mm, files);
            (process.shares_fs, process.shares_sighand) = (fs, sighand);
        }
        Ok(Self { files, fs })
    }

    /// Fills in which threads of a process have something apart.
    pub(super) fn look_at_threads(&mut self, view: &mut TreeView, index: usize) -> Result<(), KindError> {
        for nth in 0..view.processes[index].threads.len() {
            let (pid, tid) = (view.processes[index].pid, view.processes[index].threads[nth].tid);
            let differs = view.processes[index].threads[nth].differs;
            if differs != (false, false) {
                self.apart(view, index, nth, differs).map_err(|e| e.on(pid, format!("tid {tid}")))?;
            }
        }
        Ok(())
    }

    /// A thread that has a table or directories apart from its process.
    fn apart(
        &mut self,
        view: &mut TreeView,
        index: usize,
        nth: usize,
        (files, fs): (bool, bool),
    ) -> Result<(), KindError> {
        let (next, tid) = (view.apart.len(), view.processes[index].threads[nth].tid);
        let mut crossed = Vec::new();
        let mut whose = |sharers: &mut Sharers, what| {
            let found = sharers.find(tid, Owner::Apart(next)).step("kcmp")?;
            Ok::<_, KindError>(match found {
                None => (Some(next), true),
                Some(Owner::Apart(k)) if view.apart[k].process == index => (Some(k), false),
                Some(_) => {
                    crossed.push(Crossed { process: index, tid, what });
                    (None, false)
                }
            })
        };
        let files = if files { whose(&mut self.files, TABLE)? } else { (None, false) };
        let fs = if fs { whose(&mut self.fs, DIRECTORIES)? } else { (None, false) };
        view.crossed.extend(crossed);
        let thread = &mut view.processes[index].threads[nth];
        (thread.files, thread.fs) = (files.0, fs.0);
        if files.1 || fs.1 {
            let pidfd = match pidfd::open_thread(tid) {
                Err(Errno(libc::EINVAL)) => None,
                opened => Some(opened.step("pidfd_open of a thread")?),
            };
            let dir = ProcDir::open(tid).step("looking at the thread")?;
            let (files, fs) = (files.1, fs.1);
            view.apart.push(Apart { process: index, tid, pidfd, dir, files, fs, fds: Vec::new() });
        }
        Ok(())
    }
}

/// Whether a thread has another descriptor table, and other directories, than `live` of the same process.
pub(super) fn differs(live: Pid, tid: Pid) -> Result<(bool, bool), KindError> {
    let differs = |sort| match kcmp::kcmp(live, tid, sort, 0, 0) {
        Ok(order) => Ok(order.is_ne()),
        // A running one may end meanwhile.
        Err(Errno(libc::ESRCH)) => Ok(false),
        Err(e) => Err(KindError::new(format!("kcmp of tid {tid}"), e)),
    };
    Ok((differs(Resource::Files)?, differs(Resource::Fs)?))
}

const TABLE: &str = "a descriptor table";
const DIRECTORIES: &str = "directories (CLONE_FS)";

impl TreeView {
    /// Every descriptor table, by a number of its own: that of a process, or of a thread that has one apart.
    pub fn tables(&self) -> impl Iterator<Item = (usize, &ProcessView, &[FdView])> {
        let own = self.processes.iter().enumerate().map(|(i, p)| (i, p, p.fds.as_slice()));
        let apart = self.apart.iter().enumerate();
        own.chain(apart.map(|(k, a)| (self.processes.len() + k, &self.processes[a.process], a.fds.as_slice())))
    }
    /// The descriptors of all tables.
    pub fn fds(&self) -> impl Iterator<Item = &FdView> {
        self.tables().flat_map(|(_, _, fds)| fds)
    }
    /// The descriptors of the table with this number.
    pub fn table(&self, number: usize) -> &[FdView] {
        match number.checked_sub(self.processes.len()) {
            None => &self.processes[number].fds,
            Some(k) => &self.apart[k].fds,
        }
    }
    /// The id of a descriptor table in the records, by its number; 0 for a zombie.
    pub fn table_id(&self, number: usize) -> u32 {
        self.id(number, |p| p.shares_files, |a| a.files)
    }
    /// The id of the directories of a process, or of those that a thread has apart, numbered alike.
    pub fn fs_id(&self, number: usize) -> u32 {
        self.id(number, |p| p.shares_fs, |a| a.fs)
    }

    fn id(&self, number: usize, shares: impl Fn(&ProcessView) -> Option<usize>, first: impl Fn(&Apart) -> bool) -> u32 {
        let count = |some: &[ProcessView]| some.iter().filter(|p| !p.is_zombie() && shares(p).is_none()).count();
        let n = self.processes.len();
        if let Some(k) = number.checked_sub(n) {
            return (count(&self.processes) + self.apart[..=k].iter().filter(|a| first(a)).count()) as u32;
        }
        if self.processes[number].is_zombie() {
            return 0;
        }
        let owner = shares(&self.processes[number]).unwrap_or(number);
        count(&self.processes[..=owner]) as u32
    }
}
