//! One descriptor: what procfs and a copy of ours tell of it.
//!
//! `/proc/PID/fd/N` and `/proc/PID/fdinfo/N` cost some 12 µs together. The copy alone would tell as much of most
//! pipes and sockets, but for two things: locks, and whether it is closed by execve. `/proc/locks` lists the former, but whoever reads it
//! waits for all CPUs (RCU, some 13 ms), and it leaves out what a process has locked that has ended, where procfs belongs to a pid namespace
//! of its own. Where descriptors are many, a program in the kernel tells both ([`super::rows`]), and which of them have
//! something in fdinfo that is in no row.

use crate::error::{Cause, Context, KindError};
use crate::kinds::fd::class::Class;
use crate::kinds::fd::path;
use crate::kinds::socket;
use crate::view::rows;
use ghost_image::record as rec;
use ghost_sys::bpf::file::{Row, Socket};
use ghost_sys::proc::{self, FdInfo, ProcDir};
use ghost_sys::{Errno, Pid, pidfd};
use rustix::fs::{FileType, OFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

/// One open descriptor, seen from outside.
#[derive(Debug)]
pub struct FdView {
    /// Its number.
    pub fd: i32,
    /// What /proc/PID/fd/N names: a path, `pipe:[123]`, `anon_inode:[eventfd]`.
    pub link: Vec<u8>,
    /// /proc/PID/fdinfo/N.
    pub info: FdInfo,
    /// The same open file description, as a descriptor of ours (pidfd_getfd).
    pub ours: Arc<OwnedFd>,
    /// Its inode.
    pub stat: rustix::fs::Stat,
    /// Of a socket that says what it is.
    pub socket: Option<SocketView>,
    /// What else a row has told.
    pub(crate) told: Told,
    /// Its sort, once somebody has asked.
    pub(crate) class: OnceLock<Class>,
}

/// What need not be asked any more.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    /// That nobody is told of input there.
    pub no_owner: bool,
    /// That its link leads to it.
    pub is_named: bool,
    /// Which sort of file system it is on.
    pub magic: Option<u64>,
    /// Of a unix socket.
    pub unix: Option<Unix>,
}

/// What is known of a unix socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unix {
    /// Whether nothing lies in it.
    pub is_empty: bool,
    /// Whether an urgent byte waits in it.
    pub is_urgent: bool,
    /// The same for sockets whose other ends were made by the same process with the same ids.
    pub maker: (u64, u64),
    /// Whether a filter program is attached.
    pub is_filtered: bool,
    /// Whether it has a name, and whether its peer has one, if there is a peer.
    pub names: (bool, Option<bool>),
}

/// What a socket says of itself.
#[derive(Debug)]
pub struct SocketView {
    /// Family, type, protocol.
    pub sort: (u32, u32, u32),
    /// Options that differ from those of a fresh one; none of a sort that can't travel.
    pub options: Vec<rec::SockOpt>,
}

/// Looks at descriptors of a process by their numbers; one that is closed meanwhile is left out.
///
/// `known` may have a copy of one already, and `rows` what there is to know of all of them, in ascending order.
pub(super) fn look(
    (pid, pidfd, dir): (Pid, &OwnedFd, &ProcDir),
    numbers: &[i32],
    options: &socket::options::Known,
    rows: &[Row],
    known: impl Fn(i32) -> Option<Arc<OwnedFd>>,
) -> Result<Vec<FdView>, KindError> {
    let mut fds = Vec::with_capacity(numbers.len());
    for &fd in numbers {
        let what = || format!("fd {fd}");
        let copy = || pidfd::getfd(pidfd.as_fd(), fd).map(Arc::new);
        let ours = match known(fd).map_or_else(copy, Ok) {
            Ok(ours) => ours,
            Err(Errno(libc::EBADF)) => continue, // a running process may close it
            Err(e) => return Err(KindError::new("pidfd_getfd", e).on(pid, what())),
        };
        let view = match rows.binary_search_by_key(&fd, |row| row.fd) {
            Ok(at) => FdView::of_row(dir, &rows[at], ours, options),
            Err(_) => FdView::of(dir, fd, ours, options),
        };
        fds.push(view.map_err(|e| e.on(pid, what()))?);
    }
    Ok(fds)
}

/// An error that is our own table being full, as the refusal that it is.
pub(super) fn full(e: KindError, wanted: usize, left: usize) -> KindError {
    let errno = match &e.cause {
        Cause::Kernel(errno) => Some(*errno),
        Cause::Proc(e) => e.errno(),
        _ => None,
    };
    if errno == Some(Errno(libc::EMFILE)) { crate::room::too_many(wanted, left) } else { e }
}

