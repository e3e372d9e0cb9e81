//! Undo values of System V semaphores: `semop(2)`, SEM_UNDO. They do not travel: the kernel gives them to the semaphores when
//! the process ends, and the one that comes back would never give anything back.
//!
//! Nothing tells them, but two limits do. An operation is made of several steps, which happen all or not at all, and an undo
//! value may not leave -32768..=32767. So the process is made to try steps that lead the undo value exactly to a limit and
//! leave the semaphore as it was, then one that can never succeed: if the value was 0 this last one fails (EAGAIN), else a step
//! before it (ERANGE). Either way nothing has happened, and nobody can have seen anything of it.
//!
//! Asked only if the host has sets of semaphores that somebody has ever operated on, and only threads with an undo list.

use crate::error::{Blocker, Context, KindError};
use crate::kinds::fd::note;
use crate::view::ProcessView;
use ghost_image::record as rec;
use ghost_sys::kcmp::{Resource, kcmp};
use ghost_sys::proc::{self, SemaphoreSet};
use ghost_sys::ptrace::Stopped;
use ghost_sys::remote::{Batch, Outcome, Puppet, Slot};
use ghost_sys::witness::Witness;
use ghost_sys::{Errno, Pid, nr, sem};
use std::cmp::Ordering;

const GETALL: i32 = 13;
const IPC_NOWAIT: u16 = 0o4000;
const SEM_UNDO: u16 = 0x1000;
/// Half of the way from 0 to -32768. Below it a semaphore can be raised by as much, from it on lowered.
const HALF: i16 = 1 << 14;
/// Semaphores asked in one batch.
const AT_ONCE: usize = 256;

/// The sets of the host that matter.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    sets: Vec<SemaphoreSet>,
    /// Somebody who has no undo list.
    without: Option<Witness>,
}

impl Sets {
    pub(crate) fn of_host() -> Result<Self, KindError> {
        let all = match proc::read_sysvipc_sem() {
            // A kernel without System V IPC, or one that shows it to nobody here.
            Err(e) if e.errno().is_some() => Vec::new(),
            other => other.step("listing the semaphore sets of this host")?,
        };
        let sets: Vec<_> = all.into_iter().filter(|s| s.operated != 0 && s.len != 0).collect();
        let user = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let without = if sets.is_empty() { None } else { Witness::of(user.0, user.1).ok() };
        Ok(Self { sets, without })
    }

    /// Whether a thread may have an undo list.
    fn has_list(&self, tid: Pid) -> bool {
        let same = |w: &Witness| kcmp(tid, w.pid(), Resource::SysvSem, 0, 0) == Ok(Ordering::Equal);
        !self.without.as_ref().is_some_and(same)
    }
}

/// What came of one set.
enum Found {
    Nothing,
    /// The number of a semaphore.
    Undo(usize),
    /// The process may not operate on it, now.
    Denied,
}

/// Names a set that this process has undo values for; a set that it cannot be asked for becomes a note.
pub(crate) fn check(
    process: &ProcessView,
    visits: &[(usize, &Stopped)],
    puppet: &mut Puppet,
    host: &Sets,
    notes: &mut Vec<rec::Note>,
) -> Result<Option<Blocker>, KindError> {
    let mut lists: Vec<&Stopped> = Vec::new();
    for &(_, stopped) in visits.iter().filter(|_| !host.sets.is_empty()) {
        let known = |other: &&Stopped| kcmp(stopped.tid(), other.tid(), Resource::SysvSem, 0, 0) == Ok(Ordering::Equal);
        if host.has_list(stopped.tid()) && !lists.iter().any(known) {
            lists.push(stopped);
        }
    }
    for stopped in lists {
        for set in &host.sets {
            let found = look(puppet, stopped, set);
            let why = match found.map_err(|e| e.on(process.pid, subject(set)))? {
                Found::Nothing => continue,
                Found::Undo(number) => format!("semaphore {number} of it would be changed by the end of this process"),
                Found::Denied if operated(process, set) => "it has operated on it, and may no longer".into(),
                Found::Denied => {
                    let text = "it may not be used by the process now; what it would undo there is lost, if anything";
                    notes.push(note(process.pid, "sysv sem", subject(set), text));
                    continue;
                }
            };
            return Ok(Some(Blocker {
                pid: process.pid,
                comm: process.comm(),
                kind: "sysv sem",
                subject: subject(set),
                why: why + " (SEM_UNDO)",
                advice: "wait until it has let go of the semaphore, or lose the undo by --accept 'sysv sem'".into(),
                passes: false,
            }));
        }
    }
    Ok(None)
}

fn subject(set: &SemaphoreSet) -> String {
    format!("semaphore set {}", set.id)
}

/// Whether the process is the last that operated on a semaphore of the set.
fn operated(process: &ProcessView, set: &SemaphoreSet) -> bool {
    (0..set.len).any(|number| sem::last_operator(set.id, number) == Ok(process.pid))
}

