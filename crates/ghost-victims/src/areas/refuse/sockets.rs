//! Sockets of families that do not travel yet.
use crate::kit::{fd, row, same, same_bytes, sock, truth};
use crate::{Flag, Victim};

/// A socket, or the reason why this host has none.
fn socket(s: &crate::Ctx, family: i32, kind: i32, protocol: i32) -> i32 {
    match sock::socket(family, kind, protocol) {
        Ok(f) => f,
        Err(e) => s.skip(&format!("no such sockets here: {}", String::from(e))),
    }
}

const V4: i32 = libc::AF_INET;
const LOOP: Option<[u8; 4]> = Some([127, 0, 0, 1]);

pub(super) const VICTIMS: &[Victim] = &[
    row!("netlink-socket", [Flag::Refuse("netlink")], |s| {
        let f = socket(s, libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE);
        let mut addr = (libc::AF_NETLINK as u16).to_ne_bytes().to_vec();
        addr.resize(12, 0);
        sock::bind(f, &sock::Addr(addr))?;
        let before = sock::local(f)?;
        s.wait();
        same("address", before, sock::local(f)?)?;
        // RTM_GETLINK, a dump: nlmsghdr of 16 bytes and rtgenmsg
        let mut ask = 20u32.to_ne_bytes().to_vec();
        ask.extend_from_slice(&18u16.to_ne_bytes());
        ask.extend_from_slice(&0x301u16.to_ne_bytes());
        ask.resize(20, 0);
        fd::write_full(f, &ask)?;
        truth("an answer", sock::recv(f, 65536, 0)?.data.len() > 16)?;
    }),
    row!("tcp-md5-key-of-client", [Flag::Refuse("tcp")], |s| {
        // A client of those who demand a key, before it connects.
        let f = socket(s, V4, libc::SOCK_STREAM, 0);
        let l = socket(s, V4, libc::SOCK_STREAM, 0);
        sock::bind(l, &sock::v4(LOOP, 0))?;
        sock::listen(l, 1)?;
        let addr = sock::local(l)?;
        if sock::md5_key(f, &addr, None, b"a key").is_err() {
            s.skip("no TCP_MD5SIG");
        }
        fd::close(l)?;
        s.wait();
        let l = socket(s, V4, libc::SOCK_STREAM, 0);
        sock::bind(l, &addr)?;
        sock::md5_key(l, &sock::v4(LOOP, 0), None, b"a key")?;
        sock::listen(l, 1)?;
        sock::connect(f, &addr)?;
    }),
    row!("tcp-ended", [Flag::Refuse("tcp")], |s| {
        // Both sides have said that they send no more; the sockets are closed for the kernel, and read as ended.
        let l = socket(s, V4, libc::SOCK_STREAM, 0);
        sock::bind(l, &sock::v4(LOOP, 0))?;
        sock::listen(l, 1)?;
        let c = socket(s, V4, libc::SOCK_STREAM, 0);
        sock::connect(c, &sock::local(l)?)?;
        let a = sock::accept(l, 0)?;
        fd::close(l)?;
        for f in [c, a] {
            crate::call!(shutdown(f, libc::SHUT_WR));
        }
        for f in [c, a] {
            truth("ended", fd::poll_ms(f, libc::POLLIN, 5000)? & libc::POLLHUP != 0)?;
        }
        s.wait();
        for f in [c, a] {
            same("end", 0, fd::read(f, 1)?.len())?;
        }
    }),
    row!("unix-behind-error", [Flag::Refuse("unix")], |s| {
        // A peer that closed with something unread: of packets, the kernel tells the reset before those that were left.
        let (a, b) = sock::pair(libc::SOCK_SEQPACKET)?;
        fd::write_full(a, b"never read")?;
        fd::write_full(b, b"left")?;
        fd::close(b)?;
        s.wait();
        crate::kit::fails("reading", libc::ECONNRESET, fd::read(a, 10))?;
        same_bytes("what was left", b"left", &fd::read(a, 10)?)?;
        same("end", 0, fd::read(a, 10)?.len())?;
    }),
    row!("tcp-under-repair", [Flag::Refuse("tcp")], |s| {
        const TCP_REPAIR: i32 = 19;
        let f = socket(s, V4, libc::SOCK_STREAM, 0);
        if sock::set(f, libc::IPPROTO_TCP, TCP_REPAIR, 1).is_err() {
            s.skip("TCP_REPAIR takes CAP_NET_ADMIN");
        }
        s.wait();
        same("mode", 1, sock::get(f, libc::IPPROTO_TCP, TCP_REPAIR)?)?;
    }),
    row!("empty-datagrams-looked-at", [Flag::Refuse("unix"), Flag::Asked], |s| {
        // The program has peeked at all: that passes over an empty message the next time, the program's or ghost's.
        for kind in [libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
            let (a, b) = sock::pair(kind | libc::SOCK_NONBLOCK)?;
            sock::set(b, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0)?;
            for text in [&b"one"[..], b"", b"two"] {
                fd::write(a, text)?;
            }
            for text in [&b"one"[..], b"", b"two"] {
                same_bytes("looked at", text, &sock::recv(b, 100, libc::MSG_PEEK)?.data)?;
            }
            sock::set(b, libc::SOL_SOCKET, libc::SO_PEEK_OFF, -1)?;
            if kind == libc::SOCK_DGRAM {
                // Only the other sort is left to be found.
                for _ in 0..3 {
                    sock::recv(b, 100, 0)?;
                }
                continue;
            }
            s.wait();
            for text in [&b"one"[..], b"", b"two"] {
                same_bytes("message", text, &sock::recv(b, 100, 0)?.data)?;
            }
        }
    }),
    row!("packet-socket", [Flag::Refuse("packet")], |s| {
        let f = socket(s, libc::AF_PACKET, libc::SOCK_RAW, i32::from(3u16.to_be()));
        let before = sock::local(f)?;
        s.wait();
        same("address", before.0[..4].to_vec(), sock::local(f)?.0[..4].to_vec())?;
    }),
    row!("raw-socket", [Flag::Refuse("raw")], |s| {
        let f = socket(s, V4, libc::SOCK_RAW, 253); // a protocol number for experiments
        sock::bind(f, &sock::v4(LOOP, 0))?;
        s.wait();
        sock::send(f, b"to myself", &[], Some(&sock::v4(LOOP, 0)))?;
        let got = sock::recv(f, 100, 0)?.data;
        truth("the packet came, behind its header", got.ends_with(b"to myself") && got.len() == 29)?;
    }),
    row!("icmp-socket", [Flag::Refuse("icmp")], |s| {
        let f = socket(s, V4, libc::SOCK_DGRAM, libc::IPPROTO_ICMP);
        s.wait();
        same("protocol", libc::IPPROTO_ICMP, sock::get(f, libc::SOL_SOCKET, libc::SO_PROTOCOL)?)?;
    }),
    row!("vsock-socket", [Flag::Refuse("vsock")], |s| {
        let f = socket(s, libc::AF_VSOCK, libc::SOCK_STREAM, 0);
        s.wait();
        same("domain", libc::AF_VSOCK, sock::get(f, libc::SOL_SOCKET, libc::SO_DOMAIN)?)?;
    }),
    row!("mptcp-listening", [Flag::Refuse("mptcp")], |s| {
        let f = socket(s, V4, libc::SOCK_STREAM, 262);
        sock::bind(f, &sock::v4(LOOP, 0))?;
        sock::listen(f, 3)?;
        let to = sock::local(f)?;
        s.wait();
        let c = sock::socket(V4, libc::SOCK_STREAM, 0)?;
        sock::connect(c, &to)?;
        fd::write_full(c, b"by one path")?;
        same_bytes("data", b"by one path", &fd::read_full(sock::accept(f, 0)?, 11)?)?;
    }),
    row!("udp-lite", [Flag::Refuse("udplite")], |s| {
        let f = socket(s, V4, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE);
        s.wait();
        same("protocol", libc::IPPROTO_UDPLITE, sock::get(f, libc::SOL_SOCKET, libc::SO_PROTOCOL)?)?;
    }),
    row!("crypto-socket", [Flag::Refuse("alg")], |s| {
        let f = socket(s, libc::AF_ALG, libc::SOCK_SEQPACKET, 0);
        s.wait();
        same("domain", libc::AF_ALG, sock::get(f, libc::SOL_SOCKET, libc::SO_DOMAIN)?)?;
    }),
    row!("multicast-member", [Flag::Refuse("multicast")], |s| {
        let f = socket(s, V4, libc::SOCK_DGRAM, 0);
        sock::bind(f, &sock::v4(None, 0))?;
        let port = sock::local(f)?.port();
        let group = [239, 255, 77, 1];
        let member = [group, [127, 0, 0, 1]].concat();
        if sock::set_raw(f, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &member).is_err() {
            s.skip("no multicast on the loopback");
        }
        s.wait();
        let c = sock::socket(V4, libc::SOCK_DGRAM, 0)?;
        sock::set_raw(c, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &[127, 0, 0, 1])?;
        sock::send(c, b"to the group", &[], Some(&sock::v4(Some(group), port)))?;
        same("poll", libc::POLLIN, fd::poll_ms(f, libc::POLLIN, 2000)?)?;
        same_bytes("datagram", b"to the group", &sock::recv(f, 100, 0)?.data)?;
    }),
    row!("socket-filter", [Flag::Refuse("filter")], |s| {
        // A classic filter that lets nothing through: losing it would be seen at once.
        let f = socket(s, V4, libc::SOCK_DGRAM, 0);
        sock::bind(f, &sock::v4(LOOP, 0))?;
        let code = [0x06u64]; // ret 0
        let prog = [1u64.to_ne_bytes(), (code.as_ptr() as u64).to_ne_bytes()].concat();
        sock::set_raw(f, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &prog)?;
        s.wait();
        let c = sock::socket(V4, libc::SOCK_DGRAM, 0)?;
        sock::send(c, b"stopped by the filter", &[], Some(&sock::local(f)?))?;
        same("poll", 0, fd::poll_ms(f, libc::POLLIN, 50)?)?;
    }),
    row!("tcp-connecting", [Flag::Refuse("tcp")], |s| {
        // SYN sent to an address of the loopback's network behind which nobody answers: the queue is full.
        let server = socket(s, V4, libc::SOCK_STREAM, 0);
        sock::bind(server, &sock::v4(LOOP, 0))?;
        sock::listen(server, 0)?;
        let mut list = Vec::new();
        for _ in 0..4 {
            let c = sock::socket(V4, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
            let _ = sock::connect(c, &sock::local(server)?);
            list.push(c);
        }
        let states = |list: &[i32]| {
            list.iter()
                .map(|f| sock::get_raw(*f, libc::IPPROTO_TCP, libc::TCP_INFO).map(|i| i[0]))
                .collect::<Result<Vec<u8>, _>>()
        };
        truth("one is still connecting", states(&list)?.contains(&2))?; // TCP_SYN_SENT
        s.wait();
        truth("one is still connecting", states(&list)?.contains(&2))?;
    }),
];
