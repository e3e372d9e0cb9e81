//! The drive out: freeze, look, refuse or ask, kinds in order, records, pages, commit, thaw.

use crate::error::{Action, Blocker, Cause, Error, KindError};
use crate::freeze::FrozenTree;
use crate::inquiry::Answers;
use crate::kinds::{KINDS, memory};
use crate::model::{Ids, Model};
use crate::options::{After, ExportOptions, Progress};
use crate::report::Report;
use crate::view::TreeView;
use crate::view::rows::Teller;
use ghost_image::ImageWriter;
use ghost_image::record as rec;
use ghost_resource::{GhostWrite, WriteAt};
use ghost_sys::Pid;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Pages that follow the records.
#[derive(Debug)]
pub enum PageSource {
    /// Of an address space, read from the process at this index of the view.
    Memory {
        /// The record's id.
        mm_id: u32,
        /// Index of a process that has it.
        process: usize,
        /// What to copy: (first address, bytes), ascending.
        runs: Vec<(u64, u64)>,
        /// Pages that others may have too until somebody writes: (first address, end), ascending; each run is all of such, or not at
        /// all. They are to be read so that they stay what they are.
        common: Vec<(u64, u64)>,
        /// Which of that is in other address spaces, too, which do not copy it.
        also: Vec<memory::common::Also>,
    },
    /// Of an inode without a name, or of shared anonymous memory (data extents by SEEK_DATA).
    Inode {
        /// 1 shmem, 2 content, 3 sysv-shm, as in `PageHead.owner`.
        owner: u32,
        /// The record's id.
        id: u32,
        /// The inode.
        file: OwnedFd,
        /// Its size in bytes.
        size: u64,
    },
    /// Of an inode that cannot be read twice: what is in it.
    Bytes {
        /// As above.
        owner: u32,
        /// The record's id.
        id: u32,
        /// Whole pages of it: offset and bytes.
        runs: Vec<(u64, Vec<u8>)>,
    },
}

impl PageSource {
    /// Bytes to be looked at, at most.
    pub fn len_bytes(&self) -> u64 {
        match self {
            Self::Memory { runs, .. } => runs.iter().map(|r| r.1).sum(),
            Self::Inode { size, .. } => *size,
            Self::Bytes { runs, .. } => runs.iter().map(|r| r.1.len() as u64).sum(),
        }
    }
}

/// What the kinds work on while a tree is exported.
#[derive(Debug)]
pub struct ExportCx<'a> {
    /// What procfs says.
    pub view: &'a TreeView,
    /// The stopped threads, in the same order of processes and threads.
    pub frozen: &'a FrozenTree,
    /// What the processes said themselves.
    pub answers: &'a Answers,
    /// What the caller chose.
    pub options: &'a ExportOptions,
    /// The records so far.
    pub model: Model,
    /// Open file descriptions that have a record already, and how new ones are told apart.
    pub shared: crate::shared::Shared,
    /// Shared anonymous memory met so far, by device and inode.
    pub shmems: Ids<(u64, u64)>,
    /// System V segments met so far, by their id.
    pub sysv: Ids<i32>,
    /// Pages to be written after the records.
    pub pages: Vec<PageSource>,
    /// What is worth saying.
    pub notes: Vec<rec::Note>,
}

/// For how long a thread may keep an export waiting that comes home from another ghost.
const HOMECOMING: std::time::Duration = std::time::Duration::from_secs(4);

/// For how long an export looks again for a moment at which nothing stands in its way.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

/// A frozen tree whose records are made and whose pages wait to be written. Dropping it thaws the tree.
#[derive(Debug)]
pub struct Exporting {
    tree: FrozenTree,
    model: Model,
    pages: Vec<PageSource>,
    pids: Vec<Pid>,
    /// For each process a thread whose memory can be read.
    readers: Vec<Pid>,
    action: Action,
    progress: Arc<Progress>,
    /// Times and sizes so far.
    pub report: Report,
}

/// Names everything of a running tree that cannot travel. Touches nothing.
pub fn check(root: Pid) -> Result<Vec<Blocker>, Error> {
    guard_root(root).map_err(|e| failed(Action::Check, root, e, "nothing was touched"))?;
    let began = std::time::Instant::now();
    loop {
        match TreeView::of_running(root) {
            Ok(view) => return Ok(blockers(&view, &ExportOptions::default())),
            // A child that has ended while it was looked at, as those of a shell script do all the time.
            Err(e) if e.pid != 0 && e.pid != root && is_ending(&e) && began.elapsed() < PATIENCE => {}
            Err(e) => return Err(failed(Action::Check, root, e, "nothing was touched")),
        }
    }
}

