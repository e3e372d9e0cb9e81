//! A thread that a puppet has: going in, running batches, and the way home. What is safe about it stands in `puppet`.

use super::aborts;
use super::foothold::Foothold;
use super::program::{self, Program};
use super::puppet::{Puppet, step};
use super::wait::{stop_in_sleep, wait_until_done};
use super::{Batch, Executor, Memory, Outcome, RemoteAddr, RemoteError};
use crate::ptrace::{Registers, Stop, Stopped};
use crate::{Errno, Pid, arch};
use std::time::{Duration, Instant};

/// How long ghost looks for what a call should do before it goes the sure way.
const LOOK: Duration = Duration::from_micros(500);
const LOOK_INTERVAL: Duration = Duration::from_micros(8);
/// The scratch area is never smaller.
const SCRATCH_MIN: usize = 64 << 10;

/// The thread has gone home before ghost came back to it.
fn escaped() -> RemoteError {
    RemoteError::Step {
        step: "ghost was too slow, the thread has gone home by itself (try again)",
        errno: Errno(libc::ETIME),
    }
}

const MAPPING: &str = "mapping the scratch area";
const UNMAPPING: &str = "unmapping the scratch area";
const SCRATCH_PROT: i32 = libc::PROT_READ | libc::PROT_WRITE;
const SCRATCH_FLAGS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

fn scratch_len(need: usize) -> u64 {
    need.max(SCRATCH_MIN).next_power_of_two() as u64
}

/// A thread in which batches run now.
#[derive(Debug)]
pub struct Entered<'p> {
    puppet: &'p Puppet,
    thread: &'p Stopped,
    /// Which of the blocks for a thread's way home is its own.
    block: usize,
    inside: Option<Inside>,
    /// What [`aborts`] says of it, if that is known already.
    pub(super) abort: Option<crate::Result<Option<u64>>>,
    /// When the last call began whose effect is to be seen.
    began: Option<Instant>,
    children: Vec<Pid>,
}

/// What must be put back.
#[derive(Debug)]
struct Inside {
    home: Registers,
    mask: u64,
    /// Syscall user dispatch, which would send our calls to the program's SIGSYS handler.
    dispatch: (u64, u64, u64, u64),
    masked: bool,
    /// The scratch area: start and length; length 0 when there is none.
    scratch: (u64, u64),
}

impl<'p> Entered<'p> {
    /// A thread that has gone nowhere yet.
    pub(super) fn new(puppet: &'p Puppet, thread: &'p Stopped, block: usize) -> Self {
        Self { puppet, thread, block, inside: None, abort: None, began: None, children: Vec::new() }
    }

    /// Puts the thread back as it was, in one step.
    pub fn leave(mut self) -> Result<(), RemoteError> {
        self.go_home()
    }

    /// The tids of children that batches made and that ptrace attached by itself (PTRACE_O_TRACECLONE and its kin), since the last call.
    pub fn take_children(&mut self) -> Vec<Pid> {
        std::mem::take(&mut self.children)
    }

    /// Reads what must be put back, and gives the block that brings the thread home.
    pub(super) fn prepare(&mut self) -> Result<Vec<u8>, RemoteError> {
        let mut home = self.thread.registers().map_err(step("reading registers"))?;
        let abort = match self.abort.take() {
            Some(known) => known,
            None => aborts(&self.puppet.memory, &[self.thread]).pop().expect("one answer for one thread"),
        };
        if let Some(abort) = abort.map_err(step("reading the restartable sequence"))? {
            arch::set_instruction_pointer(&mut home, abort);
        }
        let mask = self.thread.signal_mask().map_err(step("reading the signal mask"))?;
        let dispatch = match self.thread.syscall_dispatch() {
            // Before Linux 6.4 it cannot be asked for.
            Err(Errno(libc::EIO)) => (0, 0, 0, 0),
            other => other.map_err(step("reading syscall user dispatch"))?,
        };
        self.inside = Some(Inside { home, mask, dispatch, masked: false, scratch: (0, 0) });
        Ok(arch::block(&home, mask, dispatch))
    }

