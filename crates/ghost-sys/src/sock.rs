//! Sockets by their raw addresses: `bind(2)`, `connect(2)`, `getsockname(2)`, and unix names that are bound where nobody
//! else sees them.
//!
//! Addresses are `struct sockaddr` bytes as the kernel gave them, so that a unix name comes back to the byte: relative,
//! abstract, with or without its NUL.

#![allow(unsafe_code)]

use crate::{Errno, Result, errno::cvt};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

const NAME: usize = 128;

/// A socket; close-on-exec is always added.
pub fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = cvt(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) } as i64)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Its own address; only the family when it has none.
pub fn name(socket: BorrowedFd<'_>) -> Result<Vec<u8>> {
    ask(socket, libc::getsockname)
}
/// The address of whom it is connected to.
pub fn peer_name(socket: BorrowedFd<'_>) -> Result<Vec<u8>> {
    ask(socket, libc::getpeername)
}

/// The file that a unix socket is bound to, wherever its name is now, opened with O_PATH (SIOCUNIXFILE, Linux 4.12; CAP_NET_ADMIN).
pub fn unix_file(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    const SIOCUNIXFILE: libc::Ioctl = 0x89e0;
    // SAFETY: the call takes no argument.
    let fd = cvt(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCUNIXFILE, 0) }.into())?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

type Ask = unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;
fn ask(socket: BorrowedFd<'_>, call: Ask) -> Result<Vec<u8>> {
    let mut address = vec![0_u8; NAME];
    let mut len = NAME as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `address`, which outlives the call.
    cvt(unsafe { call(socket.as_raw_fd(), address.as_mut_ptr().cast(), &raw mut len) } as i64)?;
    address.truncate(len as usize);
    Ok(address)
}

/// Gives it an address.
///
/// The kernel tells a unix name that fills its address with a NUL after it, which it does not take back.
pub fn bind(socket: BorrowedFd<'_>, address: &[u8]) -> Result<()> {
    let address = &address[..address.len().min(ADDRESS_MAX)];
    // SAFETY: the kernel reads `len` bytes of `address`, which outlives the call.
    cvt(unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), address.len() as u32) } as i64).map(drop)
}

/// Connects it. Two bytes of AF_UNSPEC undo that of a datagram socket.
pub fn connect(socket: BorrowedFd<'_>, address: &[u8]) -> Result<()> {
    // SAFETY: the kernel reads `len` bytes of `address`, which outlives the call.
    cvt(unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), address.len() as u32) } as i64).map(drop)
}

/// Lets it take connections.
pub fn listen(socket: BorrowedFd<'_>, backlog: i32) -> Result<()> {
    // SAFETY: takes numbers only.
    cvt(unsafe { libc::listen(socket.as_raw_fd(), backlog) } as i64).map(drop)
}

/// Takes the next connection, if one waits.
pub fn accept(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    let null = std::ptr::null_mut::<libc::sockaddr>();
    let flags = libc::SOCK_CLOEXEC;
    // SAFETY: no address is asked for.
    let fd = cvt(unsafe { libc::accept4(socket.as_raw_fd(), null, std::ptr::null_mut(), flags) } as i64)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// How many of the next bytes of a unix stream lie in pieces that were sent before the one in which byte `len` ends.
///
/// The kernel copies a stream piece by piece and gives back those that were whole. So it is asked to peek into room that
/// ends one byte short, at a page that can't be written: the last piece fails, and the count stops before it.
pub fn pieces_before_last(socket: BorrowedFd<'_>, len: usize) -> Result<usize> {
    const PAGE: usize = 4096;
    let room = len.saturating_sub(1);
    let whole = room.next_multiple_of(PAGE) + PAGE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping of our own, at an address that the kernel chooses.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), whole, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // SAFETY: the last page of that mapping.
    let wall = unsafe { base.cast::<u8>().add(whole - PAGE) };
    // SAFETY: as above; nobody else knows the mapping.
    let n = match cvt(unsafe { libc::mprotect(wall.cast(), PAGE, libc::PROT_NONE) } as i64) {
        Err(e) => Err(e),
        Ok(_) => {
            // SAFETY: `room` bytes before the wall lie in the mapping. What lies behind can't be written: the kernel finds
            // that out by itself and says so.
            let n = unsafe {
                let at = wall.sub(room);
                libc::recv(socket.as_raw_fd(), at.cast(), room + PAGE, libc::MSG_PEEK | libc::MSG_DONTWAIT)
            };
            match cvt(n as i64) {
                Err(Errno(libc::EFAULT)) => Ok(0),
                other => other.map(|n| n as usize),
            }
        }
    };
    // SAFETY: the mapping made above, which nothing points into any more.
    unsafe { libc::munmap(base, whole) };
    n
}

