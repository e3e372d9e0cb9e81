//! Self-checking programs, one per kernel feature, made to be exported.
//!
//! A victim sets a feature up, notes what the kernel says of it, tells that it is ready, waits, and then
//! looks again: everything must be as before. What happens to it during the wait (nothing, a stop signal, a checkpoint,
//! a migration, a duplication) it neither knows nor asks. The nouns:
//!
//! - [`Victim`]: a row of the table: name, flags, the function that is the program;
//! - [`Ctx`]: what that function is given: its directory, the wait, and the checks;
//! - [`areas`]: the victims themselves, by area;
//! - [`proc`]: readers of `/proc` for the checks;
//! - [`must!`], [`raw!`]: system calls, from libc or by number.
//!
//! The protocol with whoever runs a victim is in the crate's README.
pub mod areas;
mod ctx;
pub mod inside;
pub mod kit;
pub mod proc;
pub mod selftest;
pub mod spoil;
pub mod sys;

pub use ctx::Ctx;

/// What a runner must know of a victim before it runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// Holds pids or tids in places that only the kernel or libc knows (robust lists, PI futexes, F_SETOWN…):
    /// must come back under the same pid, so it is not duplicated.
    SamePid,
    /// Two copies at once cannot both be right, for the reason given.
    NoDup(&'static str),
    /// Must be refused, naming this kind; the victim must not be harmed.
    Refuse(&'static str),
    /// Travels only when the user accepts this kind by name.
    Accept(&'static str),
    /// The refusal needs the process to be asked: `ghost check`, which touches nothing, does not know of it.
    Asked,
    /// A stop and continue by signal is visible to this program (it watches its children's stops, or EINTR).
    NoStop,
    /// Standard input, output and error are to be a terminal whose master the runner holds; a restart is given it, too.
    Terminal,
    /// Needs more than the usual time, in seconds.
    Seconds(u32),
}

/// One victim: `area/name`, its flags, and the program.
pub struct Victim {
    /// The name within its area.
    pub name: &'static str,
    /// What a runner must know.
    pub flags: &'static [Flag],
    /// The program: sets up, calls [`Ctx::wait`] once, verifies.
    pub run: fn(&mut Ctx),
}

/// A row without flags.
pub const fn victim(name: &'static str, run: fn(&mut Ctx)) -> Victim {
    Victim { name, flags: &[], run }
}

/// A row with flags.
pub const fn flagged(name: &'static str, flags: &'static [Flag], run: fn(&mut Ctx)) -> Victim {
    Victim { name, flags, run }
}
