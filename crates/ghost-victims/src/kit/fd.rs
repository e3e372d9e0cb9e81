//! Descriptors: open, move bytes, ask what they are.
use super::{Errno, Res, Sys, cstr, same, sys};
use std::ffi::OsStr;
use std::os::fd::RawFd;

/// open(2) with mode 0600.
pub fn open(path: impl AsRef<OsStr>, flags: i32) -> Sys<RawFd> {
    let path = cstr(path);
    // SAFETY: `path` is a C string that outlives the call.
    sys("open", unsafe { libc::open(path.as_ptr(), flags, 0o600) }.into()).map(|v| v as RawFd)
}

/// openat(2) with mode 0600.
pub fn openat(dir: RawFd, path: impl AsRef<OsStr>, flags: i32) -> Sys<RawFd> {
    let path = cstr(path);
    // SAFETY: as in `open`.
    sys("openat", unsafe { libc::openat(dir, path.as_ptr(), flags, 0o600) }.into()).map(|v| v as RawFd)
}

/// close(2).
pub fn close(fd: RawFd) -> Sys {
    // SAFETY: closing a number touches no memory; victims own all their numbers.
    sys("close", unsafe { libc::close(fd) }.into()).map(drop)
}

/// dup(2).
pub fn dup(fd: RawFd) -> Sys<RawFd> {
    // SAFETY: no memory is involved.
    sys("dup", unsafe { libc::dup(fd) }.into()).map(|v| v as RawFd)
}

/// dup3(2); `flags` 0 or `O_CLOEXEC`.
pub fn dup3(fd: RawFd, to: RawFd, flags: i32) -> Sys<RawFd> {
    // SAFETY: no memory is involved.
    sys("dup3", unsafe { libc::dup3(fd, to, flags) }.into()).map(|v| v as RawFd)
}

/// fcntl(2) with an integer argument.
pub fn fcntl(fd: RawFd, cmd: i32, arg: i64) -> Sys<i64> {
    // SAFETY: used with commands that take an integer or nothing.
    sys("fcntl", unsafe { libc::fcntl(fd, cmd, arg) }.into())
}

/// fcntl(2) with a `struct flock`; returns it as the kernel left it.
pub fn fcntl_lock(fd: RawFd, cmd: i32, kind: i32, start: i64, len: i64) -> Sys<libc::flock> {
    let mut l =
        libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: start, l_len: len, l_pid: 0 };
    // SAFETY: `l` outlives the call, which reads and writes one struct flock.
    sys("fcntl lock", unsafe { libc::fcntl(fd, cmd, &raw mut l) }.into()).map(|_| l)
}

/// flock(2).
pub fn flock(fd: RawFd, op: i32) -> Sys {
    // SAFETY: no memory is involved.
    sys("flock", unsafe { libc::flock(fd, op) }.into()).map(drop)
}

/// lseek(2).
pub fn lseek(fd: RawFd, at: i64, whence: i32) -> Sys<i64> {
    // SAFETY: no memory is involved.
    sys("lseek", unsafe { libc::lseek(fd, at, whence) })
}

/// The current offset.
pub fn tell(fd: RawFd) -> Sys<i64> {
    lseek(fd, 0, libc::SEEK_CUR)
}

/// One read(2) of at most `len` bytes.
pub fn read(fd: RawFd, len: usize) -> Sys<Vec<u8>> {
    let mut buf = vec![0; len];
    // SAFETY: `buf` has `len` bytes and outlives the call.
    let n = sys("read", unsafe { libc::read(fd, buf.as_mut_ptr().cast(), len) } as i64)?;
    buf.truncate(n as usize);
    Ok(buf)
}

