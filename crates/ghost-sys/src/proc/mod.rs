//! What procfs tells of a process, typed.
//!
//! Each parser takes the text, so that it can be tested on real text kept as fixtures and fuzzed without a kernel,
//! and has a `read` beside it that takes a [`ProcDir`]. Names are bytes: a program may call itself what it likes.
//! What a newer kernel adds is ignored where it cannot matter and kept as it stands where it can (fdinfo).
//!
//! A [`ProcDir`] is a descriptor of `/proc/PID`: it goes on meaning *that* process when the number is given to
//! another, every read through it then fails with `ESRCH` or `ENOENT`. Files are read whole into a buffer that
//! each thread keeps, since procfs is only consistent within one `read(2)` and a thousand small reads cost more
//! than the parsing.
//!
//! Interfaces: `proc(5)` and its pages; the kernel's `Documentation/filesystems/proc.rst`. Most of what a live
//! process has is readable with the rights of `PTRACE_MODE_READ`.

#![allow(unsafe_code)]

mod children;
mod fdinfo;
mod image;
mod limits;
mod locks;
mod maps;
mod mountinfo;
mod net_unix;
mod settings;
mod shared_maps;
mod smaps;
mod stat;
mod status;
mod syscall;
mod sysvipc;
mod text;
mod timers;

pub use children::*;
pub use fdinfo::*;
pub use image::*;
pub use limits::*;
pub use locks::*;
pub use maps::*;
pub use mountinfo::*;
pub use net_unix::*;
pub use settings::*;
pub use shared_maps::*;
pub use smaps::*;
pub use stat::*;
pub use status::*;
pub use syscall::*;
pub use sysvipc::*;
pub use text::{ParseError, Parsed};
pub use timers::*;

use crate::{Errno, Pid};
use std::cell::Cell;
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Why something of procfs could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProcError {
    /// The kernel refused.
    #[error("{path}: {errno}")]
    Kernel {
        /// What was opened, read or written.
        path: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// The text is not what we know.
    #[error(transparent)]
    Parse(#[from] ParseError),
}

impl ProcError {
    /// Whether the process, the thread or the descriptor is simply not there any more.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Kernel { errno: Errno(libc::ENOENT | libc::ESRCH), .. })
    }
    /// The error number, when it was the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            Self::Parse(_) => None,
        }
    }
}

/// The result of reading procfs.
pub type ProcResult<T> = Result<T, ProcError>;

/// The device and inode of a file, and what else tells it apart.
pub type FileStat = libc::stat;

/// A descriptor of `/proc/PID`, or of `/proc/PID/task/TID`; all else is opened relative to it.
#[derive(Debug)]
pub struct ProcDir {
    fd: OwnedFd,
    path: String,
    pid: Pid,
}

/// The caller's own directory.
const OWN: &str = "/proc/self";

