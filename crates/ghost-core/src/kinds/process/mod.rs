//! What a process has once for all its threads: directories, limits, and the switches of `prctl(2)` and procfs.
//!
//! Read: `/proc/PID/{oom_score_adj,coredump_filter,loginuid,autogroup}`, `prlimit(2)`, and what [`crate::inquiry`] asked.
//! Rebuilt: the same files, `prctl(2)` inside. Directories are in [`fs`], limits in [`limits`], credentials in [`cred`].
//!
//! What the restorer may not set (a lower oom_score_adj, a higher hard limit, the login uid) is noted, since the program runs
//! without it. Dumpable comes after the credentials, whose change resets it.

pub mod cred;
pub mod fs;
pub mod limits;

use crate::abreast;
use crate::error::{Context, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use crate::view::ProcessView;
use ghost_image::record as rec;
use ghost_sys::proc::{self, ProcDir, ProcResult};
use ghost_sys::remote::Batch;
use ghost_sys::{Pid, nr};
use std::collections::HashMap;

const PR_SET_DUMPABLE: i32 = 4;
const PR_SET_CHILD_SUBREAPER: i32 = 36;
const PR_SET_THP_DISABLE: i32 = 41;
/// PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE
const IO_FLUSHER: u64 = 0x0018_0000;
const PR_SET_IO_FLUSHER: i32 = 57;
const PR_SET_MDWE: i32 = 65;
const PR_SET_MEMORY_MERGE: i32 = 67;
const ARCH_REQ_XCOMP_PERM: i32 = 0x1023;
/// AMX tile data: the one feature that a program has to ask for.
const XFEATURE_XTILE_DATA: u32 = 18;
/// The login uid of a process that nobody logged in for.
const NO_LOGIN: u32 = u32::MAX;

/// Adds the attributes to the process records and writes the directories.
pub fn export(cx: &mut ExportCx<'_>) -> Result<(), KindError> {
    let view = cx.view;
    let stops: HashMap<Pid, i32> = cx
        .frozen
        .processes
        .iter()
        .filter_map(|p| Some((p.pid, p.threads.iter().map(|t| t.group_stop).find(|s| *s != 0)?)))
        .collect();
    let reports: HashMap<Pid, bool> =
        cx.answers.processes.iter().flat_map(|a| a.child_reports.iter().copied()).collect();
    let living: Vec<_> = view.processes.iter().enumerate().filter(|(_, p)| !p.is_zombie()).collect();
    let read = abreast::each(&living, abreast::PROCESSES, |(_, process)| Read::of(process));
    for ((index, process), read) in living.into_iter().zip(read) {
        let (pid, answers, read) = (process.pid, &cx.answers.processes[index], read?);
        let record = &mut cx.model.processes[index];
        record.rlimits = read.limits;
        record.child_subreaper = answers.child_subreaper;
        record.dumpable = answers.dumpable;
        record.thp_disabled = answers.thp_disable & 1 != 0;
        record.thp_disable_flags = answers.thp_disable & !1;
        record.mdwe = answers.mdwe;
        // A process may only ask if it has CAP_SYS_RESOURCE, and may have given that up; procfs shows what is set.
        record.io_flusher = process.stat.flags & IO_FLUSHER == IO_FLUSHER;
        record.timer_restore_ids = answers.timer_restore_ids;
        record.memory_merge = answers.memory_merge;
        record.membarrier = answers.membarrier;
        record.xcomp_permitted = answers.xcomp_permitted;
        record.oom_score_adj = read.oom_score_adj;
        record.coredump_filter = read.coredump_filter;
        // Kernels without audit have no such file.
        (record.loginuid, record.loginuid_set) = read.loginuid.map_or((0, 0), |uid| (uid, u32::from(uid != NO_LOGIN)));
        record.autogroup_nice = read.autogroup_nice;
        record.continue_report_pending = reports.get(&pid) == Some(&true);
        if let Some(signal) = stops.get(&pid) {
            record.stopped = true;
            record.stop_signal = *signal as u32;
            record.stop_report_pending = reports.get(&pid) == Some(&false);
        }
    }
    fs::export(cx)
}

/// What procfs tells of one process.
struct Read {
    limits: Vec<rec::Rlimit>,
    oom_score_adj: i32,
    coredump_filter: u32,
    loginuid: Option<u32>,
    autogroup_nice: i32,
}

impl Read {
    fn of(process: &ProcessView) -> Result<Self, KindError> {
        let (pid, dir) = (process.pid, &process.dir);
        let filter = optional(proc::read_coredump_filter(dir)).step_on(pid, String::new, "reading coredump_filter")?;
        // It is the session's, and set through its leader.
        let leads = process.stat.sid == pid;
        let autogroup = if leads { proc::read_autogroup(dir) } else { Ok(None) };
        let autogroup = autogroup.step_on(pid, String::new, "reading autogroup")?;
        Ok(Self {
            limits: limits::export(process)?,
            oom_score_adj: proc::read_oom_score_adj(dir).step_on(pid, String::new, "reading oom_score_adj")?,
            coredump_filter: filter.flatten().unwrap_or_default(),
            loginuid: optional(proc::read_loginuid(dir)).step_on(pid, String::new, "reading loginuid")?,
            autogroup_nice: autogroup.map_or(0, |g| g.nice),
        })
    }
}

/// A file of procfs that not every kernel has.
fn optional<T>(read: ProcResult<T>) -> Result<Option<T>, proc::ProcError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.is_gone() => Ok(None),
        Err(e) => Err(e),
    }
}

