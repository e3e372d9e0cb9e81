//! Unix sockets: pairs, named, listening, with what lies in them.
//!
//! Read: unix_diag (peers, names, who waits, shutdown halves; Linux 3.3), MSG_PEEK with SO_PEEK_OFF (what lies in the queue,
//! with boundaries, descriptors and senders; Linux 3.4), SO_PEERCRED. Rebuilt: `socketpair(2)`, made inside the process that
//! had made it, since the kernel notes who that is; names that only have to be there to the byte are bound where nobody
//! sees them ([`sock::bind_hidden`]); `sendmsg(2)` fills the queues. A connection by name whose ends were made by two
//! processes is made as it was: one listens, the other connects.
//!
//! A socket file is made anew where the old one was; one that belongs to somebody else is left alone and is an error.
//! Refused: an end that is outside of the tree; data on a connection that nobody has accepted yet, which lie in a socket that no
//! descriptor leads to: only `accept(2)` would make one, and nothing puts the connection back after that.

mod fill;
mod look;
mod make;

use super::{AF_UNIX, all, facts, options, peer_cred, poll, sort, urgent};
use crate::error::{Context, KindError};
use crate::export::ExportCx;
use crate::kinds::fd::class::Refusal;
use crate::kinds::fd::content;
use crate::kinds::fd::{external, inodes, outside, path};
use crate::view::{FdView, TreeView};
use ghost_image::record as rec;
use ghost_sys::{message, sock};
use look::queue;
use rec::socket::SocketState;
use rustix::event::PollFlags;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

pub use fill::fill;
pub use make::{Later, import};

const STREAM: u32 = 1;
const DGRAM: u32 = 2;
const DONTWAIT: i32 = 0x40;

/// Inodes of all that lies in queues of the tree. Keeps what was seen in them.
pub fn flying(view: &TreeView, looked: &mut HashMap<u64, Vec<message::Message>>) -> HashSet<u64> {
    let mut found = HashSet::new();
    let carries = |fd: &&FdView| fd.link.starts_with(b"socket:") && fd.info.scm_fds.unwrap_or(0) > 0;
    let mut work: Vec<OwnedFd> = view.fds().filter(carries).filter_map(|f| f.ours.try_clone().ok()).collect();
    while let Some(socket) = work.pop() {
        if !matches!(sort(socket.as_fd()), Ok((AF_UNIX, ..))) {
            continue;
        }
        let (Ok(own), Ok(messages)) = (rustix::fs::fstat(&socket), queue(socket.as_fd())) else { continue };
        for fd in messages.iter().flat_map(|m| &m.fds) {
            let Ok(stat) = rustix::fs::fstat(fd) else { continue };
            let is_socket = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Socket;
            if found.insert(stat.st_ino) && is_socket {
                work.extend(fd.try_clone());
            }
        }
        looked.entry(own.st_ino).or_insert(messages);
    }
    found
}

fn inside(view: &TreeView, inode: u64) -> bool {
    inodes::inodes(view).has_socket(inode) || facts(view).flying.contains(&inode)
}

/// The inode of the peer when that is a socket outside of the tree.
fn outsider(view: &TreeView, fd: &FdView) -> Option<u64> {
    let peer = u64::from(facts(view).unix.get(&fd.stat.st_ino)?.peer?);
    (peer != 0 && !inside(view, peer)).then_some(peer)
}

/// Whether the other end of a connection is outside of the tree.
pub fn leads_out(view: &TreeView, fd: &FdView) -> bool {
    let kind = fd.socket.as_ref().map_or(0, |s| s.sort.1);
    match outsider(view, fd) {
        None => false,
        // A datagram socket that was only told a name is told it again.
        Some(peer) => kind != DGRAM || facts(view).unix.get(&peer).is_none_or(|p| p.name.is_none()),
    }
}

