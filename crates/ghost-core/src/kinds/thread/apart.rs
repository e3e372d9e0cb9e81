//! Threads that have a descriptor table or directories apart from their process, after `unshare(2)` or by `clone(2)` without
//! CLONE_FILES or CLONE_FS.
//!
//! Read through the thread: `/proc/TID`, a pidfd of the thread (PIDFD_THREAD, Linux 6.9) for copies of its descriptors, `kcmp(2)`.
//! Rebuilt: such a thread is made before the descriptors, by clone without the flag, and what it was given is
//! closed; then its table is filled as that of a process is. Those that have a table together are made by the first that has it.

use super::tree;
use crate::error::{Context, KindError};
use crate::import::{Apart, Building, ImportCx, remote};
use crate::kinds::fd::procfile;
use crate::options::Pids;
use ghost_image::record as rec;
use ghost_sys::remote::{Batch, Stub};
use ghost_sys::{Pid, nr};
use std::collections::HashSet;

const CLONE_FS: u64 = libc::CLONE_FS as u64;
const CLONE_FILES: u64 = libc::CLONE_FILES as u64;

/// Who has what: table and directories by id, 0 for those of the process.
type Has = (u32, u32);

/// Who can make a thread that has these: the one at `by` among those that were made before (None: the first thread of the process),
/// and the clone flags of what it shares with it.
struct Birth {
    by: Option<usize>,
    flags: u64,
}

/// How the next thread can be made, when `made` are there already. None: it shares with two that have nothing in common.
fn birth(made: &[Has], wanted: Has) -> Option<Birth> {
    let exists = |has: fn(Has) -> u32| has(wanted) == 0 || made.iter().any(|m| has(*m) == has(wanted));
    let (files, fs) = (exists(|h| h.0), exists(|h| h.1));
    let fits = |has: Has| (!files || has.0 == wanted.0) && (!fs || has.1 == wanted.1);
    let flags = if files { CLONE_FILES } else { 0 } | if fs { CLONE_FS } else { 0 };
    if fits((0, 0)) {
        return Some(Birth { by: None, flags });
    }
    Some(Birth { by: Some(made.iter().position(|m| fits(*m))?), flags })
}

/// Whether threads that have these can be made in this order.
pub(super) fn can_be_made(all: &[Has]) -> bool {
    (0..all.len()).all(|i| birth(&all[..i], all[i]).is_some())
}

fn has(process: &rec::Process, thread: &rec::Thread) -> Has {
    let other = |id, own| if id == own { 0 } else { id };
    (other(thread.fd_table_id, process.fd_table_id), other(thread.fs_id, process.fs_id))
}

/// Makes the threads that have something apart, each with an empty table where that is its own; and those of which a file in /proc
/// is open.
pub(crate) fn import(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let model = cx.model;
    let named: HashSet<Pid> = model.files.iter().filter_map(|f| procfile::thread(f.object.as_ref()?)).collect();
    for (index, record) in model.processes.iter().enumerate().filter(|(_, p)| p.zombie.is_none()) {
        let mut made: Vec<Has> = Vec::new();
        let first = cx.building.len();
        for (nth, thread) in record.threads.iter().enumerate().skip(1) {
            let has = has(record, thread);
            if has == (0, 0) && !named.contains(&thread.tid) {
                continue;
            }
            let on = |e: KindError| e.on(record.pid, format!("tid {}", thread.tid));
            let Some(birth) = birth(&made, has) else {
                let words = "it shares its descriptors with one thread and its directories with another";
                return Err(on(KindError::conflict("making a thread", words)));
            };
            cx.flush_all()?;
            let wanted = (if cx.options.pids == Pids::New { 0 } else { thread.tid }, thread.clear_child_tid);
            let by = birth.by.map_or(index, |i| first + i);
            let Some(stub) = cx.building[by].leader.as_mut() else {
                return Err(on(KindError::conflict("making a thread", "the one that has to make it has ended")));
            };
            let stub = stub.spawn_thread(wanted, birth.flags).map_err(|e| on(remote(record.pid, e)))?;
            stub.thread.set_signal_mask(tree::BUILDING_MASK).step("blocking its signals").map_err(on)?;
            cx.pids.insert(thread.tid, stub.thread.tid());
            let mut batch = Batch::new();
            if birth.flags & CLONE_FILES == 0 {
                let keep = cx.control_fd as u32;
                batch.call("close_range", nr::CLOSE_RANGE, &[0.into(), (keep - 1).into(), 0.into()]);
                batch.call("close_range", nr::CLOSE_RANGE, &[(keep + 1).into(), u32::MAX.into(), 0.into()]);
            }
            let pid = cx.building[index].pid;
            cx.building.push(Building { pid, leader: Some(stub), threads: Vec::new(), batch });
            cx.apart.push(Apart { process: index, thread: nth });
            made.push(has);
        }
    }
    cx.flush_all()
}

/// Gives the threads apart back to their processes: by process and place, with ghost's channel closed in their tables.
pub(super) fn reunite(cx: &mut ImportCx<'_>) -> Result<Vec<(Apart, Stub)>, KindError> {
    let n = cx.model.processes.len();
    let control_fd = cx.control_fd;
    for (_, index) in crate::kinds::fd::table::owners(cx).into_iter().filter(|(_, index)| *index >= n) {
        cx.building[index].batch.call("close of ghost's channel", nr::CLOSE, &[control_fd.into()]);
    }
    cx.flush_all()?;
    let stubs = cx.building.drain(n..).filter_map(|b| b.leader);
    Ok(std::mem::take(&mut cx.apart).into_iter().zip(stubs).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_made_by_one_that_has_what_it_shares() {
        let made = [(7, 0), (7, 3), (8, 3)];
        assert!(can_be_made(&made));
        let first = birth(&[], made[0]).unwrap();
        assert_eq!((first.by, first.flags), (None, CLONE_FS));
        let second = birth(&made[..1], made[1]).unwrap();
        assert_eq!((second.by, second.flags), (Some(0), CLONE_FILES));
        let third = birth(&made[..2], made[2]).unwrap();
        assert_eq!((third.by, third.flags), (Some(1), CLONE_FS));
        let again = birth(&made, (7, 3)).unwrap();
        assert_eq!((again.by, again.flags), (Some(1), CLONE_FS | CLONE_FILES));
        assert!(!can_be_made(&[(7, 0), (0, 3), (7, 3)]));
    }
}
