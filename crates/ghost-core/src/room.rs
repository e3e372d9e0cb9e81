//! Room in our own descriptor table: RLIMIT_NOFILE, `getrlimit(2)`.
//!
//! Ghost holds a copy of every descriptor of a tree, and at a restart every description, until the last step. Of a large tree that is more
//! than the soft limit, which is raised as far as the hard one, and further with CAP_SYS_RESOURCE. Where that is not enough, those
//! that a process has inherited are looked at through the copies that there are already ([`crate::view`]); and what still does not fit is
//! refused with the number that it needs, rather than found out in the middle.

use crate::error::{Context, KindError};
use crate::model::Model;
use ghost_sys::proc::{self, ProcDir};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::{AsFd, OwnedFd};

/// Descriptors for which every process has room.
const FIRST_ROOM: usize = 64;
/// What is open for a moment beside what is counted: files of procfs, pipes and sockets to compare with.
const RESERVE: usize = 64;

/// How many more descriptors we may have, the limit raised as far as it goes for so many.
pub(crate) fn left(wanted: usize) -> usize {
    let used = used();
    let limit = raise_limit((used + wanted + RESERVE) as u64);
    limit.map_or(usize::MAX, |limit| (limit as usize).saturating_sub(used + RESERVE))
}

fn used() -> usize {
    ProcDir::own().and_then(|own| proc::read_fds(&own)).map_or(0, |fds| fds.len())
}

/// Raises our limit to hold numbers below `need`, if it can; gives the limit, none if there is none.
fn raise_limit(need: u64) -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let soft = limit.current?;
    if soft >= need {
        return Some(soft);
    }
    if limit.maximum.is_some_and(|hard| hard < need)
        && setrlimit(Resource::Nofile, Rlimit { current: Some(need), maximum: Some(need) }).is_ok()
    {
        return Some(need);
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => limit.maximum,
        Err(_) => Some(soft),
    }
}

/// Makes room in our own descriptor table while this is the only thread: with several the kernel waits for all CPUs (RCU) each
/// time that it grows, some 10 ms.
pub(crate) fn make(more: usize) {
    let used = used();
    if used + more >= FIRST_ROOM
        && let Ok((fd, _)) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
    {
        // Where the limit forbids it, what needs the room will say so.
        drop(raise(fd, (used + more + FIRST_ROOM) as i32));
    }
}

/// The same descriptor under this number or a higher one.
pub(crate) fn raise(fd: OwnedFd, at_least: i32) -> Result<OwnedFd, KindError> {
    raise_limit(at_least as u64 + 1024);
    rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), at_least)
        .step("making room for its descriptors")
        .map_err(|e| e.advise(ADVICE))
}

const ADVICE: &str = "raise the hard limit on open files of ghost (`ulimit -Hn` in its shell, LimitNOFILE= of its service), or give it CAP_SYS_RESOURCE";

/// A tree with more descriptors than we may have copies of.
pub(crate) fn too_many(count: usize, left: usize) -> KindError {
    let why = format!("the tree has {count} descriptors open, and ghost may have {left} more itself");
    KindError::refusal("copying its descriptors", why).advise(ADVICE)
}

/// Refuses a ghost with more descriptions than we may open.
pub(crate) fn fits(model: &Model) -> Result<(), KindError> {
    /// A pidfd, its directory in procfs, its memory, a control descriptor.
    const OF_PROCESS: usize = 4;
    let needed = model.files.len()
        + model.contents.len()
        + model.shmems.len()
        + model.pipes.len()
        + OF_PROCESS * model.processes.len();
    let left = left(needed);
    if needed <= left {
        return Ok(());
    }
    let why = format!("it takes {needed} descriptors to rebuild it, and ghost may have {left} more");
    Err(KindError::refusal("counting its descriptions", why).advise(ADVICE))
}
