//! TCP sockets that listen, are bound or are fresh; UDP sockets, bound, connected or fresh, with nothing in them.
//!
//! Read: TCP_INFO (state and backlog; Linux 2.4), SO_MEMINFO (what lies in the queue; 4.12), `getsockname(2)`, inet_diag
//! (shutdown halves). Rebuilt: `bind(2)`, `listen(2)`, `connect(2)` of UDP, which sends nothing.
//!
//! Refused: connections, connections that wait to be accepted, datagrams that wait to be read, multicast memberships. Noted: an error
//! that a UDP socket has to tell: SO_ERROR takes it, poll(2) shows that there is one. With IP_RECVERR it has a message too, which counts as a
//! datagram that waits, and so has whatever else is in the queue of errors.

use super::options;
use crate::error::{Context, KindError};
use crate::kinds::fd::class::Refusal;
use crate::view::FdView;
use ghost_image::record as rec;
use ghost_sys::sock_diag::SockDiag;
use ghost_sys::{sock, sockopt};
use rec::socket::SocketState;
use rustix::event::PollFlags;
use rustix::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const IPPROTO_TCP: i32 = 6;
const IPPROTO_UDP: i32 = 17;
const TCP_INFO: i32 = 11;
const TCP_REPAIR: i32 = 19;
const TCP_AO_INFO: i32 = 40;
pub(super) const SO_MEMINFO: i32 = 55;
const LISTEN: u8 = 10;
const CLOSE: u8 = 7;
const STATES: [&str; 12] = [
    "new",
    "established",
    "still connecting",
    "half accepted",
    "closing",
    "closing",
    "waiting for its end",
    "closed",
    "closed by the peer",
    "closing",
    "listening",
    "closing",
];

/// State, connections that wait, backlog.
fn tcp_info(fd: BorrowedFd<'_>) -> Option<(u8, u32, u32)> {
    let info = sockopt::get(fd, IPPROTO_TCP, TCP_INFO, 104).ok()?;
    let word = |at: usize| Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?));
    Some((*info.first()?, word(24)?, word(28)?))
}

/// Whether a closed socket was connected once, and not by a call that was told of its failure: such a one reads as ended,
/// and a fresh one does not. By the segments that it has sent and received (Linux 4.2).
fn was_connected(fd: BorrowedFd<'_>) -> bool {
    const SEGMENTS: std::ops::Range<usize> = 136..144;
    let info = sockopt::get(fd, IPPROTO_TCP, TCP_INFO, SEGMENTS.end).unwrap_or_default();
    info.get(SEGMENTS).is_some_and(|n| n.iter().any(|b| *b != 0))
}

/// Whether it is a connection to somebody.
pub fn is_connection(fd: &FdView) -> bool {
    fd.socket.as_ref().is_some_and(|s| matches!(s.sort, (2 | 10, 1, _)))
        && tcp_info(fd.ours.as_fd()).is_some_and(|(state, ..)| state != LISTEN && state != CLOSE)
}

/// Refuses connections.
pub fn check_tcp(fd: &FdView) -> Option<Refusal> {
    let Some((state, waiting, _)) = tcp_info(fd.ours.as_fd()) else {
        return Some(Refusal::new("tcp", "its state can't be read", "close it before the checkpoint"));
    };
    // ENOENT: no keys; or the kernel has no such option.
    if sockopt::get(fd.ours.as_fd(), IPPROTO_TCP, TCP_AO_INFO, 64).is_ok() {
        return Some(Refusal::new("tcp", "it has keys of TCP-AO, which are not carried", "remove them first"));
    }
    if sockopt::get_i32(fd.ours.as_fd(), IPPROTO_TCP, TCP_REPAIR).is_ok_and(|on| on != 0) {
        return Some(Refusal::new("tcp", "it is under repair (TCP_REPAIR)", "let the program switch that off first"));
    }
    let address = |a: Option<Vec<u8>>| a.map_or_else(|| "?".to_owned(), |a| in_words(&a));
    match state {
        LISTEN if waiting > 0 => Some(Refusal::passing(
            "tcp",
            format!("{waiting} connections wait to be accepted"),
            "the program has accepted them",
        )),
        LISTEN => None,
        CLOSE if !super::poll(fd.ours.as_fd()).contains(PollFlags::ERR) && !was_connected(fd.ours.as_fd()) => None,
        _ => {
            let here = address(sock::name(fd.ours.as_fd()).ok());
            let there = address(sock::peer_name(fd.ours.as_fd()).ok());
            let state = STATES.get(usize::from(state)).copied().unwrap_or("in a state without a name");
            Some(Refusal::new(
                "tcp",
                format!("the connection {here} to {there} is {state}"),
                "close it before the checkpoint; connections are not carried yet",
            ))
        }
    }
}

