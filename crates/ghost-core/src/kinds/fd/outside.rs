//! Who outside of the tree holds an end of a pipe or socket of it.
//!
//! The kernel does not count the holders of a pipe for us; `/proc/*/fd` tells, at the price of a `readlink(2)` for every
//! descriptor of the machine that we may look at. It is searched once, and only when the tree has something to ask about.

use super::class::{self, Class, Refusal};
use super::external;
use crate::kinds::memory::{self, vma};
use crate::view::{FdView, TreeView};
use ghost_sys::Pid;
use ghost_sys::kcmp::{Resource, kcmp};
use ghost_sys::proc::{self, LockKind, ProcDir};
use rustix::fs::{FileType, OFlags, SealFlags};
use std::collections::{HashMap, HashSet};
use std::os::fd::AsRawFd;

/// What a link of procfs to a file says when that is open for writing (S_IWUSR).
pub const OPEN_FOR_WRITING: u32 = 0o200;

/// A process outside of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its pid.
    pub pid: Pid,
    /// Its name.
    pub comm: String,
}

impl Holder {
    /// The process of this pid.
    pub fn of(pid: Pid) -> Self {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Self { pid, comm: comm.trim_end().to_owned() }
    }
}

/// Holders by what `/proc/PID/fd` prints: `pipe:[123]`.
#[derive(Debug, Default)]
pub struct Outside {
    holders: HashMap<Vec<u8>, Vec<Holder>>,
    /// Descriptors of others that have such a name, which need not be the same description.
    places: HashMap<Vec<u8>, Vec<(Pid, i32)>>,
}

impl Outside {
    /// Looks for all pipes and sockets of the tree.
    pub fn of(view: &TreeView) -> Self {
        let fds = || view.fds();
        let mut wanted: HashSet<Vec<u8>> = fds()
            .map(|fd| &fd.link)
            .filter(|l| l.starts_with(b"pipe:") || l.starts_with(b"socket:"))
            .cloned()
            .collect();
        let others = fds().filter(|fd| is_fifo(fd) || matters_whose(view, fd) || is_nameless(fd));
        wanted.extend(others.map(|fd| fd.link.clone()));
        let mappings = view.processes.iter().flat_map(|p| &p.smaps);
        wanted.extend(mappings.filter(|s| vma::is_nameless(s)).map(|s| s.mapping.name.clone()));
        let unix = &crate::kinds::socket::facts(view).unix;
        let peers = fds().filter_map(|fd| unix.get(&fd.stat.st_ino)?.peer);
        wanted.extend(peers.map(|peer| format!("socket:[{peer}]").into_bytes()));
        let mut outside = Self::default();
        if wanted.is_empty() {
            return outside;
        }
        let mut passed: HashSet<Pid> = view.processes.iter().map(|p| p.pid).collect();
        // Ghost has all descriptions of the tree by now, and shares the terminal and the pipes of the shell that started both.
        passed.insert(std::process::id() as Pid);
        let mut buf = vec![0_u8; 4200];
        for pid in proc::pids().filter(|pid| !passed.contains(pid)) {
            outside.look(pid, &wanted, &mut buf);
        }
        outside
    }

    fn look(&mut self, pid: Pid, wanted: &HashSet<Vec<u8>>, buf: &mut [u8]) {
        let Ok(dir) = ProcDir::open(pid).and_then(|d| d.open_file("fd", 0)) else { return };
        let Ok(entries) = rustix::fs::Dir::read_from(&dir) else { return };
        for entry in entries.flatten() {
            // A link that does not fit is a path; those that are asked for are short.
            let Ok(len) = rustix::fs::readlinkat_raw(&dir, entry.file_name(), &mut *buf) else { continue };
            let link = &buf[..len];
            if len < buf.len() && wanted.contains(link) {
                if let Ok(number) = entry.file_name().to_str().unwrap_or_default().parse() {
                    self.places.entry(link.to_vec()).or_default().push((pid, number));
                }
                let holders = self.holders.entry(link.to_vec()).or_default();
                if holders.last().is_none_or(|h| h.pid != pid) {
                    holders.push(Holder::of(pid));
                }
            }
        }
    }

    /// Who outside holds the very description.
    pub fn sharer(&self, fd: &FdView) -> Option<&Holder> {
        let me = std::process::id() as Pid;
        let ours = fd.ours.as_raw_fd() as u64;
        let same = |&&(pid, number): &&(Pid, i32)| {
            kcmp(me, pid, Resource::File, ours, number as u64).is_ok_and(|o| o == std::cmp::Ordering::Equal)
        };
        let (pid, _) = self.places.get(&fd.link)?.iter().find(same)?;
        self.holders(&fd.link).iter().find(|h| h.pid == *pid)
    }

