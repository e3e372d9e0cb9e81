//! TCP, UDP and raw sockets of IPv4 and IPv6: inet_diag (Linux 2.6.14, this form 3.3), udp_diag, raw_diag (4.10).

use super::{SockDiag, attributes, u32_at};
use crate::Result;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An inet socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InetSocket {
    /// Its inode; 0 when no file has it any more (closing, or not accepted yet).
    pub inode: u32,
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// TCP's states: 1 established, 2 SYN_SENT, 3 SYN_RECV, 4 FIN_WAIT1, 5 FIN_WAIT2, 6 TIME_WAIT, 7 CLOSE, 8 CLOSE_WAIT,
    /// 9 LAST_ACK, 10 LISTEN, 11 CLOSING; UDP: 1 connected, 7 not.
    pub state: u8,
    /// Where it is bound.
    pub local: SocketAddr,
    /// Whom it is connected to.
    pub peer: SocketAddr,
    /// The interface that it is bound to, 0 for none.
    pub interface: u32,
    /// Bytes to be read; of a listening socket, connections that wait.
    pub receive_queue: u32,
    /// Bytes sent and not acknowledged; of a listening socket, its backlog.
    pub send_queue: u32,
    /// Who owns it.
    pub uid: u32,
    /// Which timer runs: 0 none, 1 retransmission, 2 keepalive, 3 TIME_WAIT, 4 zero window probe.
    pub timer: u8,
    /// 1 receiving is shut down, 2 sending.
    pub shutdown: u8,
    /// IPV6_V6ONLY.
    pub v6_only: bool,
    /// SO_MARK; told only to who has CAP_NET_ADMIN.
    pub mark: u32,
    /// The congestion control algorithm of TCP.
    pub congestion: String,
    /// Keys of TCP_MD5SIG of one that listens (Linux 4.14), `struct tcp_diag_md5sig` each; told only to who has CAP_NET_ADMIN and
    /// asks for them ([`SockDiag::tcp_with_keys`]).
    pub md5_keys: Vec<u8>,
    /// The kernel's name for the socket, unique until the next boot.
    pub cookie: u64,
}

impl SockDiag {
    /// All sockets of a protocol (`IPPROTO_TCP`, `IPPROTO_UDP`, `IPPROTO_UDPLITE`, `IPPROTO_RAW`), v4 and v6.
    ///
    /// `ENOENT` when the kernel has no module for it.
    pub fn inet(&self, protocol: i32) -> Result<Vec<InetSocket>> {
        /// Ask for INET_DIAG_CONG; the rest comes unasked.
        const EXTENSIONS: u8 = 1 << 3;
        self.inet_with(protocol, EXTENSIONS)
    }

    /// TCP sockets by inode, with their keys; those come with INET_DIAG_INFO.
    pub fn tcp_with_keys(&self) -> Result<HashMap<u32, InetSocket>> {
        const EXTENSIONS: u8 = 1 << 1;
        let all = self.inet_with(libc::IPPROTO_TCP, EXTENSIONS)?;
        Ok(all.into_iter().filter(|s| s.inode != 0).map(|s| (s.inode, s)).collect())
    }

    fn inet_with(&self, protocol: i32, extensions: u8) -> Result<Vec<InetSocket>> {
        let mut all = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut request = vec![family as u8, protocol as u8, extensions, 0];
            request.extend(u32::MAX.to_ne_bytes()); // all states
            request.extend([0; 48]); // all addresses
            all.extend(self.dump(&request, parse)?);
        }
        Ok(all)
    }

    /// The same by inode, without those that have none.
    pub fn inet_by_inode(&self, protocol: i32) -> Result<HashMap<u32, InetSocket>> {
        let all = self.inet(protocol)?;
        Ok(all.into_iter().filter(|s| s.inode != 0).map(|s| (s.inode, s)).collect())
    }
}

