//! What a stopped thread has: registers, signal mask and queues, rseq, seccomp filters, user dispatch, debug registers.

use super::{NT_PRSTATUS, NT_X86_XSTATE, Registers, RseqArea, Stopped, once, request};
use crate::{Errno, Result};
use std::mem::size_of;
use std::os::raw::c_void;

const PTRACE_GET_THREAD_AREA: u32 = 25;
const PTRACE_SET_THREAD_AREA: u32 = 26;
/// The entries of the GDT that each thread has for itself.
const TLS_ENTRIES: std::ops::RangeInclusive<u64> = 12..=14;
const PTRACE_SECCOMP_GET_FILTER: u32 = 0x420c;
const PTRACE_SECCOMP_GET_METADATA: u32 = 0x420d;
const PTRACE_GET_RSEQ_CONFIGURATION: u32 = 0x420f;
const PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG: u32 = 0x4210;
const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: u32 = 0x4211;
const PTRACE_PEEKSIGINFO: u32 = 0x4209;
const PTRACE_GETSIGMASK: u32 = 0x420a;
const PTRACE_SETSIGMASK: u32 = 0x420b;
const PTRACE_PEEKSIGINFO_SHARED: u32 = 1;

impl Stopped {
    /// A register set (`NT_*`) of any type, as long as this CPU makes it; PTRACE_GETREGSET.
    pub fn regset(&self, kind: u32) -> Result<Vec<u8>> {
        // Hardly any is longer.
        let mut buf = [0_u8; 4096];
        let len = self.read_regset(kind, &mut buf)?;
        if len < buf.len() {
            return Ok(buf[..len].to_vec());
        }
        let mut buf = vec![0; 4 * buf.len()];
        loop {
            let len = self.read_regset(kind, &mut buf)?;
            if len < buf.len() {
                buf.truncate(len);
                return Ok(buf);
            }
            buf.resize(buf.len() * 4, 0);
        }
    }

    /// Reads as much of a register set as there is room for.
    fn read_regset(&self, kind: u32, buf: &mut [u8]) -> Result<usize> {
        let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
        self.ask(libc::PTRACE_GETREGSET, kind as u64, (&raw mut iov).cast())?;
        Ok(iov.iov_len)
    }

    /// Sets a register set of any type; PTRACE_SETREGSET.
    pub fn set_regset(&self, kind: u32, bytes: &[u8]) -> Result<()> {
        self.known.registers.set(None);
        let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        self.ask(libc::PTRACE_SETREGSET, kind as u64, (&raw mut iov).cast()).map(drop)
    }

    /// General registers (PTRACE_GETREGSET, NT_PRSTATUS).
    pub fn registers(&self) -> Result<Registers> {
        once(&self.known.registers, || {
            // SAFETY: a structure of integers, for which all zeroes is a value.
            let mut regs: Registers = unsafe { std::mem::zeroed() };
            let mut iov = libc::iovec { iov_base: (&raw mut regs).cast(), iov_len: size_of::<Registers>() };
            self.ask(libc::PTRACE_GETREGSET, NT_PRSTATUS as u64, (&raw mut iov).cast())?;
            Ok(regs)
        })
    }

    /// Sets the general registers in one step.
    pub fn set_registers(&self, r: &Registers) -> Result<()> {
        self.known.registers.set(None);
        let mut iov = libc::iovec { iov_base: (&raw const *r).cast_mut().cast(), iov_len: size_of::<Registers>() };
        self.ask(libc::PTRACE_SETREGSET, NT_PRSTATUS as u64, (&raw mut iov).cast()).map(drop)
    }

    /// FPU and vector state (NT_X86_XSTATE), as long as this CPU makes it.
    pub fn xstate(&self) -> Result<Vec<u8>> {
        self.regset(NT_X86_XSTATE)
    }

    /// Sets FPU and vector state.
    pub fn set_xstate(&self, bytes: &[u8]) -> Result<()> {
        self.set_regset(NT_X86_XSTATE, bytes)
    }

    /// The signal mask that the thread has when no system call has replaced it for a while.
    pub fn signal_mask(&self) -> Result<u64> {
        once(&self.known.mask, || {
            let mut mask = 0_u64;
            self.ask(PTRACE_GETSIGMASK, 8, (&raw mut mask).cast())?;
            Ok(mask)
        })
    }