    /// Who outside has this inode without a name open, and whether for writing.
    pub fn inode_holder(&self, link: &[u8], inode: (u64, u64)) -> Option<(Holder, bool)> {
        let open = |(pid, number): &(Pid, i32)| {
            let dir = ProcDir::open(*pid).ok()?;
            let name = format!("fd/{number}");
            let stat = dir.stat(&name).ok().filter(|s| (s.st_dev, s.st_ino) == inode)?;
            let writes = dir.lstat(&name).map_or(true, |s| s.st_mode & OPEN_FOR_WRITING != 0);
            (stat.st_nlink == 0).then(|| (Holder::of(*pid), writes))
        };
        writer_first(self.places.get(link)?.iter().filter_map(open))
    }

    /// Who outside has a description of this very inode, where a name may mean several.
    pub fn other(&self, fd: &FdView) -> Option<&Holder> {
        let same = |&&(pid, number): &&(Pid, i32)| {
            rustix::fs::stat(format!("/proc/{pid}/fd/{number}"))
                .is_ok_and(|s| (s.st_dev, s.st_ino) == (fd.stat.st_dev, fd.stat.st_ino))
        };
        let (pid, _) = self.places.get(&fd.link)?.iter().find(same)?;
        self.holders(&fd.link).iter().find(|h| h.pid == *pid)
    }

    /// Who outside holds this object.
    pub fn holders(&self, link: &[u8]) -> &[Holder] {
        self.holders.get(link).map_or(&[], Vec::as_slice)
    }
}

/// The first of these holders that may write, or the first of all.
pub fn writer_first(holders: impl Iterator<Item = (Holder, bool)>) -> Option<(Holder, bool)> {
    let mut holders = holders.peekable();
    let first = holders.peek().cloned();
    holders.find(|(_, writes)| *writes).or(first)
}

fn is_fifo(fd: &FdView) -> bool {
    FileType::from_raw_mode(fd.stat.st_mode) == FileType::Fifo && fd.info.flags & OFlags::PATH.bits() == 0
}

/// Whether a description has more to it than an offset, so that a second one in its place would be noticed by whoever
/// shares it.
fn matters_whose(view: &TreeView, fd: &FdView) -> bool {
    has_lock(fd)
        || fd.link.starts_with(b"anon_inode:")
        || matches!(class::of(fd), Class::Master | Class::Secret)
        || super::pty::pair(view, fd).is_some()
}

/// Whether it is a file that no name reaches, whose content would travel as a copy.
fn is_nameless(fd: &FdView) -> bool {
    FileType::from_raw_mode(fd.stat.st_mode) == FileType::RegularFile
        && fd.stat.st_nlink == 0
        && fd.info.flags & OFlags::PATH.bits() == 0
}

fn has_lock(fd: &FdView) -> bool {
    fd.info.locks.iter().any(|l| !l.waits && matches!(l.kind, LockKind::Flock | LockKind::Ofd))
}

/// Refuses a lock that a process outside has too, by the same description.
pub fn check_lock(view: &TreeView, fd: &FdView) -> Option<Refusal> {
    if !has_lock(fd) {
        return None;
    }
    let holder = external::outside(view).sharer(fd)?;
    let why = format!("its lock is shared with pid {} ({}), outside of the tree", holder.pid, holder.comm);
    Some(Refusal::new("lock", why, "checkpoint a process above both, or let it unlock the file first"))
}

/// Refuses a file without a name that a process outside has too, open or mapped, unless nobody can write it.
pub fn check_content(view: &TreeView, fd: &FdView) -> Option<Refusal> {
    if !is_nameless(fd) {
        return None;
    }
    let inode = (fd.stat.st_dev, fd.stat.st_ino);
    let open = external::outside(view).inode_holder(&fd.link, inode);
    let (holder, writes) = open.or_else(|| memory::outside::neighbours(view).holder(view, inode))?;
    let may_write = fd.info.flags & OFlags::ACCMODE.bits() != OFlags::RDONLY.bits();
    let sealed = || rustix::fs::fcntl_get_seals(&fd.ours).is_ok_and(|s| s.contains(SealFlags::WRITE));
    if !(writes || may_write) || sealed() {
        return None;
    }
    let why = format!("its content is shared with pid {} ({}), outside of the tree", holder.pid, holder.comm);
    Some(Refusal::new("outside", why, "checkpoint a process above both, or close it first"))
}

/// Refuses an object that a process outside uses too.
pub fn check_shared(view: &TreeView, fd: &FdView) -> Option<Refusal> {
    let holder = external::outside(view).sharer(fd)?;
    let why = format!("is shared with pid {} ({}), outside of the tree", holder.pid, holder.comm);
    Some(Refusal::new("outside", why, "checkpoint a process above both, or close it first"))
}

/// Holders in words: `pid 12 (bash) and pid 13 (tee)`.
pub fn in_words(holders: &[Holder]) -> String {
    let mut words: Vec<String> = holders.iter().take(3).map(|h| format!("pid {} ({})", h.pid, h.comm)).collect();
    if holders.len() > 3 {
        words.push(format!("{} more", holders.len() - 3));
    }
    words.join(", ")
}