    fn inside(&mut self) -> Result<&mut Inside, RemoteError> {
        if self.inside.is_none() {
            let block = self.prepare()?;
            if let Err(e) = self.puppet.write_block(self.block, &block) {
                // It has gone nowhere.
                self.inside = None;
                return Err(e);
            }
        }
        Ok(self.inside.as_mut().expect("armed"))
    }

    /// Sends the thread to `regs`: first the registers, then the mask, so that the way home is complete at any instant.
    fn dispatch(&mut self, regs: &Registers) -> Result<(), RemoteError> {
        self.thread.set_registers(regs).map_err(step("sending the thread into the executor"))?;
        let thread = self.thread;
        let inside = self.inside()?;
        if !inside.masked {
            thread.set_signal_mask(u64::MAX).map_err(step("blocking signals"))?;
            if inside.dispatch.0 != 0 {
                thread.set_syscall_dispatch((0, 0, 0, 0)).map_err(step("suspending syscall user dispatch"))?;
            }
            inside.masked = true;
        }
        Ok(())
    }

    /// Makes one call with its arguments in registers. `scratch` is what the thread unmaps should ghost die after it;
    /// the start of it is the result of the call.
    fn single(&mut self, what: &'static str, nr: i64, args: [u64; 6], scratch_len: u64) -> Result<i64, RemoteError> {
        let call = self.puppet.at(arch::slot_map().call);
        let mut regs = arch::call_registers(&self.inside()?.home, call, nr, args);
        arch::set_scratch(&mut regs, self.puppet.block_at(self.block), 0, scratch_len);
        self.dispatch(&regs)?;
        for _ in 0..2 {
            self.thread.run_to_syscall(0).map_err(step(what))?;
            self.wait_for_syscall_stop(what)?;
        }
        let value = arch::return_value(&self.thread.registers().map_err(step(what))?);
        Errno::check(value).map_err(step(what))
    }

    /// Starts a call whose effect on the scratch area can be seen from outside: half as many stops.
    fn start_seen(&mut self, nr: i64, args: [u64; 6], scratch_len: u64) -> Result<(), RemoteError> {
        const WHAT: &str = "sending the thread into the executor";
        let call = self.puppet.at(arch::slot_map().call);
        let mut regs = arch::call_registers(&self.inside()?.home, call, nr, args);
        arch::set_scratch(&mut regs, self.puppet.block_at(self.block), 0, scratch_len);
        self.dispatch(&regs)?;
        self.thread.run(libc::PTRACE_CONT).map_err(step(WHAT))?;
        self.began = Some(Instant::now());
        Ok(())
    }

    /// Waits until the memory at `at` is mapped or not, and asks the thread to stop.
    fn halt_seen(&mut self, what: &'static str, at: u64, mapped: bool) -> Result<(), RemoteError> {
        let begin = Instant::now();
        let mut looked = self.began;
        loop {
            // Not at once and not all the time: looking takes the lock that the call needs.
            let look = looked.take().unwrap_or_else(Instant::now);
            while look.elapsed() < LOOK_INTERVAL {
                std::hint::spin_loop();
            }
            if self.puppet.memory.read_u64(RemoteAddr(at)).is_ok() == mapped || begin.elapsed() > LOOK {
                break;
            }
        }
        self.thread.interrupt().map_err(step(what))
    }

    /// Waits for the stop after [`Entered::halt_seen`]. `None` when it is not certain that the call has been made.
    fn end_seen(&mut self, what: &'static str) -> Result<Option<i64>, RemoteError> {
        loop {
            match self.next_stop(what)? {
                Stop::Trap | Stop::Group(_) => break,
                stop => self.pass(stop)?,
            }
            self.thread.interrupt().map_err(step(what))?;
        }
        let regs = self.check_place()?;
        Ok(arch::slot_result(&regs, self.puppet.foothold.start))
    }

