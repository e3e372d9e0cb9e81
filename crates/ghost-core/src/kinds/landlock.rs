//! Landlock domains: `landlock(7)`. They do not travel: what a domain restricts, the kernel tells nobody.
//!
//! Asked inside, of every thread: whether it may look at a process that its credentials alone allow it to look at
//! ([`ghost_sys::landlock`]). Who is in a domain may not. A domain that ghost itself is in is no loss: the restart is in it too.

use crate::error::{Blocker, Context, KindError};
use crate::inquiry::ThreadAnswers;
use crate::view::ProcessView;
use ghost_sys::landlock;
use ghost_sys::proc::Status;
use ghost_sys::ptrace::Stopped;
use ghost_sys::remote::{Batch, Outcome, Puppet, Slot};
use ghost_sys::witness::Witness;
use ghost_sys::{Pid, nr};
use std::collections::HashMap;

const KCMP_VM: u32 = 1;
const CAP_SYS_PTRACE: u64 = 1 << 19;

/// What a thread found out by looking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Look {
    /// It was not asked, or of somebody whom it may not look at anyway.
    #[default]
    Unknown,
    /// It is in no domain.
    Free,
    /// It may not look.
    Denied,
}

/// Those whom threads are to look at, made as they are needed.
#[derive(Debug, Default)]
pub(crate) struct Witnesses {
    /// Whether anybody can be in a domain here.
    there: bool,
    made: HashMap<(u32, u32), Option<Witness>>,
}

impl Witnesses {
    pub(crate) fn new() -> Self {
        Self { there: landlock::is_there(), ..Self::default() }
    }

    /// Whom a thread of this status may look at, if it is in no domain.
    pub(crate) fn of(&mut self, status: &Status) -> Option<Pid> {
        if !self.there {
            return None;
        }
        if status.cap_effective & CAP_SYS_PTRACE != 0 {
            return Some(std::process::id() as Pid);
        }
        let witness = self.made.entry(ids(status)).or_insert_with_key(|&(uid, gid)| Witness::of(uid, gid).ok());
        witness.as_ref().map(Witness::pid)
    }
}

/// Real ids, by which it is decided who may look.
fn ids(status: &Status) -> (u32, u32) {
    (status.uid[0], status.gid[0])
}

/// Queues the question; the witness is of the first thread of the process.
pub(crate) fn ask(batch: &mut Batch, witness: Option<Pid>) -> Option<Slot> {
    witness.map(|pid| batch.try_call("kcmp", nr::KCMP, &[pid.into(), pid.into(), KCMP_VM.into(), 0.into(), 0.into()]))
}

/// What came of it.
pub(crate) fn answer(outcome: &Outcome, asked: Option<Slot>) -> Look {
    match asked.map(|slot| outcome.result(slot)) {
        Some(Ok(_)) => Look::Free,
        Some(Err(ghost_sys::Errno(libc::EPERM))) => Look::Denied,
        _ => Look::Unknown,
    }
}

/// Names the first thread of this process that is in a domain, or may be.
pub(crate) fn check(
    process: &ProcessView,
    threads: &[ThreadAnswers],
    visits: &[(usize, &Stopped)],
    puppet: &mut Puppet,
    witnesses: &mut Witnesses,
) -> Result<Option<Blocker>, KindError> {
    let status = |nth: usize| &process.threads[nth].status;
    let Some(&(first, _)) = visits.first().filter(|_| witnesses.there) else { return Ok(None) };
    for &(nth, stopped) in visits {
        let mut look = threads[nth].landlock;
        // The witness was one for the first thread, and this one has other ids.
        if look != Look::Free && witnesses.of(status(nth)) != witnesses.of(status(first)) {
            let mut batch = Batch::new();
            let asked = ask(&mut batch, witnesses.of(status(nth)));
            look = Look::Unknown;
            if asked.is_some() {
                let outcome = puppet.run_in(stopped, &batch);
                look = answer(&outcome.step("asking it for its Landlock domain")?, asked);
            }
        }
        let why = match look {
            Look::Free => continue,
            Look::Denied => "it is in a Landlock domain: it may not look at a process that its credentials allow it to",
            // Who has not given up new privileges can only have entered a domain with CAP_SYS_ADMIN.
            Look::Unknown if !status(nth).no_new_privs => continue,
            Look::Unknown => {
                "it may be in a Landlock domain: ghost may not make a process with its ids to let it look at"
            }
        };
        return Ok(Some(Blocker {
            pid: process.pid,
            comm: process.comm(),
            kind: "landlock",
            subject: format!("tid {}", process.threads[nth].tid),
            why: why.into(),
            advice: "start it without its sandbox, or run it without one from the restart on by --accept landlock"
                .into(),
            passes: false,
        }));
    }
    Ok(None)
}
