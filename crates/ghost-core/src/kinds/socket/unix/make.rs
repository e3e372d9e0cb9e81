//! Unix sockets made again, as yet without what lay in them.

use super::super::{AF_UNIX, Beside, all, finish_one, on};
use super::DGRAM;
use crate::error::{Context, KindError};
use crate::import::ImportCx;
use crate::kinds::fd::content::parent;
use crate::kinds::fd::{note, path};
use crate::names::Sort;
use ghost_image::record as rec;
use ghost_sys::remote::{Arg, Batch, Outcome};
use ghost_sys::{Errno, nr, sock};
use rec::socket::SocketState;
use rustix::fs::OFlags;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// How to reach a bound socket.
pub(super) enum Reach {
    Address(Vec<u8>),
    File(OwnedFd),
}

/// What is done once every description is open.
#[derive(Default)]
pub struct Later {
    /// The far ends of sockets whose peer has closed, by the id of the near one.
    pub(super) far: HashMap<u32, OwnedFd>,
    pub(super) reach: HashMap<u32, Reach>,
    pub(super) any: bool,
}

#[allow(clippy::implicit_hasher)] // one caller
/// Makes every unix socket, without what lies in it.
pub fn import(cx: &mut ImportCx<'_>, made: &mut HashMap<u32, OwnedFd>, beside: Beside<'_>) -> Result<Later, KindError> {
    let model = cx.model;
    let sockets: HashMap<u32, (&rec::File, &rec::Socket)> =
        all(model).filter(|(_, s)| s.family == AF_UNIX).map(|(f, s)| (f.id, (f, s))).collect();
    let mut order: Vec<u32> = sockets.keys().copied().collect();
    order.sort_unstable();
    let mut later = Later { any: !order.is_empty(), ..Later::default() };
    let listening: HashSet<&[u8]> = sockets
        .values()
        .filter(|(_, s)| s.state() == SocketState::Listening && is_abstract(&s.local))
        .map(|(_, s)| s.local.as_slice())
        .collect();
    // It was accepted: a name that is not a file's has one owner, who listens.
    let accepted = |s: &rec::Socket| s.r#type != DGRAM && listening.contains(s.local.as_slice());
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
                if by_name(socket, peer) || accepted(socket) != accepted(peer) {
                    let is_client =
                        if accepted(socket) == accepted(peer) { socket.local.is_empty() } else { accepted(peer) };
                    let (server, client) = if is_client { (peer, socket) } else { (socket, peer) };
                    let ends = connection(cx, server, client).map_err(|e| on(cx, file, e))?;
                    let (a, b) = if is_client { (ends.1, ends.0) } else { ends };
                    made.insert(id, a);
                    made.insert(other.id, b);
                } else {
                    paired.extend([id, other.id]);
                    plain_pairs.push((id, Some(other.id), socket));
                }
            }
            _ if connected && socket.peer_closed && (accepted(socket) || is_named_client(socket)) => {
                let gone = rec::Socket {
                    peer_cred: socket.peer_cred.clone(),
                    local: socket.peer.clone(),
                    r#type: socket.r#type,
                    ..rec::Socket::default()
                };
                let ends = if accepted(socket) {
                    connection(cx, socket, &gone).and_then(|(server, client)| {
                        let named = match gone.local.len() {
                            ..=2 => Ok(()),
                            _ if is_abstract(&gone.local) => sock::bind(client.as_fd(), &gone.local),
                            _ => sock::bind_hidden(client.as_fd(), &gone.local).map(drop),
                        };
                        named.step("binding a name apart").map(|()| (server, client))
                    })
                } else {
                    connection(cx, &gone, socket).map(|(server, client)| (client, server))
                };
                match ends {
                    Ok((near, far)) => {
                        made.insert(id, near);
                        later.far.insert(id, far);
                    }
                    Err(e) => {
                        let text = format!("no longer knows the name of the other end, which is closed ({e})");
                        cx.notes.push(note(0, "unix", crate::kinds::fd::describe(cx.model, file), text));
                        plain_pairs.push((id, None, socket));
                    }
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
    make_pairs(cx, &plain_pairs, made, &mut later, beside)?;
    for &id in &order {
        let (file, socket) = sockets[&id];
        let Some(fd) = made.get(&id) else { continue };
        finish_one(cx, file, socket, fd.as_fd())?;
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
    beside: Option<Beside<'_>>,
    collect: impl FnOnce(&mut ImportCx<'_>, usize, &Outcome, T) -> Result<(), KindError>,
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
    let outcome = match beside {
        Some(beside) => cx.run_beside(index, &batch, beside)?,
        None => cx.run(index, &batch)?,
    };
    collect(cx, index, &outcome, asked)?;
    Ok(true)
}

/// Makes pairs, all those of one maker in one batch.
fn make_pairs(
    cx: &mut ImportCx<'_>,
    pairs: &[(u32, Option<u32>, &rec::Socket)],
    made: &mut HashMap<u32, OwnedFd>,
    later: &mut Later,
    beside: Beside<'_>,
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
                Some(&mut *beside),
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

/// Whether it was connected to a name, and has none itself.
fn is_named_client(socket: &rec::Socket) -> bool {
    socket.r#type != DGRAM && socket.local.is_empty() && socket.peer.len() > 2
}

/// Whether a name is not that of a file.
fn is_abstract(address: &[u8]) -> bool {
    address.len() > 2 && address[2] == 0
}

/// Makes a connection as it was made: who has the name was accepted by one that listened under it. Gives the end of the server first.
fn connection(
    cx: &mut ImportCx<'_>,
    server: &rec::Socket,
    client: &rec::Socket,
) -> Result<(OwnedFd, OwnedFd), KindError> {
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
    Ok((accepted, connecting))
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
    if in_process(cx, who, &[fd], calls, None, |_, _, _, ()| Ok(()))? {
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
    if in_process(cx, who, &lend, calls, None, |_, _, _, ()| Ok(()))? {
        return Ok(());
    }
    sock::connect(fd, &address_of(to)).step("connecting")
}

/// The address by which ghost reaches a socket.
pub(super) fn address_of(reach: &Reach) -> Vec<u8> {
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
        let accepted = socket.r#type != DGRAM && socket.state() == SocketState::Connected;
        match past_circles(|| sock::bind(fd.as_fd(), &socket.local), |r| !accepted && *r == Err(Errno(98))) {
            // An accepted socket shares the name of one that listens, which is elsewhere.
            Err(Errno(98)) if accepted => {
                let text = "has no name any more: it was accepted by one that listens outside of the tree";
                cx.notes.push(note(0, "unix", String::from_utf8_lossy(&socket.local[3..]), text));
                return Ok(());
            }
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
    if is_moved(&bound.path, name) && at == bound.path {
        bind_moved(cx, socket, name, &at, fd)?;
    } else if name.starts_with(b"/") {
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
    let reach = match sock::unix_address(&at) {
        address if address.len() <= sock::UNIX_ADDRESS_MAX => Reach::Address(address),
        _ => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            Reach::File(rustix::fs::open(at.as_slice(), flags, rustix::fs::Mode::empty()).step(text())?)
        }
    };
    later.reach.insert(id, reach);
    let owner = (Some(rustix::fs::Uid::from_raw(bound.uid)), Some(rustix::fs::Gid::from_raw(bound.gid)));
    // An unprivileged restorer owns it, as it owns the process.
    let _ = rustix::fs::chown(at.as_slice(), owner.0, owner.1);
    rustix::fs::chmod(at.as_slice(), rustix::fs::Mode::from_raw_mode(bound.mode & 0o7777)).step(text())
}

/// Tries for a moment what a name in use stands in the way of.
///
/// Sockets that lie in each other's queues outlive their program until the kernel collects them, which it begins to do
/// when some other unix socket is closed.
fn past_circles<T>(mut attempt: impl FnMut() -> T, in_the_way: impl Fn(&T) -> bool) -> T {
    let mut result = attempt();
    for _ in 0..25 {
        if !in_the_way(&result) {
            break;
        }
        drop(sock::socket(AF_UNIX as i32, DGRAM as i32, 0));
        std::thread::sleep(std::time::Duration::from_millis(10));
        result = attempt();
    }
    result
}

/// Whether the file of a name has another one by now, by rename(2) or link(2).
fn is_moved(path: &[u8], name: &[u8]) -> bool {
    if name.starts_with(b"/") { path != name } else { !path.ends_with(name) }
}

/// Binds it to the name of then, which its file has for the moment only; where that cannot be, to the one that its file has.
fn bind_moved(
    cx: &mut ImportCx<'_>,
    socket: &rec::Socket,
    name: &[u8],
    at: &[u8],
    fd: &OwnedFd,
) -> Result<(), KindError> {
    let directory = parent(at);
    let absolute = name.starts_with(b"/");
    let old = if absolute { name.to_vec() } else { [directory, b"/", name].concat() };
    let text = || format!("binding {}", String::from_utf8_lossy(&old));
    if rustix::fs::lstat(old.as_slice()).is_ok() || (!absolute && name.contains(&b'/')) {
        let words = "is told another name of itself: that of its file now";
        cx.notes.push(note(0, "unix", String::from_utf8_lossy(name), words));
        return sock::bind(fd.as_fd(), &sock::unix_address(at)).step(text());
    }
    let ticket = cx.names.intend(&old, Sort::Socket);
    let bound = if absolute {
        sock::bind(fd.as_fd(), &socket.local)
    } else {
        sock::bind_in(fd.as_fd(), &socket.local, directory)
    };
    if let Err(e) = bound {
        cx.names.gone(ticket);
        return Err(KindError::new(text(), e));
    }
    cx.names.made(ticket);
    rustix::fs::rename(old.as_slice(), at).step("giving the file of a socket its name")?;
    cx.names.gone(ticket);
    Ok(())
}

/// Removes the file of the old socket; one that somebody answers at is left alone.
fn remove_stale(at: &[u8]) -> Result<(), KindError> {
    let text = || format!("making room at {}", String::from_utf8_lossy(at));
    let Ok(stat) = rustix::fs::lstat(at) else { return Ok(()) };
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Socket {
        return Err(KindError::conflict(text(), "a file that is no socket has this name now"));
    }
    // By its inode: the path of a relative name may be longer than an address.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let reach = rustix::fs::open(at, flags, rustix::fs::Mode::empty()).step(text()).map(Reach::File)?;
    let in_use = || {
        [1, 2, 5].iter().any(|&kind| {
            let probe = sock::socket(AF_UNIX as i32, kind, 0);
            // A refused connection: nobody has it. The wrong type: somebody has.
            probe.is_ok_and(|p| {
                let _ = rustix::fs::fcntl_setfl(&p, OFlags::NONBLOCK);
                !matches!(sock::connect(p.as_fd(), &address_of(&reach)), Err(Errno(111 | 13)))
            })
        })
    };
    if past_circles(in_use, |used| *used) {
        return Err(KindError::conflict(text(), "another process has this socket now"));
    }
    rustix::fs::unlink(at).step(text())
}
