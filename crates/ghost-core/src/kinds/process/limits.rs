//! Resource limits: `/proc/PID/limits`, `prlimit(2)`.
//!
//! Set by the process itself, after its threads are there and before its credentials are. A hard limit can be raised only with
//! CAP_SYS_RESOURCE: without it the limit stays as low as the restorer's, and a note says so.

use crate::error::{Context, KindError};
use crate::view::ProcessView;
use ghost_image::record as rec;
use ghost_sys::nr;
use ghost_sys::proc::{self, ProcDir, UNLIMITED};
use ghost_sys::remote::Batch;

const CAP_SYS_RESOURCE: u32 = 24;

/// The limits there are, by number.
const NAMES: [&str; 16] = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

/// All limits of a process.
pub fn export(process: &ProcessView) -> Result<Vec<rec::Rlimit>, KindError> {
    let all = proc::read_limits(&process.dir).step_on(process.pid, String::new, "reading its limits")?;
    Ok(all.iter().map(|l| rec::Rlimit { which: l.which, soft: l.soft, hard: l.hard }).collect())
}

/// Those of ghost itself, and so of a new process.
pub(in crate::kinds) fn own() -> Result<Vec<proc::Limit>, KindError> {
    ProcDir::own().and_then(|d| proc::read_limits(&d)).step("reading the limits of ghost")
}

/// RLIMIT_SIGPENDING
const SIGPENDING: u32 = 11;

/// The limit that has to wait until the timers of a process are made: each takes a place in the queue of signals.
pub(in crate::kinds) fn after_timers<'a>(record: &'a rec::Process, now: &[proc::Limit]) -> Option<&'a rec::Rlimit> {
    let wanted = record.rlimits.iter().find(|l| l.which == SIGPENDING).filter(|_| !record.posix_timers.is_empty())?;
    let now = now.iter().find(|l| l.which == SIGPENDING)?;
    (wanted.soft < now.soft && wanted.hard <= now.hard).then_some(wanted)
}

/// Queues one limit.
pub(in crate::kinds) fn set(batch: &mut Batch, wanted: &rec::Rlimit) {
    let name = NAMES.get(wanted.which as usize).unwrap_or(&"?");
    let new = batch.data(&[wanted.soft.to_ne_bytes(), wanted.hard.to_ne_bytes()].concat());
    let args = [0.into(), wanted.which.into(), new.into(), 0.into()];
    batch.call(format!("prlimit of RLIMIT_{name}"), nr::PRLIMIT64, &args);
}

/// Queues the limits that differ from those it has; `note` is told (subject, text) what could not be had.
pub(in crate::kinds) fn queue(
    batch: &mut Batch,
    record: &rec::Process,
    now: &[proc::Limit],
    now_cred: &rec::Cred,
    note: &mut dyn FnMut(String, String),
) {
    let may_raise = now_cred.cap_effective >> CAP_SYS_RESOURCE & 1 != 0;
    let waits = after_timers(record, now).map(|l| l.which);
    for wanted in record.rlimits.iter().filter(|l| Some(l.which) != waits) {
        let Some(now) = now.iter().find(|l| l.which == wanted.which) else { continue };
        let name = NAMES.get(wanted.which as usize).unwrap_or(&"?");
        let (mut soft, mut hard) = (wanted.soft, wanted.hard);
        if hard > now.hard && !may_raise {
            let say = |v: u64| if v == UNLIMITED { "unlimited".to_owned() } else { v.to_string() };
            note(
                format!("RLIMIT_{name}"),
                format!("the hard limit is {} instead of {}: ghost lacks CAP_SYS_RESOURCE", say(now.hard), say(hard)),
            );
            (soft, hard) = (soft.min(now.hard), now.hard);
        }
        if (soft, hard) != (now.soft, now.hard) {
            set(batch, &rec::Rlimit { which: wanted.which, soft, hard });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_set_and_what_may_not_be_raised_is_told() {
        let now = [
            proc::Limit { which: 0, soft: UNLIMITED, hard: UNLIMITED },
            proc::Limit { which: 7, soft: 1024, hard: 4096 },
        ];
        let wanted = [
            rec::Rlimit { which: 0, soft: UNLIMITED, hard: UNLIMITED },
            rec::Rlimit { which: 7, soft: 9000, hard: UNLIMITED },
        ];
        let record = rec::Process { rlimits: wanted.to_vec(), ..rec::Process::default() };
        let calls = |caps: u64| {
            let (mut batch, mut notes) = (Batch::new(), Vec::new());
            let cred = rec::Cred { cap_effective: caps, ..rec::Cred::default() };
            queue(&mut batch, &record, &now, &cred, &mut |s, t| notes.push(format!("{s}: {t}")));
            (batch.len(), notes)
        };
        assert_eq!(calls(1 << CAP_SYS_RESOURCE), (1, Vec::new()));
        let (n, notes) = calls(0);
        assert_eq!(n, 1);
        assert!(notes[0].starts_with("RLIMIT_NOFILE: the hard limit is 4096 instead of unlimited"), "{notes:?}");
    }
}
