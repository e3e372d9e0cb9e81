//! Unix sockets: who is connected to whom, what waits where; unix_diag, Linux 3.3.

use super::{SockDiag, attributes, u32_at};
use crate::Result;
use std::collections::HashMap;

/// A unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixSocket {
    /// Its inode, as `fstat(2)` and the link in `/proc/PID/fd` tell it.
    pub inode: u32,
    /// `SOCK_STREAM`, `SOCK_DGRAM`, `SOCK_SEQPACKET`.
    pub kind: u8,
    /// TCP's states: 1 established, 7 closed (unconnected), 10 listening.
    pub state: u8,
    /// Its name: a path (relative to where it was bound), or a NUL and an abstract name. None when unbound.
    pub name: Option<Vec<u8>>,
    /// Inode and device (as `stat(2)` has it) of the file that it is bound to; (0, 0) when there is none.
    pub file: (u32, u64),
    /// The inode of the socket at the other end; 0 when that has not been accepted yet.
    pub peer: Option<u32>,
    /// Of a listening socket: the inodes of those who connected and wait to be accepted; 0 for one without.
    pub waiting: Vec<u32>,
    /// Bytes in its receive queue; of a listening socket, connections that wait.
    pub receive_queue: u32,
    /// Bytes that it sent and that were not received; of a listening socket, its backlog.
    pub send_queue: u32,
    /// 1 receiving is shut down, 2 sending.
    pub shutdown: u8,
    /// Who owns it (Linux 5.3).
    pub uid: Option<u32>,
}

impl UnixSocket {
    /// Whether it listens.
    pub fn is_listening(&self) -> bool {
        self.state == 10
    }
}

impl SockDiag {
    /// All unix sockets of the network namespace, by inode.
    pub fn unix(&self) -> Result<HashMap<u32, UnixSocket>> {
        /// UDIAG_SHOW_NAME, VFS, PEER, ICONS, RQLEN, UID
        const SHOW: u32 = 0x5f;
        let mut request = vec![libc::AF_UNIX as u8, 0, 0, 0];
        request.extend(u32::MAX.to_ne_bytes()); // all states
        request.extend(0_u32.to_ne_bytes()); // all inodes
        request.extend(SHOW.to_ne_bytes());
        request.extend([0; 8]); // cookie
        let all = self.dump(&request, parse)?;
        Ok(all.into_iter().map(|s| (s.inode, s)).collect())
    }
}

/// `struct unix_diag_msg`: family, type, state, pad, inode, cookie (8); then attributes.
fn parse(message: &[u8]) -> Option<UnixSocket> {
    const FIXED: usize = 16;
    if message.len() < FIXED {
        return None;
    }
    let mut s = UnixSocket { inode: u32_at(message, 4), kind: message[1], state: message[2], ..UnixSocket::default() };
    for (kind, body) in attributes(&message[FIXED..]) {
        match (kind, body.len()) {
            (0, _) => s.name = Some(body.to_vec()),
            (1, 8..) => s.file = (u32_at(body, 0), kernel_device(u32_at(body, 4))),
            (2, 4..) => s.peer = Some(u32_at(body, 0)),
            (3, _) => s.waiting = body.chunks_exact(4).map(|b| u32_at(b, 0)).collect(),
            (4, 8..) => (s.receive_queue, s.send_queue) = (u32_at(body, 0), u32_at(body, 4)),
            (6, 1..) => s.shutdown = body[0],
            (7, 4..) => s.uid = Some(u32_at(body, 0)),
            _ => {}
        }
    }
    Some(s)
}

/// The kernel's own `dev_t` as `stat(2)` writes it.
fn kernel_device(dev: u32) -> u64 {
    libc::makedev(dev >> 20, dev & 0xf_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::{AsRawFd, RawFd};
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn inode(fd: RawFd) -> u32 {
        std::fs::metadata(format!("/proc/self/fd/{fd}")).unwrap().ino() as u32
    }

    #[test]
    fn pairs_listeners_and_queues() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(b"12345").unwrap();
        b.shutdown(std::net::Shutdown::Write).unwrap();
        let path = std::env::temp_dir().join(format!("ghost-diag-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let caller = UnixStream::connect(&path).unwrap();
        let all = SockDiag::open().unwrap().unix().unwrap();
        let file = std::fs::metadata(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (a, b) = (inode(a.as_raw_fd()), inode(b.as_raw_fd()));
        assert_eq!((all[&a].peer, all[&b].peer), (Some(b), Some(a)));
        assert_eq!((all[&a].receive_queue, all[&b].receive_queue), (0, 5));
        assert_eq!((all[&a].shutdown, all[&b].shutdown), (1, 2));
        assert_eq!(all[&a].kind, libc::SOCK_STREAM as u8);
        let l = &all[&inode(listener.as_raw_fd())];
        assert!(l.is_listening());
        assert_eq!(l.waiting, [inode(caller.as_raw_fd())]);
        assert_eq!((u64::from(l.file.0), l.file.1), (file.ino(), file.dev()));
        assert!(l.name.as_ref().unwrap().starts_with(path.as_os_str().as_encoded_bytes()));
        assert_eq!((l.receive_queue, l.uid), (1, Some(file.uid())));
    }

    #[test]
    fn cut_messages_are_passed_over() {
        assert_eq!(parse(&[1, 1, 1]), None);
        let short = parse(&[1, 1, 7, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 200, 0, 2, 0]).unwrap();
        assert_eq!((short.inode, short.peer), (9, None));
    }
}
