//! Batches inside a living program, with a dead-man's switch.
//!
//! The thread is in a ptrace stop. The code of [`crate::arch`] is written into bytes that nobody uses (see `foothold`), with
//! the thread's own registers and signal mask in it; nothing the program has is touched. Then one `PTRACE_SETREGS` sends the
//! thread there, and from then on **the death of ghost at any instant brings it home**: the kernel detaches, the batch runs to its
//! end with its epilogue, the thread sleeps for at most two seconds, unmaps the scratch area, restores mask and registers
//! and goes on as if it had been stopped all the time.
//!
//! | if ghost dies | what the thread does |
//! |---|---|
//! | before the first SETREGS | goes on: only unused bytes have changed |
//! | after it, before all signals are blocked | as below; a handler that runs meanwhile returns to the executor, and a call that it should have ended is made again |
//! | while a call or a batch runs | finishes it and its epilogue, then home |
//! | between two batches | home at once: its sleep is interrupted and cannot be restarted |
//! | after the mask is back, before the last SETREGS | home at once |
//!
//! Leaving is one `PTRACE_SETREGS` of the registers as they were found, the error `-ERESTARTxxx` of an interrupted call
//! included, in a stop of the same kind: the kernel restarts the call itself, `restart_block` untouched. Inside a restartable sequence
//! the thread comes home at its abort handler, as after a signal.
//!
//! Many threads of a process are visited by [`Puppet::run_each`] (`crowd`): the first owns the scratch area, the others come in by the gate.
//!
//! A thread that group stop holds runs its batches and is held again on release. Signals wait in their queues meanwhile, except
//! SIGSTOP, which is let through and changes nothing here, and SIGKILL ([`RemoteError::Died`]).
//!
//! Lost: where the program waits under a temporary mask (`sigsuspend`, `ppoll`), a signal that only this mask blocks and that is pending
//! is delivered on leaving. Refused: 32-bit programs. Seccomp: with `PTRACE_O_SUSPEND_SECCOMP` filters sleep while ghost lives; should it die, they
//! judge `pselect6`, `munmap` and `rt_sigprocmask` of the way home, and a filter that kills for one of them kills the program.

use super::foothold::{Foothold, Space};
use super::{Entered, Memory, RemoteAddr, RemoteError};
use crate::ptrace::Stopped;
use crate::{Errno, Pid, arch};
use std::cell::Cell;

/// How long a thread waits for ghost before it goes home.
const PATIENCE_SECONDS: u64 = 2;
/// From so many threads on a second place for their ways home is worth its page; and it must hold as many.
const CROWD: usize = 8;
pub(super) fn step(step: &'static str) -> impl Fn(Errno) -> RemoteError {
    move |errno| RemoteError::Step { step, errno }
}

/// What is known of the address space of a process before a puppet is made. Nothing goes wrong where it is not so.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// Where its vDSO is: start and end.
    pub vdso: Option<(u64, u64)>,
    /// Where nothing is mapped for [`Hints::ROOM`] bytes; 0 when that is not known.
    pub free: u64,
    /// How many threads are to be visited by [`Puppet::run_each`].
    pub threads: usize,
    /// All its mappings; only looked at when there are many threads.
    pub spaces: Option<Vec<Space>>,
}

impl Hints {
    /// Bytes that the scratch area of a common inquiry takes, and what is left free on either side of it.
    pub const ROOM: u64 = 256 << 10;
}

/// Runs batches in a frozen thread of a living program and leaves no trace in it.
///
/// One puppet serves all the threads of a process in turn: [`Puppet::enter`] another thread at any time.
#[derive(Debug)]
pub struct Puppet {
    pub(super) memory: Memory,
    pub(super) foothold: Foothold,
    /// Where the ways home of a crowd stand, if there are many and there is such a place.
    pub(super) outpost: Option<Foothold>,
    /// Whether our code stands there.
    written: Cell<bool>,
    /// Where the last scratch area was, or the first may be: free now, as long as the process is frozen.
    pub(super) last_scratch: Cell<u64>,
}

impl Puppet {
    /// Prepares to act in process `pid`, whose threads are all stopped. Touches nothing yet.
    pub fn new(pid: Pid) -> Result<Self, RemoteError> {
        Self::with_hints(pid, &Hints::default())
    }

