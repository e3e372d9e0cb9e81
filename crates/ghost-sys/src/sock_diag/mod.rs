//! What the kernel tells of sockets by netlink: `sock_diag(7)`, Linux 3.3 with the modules unix_diag and inet_diag.
//!
//! A dump lists the sockets of the network namespace in which the netlink socket was made, hence [`SockDiag::open`] must
//! run in the right one. One dump for all sockets of a tree, looked up by inode: a request a
//! socket would cost more than a dump of a thousand. No privilege, except for socket memory and marks.

#![allow(unsafe_code)]

mod inet;
mod unix;

pub use inet::*;
pub use unix::*;

use crate::{Errno, Result, errno::cvt};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The dump changed under way: what was listed may miss sockets.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Length of `struct nlmsghdr`.
const HEAD: usize = 16;

/// A netlink socket for questions about sockets.
#[derive(Debug)]
pub struct SockDiag {
    fd: OwnedFd,
}

impl SockDiag {
    /// Opens one in the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: takes numbers only.
        let fd = cvt(unsafe { libc::socket(libc::AF_NETLINK, kind, NETLINK_SOCK_DIAG) } as i64)?;
        // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd as i32) } })
    }

    /// Asks for a dump and parses each answer, without its header; again from the start when the kernel says that
    /// sockets came or went in between.
    fn dump<T>(&self, request: &[u8], mut parse: impl FnMut(&[u8]) -> Option<T>) -> Result<Vec<T>> {
        // A busy host may never hold still; the last dump is as good as any then, for the tree itself is frozen.
        for attempt in 0..4 {
            let mut all = Vec::new();
            if self.dump_once(request, &mut |bytes| all.extend(parse(bytes)))? || attempt == 3 {
                return Ok(all);
            }
        }
        Err(Errno(libc::EINTR))
    }

    /// Whether the dump was of one moment.
    fn dump_once(&self, request: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let mut message = Vec::with_capacity(HEAD + request.len());
        message.extend(((HEAD + request.len()) as u32).to_ne_bytes());
        message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        message.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        message.extend([0; 8]); // sequence number and port: one question at a time needs none
        message.extend(request);
        // SAFETY: the kernel reads `message`, which outlives the call.
        cvt(unsafe { libc::send(self.fd.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) } as i64)?;
        let mut buf = vec![0_u8; 64 << 10];
        let mut whole = true;
        loop {
            // SAFETY: the kernel writes at most `buf.len()` bytes into `buf`, which outlives the call.
            let n = unsafe { libc::recv(self.fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), libc::MSG_TRUNC) };
            let n = match cvt(n as i64) {
                Err(Errno(libc::EINTR)) => continue,
                other => other? as usize,
            };
            if n > buf.len() {
                return Err(Errno(libc::EMSGSIZE));
            }
            let mut rest = &buf[..n];
            while rest.len() >= HEAD {
                let len = u32_at(rest, 0) as usize;
                if len < HEAD || len > rest.len() {
                    return Err(Errno(libc::EBADMSG));
                }
                whole &= u16_at(rest, 6) & NLM_F_DUMP_INTR == 0;
                let body = &rest[HEAD..len];
                match u16_at(rest, 4) {
                    // The answer to a dump may end with an error, given as a negative number.
                    NLMSG_DONE | NLMSG_ERROR if body.len() >= 4 && (u32_at(body, 0) as i32) < 0 => {
                        return Err(Errno(-(u32_at(body, 0) as i32)));
                    }
                    NLMSG_DONE => return Ok(whole),
                    NLMSG_ERROR => return Err(Errno(libc::EBADMSG)),
                    _ => each(body),
                }
                rest = &rest[len.next_multiple_of(4).min(rest.len())..];
            }
        }
    }
}

/// The attributes behind a message's fixed part: `(type, bytes)`.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        if rest.len() < 4 {
            return None;
        }
        let (len, kind) = (u16_at(rest, 0) as usize, u16_at(rest, 2));
        if len < 4 || len > rest.len() {
            return None;
        }
        let body = &rest[4..len];
        rest = &rest[len.next_multiple_of(4).min(rest.len())..];
        Some((kind, body))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
