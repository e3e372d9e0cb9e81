//! Detours: calls with a time limit that go on with what is left of it.
//!
//! A call that was interrupted and has a *relative* limit in its arguments would begin its whole time anew. So such a
//! thread continues in a few bytes of its own, in the unused end of its vDSO (a private page, as the executor's foothold):
//! the call with the time that is left, the argument register back as it was, and a jump to where the call would have returned.
//!
//! ```text
//!     syscall                          the kernel restarts here, with the time that is left
//!     mov   $what it was, %reg         system calls keep the argument registers: so do we
//!     jmp   *0(%rip); .quad return     past the program's own syscall instruction
//!     .ascii "ghost"                   by which the slot is known again
//!     .quad seconds, nanoseconds       for a limit that is passed by address
//! ```
//!
//! Where many threads wait by times in their memory, those that wait at the same place share one slot, and the time of each stands with what
//! its register was in constants that nobody uses (`detour/times.rs`): code would not have the room, and ghost needs some of it itself.
//!
//! ```text
//!     syscall
//!     mov   16(%reg), %reg             what stands behind the time
//!     jmp   *6(%rip)
//! ```
//!
//! All is written before the registers are set, and the thread needs nobody to come home: ghost may die at any time.
//! A slot stays: a signal handler may return into it much later. The same wait in the same place uses the same slot. When all
//! room is used up, that at the unused ends of other code (of libraries) too, a call begins its time anew. An export shows the
//! thread as if it had never left its program ([`Slots::home`]).

mod slot;
mod times;

use crate::asleep::Asleep;
use ghost_sys::proc::{self, ProcDir};
use ghost_sys::ptrace::{Registers, Stopped};
use ghost_sys::remote::{Memory, Puppet, RemoteAddr, spare_ends};
use ghost_sys::{Pid, Result};
use slot::{Register, SHARED_LOADED, SLOT, Slot, TIME_AT, Wait};
use std::ops::Range;
use times::Times;

const PAGE: u64 = 4096;
/// Slots beside the vDSO that waits by address leave to others, where they can share one.
const SPARE: u64 = 4;
const NS: i64 = 1_000_000_000;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;
const FUTEX_CMD_MASK: u64 = 0x7f;
const TIMER_ABSTIME: u64 = 1;

/// A limit, as a call has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    register: Register,
    /// A `struct timespec` at that address, or milliseconds.
    by_address: bool,
}

/// The relative limit of a call, if it has one that the kernel forgets.
fn limit(nr: i64, a: &[u64; 6]) -> Option<Limit> {
    use Register::{R8, R10, Rdi, Rdx};
    let ms = |register, value: u64| (value as i32 > 0).then_some(Limit { register, by_address: false });
    let at = |register, value: u64| (value != 0).then_some(Limit { register, by_address: true });
    match nr {
        libc::SYS_poll => ms(Rdx, a[2]),
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => ms(R10, a[3]),
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => at(R10, a[3]),
        libc::SYS_rt_sigtimedwait => at(Rdx, a[2]),
        libc::SYS_io_getevents => at(R8, a[4]),
        libc::SYS_futex if a[1] & FUTEX_CMD_MASK == libc::FUTEX_WAIT as u64 => at(R10, a[3]),
        // Where the program asked for the remainder the kernel has written it down.
        libc::SYS_nanosleep if a[1] == 0 => at(Rdi, a[0]),
        libc::SYS_clock_nanosleep if a[1] & TIMER_ABSTIME == 0 && a[3] == 0 => at(Rdx, a[2]),
        _ => None,
    }
}

/// Whether it matters for how long a thread has been in this call.
pub(crate) fn needs_age(nr: i64, args: &[u64; 6]) -> bool {
    limit(nr, args).is_some()
}

fn args(r: &Registers) -> [u64; 6] {
    [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]
}

/// A page that has slots.
#[derive(Debug)]
struct Page {
    start: u64,
    bytes: Vec<u8>,
    /// What slots may take of it, as far as it is not taken yet: offsets.
    room: Range<u64>,
}

