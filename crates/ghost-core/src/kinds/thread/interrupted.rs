//! System calls that were under way: what is left of their time, and how a new thread is put back into them.
//!
//! At the stop a call that a signal would have interrupted shows `-ERESTART*` in rax and its number in orig_rax, and most
//! calls are simply made again by the kernel with the registers as they are. Four kinds have state of their own there,
//! `-ERESTART_RESTARTBLOCK`: a sleep, a poll with a limit, a futex wait with a limit, all relative to when they began. A new
//! thread lacks that state. So it makes the same call once, with the time that is left, and is interrupted before it waits
//! ([`ghost_sys::ptrace::Stopped::call_interrupted_each`]): then the kernel remembers, and restarts it as it would have.
//!
//! What is left is exact where the kernel wrote it to the program (the second argument of `nanosleep(2)`), and else the
//! limit less the time the thread had been asleep ([`crate::asleep`]).

use crate::asleep::Asleep;
use crate::detour::Slots;
use crate::error::{Cause, Context, KindError};
use ghost_image::record as rec;
use ghost_sys::Errno;
use ghost_sys::ptrace::Registers;
use ghost_sys::remote::{Memory, RemoteAddr};

const ERESTART_RESTARTBLOCK: i64 = -516;
const ERESTARTNOHAND: i64 = -514;
const TIMER_ABSTIME: u64 = 1;
const FUTEX_CMD_MASK: u64 = 0x7f;
const FUTEX_WAIT: u64 = 0;
const FUTEX_WAIT_BITSET: u64 = 9;
const NS: i64 = 1_000_000_000;

/// Register of NT_PRSTATUS by its place.
fn register(general: &[u8], offset: usize) -> u64 {
    general.get(offset..offset + 8).map_or(0, |b| u64::from_ne_bytes(b.try_into().expect("eight bytes")))
}

macro_rules! reg {
    ($general:expr, $name:ident) => {
        register($general, std::mem::offset_of!(Registers, $name))
    };
}

/// What is to be known about the call in which a thread was stopped; None when the registers say all.
///
/// A limit that cannot be read (Go calls nanosleep from places that come and go) is not known either: the thread is then told
/// EINTR by the kernel, as after a signal.
pub(super) fn export(
    general: &[u8],
    memory: &Memory,
    asleep: Option<Asleep>,
) -> Result<Option<rec::Interrupted>, KindError> {
    match exact(general, memory, asleep) {
        Err(KindError { cause: Cause::Kernel(Errno(libc::EFAULT)), .. }) => Ok(None),
        other => other,
    }
}

fn exact(general: &[u8], memory: &Memory, asleep: Option<Asleep>) -> Result<Option<rec::Interrupted>, KindError> {
    let nr = reg!(general, orig_rax) as i64;
    let error = reg!(general, rax) as i64;
    if nr < 0 || error != ERESTART_RESTARTBLOCK {
        return Ok(None);
    }
    let nr = asleep.map_or(nr, |a| a.nr);
    let age = asleep.and_then(|a| a.age_ns).unwrap_or(0);
    let span = |at: u64| -> Result<i64, KindError> {
        let mut bytes = [0; 16];
        memory.read(RemoteAddr(at), &mut bytes).step("reading how long it was to sleep")?;
        let word = |i: usize| i64::from_ne_bytes(bytes[i * 8..i * 8 + 8].try_into().expect("eight bytes"));
        Ok(word(0).saturating_mul(NS).saturating_add(word(1)))
    };
    // The kernel has told the program what remains, if it wished to know.
    let sleep = |request: u64, remaining: u64| match remaining {
        0 => span(request).map(|ns| ns - age),
        at => span(at),
    };
    let remaining_ns = match nr {
        libc::SYS_nanosleep => sleep(reg!(general, rdi), reg!(general, rsi))?,
        libc::SYS_clock_nanosleep => sleep(reg!(general, rdx), reg!(general, r10))?,
        libc::SYS_poll => i64::from(reg!(general, rdx) as i32).saturating_mul(1_000_000) - age,
        libc::SYS_futex if reg!(general, rsi) & FUTEX_CMD_MASK == FUTEX_WAIT => span(reg!(general, r10))? - age,
        _ => 0,
    };
    let clock = if nr == libc::SYS_clock_nanosleep { reg!(general, rdi) as i32 } else { 0 };
    Ok(Some(rec::Interrupted { nr, error, remaining_ns: remaining_ns.max(0), deadline_ns: 0, clock }))
}

