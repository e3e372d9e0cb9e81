//! How many mappings an address space may have: `vm.max_map_count`, `proc_sys_vm(5)`.
//!
//! A program can use it up to the last one. Rebuilding it takes a few more for a moment, those of the executor, so a program that
//! is at the limit cannot come back where it is the same: refused while it still runs, and again before anything is made on a host
//! that allows fewer. The limit is the host's, of every process alike, and no capability goes beyond it.

use crate::error::{Blocker, KindError};
use crate::model::Model;
use crate::view::TreeView;
use ghost_image::record::vma::Special;

/// Code and data of the executor.
const OF_EXECUTOR: u64 = 2;
/// What `mremap(2)` wants to be free, whatever it then uses: the ring of `io_setup(2)` is moved when all else is there.
const TO_MOVE: u64 = 4;

/// What rebuilding so many needs.
fn needed(mappings: usize, has_ring: bool) -> u64 {
    mappings as u64 + OF_EXECUTOR + if has_ring { TO_MOVE } else { 0 }
}

/// The limit of this host; none where it is not told.
fn limit() -> Option<u64> {
    std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()
}

/// Names the processes that could not be rebuilt here.
pub(super) fn check(view: &TreeView, out: &mut Vec<Blocker>) {
    let Some(limit) = limit() else { return };
    for process in view.processes.iter().filter(|p| !p.is_zombie() && p.shares_mm.is_none()) {
        let special = |what| move |s: &&ghost_sys::proc::Smap| super::vma::special(s) == what;
        let count = process.smaps.len() - process.smaps.iter().filter(special(Special::Vsyscall)).count();
        let needed = needed(count, process.smaps.iter().any(|s| super::vma::special(s) == Special::AioRing));
        if needed > limit {
            out.push(Blocker {
                pid: process.pid,
                comm: process.comm(),
                kind: "mappings",
                subject: format!("{count} mappings"),
                why: format!("a restart of it needs a vm.max_map_count of {needed}, and it is {limit} here"),
                advice: format!(
                    "`sysctl vm.max_map_count={needed}`, or --accept mappings to restart it where it is as much"
                ),
                passes: false,
            });
        }
    }
}

/// Refuses a ghost that has more of them than fit on this host.
pub(crate) fn fits(model: &Model) -> Result<(), KindError> {
    limit().map_or(Ok(()), |limit| fits_in(model, limit))
}

fn fits_in(model: &Model, limit: u64) -> Result<(), KindError> {
    let needs = |mm: &ghost_image::record::Mm| needed(mm.vmas.len(), !mm.aio.is_empty());
    let Some((mm, needed)) = model.mms.iter().map(|mm| (mm, needs(mm))).find(|n| n.1 > limit) else { return Ok(()) };
    let pid = model.processes.iter().find(|p| p.zombie.is_none() && p.mm_id == mm.id).map_or(0, |p| p.pid);
    let why = format!("its {} mappings need a vm.max_map_count of {needed}, and it is {limit} here", mm.vmas.len());
    Err(KindError::refusal("counting its mappings", why)
        .on(pid, "")
        .advise(format!("raise it (`sysctl vm.max_map_count={needed}`) and restart the ghost again")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ghost_image::record as rec;

    #[test]
    fn a_ghost_of_too_many_mappings_is_refused_with_what_it_needs() {
        let mm = rec::Mm { id: 3, vmas: vec![rec::Vma::default(); 10], ..rec::Mm::default() };
        let model = |mm: &rec::Mm| Model {
            mms: vec![mm.clone()],
            processes: vec![rec::Process { pid: 77, mm_id: 3, ..rec::Process::default() }],
            ..Model::default()
        };
        assert!(fits_in(&model(&mm), 12).is_ok());
        let error = fits_in(&model(&mm), 11).unwrap_err().to_string();
        assert!(error.contains("vm.max_map_count of 12, and it is 11 here"), "{error}");
        let ring = rec::Mm { aio: vec![rec::AioContext::default()], ..mm };
        assert!(fits_in(&model(&ring), 16).is_ok() && fits_in(&model(&ring), 15).is_err());
    }
}