impl Page {
    /// The slot at this address.
    fn slot(&self, at: u64) -> Option<Slot> {
        let from = at.checked_sub(self.start).filter(|o| *o < PAGE)? as usize;
        Slot::read(self.bytes.get(from..)?)
    }
    /// Addresses of all slots.
    fn all(&self) -> impl Iterator<Item = u64> {
        (0..PAGE / 16).map(|i| self.start + i * 16).filter(|at| self.slot(*at).is_some())
    }
    /// Where a new slot may stand that leaves room for as many others.
    fn free(&self, others: u64) -> Option<u64> {
        let used = self.bytes.iter().rposition(|b| *b != 0).map_or(0, |i| i as u64 + 1);
        // The last slot may end in zeroes.
        let used = self.all().last().map_or(used, |last| used.max(last - self.start + SLOT));
        let start = used.max(self.room.start).next_multiple_of(16);
        (start + (1 + others) * SLOT <= self.room.end).then_some(self.start + start)
    }
}

/// The slots of one address space.
#[derive(Debug)]
pub(crate) struct Slots {
    memory: Memory,
    /// The last page of the vDSO; behind it, once that is full, the last pages of other code.
    pages: Vec<Page>,
    /// Whether other code has been looked at.
    is_spread: bool,
    /// Slots that a thread was sent to by this value.
    busy: Vec<u64>,
    /// Times of those that share a slot, once they have been looked for.
    times: Option<Times>,
}

impl Slots {
    /// Looks at the vDSO of a process; `live` is a thread of it. None when it has been moved or unmapped.
    pub(crate) fn of(live: Pid, dir: &ProcDir) -> Option<Self> {
        let auxv = proc::read_auxv(dir).ok()?;
        Self::at(Memory::open(live).ok()?, auxv.get(libc::AT_SYSINFO_EHDR)?)
    }

    /// The same, where the vDSO's address is known.
    pub(crate) fn at(memory: Memory, vdso: u64) -> Option<Self> {
        let page = vdso + own_vdso_len()? - PAGE;
        let mut magic = [0; 4];
        memory.read(RemoteAddr(vdso), &mut magic).ok()?;
        let mut bytes = vec![0; PAGE as usize];
        memory.read(RemoteAddr(page), &mut bytes).ok()?;
        let vdso = Page { start: page, bytes, room: 0..PAGE - reserve() };
        (magic == *b"\x7fELF").then_some(Self {
            memory,
            pages: vec![vdso],
            is_spread: false,
            busy: Vec::new(),
            times: None,
        })
    }

    /// Looks for room at the ends of other code.
    fn spread(&mut self) {
        self.is_spread = true;
        for (free, end) in spare_ends(&self.memory) {
            let (start, mut bytes) = (end - PAGE, vec![0; PAGE as usize]);
            if self.memory.read(RemoteAddr(start), &mut bytes).is_ok() {
                self.pages.push(Page { start, bytes, room: free - start..PAGE });
            }
        }
    }

    /// The slot in which a thread stands.
    fn around(&self, regs: &Registers) -> Option<Around> {
        let (at, mut now) = (regs.rip & !15, *regs);
        let slot = if let Some(page) = self.pages.iter().find(|p| (p.start..p.start + PAGE).contains(&at)) {
            page.slot(at)
        } else {
            let mut bytes = [0; SLOT as usize];
            self.memory.read(RemoteAddr(at), &mut bytes).ok()?;
            Slot::read(&bytes)
        };
        Some(match slot? {
            Slot::Own(wait) => Around { at, wait, is_timed: *wait.register.of(&mut now) == at + TIME_AT },
            Slot::Shared { register, target } => {
                let passed = *register.of(&mut now);
                let is_timed = regs.rip - at < SHARED_LOADED;
                let (value, time) = if is_timed { Times::read(&self.memory, passed)? } else { (passed, [0; 2]) };
                Around { at, wait: Wait { register, value, target, time }, is_timed }
            }
        })
    }

