//! Single calls made by a stopped thread through a `syscall` instruction of its own program, and the stop in which a
//! thread must rest for the kernel to restart an interrupted call.
//!
//! The batch executor is the way to make many calls; these are for when it must be gone already: unmapping it, and
//! leaving a thread asleep in the kernel's eyes. Nothing runs in user space but that one instruction.
//!
//! The kernel decides about the restart of a call (`-ERESTARTSYS` and its kin in rax, the call in orig_rax) on its way to
//! user space *after* signals: in the stop that PTRACE_INTERRUPT leads to, registers that are set are judged in this way; at
//! entry or exit of a system call they are not. All x86-64 kernels of this century agree (`arch/x86/kernel/signal.c`).

#![allow(unsafe_code)]

use crate::ptrace::{Registers, SUSPEND_SECCOMP, Stop, Stopped};
use crate::{Errno, Result};

const OPTIONS: i32 = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD;

impl Stopped {
    /// Makes the thread ready for [`Stopped::call`]: it ends with ghost, and seccomp is suspended while ghost holds it.
    ///
    /// False when seccomp can't be suspended (no `CAP_SYS_ADMIN`): filters would judge the calls then.
    pub fn prepare_calls(&self) -> Result<bool> {
        if self.set_options(OPTIONS | SUSPEND_SECCOMP).is_ok() {
            return Ok(true);
        }
        self.set_options(OPTIONS).map(|()| false)
    }

    /// Brings the thread, from whatever stop, to the trap on its way to user space in which calls are restarted.
    ///
    /// No instruction of the program runs. A call at whose entry it stood is made. Signals must all be blocked.
    pub fn trap(&self) -> Result<()> {
        self.begin_trap()?;
        self.end_trap()
    }

    /// The first half of [`Stopped::trap`], for callers that have many threads: all are on their way before the first is waited for.
    pub fn begin_trap(&self) -> Result<()> {
        if self.stop_kind() == Stop::Trap {
            return Ok(());
        }
        self.interrupt()?;
        self.run(libc::PTRACE_CONT)
    }

    /// The second half.
    pub fn end_trap(&self) -> Result<()> {
        if self.stop_kind() == Stop::Trap {
            return Ok(());
        }
        loop {
            match self.stop_again()? {
                Stop::Trap => return Ok(()),
                Stop::Group(_) | Stop::Signal(_) | Stop::Event(..) | Stop::Syscall => self.run(libc::PTRACE_CONT)?,
            }
        }
    }

    fn stop_again(&self) -> Result<Stop> {
        // An error: it has been killed.
        self.wait_soon()?.map_err(|_| Errno(libc::ESRCH))
    }

    /// Enters a call through the `syscall` instruction at `at`; the thread then stands at its entry.
    fn enter_call(&self, at: u64, nr: i64, args: [u64; 6]) -> Result<()> {
        self.begin_call(at, nr, args)?;
        self.end_step()
    }

    fn begin_call(&self, at: u64, nr: i64, args: [u64; 6]) -> Result<()> {
        let regs = Registers {
            rip: at,
            rax: nr as u64,
            orig_rax: u64::MAX,
            rdi: args[0],
            rsi: args[1],
            rdx: args[2],
            r10: args[3],
            r8: args[4],
            r9: args[5],
            ..self.registers()?
        };
        self.set_registers(&regs)?;
        self.run(libc::PTRACE_SYSCALL)
    }

    /// Waits for the entry or the exit of a call.
    fn end_step(&self) -> Result<()> {
        match self.stop_again()? {
            Stop::Syscall => Ok(()),
            // No `syscall` instruction there.
            _ => Err(Errno(libc::EIO)),
        }
    }

    /// Makes one call through the `syscall` instruction at `at` and brings the thread back to its trap.
    ///
    /// Registers are left as the call left them. [`Stopped::prepare_calls`] and [`Stopped::trap`] come first.
    pub fn call(&self, at: u64, nr: i64, args: [u64; 6]) -> Result<i64> {
        self.enter_call(at, nr, args)?;
        self.run(libc::PTRACE_SYSCALL)?;
        self.end_step()?;
        let value = self.registers()?.rax as i64;
        self.trap()?;
        Ok(value)
    }

    /// [`Stopped::call`] in each of many threads at the same time: (thread, `syscall` instruction, call, arguments).
    pub fn call_each(work: &[(&Self, u64, i64, [u64; 6])]) -> Vec<Result<i64>> {
        let begun: Vec<_> = work.iter().map(|(thread, at, nr, args)| thread.begin_call(*at, *nr, *args)).collect();
        let entered = begun.into_iter().zip(work).map(|(begun, (thread, ..))| {
            begun?;
            thread.end_step()?;
            thread.run(libc::PTRACE_SYSCALL)
        });
        let entered: Vec<Result<()>> = entered.collect();
        let left = entered.into_iter().zip(work).map(|(entered, (thread, ..))| {
            entered?;
            thread.end_step()?;
            let value = thread.registers()?.rax as i64;
            thread.begin_trap()?;
            Ok(value)
        });
        let left: Vec<Result<i64>> = left.collect();
        left.into_iter()
            .zip(work)
            .map(|(left, (thread, ..))| left.and_then(|v| thread.end_trap().map(|()| v)))
            .collect()
    }

    /// Takes a signal out of the queue of the thread or its process, as if it had never come. Nothing happens when none waits.
    ///
    /// The thread is in its trap before and after; registers and mask stay.
    pub fn discard(&self, signal: i32) -> Result<()> {
        if !self.has_pending(signal)? {
            return Ok(());
        }
        let mask = self.signal_mask()?;
        self.set_signal_mask(!(1 << (signal - 1)))?;
        self.run(libc::PTRACE_CONT)?;
        match self.stop_again()? {
            Stop::Signal(s) if s == signal => {}
            _ => return Err(Errno(libc::EIO)),
        }
        // Goes on without it.
        self.trap()?;
        self.set_signal_mask(mask)
    }