impl FdView {
    /// With all that procfs tells of it.
    pub(crate) fn of(
        dir: &ProcDir,
        fd: i32,
        ours: Arc<OwnedFd>,
        options: &socket::options::Known,
    ) -> Result<Self, KindError> {
        let stat = rustix::fs::fstat(&ours).step("fstat")?;
        let link = read_link(dir, fd)?;
        let info = proc::read_fdinfo(dir, fd).step("reading its fdinfo")?;
        let socket = SocketView::of(&ours, &stat, options)?;
        Ok(Self { fd, link, info, ours, stat, socket, told: Told::default(), class: OnceLock::new() })
    }

    /// The same of what a row tells the most: procfs is asked only for what is not in it.
    fn of_row(
        dir: &ProcDir,
        row: &Row,
        ours: Arc<OwnedFd>,
        options: &socket::options::Known,
    ) -> Result<Self, KindError> {
        let sort = FileType::from_raw_mode(row.mode);
        if row.flags & OFlags::PATH.bits() != 0 {
            return Self::of(dir, row.fd, ours, options);
        }
        let stat = rustix::fs::fstat(&ours).step("fstat")?;
        let unix = row.socket.as_ref().filter(|s| s.sort.0 == socket::AF_UNIX && s.state != LISTENING);
        let link = match sort {
            FileType::Socket if row.socket.is_some() => format!("socket:[{}]", row.ino).into_bytes(),
            FileType::Fifo if Some(stat.st_dev) == rows::device_of_pipes() => {
                format!("pipe:[{}]", row.ino).into_bytes()
            }
            _ => row.name.clone().map_or_else(|| read_link(dir, row.fd), Ok)?,
        };
        // Whether fdinfo has nothing but what the row has: of unix sockets it counts the descriptors in them.
        let info = if !row.is_lockable && (!row.has_more || unix.is_some()) {
            let cloexec = if row.cloexec { libc::O_CLOEXEC as u32 } else { 0 };
            let flying = |s: &Socket| if s.sort.1 == DGRAM || s.state == ESTABLISHED { s.flying.into() } else { 0 };
            FdInfo::plain(row.pos, row.flags | cloexec, row.ino, unix.map(flying))
        } else {
            proc::read_fdinfo(dir, row.fd).step("reading its fdinfo")?
        };
        let socket = match &row.socket {
            Some(Socket { sort, options: mark, .. }) if unix.is_some() && !mark.is_empty() => {
                let options = options.export_marked(ours.as_fd(), *sort, mark)?;
                Some(SocketView { sort: *sort, options })
            }
            Some(_) => SocketView::of(&ours, &stat, options)?,
            None => None,
        };
        let unix = unix.map(|s| Unix {
            is_empty: s.queued == 0,
            is_urgent: s.is_urgent,
            maker: s.maker,
            is_filtered: s.is_filtered,
            names: s.names,
        });
        let on_disk = matches!(sort, FileType::RegularFile | FileType::Directory);
        let is_named = on_disk && !link.ends_with(path::DELETED) && path::names(&link, &stat);
        let told = Told { no_owner: !row.is_owned, is_named, magic: Some(row.magic), unix };
        Ok(Self { fd: row.fd, link, info, ours, stat, socket, told, class: OnceLock::new() })
    }
}

/// `SOCK_DGRAM`, and what the kernel calls TCP_ESTABLISHED and TCP_LISTEN of unix sockets as well.
const DGRAM: u32 = 2;
const ESTABLISHED: u8 = 1;
const LISTENING: u8 = 10;

fn read_link(dir: &ProcDir, fd: i32) -> Result<Vec<u8>, KindError> {
    match dir.link(&format!("fd/{fd}")) {
        Err(e) if e.errno() == Some(Errno(libc::ENAMETOOLONG)) => Ok(path::TOO_LONG.to_vec()),
        read => read.step("reading its link"),
    }
}

impl SocketView {
    fn of(ours: &OwnedFd, stat: &rustix::fs::Stat, known: &socket::options::Known) -> Result<Option<Self>, KindError> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Ok(None);
        }
        let Ok(sort) = socket::sort(ours.as_fd()) else { return Ok(None) };
        let options = if socket::travels(sort) { known.export(ours.as_fd(), sort)? } else { Vec::new() };
        Ok(Some(Self { sort, options }))
    }
}
