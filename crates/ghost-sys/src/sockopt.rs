//! Socket options as bytes, and what waits in a socket: `getsockopt(2)`, `setsockopt(2)`, `SIOCINQ`, `SIOCOUTQ`.
//!
//! Bytes, since an export has to carry options whose shape only the kernel knows; numbers where the caller knows better.

#![allow(unsafe_code)]

use crate::{Errno, Result, errno::cvt};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Not in libc for all targets.
const SO_GET_FILTER: i32 = 26;
/// Levels whose options have the kernel keep addresses of the caller and write there later: RDS and AF_XDP.
const KEEPS_ADDRESSES: [i32; 2] = [276, 283];

/// An option's bytes, as many as the kernel has for it (at most `room`).
///
/// `EINVAL` for what counts in other units than bytes or works on memory of the caller: see [`filter`] for SO_GET_FILTER.
pub fn get(socket: BorrowedFd<'_>, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
    let mut value = vec![0_u8; room];
    let len = get_into(socket, level, name, &mut value)?;
    value.truncate(len);
    Ok(value)
}

/// [`get`] into memory of the caller; how many bytes it is.
pub fn get_into(socket: BorrowedFd<'_>, level: i32, name: i32, value: &mut [u8]) -> Result<usize> {
    if KEEPS_ADDRESSES.contains(&level) || (level, name) == (libc::SOL_SOCKET, SO_GET_FILTER) {
        return Err(Errno(libc::EINVAL));
    }
    value.fill(0);
    let mut len = value.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `value`, which outlives the call and is zeroed, so that options
    // which take an address from it (TCP_ZEROCOPY_RECEIVE) find none; the one that counts otherwise is refused above.
    cvt(unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len) } as i64)?;
    Ok((len as usize).min(value.len()))
}

/// Sets an option from bytes. `EINVAL` for levels whose options register memory of the caller (RDS, AF_XDP).
pub fn set(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<()> {
    if KEEPS_ADDRESSES.contains(&level) {
        return Err(Errno(libc::EINVAL));
    }
    let len = value.len() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of `value`. Options whose value holds addresses
    // have the kernel read there during the call (SO_ATTACH_FILTER), with EFAULT for what is not there; the levels that
    // keep addresses and write to them later are refused above.
    cvt(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), len) } as i64).map(drop)
}

/// An option that is an int.
pub fn get_i32(socket: BorrowedFd<'_>, level: i32, name: i32) -> Result<i32> {
    let value = get(socket, level, name, 4)?;
    value.try_into().map(i32::from_ne_bytes).map_err(|_| Errno(libc::EINVAL))
}

/// Sets an option that is an int.
pub fn set_i32(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> Result<()> {
    set(socket, level, name, &value.to_ne_bytes())
}

/// The classic BPF filter attached to a socket, as `struct sock_filter` bytes (SO_GET_FILTER, Linux 3.8); empty when none.
pub fn filter(socket: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let mut count: libc::socklen_t = 0;
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: with a length of 0 the kernel writes only the length, which counts instructions and not bytes.
    cvt(unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_GET_FILTER, null, &raw mut count) } as i64)?;
    let mut program = vec![0_u8; count as usize * 8];
    if count == 0 {
        return Ok(program);
    }
    // SAFETY: `program` has room for `count` instructions of eight bytes; the kernel refuses (EINVAL) if there are more.
    let r = unsafe {
        let to = program.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_GET_FILTER, to, &raw mut count)
    };
    cvt(r as i64)?;
    program.truncate(count as usize * 8);
    Ok(program)
}

/// Attaches a classic BPF filter given as `struct sock_filter` bytes (SO_ATTACH_FILTER).
pub fn attach_filter(socket: BorrowedFd<'_>, program: &[u8]) -> Result<()> {
    if !program.len().is_multiple_of(8) || program.is_empty() || program.len() / 8 > usize::from(u16::MAX) {
        return Err(Errno(libc::EINVAL));
    }
    let head = libc::sock_fprog { len: (program.len() / 8) as u16, filter: program.as_ptr().cast_mut().cast() };
    let len = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the kernel reads `head` and, through it, `len` instructions of `program`; both outlive the call. It copies
    // them byte by byte (copy_from_user), so that no alignment is asked.
    let r = unsafe {
        let from = (&raw const head).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, from, len)
    };
    cvt(r as i64).map(drop)
}

/// Bytes that can be read: of a stream all, of a datagram socket the first message (`SIOCINQ`, which is FIONREAD).
pub fn incoming_bytes(socket: BorrowedFd<'_>) -> Result<usize> {
    bytes(socket, libc::FIONREAD)
}

/// Bytes sent and not yet taken: by the peer's program for a unix socket, acknowledged by the peer for TCP (`SIOCOUTQ`).
pub fn outgoing_bytes(socket: BorrowedFd<'_>) -> Result<usize> {
    bytes(socket, libc::TIOCOUTQ)
}

/// Whether the next byte is the urgent one, of TCP and of a unix stream socket (`SIOCATMARK`).
pub fn at_mark(socket: BorrowedFd<'_>) -> Result<bool> {
    const SIOCATMARK: libc::Ioctl = 0x8905;
    bytes(socket, SIOCATMARK).map(|n| n != 0)
}

fn bytes(socket: BorrowedFd<'_>, request: libc::Ioctl) -> Result<usize> {
    let mut n = 0_i32;
    // SAFETY: the kernel writes one int, which outlives the call.
    cvt(unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut n) } as i64)?;
    Ok(n as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn options_and_queues() {
        let (mut a, b) = UnixStream::pair().unwrap();
        assert_eq!(get_i32(a.as_fd(), libc::SOL_SOCKET, libc::SO_TYPE), Ok(libc::SOCK_STREAM));
        set_i32(a.as_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, 1).unwrap();
        assert_eq!(get(a.as_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, 16), Ok(vec![1, 0, 0, 0]));
        assert_eq!(get(a.as_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, 64).unwrap().len(), 12);
        assert_eq!(get(a.as_fd(), libc::SOL_SOCKET, 9999, 64), Err(Errno(libc::ENOPROTOOPT)));
        set_i32(a.as_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, 0).unwrap();
        a.write_all(b"12345").unwrap();
        assert_eq!(incoming_bytes(b.as_fd()), Ok(5));
        assert!(outgoing_bytes(a.as_fd()).unwrap() >= 5);
        assert_eq!(incoming_bytes(a.as_fd()), Ok(0));
    }

    #[test]
    fn a_filter_comes_back_as_it_went() {
        let (a, _b) = UnixStream::pair().unwrap();
        assert!(filter(a.as_fd()).unwrap().is_empty());
        assert_eq!(get(a.as_fd(), libc::SOL_SOCKET, SO_GET_FILTER, 8), Err(Errno(libc::EINVAL)));
        assert_eq!(set(a.as_fd(), 283, 1, &[0; 8]), Err(Errno(libc::EINVAL)));
        // BPF_RET | BPF_K, accept all
        let program = [6, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f];
        attach_filter(a.as_fd(), &program).unwrap();
        assert_eq!(filter(a.as_fd()).unwrap(), program);
        assert_eq!(attach_filter(a.as_fd(), &program[..5]), Err(Errno(libc::EINVAL)));
    }
}