    /// Whether this signal waits for the thread or its process.
    pub fn has_pending(&self, signal: i32) -> Result<bool> {
        let is = |info: &[u8; 128]| crate::signal::number(info) == signal;
        Ok(self.pending_signals(false)?.iter().any(is) || self.pending_signals(true)?.iter().any(is))
    }

    /// Makes one blocking call and interrupts it at once, so that the kernel remembers how to go on with it.
    ///
    /// The interruption is pending before the call begins to wait, so no time passes. What it returned is given back, such as
    /// `-ERESTART_RESTARTBLOCK` (-516); the thread is in its trap.
    pub fn call_interrupted(&self, at: u64, nr: i64, args: [u64; 6]) -> Result<i64> {
        Self::call_interrupted_each(&[(self, at, nr, args)]).pop().expect("one answer for one thread")
    }

    /// [`Stopped::call_interrupted`] in each of many threads at the same time.
    pub fn call_interrupted_each(work: &[(&Self, u64, i64, [u64; 6])]) -> Vec<Result<i64>> {
        let begun: Vec<_> = work.iter().map(|(thread, at, nr, args)| thread.begin_call(*at, *nr, *args)).collect();
        // Backwards, there and back again: whoever waits for the last finds the others there.
        let entered = begun.into_iter().zip(work).rev().map(|(begun, (thread, ..))| {
            begun?;
            thread.end_step()?;
            thread.begin_trap()
        });
        let entered: Vec<Result<()>> = entered.collect();
        let left = entered.into_iter().rev().zip(work).map(|(entered, (thread, ..))| {
            entered?;
            thread.end_trap()?;
            Ok(thread.registers()?.rax as i64)
        });
        left.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pid;
    use crate::ptrace::{Waited, seize};
    use crate::remote::{Memory, RemoteAddr};

    /// The first `syscall` instruction in the vDSO of a process.
    fn instruction(pid: Pid) -> u64 {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let line = maps.lines().find(|l| l.ends_with("[vdso]")).unwrap();
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        let mut code = vec![0; (end - start) as usize];
        Memory::open(pid).unwrap().read(RemoteAddr(start), &mut code).unwrap();
        start + code.windows(2).position(|w| w == [0x0f, 0x05]).unwrap() as u64
    }

    fn stopped_sleeper() -> (std::process::Child, Stopped) {
        let child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        match seize(child.id() as Pid, 0).unwrap().stop().unwrap() {
            Waited::Stopped(s, _) => (child, s),
            Waited::Gone(status) => panic!("{status:#x}"),
        }
    }

    #[test]
    fn a_call_is_made_and_answered() {
        let (mut child, stopped) = stopped_sleeper();
        let at = instruction(child.id() as Pid);
        let before = stopped.registers().unwrap();
        stopped.prepare_calls().unwrap();
        stopped.trap().unwrap();
        assert_eq!(stopped.call(at, libc::SYS_getpid, [0; 6]).unwrap(), child.id() as i64);
        assert_eq!(stopped.call(at, libc::SYS_close, [999, 0, 0, 0, 0, 0]).unwrap(), -i64::from(libc::EBADF));
        stopped.set_registers(&before).unwrap();
        drop(stopped);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// What the whole exactness of interrupted calls rests on.
    #[test]
    fn registers_set_in_the_trap_make_the_kernel_restart_the_call() {
        let (mut child, stopped) = stopped_sleeper();
        let pid = child.id() as Pid;
        let at = instruction(pid);
        stopped.prepare_calls().unwrap();
        stopped.trap().unwrap();
        let scratch = stopped.registers().unwrap().rsp - 512;
        let memory = Memory::open(pid).unwrap();
        memory.write(RemoteAddr(scratch), &[0_u64.to_ne_bytes(), 200_000_000_u64.to_ne_bytes()].concat()).unwrap();
        let args = [scratch, scratch + 16, 0, 0, 0, 0];
        let began = std::time::Instant::now();
        let answer = stopped.call_interrupted(at, libc::SYS_nanosleep, args).unwrap();
        assert_eq!(answer, -516, "nanosleep remembers its end in the kernel");
        assert!(began.elapsed().as_millis() < 100, "no time passes");
        // Another call does not make it forget.
        assert_eq!(stopped.call(at, libc::SYS_getpid, [0; 6]).unwrap(), pid as i64);
        let regs = stopped.registers().unwrap();
        let asleep = Registers { rax: (-516_i64) as u64, orig_rax: libc::SYS_nanosleep as u64, rip: at + 2, ..regs };
        stopped.set_registers(&asleep).unwrap();
        stopped.set_options(OPTIONS).unwrap();
        // Entry of restart_syscall, then its exit once the time has passed.
        stopped.run(libc::PTRACE_SYSCALL).unwrap();
        assert_eq!(stopped.stop_again().unwrap(), Stop::Syscall);
        assert_eq!(stopped.registers().unwrap().orig_rax, libc::SYS_restart_syscall as u64);
        stopped.run(libc::PTRACE_SYSCALL).unwrap();
        assert_eq!(stopped.stop_again().unwrap(), Stop::Syscall);
        assert_eq!(stopped.registers().unwrap().rax, 0);
        let slept = began.elapsed().as_millis();
        assert!((200..400).contains(&slept), "slept {slept} ms");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
