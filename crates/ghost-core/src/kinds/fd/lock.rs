//! Locks and leases, and who is told of input: what belongs to a description, or to a table and an inode.
//!
//! Read: the `lock:` lines of fdinfo (Linux 4.1), F_GETLEASE, F_GETOWN_EX, F_GETSIG. Rebuilt as late as may be: `flock(2)`
//! and F_OFD_SETLK on the description by ghost; F_SETLK by the process itself, once its descriptors have their numbers,
//! since it is the owner of such a lock. A lock that somebody else has now is an error: two programs would both believe
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
use std::os::fd::AsFd;

/// `F_SETLK`
const SETLK: u64 = 6;
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

/// Whether somebody is told of what happens there: F_NOTIFY of a directory makes its caller the owner.
pub fn is_notified(fd: &FdView) -> bool {
    fdops::owner(fd.ours.as_fd()).is_ok_and(|o| o.pid != 0)
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
    let mut seen = std::collections::HashSet::new();
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
pub fn finish(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let mut asynchronous = Vec::new();
    for file in &cx.model.files {
        let Some(fd) = cx.files.get(&file.id) else { continue };
        let on = |e: KindError| e.on(super::holder(cx.model, file.id).map_or(0, |h| h.0), describe(cx.model, file));
        for lock in &file.locks {
            if lock.ofd {
                fdops::lock_ofd(fd.as_fd(), range(lock.write, lock.start, lock.end))
                    .step("taking its lock (F_OFD_SETLK)")
            } else {
                let how = if lock.write {
                    FlockOperation::NonBlockingLockExclusive
                } else {
                    FlockOperation::NonBlockingLockShared
                };
                rustix::fs::flock(fd, how).step("taking its lock (flock)")
            }
            .map_err(|e| on(e.advise(ADVICE)))?;
        }
        if file.lease > 0 {
            fdops::set_lease(fd.as_fd(), file.lease as i32 - 1)
                .step("taking its lease")
                .map_err(|e| on(e.advise(ADVICE)))?;
        }
        if let Some(owner) = &file.owner {
            let pid = if owner.pid < 0 { -cx.pid(-owner.pid) } else { cx.pid(owner.pid) };
            let told =
                Owner { sort: owner.r#type as i32, pid, signal: owner.signal as i32, uid: owner.uid, euid: owner.euid };
            if let Err(e) = fdops::set_owner(fd.as_fd(), told) {
                let text = format!("pid {} was told of input and can't be named any more ({e})", owner.pid);
                cx.notes.push(note(0, "owner", describe(cx.model, file), text));
            }
        }
        if file.flags & super::regular::ASYNC != 0 {
            let flags = fdops::flags(fd.as_fd()).step("reading its flags").map_err(on)?;
            asynchronous.push((file.id, flags | super::regular::ASYNC));
        }
    }
    // Made inside the process: the signal names the descriptor by which it was asked for.
    for (table, index) in super::table::owners(cx) {
        for fd in cx.model.fd_table(table).into_iter().flat_map(|t| &t.fds) {
            if let Some(at) = asynchronous.iter().position(|(id, _)| *id == fd.file_id) {
                let (_, flags) = asynchronous.swap_remove(at);
                let label = format!("setting O_ASYNC of fd {}", fd.fd);
                cx.building[index].batch.call(label, nr::FCNTL, &[fd.fd.into(), SETFL.into(), flags.into()]);
            }
        }
    }
    Ok(())
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
