//! The drive in: records, processes, kinds in order, pages, kinds' finish, registers, go; or undo.
//!
//! Until the last step every new thread exists only to run calls for ghost and dies with it (PTRACE_O_EXITKILL); any
//! error kills them all, and what was made outside of them (files that had to be named for a moment) is taken back.

use crate::error::{Context, KindError};
use crate::model::Model;
use crate::options::{ImportOptions, PidMap};
use ghost_image::record as rec;
use ghost_sys::Pid;
use ghost_sys::remote::{Batch, Executor, Outcome, RemoteError, Stub, StubLayout};
use std::collections::HashMap;
use std::os::fd::OwnedFd;

/// A process under construction.
#[derive(Debug)]
pub struct Building {
    /// Its pid now.
    pub pid: Pid,
    /// Its first thread; None once a zombie has ended.
    pub leader: Option<Stub>,
    /// Its other threads, in the order of the record.
    pub threads: Vec<Stub>,
    /// Calls queued for the leader; [`ImportCx::flush`] makes them.
    pub batch: Batch,
}

/// What the kinds work on while a tree is imported.
#[derive(Debug)]
pub struct ImportCx<'a> {
    /// The records.
    pub model: &'a Model,
    /// What the caller chose.
    pub options: &'a ImportOptions,
    /// The processes, in the order of `model.processes`.
    pub building: Vec<Building>,
    /// Where the stubs live: free in every address space of the tree.
    pub layout: StubLayout,
    /// Pids and tids of the ghost to those of now.
    pub pids: PidMap,
    /// Open file descriptions by `file_id`, ours until the processes have them.
    pub files: HashMap<u32, OwnedFd>,
    /// Inodes without a name, by `content_id`.
    pub contents: HashMap<u32, OwnedFd>,
    /// Shared anonymous memory by id: opened through the first process that maps it.
    pub shmems: HashMap<u32, OwnedFd>,
    /// Ours and theirs: the unix socket over which descriptors are handed to the processes, inherited by all.
    pub control: OwnedFd,
    /// Its number inside the processes.
    pub control_fd: i32,
    /// What was lost or is worth saying.
    pub notes: Vec<rec::Note>,
}

impl ImportCx<'_> {
    /// The new pid of a process or thread of the ghost; the same when the ghost does not know it.
    pub fn pid(&self, old: Pid) -> Pid {
        self.pids.get(&old).copied().unwrap_or(old)
    }
    /// The record of a process under construction.
    pub fn record(&self, index: usize) -> &rec::Process {
        &self.model.processes[index]
    }
    /// Makes the calls queued on this process.
    pub fn flush(&mut self, index: usize) -> Result<Option<Outcome>, KindError> {
        let old = self.record(index).pid;
        let b = &mut self.building[index];
        if b.batch.is_empty() {
            return Ok(None);
        }
        let batch = std::mem::take(&mut b.batch);
        let Some(leader) = b.leader.as_mut() else { return Ok(None) };
        leader.run(&batch).map(Some).map_err(|e| remote(old, e))
    }
    /// Makes the queued calls of all processes, at the same time.
    pub fn flush_all(&mut self) -> Result<(), KindError> {
        let batches: Vec<Batch> = self.building.iter_mut().map(|b| std::mem::take(&mut b.batch)).collect();
        let mut olds = Vec::new();
        let mut work = Vec::new();
        for ((b, batch), rec) in self.building.iter_mut().zip(&batches).zip(&self.model.processes) {
            if let (Some(stub), false) = (b.leader.as_mut(), batch.is_empty()) {
                olds.push(rec.pid);
                work.push((stub, batch));
            }
        }
        for (result, old) in Stub::run_all(&mut work).into_iter().zip(olds) {
            result.map_err(|e| remote(old, e))?;
        }
        Ok(())
    }
    /// Gives these descriptors to a process under construction; returns their numbers there, lowest free ones, in order.
    pub fn hand_over(&mut self, index: usize, fds: &[std::os::fd::BorrowedFd<'_>]) -> Result<Vec<i32>, KindError> {
        use std::os::fd::AsFd;
        self.flush(index)?;
        let old = self.record(index).pid;
        let control = self.control.as_fd();
        let control_fd = self.control_fd;
        let Some(stub) = self.building[index].leader.as_mut() else { return Ok(Vec::new()) };
        let mut numbers = Vec::with_capacity(fds.len());
        for part in fds.chunks(ghost_sys::scm::MAX_FDS) {
            ghost_sys::scm::send(control, part).step_on(old, String::new, "handing descriptors over")?;
            numbers.extend(ghost_sys::scm::receive_in(stub, control_fd, part.len()).map_err(|e| remote(old, e))?);
        }
        Ok(numbers)
    }
}

/// An error from inside a process under construction.
pub fn remote(pid: Pid, e: RemoteError) -> KindError {
    KindError::new("building the process", e).on(pid, "")
}
