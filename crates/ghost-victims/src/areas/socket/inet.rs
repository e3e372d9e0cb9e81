//! What the victims of TCP and UDP have in common: addresses and options.
use crate::Flag;
use crate::kit::Errno;
use crate::kit::fd;
use crate::kit::sock;
use libc::{AF_INET6, IPPROTO_IP, SOCK_DGRAM, SOL_SOCKET};

pub(super) const PORT: Flag = Flag::NoDup("two copies cannot both have the port");
pub(super) const LOOP: Option<[u8; 4]> = Some([127, 0, 0, 1]);

/// Whether this host has IPv6 on its loopback.
pub(super) fn has_v6() -> bool {
    sock::socket(AF_INET6, SOCK_DGRAM, 0).is_ok_and(|f| {
        let ok = sock::bind(f, &sock::v6(true, 0)).is_ok();
        let _ = fd::close(f);
        ok
    })
}

pub(super) type Options = Vec<((i32, i32), Option<Vec<u8>>)>;

/// The values of these options; `None` where the kernel has none.
pub(super) fn read_options(f: i32, names: &[(i32, i32)]) -> Options {
    names.iter().map(|(level, opt)| ((*level, *opt), sock::get_raw(f, *level, *opt).ok())).collect()
}

pub(super) const COMMON: [(i32, i32); 19] = [
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
pub(super) const IP: [(i32, i32); 9] = [
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

/// Sets many options, each to a value that is not its default.
pub(super) fn set_common(f: i32) -> Result<(), Errno> {
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
