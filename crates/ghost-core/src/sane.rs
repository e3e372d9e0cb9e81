//! Whether the records of a ghost fit together, before anything is made of them.
//!
//! A ghost may come from anywhere: each number that an importer would index, allocate or trust by is looked at here once.

use crate::error::KindError;
use crate::kinds::tree::terminal::CALLERS;
use crate::model::Model;
use ghost_image::record as rec;
use std::collections::HashSet;

/// Refuses a ghost whose records contradict each other.
pub fn check(model: &Model) -> Result<(), KindError> {
    let bad = |words: String| Err(KindError::conflict("reading the records", words));
    if model.processes.is_empty() {
        return bad("there is no process in it".to_owned());
    }
    let mut known = HashSet::new();
    let mut tids = HashSet::new();
    for (i, p) in model.processes.iter().enumerate() {
        if p.pid <= 0 || !known.insert(p.pid) {
            return bad(format!("pid {} is not a pid or is there twice", p.pid));
        }
        if i > 0 && (!known.contains(&p.ppid) || p.ppid == p.pid) {
            return bad(format!("pid {} stands before its parent {}", p.pid, p.ppid));
        }
        if p.zombie.is_some() {
            continue;
        }
        if p.threads.first().is_none_or(|t| t.tid != p.pid) {
            return bad(format!("the first thread of pid {} is missing", p.pid));
        }
        if let Some(t) = p.threads.iter().find(|t| t.tls.len() % 16 != 0) {
            return bad(format!("the descriptors of tid {} are cut short", t.tid));
        }
        let lost = |t: &&rec::Thread| {
            (t.fd_table_id != 0 && model.fd_table(t.fd_table_id).is_none())
                || (t.fs_id != 0 && model.fs(t.fs_id).is_none())
        };
        if let Some(t) = p.threads.iter().find(lost) {
            return bad(format!("tid {} lacks its descriptors or its directories", t.tid));
        }
        if let Some(t) = p.threads.iter().find(|t| t.tid <= 0 || !tids.insert(t.tid)) {
            return bad(format!("tid {} is not a tid or is there twice", t.tid));
        }
        if model.mm(p.mm_id).is_none() || model.fd_table(p.fd_table_id).is_none() || model.fs(p.fs_id).is_none() {
            return bad(format!("pid {} lacks its memory, its descriptors or its directories", p.pid));
        }
    }
    for mm in &model.mms {
        if mm.ldt.len() % 8 != 0 || mm.ldt.len() > crate::kinds::memory::ldt::MOST {
            return bad(format!("a local descriptor table of {} bytes", mm.ldt.len()));
        }
        let mut end = 0;
        for v in &mm.vmas {
            if v.start < end || v.end <= v.start || v.start % 4096 != 0 || v.end % 4096 != 0 || v.end > 1 << 56 {
                return bad(format!("mapping {:x}-{:x} is out of order", v.start, v.end));
            }
            if (v.file_id != 0 && model.file(v.file_id).is_none())
                || (v.shmem_id != 0 && !model.shmems.iter().any(|s| s.id == v.shmem_id))
            {
                return bad(format!("mapping {:x}-{:x} is of a file that is not described", v.start, v.end));
            }
            if v.sysv_id != 0 && !crate::kinds::memory::sysv::fits(model, v) {
                return bad(format!("mapping {:x}-{:x} is of a segment that is not described so", v.start, v.end));
            }
            end = v.end;
        }
    }
    ptys(model).or_else(bad)?;
    for table in &model.fd_tables {
        if let Some(fd) = table.fds.iter().find(|f| model.file(f.file_id).is_none() || f.fd > 1 << 30) {
            return bad(format!("fd {} is of a file that is not described", fd.fd));
        }
    }
    Ok(())
}

/// Each side of a pseudo-terminal of the tree needs its master, once.
fn ptys(model: &Model) -> Result<(), String> {
    let of = |file: &rec::File| match &file.object {
        Some(rec::file::Object::Tty(t)) if !t.callers => Some((t.pty_index, t.master)),
        _ => None,
    };
    let mut masters = HashSet::new();
    for (index, _) in model.files.iter().filter_map(of).filter(|t| t.1) {
        if !masters.insert(index) {
            return Err(format!("pseudo-terminal {index} has two masters"));
        }
    }
    if let Some((index, _)) = model.files.iter().filter_map(of).find(|t| !masters.contains(&t.0)) {
        return Err(format!("pseudo-terminal {index} has no master"));
    }
    let wrong = |p: &&rec::Process| {
        let master = u32::try_from(p.tty_file_id).ok().and_then(|id| model.file(id)).and_then(of);
        p.tty_file_id != 0 && p.tty_file_id != CALLERS && !master.is_some_and(|m| m.1)
    };
    match model.processes.iter().find(wrong) {
        Some(p) => Err(format!("the terminal of pid {} is not described", p.pid)),
        None => Ok(()),
    }
}
