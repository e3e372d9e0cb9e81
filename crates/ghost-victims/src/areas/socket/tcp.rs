//! TCP: listeners that serve a new client afterwards, options, groups.
use super::inet::{COMMON, IP, LOOP, PORT, has_v6, read_options, set_common};
use crate::kit::fd::{self, Facts};
use crate::kit::sock::{self, Addr};
use crate::kit::{Errno, fails, pattern, row, same, same_bytes, truth};
use crate::{Flag, Victim};
use libc::{AF_INET, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, SOCK_STREAM, SOL_SOCKET};

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
    row!("tcp-address-of-nobody", [PORT], |s| {
        // Bound by IP_FREEBIND, which is off again: the host has no such address.
        let nobody = Some([10, 99, 98, 97]);
        let f = sock::socket(AF_INET, SOCK_STREAM, 0)?;
        sock::set(f, IPPROTO_IP, libc::IP_FREEBIND, 1)?;
        sock::bind(f, &sock::v4(nobody, 0))?;
        sock::set(f, IPPROTO_IP, libc::IP_FREEBIND, 0)?;
        sock::listen(f, 3)?;
        let before = sock::local(f)?;
        s.wait();
        same("address", before.clone(), sock::local(f)?)?;
        same("IP_FREEBIND", 0, sock::get(f, IPPROTO_IP, libc::IP_FREEBIND)?)?;
        let c = sock::socket(AF_INET, SOCK_STREAM, 0)?;
        fails("another one", libc::EADDRNOTAVAIL, sock::bind(c, &sock::v4(nobody, 0)))?;
    }),
    row!("tcp-reuse-off-again", [PORT], |s| {
        // Three had to allow each other to be bound; one listens, and one does not allow it any more.
        let bound = |addr: &Addr| -> Result<i32, Errno> {
            let f = sock::socket(AF_INET, SOCK_STREAM, 0)?;
            sock::set(f, SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
            sock::bind(f, addr)?;
            Ok(f)
        };
        let first = bound(&sock::v4(LOOP, 0))?;
        let addr = sock::local(first)?;
        let all = [first, bound(&addr)?, bound(&addr)?];
        sock::listen(all[0], 5)?;
        sock::set(all[1], SOL_SOCKET, libc::SO_REUSEADDR, 0)?;
        s.wait();
        for (f, reuse) in all.into_iter().zip([1, 0, 1]) {
            same("address", addr.clone(), sock::local(f)?)?;
            same("SO_REUSEADDR", reuse, sock::get(f, SOL_SOCKET, libc::SO_REUSEADDR)?)?;
        }
        serves("the one that listens", all[0], &addr)?;
        fails("a second listener", libc::EADDRINUSE, sock::listen(all[1], 5))?;
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
];