/// `struct inet_diag_msg`: family, state, timer, retrans; `struct inet_diag_sockid` (48 bytes: ports, source, destination,
/// interface, cookie); expires, rqueue, wqueue, uid, inode; then attributes.
fn parse(message: &[u8]) -> Option<InetSocket> {
    const FIXED: usize = 72;
    if message.len() < FIXED {
        return None;
    }
    let family = message[0];
    let address = |at: usize, port_at: usize| {
        let bytes: [u8; 16] = message[at..at + 16].try_into().expect("sixteen bytes");
        let ip = if i32::from(family) == libc::AF_INET {
            IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
        } else {
            IpAddr::V6(Ipv6Addr::from(bytes))
        };
        SocketAddr::new(ip, u16::from_be_bytes([message[port_at], message[port_at + 1]]))
    };
    let mut s = InetSocket {
        inode: u32_at(message, 68),
        family,
        state: message[1],
        local: address(8, 4),
        peer: address(24, 6),
        interface: u32_at(message, 40),
        receive_queue: u32_at(message, 56),
        send_queue: u32_at(message, 60),
        uid: u32_at(message, 64),
        timer: message[2],
        shutdown: 0,
        v6_only: false,
        mark: 0,
        congestion: String::new(),
        md5_keys: Vec::new(),
        cookie: u64::from(u32_at(message, 44)) | u64::from(u32_at(message, 48)) << 32,
    };
    for (kind, body) in attributes(&message[FIXED..]) {
        match (kind, body.len()) {
            (4, _) => s.congestion = String::from_utf8_lossy(body).trim_end_matches('\0').to_owned(),
            (8, 1..) => s.shutdown = body[0],
            (11, 1..) => s.v6_only = body[0] != 0,
            (18, _) => s.md5_keys = body.to_vec(),
            (15, 4..) => s.mark = u32_at(body, 0),
            _ => {}
        }
    }
    Some(s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::{AsRawFd, RawFd};
    use std::os::unix::fs::MetadataExt;

    fn inode(fd: RawFd) -> u32 {
        std::fs::metadata(format!("/proc/self/fd/{fd}")).unwrap().ino() as u32
    }

    #[test]
    fn tcp_listening_and_connected() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let mut a = TcpStream::connect(here).unwrap();
        let waiting = SockDiag::open().unwrap().inet_by_inode(libc::IPPROTO_TCP).unwrap();
        let l = &waiting[&inode(listener.as_raw_fd())];
        assert_eq!((l.state, l.local, l.receive_queue, l.send_queue), (10, here, 1, 128.max(l.send_queue)));
        let (b, from) = listener.accept().unwrap();
        a.write_all(b"1234567").unwrap();
        a.shutdown(std::net::Shutdown::Write).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let all = SockDiag::open().unwrap().inet_by_inode(libc::IPPROTO_TCP).unwrap();
        let (ours, theirs) = (&all[&inode(a.as_raw_fd())], &all[&inode(b.as_raw_fd())]);
        assert_eq!((ours.local, ours.peer, theirs.peer), (from, here, from));
        // The FIN counts as a byte to be read.
        assert_eq!((theirs.state, theirs.receive_queue), (8, 8));
        assert!(matches!(ours.state, 4 | 5), "FIN_WAIT1 until it is acknowledged: {}", ours.state);
        assert_eq!((ours.shutdown, theirs.shutdown), (2, 1));
        assert!(!ours.congestion.is_empty());
        assert_ne!(ours.cookie, theirs.cookie);
    }

    #[test]
    fn udp_v6_only() {
        let Ok(socket) = UdpSocket::bind("[::1]:0") else {
            eprintln!("skipped: no IPv6 on the loopback interface");
            return;
        };
        let all = SockDiag::open().unwrap().inet_by_inode(libc::IPPROTO_UDP).unwrap();
        let found = &all[&inode(socket.as_raw_fd())];
        assert_eq!((found.local, found.state, found.family), (socket.local_addr().unwrap(), 7, libc::AF_INET6 as u8));
    }

    #[test]
    fn cut_messages_are_passed_over() {
        assert_eq!(parse(&[2; 71]), None);
        assert!(parse(&[2; 73]).is_some());
    }
}
