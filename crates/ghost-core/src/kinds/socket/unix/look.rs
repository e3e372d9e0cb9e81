//! What lies in a unix socket, without taking it.

use super::super::{SOCKET, options, poll, sort};
use super::STREAM;
use crate::error::{Context, KindError};
use crate::kinds::fd::inodes;
use crate::view::{FdView, TreeView};
use ghost_sys::sock_diag::UnixSocket;
use ghost_sys::{Errno, message, sock, sockopt};
use rustix::event::PollFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The most bytes that one message can have: more than any send buffer that we have seen.
const ROOM: usize = 1 << 26;

/// Why such a socket cannot travel.
pub(super) const BEHIND_ERROR: &str = "messages lie behind an error that the program has not been told of yet";

/// All messages in a socket, left there.
pub(super) fn queue(fd: BorrowedFd<'_>) -> Result<Vec<message::Message>, KindError> {
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

/// Whether looking at what lies in the socket would take an error that it has to tell: of messages the kernel tells the
/// error first, of a stream last.
pub(super) fn is_behind_error(fd: BorrowedFd<'_>) -> bool {
    poll(fd).contains(PollFlags::ERR | PollFlags::IN)
        && sort(fd).is_ok_and(|s| s.1 != STREAM)
        && sockopt::incoming_bytes(fd).is_ok_and(|n| n > 0)
}

/// The same for a socket that has an error to tell: asking for more than there is would take the error from the program.
fn queue_before_error(fd: BorrowedFd<'_>) -> Result<Vec<message::Message>, KindError> {
    if is_behind_error(fd) {
        return Err(KindError::refusal("looking at what lies in the unix socket", BEHIND_ERROR));
    }
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

/// Longer messages are put into pages of which the kernel takes what it finds: their weight varies.
const OF_CERTAIN_WEIGHT: usize = 15 << 10;

/// Whether more lies in a socket than `seen`: messages without a byte, which peeking passes over once it has shown them.
///
/// The sender tells: what it has sent and nobody has received counts for it (`SIOCOUTQ`), empty messages too, and how much one of some
/// length counts is tried out. Of a sender that may have sent to others as well, or that is gone, it is not known.
pub(super) fn hides_some(
    view: &TreeView,
    fd: &FdView,
    fact: &UnixSocket,
    seen: &[message::Message],
) -> Result<bool, KindError> {
    let kind = fd.socket.as_ref().map_or(0, |s| s.sort.1);
    let facts = super::facts(view);
    let sender = fact.peer.map(u64::from).filter(|p| facts.unix.get(p).is_some_and(|s| s.peer == Some(fact.inode)));
    let Some((t, f)) = sender.and_then(|inode| inodes::inodes(view).socket(inode)) else { return Ok(false) };
    if kind == STREAM || seen.is_empty() || seen.iter().any(|m| m.data.len() > OF_CERTAIN_WEIGHT) {
        return Ok(false);
    }
    let sent = sockopt::outgoing_bytes(view.table(t)[f].ours.as_fd()).step("asking how much lies in the socket")?;
    let mut weights = Weights::of(kind)?;
    let mut known = 0;
    for message in seen {
        known += weights.of_message(message.data.len())?;
    }
    Ok(sent > known)
}

/// What messages count for their sender, by their length.
struct Weights {
    pair: (OwnedFd, OwnedFd),
    known: HashMap<usize, usize>,
}

impl Weights {
    fn of(kind: u32) -> Result<Self, KindError> {
        let kind = if kind == super::DGRAM { SocketType::DGRAM } else { SocketType::SEQPACKET };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let pair =
            rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None).step("making a pair to weigh with")?;
        Ok(Self { pair, known: HashMap::new() })
    }

    fn of_message(&mut self, len: usize) -> Result<usize, KindError> {
        if let Some(&weight) = self.known.get(&len) {
            return Ok(weight);
        }
        let (from, to) = (self.pair.0.as_fd(), self.pair.1.as_fd());
        message::send(from, &vec![0; len], &[], &[], None, 0).step("weighing a message")?;
        let weight = sockopt::outgoing_bytes(from).step("weighing a message")?;
        message::receive(to, len.max(1), super::DONTWAIT).step("weighing a message")?;
        self.known.insert(len, weight);
        Ok(weight)
    }
}

#[cfg(test)]
mod tests {
    use super::super::DONTWAIT;
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
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
    fn messages_count_what_was_tried_out_for_their_length() {
        for (kind, sort) in [(super::super::DGRAM, SocketType::DGRAM), (5, SocketType::SEQPACKET)] {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (a, _b) = rustix::net::socketpair(AddressFamily::UNIX, sort, flags, None).unwrap();
            let mut weights = Weights::of(kind).unwrap();
            let mut sum = 0;
            for len in [0, 1, 5, 200, 500, 1000, 4000, 5000, OF_CERTAIN_WEIGHT] {
                message::send(a.as_fd(), &vec![7; len], &[], &[], None, 0).unwrap();
                sum += weights.of_message(len).unwrap();
                assert_eq!(sockopt::outgoing_bytes(a.as_fd()).unwrap(), sum, "{len} bytes");
            }
        }
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
