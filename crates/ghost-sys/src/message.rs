//! What lies in a socket's queue, looked at without taking it: `recvmsg(2)` with MSG_PEEK and `SO_PEEK_OFF` (Linux 3.4).
//!
//! Descriptors in flight (`SCM_RIGHTS`) come along: peeking makes new descriptors of ours for them and leaves the message
//! as it was. Credentials come only where `SO_PASSCRED` is set on the socket. `sendmsg(2)` puts all of it back.
//!
//! `SO_PEEK_OFF` belongs to the socket, so that a program of which we hold the socket would see it moved if it peeks
//! itself; [`queue`] puts back what it found, on every path. It is known to unix sockets, UDP and, since Linux 6.9, TCP.

#![allow(unsafe_code)]

use crate::sockopt::{get_i32, set_i32};
use crate::{Errno, Result, errno::cvt};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Length of `struct cmsghdr`, after which the data follow at once on 64-bit.
const HEAD: usize = size_of::<libc::cmsghdr>();
/// Room for a full SCM_RIGHTS, credentials and what else the socket was told to report.
const CONTROL: usize = 4096;
/// Room for `struct sockaddr_storage`.
const NAME: usize = 128;

/// Who sent a message (`struct ucred`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Credentials {
    /// Process, in our pid namespace.
    pub pid: i32,
    /// User, in our user namespace.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// One message, or one stretch of a stream that has the same sender and descriptors.
#[derive(Debug, Default)]
pub struct Message {
    /// Its bytes.
    pub data: Vec<u8>,
    /// Who it is from, as `struct sockaddr`; empty when unnamed.
    pub from: Vec<u8>,
    /// Descriptors that travel with it, as new ones of ours, in order.
    pub fds: Vec<OwnedFd>,
    /// Its sender, where SO_PASSCRED is set.
    pub credentials: Option<Credentials>,
    /// `MSG_*` flags of the answer: MSG_EOR, MSG_TRUNC, MSG_CTRUNC, MSG_OOB.
    pub flags: i32,
    /// All other control messages: `(level, type, bytes)`.
    pub others: Vec<(i32, i32, Vec<u8>)>,
}

/// Receives one message; `flags` such as MSG_PEEK and MSG_DONTWAIT, `room` the most bytes that are taken.
///
/// `EMSGSIZE` when the control data did not fit or our own RLIMIT_NOFILE cut descriptors off: nothing is lost in silence.
pub fn receive(socket: BorrowedFd<'_>, room: usize, flags: i32) -> Result<Message> {
    // Fresh memory for the longest message, each time, would cost more than the call.
    let mut data = DATA.take();
    if data.len() < room {
        data.resize(room, 0);
    }
    let message = receive_into(socket, &mut data[..room], flags);
    if data.len() <= KEPT {
        DATA.set(data);
    }
    message
}

/// What is kept for the next message, at most.
const KEPT: usize = 1 << 20;

thread_local! {
    /// The memory that a thread receives into; taken while in use.
    static DATA: std::cell::Cell<Vec<u8>> = const { std::cell::Cell::new(Vec::new()) };
}

fn receive_into(socket: BorrowedFd<'_>, data: &mut [u8], flags: i32) -> Result<Message> {
    let mut name = [0_u8; NAME];
    // Words, so that the headers in it are aligned.
    let mut control = vec![0_u64; CONTROL / 8];
    let mut iov = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: all bits zero is a valid `struct msghdr`.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = NAME as u32;
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL;
    let n = loop {
        // SAFETY: the header points at buffers that outlive the call and tells their lengths; the kernel writes no more.
        let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags | libc::MSG_CMSG_CLOEXEC) };
        match cvt(n as i64) {
            Err(Errno(libc::EINTR)) => {}
            other => break other? as usize,
        }
    };
    let bytes: Vec<u8> = control.iter().flat_map(|w| w.to_ne_bytes()).take(header.msg_controllen).collect();
    // The descriptors are taken into ownership before anything can fail.
    let mut message = parse_control(&bytes);
    message.flags = header.msg_flags & !libc::MSG_CMSG_CLOEXEC;
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(Errno(libc::EMSGSIZE));
    }
    // MSG_TRUNC tells a length that may be more than there was room for.
    message.data = data[..n.min(data.len())].to_vec();
    message.from = name[..(header.msg_namelen as usize).min(NAME)].to_vec();
    Ok(message)
}