/// Refuses datagrams in flight and memberships.
pub fn check_udp(fd: &FdView) -> Option<Refusal> {
    let ours = fd.ours.as_fd();
    let memory = sockopt::get(ours, super::SOCKET, SO_MEMINFO, 36).unwrap_or_default();
    let queued = memory.get(..4).is_none_or(|m| m != [0; 4]);
    if queued || super::poll(ours).contains(PollFlags::IN) && !super::poll(ours).contains(PollFlags::RDHUP) {
        return Some(Refusal::passing(
            "udp",
            "datagrams or errors wait to be read, which can't be put back with their senders",
            "the program has read them",
        ));
    }
    if sockopt::outgoing_bytes(ours).is_ok_and(|n| n > 0) {
        return Some(Refusal::new("udp", "a corked datagram waits to be sent", "let the program uncork it first"));
    }
    let group = memberships(ours).map(|group| format!("the multicast group {group}"));
    // No other option takes memory for itself; of an anycast group, say, nobody can be asked.
    let group = group.or_else(|| super::md5::has_option_memory(fd).then(|| "a group that nothing names".to_owned()));
    group.map(|group| {
        let why = format!("is a member of {group}, which is not carried yet");
        Refusal::new("multicast", why, "let the program leave the group first")
    })
}

/// A multicast group that the socket has joined: the host's groups are asked for one by one, since a socket does not list
/// its own.
fn memberships(fd: BorrowedFd<'_>) -> Option<std::net::IpAddr> {
    let v4 = std::fs::read_to_string("/proc/self/net/igmp").unwrap_or_default();
    let mut interface = 0;
    for line in v4.lines().skip(1) {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        if line.starts_with(char::is_numeric) {
            interface = first.parse().unwrap_or(0);
        } else if let Ok(group) = u32::from_str_radix(first, 16) {
            let group = std::net::Ipv4Addr::from(group.to_ne_bytes());
            if sock::is_member(fd, interface, group.into()) {
                return Some(group.into());
            }
        }
    }
    let v6 = std::fs::read_to_string("/proc/self/net/igmp6").unwrap_or_default();
    v6.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let interface = words.next()?.parse().ok()?;
        let group = u128::from_str_radix(words.nth(1)?, 16).ok()?;
        let group = std::net::Ipv6Addr::from(group);
        sock::is_member(fd, interface, group.into()).then_some(group.into())
    })
}

/// Fills in state, backlog and shutdown halves.
pub fn export(facts: &super::Facts, fd: &FdView, socket: &mut rec::Socket) -> Result<(), KindError> {
    let ours = fd.ours.as_fd();
    let bound = port(&socket.local) != 0;
    let tcp = if socket.protocol == IPPROTO_TCP as u32 { tcp_info(ours) } else { None };
    let state = match tcp {
        Some((LISTEN, _, backlog)) => {
            socket.backlog = backlog;
            SocketState::Listening
        }
        _ if !socket.peer.is_empty() => SocketState::Connected,
        _ if bound => SocketState::Bound,
        _ => SocketState::Closed,
    };
    socket.state = state.into();
    socket.foreign_address = bound && is_foreign(socket);
    // Of a socket that is in no table since it is not bound, only both halves of a closed TCP socket show.
    let ended = super::poll(ours).contains(PollFlags::RDHUP);
    socket.shutdown = if ended { 3 } else { 0 };
    if socket.protocol == IPPROTO_UDP as u32 {
        let dump = || SockDiag::open().and_then(|d| d.inet_by_inode(IPPROTO_UDP)).unwrap_or_default();
        if let Some(s) = facts.udp.get_or_init(dump).get(&(fd.stat.st_ino as u32)) {
            socket.shutdown = s.shutdown.into();
        }
    }
    Ok(())
}

