//! The drive in: records, processes, kinds in order, pages, kinds' finish, registers, go; or undo.
//!
//! Until the last step every new thread exists only to run calls for ghost and dies with it (PTRACE_O_EXITKILL); any
//! error kills them all, and what was made outside of them (files that had to be named for a moment) is taken back.

use crate::error::{Action, Context, Error, KindError};
use crate::intake::Intake;
use crate::kinds::{KINDS, memory, thread, tree};
use crate::model::Model;
use crate::names::Names;
use crate::options::{ImportOptions, PidMap, Pids};
use crate::report::Report;
use ghost_image::record as rec;
use ghost_sys::Pid;
use ghost_sys::remote::{Batch, Executor, Outcome, RemoteAddr, RemoteError, Stub, StubLayout};
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A process under construction.
#[derive(Debug)]
pub struct Building {
    /// Its pid now.
    pub pid: Pid,
    /// Its first thread; None once a zombie has ended.
    pub leader: Option<Stub>,
    /// Its other threads, in the order of the record.
    pub threads: Vec<Stub>,
    /// Calls queued for the leader; [`ImportCx::flush`] makes them.
    pub batch: Batch,
}

/// A thread under construction that has a descriptor table or directories apart from its process.
#[derive(Clone, Copy, Debug)]
pub struct Apart {
    /// Its process, by index.
    pub process: usize,
    /// Its place among the threads of that.
    pub thread: usize,
}

impl Apart {
    /// Its record.
    pub fn record<'a>(&self, model: &'a Model) -> &'a rec::Thread {
        &model.processes[self.process].threads[self.thread]
    }
    /// The id of its descriptor table.
    pub fn table(&self, model: &Model) -> u32 {
        let own = self.record(model).fd_table_id;
        if own == 0 { model.processes[self.process].fd_table_id } else { own }
    }
    /// The id of its directories.
    pub fn fs(&self, model: &Model) -> u32 {
        let own = self.record(model).fs_id;
        if own == 0 { model.processes[self.process].fs_id } else { own }
    }
}

/// The record of each of [`ImportCx::building`].
fn records<'a>(model: &'a Model, apart: &'a [Apart]) -> impl Iterator<Item = &'a rec::Process> {
    model.processes.iter().chain(apart.iter().map(|a| &model.processes[a.process]))
}

/// What the kinds work on while a tree is imported.
#[derive(Debug)]
pub struct ImportCx<'a> {
    /// The records.
    pub model: &'a Model,
    /// What the caller chose.
    pub options: &'a ImportOptions,
    /// The processes, in the order of `model.processes`; behind them, for as long as those are filled, the threads of `apart`.
    pub building: Vec<Building>,
    /// Threads that have a descriptor table or directories apart from their process.
    pub apart: Vec<Apart>,
    /// Where the stubs live: free in every address space of the tree.
    pub layout: StubLayout,
    /// Pids and tids of the ghost to those of now.
    pub pids: PidMap,
    /// Open file descriptions by `file_id`, ours until the processes have them.
    pub files: HashMap<u32, OwnedFd>,
    /// Pseudo-terminals of the tree, by the number that they had.
    pub ptys: crate::kinds::fd::pty::Ptys,
    /// Inodes without a name, by `content_id`.
    pub contents: HashMap<u32, OwnedFd>,
    /// Shared anonymous memory by id: opened through the first process that maps it.
    pub shmems: HashMap<u32, OwnedFd>,
    /// System V segments; what was made or changed of them is taken back unless the tree runs in the end.
    pub sysv: memory::sysv::Segments,
    /// Ours and theirs: the unix socket over which descriptors are handed to the processes, inherited by all.
    pub control: OwnedFd,
    /// Its number inside the processes.
    pub control_fd: i32,
    /// What was lost or is worth saying.
    pub notes: Vec<rec::Note>,
    /// Names given to files that had none before: taken back unless the tree runs in the end, also by ghost's death.
    pub names: Names,
}

