//! One descriptor: what procfs and a copy of ours tell of it.
//!
//! `/proc/PID/fd/N` and `/proc/PID/fdinfo/N` cost some 10 µs together the first time. The copy alone would tell as much of most
//! pipes and sockets, but for one thing: locks. `/proc/locks` lists those, but whoever reads it waits for all CPUs (RCU, some 13 ms), and
//! it leaves out what a process has locked that has ended, where procfs belongs to a pid namespace of its own.

use crate::error::{Cause, Context, KindError};
use crate::kinds::fd::class::Class;
use crate::kinds::fd::path;
use crate::kinds::socket;
use ghost_image::record as rec;
use ghost_sys::proc::{self, ProcDir};
use ghost_sys::{Errno, Pid, pidfd};
use rustix::fs::FileType;
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
    pub info: proc::FdInfo,
    /// The same open file description, as a descriptor of ours (pidfd_getfd).
    pub ours: Arc<OwnedFd>,
    /// Its inode.
    pub stat: rustix::fs::Stat,
    /// Of a socket that says what it is.
    pub socket: Option<SocketView>,
    /// Its sort, once somebody has asked.
    pub(crate) class: OnceLock<Class>,
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
/// `known` may have a copy of one already.
pub(super) fn look(
    (pid, pidfd, dir): (Pid, &OwnedFd, &ProcDir),
    numbers: &[i32],
    known: impl Fn(i32) -> Option<Arc<OwnedFd>>,
) -> Result<Vec<FdView>, KindError> {
    let mut defaults = socket::options::Defaults::default();
    let mut fds = Vec::with_capacity(numbers.len());
    for &fd in numbers {
        let what = || format!("fd {fd}");
        let copy = || pidfd::getfd(pidfd.as_fd(), fd).map(Arc::new);
        let ours = match known(fd).map_or_else(copy, Ok) {
            Ok(ours) => ours,
            Err(Errno(libc::EBADF)) => continue, // a running process may close it
            Err(e) => return Err(KindError::new("pidfd_getfd", e).on(pid, what())),
        };
        fds.push(FdView::of(dir, fd, ours, &mut defaults).map_err(|e| e.on(pid, what()))?);
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
        defaults: &mut socket::options::Defaults,
    ) -> Result<Self, KindError> {
        let stat = rustix::fs::fstat(&ours).step("fstat")?;
        let link = match dir.link(&format!("fd/{fd}")) {
            Err(e) if e.errno() == Some(Errno(libc::ENAMETOOLONG)) => path::TOO_LONG.to_vec(),
            read => read.step("reading its link")?,
        };
        let info = proc::read_fdinfo(dir, fd).step("reading its fdinfo")?;
        let socket = SocketView::of(&ours, &stat, defaults)?;
        Ok(Self { fd, link, info, ours, stat, socket, class: OnceLock::new() })
    }
}

impl SocketView {
    fn of(
        ours: &OwnedFd,
        stat: &rustix::fs::Stat,
        defaults: &mut socket::options::Defaults,
    ) -> Result<Option<Self>, KindError> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Ok(None);
        }
        let Ok(sort) = socket::sort(ours.as_fd()) else { return Ok(None) };
        let options =
            if socket::travels(sort) { socket::options::export(defaults, ours.as_fd(), sort)? } else { Vec::new() };
        Ok(Some(Self { sort, options }))
    }
}