/// Whether it has joined this multicast group on this interface (MCAST_MSFILTER, Linux 2.4.22).
pub fn is_member(socket: BorrowedFd<'_>, interface: u32, group: std::net::IpAddr) -> bool {
    const MCAST_MSFILTER: i32 = 48;
    /// `struct group_filter` without sources: interface, padding, group (128), mode, number of sources.
    const LEN: usize = 144;
    let mut filter = [0_u8; LEN];
    filter[..4].copy_from_slice(&interface.to_ne_bytes());
    let level = match group {
        std::net::IpAddr::V4(ip) => {
            filter[8..10].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            filter[12..16].copy_from_slice(&ip.octets());
            libc::IPPROTO_IP
        }
        std::net::IpAddr::V6(ip) => {
            filter[8..10].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            filter[16..32].copy_from_slice(&ip.octets());
            libc::IPPROTO_IPV6
        }
    };
    let mut len = LEN as libc::socklen_t;
    let at = filter.as_mut_ptr().cast();
    // SAFETY: the kernel reads and writes at most `len` bytes of `filter`, which outlives the call.
    unsafe { libc::getsockopt(socket.as_raw_fd(), level, MCAST_MSFILTER, at, &raw mut len) == 0 }
}

/// The path in a unix address; None when it is abstract or unnamed.
pub fn unix_path(address: &[u8]) -> Option<&[u8]> {
    let path = address.get(2..).filter(|p| p.first().is_some_and(|b| *b != 0))?;
    Some(path.split(|b| *b == 0).next().unwrap_or(path))
}

/// The longest address that `bind(2)` is given: none of the families here is longer than a unix address.
const ADDRESS_MAX: usize = UNIX_ADDRESS_MAX;

/// The longest unix address: `struct sockaddr_un`.
pub const UNIX_ADDRESS_MAX: usize = size_of::<libc::sockaddr_un>();

/// The unix address of a path. One that fills it to the end stands without a NUL after it.
pub fn unix_address(path: &[u8]) -> Vec<u8> {
    let mut address = [&(libc::AF_UNIX as u16).to_ne_bytes()[..], path].concat();
    if address.len() < UNIX_ADDRESS_MAX {
        address.push(0);
    }
    address
}

/// Binds a unix socket to a relative name as seen from `directory`.
pub fn bind_in(socket: BorrowedFd<'_>, address: &[u8], directory: &[u8]) -> Result<()> {
    let directory = c_path(directory)?;
    apart(|| {
        // SAFETY: the path is NUL-terminated; only this thread's working directory changes, which `apart` made its own.
        cvt(unsafe { libc::chdir(directory.as_ptr()) } as i64)?;
        bind(socket, address)
    })
}