/// Reads until `len` bytes are there or the end is reached.
pub fn read_full(fd: RawFd, len: usize) -> Sys<Vec<u8>> {
    let mut all = Vec::with_capacity(len);
    while all.len() < len {
        match read(fd, len - all.len()) {
            Ok(part) if part.is_empty() => break,
            Ok(part) => all.extend_from_slice(&part),
            Err(e) if e.code == libc::EINTR => {}
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

/// pread(2).
pub fn pread(fd: RawFd, len: usize, at: i64) -> Sys<Vec<u8>> {
    let mut buf = vec![0; len];
    // SAFETY: `buf` has `len` bytes and outlives the call.
    let n = sys("pread", unsafe { libc::pread(fd, buf.as_mut_ptr().cast(), len, at) } as i64)?;
    buf.truncate(n as usize);
    Ok(buf)
}

/// One write(2).
pub fn write(fd: RawFd, bytes: &[u8]) -> Sys<usize> {
    // SAFETY: `bytes` outlives the call, which reads its length.
    sys("write", unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) } as i64).map(|n| n as usize)
}

/// Writes all of it.
pub fn write_full(fd: RawFd, mut bytes: &[u8]) -> Sys {
    while !bytes.is_empty() {
        match write(fd, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.code == libc::EINTR => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// pwrite(2) of all of it.
pub fn pwrite(fd: RawFd, bytes: &[u8], at: i64) -> Sys {
    // SAFETY: `bytes` outlives the call.
    sys("pwrite", unsafe { libc::pwrite(fd, bytes.as_ptr().cast(), bytes.len(), at) } as i64).map(drop)
}

/// ftruncate(2).
pub fn ftruncate(fd: RawFd, len: i64) -> Sys {
    // SAFETY: no memory is involved.
    sys("ftruncate", unsafe { libc::ftruncate(fd, len) }.into()).map(drop)
}

/// fstat(2).
pub fn stat(fd: RawFd) -> Sys<libc::stat> {
    // SAFETY: an all-zero struct stat is valid.
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `st` outlives the call, which fills it.
    sys("fstat", unsafe { libc::fstat(fd, &raw mut st) }.into()).map(|_| st)
}

/// Device and inode.
pub fn inode(fd: RawFd) -> Sys<(u64, u64)> {
    stat(fd).map(|s| (s.st_dev, s.st_ino))
}

/// ioctl(2) with an integer.
pub fn ioctl_int(fd: RawFd, request: u64, arg: i64) -> Sys<i64> {
    // SAFETY: used with requests that take an integer.
    sys("ioctl", unsafe { libc::ioctl(fd, request, arg) }.into())
}

/// ioctl(2) that reads or writes one value of type `T`.
pub fn ioctl_ref<T>(fd: RawFd, request: u64, value: &mut T) -> Sys<i64> {
    // SAFETY: the caller pairs the request with its type; the value outlives the call.
    sys("ioctl", unsafe { libc::ioctl(fd, request, std::ptr::from_mut(value)) }.into())
}

/// Bytes that can be read at once (`FIONREAD`).
pub fn readable(fd: RawFd) -> Sys<i32> {
    let mut n = 0i32;
    ioctl_ref(fd, libc::FIONREAD, &mut n).map(|_| n)
}

/// The events poll(2) reports at once.
pub fn poll_now(fd: RawFd, events: i16) -> Sys<i16> {
    poll_ms(fd, events, 0)
}

/// The events poll(2) reports within a time.
pub fn poll_ms(fd: RawFd, events: i16, ms: i32) -> Sys<i16> {
    let mut p = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one pollfd that outlives the call.
    sys("poll", unsafe { libc::poll(&raw mut p, 1, ms) }.into()).map(|_| p.revents)
}

/// pipe2(2): read end, write end.
pub fn pipe(flags: i32) -> Sys<(RawFd, RawFd)> {
    let mut p = [0; 2];
    // SAFETY: `p` has room for the two numbers.
    sys("pipe2", unsafe { libc::pipe2(p.as_mut_ptr(), flags) }.into()).map(|_| (p[0], p[1]))
}

/// unlink(2).
pub fn unlink(path: impl AsRef<OsStr>) -> Sys {
    let path = cstr(path);
    // SAFETY: `path` is a C string that outlives the call.
    sys("unlink", unsafe { libc::unlink(path.as_ptr()) }.into()).map(drop)
}

/// rename(2).
pub fn rename(from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Sys {
    let (from, to) = (cstr(from), cstr(to));
    // SAFETY: both are C strings that outlive the call.
    sys("rename", unsafe { libc::rename(from.as_ptr(), to.as_ptr()) }.into()).map(drop)
}

/// link(2).
pub fn link(from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Sys {
    let (from, to) = (cstr(from), cstr(to));
    // SAFETY: both are C strings that outlive the call.
    sys("link", unsafe { libc::link(from.as_ptr(), to.as_ptr()) }.into()).map(drop)
}

/// mkfifo(2).
pub fn mkfifo(path: impl AsRef<OsStr>) -> Sys {
    let path = cstr(path);
    // SAFETY: `path` is a C string that outlives the call.
    sys("mkfifo", unsafe { libc::mkfifo(path.as_ptr(), 0o600) }.into()).map(drop)
}

/// fsetxattr(2).
pub fn set_xattr(fd: RawFd, name: &str, value: &[u8]) -> Sys {
    let name = cstr(name);
    // SAFETY: name and value outlive the call.
    sys("fsetxattr", unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) }.into())
        .map(drop)
}

/// fgetxattr(2).
pub fn get_xattr(fd: RawFd, name: &str) -> Sys<Vec<u8>> {
    let name = cstr(name);
    let mut buf = vec![0u8; 4096];
    // SAFETY: `buf` outlives the call, which is told its length.
    let n = unsafe { libc::fgetxattr(fd, name.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
    let n = sys("fgetxattr", n as i64)?;
    buf.truncate(n as usize);
    Ok(buf)
}

/// Where `/proc/self/fd/N` points.
pub fn link_of(fd: RawFd) -> Res<String> {
    std::fs::read_link(format!("/proc/self/fd/{fd}"))
        .map(|p| p.to_string_lossy().into_owned())
        .map_err(|e| format!("readlink fd {fd}: expected a name, found {e}"))
}

/// One `name: value` line of `/proc/self/fdinfo/N`.
pub fn info(fd: RawFd, name: &str) -> Res<String> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))
        .map_err(|e| format!("fdinfo of {fd}: expected text, found {e}"))?;
    text.lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))
        .map(|v| v.trim().to_owned())
        .ok_or_else(|| format!("fdinfo of {fd}: expected a line {name}, found none"))
}

/// Whether the numbers share one open file description (kcmp(2)).
pub fn shared(a: RawFd, b: RawFd) -> Sys<bool> {
    const KCMP_FILE: i64 = 0;
    // SAFETY: getpid touches no memory.
    let me = i64::from(unsafe { libc::getpid() });
    // SAFETY: kcmp with KCMP_FILE takes numbers only.
    sys("kcmp", unsafe { libc::syscall(libc::SYS_kcmp, me, me, KCMP_FILE, i64::from(a), i64::from(b)) }).map(|v| v == 0)
}

/// What an open description is, apart from its content.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Facts {
    flags: i64,
    cloexec: i64,
    offset: Option<i64>,
    mode: u32,
    owner: (u32, u32),
    size: i64,
    link: String,
    inode: (u64, u64),
}