fn look(puppet: &mut Puppet, stopped: &Stopped, set: &SemaphoreSet) -> Result<Found, KindError> {
    let mut batch = Batch::new();
    let room = batch.room(2 * set.len as usize);
    let read =
        batch.try_call("GETALL of a semaphore set", nr::SEMCTL, &[set.id.into(), 0.into(), GETALL.into(), room.into()]);
    let outcome = run(puppet, stopped, &batch)?;
    match outcome.result(read) {
        Ok(_) => {}
        Err(Errno(libc::EACCES)) => return Ok(Found::Denied),
        // It has been removed meanwhile, and with it every undo value.
        Err(_) => return Ok(Found::Nothing),
    }
    let values: Vec<u16> = outcome.bytes(room).chunks_exact(2).map(|b| u16::from_ne_bytes([b[0], b[1]])).collect();
    for (nth, values) in values.chunks(AT_ONCE).enumerate() {
        let mut batch = Batch::new();
        let asked: Vec<[Slot; 2]> = values
            .iter()
            .enumerate()
            .map(|(i, value)| {
                tries((nth * AT_ONCE + i) as u16, *value < HALF as u16).map(|t| semop(&mut batch, set, &t))
            })
            .collect();
        let outcome = run(puppet, stopped, &batch)?;
        for (i, slots) in asked.into_iter().enumerate() {
            for slot in slots {
                match outcome.result(slot) {
                    Err(Errno(libc::EAGAIN | libc::EINVAL | libc::EIDRM)) => {}
                    Err(Errno(libc::EACCES)) => return Ok(Found::Denied),
                    // ERANGE is what was looked for; whatever else stands in the way, it is not known that nothing is lost.
                    _ => return Ok(Found::Undo(nth * AT_ONCE + i)),
                }
            }
        }
    }
    Ok(Found::Nothing)
}

/// `struct sembuf`: number, operation, flags.
type Step = (u16, i16, u16);

/// The steps that find a negative undo value, and those that find a positive one.
fn tries(number: u16, is_low: bool) -> [Vec<Step>; 2] {
    let step = |op: i16, flags: u16| (number, op, flags | IPC_NOWAIT);
    // What undoes later is the opposite of what is done now: a step up takes from the undo value.
    let there_and_back = |by: i16, counts_up: bool| {
        let (up, down) = (if counts_up { SEM_UNDO } else { 0 }, if counts_up { 0 } else { SEM_UNDO });
        if is_low { [step(by, up), step(-by, down)] } else { [step(-by, down), step(by, up)] }
    };
    // Waiting for zero, at a value that is not.
    let never = if is_low { vec![step(1, 0), step(0, 0)] } else { vec![step(0, 0)] };
    [(HALF, true), (HALF - 1, false)].map(|(last, counts_up)| {
        let mut steps = [there_and_back(HALF, counts_up), there_and_back(last, counts_up)].concat();
        steps.extend(&never);
        steps
    })
}

fn semop(batch: &mut Batch, set: &SemaphoreSet, steps: &[Step]) -> Slot {
    let bytes: Vec<u8> = steps
        .iter()
        .flat_map(|&(number, op, flags)| [number.to_ne_bytes(), op.to_ne_bytes(), flags.to_ne_bytes()].concat())
        .collect();
    let data = batch.data(&bytes);
    batch.try_call("semop", nr::SEMOP, &[set.id.into(), data.into(), steps.len().into()])
}

fn run(puppet: &mut Puppet, stopped: &Stopped, batch: &Batch) -> Result<Outcome, KindError> {
    puppet.run_in(stopped, batch).step("asking for semaphore undo values")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do: whether all steps but the last succeed, and that the last does not.
    fn only_the_last_fails(steps: &[Step], mut value: i32, mut undo: i32) -> bool {
        for (i, &(_, op, flags)) in steps.iter().enumerate() {
            let blocks = op == 0 && value != 0;
            assert_eq!(blocks, i == steps.len() - 1);
            if blocks {
                return true;
            }
            value += i32::from(op);
            assert!((0..=32767).contains(&value), "a value that no semaphore can have");
            if flags & SEM_UNDO != 0 {
                undo -= i32::from(op);
                if !(-32768..=32767).contains(&undo) {
                    return false;
                }
            }
        }
        unreachable!("it succeeded")
    }

    #[test]
    fn every_undo_value_but_zero_is_found_at_every_value() {
        for value in [0, 1, 5, 16383, 16384, 20000, 32766, 32767] {
            let [negative, positive] = tries(0, value < i32::from(HALF));
            for undo in [-32768, -20000, -2, -1, 0, 1, 2, 20000, 32767] {
                assert_eq!(only_the_last_fails(&negative, value, undo), undo >= 0, "value {value}, undo {undo}");
                assert_eq!(only_the_last_fails(&positive, value, undo), undo <= 0, "value {value}, undo {undo}");
            }
        }
    }
}
