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

use super::{AF_UNIX, SOCKET, all, facts, on, options, peer_cred, poll, sort, urgent};
use crate::error::{Context, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use crate::kinds::fd::class::Refusal;
use crate::kinds::fd::{external, inodes, note, outside, path};
use crate::names::Sort;
use crate::view::{FdView, TreeView};
use ghost_image::record as rec;
use ghost_sys::message::{self, Credentials};
use ghost_sys::remote::{Arg, Batch};
use ghost_sys::{Errno, nr, sock, sockopt};
use rec::socket::SocketState;
use rustix::event::PollFlags;
use rustix::net::Shutdown;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const STREAM: u32 = 1;
const DGRAM: u32 = 2;
/// The most bytes that one message can have: more than any send buffer that we have seen.
const ROOM: usize = 1 << 26;
const SO_SNDBUF: i32 = 7;
const SO_SNDBUFFORCE: i32 = 32;
const DONTWAIT: i32 = 0x40;

/// All messages in a socket, left there.
fn queue(fd: BorrowedFd<'_>) -> Result<Vec<message::Message>, KindError> {
    let state = poll(fd);
    if !state.contains(PollFlags::IN) {
        return Ok(Vec::new());
    }
    if state.contains(PollFlags::ERR) {
        return queue_before_error(fd);
    }
    let head = message::empty_head(fd).step("looking at what lies in the socket")?;
    let mut room = 1 << 18;
    loop {
        match message::queue(fd, room, usize::MAX) {
            Err(Errno(90)) if room < ROOM => room *= 4, // EMSGSIZE: a longer one
            other => {
                let rest = other.step("looking at what lies in the socket")?;
                return split(fd, head.into_iter().chain(rest).collect());
            }
        }
    }
}

/// Finds where descriptors lie in a stream: a read that gets them, which ends with the piece that they came with, may have
/// begun with bytes that were sent before it.
fn split(fd: BorrowedFd<'_>, messages: Vec<message::Message>) -> Result<Vec<message::Message>, KindError> {
    let is_stream = sort(fd)?.1 == STREAM;
    if !is_stream || messages.iter().all(|m| m.fds.is_empty()) {
        return Ok(messages);
    }
    let before = sockopt::get_i32(fd, SOCKET, options::SO_PEEK_OFF).step("reading SO_PEEK_OFF")?;
    let done = split_inner(fd, messages);
    sockopt::set_i32(fd, SOCKET, options::SO_PEEK_OFF, before).step("putting SO_PEEK_OFF back")?;
    done
}

fn split_inner(fd: BorrowedFd<'_>, messages: Vec<message::Message>) -> Result<Vec<message::Message>, KindError> {
    let mut all = Vec::with_capacity(messages.len() + 1);
    let mut start = 0_usize;
    for mut message in messages {
        let len = message.data.len();
        if !message.fds.is_empty() {
            sockopt::set_i32(fd, SOCKET, options::SO_PEEK_OFF, start as i32).step("setting SO_PEEK_OFF")?;
            let before = sock::pieces_before_last(fd, len).step("looking at what lies in the socket")?;
            if before > 0 && before < len {
                let rest = message.data.split_off(before);
                let plain = std::mem::replace(&mut message.data, rest);
                all.push(message::Message {
                    data: plain,
                    from: message.from.clone(),
                    credentials: message.credentials,
                    ..message::Message::default()
                });
            }
        }
        start += len;
        all.push(message);
    }
    Ok(all)
}

/// The same for a socket that has an error to tell: asking for more than there is would take the error from the program.
fn queue_before_error(fd: BorrowedFd<'_>) -> Result<Vec<message::Message>, KindError> {
    let waiting = sockopt::incoming_bytes(fd).step("asking how much lies in the socket")?;
    let mut all = Vec::new();
    for limit in 1.. {
        if all.iter().map(|m: &message::Message| m.data.len()).sum::<usize>() >= waiting {
            break;
        }
        all = message::queue(fd, waiting, limit).step("looking at what lies in the socket")?;
        if all.len() < limit {
            break;
        }
    }
    Ok(all)
}

/// Inodes of all that lies in queues of the tree.
pub fn flying(view: &TreeView) -> HashSet<u64> {
    let mut found = HashSet::new();
    let carries = |fd: &&FdView| fd.link.starts_with(b"socket:") && fd.info.scm_fds.unwrap_or(0) > 0;
    let mut work: Vec<OwnedFd> =
        view.processes.iter().flat_map(|p| &p.fds).filter(carries).filter_map(|f| f.ours.try_clone().ok()).collect();
    while let Some(socket) = work.pop() {
        if !matches!(sort(socket.as_fd()), Ok((AF_UNIX, ..))) {
            continue;
        }
        for fd in queue(socket.as_fd()).unwrap_or_default().into_iter().flat_map(|m| m.fds) {
            let Ok(stat) = rustix::fs::fstat(&fd) else { continue };
            let is_socket = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Socket;
            if found.insert(stat.st_ino) && is_socket {
                work.push(fd);
            }
        }
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
    if let Some(name) = socket.name.as_ref().filter(|n| !n.starts_with(b"/") && !n.starts_with(&[0])) {
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        let used = socket.is_listening() || socket.peer.is_none() || socket.kind == DGRAM as u8;
        if used && file_of(view, fd, name, socket.file).is_none() && !is_gone(socket.file) {
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
    socket.peer_cred = peer_cred(ours);
    socket.shutdown = fact.shutdown.into();
    socket.peer_inode = fact.peer.unwrap_or_default().into();
    let pending = facts(view).pending.contains(&fact.inode);
    socket.peer_closed = fact.peer == Some(0) && !pending;
    socket.error = i32::from(socket.peer_closed && poll(ours).contains(PollFlags::ERR));
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
    let messages = queue(ours)?;
    let (seen, there): (usize, usize) =
        (messages.iter().map(|m| m.fds.len()).sum(), fd.info.scm_fds.unwrap_or(0) as usize);
    if seen < there {
        let hidden = there - seen;
        let why = format!("{hidden} of {there} descriptors in it came with empty messages, which cannot be seen twice");
        return Err(KindError::refusal("looking at what lies in the socket", why)
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
    if urgent::waits(ours) {
        urgent::export(ours, socket)?;
    }
    Ok(())
}

/// The file of a name, looked for from where its holders are; None when no path of theirs leads to it.
fn file_of(view: &TreeView, fd: &FdView, name: &[u8], (inode, device): (u32, u64)) -> Option<rec::Path> {
    let holders =
        view.processes.iter().filter(|p| p.fds.iter().any(|f| f.stat.st_ino == fd.stat.st_ino && f.link == fd.link));
    let candidates: Vec<Vec<u8>> = if name.starts_with(b"/") {
        vec![name.to_vec()]
    } else {
        holders.filter_map(|p| Some([p.dir.link("cwd").ok()?.as_slice(), b"/", name].concat())).collect()
    };
    let found = candidates.into_iter().find_map(|at| {
        let stat = rustix::fs::lstat(at.as_slice()).ok()?;
        (stat.st_ino as u32 == inode && stat.st_dev == device).then(|| path::of(&at, &stat))
    });
    found.or_else(|| {
        // The program may have gone elsewhere since.
        let (file, stat) = by_inode((inode, device)).filter(|(_, s)| s.st_nlink > 0)?;
        let link = crate::kinds::fd::inotify::link_of(file.as_fd()).ok()?;
        (link.ends_with(name) && path::names(&link, &stat)).then(|| path::of(&link, &stat))
    })
}

/// Opens a socket file by its inode number alone: file systems of the ext family take a handle without a generation.
fn by_inode((inode, device): (u32, u64)) -> Option<(OwnedFd, rustix::fs::Stat)> {
    const FILEID_INO32_GEN: i32 = 1;
    let mount = crate::kinds::fd::inotify::mount_of(device)?;
    let bytes = [inode.to_ne_bytes(), [0; 4]].concat();
    let flags = rustix::fs::OFlags::PATH.bits();
    let file = ghost_sys::fdops::open_by_handle(mount.as_fd(), FILEID_INO32_GEN, &bytes, flags).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    (stat.st_ino as u32 == inode && stat.st_dev == device).then_some((file, stat))
}

/// Whether the file of a name is known to be removed.
fn is_gone(file: (u32, u64)) -> bool {
    by_inode(file).is_some_and(|(_, stat)| stat.st_nlink == 0)
}

/// Writes the description of a descriptor in flight.
fn export_flying(cx: &mut ExportCx<'_>, ours: OwnedFd) -> Result<u32, KindError> {
    let own = ghost_sys::proc::ProcDir::own().step("looking at a descriptor in flight")?;
    let number = ours.as_raw_fd();
    let fd = FdView::of(&own, number, ours, &mut options::Defaults::default())?;
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

// ---- import ----------------------------------------------------------------------------------------------

/// How to reach a bound socket.
enum Reach {
    Address(Vec<u8>),
    File(OwnedFd),
}

/// What is done once every description is open.
#[derive(Default)]
pub struct Later {
    /// The far ends of sockets whose peer has closed, by the id of the near one.
    far: HashMap<u32, OwnedFd>,
    reach: HashMap<u32, Reach>,
    any: bool,
}

#[allow(clippy::implicit_hasher)] // one caller
/// Makes every unix socket, without what lies in it.
pub fn import(cx: &mut ImportCx<'_>, made: &mut HashMap<u32, OwnedFd>) -> Result<Later, KindError> {
    let model = cx.model;
    let sockets: HashMap<u32, (&rec::File, &rec::Socket)> =
        all(model).filter(|(_, s)| s.family == AF_UNIX).map(|(f, s)| (f.id, (f, s))).collect();
    let mut order: Vec<u32> = sockets.keys().copied().collect();
    order.sort_unstable();
    let mut later = Later { any: !order.is_empty(), ..Later::default() };
    let mut plain_pairs = Vec::new();
    let mut paired = HashSet::new();
    for &id in &order {
        let (file, socket) = sockets[&id];
        if made.contains_key(&id) || paired.contains(&id) {
            continue;
        }
        let peer = sockets.get(&socket.peer_file_id).filter(|(_, p)| p.peer_file_id == id).copied();
        let connected = socket.state() == SocketState::Connected;
        match peer {
            Some((other, peer)) if connected && id != other.id => {
                if by_name(socket, peer) {
                    let (a, b) = connection(cx, socket, peer).map_err(|e| on(cx, file, e))?;
                    made.insert(id, a);
                    made.insert(other.id, b);
                } else {
                    paired.extend([id, other.id]);
                    plain_pairs.push((id, Some(other.id), socket));
                }
            }
            _ if connected && socket.peer_closed => plain_pairs.push((id, None, socket)),
            _ => {
                let fd = sock::socket(AF_UNIX as i32, socket.r#type as i32, 0)
                    .step("making a socket")
                    .map_err(|e| on(cx, file, e))?;
                made.insert(id, fd);
            }
        }
    }
    make_pairs(cx, &plain_pairs, made, &mut later)?;
    for &id in &order {
        let (file, socket) = sockets[&id];
        let Some(fd) = made.get(&id) else { continue };
        super::finish_one(cx, file, socket, fd.as_fd())?;
        bind(cx, id, socket, fd, &mut later).map_err(|e| on(cx, file, e))?;
    }
    for &id in &order {
        let (file, socket) = sockets[&id];
        if socket.state() == SocketState::Listening {
            listen_as(cx, socket.peer_cred.as_ref(), made[&id].as_fd(), socket.backlog).map_err(|e| on(cx, file, e))?;
            for client in &socket.waiting {
                let Some((other, _)) = sockets.values().find(|(_, s)| s.inode == *client) else { continue };
                // Who accepts it may ask who it is.
                let who = holder(model, other.id);
                connect_as(cx, who.as_ref(), made[&other.id].as_fd(), later.reach.get(&id))
                    .map_err(|e| on(cx, file, e))?;
            }
        }
    }
    Ok(later)
}

/// The process that has a description, with its ids.
fn holder(model: &crate::model::Model, file_id: u32) -> Option<rec::PeerCred> {
    let (pid, _) = crate::kinds::fd::holder(model, file_id)?;
    let cred = model.process(pid)?.threads.first()?.cred.as_ref()?;
    Some(rec::PeerCred { pid, uid: *cred.uid.get(1)?, gid: *cred.gid.get(1)?, groups: Vec::new() })
}

/// Whether two ends can't come from `socketpair`: one has the name of whom the other connected to, or two made them.
fn by_name(a: &rec::Socket, b: &rec::Socket) -> bool {
    let maker = |s: &rec::Socket| s.peer_cred.as_ref().map(|c| (c.pid, c.uid, c.gid));
    a.r#type != DGRAM && maker(a) != maker(b) && (a.local.is_empty() != b.local.is_empty())
}

/// Runs calls as a process of the tree with the ids that it had; the descriptors are lent to it for that.
///
/// None when that process is not in the tree, or has ended.
fn in_process<T>(
    cx: &mut ImportCx<'_>,
    who: Option<&rec::PeerCred>,
    lend: &[BorrowedFd<'_>],
    calls: impl FnOnce(&mut Batch, &[i32]) -> T,
    collect: impl FnOnce(&mut ImportCx<'_>, usize, &ghost_sys::remote::Outcome, T) -> Result<(), KindError>,
) -> Result<bool, KindError> {
    let Some(who) = who else { return Ok(false) };
    let Some(index) = cx.model.processes.iter().position(|p| p.pid == who.pid) else { return Ok(false) };
    if cx.building.get(index).is_none_or(|b| b.leader.is_none()) {
        return Ok(false);
    }
    let lent = if lend.is_empty() { Vec::new() } else { cx.hand_over(index, lend)? };
    let mut batch = Batch::new();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let foreign = (who.uid, who.gid) != (uid, gid);
    let keep: Arg = u64::MAX.into();
    if foreign {
        batch.call("taking the group of who made the socket", nr::SETRESGID, &[keep, who.gid.into(), keep]);
        batch.call("taking the user of who made the socket", nr::SETRESUID, &[keep, who.uid.into(), keep]);
    }
    let asked = calls(&mut batch, &lent);
    if foreign {
        batch.call("taking ghost's user back", nr::SETRESUID, &[keep, uid.into(), keep]);
        batch.call("taking ghost's group back", nr::SETRESGID, &[keep, gid.into(), keep]);
    }
    for fd in lent {
        batch.call("closing a lent socket", nr::CLOSE, &[fd.into()]);
    }
    let outcome = cx.run(index, &batch)?;
    collect(cx, index, &outcome, asked)?;
    Ok(true)
}

/// Makes pairs, all those of one maker in one batch.
fn make_pairs(
    cx: &mut ImportCx<'_>,
    pairs: &[(u32, Option<u32>, &rec::Socket)],
    made: &mut HashMap<u32, OwnedFd>,
    later: &mut Later,
) -> Result<(), KindError> {
    let maker = |s: &rec::Socket| s.peer_cred.as_ref().map(|c| (c.pid, c.uid, c.gid));
    let mut makers: Vec<_> = pairs.iter().map(|p| maker(p.2)).collect();
    makers.sort_unstable();
    makers.dedup();
    let mut keep = |id: u32, other: Option<u32>, (a, b): (OwnedFd, OwnedFd), later: &mut Later| {
        made.insert(id, a);
        match other {
            Some(other) => drop(made.insert(other, b)),
            None => drop(later.far.insert(id, b)),
        }
    };
    for who in makers {
        let mine: Vec<_> = pairs.iter().filter(|p| maker(p.2) == who).collect();
        for part in mine.chunks(200) {
            let cred = part[0].2.peer_cred.clone();
            let mut fetched = Vec::new();
            let done = in_process(
                cx,
                cred.as_ref(),
                &[],
                |batch, _| {
                    part.iter()
                        .map(|(.., socket)| {
                            let room = batch.room(8);
                            let kind = socket.r#type;
                            batch.call(
                                "socketpair",
                                nr::SOCKETPAIR,
                                &[AF_UNIX.into(), kind.into(), 0.into(), room.into()],
                            );
                            room
                        })
                        .collect::<Vec<_>>()
                },
                |cx, index, outcome, rooms| {
                    let pid = cx.building[index].pid;
                    let pidfd = ghost_sys::pidfd::open(pid).step("holding the process that made a socket")?;
                    for room in rooms {
                        let (a, b) = (outcome.u32(room) as i32, outcome.u32(room.at(4)) as i32);
                        let fetch = |fd| ghost_sys::pidfd::getfd(pidfd.as_fd(), fd).step("fetching a socket");
                        fetched.push((fetch(a)?, fetch(b)?));
                        for fd in [a, b] {
                            cx.building[index].batch.call("closing a fetched socket", nr::CLOSE, &[fd.into()]);
                        }
                    }
                    cx.flush(index).map(drop)
                },
            )?;
            if !done {
                for (.., socket) in part {
                    let kind = rustix::net::SocketType::from_raw(socket.r#type);
                    let flags = rustix::net::SocketFlags::CLOEXEC;
                    let pair = rustix::net::socketpair(rustix::net::AddressFamily::UNIX, kind, flags, None);
                    fetched.push(pair.step("making a pair of sockets")?);
                }
            }
            for ((id, other, _), pair) in part.iter().zip(fetched) {
                keep(*id, *other, pair, later);
            }
        }
    }
    Ok(())
}

/// Makes a connection as it was made: who has the name was accepted by one that listened under it.
fn connection(cx: &mut ImportCx<'_>, a: &rec::Socket, b: &rec::Socket) -> Result<(OwnedFd, OwnedFd), KindError> {
    let (server, client, swapped) = if a.local.is_empty() { (b, a, true) } else { (a, b, false) };
    let socket = || sock::socket(AF_UNIX as i32, server.r#type as i32, 0).step("making a socket");
    let (listener, connecting) = (socket()?, socket()?);
    let reach = if sock::unix_path(&server.local).is_some() {
        Reach::File(sock::bind_hidden(listener.as_fd(), &server.local).step("binding a name apart")?)
    } else {
        sock::bind(listener.as_fd(), &server.local).step("binding an abstract name")?;
        Reach::Address(server.local.clone())
    };
    // Each end tells who made the other.
    listen_as(cx, client.peer_cred.as_ref(), listener.as_fd(), 1)?;
    connect_as(cx, server.peer_cred.as_ref(), connecting.as_fd(), Some(&reach))?;
    let accepted = sock::accept(listener.as_fd()).step("accepting the connection")?;
    Ok(if swapped { (connecting, accepted) } else { (accepted, connecting) })
}

fn listen_as(
    cx: &mut ImportCx<'_>,
    who: Option<&rec::PeerCred>,
    fd: BorrowedFd<'_>,
    backlog: u32,
) -> Result<(), KindError> {
    let calls = |batch: &mut Batch, lent: &[i32]| {
        batch.call("listen", nr::LISTEN, &[lent[0].into(), backlog.into()]);
    };
    if in_process(cx, who, &[fd], calls, |_, _, _, ()| Ok(()))? {
        return Ok(());
    }
    sock::listen(fd, backlog as i32).step("listening")
}

fn connect_as(
    cx: &mut ImportCx<'_>,
    who: Option<&rec::PeerCred>,
    fd: BorrowedFd<'_>,
    to: Option<&Reach>,
) -> Result<(), KindError> {
    let to = to.ok_or_else(|| KindError::conflict("connecting", "the socket to connect to has no name"))?;
    let mut lend = vec![fd];
    if let Reach::File(file) = to {
        lend.push(file.as_fd());
    }
    let calls = |batch: &mut Batch, lent: &[i32]| {
        let address = match to {
            Reach::Address(address) => address.clone(),
            Reach::File(_) => sock::unix_address(format!("/proc/self/fd/{}", lent[1]).as_bytes()),
        };
        let data = batch.data(&address);
        batch.call("connect", nr::CONNECT, &[lent[0].into(), data.into(), address.len().into()]);
    };
    if in_process(cx, who, &lend, calls, |_, _, _, ()| Ok(()))? {
        return Ok(());
    }
    sock::connect(fd, &address_of(to)).step("connecting")
}

/// The address by which ghost reaches a socket.
fn address_of(reach: &Reach) -> Vec<u8> {
    match reach {
        Reach::Address(address) => address.clone(),
        Reach::File(file) => sock::unix_address(format!("/proc/self/fd/{}", file.as_raw_fd()).as_bytes()),
    }
}

/// Gives a socket its name.
fn bind(
    cx: &mut ImportCx<'_>,
    id: u32,
    socket: &rec::Socket,
    fd: &OwnedFd,
    later: &mut Later,
) -> Result<(), KindError> {
    if socket.local.is_empty() || sock::name(fd.as_fd()).is_ok_and(|n| n.len() > 2) {
        return Ok(());
    }
    let Some(name) = sock::unix_path(&socket.local) else {
        let text = || format!("binding the abstract name {}", String::from_utf8_lossy(&socket.local[3..]));
        match sock::bind(fd.as_fd(), &socket.local) {
            // An accepted socket shares the name of the one that listens.
            Err(Errno(98)) if socket.state() == SocketState::Connected => {}
            other => other
                .step(text())
                .map_err(|e| e.advise("end whoever has the name now: perhaps the original still runs"))?,
        }
        later.reach.insert(id, Reach::Address(socket.local.clone()));
        return Ok(());
    };
    let Some(bound) = &socket.bound else {
        match sock::bind_hidden(fd.as_fd(), &socket.local) {
            Ok(file) => drop(later.reach.insert(id, Reach::File(file))),
            Err(e) => {
                let text = format!("has no name any more: it takes CAP_SYS_ADMIN to bind one that no file has ({e})");
                cx.notes.push(note(0, "unix", String::from_utf8_lossy(name), text));
            }
        }
        return Ok(());
    };
    let at = path::mapped(cx, &bound.path);
    let text = || format!("binding {}", String::from_utf8_lossy(&at));
    let new = rustix::fs::lstat(at.as_slice()).is_err();
    remove_stale(&at).map_err(|e| e.advise("end whoever listens there: perhaps the original still runs"))?;
    let ticket = new.then(|| cx.names.intend(&at, Sort::Socket));
    if name.starts_with(b"/") {
        let address = if at == bound.path { socket.local.clone() } else { sock::unix_address(&at) };
        sock::bind(fd.as_fd(), &address).step(text())?;
    } else {
        let directory = at.strip_suffix(name).filter(|d| !d.is_empty()).unwrap_or(b"/");
        sock::bind_in(fd.as_fd(), &socket.local, directory).step(text())?;
    }
    let met = crate::failpoint::hit("import.bound");
    if let Some(ticket) = ticket {
        cx.names.made(ticket);
    }
    met?;
    later.reach.insert(id, Reach::Address(sock::unix_address(&at)));
    let owner = (Some(rustix::fs::Uid::from_raw(bound.uid)), Some(rustix::fs::Gid::from_raw(bound.gid)));
    // An unprivileged restorer owns it, as it owns the process.
    let _ = rustix::fs::chown(at.as_slice(), owner.0, owner.1);
    rustix::fs::chmod(at.as_slice(), rustix::fs::Mode::from_raw_mode(bound.mode & 0o7777)).step(text())
}

/// Removes the file of the old socket; one that somebody answers at is left alone.
fn remove_stale(at: &[u8]) -> Result<(), KindError> {
    let text = || format!("making room at {}", String::from_utf8_lossy(at));
    let Ok(stat) = rustix::fs::lstat(at) else { return Ok(()) };
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Socket {
        return Err(KindError::conflict(text(), "a file that is no socket has this name now"));
    }
    let in_use = [1, 2, 5].iter().any(|&kind| {
        let probe = sock::socket(AF_UNIX as i32, kind, 0);
        // A refused connection: nobody has it. The wrong type: somebody has.
        probe.is_ok_and(|p| {
            let _ = rustix::fs::fcntl_setfl(&p, rustix::fs::OFlags::NONBLOCK);
            !matches!(sock::connect(p.as_fd(), &sock::unix_address(at)), Err(Errno(111 | 13)))
        })
    });
    if in_use {
        return Err(KindError::conflict(text(), "another process has this socket now"));
    }
    rustix::fs::unlink(at).step(text())
}

/// Fills the queues, connects what is connected one way, and takes leave of peers that are gone.
pub fn fill(cx: &mut ImportCx<'_>, later: &Later) -> Result<(), KindError> {
    if !later.any {
        return Ok(());
    }
    let model = cx.model;
    for (file, socket) in all(model).filter(|(_, s)| s.family == AF_UNIX) {
        fill_one(cx, later, file, socket).map_err(|e| on(cx, file, e))?;
    }
    for (file, socket) in all(model).filter(|(_, s)| s.family == AF_UNIX) {
        complete(cx, later, file, socket).map_err(|e| on(cx, file, e))?;
    }
    Ok(())
}

/// Puts what lay in a socket back into it.
fn fill_one(cx: &ImportCx<'_>, later: &Later, file: &rec::File, socket: &rec::Socket) -> Result<(), KindError> {
    if socket.queue.is_empty() {
        return Ok(());
    }
    let late: Vec<_> = socket.options.iter().filter(|o| o.name == options::SO_PASSCRED).cloned().collect();
    options::import(cx.files.get(&file.id).ok_or_else(missing)?.as_fd(), &late);
    let peer = match later.far.get(&file.id) {
        Some(far) => Some(far),
        None if socket.state() == SocketState::Connected && model_mutual(cx, file.id, socket) => {
            Some(cx.files.get(&socket.peer_file_id).ok_or_else(missing)?)
        }
        None => None,
    };
    let to = if peer.is_none() { later.reach.get(&file.id).map(address_of).unwrap_or_default() } else { Vec::new() };
    for message in &socket.queue {
        let apart = if peer.is_none() { Some(sender(cx, &message.from)?) } else { None };
        let sender = peer.or(apart.as_ref()).ok_or_else(missing)?;
        let fds: Option<Vec<_>> = message.file_ids.iter().map(|id| cx.files.get(id).map(AsFd::as_fd)).collect();
        let fds = fds.ok_or_else(missing)?;
        let who = message.cred.as_ref().map(|c| Credentials { pid: cx.pid(c.pid), uid: c.uid, gid: c.gid });
        let exists = who.is_some_and(|w| {
            w.pid != 0
                && rustix::process::test_kill_process(rustix::process::Pid::from_raw(w.pid).expect("not 0")).is_ok()
        });
        let who = who.filter(|_| exists);
        for (data, flags) in urgent::parts(socket, message) {
            send(sender.as_fd(), data, &to, &fds, who, flags)?;
        }
    }
    Ok(())
}

fn missing() -> KindError {
    KindError::conflict("filling a socket", "the ghost names a description that it does not have")
}

fn model_mutual(cx: &ImportCx<'_>, id: u32, socket: &rec::Socket) -> bool {
    match cx.model.file(socket.peer_file_id).and_then(|f| f.object.as_ref()) {
        Some(rec::file::Object::Socket(peer)) => peer.peer_file_id == id,
        _ => false,
    }
}

/// A socket with this name to send from: that of the tree which has it, or one made for the purpose.
fn sender(cx: &ImportCx<'_>, from: &[u8]) -> Result<OwnedFd, KindError> {
    let known = all(cx.model).find(|(_, s)| s.r#type == DGRAM && !from.is_empty() && s.local == from);
    if let Some(fd) = known.and_then(|(f, _)| cx.files.get(&f.id)) {
        return fd.try_clone().step("keeping a socket");
    }
    let fd = sock::socket(AF_UNIX as i32, DGRAM as i32, 0).step("making a sender")?;
    if from.len() > 2 {
        match sock::unix_path(from) {
            Some(_) => drop(sock::bind_hidden(fd.as_fd(), from).step("naming a sender that is gone")?),
            None => sock::bind(fd.as_fd(), from).step("naming a sender that is gone")?,
        }
    }
    Ok(fd)
}

/// Sends without waiting; a send buffer that is too small for what is in flight is widened for the moment.
fn send(
    from: BorrowedFd<'_>,
    data: &[u8],
    to: &[u8],
    fds: &[BorrowedFd<'_>],
    who: Option<Credentials>,
    flags: i32,
) -> Result<(), KindError> {
    let before = sockopt::get_i32(from, SOCKET, SO_SNDBUF).step("reading SO_SNDBUF")?;
    let mut sent = 0;
    let mut widened = false;
    let done = loop {
        let fds = if sent == 0 { fds } else { &[] };
        match message::send(from, &data[sent..], to, fds, who, flags | DONTWAIT) {
            Ok(n) => {
                sent += n;
                if sent >= data.len() {
                    break Ok(());
                }
            }
            Err(Errno(11 | 90 | 105)) if !widened => {
                // EAGAIN, EMSGSIZE, ENOBUFS
                widened = true;
                let size = (data.len() as i32).saturating_mul(2).saturating_add(before).saturating_add(1 << 22);
                if let Err(e) = sockopt::set_i32(from, SOCKET, SO_SNDBUFFORCE, size) {
                    break Err(e);
                }
            }
            Err(e) => break Err(e),
        }
    };
    if widened {
        sockopt::set_i32(from, SOCKET, SO_SNDBUFFORCE, before / 2).step("putting SO_SNDBUF back")?;
    }
    done.step("putting what lay in the socket back")
}

/// What comes after the data: late options, one-way connections, shutdown halves, peers that are gone.
fn complete(cx: &mut ImportCx<'_>, later: &Later, file: &rec::File, socket: &rec::Socket) -> Result<(), KindError> {
    let files = std::mem::take(&mut cx.files);
    let done = match files.get(&file.id) {
        Some(own) => complete_with(cx, later, file, socket, own.as_fd()),
        None => Err(missing()),
    };
    cx.files = files;
    done
}

fn complete_with(
    cx: &mut ImportCx<'_>,
    later: &Later,
    file: &rec::File,
    socket: &rec::Socket,
    own: BorrowedFd<'_>,
) -> Result<(), KindError> {
    let one_way = socket.r#type == DGRAM
        && socket.state() == SocketState::Connected
        && !later.far.contains_key(&file.id)
        && !model_mutual(cx, file.id, socket);
    if one_way {
        let to = later.reach.get(&socket.peer_file_id).map_or_else(|| socket.peer.clone(), address_of);
        if let Err(e) = sock::connect(own, &to) {
            let name = String::from_utf8_lossy(socket.peer.get(2..).unwrap_or_default()).into_owned();
            cx.notes.push(note(0, "unix", name, format!("could not be connected to again ({e})")));
        }
    }
    if later.far.contains_key(&file.id) && socket.error != 0 {
        // A peer that closes (its last descriptor goes with `later`) with something unread is why this end is told of a
        // reset.
        message::send(own, b"x", &[], &[], None, DONTWAIT).step("making ready for the reset")?;
    }
    let how = match socket.shutdown {
        _ if later.far.contains_key(&file.id) => None, // its peer's end does that
        1 => Some(Shutdown::Read),
        2 => Some(Shutdown::Write),
        3 => Some(Shutdown::Both),
        _ => None,
    };
    if let Some(how) = how {
        rustix::net::shutdown(own, how)
            .or_else(|e| if e == rustix::io::Errno::NOTCONN { Ok(()) } else { Err(e) })
            .step("shutting a half down")?;
    }
    let late: Vec<_> = socket.options.iter().filter(|o| options::is_late(o)).cloned().collect();
    let failed = options::import(own, &late);
    if !failed.is_empty() {
        cx.notes.push(note(
            0,
            "unix",
            crate::kinds::fd::describe(cx.model, file),
            format!("could not be given {}", failed.join(", ")),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn descriptors_are_found_where_they_lie_in_a_stream() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(b"plain ").unwrap();
        message::send(a.as_fd(), b"with two", &[], &[a.as_fd(), b.as_fd()], None, 0).unwrap();
        a.write_all(b" plain").unwrap();
        for _ in 0..2 {
            let seen: Vec<(Vec<u8>, usize)> =
                queue(b.as_fd()).unwrap().into_iter().map(|m| (m.data, m.fds.len())).collect();
            assert_eq!(seen, [(b"plain ".to_vec(), 0), (b"with two".to_vec(), 2), (b" plain".to_vec(), 0)]);
        }
        assert_eq!(sockopt::get_i32(b.as_fd(), SOCKET, options::SO_PEEK_OFF), Ok(-1));
    }

    #[test]
    fn looking_leaves_the_error_of_a_reset() {
        let (a, mut b) = UnixStream::pair().unwrap();
        b.write_all(b"before").unwrap();
        (&a).write_all(b"never read").unwrap();
        drop(b);
        let seen = queue(a.as_fd()).unwrap();
        assert_eq!(seen.iter().map(|m| m.data.as_slice()).collect::<Vec<_>>(), [b"before"]);
        assert!(poll(a.as_fd()).contains(PollFlags::ERR));
        assert!(matches!(message::receive(a.as_fd(), 10, 2 | DONTWAIT), Ok(m) if m.data == b"before"));
        assert!(poll(a.as_fd()).contains(PollFlags::ERR), "the error is still to be told");
    }
}
