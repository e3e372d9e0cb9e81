//! System V shared memory that is attached: `shmget(2)`, `shmat(2)`, `shmctl(2)`.
//!
//! Read: `/proc/sysvipc/shm`; the mapping, whose inode number is the segment's id; the bytes through `/proc/PID/map_files`.
//! Rebuilt: a segment of the same id (`/proc/sys/kernel/shm_next_id`, Linux 3.9; CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN), made
//! by the process that made it then, as the user that made it; attached whole by every process, and cut where it was cut.
//!
//! A segment that is not removed outlives its program. A restart on the same boot finds it, and puts the old bytes into it
//! when nobody is attached. Should the import fail it gets back what it had, and a new one is removed again. One that is
//! removed already (SHM_DEST) gets another id where its own is taken, as in a duplicate: it is held by its mappings alone.
//!
//! Lost: the times of the last `shmat`, `shmdt` and `shmctl` and who called them, SHM_NORESERVE, a segment that nobody is attached
//! to. Refused: what a process outside of the tree has attached too; at restart, an id or a key that something else has.

mod make;

use super::pages::OWNER_SYSV;
use super::vma;
use crate::error::{Blocker, Context, KindError};
use crate::export::{ExportCx, PageSource};
use crate::import::ImportCx;
use crate::kinds::fd::outside::{Holder, in_words};
use crate::view::TreeView;
use ghost_image::record as rec;
use ghost_sys::proc::{self, ShmSegment, Smap, read_sysvipc_shm};
use ghost_sys::remote::Label;
use ghost_sys::{Pid, nr};
use std::collections::BTreeMap;

pub use make::{Segments, import};

/// The end of the addresses of a program.
const TOP: u64 = 0x7fff_ffff_f000;

/// Names the segments that cannot travel.
pub fn check(view: &TreeView, out: &mut Vec<Blocker>) {
    let mut uses: BTreeMap<i32, Vec<(usize, &Smap)>> = BTreeMap::new();
    for (index, process) in view.processes.iter().enumerate() {
        for smap in &process.smaps {
            if let Some(id) = vma::sysv(smap) {
                uses.entry(id).or_default().push((index, smap));
            }
        }
    }
    for (id, uses) in uses {
        let (why, advice) = match segments(view).iter().find(|s| s.shmid == id) {
            None => (
                format!("the kernel does not list segment {id}"),
                "run ghost in the ipc namespace of the program, with its /proc",
            ),
            Some(s) if s.attached != uses.len() as u64 => (
                format!("segment {id} is also attached outside of the tree: {}", attached_by(id, view)),
                "checkpoint a process above all that use it, or let the others detach it",
            ),
            Some(s) if uses.iter().any(|u| !can_be_cut(view, *u, s.size)) => (
                format!("a piece of segment {id} was moved to where the whole of it would lie over other memory"),
                "let the program detach it first",
            ),
            Some(_) => continue,
        };
        let process = &view.processes[uses[0].0];
        let m = &uses[0].1.mapping;
        out.push(Blocker {
            pid: process.pid,
            comm: process.comm(),
            kind: "sysv shm",
            subject: format!("memory {:x}-{:x} {}", m.start, m.end, String::from_utf8_lossy(&m.name)),
            why,
            advice: advice.to_owned(),
            passes: false,
        });
    }
}

/// Whether the whole segment can be attached where this piece of it would be in its place, until the rest is unmapped.
fn can_be_cut(view: &TreeView, (index, smap): (usize, &Smap), size: u64) -> bool {
    let m = &smap.mapping;
    let Some(base) = m.start.checked_sub(m.offset) else { return false };
    let Some(end) = base.checked_add(size.next_multiple_of(4096)).filter(|&end| end <= TOP) else { return false };
    // Everything else is mapped later, but other segments and their pieces are there.
    view.processes[index].smaps.iter().all(|other| {
        let o = &other.mapping;
        let same = (o.inode, o.start.wrapping_sub(o.offset)) == (m.inode, base);
        same || vma::sysv(other).is_none() || o.end <= base || o.start >= end
    })
}

/// What the kernel lists, read when first asked for.
fn segments(view: &TreeView) -> &[ShmSegment] {
    view.sysv.get_or_init(|| read_sysvipc_shm().unwrap_or_default())
}

/// Who outside of the tree has a segment attached, in words.
fn attached_by(shmid: i32, view: &TreeView) -> String {
    let inode = shmid.to_string().into_bytes();
    let mut holders = Vec::new();
    for pid in proc::pids() {
        if view.processes.iter().any(|p| p.pid == pid) || pid == std::process::id() as Pid {
            continue;
        }
        let Ok(maps) = std::fs::read(format!("/proc/{pid}/maps")) else { continue };
        let names_it = |line: &[u8]| {
            let mut words = line.split(|b| *b == b' ').filter(|w| !w.is_empty()).skip(4);
            words.next() == Some(&inode) && words.next().is_some_and(|w| w.starts_with(b"/SYSV"))
        };
        if maps.split(|b| *b == b'\n').any(names_it) {
            holders.push(Holder::of(pid));
        }
    }
    if holders.is_empty() { "by a process that cannot be seen from here".to_owned() } else { in_words(&holders) }
}