    /// Sets the signal mask.
    pub fn set_signal_mask(&self, mask: u64) -> Result<()> {
        const ALWAYS_OPEN: u64 = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);
        self.known.mask.set(None);
        self.ask(PTRACE_SETSIGMASK, 8, (&raw const mask).cast_mut().cast())?;
        self.known.mask.set(Some(mask & !ALWAYS_OPEN));
        Ok(())
    }

    /// The signals that wait, in order: the thread's own queue, or the process's (PTRACE_PEEKSIGINFO).
    ///
    /// A standard signal that found no memory for its siginfo is pending without one and does not appear here.
    pub fn pending_signals(&self, process_wide: bool) -> Result<Vec<[u8; 128]>> {
        #[repr(C)]
        struct Args {
            off: u64,
            flags: u32,
            nr: i32,
        }
        const ROOM: usize = 32;
        let mut all = Vec::new();
        loop {
            let flags = if process_wide { PTRACE_PEEKSIGINFO_SHARED } else { 0 };
            let args = Args { off: all.len() as u64, flags, nr: ROOM as i32 };
            let mut infos = [[0_u8; 128]; ROOM];
            let n =
                request(PTRACE_PEEKSIGINFO, self.tid, (&raw const args) as u64, infos.as_mut_ptr().cast())? as usize;
            all.extend_from_slice(&infos[..n]);
            if n < ROOM {
                return Ok(all);
            }
        }
    }

    /// The siginfo of a signal-delivery stop.
    pub fn siginfo(&self) -> Result<[u8; 128]> {
        let mut info = [0_u8; 128];
        self.ask(libc::PTRACE_GETSIGINFO, 0, info.as_mut_ptr().cast())?;
        Ok(info)
    }

    /// The registered rseq area; None when there is none.
    pub fn rseq(&self) -> Result<Option<RseqArea>> {
        #[repr(C)]
        #[derive(Default)]
        struct Config {
            pointer: u64,
            size: u32,
            signature: u32,
            flags: u32,
            pad: u32,
        }
        once(&self.known.rseq, || {
            let mut c = Config::default();
            self.ask(PTRACE_GET_RSEQ_CONFIGURATION, size_of::<Config>() as u64, (&raw mut c).cast())?;
            Ok((c.pointer != 0).then_some((c.pointer, c.size, c.signature, c.flags)))
        })
    }

    /// The seccomp filters in the order in which they were installed: (program as sock_filter bytes, flags).
    ///
    /// Needs `CAP_SYS_ADMIN`, and a caller that is under no filter itself.
    pub fn seccomp_filters(&self) -> Result<Vec<(Vec<u8>, u64)>> {
        let mut all = Vec::new();
        loop {
            let index = all.len() as u64;
            let instructions = match self.ask(PTRACE_SECCOMP_GET_FILTER, index, std::ptr::null_mut()) {
                Ok(n) => n as usize,
                // EINVAL: not in filter mode at all.
                Err(Errno(libc::ENOENT | libc::EINVAL)) => return Ok(all),
                Err(e) => return Err(e),
            };
            let mut program = vec![0_u8; instructions * 8];
            self.ask(PTRACE_SECCOMP_GET_FILTER, index, program.as_mut_ptr().cast())?;
            let mut meta = [index, 0_u64];
            self.ask(PTRACE_SECCOMP_GET_METADATA, 16, meta.as_mut_ptr().cast())?;
            all.push((program, meta[1]));
        }
    }

    /// Syscall user dispatch: (mode, selector, offset, len).
    pub fn syscall_dispatch(&self) -> Result<(u64, u64, u64, u64)> {
        once(&self.known.dispatch, || {
            let mut c = [0_u64; 4];
            self.ask(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, 32, c.as_mut_ptr().cast())?;
            Ok(as_it_was_set((c[0], c[1], c[2], c[3])))
        })
    }

    /// Sets syscall user dispatch.
    pub fn set_syscall_dispatch(&self, config: (u64, u64, u64, u64)) -> Result<()> {
        self.known.dispatch.set(None);
        let mut c = [config.0, config.1, config.2, config.3];
        self.ask(PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG, 32, c.as_mut_ptr().cast()).map(drop)
    }

    /// The entries of the GDT that the thread has set (`set_thread_area(2)`, which 64-bit programs reach by int 0x80), as
    /// `struct user_desc` each. Empty where the kernel has no such calls.
    pub fn tls_entries(&self) -> Result<Vec<[u8; 16]>> {
        let mut set = Vec::new();
        for entry in TLS_ENTRIES {
            let mut found = [0_u8; 16];
            match self.ask(PTRACE_GET_THREAD_AREA, entry, found.as_mut_ptr().cast()) {
                Ok(_) => {}
                Err(Errno(libc::EIO | libc::EINVAL)) => return Ok(set),
                Err(e) => return Err(e),
            }
            // What an entry that nobody has set is told as: LDT_empty, of the kernel.
            let mut unset = [0_u8; 16];
            unset[..4].copy_from_slice(&(entry as u32).to_ne_bytes());
            unset[12] = 1 << 3 | 1 << 5;
            if found != unset {
                set.push(found);
            }
        }
        Ok(set)
    }

    /// Sets one of them.
    pub fn set_tls_entry(&self, entry: &[u8; 16]) -> Result<()> {
        let number = u32::from_ne_bytes([entry[0], entry[1], entry[2], entry[3]]);
        self.ask(PTRACE_SET_THREAD_AREA, number.into(), entry.as_ptr().cast_mut().cast()).map(drop)
    }

    /// Debug registers DR0-DR3, DR6, DR7; all zero when DR7 arms none of them.
    pub fn debug_registers(&self) -> Result<[u64; 6]> {
        let mut values = [0; 6];
        // DR7 first: hardly any thread uses them, and each costs a call.
        for (index, number) in [(5, 7), (0, 0), (1, 1), (2, 2), (3, 3), (4, 6)] {
            let value: &mut u64 = &mut values[index];
            // libc's wrapper stores the word through `data` itself when asked to peek; it returns it.
            // SAFETY: PTRACE_PEEKUSER reads no memory of ours; an error is told from a value of -1 by errno, cleared before.
            unsafe { *libc::__errno_location() = 0 };
            match request(libc::PTRACE_PEEKUSER, self.tid, debug_offset(number), std::ptr::null_mut()) {
                Ok(v) => *value = v as u64,
                Err(Errno(0)) => *value = u64::MAX,
                Err(e) => return Err(e),
            }
            if index == 5 && values[5].trailing_zeros() >= 8 {
                return Ok([0; 6]);
            }
        }
        Ok(values)
    }

    /// Sets debug registers.
    pub fn set_debug_registers(&self, values: &[u64; 6]) -> Result<()> {
        let poke = |number: u64, value: u64| {
            self.ask(libc::PTRACE_POKEUSER, debug_offset(number), value as *mut c_void).map(drop)
        };
        // DR7 arms the others: off first, so that no address is armed half set, and on last.
        poke(7, 0)?;
        for (value, number) in values.iter().zip([0, 1, 2, 3, 6, 7]) {
            poke(number, *value)?;
        }
        Ok(())
    }
}

