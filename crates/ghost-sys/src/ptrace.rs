//! Threads under trace: `ptrace(2)`, as values that are consumed by each transition.
//!
//! [`seize`] makes a [`Running`], [`Running::stop`] (or `interrupt` and `wait`) a [`Stopped`], whose state can be
//! read and set, and [`Stopped::resume`] or [`Stopped::detach`] lets it go. Needs `CAP_SYS_PTRACE` or the rights that
//! `PTRACE_MODE_ATTACH_REALCREDS` describes; seccomp filters need `CAP_SYS_ADMIN`. Oldest kernel: 6.4, for syscall
//! user dispatch; all else is there since 5.13 (`PTRACE_GET_RSEQ_CONFIGURATION`).
//!
//! A trace belongs to one *thread* of the tracer: all calls on a tracee must come from the thread that seized it,
//! and its death ends the trace. Waiting names the exact tid and `__WALL`, so other children are never reaped.

#![allow(unsafe_code)]

mod state;

use crate::{Errno, Pid, Result, errno::cvt};
use std::cell::Cell;
use std::os::raw::c_void;

/// The general registers as `struct user_regs_struct` has them.
pub use libc::user_regs_struct as Registers;

const PTRACE_EVENT_STOP: i32 = 128;
/// PTRACE_O_SUSPEND_SECCOMP (Linux 4.3): seccomp does not judge the thread's calls while it is traced; needs CAP_SYS_ADMIN.
pub const SUSPEND_SECCOMP: i32 = 1 << 21;
/// `NT_PRSTATUS`: general registers.
pub const NT_PRSTATUS: u32 = 1;
/// `NT_X86_XSTATE`: FPU and vector state in the layout of XSAVE.
pub const NT_X86_XSTATE: u32 = 0x202;

/// A thread that this process traces and that runs. Dropping it leaves the trace as it is.
#[derive(Debug)]
pub struct Running {
    tid: Pid,
}

/// A thread that this process traces and that is stopped. Dropping it detaches: the thread runs on, and a signal that was
/// about to be delivered is delivered.
#[derive(Debug)]
pub struct Stopped {
    tid: Pid,
    /// Set when the thread has ended or is not ours any more.
    gone: Cell<bool>,
    /// The signal of a signal-delivery stop, taken from the queue: lost if not handed back.
    held: Cell<i32>,
    /// The last stop.
    stop: Cell<Stop>,
    /// What was read of it in this stop.
    known: Known,
}

/// What does not change while a thread is stopped, but by its tracer: asked once in a stop.
#[derive(Debug, Default)]
struct Known {
    registers: Cell<Option<Registers>>,
    mask: Cell<Option<u64>>,
    rseq: Cell<Option<Option<RseqArea>>>,
    dispatch: Cell<Option<(u64, u64, u64, u64)>>,
}

/// (address, size, signature, flags) of a registered rseq area.
pub type RseqArea = (u64, u32, u32, u32);

impl Known {
    fn forget(&self) {
        self.registers.set(None);
        self.mask.set(None);
        self.rseq.set(None);
        self.dispatch.set(None);
    }
}

/// What is known, or is asked now and known from then on.
fn once<T: Copy>(known: &Cell<Option<T>>, ask: impl FnOnce() -> Result<T>) -> Result<T> {
    if let Some(value) = known.get() {
        return Ok(value);
    }
    let value = ask()?;
    known.set(Some(value));
    Ok(value)
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
#[allow(clippy::large_enum_variant, reason = "nearly always the large one")]
pub enum Waited {
    /// It is stopped.
    Stopped(Stopped, Stop),
    /// It has ended, with this wait status; it is no tracee any more.
    Gone(i32),
}

fn request(what: u32, tid: Pid, addr: u64, data: *mut c_void) -> Result<i64> {
    // SAFETY: every caller passes as `data` a number, or a pointer to memory of its own that lives through the call and has
    // at least the size that the request (or the size in `addr` or in the iovec) names; ptrace(2) touches no other memory.
    cvt(unsafe { libc::ptrace(what as _, tid, addr as *mut c_void, data) })
}

/// Attaches to a running thread without stopping it (PTRACE_SEIZE with `options`, `libc::PTRACE_O_*`).
///
/// `PTRACE_O_TRACESYSGOOD` is always on: without it a tracer that dies while its tracee is in a system call stop leaves
/// the tracee a SIGTRAP, of which it dies (kernel `ptrace_report_syscall`).
pub fn seize(tid: Pid, options: i32) -> Result<Running> {
    let options = options | libc::PTRACE_O_TRACESYSGOOD;
    request(libc::PTRACE_SEIZE, tid, 0, options as usize as *mut c_void)?;
    Ok(Running { tid })
}

/// Takes over a thread that the kernel attached by itself (PTRACE_O_TRACECLONE and its kin); it reports its first stop soon.
pub fn adopt(tid: Pid) -> Running {
    Running { tid }
}

pub(crate) fn wait_status(tid: Pid, flags: i32) -> Result<Option<i32>> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a local that the kernel may write.
        match cvt(unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | flags) } as i64) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(status)),
            Err(Errno(libc::EINTR)) => {}
            Err(e) => return Err(e),
        }
    }
}