fn port(address: &[u8]) -> u16 {
    address.get(2..4).map_or(0, |p| u16::from_be_bytes([p[0], p[1]]))
}

/// Protocol and port of a socket: if others have the same, each must allow them while it is bound.
pub fn port_of(socket: &rec::Socket) -> (u32, u16) {
    (socket.protocol, port(&socket.local))
}

/// Binds it; to an address that the host did not have either when it was bound, as IP_FREEBIND allows.
fn bind(fd: BorrowedFd<'_>, socket: &rec::Socket) -> ghost_sys::Result<()> {
    let (level, name) =
        if socket.family == super::AF_INET6 { (SOL_IPV6, IPV6_FREEBIND) } else { (SOL_IP, IP_FREEBIND) };
    let before = if socket.foreign_address { sockopt::get_i32(fd, level, name).ok() } else { None };
    if before.is_some() {
        sockopt::set_i32(fd, level, name, 1)?;
    }
    let bound = sock::bind(fd, &socket.local);
    if let Some(before) = before {
        sockopt::set_i32(fd, level, name, before)?;
    }
    bound
}

/// Whether the host does not have the address of a socket.
fn is_foreign(socket: &rec::Socket) -> bool {
    let mut address = socket.local.clone();
    let Some(port) = address.get_mut(2..4) else { return false };
    port.fill(0);
    let probe = sock::socket(socket.family as i32, libc::SOCK_DGRAM, 0);
    probe.is_ok_and(|p| sock::bind(p.as_fd(), &address) == Err(ghost_sys::Errno(libc::EADDRNOTAVAIL)))
}

/// Lets it listen, and takes back what was allowed for binding. Every socket of the ghost is bound by now.
pub fn listen(socket: &rec::Socket, fd: BorrowedFd<'_>) -> Result<(), KindError> {
    if socket.state() == SocketState::Listening {
        sock::listen(fd, socket.backlog as i32)
            .step(format!("listening at {}", in_words(&socket.local)))
            .map_err(|e| e.advise("end whoever has the address now (ss -lnp shows it)"))?;
    }
    options::reuse_again(fd, &socket.options)
}

