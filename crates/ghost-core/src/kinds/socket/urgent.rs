//! The urgent byte of a unix stream socket: `send(2)` with MSG_OOB (Linux 5.15).
//!
//! Read: MSG_OOB with MSG_PEEK shows the byte and takes nothing; SIOCATMARK says whether it is the next; a peek without SO_PEEK_OFF
//! ends before it, which tells what lies before it. Rebuilt: the bytes before it, the byte with MSG_OOB, the bytes after it.
//!
//! Refused: beside descriptors, or where senders are told, since a peek ends at those too. Lost: the mark of a byte that has been
//! read already, where a read would have ended once.

use super::{SOCKET, options, poll};
use crate::error::{Context, KindError};
use crate::kinds::fd::class::Refusal;
use crate::view::FdView;
use ghost_image::record as rec;
use ghost_sys::{message, sockopt};
use rustix::event::PollFlags;
use std::os::fd::{AsFd, BorrowedFd};

const MSG_OOB: i32 = 1;
const MSG_PEEK: i32 = 2;
const MSG_DONTWAIT: i32 = 0x40;
const SO_OOBINLINE: i32 = 10;
const SO_PASSSEC: i32 = 34;
const SO_PASSPIDFD: i32 = 76;

/// Whether one waits.
pub fn waits(fd: BorrowedFd<'_>) -> bool {
    poll(fd).contains(PollFlags::PRI)
}

/// What stands in the way of its being seen.
pub fn check(fd: &FdView) -> Option<Refusal> {
    if fd.told.unix.is_some_and(|u| !u.is_urgent) {
        return None;
    }
    let ours = fd.ours.as_fd();
    let tells = [options::SO_PASSCRED, SO_PASSSEC, SO_PASSPIDFD];
    let told = || tells.iter().any(|name| sockopt::get_i32(ours, SOCKET, *name).unwrap_or(0) != 0);
    (waits(ours) && (fd.info.scm_fds.unwrap_or(0) > 0 || told())).then(|| {
        Refusal::passing(
            "unix",
            "an urgent byte (MSG_OOB) waits to be read, whose place among descriptors or senders can't be told",
            "the program has read it",
        )
    })
}

/// Puts the byte into its place in the queue, and says where that is.
pub fn export(fd: BorrowedFd<'_>, socket: &mut rec::Socket) -> Result<(), KindError> {
    let mut bytes: Vec<u8> = socket.queue.iter().flat_map(|m| m.data.iter().copied()).collect();
    let is_inline = sockopt::get_i32(fd, SOCKET, SO_OOBINLINE).step("reading SO_OOBINLINE")? != 0;
    let at_mark = sockopt::at_mark(fd).step("SIOCATMARK")?;
    let at = if at_mark { 0 } else { before_mark(fd, bytes.len())? };
    if !is_inline {
        let seen = message::receive(fd, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT).step("looking at the urgent byte")?;
        match seen.data.first() {
            // A peek of the rest leaves it out.
            Some(&byte) if at_mark => bytes.insert(0, byte),
            Some(&byte) if bytes.get(at) == Some(&byte) => {}
            _ => return Err(not_there()),
        }
    }
    if at >= bytes.len() || bytes.len() != sockopt::incoming_bytes(fd).step("asking how much lies in the socket")? {
        return Err(not_there());
    }
    socket.queue = vec![rec::Message { data: bytes, ..rec::Message::default() }];
    socket.urgent = at as u64 + 1;
    Ok(())
}

fn not_there() -> KindError {
    KindError::conflict("looking for the urgent byte", "it is not where the mark says")
}

/// How many bytes lie before it.
fn before_mark(fd: BorrowedFd<'_>, room: usize) -> Result<usize, KindError> {
    let offset = sockopt::get_i32(fd, SOCKET, options::SO_PEEK_OFF).step("reading SO_PEEK_OFF")?;
    sockopt::set_i32(fd, SOCKET, options::SO_PEEK_OFF, -1).step("setting SO_PEEK_OFF")?;
    let seen = message::receive(fd, room, MSG_PEEK | MSG_DONTWAIT).step("looking at what lies in the socket");
    sockopt::set_i32(fd, SOCKET, options::SO_PEEK_OFF, offset).step("putting SO_PEEK_OFF back")?;
    Ok(seen?.data.len())
}

/// The parts that a message is sent in, each with its flags.
pub fn parts<'m>(socket: &rec::Socket, message: &'m rec::Message) -> Vec<(&'m [u8], i32)> {
    match (socket.urgent as usize).checked_sub(1).filter(|at| *at < message.data.len()) {
        None => vec![(&message.data, 0)],
        Some(at) => {
            let (before, rest) = message.data.split_at(at);
            let all = [(before, 0), (&rest[..1], MSG_OOB), (&rest[1..], 0)];
            all.into_iter().filter(|(data, _)| !data.is_empty()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn looking_at_the_byte_leaves_it_where_it_is() {
        type Sent = &'static [(&'static [u8], i32)];
        let cases: [(Sent, usize); 4] = [
            (&[(b"before", 0), (b"!", MSG_OOB), (b"after", 0)], 6),
            (&[(b"!", MSG_OOB), (b"after", 0)], 0),
            (&[(b"!", MSG_OOB)], 0),
            (&[(b"old", MSG_OOB), (b"new", MSG_OOB), (b"after", 0)], 5),
        ];
        for (sent, place) in cases {
            for is_inline in [0, 1] {
                let (a, b) = UnixStream::pair().unwrap();
                sockopt::set_i32(b.as_fd(), SOCKET, SO_OOBINLINE, is_inline).unwrap();
                for (data, flags) in sent {
                    if message::send(a.as_fd(), data, &[], &[], None, *flags).is_err() {
                        return; // a kernel without it
                    }
                }
                let all: Vec<u8> = sent.iter().flat_map(|(data, _)| data.iter().copied()).collect();
                for _ in 0..2 {
                    let queue = message::queue(b.as_fd(), 100, usize::MAX).unwrap();
                    let queue = queue.into_iter().map(|m| rec::Message { data: m.data, ..rec::Message::default() });
                    let mut socket = rec::Socket { queue: queue.collect(), ..rec::Socket::default() };
                    assert!(waits(b.as_fd()));
                    export(b.as_fd(), &mut socket).unwrap();
                    assert_eq!((&socket.queue[0].data, socket.urgent), (&all, place as u64 + 1));
                    let parts = parts(&socket, &socket.queue[0]);
                    assert_eq!(parts.iter().find(|p| p.1 != 0).map(|p| p.0), Some(&all[place..=place]));
                }
            }
        }
    }
}