/// Takes control messages apart.
fn parse_control(mut rest: &[u8]) -> Message {
    let mut message = Message::default();
    while rest.len() >= HEAD {
        let word = |at: usize| i32::from_ne_bytes(rest[at..at + 4].try_into().expect("four bytes"));
        let len = u64::from_ne_bytes(rest[..8].try_into().expect("eight bytes")) as usize;
        if len < HEAD || len > rest.len() {
            break;
        }
        let (level, kind, body) = (word(8), word(12), &rest[HEAD..len]);
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                let numbers = body.chunks_exact(4).map(|b| RawFd::from_ne_bytes(b.try_into().expect("four bytes")));
                // SAFETY: the kernel has just made these descriptors for us and nobody else knows them.
                message.fds.extend(numbers.map(|n| unsafe { OwnedFd::from_raw_fd(n) }));
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if body.len() >= 12 => {
                let field = |at: usize| u32::from_ne_bytes(body[at..at + 4].try_into().expect("four bytes"));
                message.credentials = Some(Credentials { pid: field(0) as i32, uid: field(4), gid: field(8) });
            }
            _ => message.others.push((level, kind, body.to_vec())),
        }
        rest = &rest[len.next_multiple_of(8).min(rest.len())..];
    }
    message
}

/// Puts `SO_PEEK_OFF` back to what it was.
struct PeekOffset<'a>(BorrowedFd<'a>, i32);
impl Drop for PeekOffset<'_> {
    fn drop(&mut self) {
        // Nothing can be done about a failure, and none is known: the value was in force before.
        let _ = set_i32(self.0, libc::SOL_SOCKET, libc::SO_PEEK_OFF, self.1);
    }
}

/// All messages that wait in a socket, in order, left where they are. `room` must hold the longest (a stream is cut there).
///
/// Stops at `limit` messages. For datagrams an empty one that was peeked at before is passed over by the kernel.
///
/// # Errors
/// `EMSGSIZE` when a datagram is longer than `room`; `EOPNOTSUPP` where the socket knows no peek offset.
pub fn queue(socket: BorrowedFd<'_>, room: usize, limit: usize) -> Result<Vec<Message>> {
    let before = get_i32(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF)?;
    let kind = get_i32(socket, libc::SOL_SOCKET, libc::SO_TYPE)?;
    set_i32(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0)?;
    let _restore = PeekOffset(socket, before);
    let mut all: Vec<Message> = Vec::new();
    let mut empty = 0;
    while all.len() < limit {
        let message = match receive(socket, room, libc::MSG_PEEK | libc::MSG_DONTWAIT) {
            Err(Errno(libc::EAGAIN)) => break,
            other => other?,
        };
        if message.flags & libc::MSG_TRUNC != 0 {
            return Err(Errno(libc::EMSGSIZE));
        }
        // A stream that is at its end answers with nothing for ever; so does a seqpacket socket, which may also hold empty
        // messages: those at its very end read like the end itself and are left out, those before others are kept.
        let nothing = message.data.is_empty() && message.fds.is_empty();
        empty = if nothing { empty + 1 } else { 0 };
        if kind == libc::SOCK_STREAM && nothing {
            break;
        }
        if kind == libc::SOCK_SEQPACKET && empty > 64 && is_hung_up(socket) {
            all.truncate(all.len() + 1 - empty);
            break;
        }
        all.push(message);
    }
    Ok(all)
}