impl ImportCx<'_> {
    /// The new pid of a process or thread of the ghost; the same when the ghost does not know it.
    pub fn pid(&self, old: Pid) -> Pid {
        self.pids.get(&old).copied().unwrap_or(old)
    }
    /// The record of a process under construction; of a thread apart, that of its process.
    pub fn record(&self, index: usize) -> &rec::Process {
        let apart = index.checked_sub(self.model.processes.len());
        &self.model.processes[apart.map_or(index, |k| self.apart[k].process)]
    }
    /// Makes the calls queued on this process.
    pub fn flush(&mut self, index: usize) -> Result<Option<Outcome>, KindError> {
        let old = self.record(index).pid;
        let b = &mut self.building[index];
        if b.batch.is_empty() {
            return Ok(None);
        }
        let batch = std::mem::take(&mut b.batch);
        let Some(leader) = b.leader.as_mut() else { return Ok(None) };
        leader.run(&batch).map(Some).map_err(|e| remote(old, e))
    }
    /// Makes the queued calls of all processes, at the same time.
    pub fn flush_all(&mut self) -> Result<(), KindError> {
        let batches: Vec<Batch> = self.building.iter_mut().map(|b| std::mem::take(&mut b.batch)).collect();
        let mut olds = Vec::new();
        let mut work = Vec::new();
        let records = records(self.model, &self.apart);
        for ((b, batch), rec) in self.building.iter_mut().zip(&batches).zip(records) {
            if let (Some(stub), false) = (b.leader.as_mut(), batch.is_empty()) {
                olds.push(rec.pid);
                work.push((stub, batch));
            }
        }
        for (result, old) in Stub::run_all(&mut work).into_iter().zip(olds) {
            result.map_err(|e| remote(old, e))?;
        }
        Ok(())
    }
    /// Makes these calls in the first thread of a process, after those that are queued.
    pub fn run(&mut self, index: usize, batch: &Batch) -> Result<Outcome, KindError> {
        self.flush(index)?;
        let old = self.record(index).pid;
        let Some(leader) = self.building[index].leader.as_mut() else {
            return Err(ended(old));
        };
        leader.run(batch).map_err(|e| remote(old, e))
    }
    /// The same; `beside` is done here meanwhile, which must leave that process alone.
    pub fn run_beside(
        &mut self,
        index: usize,
        batch: &Batch,
        beside: impl FnOnce(&mut Self) -> Result<(), KindError>,
    ) -> Result<Outcome, KindError> {
        self.flush(index)?;
        let old = self.record(index).pid;
        let Some(mut leader) = self.building[index].leader.take() else {
            return Err(ended(old));
        };
        let (mut beside, mut done) = (Some(beside), Ok(()));
        let outcome = leader.run_beside(batch, &mut || {
            if let Some(beside) = beside.take() {
                done = beside(self);
            }
        });
        self.building[index].leader = Some(leader);
        done?;
        outcome.map_err(|e| remote(old, e))
    }
    /// Gives these descriptors to a process under construction; returns their numbers there, lowest free ones, in order.
    pub fn hand_over(&mut self, index: usize, fds: &[BorrowedFd<'_>]) -> Result<Vec<i32>, KindError> {
        self.flush(index)?;
        let old = self.record(index).pid;
        let control = self.control.as_fd();
        let control_fd = self.control_fd;
        let Some(stub) = self.building[index].leader.as_mut() else { return Ok(Vec::new()) };
        let mut numbers = Vec::with_capacity(fds.len());
        for part in fds.chunks(ghost_sys::scm::MAX_FDS) {
            ghost_sys::scm::send(control, part).step_on(old, String::new, "handing descriptors over")?;
            crate::failpoint::hit("finish.handing")?;
            numbers.extend(ghost_sys::scm::receive_in(stub, control_fd, part.len()).map_err(|e| remote(old, e))?);
        }
        Ok(numbers)
    }
}

