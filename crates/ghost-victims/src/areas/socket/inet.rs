//! TCP and UDP: listeners that serve a new client afterwards, bound and connected datagram sockets, options, groups.
use crate::kit::fd::{self, Facts};
use crate::kit::sock::{self, Addr};
use crate::kit::{Errno, fails, pattern, row, same, same_bytes, truth};
use crate::{Flag, Victim};
use libc::{AF_INET, AF_INET6, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET};

const PORT: Flag = Flag::NoDup("two copies cannot both have the port");
const LOOP: Option<[u8; 4]> = Some([127, 0, 0, 1]);

/// A TCP socket that listens on this address, options set before by `prepare`.
fn listener(addr: &Addr, backlog: i32, prepare: impl FnOnce(i32) -> Result<(), Errno>) -> Result<i32, Errno> {
    let family = i32::from(u16::from_ne_bytes([addr.0[0], addr.0[1]]));
    let f = sock::socket(family, SOCK_STREAM | libc::SOCK_CLOEXEC, 0)?;
    prepare(f)?;
    sock::bind(f, addr)?;
    sock::listen(f, backlog)?;
    Ok(f)
}

/// A key of TCP_MD5SIG for those of a network.
fn md5_key(f: i32, net: [u8; 4], prefix: u8, text: &[u8]) -> Result<(), Errno> {
    sock::md5_key(f, &sock::v4(Some(net), 0), Some(prefix), text)
}

/// Whether this host has IPv6 on its loopback.
fn has_v6() -> bool {
    sock::socket(AF_INET6, SOCK_DGRAM, 0).is_ok_and(|f| {
        let ok = sock::bind(f, &sock::v6(true, 0)).is_ok();
        let _ = fd::close(f);
        ok
    })
}

/// A new client comes to the address, and both ends talk.
fn serves(what: &str, server: i32, to: &Addr) -> Result<(), String> {
    let family = i32::from(u16::from_ne_bytes([to.0[0], to.0[1]]));
    let c = sock::socket(family, SOCK_STREAM, 0)?;
    sock::connect(c, to)?;
    same(&format!("{what}: poll of the listener"), libc::POLLIN, fd::poll_ms(server, libc::POLLIN, 5000)?)?;
    let a = sock::accept(server, 0)?;
    fd::write_full(c, b"to the server")?;
    same_bytes(&format!("{what}: to the server"), b"to the server", &fd::read_full(a, 13)?)?;
    fd::write_full(a, b"to the client")?;
    same_bytes(&format!("{what}: to the client"), b"to the client", &fd::read_full(c, 13)?)?;
    fd::close(c)?;
    same(&format!("{what}: end"), 0, fd::read(a, 1)?.len())?;
    Ok(fd::close(a)?)
}

type Options = Vec<((i32, i32), Option<Vec<u8>>)>;

/// The values of these options; `None` where the kernel has none.
fn read_options(f: i32, names: &[(i32, i32)]) -> Options {
    names.iter().map(|(level, opt)| ((*level, *opt), sock::get_raw(f, *level, *opt).ok())).collect()
}

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