/// The first message that waits, if it has no bytes: where it was peeked at before, [`queue`] does not see it any more.
///
/// # Errors
/// As [`receive`].
pub fn empty_head(socket: BorrowedFd<'_>) -> Result<Option<Message>> {
    let kind = get_i32(socket, libc::SOL_SOCKET, libc::SO_TYPE)?;
    if kind == libc::SOCK_STREAM {
        return Ok(None);
    }
    let before = get_i32(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF)?;
    set_i32(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, -1)?;
    let _restore = PeekOffset(socket, before);
    match receive(socket, 1, libc::MSG_PEEK | libc::MSG_DONTWAIT) {
        Err(Errno(libc::EAGAIN)) => Ok(None),
        Ok(first) if first.data.is_empty() => {
            let may_be_the_end = kind == libc::SOCK_SEQPACKET && first.fds.is_empty() && is_hung_up(socket);
            Ok((!may_be_the_end).then_some(first))
        }
        Ok(_) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether the other end has shut its writing half.
fn is_hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one `struct pollfd`, which outlives the call.
    (unsafe { libc::poll(&raw mut poll, 1, 0) }) > 0 && poll.revents & (libc::POLLRDHUP | libc::POLLHUP) != 0
}

/// Sends one message with descriptors, to `to` (`struct sockaddr`, empty for a connected socket).
///
/// With `credentials` it speaks for another process, which needs CAP_SYS_ADMIN for its pid (in that pid namespace) and
/// CAP_SETUID and CAP_SETGID for its ids; the pid must exist. Returns how many bytes were taken.
pub fn send(
    socket: BorrowedFd<'_>,
    data: &[u8],
    to: &[u8],
    fds: &[BorrowedFd<'_>],
    credentials: Option<Credentials>,
    flags: i32,
) -> Result<usize> {
    let mut control = Vec::new();
    if !fds.is_empty() {
        let numbers: Vec<u8> = fds.iter().flat_map(|fd| fd.as_raw_fd().to_ne_bytes()).collect();
        push_control(&mut control, libc::SOL_SOCKET, libc::SCM_RIGHTS, &numbers);
    }
    if let Some(c) = credentials {
        let bytes = [c.pid.to_ne_bytes(), c.uid.to_ne_bytes(), c.gid.to_ne_bytes()].concat();
        push_control(&mut control, libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &bytes);
    }
    let mut iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: all bits zero is a valid `struct msghdr`.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    if !to.is_empty() {
        header.msg_name = to.as_ptr().cast_mut().cast();
        header.msg_namelen = to.len() as u32;
    }
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    if !control.is_empty() {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = control.len();
    }
    loop {
        // SAFETY: the header points at buffers that outlive the call and tells their lengths; the kernel only reads them.
        let n = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags | libc::MSG_NOSIGNAL) };
        match cvt(n as i64) {
            Err(Errno(libc::EINTR)) => {}
            other => return other.map(|n| n as usize),
        }
    }
}