/// A call that goes on with what is left of its limit ([`crate::detour`]).
pub(super) fn limited(nr: i64, remaining_ns: i64) -> rec::Interrupted {
    rec::Interrupted { nr, error: ERESTARTNOHAND, remaining_ns, deadline_ns: 0, clock: 0 }
}

/// How a thread gets back into a call.
pub(super) enum Plan {
    /// As the registers say.
    Known(Continue),
    /// It has to make it, and be interrupted in it.
    Call(Call),
}

/// A call that a thread makes so that the kernel remembers it.
pub(super) struct Call {
    pub nr: i64,
    pub args: [u64; 6],
    /// A `struct timespec`, which must be where the arguments say it is.
    pub time: [u8; TIME_LEN],
    /// Registers for a call that was to be made again, not to be continued.
    anew: Option<Registers>,
}

/// Bytes of [`Call::time`].
pub(super) const TIME_LEN: usize = 16;

impl Call {
    /// How the thread goes on when the call has returned this.
    pub(super) fn end(&self, value: i64) -> Continue {
        match (value, self.anew) {
            (ERESTART_RESTARTBLOCK, Some(regs)) => {
                Continue::Registers(Registers { rax: ERESTART_RESTARTBLOCK as u64, orig_rax: self.nr as u64, ..regs })
            }
            (ERESTART_RESTARTBLOCK, None) => Continue::Asleep,
            (value, _) => Continue::Returned(value),
        }
    }
}

/// Says how a thread in its trap gets back into the call that `interrupted` describes.
///
/// `room` is where [`Call::time`] will be.
pub(super) fn plan(
    interrupted: &rec::Interrupted,
    regs: &Registers,
    room: RemoteAddr,
    slots: Option<&mut Slots>,
) -> Plan {
    let left = interrupted.remaining_ns.max(0);
    let restarts_anew = interrupted.error == ERESTARTNOHAND;
    if restarts_anew {
        if let Some(detour) = slots.and_then(|s| s.registers(regs, interrupted.nr, left)) {
            return Plan::Known(Continue::Registers(detour));
        }
        // No room for a detour: some calls can be remembered by the kernel, the others begin their time anew.
        if !matches!(interrupted.nr, libc::SYS_poll | libc::SYS_nanosleep | libc::SYS_clock_nanosleep | libc::SYS_futex)
        {
            return Plan::Known(Continue::Asleep);
        }
    }
    let (mut args, room) = ([regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9], room.0);
    let nr = interrupted.nr;
    match nr {
        libc::SYS_nanosleep => args[0] = room,
        libc::SYS_clock_nanosleep => {
            args[1] &= !TIMER_ABSTIME;
            args[2] = room;
        }
        // Without a limit it waits on as it did.
        libc::SYS_poll if (args[2] as u32).cast_signed() < 0 => {}
        libc::SYS_poll => args[2] = (left.div_euclid(1_000_000) + i64::from(left % 1_000_000 != 0)) as u64,
        libc::SYS_futex if args[1] & FUTEX_CMD_MASK == FUTEX_WAIT => args[3] = room,
        // An absolute limit in the program's own memory.
        libc::SYS_futex if args[1] & FUTEX_CMD_MASK == FUTEX_WAIT_BITSET => {}
        // A call that this kernel restarts and we don't know: as if a signal had interrupted it.
        _ => return Plan::Known(Continue::Returned(-i64::from(libc::EINTR))),
    }
    let mut time = [0; TIME_LEN];
    time[..8].copy_from_slice(&(left / NS).to_ne_bytes());
    time[8..].copy_from_slice(&(left % NS).to_ne_bytes());
    Plan::Call(Call { nr, args, time, anew: restarts_anew.then_some(*regs) })
}

/// How a thread goes on.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::large_enum_variant, reason = "one for each interrupted thread, for a moment")]
pub(super) enum Continue {
    /// The kernel restarts the call from what it remembers: registers as they were.
    Asleep,
    /// The call ended at once (its time was over, something was ready): this is what it returns.
    Returned(i64),
    /// It makes the call again with what is left of its limit: with these registers.
    Registers(Registers),
}
