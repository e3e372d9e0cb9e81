//! Pseudo-terminals whose master is in the tree: `pty(7)`, `ioctl_tty(2)`.
//!
//! Read through the master: number (TIOCGPTN), settings, window size, lock, packet mode; a side tells its own exclusive mode. To
//! which file system of pseudo-terminals (`devpts`) a master belongs is told by its inode, or by `pts` beside the `ptmx` that it
//! was opened by; only there is a number unique. Rebuilt before the tree: masters are opened until one has the old
//! number (the lowest free one is given), the other side by TIOCGPTPEER (Linux 4.13), with the flags of each description.
//! A session gets its terminal from its leader, see [`terminal`](crate::kinds::tree::terminal). Privileges: none of its own.
//!
//! Refused: bytes that wait to be read by either side, which could only be read by taking them (ghost waits a moment for the
//! program to read them); output that is stopped (`^S`); other line disciplines. Lost: a line that was begun to be typed
//! while the terminal edits lines itself (noted), the column of the cursor, events of packet mode not yet read. A number that
//! is in use is replaced by another (noted).

use super::class::{self, Class, Refusal};
use super::{external, note, path, regular};
use crate::error::{Context, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use crate::kinds::tree::terminal::CALLERS;
use crate::view::{FdView, TreeView};
use ghost_image::record as rec;
use ghost_sys::{fdops, tty};
use rec::file::Object;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

const DEVPTS_MAGIC: i64 = 0x1cd1;
/// Major number of the slaves.
const SLAVE: u32 = 136;
/// `kernel.pty.max` is seldom higher: no more masters are opened on the way to a number.
const MOST: usize = 4096;
/// `ICANON` of `c_lflag`, the fourth word of the settings.
const ICANON: u8 = 2;

/// The masters of a tree: number and file system of each, in order.
#[derive(Debug, Default)]
pub struct Inside(Vec<(u32, u64)>);

impl Inside {
    /// Those with this number; more than one where the tree uses several file systems.
    fn with_number(&self, index: u32) -> &[(u32, u64)] {
        let from = self.0.partition_point(|p| p.0 < index);
        &self.0[from..from + self.0[from..].partition_point(|p| p.0 == index)]
    }
}

/// What the processes of an import have of a pseudo-terminal.
#[derive(Debug)]
pub struct Pair {
    master: OwnedFd,
    /// Keeps the other side open until its processes have it: the last one to close it takes it from its session.
    slave: Option<OwnedFd>,
}

/// By the number in the ghost.
pub type Ptys = HashMap<u32, Pair>;

fn inside(view: &TreeView) -> &Inside {
    view.ptys.get_or_init(|| {
        let masters = view.fds().filter(|fd| class::of(fd) == Class::Master);
        let mut pairs: Vec<(u32, u64)> =
            masters.filter_map(|fd| Some((tty::pty_number(fd.ours.as_fd()).ok()?, devpts(fd)?))).collect();
        pairs.sort_unstable();
        pairs.dedup();
        Inside(pairs)
    })
}

/// The device of the file system that a master belongs to.
fn devpts(fd: &FdView) -> Option<u64> {
    if rustix::fs::fstatfs(&fd.ours).ok()?.f_type == DEVPTS_MAGIC {
        return Some(fd.stat.st_dev);
    }
    let dir = fd.link.strip_suffix(b"ptmx")?;
    let pts = rustix::fs::stat([dir, b"pts"].concat()).ok()?;
    Some(pts.st_dev)
}

/// The number of this terminal, if its master is in the tree.
pub fn pair(view: &TreeView, fd: &FdView) -> Option<u32> {
    let (major, index) = (rustix::fs::major(fd.stat.st_rdev), rustix::fs::minor(fd.stat.st_rdev));
    (major == SLAVE && inside(view).0.binary_search(&(index, fd.stat.st_dev)).is_ok()).then_some(index)
}

/// Whether a terminal is one of the tree, also by the name `/dev/tty`.
fn is_inside(view: &TreeView, fd: &FdView) -> bool {
    let by_rule = || {
        let device = tty::device(fd.ours.as_fd()).unwrap_or(0);
        rustix::fs::major(device) == SLAVE && !inside(view).with_number(rustix::fs::minor(device)).is_empty()
    };
    pair(view, fd).is_some() || (rustix::fs::major(fd.stat.st_rdev) == 5 && by_rule())
}

fn refuse(why: impl Into<String>, advice: &str) -> Refusal {
    Refusal::new("pty", why, advice)
}

/// Bytes that wait to be read. Asking whether it is ready brings those in that are still on their way.
fn waiting(fd: &FdView) -> usize {
    ready(fd, PollFlags::IN);
    fdops::readable_bytes(fd.ours.as_fd()).unwrap_or(0)
}

fn ready(fd: &FdView, what: PollFlags) -> PollFlags {
    let mut fds = [PollFd::from_borrowed_fd(fd.ours.as_fd(), what)];
    match poll(&mut fds, Some(&Timespec::default())) {
        Ok(_) => fds[0].revents(),
        Err(_) => PollFlags::empty(),
    }
}

/// Refuses a master that can't be seen whole.
pub fn check_master(view: &TreeView, fd: &FdView) -> Option<Refusal> {
    let ours = fd.ours.as_fd();
    let (Some(_), Ok(index)) = (devpts(fd), tty::pty_number(ours)) else {
        return Some(refuse(
            "the pseudo-terminals that this master belongs to are not found beside it",
            "run ghost in the mount namespace of the process",
        ));
    };
    if inside(view).with_number(index).len() > 1 {
        return Some(refuse(
            format!("pseudo-terminal {index} is there twice, in two file systems of them"),
            "checkpoint what runs in the container apart from what runs outside",
        ));
    }
    let n = waiting(fd);
    (n > 0).then(|| {
        let why = format!("{n} bytes of output of pseudo-terminal {index} wait to be read by its master");
        Refusal::passing("pty", why, "the program has read them")
    })
}

/// Refuses the terminal side of a pair of the tree that can't be seen whole.
pub fn check_slave(view: &TreeView, fd: &FdView) -> Option<Refusal> {
    if !is_inside(view, fd) {
        return None;
    }
    let ours = fd.ours.as_fd();
    if tty::discipline(ours).is_ok_and(|d| d != 0) {
        return Some(refuse("its line discipline is not the usual one", "end what uses it as a network device first"));
    }
    let n = waiting(fd);
    if n > 0 {
        let why = format!("{n} bytes that were typed wait to be read");
        return Some(Refusal::passing("pty", why, "the program has read them"));
    }
    if ready(fd, PollFlags::OUT) & (PollFlags::OUT | PollFlags::HUP) == PollFlags::empty() {
        return Some(Refusal::passing("pty", "its output is stopped", "it goes on (^Q)"));
    }
    let holder = external::outside(view).other(fd)?;
    let why = format!("is open in pid {} ({}), outside of the tree, too", holder.pid, holder.comm);
    Some(Refusal::new("outside", why, "checkpoint a process above both, or end that one first"))
}

/// Whether a terminal has hung up: whoever reads it is told the end, and no call reaches it any more.
pub fn is_hung_up(fd: &FdView) -> bool {
    ready(fd, PollFlags::IN).contains(PollFlags::HUP | PollFlags::ERR)
}

/// A terminal that has hung up: that of a master which is closed at once.
pub fn hung_up(flags: u32) -> Result<OwnedFd, KindError> {
    let how = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open("/dev/ptmx", how, Mode::empty()).step("opening /dev/ptmx")?;
    tty::set_locked(master.as_fd(), false).step("TIOCSPTLCK")?;
    tty::open_peer(master.as_fd(), flags as i32).step("TIOCGPTPEER")
}

/// What is written of a master.
pub fn export_master(fd: &FdView) -> Result<rec::Tty, KindError> {
    let ours = fd.ours.as_fd();
    Ok(rec::Tty {
        path: Some(path::of(&fd.link, &fd.stat)),
        rdev: fd.stat.st_rdev,
        master: true,
        pty_index: tty::pty_number(ours).step("TIOCGPTN")?,
        termios: tty::termios(ours).step("TCGETS2")?.to_vec(),
        winsize: tty::winsize(ours).step("TIOCGWINSZ")?.to_vec(),
        locked: tty::is_locked(ours).step("TIOCGPTLCK")?,
        packet: tty::is_packet_mode(ours).step("TIOCGPKT")?,
        exclusive: tty::is_exclusive(ours).step("TIOCGEXCL")?,
        hung_up: ready(fd, PollFlags::IN).contains(PollFlags::HUP),
        ..rec::Tty::default()
    })
}

/// What is written of a description of the other side.
pub fn export_slave(cx: &mut ExportCx<'_>, fd: &FdView) -> Result<rec::Tty, KindError> {
    let ours = fd.ours.as_fd();
    let name = String::from_utf8_lossy(&fd.link).into_owned();
    let edits = tty::termios(ours).is_ok_and(|t| t[12] & ICANON != 0);
    if edits && !cx.notes.iter().any(|n| n.subject == name) {
        cx.notes.push(note(0, "pty", name, "a line that somebody has begun to type, if there is one, does not travel"));
    }
    Ok(rec::Tty {
        path: Some(path::of(&fd.link, &fd.stat)),
        rdev: fd.stat.st_rdev,
        pty_index: rustix::fs::minor(fd.stat.st_rdev),
        exclusive: tty::is_exclusive(ours).step("TIOCGEXCL")?,
        ..rec::Tty::default()
    })
}

/// Tells the leaders of sessions whose terminal is one of the tree.
pub fn resolve(cx: &mut ExportCx<'_>) {
    let masters: HashMap<u32, u32> = cx
        .model
        .files
        .iter()
        .filter_map(|f| match &f.object {
            Some(Object::Tty(t)) if t.master => Some((t.pty_index, f.id)),
            _ => None,
        })
        .collect();
    for (process, record) in cx.view.processes.iter().zip(&mut cx.model.processes) {
        let (major, index) = tty::numbers(process.stat.tty_nr as u32);
        if let (CALLERS, SLAVE, Some(id)) = (record.tty_file_id, major, masters.get(&index)) {
            record.tty_file_id = *id as i32;
        }
    }
}

/// Makes the pairs, in ascending order of their numbers.
pub fn make(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let model = cx.model;
    let mut masters: Vec<(&rec::File, &rec::Tty)> = Vec::new();
    let mut slaves: HashMap<u32, &rec::Path> = HashMap::new();
    for file in &model.files {
        match &file.object {
            Some(Object::Tty(t)) if t.master => masters.push((file, t)),
            Some(Object::Tty(rec::Tty { callers: false, pty_index, path: Some(at), .. })) => {
                slaves.insert(*pty_index, at);
            }
            _ => {}
        }
    }
    masters.sort_unstable_by_key(|m| m.1.pty_index);
    for (file, record) in masters {
        let what = || format!("pseudo-terminal {}", record.pty_index);
        let pair = pair_of(cx, file, record, slaves.get(&record.pty_index).copied())
            .map_err(|e| if e.subject.is_empty() { e.on(0, what()) } else { e })?;
        cx.ptys.insert(record.pty_index, pair);
    }
    Ok(())
}

fn pair_of(
    cx: &mut ImportCx<'_>,
    file: &rec::File,
    record: &rec::Tty,
    slave: Option<&rec::Path>,
) -> Result<Pair, KindError> {
    let Some(at) = &record.path else {
        return Err(KindError::conflict("opening the master", "the ghost does not say of what"));
    };
    let flags = file.flags & !(regular::NOT_AGAIN | regular::ASYNC);
    let mut passed = Vec::new();
    let master = loop {
        let master = path::open(cx, at, flags, 0)?;
        let index = tty::pty_number(master.as_fd()).step("TIOCGPTN")?;
        if index >= record.pty_index || passed.len() >= MOST {
            if index != record.pty_index {
                let text = format!("is /dev/pts/{index} now: that number is in use");
                cx.notes.push(note(0, "pty", format!("/dev/pts/{}", record.pty_index), text));
            }
            break master;
        }
        passed.push(master);
    };
    tty::set_locked(master.as_fd(), false).step("unlocking the terminal")?;
    if let Ok(settings) = record.termios.as_slice().try_into() {
        tty::set_termios(master.as_fd(), settings).step("TCSETS2")?;
    }
    if let Ok(size) = record.winsize.as_slice().try_into() {
        tty::set_winsize(master.as_fd(), size).step("TIOCSWINSZ")?;
    }
    let peer = || tty::open_peer(master.as_fd(), libc::O_RDWR).step("TIOCGPTPEER");
    let slave = match slave {
        Some(at) => Some(owned(peer()?, at)?),
        // Opened once and closed: the master reads the end.
        None if record.hung_up => peer().map(drop).map(|()| None)?,
        None => None,
    };
    Ok(Pair { master, slave })
}

/// Gives the terminal to the user that it belonged to.
fn owned(slave: OwnedFd, at: &rec::Path) -> Result<OwnedFd, KindError> {
    let stat = rustix::fs::fstat(&slave).step("looking at the terminal")?;
    if (stat.st_uid, stat.st_gid) != (at.uid, at.gid) {
        rustix::fs::fchown(&slave, Some(Uid::from_raw(at.uid)), Some(Gid::from_raw(at.gid)))
            .step("giving the terminal to its user")?;
    }
    if stat.st_mode & 0o7777 != at.mode & 0o7777 {
        rustix::fs::fchmod(&slave, Mode::from_raw_mode(at.mode & 0o7777)).step("setting the mode of the terminal")?;
    }
    Ok(slave)
}

/// A description of one side.
pub fn import(cx: &ImportCx<'_>, file: &rec::File, record: &rec::Tty) -> Result<OwnedFd, KindError> {
    let pair = found(cx, record.pty_index)?;
    if record.master {
        return pair.master.try_clone().step("sharing the master");
    }
    let flags = file.flags & !(regular::NOT_AGAIN | regular::ASYNC);
    tty::open_peer(pair.master.as_fd(), OFlags::from_bits_retain(flags).bits() as i32).step("TIOCGPTPEER")
}

fn found<'a>(cx: &'a ImportCx<'_>, index: u32) -> Result<&'a Pair, KindError> {
    cx.ptys
        .get(&index)
        .ok_or_else(|| KindError::conflict("opening a terminal", format!("pseudo-terminal {index} has no master")))
}

/// The terminal of the session of this leader, whose master is in the tree.
pub fn controlling(cx: &ImportCx<'_>, record: &rec::Process) -> Result<OwnedFd, KindError> {
    let file = cx.model.files.iter().find(|f| f.id as i32 == record.tty_file_id);
    let Some(Object::Tty(t)) = file.and_then(|f| f.object.as_ref()) else {
        return Err(
            KindError::conflict("finding the terminal of the session", "it is not described").on(record.pid, "")
        );
    };
    match &found(cx, t.pty_index)?.slave {
        Some(slave) => slave.try_clone().step("sharing the terminal"),
        None => tty::open_peer(found(cx, t.pty_index)?.master.as_fd(), libc::O_RDWR).step("TIOCGPTPEER"),
    }
}

/// Modes that would stand in the way before; then ghost lets go of the terminals.
pub fn finish(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    for file in &cx.model.files {
        let Some(Object::Tty(t)) = &file.object else { continue };
        let Some(fd) = cx.files.get(&file.id).filter(|_| !t.callers) else { continue };
        if t.exclusive {
            tty::set_exclusive(fd.as_fd(), true).step("TIOCEXCL")?;
        }
        if t.master && t.packet {
            tty::set_packet_mode(fd.as_fd(), true).step("TIOCPKT")?;
        }
        if t.master && t.locked {
            tty::set_locked(fd.as_fd(), true).step("TIOCSPTLCK")?;
        }
    }
    Ok(())
}