/// Sets what a process has for all its threads, but what must wait for its credentials ([`last`]).
pub fn finish(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let model = cx.model;
    // All were made by the first, directly or not, and have what it has.
    let Some(first) = cx.building.first() else { return Ok(()) };
    let now = Outside::of(first.pid).map_err(|e| e.on(model.processes[0].pid, ""))?;
    for (index, record) in model.processes.iter().enumerate().filter(|(_, p)| p.zombie.is_none()) {
        outside(cx, index, &now).map_err(|e| e.on(record.pid, ""))?;
        let batch = &mut cx.building[index].batch;
        let mut set = |label: &'static str, option: i32, a: u32, b: u32| {
            batch.call(label, nr::PRCTL, &[option.into(), a.into(), b.into(), 0.into(), 0.into()]);
        };
        if record.child_subreaper {
            set("PR_SET_CHILD_SUBREAPER", PR_SET_CHILD_SUBREAPER, 1, 0);
        }
        if record.thp_disabled {
            set("PR_SET_THP_DISABLE", PR_SET_THP_DISABLE, 1, record.thp_disable_flags);
        }
        if record.mdwe != 0 {
            set("PR_SET_MDWE", PR_SET_MDWE, record.mdwe, 0);
        }
        for command in (0..32).map(|bit| record.membarrier & 1 << bit).filter(|c| *c != 0) {
            let args = [command.into(), 0.into(), 0.into()];
            batch.call(format!("membarrier registration {command:#x}"), nr::MEMBARRIER, &args);
        }
        if record.xcomp_permitted >> XFEATURE_XTILE_DATA & 1 != 0 {
            let args = [ARCH_REQ_XCOMP_PERM.into(), XFEATURE_XTILE_DATA.into()];
            batch.call("ARCH_REQ_XCOMP_PERM", nr::ARCH_PRCTL, &args);
        }
        // They take CAP_SYS_RESOURCE, on all kernels or on some, and save memory, or time when memory is short.
        let privileged = [
            (
                record.memory_merge,
                "PR_SET_MEMORY_MERGE",
                PR_SET_MEMORY_MERGE,
                "memory that it maps from now on is not merged (KSM)",
            ),
            (
                record.io_flusher,
                "PR_SET_IO_FLUSHER",
                PR_SET_IO_FLUSHER,
                "it may have to wait for memory that only it could free",
            ),
        ];
        for (_, label, option, lost) in privileged.into_iter().filter(|p| p.0) {
            let mut batch = Batch::new();
            let args = [option.into(), 1.into(), 0.into(), 0.into(), 0.into()];
            let done = batch.try_call(label, nr::PRCTL, &args);
            if let Err(e) = cx.run(index, &batch)?.result(done) {
                let (kind, subject, text) = ("process".into(), label.into(), format!("{lost}: {e}"));
                cx.notes.push(rec::Note { pid: record.pid, kind, subject, text });
            }
        }
    }
    // Last, since a new root hides /proc.
    fs::finish(cx)
}