fn push_control(control: &mut Vec<u8>, level: i32, kind: i32, body: &[u8]) {
    control.extend((HEAD + body.len()).to_ne_bytes());
    control.extend(level.to_ne_bytes());
    control.extend(kind.to_ne_bytes());
    control.extend(body);
    control.resize(control.len().next_multiple_of(8), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    fn datas(all: &[Message]) -> Vec<&[u8]> {
        all.iter().map(|m| m.data.as_slice()).collect()
    }

    #[test]
    fn datagrams_are_seen_with_boundaries_descriptors_and_senders_and_stay() {
        let (a, b) = UnixDatagram::pair().unwrap();
        set_i32(b.as_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, 1).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        send(a.as_fd(), b"one", &[], &[], None, 0).unwrap();
        send(a.as_fd(), b"", &[], &[], None, 0).unwrap();
        send(a.as_fd(), b"three", &[], &[null.as_fd(), a.as_fd()], None, 0).unwrap();
        let all = queue(b.as_fd(), 100, 10).unwrap();
        assert_eq!(datas(&all), [&b"one"[..], b"", b"three"]);
        assert_eq!(all.iter().map(|m| m.fds.len()).collect::<Vec<_>>(), [0, 0, 2]);
        let link = crate::proc::ProcDir::own().unwrap().link(&format!("fd/{}", all[2].fds[0].as_raw_fd())).unwrap();
        assert_eq!(link, b"/dev/null");
        assert_eq!(all[0].credentials.unwrap().pid, std::process::id() as i32);
        assert_eq!(get_i32(b.as_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF), Ok(-1));
        assert_eq!(queue(b.as_fd(), 4, 10).unwrap_err(), Errno(libc::EMSGSIZE));
        assert_eq!(get_i32(b.as_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF), Ok(-1));
        let mut buf = [0; 100];
        for want in [&b"one"[..], b"", b"three"] {
            let n = b.recv(&mut buf).unwrap();
            assert_eq!(&buf[..n], want);
        }
        assert!(queue(b.as_fd(), 100, 10).unwrap().is_empty());
    }

    #[test]
    fn an_empty_head_is_seen_again_and_again() {
        let (a, b) = UnixDatagram::pair().unwrap();
        assert!(empty_head(b.as_fd()).unwrap().is_none());
        send(a.as_fd(), b"", &[], &[a.as_fd()], None, 0).unwrap();
        send(a.as_fd(), b"more", &[], &[], None, 0).unwrap();
        for _ in 0..3 {
            assert_eq!(empty_head(b.as_fd()).unwrap().unwrap().fds.len(), 1);
            assert_eq!(datas(&queue(b.as_fd(), 10, 10).unwrap()), [b"more"]);
        }
        assert_eq!(b.recv(&mut [0; 4]).unwrap(), 0);
        assert!(empty_head(b.as_fd()).unwrap().is_none());
    }

    #[test]
    fn a_stream_is_seen_in_stretches_and_stays() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        a.write_all(b"hello ").unwrap();
        send(a.as_fd(), b"with", &[], &[a.as_fd()], None, 0).unwrap();
        a.write_all(&[7; 3000]).unwrap();
        let all = queue(b.as_fd(), 1000, 100).unwrap();
        assert_eq!(all.iter().map(|m| m.fds.len()).sum::<usize>(), 1);
        let whole = [&b"hello with"[..], &[7; 3000]].concat();
        assert_eq!(all.iter().flat_map(|m| m.data.clone()).collect::<Vec<_>>(), whole);
        // The descriptors that came along are of the other end, and hold it open.
        drop((a, all));
        assert_eq!(queue(b.as_fd(), 10_000, 100).unwrap().iter().map(|m| m.data.len()).sum::<usize>(), whole.len());
        let mut rest = Vec::new();
        b.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, whole);
        assert!(queue(b.as_fd(), 10, 10).unwrap().is_empty());
    }

    #[test]
    fn packets_of_a_peer_that_is_gone() {
        let mut ends = [0; 2];
        // SAFETY: the kernel writes two numbers, which outlive the call.
        let r = unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, ends.as_mut_ptr()) };
        assert_eq!(r, 0);
        // SAFETY: the kernel has just made these descriptors for us.
        let [a, b] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        for data in [&b"one"[..], b"", b"three"] {
            send(a.as_fd(), data, &[], &[], None, 0).unwrap();
        }
        drop(a);
        assert_eq!(datas(&queue(b.as_fd(), 10, 1000).unwrap()), [&b"one"[..], b"", b"three"]);
    }

    #[test]
    fn names_come_along() {
        let dir = std::env::temp_dir().join(format!("ghost-message-{}", std::process::id()));
        let (a, b) = (UnixDatagram::bind(&dir).unwrap(), UnixDatagram::unbound().unwrap());
        let path = std::os::unix::ffi::OsStrExt::as_bytes(dir.as_os_str());
        let to = [&(libc::AF_UNIX as u16).to_ne_bytes()[..], path, b"\0"].concat();
        send(b.as_fd(), b"x", &to, &[], None, 0).unwrap();
        b.connect(&dir).unwrap();
        send(a.as_fd(), b"lost", &[], &[], None, 0).unwrap_err();
        let all = queue(a.as_fd(), 10, 10).unwrap();
        assert_eq!(datas(&all), [b"x"]);
        assert!(all[0].from.is_empty());
        a.send_to(b"self", &dir).unwrap();
        let all = queue(a.as_fd(), 10, 10).unwrap();
        std::fs::remove_file(&dir).unwrap();
        assert!(all[1].from[2..].starts_with(path));
    }
}
