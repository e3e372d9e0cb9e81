//! The descriptor table: which number stands for which description.
//!
//! Placing. The descriptions of a table are handed over in ascending order of their final numbers; the kernel gives each
//! the lowest free number, so the nth comes to n or below its final one. Moved from the highest down, none ever lands on
//! one that still waits. All moves of a table are one batch.

use crate::error::KindError;
use crate::export::ExportCx;
use crate::import::ImportCx;
use ghost_image::record as rec;
use ghost_sys::nr;
use std::collections::HashSet;

/// `O_CLOEXEC`, for dup3.
const O_CLOEXEC: u64 = 0o2000000;
/// `F_SETFD`
const F_SETFD: u64 = 2;

/// Writes every table once, and the descriptions in it.
pub fn export(cx: &mut ExportCx<'_>) -> Result<(), KindError> {
    let view = cx.view;
    let n = view.processes.len();
    for (number, process, fds) in view.tables() {
        let first = match number.checked_sub(n) {
            None => !process.is_zombie() && process.shares_files.is_none(),
            Some(k) => view.apart[k].files,
        };
        if !first {
            continue;
        }
        let mut table = rec::FdTable { id: view.table_id(number), fds: Vec::with_capacity(fds.len()) };
        cx.model.files.reserve(fds.len());
        for fd in fds {
            if let Some(kind) = super::accepted_loss(cx, fd) {
                let subject = super::subject(fd);
                cx.notes.push(super::note(
                    process.pid,
                    kind,
                    subject,
                    "is closed in the restarted process, as accepted",
                ));
                continue;
            }
            let file_id = super::export_description(cx, process, fd)?;
            cx.shared.note_fd(number, fd.fd, file_id);
            table.fds.push(rec::Fd { fd: fd.fd as u32, file_id, cloexec: fd.info.is_cloexec() });
        }
        super::lock::export_posix(cx, table.id, fds);
        cx.model.fd_tables.push(table);
    }
    Ok(())
}

/// The tables with the first process, or thread apart, that has each: by index into [`ImportCx::building`].
pub fn owners(cx: &ImportCx<'_>) -> Vec<(u32, usize)> {
    let mut seen = HashSet::new();
    let own = cx.model.processes.iter().enumerate().filter(|(_, p)| p.zombie.is_none());
    let apart = cx.apart.iter().enumerate().map(|(k, a)| (a.table(cx.model), cx.model.processes.len() + k));
    let all = own.map(|(index, p)| (p.fd_table_id, index)).chain(apart);
    all.filter(|(id, _)| *id != 0 && seen.insert(*id)).collect()
}

/// Hands every table's descriptions over and moves them to their numbers.
pub fn finish(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let model = cx.model;
    let mut wanted = Vec::new();
    let mut tables = Vec::new();
    for (id, index) in owners(cx) {
        let pid = cx.record(index).pid;
        let table = model.fd_table(id).ok_or_else(|| {
            KindError::conflict("looking for its descriptor table", format!("the ghost has no table {id}")).on(pid, "")
        })?;
        let mut fds: Vec<&rec::Fd> = table.fds.iter().collect();
        fds.sort_unstable_by_key(|fd| fd.fd);
        raise_limit(cx, index, fds.last().map_or(0, |fd| fd.fd))?;
        wanted.push((index, fds.iter().map(|fd| fd.file_id).collect::<Vec<u32>>()));
        tables.push((index, fds));
    }
    let handed = cx.hand_over_files(&wanted)?;
    for (index, fds) in tables {
        place(cx, index, &fds, &handed[&index])?;
    }
    cx.flush_all()
}

/// A limit on numbers that is lower than those that the process has already: it may lower its limit at any time, and the
/// restorer's own may be lower. The process's limits are set after its files.
pub(super) fn raise_limit(cx: &ImportCx<'_>, index: usize, highest: u32) -> Result<(), KindError> {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let need = u64::from(highest).max(cx.control_fd.max(0) as u64) + 1;
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|c| c >= need) {
        return Ok(());
    }
    let hard = now.maximum.map(|m| m.max(need));
    let pid = Pid::from_raw(cx.building[index].pid);
    prlimit(pid, Resource::Nofile, Rlimit { current: hard, maximum: hard }).map(drop).map_err(|e| {
        KindError::new(format!("raising its limit of open files to {need}"), e).on(cx.record(index).pid, "").advise(
            "raise the hard limit of open files of the shell that restarts it (ulimit -Hn), or run ghost as root",
        )
    })
}

fn place(cx: &mut ImportCx<'_>, index: usize, fds: &[&rec::Fd], numbers: &[i32]) -> Result<(), KindError> {
    let singly = crate::failpoint::is_wanted("finish.placing");
    for (fd, &number) in fds.iter().zip(numbers).rev() {
        if singly {
            cx.flush(index)?;
            crate::failpoint::hit("finish.placing")?;
        }
        let batch = &mut cx.building[index].batch;
        let wanted = fd.fd as i32;
        if number == wanted && !fd.cloexec {
            continue; // that is how they come
        }
        if number == wanted {
            batch.call(
                format!("F_SETFD of fd {wanted}"),
                nr::FCNTL,
                &[number.into(), F_SETFD.into(), u64::from(fd.cloexec).into()],
            );
        } else {
            let flags = if fd.cloexec { O_CLOEXEC } else { 0 };
            batch.call(format!("dup3 to fd {wanted}"), nr::DUP3, &[number.into(), wanted.into(), flags.into()]);
            batch.call(format!("close after dup3 to fd {wanted}"), nr::CLOSE, &[number.into()]);
        }
    }
    Ok(())
}