/// Whether what went wrong is that the process has ended, or is about to: it has no descriptors any more before it is a zombie.
fn is_ending(e: &KindError) -> bool {
    matches!(e.cause, Cause::Kernel(ghost_sys::Errno(libc::ESRCH))) || crate::import::has_ended(e.pid)
}

fn blockers(view: &TreeView, options: &ExportOptions) -> Vec<Blocker> {
    sorted(view, options).0
}

/// What cannot travel, and the notes of what the user accepts to lose.
fn sorted(view: &TreeView, options: &ExportOptions) -> (Vec<Blocker>, Vec<rec::Note>) {
    let mut found = Vec::new();
    for kind in KINDS {
        (kind.check)(view, &mut found);
    }
    accept(found, options)
}

fn accept(found: Vec<Blocker>, options: &ExportOptions) -> (Vec<Blocker>, Vec<rec::Note>) {
    let (accepted, blockers): (Vec<Blocker>, Vec<Blocker>) =
        found.into_iter().partition(|b| options.accept.contains(b.kind));
    (blockers, accepted.into_iter().map(accepted_note).collect())
}

/// A loss that the user has accepted, in words for both ends; of hidden memory nothing is lost but that it is hidden.
fn accepted_note(b: Blocker) -> rec::Note {
    let text = match b.kind {
        memory::secret::KIND => "the ghost holds it in the clear, as accepted".to_owned(),
        _ => format!("lost, as accepted: {}", b.why),
    };
    rec::Note { pid: b.pid, kind: b.kind.into(), subject: b.subject, text }
}

const RUNS_ON: &str = "no ghost was made; the process runs again";