    fn wait_for_syscall_stop(&mut self, what: &'static str) -> Result<(), RemoteError> {
        loop {
            match self.next_stop(what)? {
                Stop::Syscall => return Ok(()),
                Stop::Signal(signal) => self.thread.run_to_syscall(signal).map_err(step(what))?,
                Stop::Trap | Stop::Group(_) | Stop::Event(..) => self.thread.run_to_syscall(0).map_err(step(what))?,
            }
        }
    }

    fn next_stop(&mut self, what: &'static str) -> Result<Stop, RemoteError> {
        let stop = self.thread.wait_soon().map_err(step(what))?;
        self.note(stop)
    }

    fn note(&mut self, stop: Result<Stop, i32>) -> Result<Stop, RemoteError> {
        match stop {
            Err(status) => {
                self.inside = None;
                Err(RemoteError::Died(status))
            }
            Ok(stop) => {
                if let Stop::Event(libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK, tid) =
                    stop
                {
                    self.children.push(tid as Pid);
                }
                Ok(stop)
            }
        }
    }

    /// Lets the thread run on after a stop that is not what we wait for.
    fn pass(&mut self, stop: Stop) -> Result<(), RemoteError> {
        const WHAT: &str = "running a batch";
        if let Stop::Signal(signal) = stop {
            let made_by_kernel =
                self.thread.siginfo().is_ok_and(|i| i32::from_ne_bytes([i[8], i[9], i[10], i[11]]) > 0);
            if made_by_kernel
                && [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGSYS].contains(&signal)
            {
                // A batch that unmapped its own ground, or a filter that kills: the signal is ours, not the program's.
                self.thread.swallow();
                return Err(step("running a batch, which a fault or a seccomp filter ended")(Errno(libc::EFAULT)));
            }
            return self.thread.run_with(signal).map_err(step(WHAT));
        }
        self.thread.run(libc::PTRACE_CONT).map_err(step(WHAT))
    }

    /// Makes the scratch area at least `need` bytes long.
    pub(super) fn reserve(&mut self, need: usize) -> Result<(), RemoteError> {
        let (old, old_len) = self.inside()?.scratch;
        if old_len >= need as u64 {
            return Ok(());
        }
        if old_len == 0 {
            let started = self.start_mapping(need)?;
            self.halt_mapping(started)?;
            return self.end_mapping(need, started);
        }
        let len = scratch_len(need);
        let args = [old, old_len, len, libc::MREMAP_MAYMOVE as u64, 0, 0];
        let base = self.single("growing the scratch area", libc::SYS_mremap, args, len)?;
        self.set_scratch(base as u64, len)
    }

    fn set_scratch(&mut self, base: u64, len: u64) -> Result<(), RemoteError> {
        self.inside()?.scratch = (base, len);
        self.puppet.last_scratch.set(base);
        Ok(())
    }

    /// Begins to map a scratch area where the last one was; false when there was none.
    pub(super) fn start_mapping(&mut self, need: usize) -> Result<bool, RemoteError> {
        let (last, len) = (self.puppet.last_scratch.get(), scratch_len(need));
        if last != 0 {
            let flags = SCRATCH_FLAGS | libc::MAP_FIXED_NOREPLACE;
            let args = [last, len, SCRATCH_PROT as u64, flags as u64, u64::MAX, 0];
            self.start_seen(libc::SYS_mmap, args, len)?;
        }
        Ok(last != 0)
    }

    pub(super) fn halt_mapping(&mut self, started: bool) -> Result<(), RemoteError> {
        if started { self.halt_seen(MAPPING, self.puppet.last_scratch.get(), true) } else { Ok(()) }
    }

    pub(super) fn end_mapping(&mut self, need: usize, started: bool) -> Result<(), RemoteError> {
        let len = scratch_len(need);
        if started {
            // None: not made, and it will not be. An error: somebody who shares this memory has mapped something there.
            if let Some(base @ 1..) = self.end_seen(MAPPING)? {
                return self.set_scratch(base as u64, len);
            }
        }
        let args = [0, len, SCRATCH_PROT as u64, SCRATCH_FLAGS as u64, u64::MAX, 0];
        let base = self.single(MAPPING, libc::SYS_mmap, args, len)?;
        self.set_scratch(base as u64, len)
    }