/// What stands in the way.
pub fn check(view: &TreeView, fd: &FdView) -> Option<Refusal> {
    let Some(socket) = facts(view).unix.get(&fd.stat.st_ino) else {
        return Some(Refusal::new(
            "unix",
            "is in another network namespace, or this kernel has no unix_diag to tell its other end",
            "run ghost in the network namespace of the process (modprobe unix_diag)",
        ));
    };
    if leads_out(view, fd) {
        let peer = outsider(view, fd).unwrap_or_default();
        let holders = external::outside(view).holders(format!("socket:[{peer}]").as_bytes());
        let who = if holders.is_empty() {
            "a process that can't be seen from here".into()
        } else {
            outside::in_words(holders)
        };
        let link = String::from_utf8_lossy(&fd.link);
        return Some(Refusal::new(
            "unix",
            format!("its other end is outside of the tree: {who}"),
            format!(
                "checkpoint a process above both, or leave it behind with --external {link} and hand over another with --inherit-fd at the restart"
            ),
        ));
    }
    if let Some(refusal) = urgent::check(fd) {
        return Some(refusal);
    }
    if look::is_behind_error(fd.ours.as_fd()) {
        return Some(Refusal::passing("unix", look::BEHIND_ERROR, "the program has read"));
    }
    if let Some(name) = socket.name.as_ref().filter(|n| !n.starts_with(b"/") && !n.starts_with(&[0])) {
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        let used = socket.is_listening() || socket.peer.is_none() || socket.kind == DGRAM as u8;
        if used && file_of(view, fd, name, socket.file).is_none() && !is_gone(fd, socket.file) {
            return Some(Refusal::new(
                "unix",
                format!(
                    "the file of its relative name {} is not found from its directories",
                    String::from_utf8_lossy(name)
                ),
                "let the program bind absolute names, or stay in the directory where it bound this one",
            ));
        }
    }
    if socket.is_listening() {
        for &waiting in &socket.waiting {
            let client = u64::from(waiting);
            if client == 0 || !inside(view, client) {
                return Some(Refusal::passing(
                    "unix",
                    "somebody outside of the tree has connected and waits to be accepted",
                    "the program has accepted it",
                ));
            }
            if facts(view).unix.get(&client).is_some_and(|c| c.send_queue > 0) {
                return Some(Refusal::passing(
                    "unix",
                    "data wait on a connection that is not accepted yet, where they can't be seen",
                    "the program has accepted it",
                ));
            }
        }
    }
    None
}

/// Fills in state, names, peer, and what lies in the queue.
pub fn export(cx: &mut ExportCx<'_>, fd: &FdView, socket: &mut rec::Socket) -> Result<(), KindError> {
    let view = cx.view;
    let fact = facts(view).unix.get(&fd.stat.st_ino).cloned().unwrap_or_default();
    let ours = fd.ours.as_fd();
    socket.peer_cred = match fd.told.unix {
        Some(told) => facts(view).makers.borrow_mut().entry(told.maker).or_insert_with(|| peer_cred(ours)).clone(),
        None => peer_cred(ours),
    };
    socket.shutdown = fact.shutdown.into();
    socket.peer_inode = fact.peer.unwrap_or_default().into();
    let pending = facts(view).pending.contains(&fact.inode);
    socket.peer_closed = fact.peer == Some(0) && !pending;
    let error = poll(ours).contains(PollFlags::ERR);
    socket.error = i32::from(socket.peer_closed && error);
    if error && !socket.peer_closed {
        // A datagram socket whose peer has gone over to another, with something of this one's unread.
        let text = "an error that it had still to tell is lost: its number can only be asked for by taking it";
        cx.notes.push(crate::kinds::fd::note(0, "unix", crate::kinds::fd::subject(fd), text));
    }
    let state = if fact.is_listening() {
        socket.backlog = fact.send_queue;
        socket.waiting = fact.waiting.iter().map(|w| u64::from(*w)).collect();
        SocketState::Listening
    } else if fact.peer.is_some() {
        SocketState::Connected
    } else if socket.local.is_empty() {
        SocketState::Closed
    } else {
        SocketState::Bound
    };
    socket.state = state.into();
    // An accepted socket has the name of the one that listened; only the file of a name that others use is made again.
    let used = state != SocketState::Connected || socket.r#type == DGRAM;
    if let Some(name) = sock::unix_path(&socket.local).filter(|_| used) {
        match file_of(view, fd, name, fact.file) {
            Some(bound) => socket.bound = Some(bound),
            None => socket.name_unlinked = true,
        }
    }
    if state == SocketState::Listening {
        return Ok(());
    }
    let looked = facts(view).looked.borrow_mut().remove(&fd.stat.st_ino);
    let is_empty = fd.told.unix.is_some_and(|u| u.is_empty);
    let messages = looked.map_or_else(|| if is_empty { Ok(Vec::new()) } else { queue(ours) }, Ok)?;
    let (seen, there): (usize, usize) =
        (messages.iter().map(|m| m.fds.len()).sum(), fd.info.scm_fds.unwrap_or(0) as usize);
    if seen < there {
        let hidden = there - seen;
        let why = format!("{hidden} of {there} descriptors in it came with empty messages, which cannot be seen twice");
        return Err(KindError::refusal("looking at what lies in the unix socket", why)
            .advise("let the program receive them, and try again"));
    }
    if look::hides_some(view, fd, &fact, &messages)? {
        let why = "empty messages lie in it that have been looked at before, and so cannot be seen again";
        return Err(KindError::refusal("looking at what lies in the unix socket", why)
            .advise("let the program receive them, and try again"));
    }
    for message in messages {
        let mut file_ids = Vec::with_capacity(message.fds.len());
        for flying in message.fds {
            file_ids.push(export_flying(cx, flying)?);
        }
        socket.queue.push(rec::Message {
            data: message.data,
            from: if message.from.len() > 2 { message.from } else { Vec::new() },
            file_ids,
            cred: message.credentials.map(|c| rec::PeerCred { pid: c.pid, uid: c.uid, gid: c.gid, groups: Vec::new() }),
        });
    }
    if fd.told.unix.is_none_or(|u| u.is_urgent) && urgent::waits(ours) {
        urgent::export(ours, socket)?;
    }
    Ok(())
}

