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
//! The slot is written before the registers are set, and the thread needs nobody to come home: ghost may die at any time.
//! A slot stays: a signal handler may return into it much later. The same wait in the same place uses the same slot. When the
//! room beside the vDSO is used up, they stand at the unused ends of other code (of libraries); when that is, too, a call begins its time anew. An export shows the thread as if it had never left its program ([`Slots::home`]).

use crate::asleep::Asleep;
use ghost_sys::proc::{self, ProcDir};
use ghost_sys::ptrace::{Registers, Stopped};
use ghost_sys::remote::{Memory, Puppet, RemoteAddr, spare_ends};
use ghost_sys::{Pid, Result};
use std::ops::Range;

const PAGE: u64 = 4096;
const SLOT: u64 = 48;
const MARK: [u8; 6] = *b"ghost\x01";
/// Of the time in a slot.
const TIME_AT: u64 = 32;
const NS: i64 = 1_000_000_000;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;
const FUTEX_CMD_MASK: u64 = 0x7f;
const TIMER_ABSTIME: u64 = 1;

/// The register in which a call has its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Rdi,
    Rdx,
    R8,
    R10,
}

impl Register {
    const ALL: [Self; 4] = [Self::Rdi, Self::Rdx, Self::R8, Self::R10];

    /// `mov $imm64, %reg`.
    fn opcode(self) -> [u8; 2] {
        match self {
            Self::Rdi => [0x48, 0xbf],
            Self::Rdx => [0x48, 0xba],
            Self::R8 => [0x49, 0xb8],
            Self::R10 => [0x49, 0xba],
        }
    }
    fn of(self, regs: &mut Registers) -> &mut u64 {
        match self {
            Self::Rdi => &mut regs.rdi,
            Self::Rdx => &mut regs.rdx,
            Self::R8 => &mut regs.r8,
            Self::R10 => &mut regs.r10,
        }
    }
}

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

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    register: Register,
    value: u64,
    target: u64,
    time: [i64; 2],
}

impl Slot {
    fn bytes(&self) -> Vec<u8> {
        let mut b = vec![0x0f, 0x05];
        b.extend_from_slice(&self.register.opcode());
        b.extend_from_slice(&self.value.to_le_bytes());
        b.extend_from_slice(&[0xff, 0x25, 0, 0, 0, 0]);
        b.extend_from_slice(&self.target.to_le_bytes());
        b.extend_from_slice(&MARK);
        b.extend(self.time.iter().flat_map(|t| t.to_le_bytes()));
        b
    }
    fn read(b: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(b.get(at..at + 8)?.try_into().ok()?));
        if b.get(..2)? != [0x0f, 0x05] || b.get(26..32)? != MARK {
            return None;
        }
        let register = Register::ALL.into_iter().find(|r| r.opcode() == b[2..4])?;
        Some(Self { register, value: word(4)?, target: word(18)?, time: [word(32)? as i64, word(40)? as i64] })
    }
    /// Whether it is the same wait in the same place.
    fn serves(&self, other: &Self) -> bool {
        (self.register, self.value, self.target) == (other.register, other.value, other.target)
    }
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
    /// Where a new slot may stand.
    fn free(&self) -> Option<u64> {
        let used = self.bytes.iter().rposition(|b| *b != 0).map_or(0, |i| i as u64 + 1);
        // The last slot may end in zeroes.
        let used = self.all().last().map_or(used, |last| used.max(last - self.start + SLOT));
        let start = used.max(self.room.start).next_multiple_of(16);
        (start + SLOT <= self.room.end).then_some(self.start + start)
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
        (magic == *b"\x7fELF").then_some(Self { memory, pages: vec![vdso], is_spread: false, busy: Vec::new() })
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

    /// The slot in which an instruction pointer stands.
    fn around(&self, rip: u64) -> Option<(u64, Slot)> {
        let at = rip & !15;
        let slot = if let Some(page) = self.pages.iter().find(|p| (p.start..p.start + PAGE).contains(&at)) {
            page.slot(at)
        } else {
            let mut bytes = [0; SLOT as usize];
            self.memory.read(RemoteAddr(at), &mut bytes).ok()?;
            Slot::read(&bytes)
        };
        Some((at, slot?)).filter(|_| rip - at < 16)
    }

    /// Writes a slot for this wait and returns its address; None when there is no room.
    fn place(&mut self, slot: &Slot, by_address: bool) -> Option<u64> {
        // A time is read when the call begins: another thread that is about to begin may not find a different one there.
        let fits = |page: &Page, at: &u64| {
            (!by_address || !self.busy.contains(at)) && page.slot(*at).is_some_and(|s| s.serves(slot))
        };
        let known = self.pages.iter().find_map(|page| page.all().find(|at| fits(page, at)));
        let Some(at) = known.or_else(|| self.pages.iter().find_map(Page::free)) else {
            if self.is_spread {
                return None;
            }
            self.spread();
            return self.place(slot, by_address);
        };
        let bytes = slot.bytes();
        self.memory.write_forced(RemoteAddr(at), &bytes).ok()?;
        let page = self.pages.iter_mut().find(|p| (p.start..p.start + PAGE).contains(&at))?;
        let from = (at - page.start) as usize;
        page.bytes[from..from + bytes.len()].copy_from_slice(&bytes);
        self.busy.push(at);
        Some(at)
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
        let (value, target) = self.around(regs.rip).map_or((*passed, regs.rip), |(_, s)| (s.value, s.target));
        let slot = Slot { register: limit.register, value, target, time: [left_ns / NS, left_ns % NS] };
        let at = self.place(&slot, limit.by_address)?;
        *passed = if limit.by_address {
            at + TIME_AT
        } else {
            (left_ns / 1_000_000) as u64 + u64::from(left_ns % 1_000_000 != 0)
        };
        now.rip = at + 2;
        now.orig_rax = nr as u64;
        now.rax = ERESTARTNOHAND as u64;
        Some(now)
    }

    /// The registers of a thread as its program would have them without the detour it is on, with the call that it is in and
    /// what is left of its limit; None when it is on none.
    pub(crate) fn home(&self, regs: &Registers) -> Option<(Registers, Option<(i64, i64)>)> {
        let (at, slot) = self.around(regs.rip)?;
        let mut home = *regs;
        let passed = *slot.register.of(&mut home);
        *slot.register.of(&mut home) = slot.value;
        let nr = regs.orig_rax as i64;
        let interrupted = nr >= 0 && [ERESTARTNOHAND, ERESTART_RESTARTBLOCK].contains(&(regs.rax as i64));
        let left = if passed == at + TIME_AT {
            slot.time[0].saturating_mul(NS).saturating_add(slot.time[1])
        } else {
            i64::from(passed as i32) * 1_000_000
        };
        // Before its call: it makes the program's own.
        home.rip = if regs.rip == at { slot.target - 2 } else { slot.target };
        Some((home, interrupted.then_some((nr, left))))
    }
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
    fn a_slot_reads_as_it_was_written() {
        for register in Register::ALL {
            let slot = Slot { register, value: 0xdead_beef_1234, target: 0x7fff_0000_1111, time: [3, 999] };
            let bytes = slot.bytes();
            assert_eq!(bytes.len() as u64, SLOT);
            assert_eq!(Slot::read(&bytes), Some(slot));
            assert_eq!(Slot::read(&bytes[..40]), None);
        }
        assert_eq!(Slot::read(&[0; 48]), None);
    }

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