/// The segment behind a mapping, written once however many have it attached.
pub fn export(cx: &mut ExportCx<'_>, index: usize, smap: &Smap) -> Result<u32, KindError> {
    let process = &cx.view.processes[index];
    let m = &smap.mapping;
    let what = || format!("shared memory {:x}-{:x}", m.start, m.end);
    let shmid = m.inode as i32;
    let (id, new) = cx.sysv.get(shmid);
    if !new {
        return Ok(id);
    }
    let segment = segments(cx.view).iter().find(|s| s.shmid == shmid).ok_or_else(|| {
        KindError::conflict("exporting a segment", format!("segment {shmid} is gone")).on(process.pid, what())
    })?;
    let file =
        process.dir.open_file(&m.map_file(), libc::O_RDONLY).step_on(process.pid, what, "opening what is attached")?;
    // The kernel forgets the key of a removed segment, but the name of its mappings keeps it.
    let named =
        m.name.get(5..13).and_then(|n| std::str::from_utf8(n).ok()).and_then(|n| u32::from_str_radix(n, 16).ok());
    cx.model.sysv_shms.push(rec::SysvShm {
        id,
        shmid,
        key: named.map_or(segment.key, |key| key as i32),
        mode: segment.mode,
        size: segment.size,
        creator: segment.creator,
        uid: segment.uid,
        gid: segment.gid,
        cuid: segment.cuid,
        cgid: segment.cgid,
    });
    cx.pages.push(PageSource::Inode { owner: OWNER_SYSV, id, file, size: segment.size });
    Ok(id)
}

/// The attachments of an address space: segment, address of its first byte, pieces.
fn attachments(mm: &rec::Mm) -> BTreeMap<(u32, u64), Vec<&rec::Vma>> {
    let mut all: BTreeMap<(u32, u64), Vec<&rec::Vma>> = BTreeMap::new();
    for vma in mm.vmas.iter().filter(|v| v.sysv_id != 0) {
        all.entry((vma.sysv_id, vma.start - vma.offset)).or_default().push(vma);
    }
    all
}

/// Where whole segments lie for a moment.
pub fn room<'m>(model: &'m crate::model::Model, mm: &'m rec::Mm) -> impl Iterator<Item = (u64, u64)> + 'm {
    attachments(mm).into_keys().map(|(id, base)| (base, base + len(model, id)))
}

fn len(model: &crate::model::Model, id: u32) -> u64 {
    model.sysv_shms.iter().find(|s| s.id == id).map_or(0, |s| s.size.next_multiple_of(4096))
}

/// Whether a mapping lies within its segment, at addresses that a program can have.
pub fn fits(model: &crate::model::Model, vma: &rec::Vma) -> bool {
    let len = len(model, vma.sysv_id);
    let base = vma.start.checked_sub(vma.offset);
    let within = vma.offset.checked_add(vma.end - vma.start).is_some_and(|end| end <= len);
    vma.shared && within && base.and_then(|b| b.checked_add(len)).is_some_and(|end| end <= TOP)
}

/// Whether it is attached for reading only.
fn read_only(pieces: &[&rec::Vma]) -> bool {
    !pieces.iter().any(|v| v.max_write)
}

/// What a piece may do before [`vma::finish`] says what it may.
pub fn attached_prot(vma: &rec::Vma) -> i32 {
    if read_only(&[vma]) { libc::PROT_READ } else { libc::PROT_READ | libc::PROT_WRITE }
}

/// Queues the attachments of an address space, while there is nothing else in it.
pub fn attach(cx: &mut ImportCx<'_>, index: usize, mm: &rec::Mm) {
    for ((id, base), pieces) in attachments(mm) {
        let Some(&shmid) = cx.sysv.ids.get(&id) else { continue };
        let end = base + len(cx.model, id);
        let batch = &mut cx.building[index].batch;
        let flags = if read_only(&pieces) { libc::SHM_RDONLY } else { 0 };
        batch.call(Label::Range("shmat", base, end), nr::SHMAT, &[shmid.into(), base.into(), flags.into()]);
        let mut at = base;
        for (start, next) in pieces.iter().map(|v| (v.start, v.end)).chain([(end, end)]) {
            if start > at {
                batch.call(Label::Range("munmap", at, start), nr::MUNMAP, &[at.into(), (start - at).into()]);
            }
            at = next;
        }
        for piece in pieces {
            vma::early(batch, piece);
        }
    }
}

/// Every process has what it attaches: ghost needs nothing any more.
pub fn release(cx: &mut ImportCx<'_>) {
    cx.sysv.held.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(start: u64, end: u64, offset: u64) -> rec::Vma {
        rec::Vma { start, end, offset, sysv_id: 1, shared: true, ..rec::Vma::default() }
    }

    #[test]
    fn pieces_of_one_attachment_belong_together() {
        let mm = rec::Mm {
            vmas: vec![piece(0x10000, 0x11000, 0), piece(0x12000, 0x14000, 0x2000), piece(0x20000, 0x21000, 0x3000)],
            ..rec::Mm::default()
        };
        let all = attachments(&mm);
        let keys: Vec<_> = all.iter().map(|(k, v)| (k.1, v.len())).collect();
        assert_eq!(keys, [(0x10000, 2), (0x1d000, 1)]);
    }

    #[test]
    fn a_piece_beyond_the_end_of_its_segment_is_no_piece_of_it() {
        let segment = rec::SysvShm { id: 1, size: 0x3001, ..rec::SysvShm::default() };
        let model = crate::model::Model { sysv_shms: vec![segment], ..crate::model::Model::default() };
        assert!(fits(&model, &piece(0x10000, 0x14000, 0)));
        assert!(!fits(&model, &piece(0x10000, 0x14000, 0x1000)));
        assert!(!fits(&model, &piece(0x1000, 0x2000, 0x2000)));
        assert!(!fits(&model, &rec::Vma { shared: false, ..piece(0x10000, 0x11000, 0) }));
    }
}