impl Stop {
    /// What this wait status of a stopped tracee says; the message of an event is read from it.
    fn decode(tid: Pid, status: i32) -> Result<Self> {
        let signal = libc::WSTOPSIG(status);
        Ok(match status >> 16 {
            PTRACE_EVENT_STOP if signal == libc::SIGTRAP => Self::Trap,
            PTRACE_EVENT_STOP => Self::Group(signal),
            0 if signal == libc::SIGTRAP | 0x80 => Self::Syscall,
            0 => Self::Signal(signal),
            event => {
                let mut message = 0_u64;
                request(libc::PTRACE_GETEVENTMSG, tid, 0, (&raw mut message).cast())?;
                Self::Event(event, message)
            }
        })
    }
}

impl Running {
    /// Its tid.
    pub fn tid(&self) -> Pid {
        self.tid
    }

    /// Asks it to stop (PTRACE_INTERRUPT); [`Running::wait`] tells when it has.
    pub fn interrupt(&self) -> Result<()> {
        request(libc::PTRACE_INTERRUPT, self.tid, 0, std::ptr::null_mut()).map(drop)
    }

    /// Waits for its next stop or its end.
    pub fn wait(self) -> Result<Waited> {
        let status = wait_status(self.tid, 0)?.unwrap_or(0);
        Self::waited(self.tid, status)
    }

    /// [`Running::wait`], but looks for a while before it sleeps.
    fn wait_soon(self) -> Result<Waited> {
        let begin = std::time::Instant::now();
        while begin.elapsed() < std::time::Duration::from_micros(40) {
            if let Some(status) = wait_status(self.tid, libc::WNOHANG)? {
                return Self::waited(self.tid, status);
            }
            std::thread::yield_now();
        }
        self.wait()
    }

    /// Looks whether it has stopped or ended; gives it back when not.
    pub fn try_wait(self) -> Result<std::result::Result<Waited, Self>> {
        match wait_status(self.tid, libc::WNOHANG)? {
            Some(status) => Self::waited(self.tid, status).map(Ok),
            None => Ok(Err(self)),
        }
    }

    fn waited(tid: Pid, status: i32) -> Result<Waited> {
        if !libc::WIFSTOPPED(status) {
            return Ok(Waited::Gone(status));
        }
        let stop = Stop::decode(tid, status)?;
        let stopped =
            Stopped { tid, gone: Cell::new(false), held: Cell::new(0), stop: Cell::new(stop), known: Known::default() };
        if let Stop::Signal(signal) = stop {
            stopped.held.set(signal);
        }
        Ok(Waited::Stopped(stopped, stop))
    }

    /// Stops it (PTRACE_INTERRUPT) at a place where no signal is half delivered: [`Stop::Trap`] or [`Stop::Group`].
    ///
    /// A signal that was on its way in gets there first: it is handed on while the next interruption is already pending, so
    /// that the kernel builds the handler's frame and stops before its first instruction. Events on the way are passed over.
    pub fn stop(self) -> Result<Waited> {
        self.interrupt()?;
        self.settle()
    }

