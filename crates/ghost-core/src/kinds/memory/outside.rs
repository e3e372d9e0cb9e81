//! Shared memory without a name that a process outside of the tree has mapped too.
//!
//! Anonymous shared memory, memfds and deleted files come back as inodes of their own: whoever still has the old one would never
//! hear of a write again, so that is refused. Read: the inodes of the shared mappings of every process that ghost may look at,
//! some 20 µs each. That is done before the freeze, and only if the tree has such memory at all; afterwards only processes are
//! looked at that were not there yet. Such memory gets into an older process only by a descriptor that it is sent.
//!
//! Not refused: what nobody can write any more, since a copy of it is as good.

use crate::abreast;
use crate::error::Blocker;
use crate::kinds::fd::external;
use crate::kinds::fd::outside::{Holder, OPEN_FOR_WRITING, writer_first};
use crate::view::TreeView;
use ghost_sys::Pid;
use ghost_sys::proc::{self, ProcDir, SharedMapping, Smap, VmFlags};
use rustix::fs::SealFlags;
use std::collections::{HashMap, HashSet};

/// Who has mapped which inodes shared, of all processes.
#[derive(Debug, Default)]
pub struct Neighbours {
    looked_at: HashSet<Pid>,
    mapped: HashMap<(u64, u64), Vec<(Pid, SharedMapping)>>,
}

impl Neighbours {
    /// Looks around, if a process of this running tree has memory that matters. Nothing is touched.
    pub fn of_running(root: Pid) -> Self {
        let mut neighbours = Self::default();
        let mut generation = vec![root];
        let mut matters = false;
        while !generation.is_empty() {
            // Whoever is missed is looked at after the freeze, if it is found to matter then.
            let seen = abreast::each(&generation, abreast::PROCESSES, |&pid| {
                (look(pid, true), crate::freeze::some_children(pid))
            });
            let mut next = Vec::new();
            for (pid, ((mappings, nameless), children)) in generation.into_iter().zip(seen) {
                matters |= nameless;
                neighbours.note(pid, mappings);
                next.extend(children);
            }
            next.retain(|child| !neighbours.looked_at.contains(child));
            generation = next;
        }
        if matters {
            neighbours.look_around();
        }
        neighbours
    }

    /// Gives a view of the same tree, frozen, what was seen before; if it has such memory, also who has come since.
    pub fn hand_over(self, view: &TreeView) {
        if view.processes.iter().flat_map(|p| &p.smaps).any(super::vma::is_nameless) {
            let _ = view.neighbours.set(self.with_newcomers());
        }
    }

    fn with_newcomers(mut self) -> Self {
        self.look_around();
        self
    }

    /// Looks at every process that has not been looked at.
    fn look_around(&mut self) {
        let others: Vec<Pid> = proc::pids().filter(|pid| !self.looked_at.contains(pid)).collect();
        let seen = abreast::each(&others, abreast::PROCESSES, |&pid| look(pid, false).0);
        for (pid, mappings) in others.into_iter().zip(seen) {
            self.note(pid, mappings);
        }
    }

    fn note(&mut self, pid: Pid, mappings: Vec<SharedMapping>) {
        self.looked_at.insert(pid);
        for mapping in mappings {
            self.mapped.entry((mapping.dev, mapping.inode)).or_default().push((pid, mapping));
        }
    }

    /// Somebody outside of the tree who has this inode mapped, now; and whether by a file that is open for writing.
    pub fn holder(&self, view: &TreeView, inode: (u64, u64)) -> Option<(Holder, bool)> {
        let has = |(pid, mapping): &(Pid, SharedMapping)| {
            if *pid == std::process::id() as Pid || view.processes.iter().any(|p| p.pid == *pid) {
                return None;
            }
            let dir = ProcDir::open(*pid).ok()?;
            // It may have unmapped it meanwhile.
            proc::read_shared_maps(&dir).ok()?.iter().find(|m| (m.dev, m.inode) == inode)?;
            let writes = dir.lstat(&mapping.map_file()).map_or(true, |s| s.st_mode & OPEN_FOR_WRITING != 0);
            Some((Holder::of(*pid), writes))
        };
        writer_first(self.mapped.get(&inode)?.iter().filter_map(has))
    }
}

/// The shared mappings of a process; whether one is of an inode without a name, where that is asked.
fn look(pid: Pid, nameless: bool) -> (Vec<SharedMapping>, bool) {
    let Ok(dir) = ProcDir::open(pid) else { return (Vec::new(), false) };
    let mappings = proc::read_shared_maps(&dir).unwrap_or_default();
    // Without the right to look that shows after the freeze.
    let is_nameless = |m: &SharedMapping| dir.stat(&m.map_file()).is_ok_and(|s| s.st_nlink == 0);
    let found = nameless && mappings.iter().any(is_nameless);
    (mappings, found)
}

/// Who has mapped what, looked for once for a view.
pub fn neighbours(view: &TreeView) -> &Neighbours {
    view.neighbours.get_or_init(|| Neighbours::default().with_newcomers())
}

/// Names shared memory that leads out of the tree.
pub fn check(view: &TreeView, out: &mut Vec<Blocker>) {
    let mut told = HashSet::new();
    for process in &view.processes {
        for smap in process.smaps.iter().filter(|s| super::vma::is_nameless(s)) {
            let m = &smap.mapping;
            if !told.insert((m.dev, m.inode)) {
                continue;
            }
            let Some(holder) = sharer(view, &process.dir, smap) else { continue };
            out.push(Blocker {
                pid: process.pid,
                comm: process.comm(),
                kind: "outside",
                subject: format!("memory {:x}-{:x} {}", m.start, m.end, String::from_utf8_lossy(&m.name)),
                why: format!("is shared with pid {} ({}), outside of the tree", holder.pid, holder.comm),
                advice: "checkpoint a process above both, or let one of them unmap it first".into(),
                passes: false,
            });
        }
    }
}

/// Who outside would miss the writes of the tree to this memory, or the other way round.
fn sharer(view: &TreeView, dir: &ProcDir, smap: &Smap) -> Option<Holder> {
    let m = &smap.mapping;
    let may_write = smap.flags.contains(VmFlags::MAY_WRITE);
    let mapped = neighbours(view).holder(view, (m.dev, m.inode));
    let open = || {
        let stat = dir.stat(&m.map_file()).ok()?;
        external::outside(view).inode_holder(&m.name, (stat.st_dev, stat.st_ino))
    };
    let (holder, writes) = mapped.or_else(open)?;
    let sealed = || {
        let file = dir.open_file(&m.map_file(), libc::O_RDONLY).ok()?;
        Some(rustix::fs::fcntl_get_seals(&file).ok()?.contains(SealFlags::WRITE))
    };
    ((may_write || writes) && sealed() != Some(true)).then_some(holder)
}
