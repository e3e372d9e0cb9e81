//! Ending the program that still runs under the ghost's pid, so that the ghost can have it back (`restart --replace`).
//!
//! A pid is only a number: the program under it may be another one by now. It is ended only if it runs the executable that the
//! ghost names (same file: device and inode of `/proc/PID/exe`, or the same path where the file was replaced), and either has
//! the same command name or began when the exported one did; else it is left alone. Everything below it ends with it, frozen first so that nothing slips away.

use crate::error::KindError;
use crate::freeze::FrozenTree;
use crate::kinds::fd::path_of_link;
use crate::model::Model;
use crate::view::TreeView;
use ghost_image::record as rec;

const STEP: &str = "ending the program that still runs";

/// Ends what runs under the root's pid, if it is the program of the ghost. On an error it runs on.
pub fn end(model: &Model) -> Result<(), KindError> {
    let Some(root) = model.processes.first() else { return Ok(()) };
    let Ok(dir) = ghost_sys::proc::ProcDir::open(root.pid) else { return Ok(()) };
    match ghost_sys::proc::read_status(&dir) {
        // A zombie holds nothing but its number.
        Ok(status) if status.tgid == root.pid && status.is_dead() => return Ok(()),
        Ok(_) => {}
        Err(_) => return Ok(()),
    }
    crate::export::guard_root(root.pid)?;
    let tree = FrozenTree::freeze(root.pid)?;
    let pids: Vec<_> = tree.processes.iter().map(|p| p.pid).collect();
    let view = TreeView::collect(&pids)?;
    let process =
        view.processes.first().ok_or_else(|| KindError::conflict(STEP, "it has just ended").on(root.pid, ""))?;
    let runs = path_of_link(process.pid, &process.dir, "exe")?;
    let exe = model.mms.iter().find(|m| m.id == root.mm_id).and_then(|m| m.exe.as_ref());
    let named_alike = root.threads.first().is_some_and(|t| t.comm == process.comm());
    let never_ended = process.stat.starttime.saturating_mul(10_000_000) == root.start_time_ns;
    if !exe.is_some_and(|exe| same(exe, &runs)) || !(named_alike || never_ended) {
        let words = format!(
            "pid {} is another program now: {} ({})",
            root.pid,
            process.comm(),
            String::from_utf8_lossy(&runs.path),
        );
        return Err(KindError::conflict(STEP, words).on(root.pid, "").advise(
            "end it yourself if it may go, or restart with new pids (--pid new) or in a pid namespace (--pid ns)",
        ));
    }
    tree.kill()
}

fn same(a: &rec::Path, b: &rec::Path) -> bool {
    (a.device, a.inode) == (b.device, b.inode) || a.path == b.path
}
