//! Sockets: unix sockets inside the tree with all that is in them; TCP and UDP sockets that are not connected to anybody.
//!
//! A socket has one open file description and can't be opened again, so that each has one record. Read: `sock_diag(7)` (one
//! dump for all; Linux 3.3), `getsockopt(2)`, `recvmsg(2)` with MSG_PEEK. Rebuilt: [`unix`], [`inet`]. What leads out of
//! the tree is [`external`](super::fd::external) or refused by name: tcp, udp, unix, netlink, packet, raw, icmp, vsock,
//! mptcp, multicast, filter.
//!
//! Lost: a classic or eBPF program that distributes a SO_REUSEPORT group (it can't be read).

pub mod inet;
pub(crate) mod marks;
mod md5;
pub mod options;
pub mod unix;
mod urgent;

use crate::error::{Context, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use crate::kinds::fd::class::Refusal;
use crate::view::{FdView, SocketView, TreeView};
use ghost_image::record as rec;
use ghost_sys::sock_diag::{InetSocket, SockDiag, UnixSocket};
use ghost_sys::{message, sock, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Status flags that F_SETFL changes.
const SETTABLE: u32 = OFlags::APPEND.bits() | OFlags::NONBLOCK.bits() | OFlags::DIRECT.bits() | OFlags::NOATIME.bits();
/// `SOL_SOCKET`
const SOCKET: i32 = 1;
const SO_TYPE: i32 = 3;
const SO_PEERCRED: i32 = 17;
const SO_PROTOCOL: i32 = 38;
const SO_DOMAIN: i32 = 39;

/// Socket families, types, protocols.
pub const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const STREAM: u32 = 1;
const DGRAM: u32 = 2;
const RAW: u32 = 3;

/// Family, type and protocol of a socket.
pub fn sort(socket: BorrowedFd<'_>) -> Result<(u32, u32, u32), KindError> {
    let get = |name| sockopt::get_i32(socket, SOCKET, name).map(|v| v as u32).step("asking for the sort of a socket");
    Ok((get(SO_DOMAIN)?, get(SO_TYPE)?, get(SO_PROTOCOL)?))
}

/// Whether sockets of this sort can travel at all.
pub(crate) fn travels((family, kind, protocol): (u32, u32, u32)) -> bool {
    match family {
        AF_UNIX => true,
        AF_INET | AF_INET6 => matches!((kind, protocol), (STREAM, 6) | (DGRAM, 17)),
        _ => false,
    }
}

/// What is known of the sockets of the network namespace; asked once for a view.
#[derive(Debug, Default)]
pub struct Facts {
    /// Unix sockets by inode.
    pub unix: HashMap<u64, UnixSocket>,
    /// Inodes of sockets in flight inside of the tree.
    pub flying: HashSet<u64>,
    /// What lies in those that descriptors fly in, by inode: looked at once, since empty messages cannot be seen a second time.
    pub(crate) looked: std::cell::RefCell<HashMap<u64, Vec<message::Message>>>,
    /// Who made the other ends of sockets, by what tells them apart.
    pub(crate) makers: std::cell::RefCell<HashMap<(u64, u64), Option<rec::PeerCred>>>,
    /// Inodes of those that have connected and wait to be accepted.
    pub pending: HashSet<u32>,
    /// UDP sockets by inode, asked for when there is one.
    pub(crate) udp: std::cell::OnceCell<HashMap<u32, InetSocket>>,
    /// TCP sockets that listen or are bound, asked for when one has keys.
    pub(crate) tcp: std::cell::OnceCell<HashMap<u32, InetSocket>>,
}

/// The facts, gathered when first asked for.
pub fn facts(view: &TreeView) -> &Facts {
    view.sockets.get_or_init(|| {
        let has_sockets = view.fds().any(|f| f.link.starts_with(b"socket:"));
        let mut facts = Facts::default();
        if has_sockets {
            // Without unix_diag nothing is found, and every unix socket is refused by name.
            let all = SockDiag::open().and_then(|d| d.unix()).unwrap_or_default();
            facts.pending = all.values().flat_map(|s| &s.waiting).copied().collect();
            facts.unix = all.into_iter().map(|(inode, s)| (u64::from(inode), s)).collect();
            facts.flying = unix::flying(view, facts.looked.get_mut());
        }
        facts
    })
}

/// What stands in the way of a socket.
pub fn check(view: &TreeView, fd: &FdView) -> Option<Refusal> {
    let Some((family, kind, protocol)) = fd.socket.as_ref().map(|s| s.sort) else {
        return Some(Refusal::new("socket", "does not say of which sort it is", "close it before the checkpoint"));
    };
    let close = "close it before the checkpoint";
    let refuse = |kind, why: &str| Some(Refusal::new(kind, why, close));
    // Whoever shares the description would go on using the old socket.
    let holders = crate::kinds::fd::external::outside(view).holders(&fd.link);
    if !holders.is_empty() {
        let who = crate::kinds::fd::outside::in_words(holders);
        return Some(Refusal::new(
            "outside",
            format!("is shared with {who}, outside of the tree"),
            "checkpoint a process above both",
        ));
    }
    let has_none = fd.told.unix.is_some_and(|u| !u.is_filtered);
    match if has_none { Ok(Vec::new()) } else { sockopt::filter(fd.ours.as_fd()) } {
        Ok(program) if program.is_empty() => {}
        Ok(_) | Err(ghost_sys::Errno(13 | 1)) => {
            return refuse("filter", "a filter program is attached, which is not carried yet");
        }
        Err(_) => {} // no such option for this sort
    }
    match (family, kind, protocol) {
        (AF_UNIX, ..) => unix::check(view, fd),
        (AF_INET | AF_INET6, STREAM, 6) => inet::check_tcp(fd).or_else(|| md5::check(facts(view), fd)),
        (AF_INET | AF_INET6, STREAM, 262) => refuse("mptcp", "a multipath TCP socket"),
        (AF_INET | AF_INET6, STREAM, 132) | (AF_INET | AF_INET6, 5, _) => refuse("sctp", "an SCTP socket"),
        (AF_INET | AF_INET6, DGRAM, 17) => inet::check_udp(fd),
        (AF_INET | AF_INET6, DGRAM, 136) => refuse("udplite", "a UDP-Lite socket"),
        (AF_INET | AF_INET6, DGRAM, 1 | 58) => refuse("icmp", "an ICMP (ping) socket"),
        (AF_INET | AF_INET6, RAW, _) => refuse("raw", "a raw IP socket"),
        (16, ..) => refuse("netlink", "a netlink socket"),
        (17, ..) => refuse("packet", "a packet socket"),
        (38, ..) => refuse("alg", "a socket of the kernel's cryptography"),
        (40, ..) => refuse("vsock", "a socket to a virtual machine or its host"),
        _ => Some(Refusal::new(
            "socket",
            format!("a socket of family {family}, type {kind}, protocol {protocol}"),
            close,
        )),
    }
}

/// What is written of a socket.
pub fn export(cx: &mut ExportCx<'_>, fd: &FdView) -> Result<rec::Socket, KindError> {
    let ours = fd.ours.as_fd();
    let Some(SocketView { sort, options }) = &fd.socket else {
        return Err(KindError::conflict("exporting a socket", "it does not say of which sort it is"));
    };
    let names = fd.told.unix.map(|u| u.names);
    let local = match names {
        Some((false, _)) => Vec::new(),
        _ => sock::name(ours).step("asking for its address")?,
    };
    let mut socket = rec::Socket {
        family: sort.0,
        r#type: sort.1,
        protocol: sort.2,
        peer: match names {
            Some((_, None)) => Vec::new(),
            // The family alone.
            Some((_, Some(false))) => (AF_UNIX as u16).to_ne_bytes().to_vec(),
            _ => sock::peer_name(ours).unwrap_or_default(),
        },
        inode: fd.stat.st_ino,
        uid: fd.stat.st_uid,
        gid: fd.stat.st_gid,
        options: options.clone(),
        ..rec::Socket::default()
    };
    if sort.0 == AF_UNIX {
        socket.local = if local.len() > 2 { local } else { Vec::new() };
        unix::export(cx, fd, &mut socket)?;
    } else {
        socket.local = local;
        inet::export(facts(cx.view), fd, &mut socket)?;
        md5::export(facts(cx.view), fd, &mut socket);
        if poll(ours).contains(PollFlags::ERR) {
            // Its number can only be asked for by taking it.
            let text =
                "an error of what it has sent (ICMP), which it had still to tell, is lost, as ICMP itself may be";
            cx.notes.push(crate::kinds::fd::note(0, "udp", crate::kinds::fd::subject(fd), text));
        }
    }
    Ok(socket)
}

/// Work of ghost that does not need the processes.
pub type Beside<'b> = &'b mut dyn FnMut(&mut ImportCx<'_>) -> Result<(), KindError>;

/// Sockets that were made for descriptions, until those take them.
#[derive(Default)]
pub struct Sockets {
    made: HashMap<u32, OwnedFd>,
    unix: unix::Later,
}

impl Sockets {
    /// Makes every socket of the ghost, without what lies in it.
    ///
    /// `beside` is what can be done while a process of the tree makes some, perhaps several times, perhaps never.
    pub fn import(cx: &mut ImportCx<'_>, beside: Beside<'_>) -> Result<Self, KindError> {
        let mut sockets = Self::default();
        sockets.unix = unix::import(cx, &mut sockets.made, beside)?;
        let inet: Vec<_> = all(cx.model).filter(|(_, s)| s.family != AF_UNIX).collect();
        let mut ports: HashMap<_, u32> = HashMap::new();
        for (_, socket) in &inet {
            *ports.entry(inet::port_of(socket)).or_default() += 1;
        }
        for (file, socket) in &inet {
            let port = inet::port_of(socket);
            let shared = port.1 != 0 && ports[&port] > 1;
            let fd = inet::import(socket, shared).map_err(|e| on(cx, file, e))?;
            finish_one(cx, file, socket, fd.as_fd())?;
            sockets.made.insert(file.id, fd);
        }
        for (file, socket) in &inet {
            inet::listen(socket, sockets.made[&file.id].as_fd()).map_err(|e| on(cx, file, e))?;
        }
        Ok(sockets)
    }

    /// The socket of this description.
    pub fn take(&mut self, file: &rec::File) -> Result<OwnedFd, KindError> {
        let fd = self.made.remove(&file.id).ok_or_else(|| KindError::conflict("taking a socket", "it was not made"))?;
        // A fresh socket has none of them.
        if file.flags & SETTABLE != 0 {
            crate::kinds::fd::regular::set_flags(fd.as_fd(), file.flags)?;
        }
        Ok(fd)
    }

    /// Fills the queues, once every description that may lie in one is open.
    pub fn fill(self, cx: &mut ImportCx<'_>) -> Result<(), KindError> {
        unix::fill(cx, &self.unix)
    }
}

/// All sockets of a ghost with their descriptions.
pub(crate) fn all(model: &crate::model::Model) -> impl Iterator<Item = (&rec::File, &rec::Socket)> {
    model.files.iter().filter_map(|f| match &f.object {
        Some(rec::file::Object::Socket(s)) => Some((f, s)),
        _ => None,
    })
}

/// Says which socket an error was about.
fn on(cx: &ImportCx<'_>, file: &rec::File, e: KindError) -> KindError {
    let pid = e.pid;
    if e.subject.is_empty() { e.on(pid, crate::kinds::fd::describe(cx.model, file)) } else { e }
}

/// Options and owner, which any socket has.
fn finish_one(
    cx: &mut ImportCx<'_>,
    file: &rec::File,
    socket: &rec::Socket,
    fd: BorrowedFd<'_>,
) -> Result<(), KindError> {
    let now: Vec<_> =
        socket.options.iter().filter(|o| !options::is_late(o) || socket.family != AF_UNIX).cloned().collect();
    let failed = options::import(fd, &now);
    if !failed.is_empty() {
        let text = format!("could not be given {}", failed.join(", "));
        cx.notes.push(crate::kinds::fd::note(0, "socket", crate::kinds::fd::describe(cx.model, file), text));
    }
    let stat = rustix::fs::fstat(fd).step("looking at the socket")?;
    if (stat.st_uid, stat.st_gid) != (socket.uid, socket.gid) {
        // Tells a firewall whose it is; an unprivileged restorer keeps it.
        let _ = rustix::fs::fchown(
            fd,
            Some(rustix::fs::Uid::from_raw(socket.uid)),
            Some(rustix::fs::Gid::from_raw(socket.gid)),
        );
    }
    Ok(())
}

/// What `poll(2)` says of a socket now.
fn poll(fd: BorrowedFd<'_>) -> PollFlags {
    let mut polled = [PollFd::new(&fd, PollFlags::IN | PollFlags::OUT | PollFlags::PRI | PollFlags::RDHUP)];
    match rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => polled[0].revents(),
        Err(_) => PollFlags::empty(),
    }
}

/// Who made the other end, as the kernel tells this one (SO_PEERCRED).
fn peer_cred(fd: BorrowedFd<'_>) -> Option<rec::PeerCred> {
    let bytes = sockopt::get(fd, SOCKET, SO_PEERCRED, 12).ok()?;
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (pid, uid, gid) = (word(0)? as i32, word(4)?, word(8)?);
    (uid != u32::MAX).then_some(rec::PeerCred { pid, uid, gid, groups: Vec::new() })
}
