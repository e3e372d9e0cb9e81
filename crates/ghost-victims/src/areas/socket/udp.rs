//! UDP: bound and connected sockets, options, groups.
use super::inet::{COMMON, IP, LOOP, PORT, has_v6, read_options, set_common};
use crate::kit::fd::{self, Facts};
use crate::kit::sock::{self, Addr};
use crate::kit::{fails, pattern, row, same, same_bytes, truth};
use crate::{Flag, Victim};
use libc::{AF_INET, AF_INET6, IPPROTO_IP, IPPROTO_IPV6, SOCK_DGRAM, SOL_SOCKET};

/// A datagram to the address arrives at the socket.
fn hears(what: &str, f: i32, to: &Addr) -> Result<(), String> {
    let family = i32::from(u16::from_ne_bytes([to.0[0], to.0[1]]));
    let c = sock::socket(family, SOCK_DGRAM, 0)?;
    sock::connect(c, to)?;
    fd::write_full(c, b"a datagram")?;
    same(&format!("{what}: poll"), libc::POLLIN, fd::poll_ms(f, libc::POLLIN, 5000)?)?;
    let got = sock::recv(f, 100, 0)?;
    same_bytes(what, b"a datagram", &got.data)?;
    sock::send(f, b"an answer", &[], Some(&Addr(got.from)))?;
    same_bytes(&format!("{what}: answer"), b"an answer", &fd::read(c, 100)?)?;
    Ok(fd::close(c)?)
}

