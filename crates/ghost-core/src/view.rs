//! What procfs tells of a process tree: the eyes of every `check`, and the first half of every `export`.
//!
//! A view is taken without touching anything, of a running tree (`ghost check`) or of a frozen one (export).

use crate::error::{Context, KindError};
use ghost_sys::proc::{self, ProcDir};
use ghost_sys::{Pid, pidfd};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

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
    pub ours: OwnedFd,
    /// Its inode.
    pub stat: rustix::fs::Stat,
}

/// One process, seen from outside.
#[derive(Debug)]
pub struct ProcessView {
    /// Its pid.
    pub pid: Pid,
    /// A handle that no other process can take over.
    pub pidfd: OwnedFd,
    /// /proc/PID.
    pub dir: ProcDir,
    /// /proc/PID/stat.
    pub stat: proc::Stat,
    /// /proc/PID/status.
    pub status: proc::Status,
    /// Its threads, the leader first, with the status of each.
    pub threads: Vec<ThreadView>,
    /// Its mappings with their flags; empty for a zombie and for a process that shares an earlier one's memory.
    pub smaps: Vec<proc::Smap>,
    /// Its descriptors; empty for a zombie and for a process that shares an earlier one's table.
    pub fds: Vec<FdView>,
    /// The earlier process of the tree whose address space this one shares (kcmp), by index.
    pub shares_mm: Option<usize>,
    /// Likewise the descriptor table.
    pub shares_files: Option<usize>,
    /// Likewise cwd, root and umask.
    pub shares_fs: Option<usize>,
    /// Likewise the signal actions.
    pub shares_sighand: Option<usize>,
}

/// One thread, seen from outside.
#[derive(Debug)]
pub struct ThreadView {
    /// Its tid.
    pub tid: Pid,
    /// /proc/PID/task/TID/status.
    pub status: proc::Status,
}

impl ProcessView {
    /// Whether it has ended and waits to be reaped.
    pub fn is_zombie(&self) -> bool {
        self.stat.state == b'Z' && self.threads.len() <= 1
    }
    /// Its name, for messages.
    pub fn comm(&self) -> String {
        String::from_utf8_lossy(&self.stat.comm).into_owned()
    }
}

/// A process and everything below it, parents before their children.
#[derive(Debug, Default)]
pub struct TreeView {
    /// The processes; the root is the first.
    pub processes: Vec<ProcessView>,
}