impl ImportCx<'_> {
    /// [`ImportCx::hand_over_all`] of open file descriptions by their `file_id`.
    pub fn hand_over_files(&mut self, wanted: &[(usize, Vec<u32>)]) -> Result<HashMap<usize, Vec<i32>>, KindError> {
        let files = std::mem::take(&mut self.files);
        let handed = self.hand_over_all(wanted, &files);
        self.files = files;
        handed
    }

    /// [`ImportCx::hand_over`] of a list of descriptions to each of these processes, given in ascending order. Those that get
    /// the same list get it at the same time: whichever of them takes a message out of the channel, it is the right one.
    pub fn hand_over_all(
        &mut self,
        wanted: &[(usize, Vec<u32>)],
        files: &HashMap<u32, OwnedFd>,
    ) -> Result<HashMap<usize, Vec<i32>>, KindError> {
        self.flush_all()?;
        let mut lists: HashMap<&[u32], Vec<usize>> = HashMap::new();
        for (index, ids) in wanted.iter().filter(|(_, ids)| !ids.is_empty()) {
            lists.entry(ids).or_default().push(*index);
        }
        let mut numbers: HashMap<usize, Vec<i32>> = wanted.iter().map(|(index, _)| (*index, Vec::new())).collect();
        let mut lists: Vec<_> = lists.into_iter().collect();
        lists.sort_unstable_by_key(|(_, who)| who[0]);
        for (ids, who) in lists {
            let ours = ids.iter().map(|id| {
                files.get(id).map(AsFd::as_fd).ok_or_else(|| {
                    let words = format!("the ghost names file {id} and does not describe it");
                    KindError::conflict("handing descriptors over", words).on(self.record(who[0]).pid, "")
                })
            });
            let ours = ours.collect::<Result<Vec<BorrowedFd<'_>>, _>>()?;
            for part in ours.chunks(ghost_sys::scm::MAX_FDS) {
                for some in who.chunks((IN_FLIGHT / part.len()).max(1)) {
                    self.hand_over_at_once(some, part, &mut numbers)?;
                }
            }
        }
        Ok(numbers)
    }

    fn hand_over_at_once(
        &mut self,
        who: &[usize],
        fds: &[BorrowedFd<'_>],
        numbers: &mut HashMap<usize, Vec<i32>>,
    ) -> Result<(), KindError> {
        let mut batch = Batch::new();
        let receipt = ghost_sys::scm::Receipt::queue(&mut batch, self.control_fd, fds.len());
        let mut olds = Vec::with_capacity(who.len());
        let mut work = Vec::with_capacity(who.len());
        let mut rest = who.iter().peekable();
        let records = records(self.model, &self.apart);
        for ((index, b), record) in self.building.iter_mut().enumerate().zip(records) {
            if rest.next_if(|w| **w == index).is_some()
                && let Some(stub) = b.leader.as_mut()
            {
                let old = record.pid;
                ghost_sys::scm::send(self.control.as_fd(), fds).step_on(
                    old,
                    String::new,
                    "handing descriptors over",
                )?;
                olds.push((index, old));
                work.push((stub, &batch));
            }
        }
        for (result, (index, old)) in Stub::run_all(&mut work).into_iter().zip(olds) {
            let got = result.and_then(|outcome| receipt.read(&outcome)).map_err(|e| remote(old, e))?;
            numbers.entry(index).or_default().extend(got);
        }
        Ok(())
    }
}

/// Descriptors that are on their way at the same time, at most: the kernel counts them against a limit of the user, and the
/// messages against the room of the channel.
const IN_FLIGHT: usize = 64;

fn ended(pid: Pid) -> KindError {
    KindError::conflict("building the process", "it has ended already").on(pid, "")
}

/// An error from inside a process under construction.
pub fn remote(pid: Pid, e: RemoteError) -> KindError {
    let no_room = e.errno() == Some(ghost_sys::Errno(libc::ENOMEM));
    let names_exe = matches!(&e, RemoteError::Call { label, errno: ghost_sys::Errno(libc::EPERM), .. } if label.starts_with("PR_SET_MM_MAP"));
    let error = KindError::new("building the process", e).on(pid, "");
    if names_exe {
        return error.advise("saying what its executable is takes CAP_CHECKPOINT_RESTORE: restart it as root");
    }
    if no_room { error.advise("it has no room for a mapping: raise vm.max_map_count (sysctl)") } else { error }
}

/// A tree that is built and waits for its first instruction. Dropping it undoes everything.
#[derive(Debug)]
pub struct Prepared {
    building: Vec<Building>,
    names: Names,
    sysv: memory::sysv::Segments,
    inotifies: Vec<OwnedFd>,
    model: Model,
    pids: PidMap,
    action: Action,
    /// Times and sizes so far.
    pub report: Report,
}

/// A tree that runs.
#[derive(Debug)]
pub struct Restored {
    /// The pid of its root.
    pub root: Pid,
    /// Old pids to new ones.
    pub pids: PidMap,
    /// Times, sizes, notes.
    pub report: Report,
}

