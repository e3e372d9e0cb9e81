//! Threads under trace: `ptrace(2)`, as values that are consumed by each transition.

use crate::{Pid, Result};

/// A thread that this process traces and that runs.
#[derive(Debug)]
pub struct Running {
    tid: Pid,
}

/// A thread that this process traces and that is stopped. Dropping it detaches: the thread runs on.
#[derive(Debug)]
pub struct Stopped {
    tid: Pid,
}

/// How a traced thread came to a halt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// PTRACE_INTERRUPT, or the first stop of a new thread (PTRACE_EVENT_STOP with SIGTRAP).
    Trap,
    /// Job control stopped it with this signal.
    Group(i32),
    /// This signal is about to be delivered.
    Signal(i32),
    /// A PTRACE_EVENT_* with its message.
    Event(i32, u64),
    /// Entry or exit of a system call.
    Syscall,
}

/// What a wait found.
#[derive(Debug)]
pub enum Waited {
    /// It is stopped.
    Stopped(Stopped, Stop),
    /// It has ended, with this wait status; it is no tracee any more.
    Gone(i32),
}

/// Attaches to a running thread without stopping it (PTRACE_SEIZE with `options`, `libc::PTRACE_O_*`).
pub fn seize(_tid: Pid, _options: i32) -> Result<Running> {
    todo!()
}

impl Running {
    /// Its tid.
    pub fn tid(&self) -> Pid {
        self.tid
    }
    /// Asks it to stop (PTRACE_INTERRUPT); [`Running::wait`] tells when it has.
    pub fn interrupt(&self) -> Result<()> {
        todo!()
    }
    /// Waits for its next stop or its end.
    pub fn wait(self) -> Result<Waited> {
        todo!()
    }
}

/// The general registers as `struct user_regs_struct` has them.
pub use libc::user_regs_struct as Registers;

impl Stopped {
    /// Its tid.
    pub fn tid(&self) -> Pid {
        self.tid
    }
    /// General registers (PTRACE_GETREGSET, NT_PRSTATUS).
    pub fn registers(&self) -> Result<Registers> {
        todo!()
    }
    /// Sets the general registers in one step.
    pub fn set_registers(&self, _r: &Registers) -> Result<()> {
        todo!()
    }
    /// FPU and vector state (NT_X86_XSTATE), as long as this CPU makes it.
    pub fn xstate(&self) -> Result<Vec<u8>> {
        todo!()
    }
    /// Sets FPU and vector state.
    pub fn set_xstate(&self, _bytes: &[u8]) -> Result<()> {
        todo!()
    }
    /// The signal mask that the thread has when no system call has replaced it for a while.
    pub fn signal_mask(&self) -> Result<u64> {
        todo!()
    }
    /// Sets the signal mask.
    pub fn set_signal_mask(&self, _mask: u64) -> Result<()> {
        todo!()
    }
    /// The signals that wait, in order: the thread's own queue, or the process's (PTRACE_PEEKSIGINFO).
    pub fn pending_signals(&self, _process_wide: bool) -> Result<Vec<[u8; 128]>> {
        todo!()
    }
    /// The siginfo of a signal-delivery stop.
    pub fn siginfo(&self) -> Result<[u8; 128]> {
        todo!()
    }
    /// (address, size, signature, flags) of the registered rseq area; None when there is none.
    pub fn rseq(&self) -> Result<Option<(u64, u32, u32, u32)>> {
        todo!()
    }
    /// The seccomp filters in the order in which they were installed: (program as sock_filter bytes, flags).
    pub fn seccomp_filters(&self) -> Result<Vec<(Vec<u8>, u64)>> {
        todo!()
    }
    /// Syscall user dispatch: (mode, selector, offset, len).
    pub fn syscall_dispatch(&self) -> Result<(u64, u64, u64, u64)> {
        todo!()
    }
    /// Sets syscall user dispatch.
    pub fn set_syscall_dispatch(&self, _config: (u64, u64, u64, u64)) -> Result<()> {
        todo!()
    }
    /// Debug registers DR0-DR3, DR6, DR7.
    pub fn debug_registers(&self) -> Result<[u64; 6]> {
        todo!()
    }
    /// Sets debug registers.
    pub fn set_debug_registers(&self, _values: &[u64; 6]) -> Result<()> {
        todo!()
    }
    /// Changes the PTRACE_O_* options.
    pub fn set_options(&self, _options: i32) -> Result<()> {
        todo!()
    }
    /// Lets it run (PTRACE_CONT), delivering `signal` (0: none).
    pub fn resume(self, _signal: i32) -> Result<Running> {
        todo!()
    }
    /// Ends the trace; the thread runs on, or stays in its group stop.
    pub fn detach(self) -> Result<()> {
        todo!()
    }
}