const COMMON: [(i32, i32); 19] = [
    (SOL_SOCKET, libc::SO_REUSEADDR),
    (SOL_SOCKET, libc::SO_REUSEPORT),
    (SOL_SOCKET, libc::SO_KEEPALIVE),
    (SOL_SOCKET, libc::SO_BROADCAST),
    (SOL_SOCKET, libc::SO_DONTROUTE),
    (SOL_SOCKET, libc::SO_OOBINLINE),
    (SOL_SOCKET, libc::SO_LINGER),
    (SOL_SOCKET, libc::SO_PRIORITY),
    (SOL_SOCKET, libc::SO_MARK),
    (SOL_SOCKET, libc::SO_SNDBUF),
    (SOL_SOCKET, libc::SO_RCVBUF),
    (SOL_SOCKET, libc::SO_RCVLOWAT),
    (SOL_SOCKET, libc::SO_RCVTIMEO),
    (SOL_SOCKET, libc::SO_SNDTIMEO),
    (SOL_SOCKET, libc::SO_TIMESTAMP),
    (SOL_SOCKET, libc::SO_BINDTODEVICE),
    (SOL_SOCKET, libc::SO_BUSY_POLL),
    (SOL_SOCKET, libc::SO_MAX_PACING_RATE),
    (SOL_SOCKET, libc::SO_TXTIME),
];
const IP: [(i32, i32); 9] = [
    (IPPROTO_IP, libc::IP_TOS),
    (IPPROTO_IP, libc::IP_TTL),
    (IPPROTO_IP, libc::IP_FREEBIND),
    (IPPROTO_IP, libc::IP_TRANSPARENT),
    (IPPROTO_IP, libc::IP_RECVERR),
    (IPPROTO_IP, libc::IP_PKTINFO),
    (IPPROTO_IP, libc::IP_MTU_DISCOVER),
    (IPPROTO_IP, libc::IP_MINTTL),
    (IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT),
];
const TCP: [(i32, i32); 15] = [
    (IPPROTO_TCP, libc::TCP_NODELAY),
    (IPPROTO_TCP, libc::TCP_CORK),
    (IPPROTO_TCP, libc::TCP_MAXSEG),
    (IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (IPPROTO_TCP, libc::TCP_KEEPCNT),
    (IPPROTO_TCP, libc::TCP_SYNCNT),
    (IPPROTO_TCP, libc::TCP_LINGER2),
    (IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
    (IPPROTO_TCP, libc::TCP_CONGESTION),
    (IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (IPPROTO_TCP, libc::TCP_FASTOPEN),
    (IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    (IPPROTO_TCP, libc::TCP_SAVE_SYN),
];

/// Sets many options, each to a value that is not its default.
fn set_common(f: i32) -> Result<(), Errno> {
    let limit = |sec: i64| [sec.to_ne_bytes(), 0i64.to_ne_bytes()].concat();
    sock::set(f, SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    sock::set(f, SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    sock::set(f, SOL_SOCKET, libc::SO_BROADCAST, 1)?;
    sock::set(f, SOL_SOCKET, libc::SO_OOBINLINE, 1)?;
    sock::set_raw(f, SOL_SOCKET, libc::SO_LINGER, &[1i32.to_ne_bytes(), 9i32.to_ne_bytes()].concat())?;
    sock::set(f, SOL_SOCKET, libc::SO_PRIORITY, 5)?;
    sock::set(f, SOL_SOCKET, libc::SO_SNDBUF, 50_000)?;
    sock::set(f, SOL_SOCKET, libc::SO_RCVBUF, 60_000)?;
    sock::set(f, SOL_SOCKET, libc::SO_RCVLOWAT, 2)?;
    sock::set_raw(f, SOL_SOCKET, libc::SO_RCVTIMEO, &limit(33))?;
    sock::set_raw(f, SOL_SOCKET, libc::SO_SNDTIMEO, &limit(44))?;
    let _ = sock::set(f, SOL_SOCKET, libc::SO_MARK, 123); // needs CAP_NET_ADMIN
    sock::set(f, IPPROTO_IP, libc::IP_TOS, 0x10)?;
    sock::set(f, IPPROTO_IP, libc::IP_TTL, 37)?;
    sock::set(f, IPPROTO_IP, libc::IP_FREEBIND, 1)?;
    sock::set(f, IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    sock::set(f, IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
}

pub(super) const VICTIMS: &[Victim] = &[
    // ---- TCP listening --------------------------------------------------------------------------------------
    row!("tcp-listening", [PORT], |s| {
        let f = listener(&sock::v4(LOOP, 0), 7, |_| Ok(()))?;
        let (addr, facts) = (sock::local(f)?, Facts::of(f)?.nameless());
        s.wait();
        facts.still("listener", f)?;
        same("address", addr.clone(), sock::local(f)?)?;
        same("accepts", 1, sock::get(f, SOL_SOCKET, libc::SO_ACCEPTCONN)?)?;
        same("poll without a client", 0, fd::poll_now(f, libc::POLLIN)?)?;
        serves("first client", f, &addr)?;
        serves("second client", f, &addr)?;
    }),
    row!("tcp-md5-keys", [PORT], |s| {
        // A key for one network, another for a host in it.
        let f = listener(&sock::v4(LOOP, 0), 7, |f| {
            md5_key(f, [127, 0, 0, 0], 8, b"for all")?;
            md5_key(f, [127, 0, 0, 9], 32, b"for one")
        });
        let Ok(f) = f else { s.skip("no TCP_MD5SIG") };
        let addr = sock::local(f)?;
        s.wait();
        let connects = |from: [u8; 4], key: &[u8]| {
            let c = sock::socket(AF_INET, SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
            if !key.is_empty() {
                md5_key(c, [127, 0, 0, 1], 32, key)?;
            }
            sock::bind(c, &sock::v4(Some(from), 0))?;
            fails("connect", libc::EINPROGRESS, sock::connect(c, &addr))?;
            Ok::<_, String>(fd::poll_ms(c, libc::POLLOUT, 200)? == libc::POLLOUT)
        };
        same("with the key of all", true, connects([127, 0, 0, 1], b"for all")?)?;
        same("with the key of one", true, connects([127, 0, 0, 9], b"for one")?)?;
        same("with the wrong key", false, connects([127, 0, 0, 9], b"for all")?)?;
        same("without a key", false, connects([127, 0, 0, 1], b"")?)?;
    }),
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
    row!("tcp-listening-any", [PORT], |s| {
        let f = listener(&sock::v4(None, 0), 128, |_| Ok(()))?;
        let addr = sock::local(f)?;
        s.wait();
        same("address", addr.clone(), sock::local(f)?)?;
        serves("client", f, &sock::v4(LOOP, addr.port()))?;
    }),
    row!("tcp-listening-v6", [PORT], |s| {
        if !has_v6() {
            s.skip("no IPv6 here");
        }
        let f = listener(&sock::v6(true, 0), 7, |f| sock::set(f, IPPROTO_IPV6, libc::IPV6_V6ONLY, 1))?;
        let names = [
            (IPPROTO_IPV6, libc::IPV6_V6ONLY),
            (IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
            (IPPROTO_IPV6, libc::IPV6_TCLASS),
            (IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
            (IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
            (IPPROTO_IPV6, libc::IPV6_AUTOFLOWLABEL),
        ];
        sock::set(f, IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, 29)?;
        sock::set(f, IPPROTO_IPV6, libc::IPV6_TCLASS, 0x20)?;
        sock::set(f, IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        let (addr, options) = (sock::local(f)?, read_options(f, &names));
        s.wait();
        same("address", addr.clone(), sock::local(f)?)?;
        same("options", options, read_options(f, &names))?;
        serves("client", f, &addr)?;
        let c = sock::socket(AF_INET, SOCK_STREAM, 0)?;
        fails("a client by IPv4", libc::ECONNREFUSED, sock::connect(c, &sock::v4(LOOP, addr.port())))?;
    }),
    row!("tcp-listening-dual", [PORT], |s| {
        if !has_v6() {
            s.skip("no IPv6 here");
        }
        let f = listener(&sock::v6(false, 0), 7, |f| sock::set(f, IPPROTO_IPV6, libc::IPV6_V6ONLY, 0))?;
        let addr = sock::local(f)?;
        s.wait();
        same("address", addr.clone(), sock::local(f)?)?;
        same("both families", 0, sock::get(f, IPPROTO_IPV6, libc::IPV6_V6ONLY)?)?;
        serves("client by IPv6", f, &sock::v6(true, addr.port()))?;
        serves("client by IPv4", f, &sock::v4(LOOP, addr.port()))?;
    }),
    row!("tcp-listening-both-families", [PORT], |s| {
        // Two sockets with one port number: possible because the IPv6 one is for IPv6 only.
        if !has_v6() {
            s.skip("no IPv6 here");
        }
        let f = listener(&sock::v4(None, 0), 7, |_| Ok(()))?;
        let port = sock::local(f)?.port();
        let Ok(g) = listener(&sock::v6(false, port), 7, |g| sock::set(g, IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)) else {
            s.skip("the port is taken in the other family")
        };
        s.wait();
        serves("client by IPv4", f, &sock::v4(LOOP, port))?;
        serves("client by IPv6", g, &sock::v6(true, port))?;
    }),
    row!("tcp-options", [PORT], |s| {
        let f = listener(&sock::v4(LOOP, 0), 20, |f| {
            set_common(f)?;
            sock::set(f, IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
            sock::set(f, IPPROTO_TCP, libc::TCP_CORK, 1)?;
            sock::set(f, IPPROTO_TCP, libc::TCP_KEEPIDLE, 111)?;
            sock::set(f, IPPROTO_TCP, libc::TCP_KEEPINTVL, 22)?;
            sock::set(f, IPPROTO_TCP, libc::TCP_KEEPCNT, 3)?;
            sock::set(f, IPPROTO_TCP, libc::TCP_SYNCNT, 4)?;
            sock::set(f, IPPROTO_TCP, libc::TCP_LINGER2, 17)?;
            sock::set(f, IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 34_567)?;
            sock::set(f, IPPROTO_TCP, libc::TCP_MAXSEG, 1000)?;
            sock::set(f, IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, 8192)?;
            let _ = sock::set_raw(f, IPPROTO_TCP, libc::TCP_CONGESTION, b"reno");
            Ok(())
        })?;
        let names = [&COMMON[..], &IP[..], &TCP[..]].concat();
        let (addr, before) = (sock::local(f)?, read_options(f, &names));
        s.wait();
        for (before, after) in before.into_iter().zip(read_options(f, &names)) {
            same("option", before, after)?;
        }
        sock::set(f, IPPROTO_TCP, libc::TCP_CORK, 0)?;
        serves("client", f, &addr)?;
    }),
    row!("tcp-defer-accept", [PORT], |s| {
        let f = listener(&sock::v4(LOOP, 0), 20, |f| {
            sock::set(f, IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 5)?;
            sock::set(f, IPPROTO_TCP, libc::TCP_SAVE_SYN, 1)
        })?;
        let _ = sock::set(f, IPPROTO_TCP, libc::TCP_FASTOPEN, 12);
        let names = TCP;
        let (addr, before) = (sock::local(f)?, read_options(f, &names));
        s.wait();
        same("options", before, read_options(f, &names))?;
        let c = sock::socket(AF_INET, SOCK_STREAM, 0)?;
        sock::connect(c, &addr)?;
        same("a silent client is not reported", 0, fd::poll_ms(f, libc::POLLIN, 100)?)?;
        fd::write_full(c, b"speaks")?;
        same("one that speaks is", libc::POLLIN, fd::poll_ms(f, libc::POLLIN, 5000)?)?;
        same_bytes("data", b"speaks", &fd::read(sock::accept(f, 0)?, 100)?)?;
    }),
    row!("tcp-backlog", [PORT], |s| {
        let f = listener(&sock::v4(LOOP, 0), 3, |_| Ok(()))?;
        // struct tcp_info of a listener: tcpi_sacked (word 4 after 8 bytes: rto, ato, snd_mss, rcv_mss, unacked, sacked) is the backlog
        let backlog = move || sock::get_raw(f, IPPROTO_TCP, libc::TCP_INFO).map(|b| b[28..32].to_vec());
        let before = backlog()?;
        same("backlog before", 3u32.to_ne_bytes().to_vec(), before.clone())?;
        s.wait();
        same("backlog", before, backlog()?)?;
    }),
    row!("tcp-reuseport-group", [PORT], |s| {
        let reuse = |f: i32| sock::set(f, SOL_SOCKET, libc::SO_REUSEPORT, 1);
        let first = listener(&sock::v4(LOOP, 0), 50, reuse)?;
        let addr = sock::local(first)?;
        let mut all = vec![first];
        for _ in 0..3 {
            all.push(listener(&addr, 50, reuse)?);
        }
        s.wait();
        for f in &all {
            same("address", addr.clone(), sock::local(*f)?)?;
            same("SO_REUSEPORT", 1, sock::get(*f, SOL_SOCKET, libc::SO_REUSEPORT)?)?;
        }
        // Forty clients spread over the four; that one of them gets none is next to impossible.
        let mut clients = Vec::new();
        for _ in 0..40 {
            let c = sock::socket(AF_INET, SOCK_STREAM, 0)?;
            sock::connect(c, &addr)?;
            clients.push(c);
        }
        let mut counts = Vec::new();
        for f in &all {
            fd::fcntl(*f, libc::F_SETFL, libc::O_NONBLOCK.into())?;
            let mut n = 0;
            while sock::accept(*f, 0).is_ok() {
                n += 1;
            }
            counts.push(n);
        }
        same("clients accepted", 40, counts.iter().sum::<i32>())?;
        truth(&format!("each got some: {counts:?}"), counts.iter().all(|n| *n > 0))?;
    }),
    row!("tcp-shared-listener", [PORT], |s| {
        // The way of a pre-forking server: children accept from one listener.
        let f = listener(&sock::v4(LOOP, 0), 50, |_| Ok(()))?;
        let addr = sock::local(f)?;
        for _ in 0..3 {
            s.spawn(|c| {
                crate::kit::run(c, |c| {
                    c.ready();
                    let a = loop {
                        match sock::accept(f, 0) {
                            Err(e) if e.code == libc::EINTR => {}
                            other => break other?,
                        }
                    };
                    fd::write_full(a, b"served")?;
                    c.await_go();
                    Ok(())
                });
            });
        }
        crate::sys::sleep_ms(20);
        s.wait();
        for _ in 0..3 {
            let c = sock::socket(AF_INET, SOCK_STREAM, 0)?;
            sock::connect(c, &addr)?;
            same_bytes("by a child", b"served", &fd::read_full(c, 6)?)?;
        }
        s.join();
    }),
    row!("tcp-unconnected", |s| {
        let f = sock::socket(AF_INET, SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
        sock::set(f, IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        set_common(f)?;
        let names = [&COMMON[..], &IP[..], &TCP[..]].concat();
        let (before, facts) = (read_options(f, &names), Facts::of(f)?.nameless());
        s.wait();
        facts.still("socket", f)?;
        for (before, after) in before.into_iter().zip(read_options(f, &names)) {
            same("option", before, after)?;
        }
        fails("peer", libc::ENOTCONN, sock::peer(f))?;
        same("address", 0, sock::local(f)?.port())?;
        sock::bind(f, &sock::v4(LOOP, 0))?;
        sock::listen(f, 1)?;
        fails("no client", libc::EAGAIN, sock::accept(f, 0))?;
    }),
    row!("tcp-bound", [PORT], |s| {
        let f = sock::socket(AF_INET, SOCK_STREAM, 0)?;
        sock::bind(f, &sock::v4(LOOP, 0))?;
        let addr = sock::local(f)?;
        s.wait();
        same("address", addr.clone(), sock::local(f)?)?;
        let c = sock::socket(AF_INET, SOCK_STREAM, 0)?;
        fails("connecting before it listens", libc::ECONNREFUSED, sock::connect(c, &addr))?;
        sock::listen(f, 5)?;
        serves("once it listens", f, &addr)?;
    }),
    row!("tcp-established-inside", [Flag::Refuse("tcp")], |s| {
        let f = listener(&sock::v4(LOOP, 0), 5, |_| Ok(()))?;
        let c = sock::socket(AF_INET, SOCK_STREAM, 0)?;
        sock::connect(c, &sock::local(f)?)?;
        let a = sock::accept(f, 0)?;
        fd::write_full(c, &pattern(1, 20_000))?;
        s.wait();
        same_bytes("data in flight", &pattern(1, 20_000), &fd::read_full(a, 20_000)?)?;
        fd::write_full(a, b"back")?;
        same_bytes("back", b"back", &fd::read_full(c, 4)?)?;
    }),
    row!("tcp-in-accept-queue", [Flag::Refuse("tcp")], |s| {
        let f = listener(&sock::v4(LOOP, 0), 5, |_| Ok(()))?;
        let c = sock::socket(AF_INET, SOCK_STREAM, 0)?;
        sock::connect(c, &sock::local(f)?)?;
        fd::write_full(c, b"waiting at the door")?;
        s.wait();
        let a = sock::accept(f, 0)?;
        same_bytes("data", b"waiting at the door", &fd::read_full(a, 19)?)?;
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
