//! What lies in a unix socket, without taking it.

use super::super::{SOCKET, options, poll, sort};
use super::STREAM;
use crate::error::{Context, KindError};
use ghost_sys::{Errno, message, sock, sockopt};
use rustix::event::PollFlags;
use std::os::fd::BorrowedFd;

/// The most bytes that one message can have: more than any send buffer that we have seen.
const ROOM: usize = 1 << 26;

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
