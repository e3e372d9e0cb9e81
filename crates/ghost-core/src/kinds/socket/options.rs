//! Socket options: those that differ from what a fresh socket of its sort has.
//!
//! `getsockopt(2)` on the socket and on a fresh one; `setsockopt(2)`. A value that is the default here stays the default
//! there, whatever that is on the other host. What can't be set again (it takes a privilege, or the kernel has no such
//! option) is noted.

use crate::error::{Context, KindError};
use ghost_image::record as rec;
use ghost_sys::{Errno, sock, sockopt};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

const SOCKET: i32 = 1;
const IP: i32 = 0;
const TCP: i32 = 6;
const UDP: i32 = 17;
const IPV6: i32 = 41;

const SO_SNDBUF: i32 = 7;
const SO_RCVBUF: i32 = 8;
const SO_SNDBUFFORCE: i32 = 32;
const SO_RCVBUFFORCE: i32 = 33;
/// `SO_PASSCRED`
pub const SO_PASSCRED: i32 = 16;
/// `SO_PEEK_OFF`
pub const SO_PEEK_OFF: i32 = 42;
const SO_REUSEADDR: i32 = 2;

/// Options by level. IP before SOCKET, since IP_TOS sets SO_PRIORITY too; buffer sizes before SO_BUF_LOCK.
const TABLE: &[(i32, &[i32])] = &[
    // TOS TTL OPTIONS RECVOPTS RETOPTS PKTINFO MTU_DISCOVER RECVERR RECVTTL RECVTOS FREEBIND TRANSPARENT RECVORIGDSTADDR
    // PASSSEC MINTTL NODEFRAG CHECKSUM BIND_ADDRESS_NO_PORT RECVFRAGSIZE RECVERR_RFC4884, MULTICAST_IF _TTL _LOOP _ALL, UNICAST_IF,
    // LOCAL_PORT_RANGE
    (IP, &[1, 2, 4, 6, 7, 8, 10, 11, 12, 13, 15, 18, 19, 20, 21, 22, 23, 24, 25, 26, 32, 33, 34, 49, 50, 51]),
    // UNICAST_HOPS MULTICAST_IF _HOPS _LOOP, MTU_DISCOVER RECVERR V6ONLY, MULTICAST_ALL, RECVPKTINFO RECVHOPLIMIT RECVHOPOPTS
    // HOPOPTS RTHDRDSTOPTS RECVRTHDR RTHDR RECVDSTOPTS DSTOPTS RECVPATHMTU DONTFRAG RECVTCLASS TCLASS AUTOFLOWLABEL
    // ADDR_PREFERENCES MINHOPCOUNT ORIGDSTADDR TRANSPARENT UNICAST_IF RECVFRAGSIZE FREEBIND; 2292PKTINFO 2292HOPOPTS
    // 2292DSTOPTS 2292RTHDR 2292HOPLIMIT FLOWINFO ROUTER_ALERT_ISOLATE RECVERR_RFC4884 FLOWINFO_SEND
    (
        IPV6,
        &[
            16, 17, 18, 19, 23, 25, 26, 29, 49, 51, 53, 54, 55, 56, 57, 58, 59, 60, 62, 66, 67, 70, 72, 73, 74, 75, 76,
            77, 78, 2, 3, 4, 5, 8, 11, 30, 31, 33,
        ],
    ),
    // DEBUG REUSEADDR DONTROUTE BROADCAST SNDBUF RCVBUF KEEPALIVE OOBINLINE NO_CHECK PRIORITY LINGER REUSEPORT PASSCRED
    // RCVLOWAT RCVTIMEO SNDTIMEO BINDTODEVICE TIMESTAMP PASSSEC TIMESTAMPNS MARK TIMESTAMPING RXQ_OVFL WIFI_STATUS PEEK_OFF
    // NOFCS SELECT_ERR_QUEUE BUSY_POLL MAX_PACING_RATE INCOMING_CPU ZEROCOPY TXTIME TIMESTAMP_NEW TIMESTAMPNS_NEW
    // PREFER_BUSY_POLL BUSY_POLL_BUDGET BUF_LOCK RESERVE_MEM TXREHASH RCVMARK PASSPIDFD RCVPRIORITY PASSRIGHTS TIMESTAMPING_NEW LOCK_FILTER
    (
        SOCKET,
        &[
            1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 18, 20, 21, 25, 29, 34, 35, 36, 37, 40, 41, 42, 43, 45, 46,
            47, 49, 60, 61, 63, 64, 69, 70, 72, 73, 74, 75, 76, 82, 83, 65, 44,
        ],
    ),
    // NODELAY MAXSEG CORK KEEPIDLE KEEPINTVL KEEPCNT SYNCNT LINGER2 DEFER_ACCEPT WINDOW_CLAMP QUICKACK CONGESTION
    // THIN_LINEAR_TIMEOUTS USER_TIMEOUT FASTOPEN NOTSENT_LOWAT SAVE_SYN FASTOPEN_CONNECT FASTOPEN_NO_COOKIE INQ TX_DELAY
    // FASTOPEN_KEY RTO_MAX_MS RTO_MIN_US DELACK_MAX_US
    (TCP, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 16, 18, 23, 25, 27, 30, 34, 36, 37, 33, 44, 45, 46]),
    // CORK ENCAP NO_CHECK6_TX NO_CHECK6_RX SEGMENT GRO
    (UDP, &[1, 100, 101, 102, 103, 104]),
];
/// No option that we carry is longer.
const ROOM: usize = 256;