thread_local! {
    /// The buffer that a thread reads procfs files into; taken while in use, so that reads may nest.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// seq_file hands out about a page a call, unless one record is longer.
const READ_ROOM: usize = 8 << 10;

/// Bytes of a file that are parsed at once where it is parsed in parts.
const PART: usize = 32 << 10;

/// Whether the kernel makes this file as one record (`single_open`): then a read that leaves room has got all of it.
fn is_one_record(name: &str) -> bool {
    let (dir, last) = name.rsplit_once('/').unwrap_or(("", name));
    dir.ends_with("fdinfo") || matches!(last, "stat" | "status" | "syscall" | "sched" | "wchan")
}

impl ProcDir {
    /// Opens `/proc/PID`.
    pub fn open(pid: Pid) -> ProcResult<Self> {
        let path = format!("/proc/{pid}");
        Ok(Self { fd: open_at(libc::AT_FDCWD, &path, &path, libc::O_PATH | libc::O_DIRECTORY)?, path, pid })
    }
    /// Opens the caller's own directory, whatever its pid is called in the procfs that is mounted.
    pub fn own() -> ProcResult<Self> {
        let path = OWN.to_owned();
        let fd = open_at(libc::AT_FDCWD, &path, &path, libc::O_PATH | libc::O_DIRECTORY)?;
        Ok(Self { fd, path, pid: std::process::id() as Pid })
    }
    /// The directory of one of its threads, `task/TID`: the same files, as that thread has them.
    pub fn thread(&self, tid: Pid) -> ProcResult<Self> {
        let name = format!("task/{tid}");
        Ok(Self { fd: self.open_file(&name, libc::O_PATH | libc::O_DIRECTORY)?, path: self.full(&name), pid: tid })
    }
    /// The pid (or tid) that it was opened by.
    pub fn pid(&self) -> Pid {
        self.pid
    }
    /// The number under which this procfs shows the process or thread; None where that may be another than [`ProcDir::pid`].
    pub(crate) fn number(&self) -> Option<Pid> {
        (self.path != OWN).then_some(self.pid)
    }
    /// Opens a file of it; `flags` are `libc::O_*`, close-on-exec is always added.
    pub fn open_file(&self, name: &str, flags: i32) -> ProcResult<OwnedFd> {
        // The path is only spelled out when there is an error to tell.
        open_at(self.fd.as_raw_fd(), name, "", flags).map_err(|e| self.named(name, &e))
    }
    /// Reads a file whole and gives its bytes to `with`; nothing is copied and no buffer is made.
    pub fn with_bytes<T>(&self, name: &str, with: impl FnOnce(&[u8]) -> T) -> ProcResult<T> {
        let mut buf = BUFFER.take();
        buf.clear();
        let outcome = self.read_into(name, &mut buf).map(|()| with(&buf));
        BUFFER.set(buf);
        outcome
    }
    /// Reads a file whole and parses it.
    pub fn parse<T>(&self, name: &str, parser: impl FnOnce(&[u8]) -> Parsed<T>) -> ProcResult<T> {
        Ok(self.with_bytes(name, parser)??)
    }
    /// Reads a file and gives it to `parse` in parts; that says how many bytes it has taken, and gets the others again with the next
    /// part. It is told of the last one. For long files: pages that are new to ghost cost more than the reading.
    pub(crate) fn parse_in_parts(&self, name: &str, parse: impl FnMut(&[u8], bool) -> Parsed<usize>) -> ProcResult<()> {
        let file = File::from(self.open_file(name, libc::O_RDONLY)?);
        let mut buf = BUFFER.take();
        let outcome = self.parts(name, file, &mut buf, parse);
        BUFFER.set(buf);
        outcome
    }
    fn parts(
        &self,
        name: &str,
        mut file: File,
        buf: &mut Vec<u8>,
        mut parse: impl FnMut(&[u8], bool) -> Parsed<usize>,
    ) -> ProcResult<()> {
        buf.resize(buf.len().max(PART + 2 * READ_ROOM), 0);
        let mut len = 0;
        loop {
            if buf.len() - len < READ_ROOM {
                buf.resize(len + 2 * READ_ROOM, 0);
            }
            match file.read(&mut buf[len..]) {
                Ok(n) => {
                    len += n;
                    if len >= PART || n == 0 {
                        let taken = parse(&buf[..len], n == 0)?;
                        buf.copy_within(taken..len, 0);
                        len -= taken;
                    }
                    if n == 0 {
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(name, e.into())),
            }
        }
    }
    /// Appends a whole file to `buf`.
    pub fn read_into(&self, name: &str, buf: &mut Vec<u8>) -> ProcResult<()> {
        let mut file = File::from(self.open_file(name, libc::O_RDONLY)?);
        // Not `read_to_end`, which asks for size and position first: two calls more for each of thousands of files.
        let mut len = buf.len();
        loop {
            if buf.len() - len < READ_ROOM {
                buf.resize(len + 2 * READ_ROOM, 0);
            }
            match file.read(&mut buf[len..]) {
                Ok(0) => break,
                Ok(n) => {
                    len += n;
                    if len < buf.len() && is_one_record(name) {
                        break;
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => {
                    buf.truncate(len);
                    return Err(self.failed(name, e.into()));
                }
            }
        }
        buf.truncate(len);
        Ok(())
    }
    /// The bytes of a whole file.
    pub fn bytes(&self, name: &str) -> ProcResult<Vec<u8>> {
        let mut buf = Vec::new();
        self.read_into(name, &mut buf)?;
        Ok(buf)
    }
    /// Writes `bytes` to a file of it in one `write(2)`, which is how procfs wants them.
    pub fn write(&self, name: &str, bytes: &[u8]) -> ProcResult<()> {
        let mut file = File::from(self.open_file(name, libc::O_WRONLY)?);
        let n = file.write(bytes).map_err(|e| self.failed(name, e.into()))?;
        if n == bytes.len() { Ok(()) } else { Err(self.failed(name, Errno(libc::EIO))) }
    }
    /// Where a link of it leads, as the kernel prints it: a path, `pipe:[123]`, `/tmp/x (deleted)`.
    pub fn link(&self, name: &str) -> ProcResult<Vec<u8>> {
        let c_name = c_string(name).map_err(|e| self.failed(name, e))?;
        let mut buf = vec![0_u8; 256];
        loop {
            // SAFETY: the name is NUL-terminated; the kernel writes at most `buf.len()` bytes into `buf`.
            let n =
                unsafe { libc::readlinkat(self.fd.as_raw_fd(), c_name.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
            let n = usize::try_from(n).map_err(|_| self.failed(name, Errno::last()))?;
            if n < buf.len() {
                buf.truncate(n);
                return Ok(buf);
            }
            // Cut off, perhaps: the kernel prints at most a page (d_path).
            buf.resize(buf.len() * 4, 0);
        }
    }
    /// `stat(2)` of a file of it, through a final link: of the file that `fd/7` stands for.
    pub fn stat(&self, name: &str) -> ProcResult<FileStat> {
        self.stat_flags(name, 0)
    }
    /// `lstat(2)` of a file of it; the permission bits of `fd/7` tell how the descriptor was opened.
    pub fn lstat(&self, name: &str) -> ProcResult<FileStat> {
        self.stat_flags(name, libc::AT_SYMLINK_NOFOLLOW)
    }
    fn stat_flags(&self, name: &str, flags: i32) -> ProcResult<FileStat> {
        let c_name = c_string(name).map_err(|e| self.failed(name, e))?;
        // SAFETY: all bits zero is a valid `struct stat`.
        let mut st: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the name is NUL-terminated and `st` is a whole `struct stat` that outlives the call.
        let r = unsafe { libc::fstatat(self.fd.as_raw_fd(), c_name.as_ptr(), &raw mut st, flags) };
        if r == 0 { Ok(st) } else { Err(self.failed(name, Errno::last())) }
    }
    /// The names in a directory of it that are numbers, ascending: threads of `task`, descriptors of `fd`.
    pub fn numbers(&self, name: &str) -> ProcResult<Vec<i32>> {
        let fd = self.open_file(name, libc::O_RDONLY | libc::O_DIRECTORY)?;
        let mut numbers = Vec::new();
        each_name(fd.as_fd(), |n| numbers.extend(text::dec(n).and_then(|v| i32::try_from(v).ok())))
            .map_err(|e| self.failed(name, e))?;
        numbers.sort_unstable();
        Ok(numbers)
    }
    /// All names in a directory of it but `.` and `..`, in the kernel's order.
    pub fn names(&self, name: &str) -> ProcResult<Vec<Vec<u8>>> {
        let fd = self.open_file(name, libc::O_RDONLY | libc::O_DIRECTORY)?;
        let mut names = Vec::new();
        each_name(fd.as_fd(), |n| {
            if n != b"." && n != b".." {
                names.push(n.to_vec());
            }
        })
        .map_err(|e| self.failed(name, e))?;
        Ok(names)
    }

    fn full(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }
    fn failed(&self, name: &str, errno: Errno) -> ProcError {
        ProcError::Kernel { path: self.full(name), errno }
    }
    fn named(&self, name: &str, e: &ProcError) -> ProcError {
        self.failed(name, e.errno().unwrap_or(Errno(libc::EIO)))
    }
}

impl AsFd for ProcDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn c_string(name: &str) -> Result<CString, Errno> {
    CString::new(name).map_err(|_| Errno(libc::EINVAL))
}

fn open_at(dir: RawFd, name: &str, path: &str, flags: i32) -> ProcResult<OwnedFd> {
    let failed = |errno| ProcError::Kernel { path: path.to_owned(), errno };
    let c_name = c_string(name).map_err(failed)?;
    // SAFETY: the name is NUL-terminated; without O_CREAT the call reads no further argument.
    let fd = unsafe { libc::openat(dir, c_name.as_ptr(), flags | libc::O_CLOEXEC | libc::O_NOCTTY) };
    if fd < 0 {
        return Err(failed(Errno::last()));
    }
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Walks a directory by `getdents64(2)`: a thousand descriptors in two calls, and no allocation.
fn each_name(dir: BorrowedFd<'_>, mut each: impl FnMut(&[u8])) -> Result<(), Errno> {
    /// Length of `struct linux_dirent64` before its name: ino, off, reclen, type.
    const HEAD: usize = 19;
    let mut buf = vec![0_u8; 32 << 10];
    loop {
        // SAFETY: the kernel writes at most `buf.len()` bytes into `buf`, which outlives the call.
        let n = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buf.as_mut_ptr(), buf.len()) };
        let n = usize::try_from(n).map_err(|_| Errno::last())?;
        if n == 0 {
            return Ok(());
        }
        let mut rest = &buf[..n];
        while rest.len() > HEAD {
            let len = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
            if len <= HEAD || len > rest.len() {
                return Err(Errno(libc::EIO));
            }
            let name = &rest[HEAD..len];
            each(&name[..name.iter().position(|&b| b == 0).unwrap_or(name.len())]);
            rest = &rest[len..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_directory_answers() {
        let dir = ProcDir::own().unwrap();
        let fds = dir.numbers("fd").unwrap();
        assert!(fds.contains(&dir.as_fd().as_raw_fd()));
        assert!(fds.is_sorted());
        assert!(dir.names("ns").unwrap().iter().any(|n| n == b"mnt"));
        let exe = dir.link("exe").unwrap();
        assert_eq!(exe, std::env::current_exe().unwrap().as_os_str().as_encoded_bytes());
        let nested = dir.with_bytes("stat", |outer| {
            let before = outer.to_vec();
            dir.with_bytes("status", <[u8]>::len).unwrap();
            before == outer
        });
        assert!(nested.unwrap());
    }

    #[test]
    fn errors_name_the_file() {
        let dir = ProcDir::open(std::process::id() as Pid).unwrap();
        let e = dir.bytes("no_such_file").unwrap_err();
        assert_eq!(e.to_string(), format!("/proc/{}/no_such_file: {}", std::process::id(), Errno(libc::ENOENT)));
        assert!(e.is_gone());
        assert!(ProcDir::open(-5).unwrap_err().is_gone());
    }

    #[test]
    fn a_reused_number_is_not_the_same_process() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dir = ProcDir::open(child.id() as Pid).unwrap();
        child.wait().unwrap();
        assert!(dir.bytes("stat").unwrap_err().is_gone());
    }
}