    /// The same where it is known already what is mapped.
    pub fn with_hints(pid: Pid, hints: &Hints) -> Result<Self, RemoteError> {
        let memory = Memory::open(pid).map_err(step("opening the memory of the process"))?;
        let (foothold, outpost) = if hints.threads < CROWD {
            let known = hints.vdso.and_then(|vdso| Foothold::in_vdso(&memory, vdso, Self::code_len()));
            (known.map_or_else(|| Foothold::find(&memory, Self::code_len()), Ok)?, None)
        } else {
            let spaces = hints.spaces.as_deref();
            Foothold::find_two(&memory, Self::code_len(), CROWD * arch::BLOCK_LEN as usize, spaces)?
        };
        Ok(Self { memory, foothold, outpost, written: Cell::new(false), last_scratch: Cell::new(hints.free) })
    }

    /// The memory of the process.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Bytes at the end of an executable page that it needs at least.
    pub fn room() -> usize {
        Self::code_len() + super::foothold::MARK_LEN as usize
    }

    fn code_len() -> usize {
        (arch::slot_map().len + arch::BLOCK_LEN) as usize
    }

    /// How many threads there is room for at the same time.
    pub(super) fn blocks(&self) -> usize {
        let room = self.outpost.map_or_else(|| self.foothold.room() - Self::code_len(), Foothold::room);
        1 + room / arch::BLOCK_LEN as usize
    }

    pub(super) fn at(&self, offset: u64) -> u64 {
        self.foothold.start + offset
    }

    pub(super) fn block_at(&self, block: usize) -> u64 {
        match self.outpost {
            Some(outpost) if block > 0 => outpost.start + (block as u64 - 1) * arch::BLOCK_LEN,
            _ => self.at(arch::slot_map().len + block as u64 * arch::BLOCK_LEN),
        }
    }

    /// Shuts the gate for the threads of all blocks but the first. All of them are home.
    pub(super) fn disarm(&self, blocks: usize) -> Result<(), RemoteError> {
        self.write_code(self.block_at(1), &vec![0; blocks * arch::BLOCK_LEN as usize])
    }

    pub(super) fn write_code(&self, at: u64, bytes: &[u8]) -> Result<(), RemoteError> {
        self.memory.write_forced(RemoteAddr(at), bytes).map_err(step("writing the executor's code"))
    }

    /// Writes a block, and with the first one the code.
    pub(super) fn write_block(&self, block: usize, bytes: &[u8]) -> Result<(), RemoteError> {
        if self.written.replace(true) {
            return self.write_code(self.block_at(block), bytes);
        }
        let written = self.write_first(block, bytes);
        if written.is_err() {
            // Nobody has been sent there.
            let _ = self.clear();
        }
        written
    }

    fn write_first(&self, block: usize, bytes: &[u8]) -> Result<(), RemoteError> {
        let at = self.block_at(block);
        let mut code = self.foothold.marked(&arch::slot_code(PATIENCE_SECONDS, (self.blocks() - 1, self.block_at(1))));
        if let Some(outpost) = self.outpost {
            self.write_code(outpost.start, &outpost.marked(&[]))?;
        }
        let own = self.block_at(0);
        if at == own {
            code[(own - self.foothold.start) as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        self.write_code(self.foothold.start, &code)?;
        if at == own { Ok(()) } else { self.write_code(at, bytes) }
    }

    /// Lends this stopped thread to the puppet; batches run in it until the guard is dropped or [`Entered::leave`]
    /// puts it back exactly as it was. Nothing happens to it before the first batch.
    ///
    /// A thread that is about to take a signal is first brought past that: its handler's frame is made.
    pub fn enter<'p>(&'p mut self, thread: &'p Stopped) -> Result<Entered<'p>, RemoteError> {
        self.enter_block(thread, 0)
    }

    pub(super) fn enter_block<'p>(&'p self, thread: &'p Stopped, block: usize) -> Result<Entered<'p>, RemoteError> {
        thread.settle().map_err(step("stopping the thread in a quiet place"))?.map_err(RemoteError::Died)?;
        let home = thread.registers().map_err(step("reading registers"))?;
        if !arch::is_native(&home) {
            return Err(step("entering a program of another instruction set")(Errno(libc::ENOEXEC)));
        }
        Ok(Entered::new(self, thread, block))
    }

    /// Takes back everything (scratch memory, code in the unused tail) using `thread`; the process is as it was.
    pub fn finish(self, _thread: &Stopped) -> Result<(), RemoteError> {
        // Scratch memory went with each thread that left, since it must never be there without one that would unmap it.
        self.clear()
    }

    fn clear(&self) -> Result<(), RemoteError> {
        if self.written.replace(false) {
            let outpost = self.outpost.map_or(Ok(()), |outpost| outpost.clear(&self.memory));
            self.foothold.clear(&self.memory).and(outpost)?;
        }
        Ok(())
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        // Left in place when it fails: it is marked as ours and harms nobody.
        let _ = self.clear();
    }
}