type Sort = (u32, u32, u32);
/// What the options of a socket are kept in, as the kernel has it ([`ghost_sys::bpf::file`]), with its sort.
type Mark = (Sort, Vec<u64>);

/// What fresh sockets of each sort have, and what has been found out of others; for all threads.
#[derive(Debug, Default)]
pub struct Known {
    fresh: Mutex<HashMap<Sort, Arc<Fresh>>>,
    alike: Mutex<HashMap<Mark, Arc<[rec::SockOpt]>>>,
}

/// A fresh socket of one sort: the options that such sockets have, each with its value unless it has none yet.
#[derive(Debug)]
struct Fresh(Values);

/// Options by level and number, each with its value if it has one.
type Values = Vec<(i32, i32, Option<Vec<u8>>)>;

impl Known {
    fn fresh(&self, sort: Sort) -> Result<Arc<Fresh>, KindError> {
        let mut fresh = self.fresh.lock().expect("nobody panics while holding it");
        if let Some(known) = fresh.get(&sort) {
            return Ok(Arc::clone(known));
        }
        let socket = make(sort).step("making a socket to compare with")?;
        let made = Arc::new(Fresh::of(socket.as_fd()));
        fresh.insert(sort, Arc::clone(&made));
        Ok(made)
    }

    /// The options that sockets of a sort have, each with its usual value.
    pub fn usual(&self, sort: Sort) -> Result<Values, KindError> {
        Ok(self.fresh(sort)?.0.clone())
    }

    /// The options of a socket that differ from those of a fresh one. Of several with one mark, one is asked.
    pub fn export_marked(
        &self,
        socket: BorrowedFd<'_>,
        sort: Sort,
        mark: &[u64],
    ) -> Result<Vec<rec::SockOpt>, KindError> {
        let mark = (sort, mark.to_vec());
        if let Some(known) = self.alike.lock().expect("nobody panics while holding it").get(&mark) {
            return Ok(known.to_vec());
        }
        let options = self.export(socket, sort)?;
        self.alike.lock().expect("nobody panics while holding it").insert(mark, options.clone().into());
        Ok(options)
    }

    /// The options of a socket that differ from those of a fresh one.
    pub fn export(&self, socket: BorrowedFd<'_>, sort: Sort) -> Result<Vec<rec::SockOpt>, KindError> {
        let fresh = self.fresh(sort)?;
        let mut room = [0; ROOM];
        let mut changed = Vec::new();
        for (level, name, default) in &fresh.0 {
            let Ok(len) = sockopt::get_into(socket, *level, *name, &mut room) else { continue };
            if default.as_deref() != Some(&room[..len]) {
                changed.push(rec::SockOpt { level: *level, name: *name, value: room[..len].to_vec() });
            }
        }
        Ok(changed)
    }
}

fn make((family, kind, protocol): Sort) -> Result<OwnedFd, Errno> {
    sock::socket(family as i32, kind as i32, protocol as i32)
}