    /// Begins to unmap the scratch area; false when there is none.
    fn start_unmapping(&mut self) -> Result<bool, RemoteError> {
        let Some(Inside { scratch: (base, len @ 1..), .. }) = self.inside else { return Ok(false) };
        // Length 0: the call leaves nothing to be unmapped on the way home.
        self.start_seen(libc::SYS_munmap, [base, len, 0, 0, 0, 0], 0)?;
        Ok(true)
    }

    fn halt_unmapping(&mut self, started: bool) -> Result<(), RemoteError> {
        let Some(Inside { scratch: (base, 1..), .. }) = self.inside else { return Ok(()) };
        if started { self.halt_seen(UNMAPPING, base, false) } else { Ok(()) }
    }

    fn end_unmapping(&mut self, started: bool) -> Result<(), RemoteError> {
        let Some(Inside { scratch: (base, len @ 1..), .. }) = self.inside else { return Ok(()) };
        if started && self.end_seen(UNMAPPING)? != Some(0) {
            self.single(UNMAPPING, libc::SYS_munmap, [base, len, 0, 0, 0, 0], 0)?;
        }
        if let Some(inside) = &mut self.inside {
            inside.scratch = (0, 0);
        }
        Ok(())
    }

    /// Where its scratch area begins.
    pub(super) fn scratch(&mut self) -> Result<u64, RemoteError> {
        Ok(self.inside()?.scratch.0)
    }

    /// Lets go of the scratch area without unmapping it: somebody may still be in it.
    pub(super) fn leak_scratch(&mut self) {
        if let Some(inside) = &mut self.inside {
            inside.scratch = (0, 0);
        }
    }

    /// Lets the thread run a program that lies in its scratch area.
    pub(super) fn start(&mut self, program: &Program) -> Result<(), RemoteError> {
        program.write(&self.puppet.memory).map_err(step("writing a batch"))?;
        let scratch = self.inside()?.scratch;
        let regs = self.program_registers(program, 0, scratch)?;
        self.dispatch(&regs)?;
        self.thread.run(libc::PTRACE_CONT).map_err(step("starting a batch"))
    }

    /// Sends the thread to the gate before a program that lies in the scratch area of another. Its block and the program are written.
    pub(super) fn send_as_guest(&mut self, program: &Program) -> Result<(), RemoteError> {
        let regs = self.program_registers(program, arch::slot_map().gate, (program.base(), 0))?;
        self.dispatch(&regs)
    }

    /// It goes nowhere after all.
    pub(super) fn stay(&mut self) {
        self.inside = None;
    }

    /// Lets it run.
    pub(super) fn go(&self) -> Result<(), RemoteError> {
        self.thread.run(libc::PTRACE_CONT).map_err(step("starting a batch"))
    }

    fn program_registers(
        &mut self,
        program: &Program,
        entry: u64,
        scratch: (u64, u64),
    ) -> Result<Registers, RemoteError> {
        let entry = arch::Entry {
            exec: self.puppet.at(entry),
            block: self.puppet.block_at(self.block),
            record: program.first_record(),
            results: program.first_result(),
            end: self.puppet.at(arch::slot_map().wait),
            scratch,
        };
        Ok(arch::exec_registers(&self.inside()?.home, &entry))
    }

    /// Waits until the program is done.
    pub(super) fn wait_until_done(&mut self, program: &Program) -> Result<(), RemoteError> {
        let (thread, puppet) = (self.thread, self.puppet);
        wait_until_done(program, &puppet.memory, thread, |seen| {
            let stop = self.note(seen)?;
            self.pass(stop)
        })
    }

    /// Waits until the program is done, and asks the thread to stop.
    pub(super) fn halt_when_done(&mut self, program: &Program) -> Result<(), RemoteError> {
        self.wait_until_done(program)?;
        self.call_back()
    }