impl Facts {
    /// Reads them now.
    pub fn of(fd: RawFd) -> Res<Self> {
        let st = stat(fd)?;
        let sized = st.st_mode & libc::S_IFMT == libc::S_IFREG;
        Ok(Self {
            flags: fcntl(fd, libc::F_GETFL, 0)?,
            cloexec: fcntl(fd, libc::F_GETFD, 0)?,
            offset: tell(fd).ok(),
            mode: st.st_mode,
            owner: (st.st_uid, st.st_gid),
            size: if sized { st.st_size } else { 0 },
            link: link_of(fd)?,
            inode: (st.st_dev, st.st_ino),
        })
    }

    /// Without inode number and name, which an object without a name may change.
    #[must_use]
    pub fn nameless(mut self) -> Self {
        self.link = String::new();
        self.inode = (0, 0);
        self
    }

    /// Holds when the descriptor is as it was.
    pub fn still(&self, what: &str, fd: RawFd) -> Res {
        let now = Self::of(fd)?;
        let now = if self.link.is_empty() { now.nameless() } else { now };
        same(&format!("{what} (fd {fd})"), self, &now)
    }
}

/// Holds when the number is not open.
pub fn closed(what: &str, fd: RawFd) -> Res {
    super::fails(what, libc::EBADF, fcntl(fd, libc::F_GETFD, 0))
}

