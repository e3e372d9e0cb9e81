//! Batches inside a process that is being built from nothing.

use super::{Batch, Executor, Memory, Outcome, RemoteAddr, RemoteError};
use crate::Pid;
use crate::ptrace::Stopped;

/// Room for batches that each further thread of a process needs, in bytes.
pub const THREAD_ROOM: u64 = 8192;

/// Where the executor lives in the address space of a process that is being built: one page of code, then
/// `data_len` bytes of room for batches; all of it lies in `base..base + StubLayout::len()`.
#[derive(Clone, Copy, Debug)]
pub struct StubLayout {
    /// First byte, page aligned.
    pub base: RemoteAddr,
    /// Room for batches in bytes, a multiple of the page size.
    pub data_len: u64,
}

impl StubLayout {
    /// Bytes taken in all.
    pub fn len(&self) -> u64 {
        4096 + self.data_len
    }
    /// Never.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// One thread of a process under construction: it exists only to run batches until its registers are set.
#[derive(Debug)]
pub struct Stub {
    /// The thread, stopped.
    pub thread: Stopped,
    /// The process it belongs to.
    pub pid: Pid,
    memory: Memory,
    layout: StubLayout,
}

impl Stub {
    /// Makes the first process: clone3 with the given pid (0: any), then a clean address space that holds only the
    /// executor at `layout` and the vDSO/vvar mappings. It inherits no descriptor but `keep` (same numbers); it dies if ghost dies.
    pub fn spawn(_pid: Pid, _layout: StubLayout, _keep: &[std::os::fd::RawFd]) -> Result<Self, RemoteError> {
        todo!()
    }
    /// Makes a child process of this one by clone3 inside it, with the pid and the clone flags given
    /// (CLONE_VM, CLONE_FILES, CLONE_FS, CLONE_SIGHAND, CLONE_PARENT...); it starts as a stub.
    pub fn fork(&mut self, _pid: Pid, _flags: u64, _exit_signal: u32) -> Result<Self, RemoteError> {
        todo!()
    }
    /// Makes threads with these tids and these clear_child_tid addresses; all start as stubs, each with its own part of the room.
    pub fn spawn_threads(&mut self, _tids: &[(Pid, u64)]) -> Result<Vec<Stub>, RemoteError> {
        todo!()
    }
    /// Runs one batch in each of several stubs at the same time.
    pub fn run_all(_work: &mut [(&mut Stub, &Batch)]) -> Vec<Result<Outcome, RemoteError>> {
        todo!()
    }
    /// Makes one last call by a `syscall` instruction at `at` (in the process's own vDSO), for unmapping the executor itself.
    pub fn call_at(&mut self, _at: RemoteAddr, _nr: i64, _args: [u64; 6]) -> Result<i64, RemoteError> {
        todo!()
    }
    /// Where the executor lies.
    pub fn layout(&self) -> StubLayout {
        self.layout
    }
}

impl Executor for Stub {
    fn run(&mut self, _batch: &Batch) -> Result<Outcome, RemoteError> {
        todo!()
    }
    fn memory(&self) -> &Memory {
        &self.memory
    }
}