impl Fresh {
    fn of(socket: BorrowedFd<'_>) -> Self {
        let levels = TABLE.iter().flat_map(|(level, names)| names.iter().map(move |name| (*level, *name)));
        let known = levels.filter_map(|(level, name)| match sockopt::get(socket, level, name, ROOM) {
            Ok(value) => Some((level, name, Some(value))),
            // Not an option of this sort, whatever state a socket is in: never asked again.
            Err(Errno(libc::ENOPROTOOPT | libc::EOPNOTSUPP)) => None,
            Err(_) => Some((level, name, None)),
        });
        Self(known.collect())
    }
}

/// Sets options again; tells which could not be.
pub fn import(socket: BorrowedFd<'_>, options: &[rec::SockOpt]) -> Vec<String> {
    options
        .iter()
        .filter_map(|o| set(socket, o).err().map(|e| format!("option {}.{} ({e})", o.level, o.name)))
        .collect()
}

fn set(socket: BorrowedFd<'_>, option: &rec::SockOpt) -> Result<(), Errno> {
    let (level, name, value) = (option.level, option.name, option.value.as_slice());
    let buffer = |force| {
        // The kernel doubles what it is given.
        let size = value.try_into().map_or(0, i32::from_ne_bytes) / 2;
        sockopt::set_i32(socket, SOCKET, force, size).or_else(|_| sockopt::set_i32(socket, SOCKET, name, size))
    };
    let done = match (level, name) {
        (SOCKET, SO_SNDBUF) => buffer(SO_SNDBUFFORCE),
        (SOCKET, SO_RCVBUF) => buffer(SO_RCVBUFFORCE),
        _ => sockopt::set(socket, level, name, value),
    };
    // What cannot be set may be so already, as a consequence of another.
    match done {
        Ok(()) => Ok(()),
        Err(_) if sockopt::get(socket, level, name, ROOM).is_ok_and(|now| now == value) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Those that matter while data are put into its queue, which are set after that.
pub fn is_late(option: &rec::SockOpt) -> bool {
    option.level == SOCKET && matches!(option.name, SO_PASSCRED | SO_PEEK_OFF | SO_SNDBUF | 72 | 76 | 83)
}

/// Allows an address that connections of the original still hold in TIME_WAIT, or another socket of the ghost.
pub fn reuse_for_bind(socket: BorrowedFd<'_>) -> Result<(), KindError> {
    sockopt::set_i32(socket, SOCKET, SO_REUSEADDR, 1).step("setting SO_REUSEADDR")
}

/// Takes [`reuse_for_bind`] back: what it is among these options.
pub fn reuse_again(socket: BorrowedFd<'_>, options: &[rec::SockOpt]) -> Result<(), KindError> {
    let wanted = options.iter().find(|o| (o.level, o.name) == (SOCKET, SO_REUSEADDR));
    let wanted = wanted.and_then(|o| Some(i32::from_ne_bytes(o.value.get(..4)?.try_into().ok()?)));
    sockopt::set_i32(socket, SOCKET, SO_REUSEADDR, wanted.unwrap_or(0)).step("setting SO_REUSEADDR")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_changed_is_written_and_comes_back() {
        let sort = (2, 1, 6);
        let one = sock::socket(2, 1, 0).unwrap();
        let known = Known::default();
        assert_eq!(known.export(one.as_fd(), sort).unwrap(), []);
        sockopt::set_i32(one.as_fd(), TCP, 1, 1).unwrap();
        sockopt::set_i32(one.as_fd(), SOCKET, SO_RCVBUF, 50_000).unwrap();
        sockopt::set_i32(one.as_fd(), IP, 1, 0x10).unwrap();
        sockopt::set(one.as_fd(), SOCKET, 20, &[[7_u8, 0, 0, 0, 0, 0, 0, 0], [0; 8]].concat()).unwrap();
        let changed = known.export(one.as_fd(), sort).unwrap();
        assert!(changed.len() >= 4, "{changed:?}");
        let two = sock::socket(2, 1, 0).unwrap();
        assert_eq!(import(two.as_fd(), &changed), Vec::<String>::new());
        assert_eq!(known.export(two.as_fd(), sort).unwrap(), changed);
    }
}