/// Binds a unix socket to a path that only it has: the name is there to the byte, and no file of the host is touched.
///
/// The file lies in a tmpfs of a mount namespace that ends with the call; the socket keeps it. Returns it (O_PATH), by which
/// others can still reach the socket (`/proc/self/fd`). Needs CAP_SYS_ADMIN.
pub fn bind_hidden(socket: BorrowedFd<'_>, address: &[u8]) -> Result<OwnedFd> {
    let path = unix_path(address).ok_or(Errno(libc::EINVAL))?.to_vec();
    let whole = c_path(&path)?;
    apart(|| {
        let (root, none, tmpfs) = (c"/", c"none", c"tmpfs");
        // SAFETY: takes numbers only; other threads keep the mount namespace they are in.
        cvt(unsafe { libc::unshare(libc::CLONE_NEWNS) } as i64)?;
        let null = std::ptr::null();
        // SAFETY: all strings are NUL-terminated constants.
        cvt(unsafe { libc::mount(none.as_ptr(), root.as_ptr(), null, libc::MS_REC | libc::MS_PRIVATE, null.cast()) }
            as i64)?;
        // SAFETY: as above; any directory will do, `/proc` is always there and nothing in it is needed from here.
        cvt(unsafe { libc::mount(none.as_ptr(), c"/proc".as_ptr(), tmpfs.as_ptr(), 0, null.cast()) } as i64)?;
        // SAFETY: as above; root and working directory are this thread's own.
        cvt(unsafe { libc::chroot(c"/proc".as_ptr()) } as i64)?;
        // SAFETY: as above.
        cvt(unsafe { libc::chdir(root.as_ptr()) } as i64)?;
        for (i, _) in path.iter().enumerate().filter(|(i, b)| **b == b'/' && *i > 0) {
            let part = c_path(&path[..i])?;
            // SAFETY: the path is NUL-terminated. One that is there already (`..`, `//`) is no error.
            unsafe { libc::mkdir(part.as_ptr(), 0o755) };
        }
        bind(socket, address)?;
        // Whoever is given the descriptor may connect, whatever user it is.
        // SAFETY: the path is NUL-terminated.
        cvt(unsafe { libc::chmod(whole.as_ptr(), 0o666) } as i64)?;
        // SAFETY: the path is NUL-terminated; without O_CREAT the call reads no further argument.
        let fd = cvt(unsafe { libc::open(whole.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) } as i64)?;
        // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
        let file = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        // As gone as the one whose place it takes: whoever looks sees no link.
        // SAFETY: the path is NUL-terminated.
        cvt(unsafe { libc::unlink(whole.as_ptr()) } as i64)?;
        Ok(file)
    })
}

/// Runs on a thread with a working directory and root of its own.
fn apart<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let run = || {
        // SAFETY: takes numbers only; the thread keeps sharing memory and descriptors with the rest.
        cvt(unsafe { libc::unshare(libc::CLONE_FS) } as i64)?;
        work()
    };
    std::thread::scope(|s| {
        let thread = std::thread::Builder::new().spawn_scoped(s, run).map_err(Errno::from)?;
        thread.join().unwrap_or(Err(Errno(libc::EIO)))
    })
}

fn c_path(path: &[u8]) -> Result<std::ffi::CString> {
    std::ffi::CString::new(path).map_err(|_| Errno(libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_hidden_name_is_there_to_the_byte_and_leaves_no_file() {
        for path in ["/no/such/place/socket", "relative/socket"] {
            let listener = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).unwrap();
            let address = unix_address(path.as_bytes());
            let file = match bind_hidden(listener.as_fd(), &address) {
                Err(Errno(libc::EPERM)) => return, // not root
                other => other.unwrap(),
            };
            assert_eq!(name(listener.as_fd()).unwrap(), address);
            assert!(!std::path::Path::new(path).exists());
            listen(listener.as_fd(), 5).unwrap();
            let client = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).unwrap();
            let way = format!("/proc/self/fd/{}", file.as_raw_fd());
            connect(client.as_fd(), &unix_address(way.as_bytes())).unwrap();
            let accepted = accept(listener.as_fd()).unwrap();
            assert_eq!(name(accepted.as_fd()).unwrap(), address);
            assert_eq!(peer_name(client.as_fd()).unwrap(), address);
        }
    }

    #[test]
    fn a_relative_name_is_bound_where_it_belongs() {
        let dir = std::env::temp_dir().join(format!("ghost-sock-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let s = socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0).unwrap();
        bind_in(s.as_fd(), &unix_address(b"s"), dir.as_os_str().as_encoded_bytes()).unwrap();
        assert_eq!(name(s.as_fd()).unwrap(), unix_address(b"s"));
        assert!(dir.join("s").exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