    /// [`Running::settle`] for as long as `limit`; gives the thread back when it has not come to rest by then.
    ///
    /// A thread in an uninterruptible sleep, such as that of vfork(2), does not stop before it ends.
    pub fn settle_within(self, limit: std::time::Duration) -> Result<std::result::Result<Waited, Self>> {
        let began = std::time::Instant::now();
        let mut pause = std::time::Duration::from_micros(20);
        let mut thread = self;
        loop {
            thread = match thread.try_wait()? {
                Ok(Waited::Stopped(s, stop @ (Stop::Trap | Stop::Group(_)))) => {
                    return Ok(Ok(Waited::Stopped(s, stop)));
                }
                Ok(Waited::Stopped(s, _)) => {
                    s.interrupt()?;
                    let signal = s.held.get();
                    s.resume(signal)?
                }
                Ok(gone @ Waited::Gone(_)) => return Ok(Ok(gone)),
                Err(thread) => {
                    let waited = began.elapsed();
                    if waited > limit {
                        return Ok(Err(thread));
                    }
                    // Mostly it stops at once: the CPU is given away for that, and only then is it worth a sleep.
                    if waited < std::time::Duration::from_micros(200) {
                        std::thread::yield_now();
                    } else {
                        std::thread::sleep(pause);
                        // It may be the last of many: never for much longer than it has taken so far.
                        pause = (waited / 8).clamp(pause, std::time::Duration::from_millis(2));
                    }
                    thread
                }
            };
        }
    }

    /// The second half of [`Running::stop`], for callers that interrupted many threads first.
    pub fn settle(self) -> Result<Waited> {
        let mut thread = self;
        loop {
            match thread.wait_soon()? {
                Waited::Stopped(s, stop @ (Stop::Trap | Stop::Group(_))) => return Ok(Waited::Stopped(s, stop)),
                Waited::Stopped(s, _) => {
                    request(libc::PTRACE_INTERRUPT, s.tid, 0, std::ptr::null_mut())?;
                    let signal = s.held.get();
                    thread = s.resume(signal)?;
                }
                gone @ Waited::Gone(_) => return Ok(gone),
            }
        }
    }
}

impl Stopped {
    /// Its tid.
    pub fn tid(&self) -> Pid {
        self.tid
    }

    /// The signal of a signal-delivery stop, which the kernel has taken from its queue; 0 in all other stops.
    pub fn held_signal(&self) -> i32 {
        self.held.get()
    }

    fn ask(&self, what: u32, addr: u64, data: *mut c_void) -> Result<i64> {
        request(what, self.tid, addr, data)
    }

    /// Changes the PTRACE_O_* options; `PTRACE_O_TRACESYSGOOD` stays on.
    pub fn set_options(&self, options: i32) -> Result<()> {
        let options = options | libc::PTRACE_O_TRACESYSGOOD;
        self.ask(libc::PTRACE_SETOPTIONS, 0, options as usize as *mut c_void).map(drop)
    }

    /// Lets it run (PTRACE_CONT), delivering `signal` (0: none).
    pub fn resume(self, signal: i32) -> Result<Running> {
        self.go(libc::PTRACE_CONT, signal)
    }

    /// Lets it run to the next entry or exit of a system call (PTRACE_SYSCALL), delivering `signal` (0: none).
    pub fn resume_to_syscall(self, signal: i32) -> Result<Running> {
        self.go(libc::PTRACE_SYSCALL, signal)
    }

    /// Leaves a job-control stop in force but reports what ends it (PTRACE_LISTEN).
    pub fn listen(self) -> Result<Running> {
        self.go(libc::PTRACE_LISTEN, 0)
    }

    /// Ends the trace; the thread runs on, or stays in its group stop. A signal about to be delivered is delivered.
    pub fn detach(self) -> Result<()> {
        self.gone.set(true);
        self.ask(libc::PTRACE_DETACH, 0, self.held.get() as usize as *mut c_void).map(drop)
    }

    /// [`Stopped::detach`] of a thread that somebody may have killed meanwhile: then waits for its end.
    pub fn detach_or_end(self) -> Result<()> {
        self.gone.set(true);
        match self.ask(libc::PTRACE_DETACH, 0, self.held.get() as usize as *mut c_void) {
            Err(Errno(libc::ESRCH)) => self.wait_for_end().map(drop),
            other => other.map(drop),
        }
    }

    /// Waits for its end after it has been sent SIGKILL, so that its parent gets to know; its wait status.
    pub fn wait_for_end(self) -> Result<i32> {
        self.gone.set(true);
        let mut thread = Running { tid: self.tid };
        loop {
            match thread.wait() {
                Ok(Waited::Gone(status)) => return Ok(status),
                Ok(Waited::Stopped(stopped, _)) => thread = stopped.resume(0)?,
                // Another thread's exec or a group exit has taken it out of our hands.
                Err(Errno(libc::ECHILD)) => return Ok(0),
                Err(e) => return Err(e),
            }
        }
    }

