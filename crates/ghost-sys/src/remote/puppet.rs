//! Batches inside a living program, with a dead-man's switch.

use super::{Batch, Executor, Memory, Outcome, RemoteError};
use crate::Pid;
use crate::ptrace::Stopped;

/// Runs batches in a frozen thread of a living program and leaves no trace in it.
///
/// One puppet serves all the threads of a process in turn: [`Puppet::enter`] another thread at any time.
#[derive(Debug)]
pub struct Puppet {
    memory: Memory,
}

impl Puppet {
    /// Prepares to act in process `pid`, whose threads are all stopped. Touches nothing yet.
    pub fn new(_pid: Pid) -> Result<Self, RemoteError> {
        todo!()
    }
    /// Lends this stopped thread to the puppet; batches run in it until the guard is dropped or [`Entered::leave`]
    /// puts it back exactly as it was.
    pub fn enter<'p>(&'p mut self, _thread: &'p Stopped) -> Result<Entered<'p>, RemoteError> {
        todo!()
    }
    /// Takes back everything (scratch memory, code in the unused tail) using `thread`; the process is as it was.
    pub fn finish(self, _thread: &Stopped) -> Result<(), RemoteError> {
        todo!()
    }
}

/// A thread in which batches run now.
#[derive(Debug)]
pub struct Entered<'p> {
    puppet: &'p mut Puppet,
}

impl Entered<'_> {
    /// Puts the thread back as it was, in one step.
    pub fn leave(self) -> Result<(), RemoteError> {
        todo!()
    }
}

impl Executor for Entered<'_> {
    fn run(&mut self, _batch: &Batch) -> Result<Outcome, RemoteError> {
        todo!()
    }
    fn memory(&self) -> &Memory {
        &self.puppet.memory
    }
}
