//! What the caller may choose.

use ghost_sys::Pid;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far an action has come, for whoever watches from another thread.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// (bytes done, bytes in all; 0 when that is not known).
    pub fn get(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
    pub(crate) fn expect(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }
    pub(crate) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What becomes of the source once the ghost is whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum After {
    /// It runs on.
    #[default]
    Run,
    /// It is left stopped, as by SIGSTOP.
    Stop,
    /// It ends as by SIGKILL.
    Kill,
}

/// How a process is exported.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// What becomes of the source.
    pub after: After,
    /// Kinds whose loss the user accepts by name.
    pub accept: BTreeSet<String>,
    /// Is told how far the pages have come.
    pub progress: Option<Arc<Progress>>,
    /// Descriptions that stay behind and are handed over anew at restart: `pipe:[123]` or `fd:5` to a name.
    pub external: Vec<String>,
}

/// Which pids the new processes get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pids {
    /// The same.
    #[default]
    Same,
    /// Any that are free: a duplicate beside the original.
    New,
    /// The same, in a pid namespace of their own: needs a pid 1 there, which the `ghost` command is (`--pid ns`); the library
    /// refuses it by name.
    Namespace,
}

/// How a ghost is made a process of.
#[derive(Debug, Default)]
pub struct ImportOptions {
    /// Which pids.
    pub pids: Pids,
    /// Files under another name now: (old, new).
    pub map_files: Vec<(Vec<u8>, Vec<u8>)>,
    /// Descriptions that the caller hands over, by the name the ghost has for them.
    pub inherit: Vec<(String, OwnedFd)>,
    /// Kinds whose loss the user accepts by name.
    pub accept: BTreeSet<String>,
    /// Is told how far the pages have come.
    pub progress: Option<Arc<Progress>>,
    /// Whether the new root process is to outlive ghost as nobody's special child.
    pub detach: bool,
    /// Ends a process that still runs under the root's pid first.
    pub replace: bool,
    /// Wait this long for pids that are still taken by processes that are going away.
    pub wait_for_pids_ms: u64,
}

/// A pid of the ghost to the pid of the new process.
pub type PidMap = std::collections::HashMap<Pid, Pid>;
