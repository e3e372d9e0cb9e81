//! Sockets: pairs, names, messages with descriptors and credentials, options.
use super::{Sys, sys};
use std::os::fd::RawFd;

/// socket(2).
pub fn socket(family: i32, kind: i32, protocol: i32) -> Sys<RawFd> {
    // SAFETY: no memory is involved.
    sys("socket", unsafe { libc::socket(family, kind, protocol) }.into()).map(|v| v as RawFd)
}

/// A unix socketpair(2).
pub fn pair(kind: i32) -> Sys<(RawFd, RawFd)> {
    let mut p = [0; 2];
    // SAFETY: `p` has room for the two numbers.
    sys("socketpair", unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, p.as_mut_ptr()) }.into()).map(|_| (p[0], p[1]))
}

/// A socket address as bytes, starting with its family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addr(pub Vec<u8>);

/// A unix address; a name that starts with `@` is abstract.
pub fn unix(name: &str) -> Addr {
    let mut a = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    match name.strip_prefix('@') {
        Some(rest) => {
            a.push(0);
            a.extend_from_slice(rest.as_bytes());
        }
        None => {
            a.extend_from_slice(name.as_bytes());
            a.push(0);
        }
    }
    Addr(a)
}

/// An IPv4 address, or for `None` any.
pub fn v4(host: Option<[u8; 4]>, port: u16) -> Addr {
    let mut a = (libc::AF_INET as u16).to_ne_bytes().to_vec();
    a.extend_from_slice(&port.to_be_bytes());
    a.extend_from_slice(&host.unwrap_or_default());
    a.resize(16, 0);
    Addr(a)
}

/// An IPv6 address: loopback, or any.
pub fn v6(loopback: bool, port: u16) -> Addr {
    let mut a = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
    a.extend_from_slice(&port.to_be_bytes());
    a.resize(28, 0);
    a[23] = u8::from(loopback);
    Addr(a)
}

impl Addr {
    /// The port of an IPv4 or IPv6 address.
    pub fn port(&self) -> u16 {
        self.0.get(2..4).map_or(0, |p| u16::from_be_bytes([p[0], p[1]]))
    }

    fn ptr(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        (self.0.as_ptr().cast(), self.0.len() as libc::socklen_t)
    }
}

/// bind(2).
pub fn bind(fd: RawFd, addr: &Addr) -> Sys {
    let (p, n) = addr.ptr();
    // SAFETY: `addr` outlives the call.
    sys("bind", unsafe { libc::bind(fd, p, n) }.into()).map(drop)
}

/// connect(2).
pub fn connect(fd: RawFd, addr: &Addr) -> Sys {
    let (p, n) = addr.ptr();
    // SAFETY: `addr` outlives the call.
    sys("connect", unsafe { libc::connect(fd, p, n) }.into()).map(drop)
}

/// listen(2).
pub fn listen(fd: RawFd, backlog: i32) -> Sys {
    // SAFETY: no memory is involved.
    sys("listen", unsafe { libc::listen(fd, backlog) }.into()).map(drop)
}

/// accept4(2), the peer's name dropped.
pub fn accept(fd: RawFd, flags: i32) -> Sys<RawFd> {
    // SAFETY: null pointers ask for no name.
    let r = unsafe { libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), flags) };
    sys("accept", r.into()).map(|v| v as RawFd)
}

/// shutdown(2).
pub fn shutdown(fd: RawFd, how: i32) -> Sys {
    // SAFETY: no memory is involved.
    sys("shutdown", unsafe { libc::shutdown(fd, how) }.into()).map(drop)
}

fn name(call: &'static str, fd: RawFd, peer: bool) -> Sys<Addr> {
    let mut buf = vec![0u8; 128];
    let mut n = buf.len() as libc::socklen_t;
    let p = buf.as_mut_ptr().cast();
    // SAFETY: `buf` and `n` outlive the call; the kernel writes at most `n` bytes.
    let r = unsafe { if peer { libc::getpeername(fd, p, &raw mut n) } else { libc::getsockname(fd, p, &raw mut n) } };
    sys(call, r.into())?;
    buf.truncate(n as usize);
    Ok(Addr(buf))
}

/// getsockname(2).
pub fn local(fd: RawFd) -> Sys<Addr> {
    name("getsockname", fd, false)
}

/// getpeername(2).
pub fn peer(fd: RawFd) -> Sys<Addr> {
    name("getpeername", fd, true)
}

/// setsockopt(2) with the bytes of the value.
pub fn set_raw(fd: RawFd, level: i32, opt: i32, value: &[u8]) -> Sys {
    // SAFETY: `value` outlives the call.
    let r = unsafe { libc::setsockopt(fd, level, opt, value.as_ptr().cast(), value.len() as libc::socklen_t) };
    sys("setsockopt", r.into()).map(drop)
}

/// setsockopt(2) with an int.
pub fn set(fd: RawFd, level: i32, opt: i32, value: i32) -> Sys {
    set_raw(fd, level, opt, &value.to_ne_bytes())
}

/// getsockopt(2), the bytes of the value.
pub fn get_raw(fd: RawFd, level: i32, opt: i32) -> Sys<Vec<u8>> {
    let mut buf = vec![0u8; 1024];
    let mut n = buf.len() as libc::socklen_t;
    // SAFETY: `buf` and `n` outlive the call; the kernel writes at most `n` bytes.
    let r = unsafe { libc::getsockopt(fd, level, opt, buf.as_mut_ptr().cast(), &raw mut n) };
    sys("getsockopt", r.into())?;
    buf.truncate(n as usize);
    Ok(buf)
}