    /// Writes what this wait needs: the address of its slot, and of its time; None when there is no room.
    fn place(&mut self, wait: &Wait, by_address: bool) -> Option<(u64, u64)> {
        // A time is read when the call begins: another thread that is about to begin may not find a different one there.
        let fits = |page: &Page, at: &u64| {
            (!by_address || !self.busy.contains(at)) && page.slot(*at).is_some_and(|s| s.serves(wait))
        };
        let known = self.pages.iter().find_map(|page| page.all().find(|at| fits(page, at)));
        let others = if by_address { SPARE } else { 0 };
        let own = known.or_else(|| self.pages[0].free(others));
        if by_address
            && own.is_none()
            && let Some(placed) = self.share(wait)
        {
            return Some(placed);
        }
        let at = own.or_else(|| self.free())?;
        self.write(at, &Slot::Own(*wait))?;
        self.busy.push(at);
        Some((at, at + TIME_AT))
    }

    /// Room for a slot, in any page.
    fn free(&mut self) -> Option<u64> {
        let free = |slots: &Self| slots.pages.iter().find_map(|page| page.free(0));
        free(self).or_else(|| {
            if !self.is_spread {
                self.spread();
            }
            free(self)
        })
    }

    /// A slot that this wait shares with others, and a time of its own.
    fn share(&mut self, wait: &Wait) -> Option<(u64, u64)> {
        let memory = self.memory.share();
        if !self.times.get_or_insert_with(|| Times::of(&memory)).has_room(wait.value) {
            return None;
        }
        let slot = Slot::Shared { register: wait.register, target: wait.target };
        let is_it = |page: &Page, at: &u64| page.slot(*at) == Some(slot);
        let known = self.pages.iter().find_map(|page| page.all().find(|at| is_it(page, at)));
        let at = if let Some(at) = known {
            at
        } else {
            let at = self.free()?;
            self.write(at, &slot)?;
            at
        };
        Some((at, self.times.as_mut()?.put(&memory, wait.value, wait.time)?))
    }

    fn write(&mut self, at: u64, slot: &Slot) -> Option<()> {
        let bytes = slot.bytes();
        self.memory.write_forced(RemoteAddr(at), &bytes).ok()?;
        let page = self.pages.iter_mut().find(|p| (p.start..p.start + PAGE).contains(&at))?;
        let from = (at - page.start) as usize;
        page.bytes[from..from + bytes.len()].copy_from_slice(&bytes);
        Some(())
    }

    /// What of the vDSO's page must come along, and its address: a handler may return into a slot. Other pages travel as what they
    /// are: private pages of a file.
    pub(crate) fn kept(&self) -> Option<(u64, Vec<u8>)> {
        let page = &self.pages[0];
        let (first, last) = (page.all().next()?, page.all().last()? + SLOT);
        Some((first, page.bytes[(first - page.start) as usize..(last - page.start) as usize].to_vec()))
    }

    /// Sends a stopped thread on a detour, if it was interrupted in a call with a limit of which `asleep` tells the age.
    pub(crate) fn send(&mut self, thread: &Stopped, asleep: Asleep) -> Result<()> {
        let regs = thread.registers()?;
        let interrupted =
            [ERESTARTNOHAND, ERESTART_RESTARTBLOCK].contains(&(regs.rax as i64)) && regs.orig_rax as i64 >= 0;
        let Some((age, limit)) = asleep.age_ns.zip(limit(asleep.nr, &args(&regs))).filter(|_| interrupted) else {
            return Ok(());
        };
        if thread.syscall_dispatch().is_ok_and(|d| d.0 != 0) {
            // Calls from elsewhere than the program chose are turned into signals.
            return Ok(());
        }
        let mut now = regs;
        let value = *limit.register.of(&mut now);
        let whole = if limit.by_address {
            let mut bytes = [0; 16];
            self.memory.read(RemoteAddr(value), &mut bytes)?;
            let word = |i: usize| i64::from_ne_bytes(bytes[i * 8..i * 8 + 8].try_into().expect("eight bytes"));
            word(0).saturating_mul(NS).saturating_add(word(1))
        } else {
            i64::from(value as i32) * 1_000_000
        };
        let left = (whole - age).max(0);
        if let Some(detour) = self.registers(&regs, asleep.nr, left) {
            thread.set_registers(&detour)?;
        }
        Ok(())
    }

