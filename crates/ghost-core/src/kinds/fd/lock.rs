//! Locks and leases, and who is told of input: what belongs to a description, or to a table and an inode.
//!
//! Read: the `lock:` lines of fdinfo (Linux 4.1), F_GETLEASE, F_GETOWN_EX, F_GETSIG. Rebuilt as late as may be: F_OFD_SETLK
//! on the description by ghost; F_SETLK, `flock(2)` and F_SETLEASE by the process itself, once its descriptors have their numbers,
//! since it is the owner of the first, and named with the others. A lock that somebody else has now is an error: two programs would both believe
//! that they are alone.

use super::class::Refusal;
use super::{describe, note};
use crate::error::{Context, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use crate::view::FdView;
use ghost_image::record as rec;
use ghost_sys::fdops::{self, Owner, Range};
use ghost_sys::nr;
use ghost_sys::proc::{FileLock, LockKind};
use rustix::fs::FlockOperation;
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;

/// `F_SETLK`
const SETLK: u64 = 6;
/// `F_SETLEASE`
const SETLEASE: u64 = 1024;
/// `F_SETFL`
const SETFL: u64 = 4;
/// `F_UNLCK`
const UNLCK: i32 = 2;
/// `Lock.type`
const FLOCK: u32 = 0;
const OFD: u32 = 1;

/// Fills in what belongs to a description.
pub fn export(fd: &FdView, file: &mut rec::File) -> Result<(), KindError> {
    for lock in fd.info.locks.iter().filter(|l| !l.waits) {
        match lock.kind {
            LockKind::Flock => file.locks.push(record(lock, FLOCK)),
            LockKind::Ofd => file.locks.push(record(lock, OFD)),
            LockKind::Lease => {
                let kind = fdops::lease(fd.ours.as_fd()).step("asking for its lease")?;
                file.lease = if kind == UNLCK { 0 } else { kind as u32 + 1 };
            }
            _ => {}
        }
    }
    Ok(())
}

/// A lease that somebody waits for to be given up, in part. The kernel gives none that only lets others read on a file that is open for
/// writing, as it has become: it can't be taken again. One that is to be given up whole is none already.
pub fn check_lease(fd: &FdView) -> Option<Refusal> {
    let breaking = fd.info.locks.iter().any(|l| l.kind == LockKind::Lease && l.breaking && !l.unlock);
    breaking.then(|| {
        let why = "somebody waits for the lease on it to be given up for reading";
        Refusal::passing(
            "lease",
            why,
            "the program has given it up, or its time is over (/proc/sys/fs/lease-break-time)",
        )
    })
}

/// Whether somebody is told of what happens there: F_NOTIFY of a directory makes its caller the owner.
pub fn is_notified(fd: &FdView) -> bool {
    !fd.told.no_owner && fdops::owner(fd.ours.as_fd()).is_ok_and(|o| o.pid != 0)
}

/// Why such a directory can't travel.
pub fn refuse_notified() -> Refusal {
    Refusal::new(
        "dnotify",
        "the program is told of changes in the directory by signals (F_NOTIFY), which nothing tells the details of",
        "let the program use inotify, or close the directory before the checkpoint",
    )
}

/// Fills in who is told when input comes.
pub fn export_owner(fd: &FdView, file: &mut rec::File) -> Result<(), KindError> {
    if fd.told.no_owner {
        return Ok(());
    }
    let owner = fdops::owner(fd.ours.as_fd()).step("asking whom it tells of input")?;
    if owner.pid != 0 || owner.signal != 0 {
        file.owner = Some(rec::FOwner {
            pid: owner.pid,
            r#type: owner.sort as u32,
            uid: owner.uid,
            euid: owner.euid,
            signal: owner.signal as u32,
        });
    }
    Ok(())
}

fn record(lock: &FileLock, sort: u32) -> rec::Lock {
    rec::Lock {
        r#type: sort,
        write: lock.write,
        start: lock.start,
        end: lock.end.unwrap_or(u64::MAX),
        ofd: sort == OFD,
        pid: lock.pid.max(0),
    }
}

/// Writes the POSIX locks of a table: those that fdinfo lists under its descriptors, once for each.
pub fn export_posix(cx: &mut ExportCx<'_>, table: u32, fds: &[FdView]) {
    let mut locks: Vec<rec::PosixLock> = Vec::new();
    let mut seen = HashSet::new();
    for fd in fds {
        for lock in fd.info.locks.iter().filter(|l| l.kind == LockKind::Posix && !l.waits) {
            // Duplicates of a descriptor list the same lock.
            if seen.insert((fd.stat.st_dev, fd.stat.st_ino, lock.start, lock.end, lock.write)) {
                let end = lock.end.unwrap_or(u64::MAX);
                locks.push(rec::PosixLock { fd: fd.fd as u32, write: lock.write, start: lock.start, end });
            }
        }
    }
    if !locks.is_empty() {
        cx.model.posix_locks.push(rec::PosixLocks { fd_table_id: table, locks });
    }
}

fn range(write: bool, start: u64, end: u64) -> Range {
    Range { write, start, len: if end == u64::MAX { 0 } else { end.saturating_sub(start).saturating_add(1) } }
}

const ADVICE: &str = "end the process that has the lock (lslocks shows it): perhaps the original still runs";

/// Takes the locks and leases of descriptions, and says whom they tell of input.
///
/// Where a process has the description, it does that itself: procfs says who has taken a lock, and a signal names the descriptor by which
/// it was asked for.
pub fn finish(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let model = cx.model;
    let inside = Inside::of(cx);
    for file in &model.files {
        let Some(fd) = cx.files.get(&file.id) else { continue };
        let on = |e: KindError| e.on(super::holder(model, file.id).map_or(0, |h| h.0), describe(model, file));
        for lock in &file.locks {
            let how = if lock.write { libc::LOCK_EX } else { libc::LOCK_SH } | libc::LOCK_NB;
            if lock.ofd {
                fdops::lock_ofd(fd.as_fd(), range(lock.write, lock.start, lock.end))
                    .step("taking its lock (F_OFD_SETLK)")
                    .map_err(|e| on(e.advise(ADVICE)))?;
            } else if let Some((index, number)) = inside.place(file.id, lock.pid) {
                let label = format!("taking its lock on fd {number} (flock; {ADVICE})");
                cx.building[index].batch.call(label, libc::SYS_flock, &[number.into(), how.into()]);
            } else {
                let how = if lock.write {
                    FlockOperation::NonBlockingLockExclusive
                } else {
                    FlockOperation::NonBlockingLockShared
                };
                rustix::fs::flock(fd, how).step("taking its lock (flock)").map_err(|e| on(e.advise(ADVICE)))?;
            }
        }
        if file.lease > 0 {
            let how = file.lease as i32 - 1;
            if let Some((index, number)) = inside.place(file.id, 0) {
                let label = format!("taking its lease on fd {number} ({ADVICE})");
                cx.building[index].batch.call(label, nr::FCNTL, &[number.into(), SETLEASE.into(), how.into()]);
            } else {
                fdops::set_lease(fd.as_fd(), how).step("taking its lease").map_err(|e| on(e.advise(ADVICE)))?;
            }
        }
        if let Some(owner) = &file.owner {
            let pid = if owner.pid < 0 { -cx.pid(-owner.pid) } else { cx.pid(owner.pid) };
            let told =
                Owner { sort: owner.r#type as i32, pid, signal: owner.signal as i32, uid: owner.uid, euid: owner.euid };
            if let Err(e) = fdops::set_owner(fd.as_fd(), told) {
                let text = format!("pid {} was told of input and can't be named any more ({e})", owner.pid);
                cx.notes.push(note(0, "owner", describe(model, file), text));
            }
        }
        if file.flags & super::regular::ASYNC != 0
            && let Some((index, number)) = inside.place(file.id, 0)
        {
            let flags = fdops::flags(fd.as_fd()).step("reading its flags").map_err(on)? | super::regular::ASYNC;
            let label = format!("setting O_ASYNC of fd {number}");
            cx.building[index].batch.call(label, nr::FCNTL, &[number.into(), SETFL.into(), flags.into()]);
        }
    }
    Ok(())
}

/// Which descriptors the processes have.
struct Inside(HashMap<u32, Vec<(usize, i32, u32)>>);

impl Inside {
    fn of(cx: &ImportCx<'_>) -> Self {
        let mut all: HashMap<u32, Vec<(usize, i32, u32)>> = HashMap::new();
        let needed = |f: &rec::File| !f.locks.is_empty() || f.lease > 0 || f.flags & super::regular::ASYNC != 0;
        let needed: HashSet<u32> = cx.model.files.iter().filter(|f| needed(f)).map(|f| f.id).collect();
        if !needed.is_empty() {
            for (table, index) in super::table::owners(cx) {
                for fd in
                    cx.model.fd_table(table).into_iter().flat_map(|t| &t.fds).filter(|f| needed.contains(&f.file_id))
                {
                    all.entry(fd.file_id).or_default().push((index, cx.record(index).pid, fd.fd));
                }
            }
        }
        Self(all)
    }

    /// A process that has this description, by index, with its number there: the one with this pid, if it has it.
    fn place(&self, file: u32, pid: i32) -> Option<(usize, u32)> {
        let holders = self.0.get(&file)?;
        let holder = holders.iter().find(|h| h.1 == pid).or(holders.first())?;
        Some((holder.0, holder.2))
    }
}

/// Takes the POSIX locks of every table inside the first process that has it. Descriptors have their numbers.
pub fn finish_posix(cx: &mut ImportCx<'_>, table: u32, index: usize) {
    for locks in cx.model.posix_locks.iter().filter(|l| l.fd_table_id == table) {
        for lock in &locks.locks {
            let batch = &mut cx.building[index].batch;
            let bytes = batch.data(&fdops::flock_bytes(range(lock.write, lock.start, lock.end)));
            let label = format!("taking its POSIX lock on fd {} (F_SETLK; {ADVICE})", lock.fd);
            batch.call(label, nr::FCNTL, &[lock.fd.into(), SETLK.into(), bytes.into()]);
        }
    }
}