/// getsockopt(2) of an int.
pub fn get(fd: RawFd, level: i32, opt: i32) -> Sys<i32> {
    get_raw(fd, level, opt).map(|v| v.get(..4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]])))
}

/// A message and what came with it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Got {
    /// The bytes.
    pub data: Vec<u8>,
    /// Descriptors received (`SCM_RIGHTS`).
    pub fds: Vec<RawFd>,
    /// pid, uid, gid (`SCM_CREDENTIALS`).
    pub cred: Option<(i32, u32, u32)>,
    /// `msg_flags`.
    pub flags: i32,
    /// The sender's address, empty when it has none.
    pub from: Vec<u8>,
}

/// sendmsg(2) with descriptors, to an address or to the peer.
pub fn send(fd: RawFd, data: &[u8], fds: &[RawFd], to: Option<&Addr>) -> Sys<usize> {
    let mut iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let mut control = vec![0u64; 64];
    // SAFETY: an all-zero msghdr is valid.
    let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
    m.msg_iov = &raw mut iov;
    m.msg_iovlen = 1;
    if let Some(a) = to {
        m.msg_name = a.0.as_ptr().cast_mut().cast();
        m.msg_namelen = a.0.len() as libc::socklen_t;
    }
    if !fds.is_empty() {
        let bytes = std::mem::size_of_val(fds);
        assert!(bytes + 16 <= 512, "few enough descriptors");
        m.msg_control = control.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE and CMSG_LEN are arithmetic; the header and data lie in `control`, which is large enough.
        unsafe {
            m.msg_controllen = libc::CMSG_SPACE(bytes as u32) as usize;
            let c = libc::CMSG_FIRSTHDR(&raw const m);
            (*c).cmsg_level = libc::SOL_SOCKET;
            (*c).cmsg_type = libc::SCM_RIGHTS;
            (*c).cmsg_len = libc::CMSG_LEN(bytes as u32) as usize;
            std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(c), bytes);
        }
    }
    // SAFETY: everything `m` points at outlives the call.
    sys("sendmsg", unsafe { libc::sendmsg(fd, &raw const m, libc::MSG_NOSIGNAL) } as i64).map(|n| n as usize)
}

/// recvmsg(2) of at most `room` bytes.
pub fn recv(fd: RawFd, room: usize, flags: i32) -> Sys<Got> {
    let mut data = vec![0u8; room];
    let mut from = vec![0u8; 128];
    let mut control = vec![0u64; 512];
    let mut iov = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: room };
    // SAFETY: an all-zero msghdr is valid.
    let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
    m.msg_iov = &raw mut iov;
    m.msg_iovlen = 1;
    m.msg_name = from.as_mut_ptr().cast();
    m.msg_namelen = from.len() as libc::socklen_t;
    m.msg_control = control.as_mut_ptr().cast();
    m.msg_controllen = control.len() * 8;
    // SAFETY: everything `m` points at outlives the call and has the length told.
    let n = sys("recvmsg", unsafe { libc::recvmsg(fd, &raw mut m, flags) } as i64)?;
    data.truncate((n as usize).min(room));
    from.truncate(m.msg_namelen as usize);
    let mut got = Got { data, from, flags: m.msg_flags, ..Got::default() };
    // SAFETY: the kernel wrote well-formed control messages of `msg_controllen` bytes into `control`.
    unsafe {
        let mut c = libc::CMSG_FIRSTHDR(&raw const m);
        while !c.is_null() {
            let len = (*c).cmsg_len - libc::CMSG_LEN(0) as usize;
            let body = std::slice::from_raw_parts(libc::CMSG_DATA(c), len);
            let word = |i: usize| i32::from_ne_bytes([body[i], body[i + 1], body[i + 2], body[i + 3]]);
            match ((*c).cmsg_level, (*c).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => got.fds.extend((0..len / 4).map(|i| word(i * 4))),
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => got.cred = Some((word(0), word(4) as u32, word(8) as u32)),
                _ => {}
            }
            c = libc::CMSG_NXTHDR(&raw const m, c);
        }
    }
    Ok(got)
}

/// The next message without blocking; `EAGAIN` when there is none.
pub fn recv_now(fd: RawFd, room: usize) -> Sys<Got> {
    recv(fd, room, libc::MSG_DONTWAIT)
}

/// TCP_MD5SIG: a key for an address, or for a network.
pub fn md5_key(fd: RawFd, of: &Addr, prefix: Option<u8>, text: &[u8]) -> Sys {
    const TCP_MD5SIG_EXT: i32 = 32;
    // struct tcp_md5sig: address (128 bytes), flags, prefix, length of the key, interface, key.
    let mut value = [0; 216];
    value[..of.0.len()].copy_from_slice(&of.0);
    (value[128], value[129]) = (u8::from(prefix.is_some()), prefix.unwrap_or(0));
    value[130..132].copy_from_slice(&(text.len() as u16).to_ne_bytes());
    value[136..136 + text.len()].copy_from_slice(text);
    set_raw(fd, libc::IPPROTO_TCP, TCP_MD5SIG_EXT, &value)
}