    /// The registers with which a thread goes on with `left` of its limit in call `nr`.
    pub(crate) fn registers(&mut self, regs: &Registers, nr: i64, left_ns: i64) -> Option<Registers> {
        let mut now = *regs;
        let limit = limit(nr, &args(regs))?;
        let passed = limit.register.of(&mut now);
        // One that is on a detour already keeps what its program had.
        let before = self.around(regs).map_or((*passed, regs.rip), |was| (was.wait.value, was.wait.target));
        let time = [left_ns / NS, left_ns % NS];
        let wait = Wait { register: limit.register, value: before.0, target: before.1, time };
        let (at, time_at) = self.place(&wait, limit.by_address)?;
        *passed =
            if limit.by_address { time_at } else { (left_ns / 1_000_000) as u64 + u64::from(left_ns % 1_000_000 != 0) };
        now.rip = at + 2;
        now.orig_rax = nr as u64;
        now.rax = ERESTARTNOHAND as u64;
        Some(now)
    }

    /// The registers of a thread as its program would have them without the detour it is on, with the call that it is in and
    /// what is left of its limit; None when it is on none.
    pub(crate) fn home(&self, regs: &Registers) -> Option<(Registers, Option<(i64, i64)>)> {
        let Around { at, wait, is_timed } = self.around(regs)?;
        let mut home = *regs;
        let passed = *wait.register.of(&mut home);
        *wait.register.of(&mut home) = wait.value;
        let nr = regs.orig_rax as i64;
        let interrupted = nr >= 0 && [ERESTARTNOHAND, ERESTART_RESTARTBLOCK].contains(&(regs.rax as i64));
        let left = if is_timed {
            wait.time[0].saturating_mul(NS).saturating_add(wait.time[1])
        } else {
            i64::from(passed as i32) * 1_000_000
        };
        // Before its call: it makes the program's own.
        home.rip = if regs.rip == at { wait.target - 2 } else { wait.target };
        Some((home, interrupted.then_some((nr, left))))
    }
}

/// Where a thread on a detour is.
struct Around {
    /// The slot.
    at: u64,
    wait: Wait,
    /// Whether the limit is the time that stands in the wait.
    is_timed: bool,
}

/// What must stay free behind the slots: the executor stands there, and its start is rounded up.
fn reserve() -> u64 {
    (Puppet::room() as u64 + 16).next_multiple_of(16)
}

/// Length of the vDSO: the same in all processes of a kernel.
fn own_vdso_len() -> Option<u64> {
    static LEN: std::sync::OnceLock<Option<u64>> = std::sync::OnceLock::new();
    *LEN.get_or_init(|| {
        let maps = proc::read_maps(&ProcDir::own().ok()?).ok()?;
        maps.iter().find(|m| m.name == b"[vdso]").map(|m| m.end - m.start)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_slots_and_executor() {
        let own = ProcDir::own().unwrap();
        let slots = Slots::of(std::process::id() as Pid, &own).expect("own vDSO");
        let used = slots.pages[0].bytes.iter().rposition(|b| *b != 0).unwrap() as u64 + 1;
        let room = (PAGE - used.next_multiple_of(16) - reserve()) / SLOT;
        assert!(room >= 8, "{room} slots with {} bytes for the executor", reserve());
    }

    #[test]
    fn only_relative_limits_count() {
        assert!(limit(libc::SYS_poll, &[1, 2, u64::from(u32::MAX), 0, 0, 0]).is_none(), "-1 is no limit");
        assert!(limit(libc::SYS_poll, &[1, 2, 100, 0, 0, 0]).is_some());
        assert!(limit(libc::SYS_nanosleep, &[1, 2, 0, 0, 0, 0]).is_none(), "the kernel writes the remainder");
        assert!(limit(libc::SYS_futex, &[1, 128, 0, 0, 0, 0]).is_none());
        assert!(limit(libc::SYS_futex, &[1, 128 | 9, 0, 5, 0, 0]).is_none(), "an absolute one");
        assert!(limit(libc::SYS_read, &[1; 6]).is_none());
    }
}