/// Syscall user dispatch of calls *within* a range (PR_SYS_DISPATCH_INCLUSIVE_ON, Linux 6.16) is kept and told as dispatch of those
/// outside all the rest of the addresses, which goes once around; but set so it is refused.
fn as_it_was_set((mode, selector, offset, len): (u64, u64, u64, u64)) -> (u64, u64, u64, u64) {
    const EXCLUSIVE: u64 = 1;
    const INCLUSIVE: u64 = 2;
    let end = offset.wrapping_add(len);
    if mode == EXCLUSIVE && offset != 0 && end <= offset {
        return (INCLUSIVE, selector, end, len.wrapping_neg());
    }
    (mode, selector, offset, len)
}

fn debug_offset(number: u64) -> u64 {
    std::mem::offset_of!(libc::user, u_debugreg) as u64 + number * 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispatch_within_a_range_is_told_from_that_outside_of_one() {
        // As Linux 6.18 tells a range of 0x3000 bytes at 0x10000.
        assert_eq!(as_it_was_set((1, 7, 0x13000, 0x3000_u64.wrapping_neg())), (2, 7, 0x10000, 0x3000));
        for same in [(1, 7, 0, 0), (1, 7, 0x10000, 0x3000), (1, 7, 0x10000, 0xffff_ffff_fffe_ffff), (0, 0, 0, 0)] {
            assert_eq!(as_it_was_set(same), same);
        }
    }
}