/// Makes it, with its options and address; `reuse`: another socket of the ghost has the same port.
pub fn import(socket: &rec::Socket, reuse: bool) -> Result<OwnedFd, KindError> {
    let name = || in_words(&socket.local);
    let fd =
        sock::socket(socket.family as i32, socket.r#type as i32, socket.protocol as i32).step("making a socket")?;
    // Before the address: they say how it may be bound. What fails is told when all are set again, after it.
    options::import(fd.as_fd(), &socket.options);
    super::md5::import(fd.as_fd(), socket)?;
    let state = socket.state();
    let advice = "end whoever has the address now (ss -lnp shows it), or restart where the address exists";
    match state {
        SocketState::Connected => connect(fd.as_fd(), socket).map_err(|e| e.advise(advice))?,
        SocketState::Closed => {}
        SocketState::Bound | SocketState::Listening => {
            if reuse || socket.protocol == IPPROTO_TCP as u32 {
                options::reuse_for_bind(fd.as_fd())?;
            }
            bind(fd.as_fd(), socket).step(format!("binding to {}", name())).map_err(|e| e.advise(advice))?;
        }
    }
    let how = match socket.shutdown {
        1 => Some(Shutdown::Read),
        2 => Some(Shutdown::Write),
        3 => Some(Shutdown::Both),
        _ => None,
    };
    if let Some(how) = how {
        // Of a socket without a connection the kernel does it and says ENOTCONN.
        let _ = rustix::net::shutdown(&fd, how);
    }
    Ok(fd)
}

/// `IP_LOCAL_PORT_RANGE` (Linux 6.3)
const PORT_RANGE: i32 = 51;
const SOL_IP: i32 = 0;
const SOL_IPV6: i32 = 41;
const IP_FREEBIND: i32 = 15;
const IPV6_FREEBIND: i32 = 78;

/// Connects a UDP socket from the port that it had.
///
/// A port that connecting had chosen is given up when it is disconnected, one that was bound is not, and nothing tells
/// which it is: those of the range from which the kernel chooses are taken for chosen.
fn connect(fd: BorrowedFd<'_>, socket: &rec::Socket) -> Result<(), KindError> {
    let port = port(&socket.local);
    let name = in_words(&socket.local);
    let range = u32::from(port) | u32::from(port) << 16;
    let chosen = is_ephemeral(port) && sockopt::set(fd, SOL_IP, PORT_RANGE, &range.to_ne_bytes()).is_ok();
    if !chosen {
        sock::bind(fd, &socket.local).step(format!("binding to {name}"))?;
    }
    sock::connect(fd, &socket.peer).step(format!("connecting {name} to {}", in_words(&socket.peer)))?;
    if chosen {
        let before = socket.options.iter().find(|o| (o.level, o.name) == (SOL_IP, PORT_RANGE));
        let before = before.map_or_else(|| vec![0; 4], |o| o.value.clone());
        sockopt::set(fd, SOL_IP, PORT_RANGE, &before).step("putting its range of ports back")?;
    }
    Ok(())
}

fn is_ephemeral(port: u16) -> bool {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = text.split_ascii_whitespace().filter_map(|w| w.parse::<u16>().ok());
    matches!((ends.next(), ends.next()), (Some(low), Some(high)) if (low..=high).contains(&port))
}

/// An address in words.
pub fn in_words(address: &[u8]) -> String {
    let port = port(address);
    match (address.first().copied().unwrap_or(0), address.get(4..8), address.get(8..24)) {
        (2, Some(ip), _) => format!("{}.{}.{}.{}:{port}", ip[0], ip[1], ip[2], ip[3]),
        (10, _, Some(ip)) => {
            let ip: [u8; 16] = ip.try_into().expect("sixteen bytes");
            format!("[{}]:{port}", std::net::Ipv6Addr::from(ip))
        }
        _ => "nowhere".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::fd::testing::{exporting, view_of};
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

    fn again(fd: BorrowedFd<'_>) -> rec::Socket {
        exporting(|cx| super::super::export(cx, &view_of(fd))).unwrap()
    }
    fn same(a: &rec::Socket, b: &rec::Socket) {
        assert_eq!(&rec::Socket { inode: a.inode, ..b.clone() }, a);
    }

    #[test]
    fn a_listener_comes_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(check_tcp(&view_of(listener.as_fd())), None);
        let was = again(listener.as_fd());
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        assert_eq!(check_tcp(&view_of(listener.as_fd())).unwrap().kind, "tcp", "one waits");
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(check_tcp(&view_of(accepted.as_fd())).unwrap().kind, "tcp");
        drop((accepted, client, listener));
        let new = import(&was, false).unwrap();
        listen(&was, new.as_fd()).unwrap();
        same(&was, &again(new.as_fd()));
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn an_error_that_is_to_be_told_is_noted_and_left() {
        let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let one = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        one.connect(nobody).unwrap();
        one.send(b"x").unwrap();
        for _ in 0..2 {
            assert_eq!(check_udp(&view_of(one.as_fd())), None);
            let notes = exporting(|cx| {
                super::super::export(cx, &view_of(one.as_fd())).unwrap();
                cx.notes.clone()
            });
            assert!(notes.len() == 1 && notes[0].kind == "udp" && notes[0].text.contains("error"), "{notes:?}");
        }
        assert_eq!(one.send(b"x").unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn udp_comes_back_connected_and_can_be_told_from_waiting() {
        let one = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let two = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        one.connect(two.local_addr().unwrap()).unwrap();
        assert_eq!(check_udp(&view_of(two.as_fd())), None);
        one.send(b"x").unwrap();
        assert_eq!(check_udp(&view_of(two.as_fd())).unwrap().kind, "udp");
        let was = again(one.as_fd());
        drop(one);
        let new = import(&was, false).unwrap();
        same(&was, &again(new.as_fd()));
        two.join_multicast_v4(&Ipv4Addr::new(239, 1, 2, 3), &Ipv4Addr::LOCALHOST).unwrap();
        two.recv(&mut [0; 10]).unwrap();
        assert_eq!(check_udp(&view_of(two.as_fd())).unwrap().kind, "multicast");
    }
}