    /// Asks the thread to stop after its program.
    pub(super) fn call_back(&self) -> Result<(), RemoteError> {
        self.thread.interrupt().map_err(step("waiting for a batch"))
    }

    /// Waits until the thread stands in its sleep after [`Entered::halt_when_done`]; what came of its program.
    pub(super) fn end(&mut self, batch: &Batch, program: &Program) -> Result<Outcome, RemoteError> {
        self.stand()?;
        program.outcome(batch, &self.puppet.memory)
    }

    /// Waits until the thread stands in its sleep after [`Entered::call_back`].
    pub(super) fn stand(&mut self) -> Result<(), RemoteError> {
        let thread = self.thread;
        stop_in_sleep(thread, |seen| {
            let stop = self.note(seen)?;
            self.pass(stop)
        })?;
        self.check_place().map(drop)
    }

    /// The registers of the thread; an error when it is not where ghost left it.
    fn check_place(&mut self) -> Result<Registers, RemoteError> {
        let regs = self.thread.registers().map_err(step("reading registers"))?;
        let ip = arch::instruction_pointer(&regs);
        let is_in = |place: Foothold| (place.start..place.end).contains(&ip);
        let at_the_door = self.puppet.outpost.is_some_and(is_in);
        if !at_the_door && !is_in(self.puppet.foothold) {
            // It is home: nothing is left to be put back.
            self.inside = None;
            return Err(escaped());
        }
        let (map, offset) = (arch::slot_map(), ip.wrapping_sub(self.puppet.foothold.start));
        if at_the_door || (offset >= map.unmapped && !(map.gate..map.len).contains(&offset)) {
            // On its way home: still in our hands, but the scratch area is gone, and the mask may be back.
            let inside = self.inside()?;
            inside.scratch = (0, 0);
            inside.masked = false;
            return Err(escaped());
        }
        Ok(regs)
    }

    pub(super) fn go_home(&mut self) -> Result<(), RemoteError> {
        let started = self.start_leaving();
        let halted = self.halt_leaving(started);
        self.end_leaving(halted)
    }

    /// The first step of its way home; all three are to be made, whatever came of the one before.
    pub(super) fn start_leaving(&mut self) -> Result<bool, RemoteError> {
        self.start_unmapping()
    }

    pub(super) fn halt_leaving(&mut self, started: Result<bool, RemoteError>) -> Result<bool, RemoteError> {
        let started = started?;
        self.halt_unmapping(started).map(|()| started)
    }

    pub(super) fn end_leaving(&mut self, halted: Result<bool, RemoteError>) -> Result<(), RemoteError> {
        const WHAT: &str = "leaving the thread";
        if self.inside.is_none() {
            return Ok(());
        }
        let unmapped = halted.and_then(|started| self.end_unmapping(started));
        if matches!(unmapped, Err(RemoteError::Died(_))) {
            return unmapped;
        }
        // From the exit of that call to a stop in the signal path, where the kernel restarts an interrupted call.
        self.thread.settle().map_err(step(WHAT))?.map_err(RemoteError::Died)?;
        let Some(inside) = self.inside.take() else { return unmapped };
        self.thread.set_signal_mask(inside.mask).map_err(step("restoring the signal mask"))?;
        if inside.dispatch.0 != 0 {
            self.thread.set_syscall_dispatch(inside.dispatch).map_err(step("restoring syscall user dispatch"))?;
        }
        self.thread.set_registers(&inside.home).map_err(step("restoring registers"))?;
        unmapped
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // Should it fail, the thread goes home by itself as soon as it is released.
        let _ = self.go_home();
    }
}

impl Executor for Entered<'_> {
    fn run(&mut self, batch: &Batch) -> Result<Outcome, RemoteError> {
        self.reserve(program::size(batch))?;
        let program = Program::new(batch, self.scratch()?);
        self.start(&program)?;
        self.halt_when_done(&program)?;
        self.end(batch, &program)
    }

    fn memory(&self) -> &Memory {
        &self.puppet.memory
    }
}