/// What procfs takes from outside, as new processes have it.
struct Outside {
    oom_score_adj: i32,
    coredump_filter: Option<u32>,
    loginuid: Option<u32>,
}

impl Outside {
    fn of(pid: Pid) -> Result<Self, KindError> {
        let dir = ProcDir::open(pid).step("opening a new process")?;
        Ok(Self {
            oom_score_adj: proc::read_oom_score_adj(&dir).step("reading oom_score_adj")?,
            coredump_filter: proc::read_coredump_filter(&dir).step("reading coredump_filter")?,
            loginuid: optional(proc::read_loginuid(&dir)).step("reading loginuid")?,
        })
    }
}

/// Sets what procfs takes from outside.
fn outside(cx: &mut ImportCx<'_>, index: usize, now: &Outside) -> Result<(), KindError> {
    let record = &cx.model.processes[index];
    let pid = cx.building[index].pid;
    let dir = || ProcDir::open(pid);
    let mut note = |subject: &str, text: String| {
        cx.notes.push(rec::Note { pid: record.pid, kind: "process".into(), subject: subject.into(), text });
    };
    if now.oom_score_adj != record.oom_score_adj
        && let Err(e) = dir().and_then(|d| d.write("oom_score_adj", record.oom_score_adj.to_string().as_bytes()))
    {
        let text = format!("it stays {} instead of {}: {e}", now.oom_score_adj, record.oom_score_adj);
        note("oom_score_adj", text);
    }
    if now.coredump_filter != Some(record.coredump_filter) {
        let text = format!("{:#x}", record.coredump_filter);
        let written = dir().and_then(|d| d.write("coredump_filter", text.as_bytes()));
        written.step("setting its coredump_filter")?;
    }
    if record.autogroup_nice != 0 && record.sid == record.pid {
        let nice = record.autogroup_nice;
        if let Err(e) = dir().and_then(|d| d.write("autogroup", nice.to_string().as_bytes())) {
            note("autogroup", format!("its session has nice 0 instead of {nice}: {e}"));
        }
    }
    let wanted = if record.loginuid_set != 0 { record.loginuid } else { NO_LOGIN };
    if now.loginuid.is_some_and(|now| now != wanted) && record.loginuid_set != 0 {
        // The kernel lets only the process itself do it; once, or with CAP_AUDIT_CONTROL.
        let mut batch = Batch::new();
        let (path, text) = (batch.c_string(b"/proc/self/loginuid"), batch.data(wanted.to_string().as_bytes()));
        let fd = batch.try_call(
            "open of loginuid",
            nr::OPENAT,
            &[libc::AT_FDCWD.into(), path.into(), libc::O_WRONLY.into()],
        );
        let len = wanted.to_string().len();
        let written = batch.try_call("write of loginuid", nr::WRITE, &[fd.into(), text.into(), len.into()]);
        batch.try_call("close of loginuid", nr::CLOSE, &[fd.into()]);
        if cx.run(index, &batch)?.result(written).is_err() {
            cx.notes.push(rec::Note {
                pid: record.pid,
                kind: "process".into(),
                subject: "loginuid".into(),
                text: format!("the audit log will name the login of the restorer instead of {wanted}"),
            });
        }
    }
    Ok(())
}

/// Sets what a change of credentials resets.
pub(super) fn last(cx: &mut ImportCx<'_>) {
    /// The kernel's "only root may read it", which no process can choose for itself.
    const ROOT_ONLY: u32 = 2;
    for (building, record) in cx.building.iter_mut().zip(&cx.model.processes).filter(|(_, p)| p.zombie.is_none()) {
        let value = if record.dumpable == ROOT_ONLY { 0 } else { record.dumpable };
        building.batch.call("PR_SET_DUMPABLE", nr::PRCTL, &[PR_SET_DUMPABLE.into(), value.into()]);
    }
}