const UNDONE: &str = "nothing was left behind; the ghost is as it was";

/// Builds the tree that a ghost holds, up to the last step.
pub fn prepare(action: Action, intake: &mut Intake<'_>, options: &ImportOptions) -> Result<Prepared, Error> {
    let mut report = Report::start();
    prepare_inner(action, intake, options, &mut report).map_err(|what| Error::Failed {
        action,
        process: String::new(),
        what,
        aftermath: UNDONE.to_owned(),
    })
}

fn prepare_inner(
    action: Action,
    intake: &mut Intake<'_>,
    options: &ImportOptions,
    report: &mut Report,
) -> Result<Prepared, KindError> {
    let model = intake.records()?;
    report.stage("records");
    crate::failpoint::hit("import.records")?;
    if options.pids == Pids::Namespace {
        return Err(KindError::refusal("choosing the pids", "a pid namespace needs a pid 1, which the library is not")
            .advise("use `ghost restart --pid ns`, or call from within a pid namespace with the same pids"));
    }
    crate::host::check(&model.host)?;
    crate::sane::check(&model)?;
    memory::number::fits(&model)?;
    crate::room::fits(&model)?;
    if options.pids == Pids::Same && options.wait_for_pids_ms > 0 && tree::any_pid_taken(&model) {
        // The source lives on this host and ends only when all of the ghost has been taken.
        intake.spool()?;
        report.stage("spool");
    }
    if options.pids == Pids::Same && options.replace {
        // Nothing is given up for a ghost that is not whole.
        intake.spool()?;
        crate::replace::end(&model)?;
        report.stage("replace");
    }
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .step("making the channel to the new processes")?;
    let control_fd = high_number(&model);
    let theirs = crate::room::raise(theirs, control_fd)?;
    let mut cx = ImportCx {
        model: &model,
        options,
        building: Vec::new(),
        apart: Vec::new(),
        layout: layout(&model)?,
        pids: PidMap::new(),
        files: HashMap::new(),
        ptys: HashMap::new(),
        contents: HashMap::new(),
        shmems: HashMap::new(),
        sysv: memory::sysv::Segments::default(),
        control: ours,
        control_fd: theirs.as_raw_fd(),
        notes: model.host.notes.clone(),
        names: Names::default(),
    };
    for kind in KINDS {
        (kind.import)(&mut cx)?;
        report.stage(kind.name);
        crate::failpoint::hit_named("import.kind", kind.name)?;
    }
    cx.flush_all()?;
    drop(theirs);
    report.stage("import");
    let missing = memory::pages::open_missing(&mut cx)?;
    let targets = memory::pages::Targets::of(&cx, missing)?;
    let bytes_in = std::sync::atomic::AtomicU64::new(0);
    intake.pages_at_once(memory::pages::expected(&model), |head, bytes| {
        bytes_in.fetch_add(bytes.len() as u64, std::sync::atomic::Ordering::Relaxed);
        if let Some(progress) = &options.progress {
            progress.add(bytes.len() as u64);
        }
        memory::pages::import(&targets, head, bytes)
    })?;
    drop(targets);
    report.page_bytes = bytes_in.into_inner();
    report.stage("pages");
    crate::failpoint::hit("import.pages")?;
    for kind in KINDS {
        (kind.finish)(&mut cx)?;
        report.stage(kind.name);
        crate::failpoint::hit_named("finish.kind", kind.name)?;
    }
    let control_fd = cx.control_fd;
    for (building, process) in cx.building.iter_mut().zip(&model.processes) {
        if first_with_table(&model, process) {
            building.batch.call("close of ghost's channel", libc::SYS_close, &[control_fd.into()]);
        }
    }
    cx.flush_all()?;
    thread::settle(&mut cx)?;
    crate::failpoint::hit("import.settled")?;
    report.stage("finish");
    let inotifies = crate::kinds::fd::inotify::all(&cx)?;
    let ImportCx { building, pids, notes, names, sysv, .. } = cx;
    report.notes = notes;
    report.processes = model.processes.len();
    report.threads = model.processes.iter().map(|p| p.threads.len()).sum();
    crate::failpoint::hit("import.prepared")?;
    Ok(Prepared { building, names, sysv, inotifies, pids, action, report: report.clone(), model })
}