/// The file of a name, looked for from where its holders are; None when no path of theirs leads to it.
fn file_of(view: &TreeView, fd: &FdView, name: &[u8], (inode, device): (u32, u64)) -> Option<rec::Path> {
    let holders = view
        .tables()
        .filter(|(_, _, fds)| fds.iter().any(|f| f.stat.st_ino == fd.stat.st_ino && f.link == fd.link))
        .map(|(number, p, _)| number.checked_sub(view.processes.len()).map_or(&p.dir, |k| &view.apart[k].dir));
    let candidates: Vec<Vec<u8>> = if name.starts_with(b"/") {
        vec![name.to_vec()]
    } else {
        holders.filter_map(|dir| Some([dir.link("cwd").ok()?.as_slice(), b"/", name].concat())).collect()
    };
    let found = candidates.into_iter().find_map(|at| {
        let stat = rustix::fs::lstat(at.as_slice()).ok()?;
        (stat.st_ino as u32 == inode && stat.st_dev == device).then(|| path::of(&at, &stat))
    });
    found.or_else(|| {
        // The program may have gone elsewhere since.
        let (file, stat) = behind(fd, (inode, device)).filter(|(_, s)| s.st_nlink > 0)?;
        let link = crate::kinds::fd::inotify::link_of(file.as_fd()).ok()?;
        if path::names(&link, &stat) {
            return Some(path::of(&link, &stat));
        }
        // It was bound under a name for the moment, of which the real one was made by link(2).
        let link = link.strip_suffix(b" (deleted)").unwrap_or(&link);
        let other = content::other_name(content::parent(link), &stat)?;
        Some(path::of(&other, &stat))
    })
}

/// The file behind the name of a socket. Where the kernel does not open it, by its inode number alone: file systems of the ext family
/// take a handle without a generation.
fn behind(fd: &FdView, (inode, device): (u32, u64)) -> Option<(OwnedFd, rustix::fs::Stat)> {
    const FILEID_INO32_GEN: i32 = 1;
    let by_inode = || {
        let mount = crate::kinds::fd::inotify::mount_of(device)?;
        let bytes = [inode.to_ne_bytes(), [0; 4]].concat();
        let flags = rustix::fs::OFlags::PATH.bits();
        ghost_sys::fdops::open_by_handle(mount.as_fd(), FILEID_INO32_GEN, &bytes, flags).ok()
    };
    let file = sock::unix_file(fd.ours.as_fd()).ok().or_else(by_inode)?;
    let stat = rustix::fs::fstat(&file).ok()?;
    (stat.st_ino as u32 == inode && stat.st_dev == device).then_some((file, stat))
}

/// Whether the file of a name is known to be removed.
fn is_gone(fd: &FdView, file: (u32, u64)) -> bool {
    behind(fd, file).is_some_and(|(_, stat)| stat.st_nlink == 0)
}

/// Writes the description of a descriptor in flight.
fn export_flying(cx: &mut ExportCx<'_>, ours: OwnedFd) -> Result<u32, KindError> {
    let own = ghost_sys::proc::ProcDir::own().step("looking at a descriptor in flight")?;
    let number = ours.as_raw_fd();
    let fd = FdView::of(&own, number, std::sync::Arc::new(ours), &options::Known::default())?;
    crate::kinds::fd::export_description(cx, &cx.view.processes[0], &fd)
}

/// Tells each socket the id of its peer's description, once all have one.
pub fn resolve(cx: &mut ExportCx<'_>) -> Result<(), KindError> {
    let ids: HashMap<u64, u32> =
        all(&cx.model).filter(|(_, s)| s.family == AF_UNIX).map(|(f, s)| (s.inode, f.id)).collect();
    for file in &mut cx.model.files {
        if let Some(rec::file::Object::Socket(s)) = &mut file.object
            && s.family == AF_UNIX
            && s.peer_inode != 0
        {
            s.peer_file_id = ids.get(&s.peer_inode).copied().unwrap_or_default();
            if s.peer_file_id == 0 && s.r#type != DGRAM {
                return Err(KindError::conflict(
                    "looking for the other end of a unix socket",
                    "no process of the tree has it any more",
                ));
            }
        }
    }
    Ok(())
}