impl Exporting {
    /// Freezes the tree below `root`, refuses what cannot travel, and makes the records of all that can.
    ///
    /// A thread that is still on its way home from a ghost that was killed, or that went home by itself because this one was kept
    /// from the CPU, is a matter of two seconds: the tree is thawed and frozen anew, for up to [`HOMECOMING`]. So is what passes as
    /// soon as the program runs on, such as events that it was just about to read, for up to [`PATIENCE`].
    pub fn begin(action: Action, root: Pid, options: &ExportOptions) -> Result<Self, Error> {
        let began = std::time::Instant::now();
        let mut pause = std::time::Duration::from_millis(1);
        loop {
            match Self::begin_once(action, root, options) {
                Err(Error::Refused { blockers, .. })
                    if blockers.iter().all(|b| b.passes) && began.elapsed() + pause < PATIENCE =>
                {
                    std::thread::sleep(pause);
                    pause = (pause * 3 / 2).min(std::time::Duration::from_millis(60));
                }
                Err(Error::Failed { what, .. }) if what.is_transient() && began.elapsed() < HOMECOMING => {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
                other => return other,
            }
        }
    }

    fn begin_once(action: Action, root: Pid, options: &ExportOptions) -> Result<Self, Error> {
        let mut report = Report::start();
        let fail = |e| failed(action, root, e, RUNS_ON);
        guard_root(root).map_err(|e| failed(action, root, e, "nothing was touched"))?;
        let around = memory::outside::Neighbours::of_running(root);
        let teller = Teller::of(root);
        let tree = FrozenTree::freeze(root).map_err(|e| {
            let gone = !crate::import::pid_in_use(root);
            failed(action, root, e, if gone { "nothing was touched: there is no such process" } else { RUNS_ON })
        })?;
        report.stage("freeze");
        crate::failpoint::hit("export.frozen").map_err(fail)?;
        let pids: Vec<Pid> = tree.processes.iter().map(|p| p.pid).collect();
        let mut view = TreeView::collect_frozen(&pids, teller).map_err(fail)?;
        view.external.clone_from(&options.external);
        around.hand_over(&view);
        report.stage("collect");
        let (blockers, mut accepted) = sorted(&view, options);
        if !blockers.is_empty() {
            return Err(Error::Refused { action, blockers });
        }
        crate::failpoint::hit("export.checked").map_err(fail)?;
        let mut answers = Answers::ask(&view, &tree).map_err(fail)?;
        let found = answers.processes.iter_mut().flat_map(|p| std::mem::take(&mut p.blockers)).collect();
        let (blockers, more) = accept(found, options);
        if !blockers.is_empty() {
            return Err(Error::Refused { action, blockers });
        }
        accepted.extend(more);
        let notes = answers.processes.iter_mut().flat_map(|p| std::mem::take(&mut p.notes)).collect();
        report.stage("ask");
        crate::failpoint::hit("export.asked").map_err(fail)?;
        let mut cx = ExportCx {
            view: &view,
            frozen: &tree,
            answers: &answers,
            options,
            model: Model { host: crate::host::record(&view), ..Model::default() },
            shared: crate::shared::Shared::default(),
            shmems: Ids::default(),
            sysv: Ids::default(),
            pages: Vec::new(),
            notes,
        };
        for kind in KINDS {
            (kind.export)(&mut cx).map_err(fail)?;
            crate::failpoint::hit_named("export.kind", kind.name).map_err(fail)?;
        }
        let ExportCx { mut model, pages, mut notes, .. } = cx;
        // A kind that loses only a part of an object says so itself, and better.
        let said = |a: &rec::Note| notes.iter().any(|n| n.kind == a.kind && n.subject == a.subject);
        accepted.retain(|a| !said(a));
        notes.extend(accepted);
        model.host.notes.clone_from(&notes);
        report.notes = notes;
        report.processes = view.processes.len();
        report.pids.clone_from(&pids);
        report.threads = view.processes.iter().map(|p| p.threads.len()).sum();
        report.stage("kinds");
        let progress = options.progress.clone().unwrap_or_default();
        progress.expect(pages.iter().map(PageSource::len_bytes).sum());
        let readers = view.processes.iter().map(|p| p.live).collect();
        Ok(Self { tree, model, pages, pids, readers, action, progress, report })
    }

    /// What the ghost says of itself before its records.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Writes the ghost into a stream: records, pages, index, commit mark. The tree stays frozen.
    pub fn write<W: Write + Send>(&mut self, out: W) -> Result<W, Error> {
        let root = self.pids[0];
        self.write_inner(out, |_| Ok(None), |_, _| Ok(())).map_err(|e| failed(self.action, root, e, RUNS_ON))
    }

    /// The same into a resource, at several places at once where it can be written so.
    pub fn write_to(&mut self, out: Box<dyn GhostWrite>) -> Result<Box<dyn GhostWrite>, Error> {
        let root = self.pids[0];
        self.write_inner(out, |out| out.places(), |out, by| out.skip(by))
            .map_err(|e| failed(self.action, root, e, RUNS_ON))
    }

    fn write_inner<W: Write + Send>(
        &mut self,
        out: W,
        places: impl Fn(&mut W) -> io::Result<Option<Arc<dyn WriteAt>>>,
        skip: impl Fn(&mut W, u64) -> io::Result<()>,
    ) -> Result<W, KindError> {
        let wrap = |e| KindError::unwritten("writing the ghost", e);
        let at_pages = |offset, source| {
            let place = ghost_image::Place { offset, section: ghost_image::Tag::Pages.into() };
            wrap(ghost_image::Error::Write { place, source })
        };
        let mut image = ImageWriter::new(out, &crate::host::header()).map_err(wrap)?;
        self.model.write(&mut image).map_err(wrap)?;
        self.report.stage("records");
        crate::failpoint::hit("export.records")?;
        let begin = image.offset();
        let places = places(image.get_mut()).map_err(|e| at_pages(begin, e))?;
        let placed = places.is_some();
        let sources: Vec<_> = self.pages.iter().map(|source| (source, self.reader(source))).collect();
        let (read, written) = memory::pages_out::write(&sources, &mut image, places, &self.progress)?;
        self.report.bytes_read += read;
        self.report.page_bytes += written;
        if placed {
            let by = image.offset() - begin;
            skip(image.get_mut(), by).map_err(|e| at_pages(begin, e))?;
        }
        crate::failpoint::hit("export.pages")?;
        let (out, _) = image.finish().map_err(wrap)?;
        self.report.stage("pages");
        Ok(out)
    }

    /// A thread through which the pages of a source can be read.
    fn reader(&self, source: &PageSource) -> Pid {
        match source {
            PageSource::Memory { process, .. } => self.readers[*process],
            PageSource::Inode { .. } | PageSource::Bytes { .. } => 0,
        }
    }

    /// From here on the tree stays stopped, as by SIGSTOP, should ghost die: somebody else may be about to let it run.
    ///
    /// What is in a job-control stop already stays in it either way.
    pub fn stay_stopped(&self) {
        self.tell_running(libc::SIGSTOP);
    }

    /// Takes [`Exporting::stay_stopped`] back: SIGCONT discards the stop that waits. A program with a handler for it sees that.
    pub fn run_again(&self) {
        self.tell_running(libc::SIGCONT);
    }

    fn tell_running(&self, signal: i32) {
        for p in self.tree.processes.iter().filter(|p| p.threads.iter().any(|t| t.group_stop == 0)) {
            // One that is gone needs neither.
            let _ = crate::freeze::signal(p.pid, signal);
        }
    }

    /// Lets the tree run on, leaves it stopped, or ends it.
    pub fn end(mut self, after: After) -> Result<Report, Error> {
        let root = self.pids[0];
        let action = self.action;
        let tree = std::mem::take(&mut self.tree);
        let (done, aftermath) = match after {
            After::Run => (tree.thaw(), "the ghost is whole; the process may still be stopped (kill -CONT)"),
            After::Stop => {
                for &pid in &self.pids {
                    // Delivered when the trace ends; a zombie does not mind.
                    let _ = crate::freeze::signal(pid, libc::SIGSTOP);
                }
                (tree.thaw(), "the ghost is whole; the process may still run")
            }
            After::Kill => (tree.kill(), "the ghost is whole; the process may still run"),
        };
        done.map_err(|e| failed(action, root, e, aftermath))?;
        self.report.stage("end");
        Ok(self.report)
    }
}

/// Wraps a kind's error.
pub(crate) fn failed(action: Action, root: Pid, what: KindError, aftermath: &str) -> Error {
    let what = match what {
        KindError { cause: Cause::Refused(blocker), .. } => {
            return Error::Refused { action, blockers: vec![*blocker] };
        }
        other => other,
    };
    let comm = std::fs::read_to_string(format!("/proc/{root}/comm")).unwrap_or_default();
    let process = if root == 0 { String::new() } else { format!("pid {root} ({})", comm.trim_end()) };
    Error::Failed { action, process, what, aftermath: aftermath.to_owned() }
}

/// Processes that nobody may freeze.
pub(crate) fn guard_root(root: Pid) -> Result<(), KindError> {
    let refuse = |why: &str, advice: &str| {
        Err(KindError::refusal("choosing the process", why.to_owned()).on(root, "").advise(advice))
    };
    if root == 1 {
        return refuse("pid 1 holds up everything that runs here", "name the program itself");
    }
    let stat_of = |pid| ghost_sys::proc::ProcDir::open(pid).and_then(|dir| ghost_sys::proc::read_stat(&dir));
    if stat_of(root).is_ok_and(|stat| is_of_the_kernel(&stat)) {
        return refuse("it is a thread of the kernel, not a program", "name the program itself");
    }
    let mut ancestor = std::process::id() as Pid;
    while ancestor > 1 {
        if ancestor == root {
            return refuse(
                "it is ghost itself, or one of the processes that ghost runs under",
                "run ghost from somewhere else, such as another terminal",
            );
        }
        let Ok(stat) = stat_of(ancestor) else { break };
        ancestor = stat.ppid;
    }
    Ok(())
}

/// Whether this is said of a thread of the kernel (`PF_KTHREAD`): no address space, and ptrace(2) may not touch it.
fn is_of_the_kernel(stat: &ghost_sys::proc::Stat) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000;
    stat.flags & PF_KTHREAD != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.18 told of them. A pid namespace that a test makes has no such threads, and those of the host are left alone.
    const OF_THE_KERNEL: [&str; 2] = [
        "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 1 0 0 20 0 1 0 24 0 0 18446744073709551615 0 0 0 0 0 0 0 2147483647 0 1 0 0 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0",
        "14 (ksoftirqd/0) S 2 0 0 0 -1 69238848 0 0 0 0 0 1939 0 0 20 0 1 0 24 0 0 18446744073709551615 0 0 0 0 0 0 0 2147483647 0 1 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
    ];

    #[test]
    fn threads_of_the_kernel_are_told_from_programs() {
        for text in OF_THE_KERNEL {
            assert!(is_of_the_kernel(&ghost_sys::proc::parse_stat(text.as_bytes()).unwrap()), "{text}");
        }
        let own = ghost_sys::proc::read_stat(&ghost_sys::proc::ProcDir::own().unwrap()).unwrap();
        assert!(!is_of_the_kernel(&own));
    }

    #[test]
    fn children_that_end_while_they_are_looked_at_are_left_out() {
        let mut shell = std::process::Command::new("/bin/sh")
            .args(["-c", "while :; do /bin/true; done"])
            .stdin(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let seen: Vec<_> = (0..40).map(|_| check(shell.id() as Pid).map(drop)).collect();
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert!(seen.iter().all(Result::is_ok), "{seen:?}");
    }

    #[test]
    fn pid_1_and_ancestors_are_refused_by_looking_only() {
        for pid in [1, std::process::id() as Pid] {
            assert!(guard_root(pid).unwrap_err().is_refusal());
        }
    }
}