impl Prepared {
    /// The pid that the root will run under.
    pub fn root(&self) -> Pid {
        self.building.first().map_or(0, |b| b.pid)
    }
    /// What the ghost says.
    pub fn model(&self) -> &Model {
        &self.model
    }
    /// Lets every thread go.
    pub fn go(mut self) -> Result<Restored, Error> {
        let root = self.root();
        let building = std::mem::take(&mut self.building);
        let inotifies = std::mem::take(&mut self.inotifies);
        crate::failpoint::hit("import.go")
            .and_then(|()| thread::go(&self.model, building, &mut self.names, inotifies))
            .map_err(|what| Error::Failed {
                action: self.action,
                process: String::new(),
                what,
                aftermath: UNDONE.to_owned(),
            })?;
        self.sysv.keep();
        self.report.stage("go");
        Ok(Restored { root, pids: self.pids, report: self.report })
    }
}

/// The first process of the tree that has each address space.
pub fn first_users(model: &Model) -> HashMap<u32, usize> {
    let mut users = HashMap::new();
    for (index, process) in model.processes.iter().enumerate() {
        if process.zombie.is_none() {
            users.entry(process.mm_id).or_insert(index);
        }
    }
    users
}

/// Whether this is the process that stands for its descriptor table.
pub fn first_with_table(model: &Model, process: &rec::Process) -> bool {
    let of_table = |p: &&rec::Process| p.zombie.is_none() && p.fd_table_id == process.fd_table_id;
    process.zombie.is_none() && model.processes.iter().find(of_table).is_some_and(|p| p.pid == process.pid)
}

/// A descriptor number above all that the tree uses.
fn high_number(model: &Model) -> i32 {
    // Free in every table, and no higher than it must be: the highest number of a table may be the highest of all.
    let taken: std::collections::HashSet<u32> = model.fd_tables.iter().flat_map(|t| &t.fds).map(|f| f.fd).collect();
    (64..1 << 30).find(|n| !taken.contains(n)).map_or(64, |n| n as i32)
}

/// A range that is free in every address space of the tree, for the executor and the parked vDSO.
fn layout(model: &Model) -> Result<StubLayout, KindError> {
    let threads = model.processes.iter().map(|p| p.threads.len() as u64).max().unwrap_or(1);
    let data_len = (2 << 20) + threads * ghost_sys::remote::THREAD_ROOM;
    let need = 4096 + data_len + memory::vdso::PARKING;
    let mut taken: Vec<(u64, u64)> = model.mms.iter().flat_map(|m| m.vmas.iter().map(|v| (v.start, v.end))).collect();
    taken.extend(model.mms.iter().flat_map(|m| memory::sysv::room(model, m)));
    taken.sort_unstable();
    // Far from where the kernel puts stacks, libraries and executables of a fresh process.
    let mut base = 0x2000_0000_0000_u64;
    for (start, end) in taken {
        if end <= base {
            continue;
        }
        if start >= base + need {
            break;
        }
        base = end.next_multiple_of(4096);
    }
    if base + need > 0x5000_0000_0000 {
        return Err(KindError::conflict(
            "choosing room for the executor",
            "the address spaces of the tree leave none free",
        ));
    }
    Ok(StubLayout { base: RemoteAddr(base), data_len: data_len.next_multiple_of(4096) })
}

/// Whether the process with this pid is a zombie, or gone.
pub fn has_ended(pid: Pid) -> bool {
    let status = ghost_sys::proc::ProcDir::open(pid).and_then(|d| ghost_sys::proc::read_status(&d));
    status.map_or(true, |s| s.is_dead())
}

/// The parent of a process in words, if there is one to be seen: ` pid 12 (bash)`.
pub fn parent_of(pid: Pid) -> String {
    let stat = |pid| ghost_sys::proc::ProcDir::open(pid).and_then(|d| ghost_sys::proc::read_stat(&d)).ok();
    let parent = stat(pid).filter(|s| s.ppid > 0).and_then(|s| stat(s.ppid));
    parent.map_or_else(String::new, |p| format!(", pid {} ({}),", p.pid, String::from_utf8_lossy(&p.comm)))
}

/// Whether a process, a thread or a zombie has this pid here.
pub fn pid_in_use(pid: Pid) -> bool {
    pid > 0 && std::path::Path::new(&format!("/proc/{pid}")).exists()
}