pub(super) const VICTIMS: &[Victim] = &[
    row!("udp-error-untold", [PORT], |s| {
        // What came back from where nobody listens is told at the next call; or is lost, as it may always be.
        let gone = sock::socket(AF_INET, SOCK_DGRAM, 0)?;
        sock::bind(gone, &sock::v4(LOOP, 0))?;
        let nobody = sock::local(gone)?;
        fd::close(gone)?;
        let f = sock::socket(AF_INET, SOCK_DGRAM, 0)?;
        sock::connect(f, &nobody)?;
        fd::write_full(f, b"x")?;
        same("poll", libc::POLLERR, fd::poll_now(f, 0)?)?;
        s.wait();
        let told = fd::write(f, b"x");
        truth("refused, or sent", told == Ok(1) || told.is_err_and(|e| e.code == libc::ECONNREFUSED))?;
        same("peer", nobody, sock::peer(f)?)?;
    }),
    // ---- UDP ------------------------------------------------------------------------------------------------
    row!("udp-bound", [PORT], |s| {
        let f = sock::socket(AF_INET, SOCK_DGRAM | libc::SOCK_NONBLOCK, 0)?;
        sock::bind(f, &sock::v4(LOOP, 0))?;
        let (addr, facts) = (sock::local(f)?, Facts::of(f)?.nameless());
        s.wait();
        facts.still("socket", f)?;
        same("address", addr.clone(), sock::local(f)?)?;
        fails("nothing came", libc::EAGAIN, sock::recv(f, 10, 0))?;
        hears("datagram", f, &addr)?;
    }),
    row!("udp-bound-any", [PORT], |s| {
        let f = sock::socket(AF_INET, SOCK_DGRAM, 0)?;
        sock::bind(f, &sock::v4(None, 0))?;
        let addr = sock::local(f)?;
        s.wait();
        same("address", addr.clone(), sock::local(f)?)?;
        hears("datagram", f, &sock::v4(LOOP, addr.port()))?;
    }),
    row!("udp-bound-v6", [PORT], |s| {
        if !has_v6() {
            s.skip("no IPv6 here");
        }
        let f = sock::socket(AF_INET6, SOCK_DGRAM, 0)?;
        sock::set(f, IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
        sock::bind(f, &sock::v6(false, 0))?;
        let addr = sock::local(f)?;
        s.wait();
        same("address", addr.clone(), sock::local(f)?)?;
        hears("by IPv6", f, &sock::v6(true, addr.port()))?;
        hears("by IPv4", f, &sock::v4(LOOP, addr.port()))?;
    }),
    row!("udp-connected", [PORT], |s| {
        let (f, g) = (sock::socket(AF_INET, SOCK_DGRAM, 0)?, sock::socket(AF_INET, SOCK_DGRAM, 0)?);
        sock::bind(f, &sock::v4(LOOP, 0))?;
        sock::connect(g, &sock::local(f)?)?;
        sock::connect(f, &sock::local(g)?)?;
        let names = [sock::local(f)?, sock::peer(f)?, sock::local(g)?, sock::peer(g)?];
        s.wait();
        same("addresses", names, [sock::local(f)?, sock::peer(f)?, sock::local(g)?, sock::peer(g)?])?;
        fd::write_full(f, b"there")?;
        same_bytes("one way", b"there", &fd::read(g, 100)?)?;
        fd::write_full(g, b"and back")?;
        same_bytes("the other way", b"and back", &fd::read(f, 100)?)?;
        let stranger = sock::socket(AF_INET, SOCK_DGRAM, 0)?;
        sock::send(stranger, b"from a stranger", &[], Some(&sock::local(f)?))?;
        crate::sys::sleep_ms(5);
        fails("a datagram from elsewhere", libc::EAGAIN, sock::recv_now(f, 100))?;
    }),
    row!("udp-connected-disconnected", [PORT], |s| {
        let (f, g) = (sock::socket(AF_INET, SOCK_DGRAM, 0)?, sock::socket(AF_INET, SOCK_DGRAM, 0)?);
        sock::bind(f, &sock::v4(LOOP, 0))?;
        sock::connect(g, &sock::local(f)?)?;
        sock::connect(g, &Addr(vec![0; 16]))?; // AF_UNSPEC: no peer any more
        let addr = sock::local(g)?;
        s.wait();
        same("address", addr, sock::local(g)?)?;
        fails("peer", libc::ENOTCONN, sock::peer(g))?;
        fails("sending to nobody", libc::EDESTADDRREQ, fd::write(g, b"x"))?;
    }),
    row!("udp-options", [PORT], |s| {
        let f = sock::socket(AF_INET, SOCK_DGRAM, 0)?;
        set_common(f)?;
        sock::set(f, IPPROTO_IP, libc::IP_MULTICAST_TTL, 9)?;
        sock::set(f, IPPROTO_IP, libc::IP_MULTICAST_LOOP, 0)?;
        sock::set(f, IPPROTO_IP, libc::IP_RECVTTL, 1)?;
        sock::set(f, IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        sock::set(f, IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
        sock::bind(f, &sock::v4(LOOP, 0))?;
        let more = [
            (IPPROTO_IP, libc::IP_MULTICAST_TTL),
            (IPPROTO_IP, libc::IP_MULTICAST_LOOP),
            (IPPROTO_IP, libc::IP_RECVTTL),
            (IPPROTO_IP, libc::IP_RECVTOS),
            (libc::IPPROTO_UDP, libc::UDP_CORK),
            (libc::IPPROTO_UDP, libc::UDP_GRO),
            (libc::IPPROTO_UDP, libc::UDP_SEGMENT),
        ];
        let _ = sock::set(f, libc::IPPROTO_UDP, libc::UDP_GRO, 1);
        let _ = sock::set(f, libc::IPPROTO_UDP, libc::UDP_SEGMENT, 1200);
        let names = [&COMMON[..], &IP[..], &more[..]].concat();
        let (addr, before) = (sock::local(f)?, read_options(f, &names));
        s.wait();
        for (before, after) in before.into_iter().zip(read_options(f, &names)) {
            same("option", before, after)?;
        }
        hears("datagram", f, &addr)?;
    }),
    row!("udp-reuseport-group", [PORT], |s| {
        let mut all = Vec::new();
        let mut addr = sock::v4(LOOP, 0);
        for _ in 0..3 {
            let f = sock::socket(AF_INET, SOCK_DGRAM | libc::SOCK_NONBLOCK, 0)?;
            sock::set(f, SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
            sock::bind(f, &addr)?;
            addr = sock::local(f)?;
            all.push(f);
        }
        s.wait();
        for _ in 0..60 {
            let c = sock::socket(AF_INET, SOCK_DGRAM, 0)?;
            sock::send(c, b"x", &[], Some(&addr))?;
            fd::close(c)?;
        }
        crate::sys::sleep_ms(5);
        let mut counts = Vec::new();
        for f in &all {
            let mut n = 0;
            while sock::recv(*f, 10, 0).is_ok() {
                n += 1;
            }
            counts.push(n);
        }
        same("datagrams", 60, counts.iter().sum::<i32>())?;
        truth(&format!("each got some: {counts:?}"), counts.iter().all(|n| *n > 0))?;
    }),
    row!("udp-queued", [PORT, Flag::Refuse("udp")], |s| {
        let f = sock::socket(AF_INET, SOCK_DGRAM | libc::SOCK_NONBLOCK, 0)?;
        sock::bind(f, &sock::v4(LOOP, 0))?;
        let c = sock::socket(AF_INET, SOCK_DGRAM, 0)?;
        sock::bind(c, &sock::v4(LOOP, 0))?;
        for n in 1..5u64 {
            sock::send(c, &pattern(n, n as usize * 300), &[], Some(&sock::local(f)?))?;
        }
        crate::sys::sleep_ms(5);
        s.wait();
        for n in 1..5u64 {
            let got = sock::recv(f, 5000, 0)?;
            same_bytes(&format!("datagram {n}"), &pattern(n, n as usize * 300), &got.data)?;
            same("its sender", sock::local(c)?.0, got.from)?;
        }
        fails("more", libc::EAGAIN, sock::recv(f, 10, 0))?;
    }),
    row!("udp-unbound", |s| {
        let f = sock::socket(AF_INET, SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)?;
        let g = has_v6().then(|| sock::socket(AF_INET6, SOCK_DGRAM, 0)).transpose()?;
        let facts = Facts::of(f)?.nameless();
        s.wait();
        facts.still("socket", f)?;
        same("port", 0, sock::local(f)?.port())?;
        if let Some(g) = g {
            same("port", 0, sock::local(g)?.port())?;
        }
        sock::bind(f, &sock::v4(LOOP, 0))?;
        hears("once it is bound", f, &sock::local(f)?)?;
    }),
    row!("udp-shutdown", [PORT], |s| {
        let (f, g) = (sock::socket(AF_INET, SOCK_DGRAM, 0)?, sock::socket(AF_INET, SOCK_DGRAM, 0)?);
        sock::bind(f, &sock::v4(LOOP, 0))?;
        sock::connect(g, &sock::local(f)?)?;
        sock::shutdown(g, libc::SHUT_RD)?;
        s.wait();
        same("reading where reading is shut", 0, fd::read(g, 10)?.len())?;
    }),
    row!("for-ioctls-only", |s| {
        // What ifconfig and friends keep open.
        let f = sock::socket(AF_INET, SOCK_DGRAM, 0)?;
        let index = |f: i32| {
            let mut req = [0u8; 40];
            req[..2].copy_from_slice(b"lo");
            fd::ioctl_ref(f, libc::SIOCGIFINDEX, &mut req).map(|_| req[16..20].to_vec())
        };
        let Ok(before) = index(f) else { s.skip("no loopback here") };
        s.wait();
        same("index of lo", before, index(f)?)?;
    }),
];
