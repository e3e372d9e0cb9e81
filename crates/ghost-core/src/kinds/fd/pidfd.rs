//! pidfds: processes as descriptors, `pidfd_open(2)` (Linux 5.3).
//!
//! Read: fdinfo (`Pid`). Rebuilt: `pidfd_open(2)` of the process that has the place of the old one now, a zombie included.
//! One whose process was reaped already is opened on a child of ghost that is gone when the program runs; several of one
//! such process, which their inode tells (Linux 6.9), on the same.
//!
//! Lost: the exit status that a kernel from 6.15 on keeps for a pidfd of a reaped process. Refused: a process outside.

use super::class::Refusal;
use super::{note, regular};
use crate::error::{Context, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use crate::view::{FdView, TreeView};
use ghost_image::record as rec;
use ghost_sys::mortal::Mortal;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsFd, OwnedFd};

/// `PIDFD_THREAD`, as it stays in the flags of the description
const THREAD: u32 = rustix::fs::OFlags::EXCL.bits();

fn pid(fd: &FdView) -> i32 {
    fd.info.pidfd.as_ref().map_or(0, |p| p.pid)
}

/// Refuses a pidfd of a process that is not in the tree.
pub fn check(view: &TreeView, fd: &FdView) -> Option<Refusal> {
    let pid = pid(fd);
    let inside = view.processes.iter().any(|p| p.pid == pid || p.threads.iter().any(|t| t.tid == pid));
    (pid >= 0 && !inside).then(|| {
        let who = if pid == 0 { "a process of another pid namespace".to_owned() } else { format!("pid {pid}") };
        Refusal::new(
            "pidfd",
            format!("stands for {who}, which is outside of the tree"),
            "checkpoint a process above both, or close it first",
        )
    })
}

/// What is written of it.
pub fn export(cx: &mut ExportCx<'_>, fd: &FdView) -> rec::PidFd {
    let pid = pid(fd);
    if pid < 0 {
        cx.notes.push(note(
            0,
            "pidfd",
            super::subject(fd),
            "stands for a process that is gone: its exit status does not come along",
        ));
    }
    // One number for each process that is gone, below that which the kernel gives them all.
    let known = cx.shared.dead_pids.len() as i32;
    let pid = if pid < 0 { *cx.shared.dead_pids.entry(fd.stat.st_ino).or_insert(-1 - known) } else { pid };
    rec::PidFd { pid, dead: pid < 0, flags: fd.info.description_flags() & THREAD, status: 0 }
}

/// Children of ghost that stand for processes which are gone, by their numbers in the ghost, until all pidfds are open.
pub type Dead = HashMap<i32, Mortal>;

/// Opens the process that stands at its place now.
pub fn import(cx: &ImportCx<'_>, dead: &mut Dead, file: &rec::File, pidfd: &rec::PidFd) -> Result<OwnedFd, KindError> {
    let open =
        |pid| if pidfd.flags & THREAD == 0 { ghost_sys::pidfd::open(pid) } else { ghost_sys::pidfd::open_thread(pid) };
    let fd = if pidfd.dead {
        let mortal = match dead.entry(pidfd.pid) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(Mortal::new().step("making a process to end")?),
        };
        open(mortal.pid()).step("opening a process that ends")?
    } else {
        let new = cx.pid(pidfd.pid);
        open(new).step(format!("opening pid {new}, which was pid {}", pidfd.pid))?
    };
    regular::set_flags(fd.as_fd(), file.flags)?;
    Ok(fd)
}
