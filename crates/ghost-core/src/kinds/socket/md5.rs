//! Keys of TCP_MD5SIG (RFC 2385), which a listener has for those who may connect: BGP routers.
//!
//! `getsockopt(2)` tells none. inet_diag does (Linux 4.14), to who has CAP_NET_ADMIN, of a socket that listens.
//! Of another only SO_MEMINFO shows that there is something, for keys count as its option memory, and hardly anything
//! else does: refused by name then. Not told: the interface of a key that holds within one VRF only.

use super::Facts;
use super::inet::SO_MEMINFO;
use crate::error::{Context, KindError};
use crate::kinds::fd::class::Refusal;
use crate::view::FdView;
use ghost_image::record as rec;
use ghost_sys::sock_diag::SockDiag;
use ghost_sys::sockopt;
use std::os::fd::{AsFd, BorrowedFd};

const IPPROTO_TCP: i32 = 6;
const IPPROTO_IPV6: i32 = 41;
/// Where in it the option memory is.
const OPTMEM: usize = 6 * 4;
const TCP_MD5SIG_EXT: i32 = 32;
/// TCP_MD5SIG_FLAG_PREFIX
const PREFIX: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `struct tcp_diag_md5sig`: family, prefix length, length of the key (as the processor has it, whatever the header says), address (16 bytes), key (80).
const TOLD: usize = 100;
/// Extension headers of IPv6, which count, too, and travel as options: HOPOPTS RTHDRDSTOPTS RTHDR DSTOPTS.
const EXTENSIONS: [i32; 4] = [54, 55, 57, 59];

/// Whether any option of the socket takes memory for itself.
fn takes_option_memory(fd: &FdView) -> bool {
    let memory = sockopt::get(fd.ours.as_fd(), super::SOCKET, SO_MEMINFO, 36).unwrap_or_default();
    memory.get(OPTMEM..OPTMEM + 4).is_some_and(|m| m != [0; 4])
}

/// The keys of a socket.
fn keys<'f>(facts: &'f Facts, fd: &FdView) -> &'f [u8] {
    if !takes_option_memory(fd) {
        return &[];
    }
    let dump = || SockDiag::open().and_then(|d| d.tcp_with_keys()).unwrap_or_default();
    facts.tcp.get_or_init(dump).get(&(fd.stat.st_ino as u32)).map_or(&[], |s| &s.md5_keys)
}

/// Whether the socket has option memory that none of its options accounts for: keys, memberships.
pub(super) fn has_option_memory(fd: &FdView) -> bool {
    let options = fd.socket.as_ref().map_or(&[][..], |s| &s.options);
    takes_option_memory(fd) && !options.iter().any(|o| o.level == IPPROTO_IPV6 && EXTENSIONS.contains(&o.name))
}

/// Refuses a socket with keys that nothing tells.
pub(super) fn check(facts: &Facts, fd: &FdView) -> Option<Refusal> {
    (has_option_memory(fd) && keys(facts, fd).is_empty()).then(|| {
        Refusal::new(
            "tcp",
            "it has keys (TCP_MD5SIG), which the kernel tells only of a socket that listens, and to who has CAP_NET_ADMIN",
            "let the program close it, or run ghost with CAP_NET_ADMIN",
        )
    })
}

/// Writes the keys.
pub(super) fn export(facts: &Facts, fd: &FdView, socket: &mut rec::Socket) {
    if socket.protocol == IPPROTO_TCP as u32 {
        socket.md5_keys = keys(facts, fd).to_vec();
    }
}

/// Gives a new socket its keys, before it is bound.
pub(super) fn import(fd: BorrowedFd<'_>, socket: &rec::Socket) -> Result<(), KindError> {
    for told in socket.md5_keys.as_chunks::<TOLD>().0 {
        let key = parameter(told, socket.family as u8)
            .ok_or_else(|| KindError::conflict("reading the records", "a key of TCP_MD5SIG is of no known family"))?;
        sockopt::set(fd, IPPROTO_TCP, TCP_MD5SIG_EXT, &key)
            .step("giving a socket its keys (TCP_MD5SIG)")
            .map_err(|e| e.advise("restart it on a kernel with CONFIG_TCP_MD5SIG that is not in FIPS mode"))?;
    }
    Ok(())
}

/// `struct tcp_md5sig` of what was told: address (128 bytes), flags, prefix length, length of the key, interface, key (80).
fn parameter(told: &[u8; TOLD], family: u8) -> Option<[u8; 216]> {
    let mut key = [0; 216];
    key[0] = family;
    match (family, told[0]) {
        (AF_INET, AF_INET) => key[4..8].copy_from_slice(&told[4..8]),
        (AF_INET6, AF_INET6) => key[8..24].copy_from_slice(&told[4..20]),
        // An address of IPv4 in a socket of both.
        (AF_INET6, AF_INET) => {
            key[18..20].fill(0xff);
            key[20..24].copy_from_slice(&told[4..8]);
        }
        _ => return None,
    }
    key[128] = PREFIX;
    key[129] = told[1];
    let len = u16::from_ne_bytes([told[2], told[3]]);
    key[130..132].copy_from_slice(&len.to_ne_bytes());
    key[136..216].copy_from_slice(&told[20..100]);
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::fd::testing::{exporting, view_of};
    use ghost_sys::sock;

    #[test]
    fn keys_come_back_and_those_of_a_socket_that_does_not_listen_are_refused() {
        let fd = sock::socket(2, 1, 0).unwrap();
        let told: Vec<u8> = [&[2, 24, 5, 0, 127, 0, 1, 0][..], &[0; 12], b"12345", &[0; 75]].concat();
        let was = rec::Socket { family: 2, protocol: 6, md5_keys: told.clone(), ..rec::Socket::default() };
        if let Err(e) = import(fd.as_fd(), &was) {
            eprintln!("skipped: {e}");
            return;
        }
        let facts = Facts::default();
        assert_eq!(check(&facts, &view_of(fd.as_fd())).unwrap().kind, "tcp");
        sock::bind(fd.as_fd(), &[2, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        sock::listen(fd.as_fd(), 1).unwrap();
        let now = exporting(|cx| super::super::export(cx, &view_of(fd.as_fd()))).unwrap();
        assert_eq!(now.md5_keys, told);
    }
}