    fn go(self, how: u32, signal: i32) -> Result<Running> {
        let tid = self.tid;
        match self.ask(how, 0, signal as usize as *mut c_void) {
            // ESRCH: killed while stopped. A wait will tell.
            Ok(_) | Err(Errno(libc::ESRCH)) => {
                self.gone.set(true);
                Ok(Running { tid })
            }
            Err(e) => Err(e),
        }
    }

    /// What kind of stop it is in.
    pub fn stop_kind(&self) -> Stop {
        self.stop.get()
    }

    /// Brings it to a stop in the kernel's signal path ([`Stop::Trap`] or [`Stop::Group`]), from where the kernel itself restarts
    /// an interrupted system call. It executes no instruction on the way; a signal about to be delivered gets its frame.
    pub fn settle(&self) -> Result<std::result::Result<Stop, i32>> {
        while !matches!(self.stop.get(), Stop::Trap | Stop::Group(_)) {
            self.interrupt()?;
            self.run_with(self.held.get())?;
            if let Some(Err(status)) = self.wait_again(0)? {
                return Ok(Err(status));
            }
        }
        Ok(Ok(self.stop.get()))
    }

    /// Forgets the signal of a signal-delivery stop.
    pub(crate) fn swallow(&self) {
        self.held.set(0);
    }

    /// PTRACE_SYSCALL with a signal, without giving up the value.
    pub(crate) fn run_to_syscall(&self, signal: i32) -> Result<()> {
        self.known.forget();
        self.held.set(0);
        self.ask(libc::PTRACE_SYSCALL, 0, signal as usize as *mut c_void).map(drop)
    }

    /// Lets it run without giving up the value: for the executors, which stop it again before they return.
    pub(crate) fn run(&self, how: u32) -> Result<()> {
        self.known.forget();
        self.ask(how, 0, std::ptr::null_mut()).map(drop)
    }

    /// Its signal mask, if that has been asked in this stop.
    pub(crate) fn known_mask(&self) -> Option<u64> {
        self.known.mask.get()
    }

    /// Its signal mask will be this when it stops next, whoever lets it run says.
    pub(crate) fn remember_mask(&self, mask: Option<u64>) {
        self.known.mask.set(mask);
    }

    /// Hands a signal on from a signal-delivery stop, without giving up the value.
    pub(crate) fn run_with(&self, signal: i32) -> Result<()> {
        self.known.forget();
        self.held.set(0);
        self.ask(libc::PTRACE_CONT, 0, signal as usize as *mut c_void).map(drop)
    }

    /// PTRACE_INTERRUPT, which also works in a stop: the next one then comes before any instruction.
    pub(crate) fn interrupt(&self) -> Result<()> {
        self.ask(libc::PTRACE_INTERRUPT, 0, std::ptr::null_mut()).map(drop)
    }

    /// Waits for the next stop like [`Stopped::wait_again`], but looks for a while before it sleeps: a stop that is near comes sooner
    /// than a sleeper wakes up.
    pub(crate) fn wait_soon(&self) -> Result<std::result::Result<Stop, i32>> {
        let begin = std::time::Instant::now();
        while begin.elapsed() < std::time::Duration::from_micros(40) {
            if let Some(seen) = self.wait_again(libc::WNOHANG)? {
                return Ok(seen);
            }
            // It may be waiting for the very CPU on which we look.
            std::thread::yield_now();
        }
        Ok(self.wait_again(0)?.expect("a wait that blocks"))
    }

    /// Waits after [`Stopped::run`]; `Err(status)` when it has ended.
    pub(crate) fn wait_again(&self, flags: i32) -> Result<Option<std::result::Result<Stop, i32>>> {
        let Some(status) = wait_status(self.tid, flags)? else { return Ok(None) };
        if !libc::WIFSTOPPED(status) {
            self.gone.set(true);
            return Ok(Some(Err(status)));
        }
        let stop = Stop::decode(self.tid, status)?;
        self.stop.set(stop);
        self.held.set(if let Stop::Signal(signal) = stop { signal } else { 0 });
        Ok(Some(Ok(stop)))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if !self.gone.get() {
            // The thread may have been killed meanwhile: then there is nothing to detach from.
            let _ = self.ask(libc::PTRACE_DETACH, 0, self.held.get() as usize as *mut c_void);
        }
    }
}