/// All open numbers, ascending.
pub fn numbers() -> Res<Vec<RawFd>> {
    let dir = open("/proc/self/fd", libc::O_RDONLY | libc::O_DIRECTORY)?;
    let mut list: Vec<RawFd> = entries(dir)?.iter().filter_map(|n| n.parse().ok()).filter(|n| *n != dir).collect();
    close(dir)?;
    list.sort_unstable();
    Ok(list)
}

/// The rest of a directory from its present position, by getdents64(2), without `.` and `..`.
pub fn entries(dir: RawFd) -> Res<Vec<String>> {
    let mut all = Vec::new();
    loop {
        let part = some_entries(dir, 32768)?;
        if part.is_empty() {
            break;
        }
        all.extend(part);
    }
    all.retain(|n| n != "." && n != "..");
    Ok(all)
}

/// The names of one getdents64(2) into a buffer of that size.
pub fn some_entries(dir: RawFd, room: usize) -> Sys<Vec<String>> {
    let mut buf = vec![0u8; room];
    // SAFETY: `buf` has `room` bytes and outlives the call.
    let n = sys("getdents64", unsafe { libc::syscall(libc::SYS_getdents64, dir, buf.as_mut_ptr(), room) })? as usize;
    let (mut at, mut names) = (0, Vec::new());
    // struct linux_dirent64: inode 8, offset 8, reclen 2, type 1, name
    while at + 19 < n {
        let len = usize::from(u16::from_ne_bytes([buf[at + 16], buf[at + 17]]));
        let name = buf[at + 19..at + len].split(|b| *b == 0).next().unwrap_or_default();
        names.push(String::from_utf8_lossy(name).into_owned());
        at += len;
    }
    Ok(names)
}

/// eventfd(2).
pub fn eventfd(count: u32, flags: i32) -> Sys<RawFd> {
    // SAFETY: no memory is involved.
    sys("eventfd", unsafe { libc::eventfd(count, flags) }.into()).map(|v| v as RawFd)
}

/// A system call whose arguments are all integers or nothing.
pub fn raw(call: &'static str, nr: i64, args: [i64; 6]) -> Sys<i64> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: used with calls that take numbers only.
    sys(call, unsafe { libc::syscall(nr, a, b, c, d, e, f) })
}

/// A system call with one structure behind a pointer, at the place `at` of its arguments.
pub fn raw_ref<T>(call: &'static str, nr: i64, mut args: [i64; 6], at: usize, value: &mut T) -> Sys<i64> {
    args[at] = std::ptr::from_mut(value) as i64;
    raw(call, nr, args)
}

/// A message when the kernel or the host lacks something a victim needs: it then has nothing to say.
pub fn lacking(e: Errno) -> bool {
    matches!(
        e.code,
        libc::ENOSYS | libc::EPERM | libc::ENODEV | libc::ENOENT | libc::EOPNOTSUPP | libc::EACCES | libc::EINVAL
    )
}

/// Whether the file is there and not empty.
pub fn readable_file(path: &str) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.len() > 0)
}
