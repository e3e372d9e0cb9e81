//! Resource limits: `/proc/PID/limits`, `prlimit(2)`.
//!
//! Set by the process itself, after its threads are there and before its credentials are. A hard limit can be raised only with
//! CAP_SYS_RESOURCE: without it the limit stays as low as the restorer's, and a note says so.

use crate::error::{Context, KindError};
use crate::view::ProcessView;
use ghost_image::record as rec;
use ghost_sys::nr;
use ghost_sys::proc::{self, UNLIMITED};
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

/// Queues the limits that differ from those it has; `note` is told (subject, text) what could not be had.
pub(in crate::kinds) fn queue(
    batch: &mut Batch,
    wanted: &[rec::Rlimit],
    now: &[proc::Limit],
    now_cred: &rec::Cred,
    note: &mut dyn FnMut(String, String),
) {
    let may_raise = now_cred.cap_effective >> CAP_SYS_RESOURCE & 1 != 0;
    for wanted in wanted {
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
            let new = batch.data(&[soft.to_ne_bytes(), hard.to_ne_bytes()].concat());
            batch.call(
                format!("prlimit of RLIMIT_{name}"),
                nr::PRLIMIT64,
                &[0.into(), wanted.which.into(), new.into(), 0.into()],
            );
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
        let calls = |caps: u64| {
            let (mut batch, mut notes) = (Batch::new(), Vec::new());
            let cred = rec::Cred { cap_effective: caps, ..rec::Cred::default() };
            queue(&mut batch, &wanted, &now, &cred, &mut |s, t| notes.push(format!("{s}: {t}")));
            (batch.len(), notes)
        };
        assert_eq!(calls(1 << CAP_SYS_RESOURCE), (1, Vec::new()));
        let (n, notes) = calls(0);
        assert_eq!(n, 1);
        assert!(notes[0].starts_with("RLIMIT_NOFILE: the hard limit is 4096 instead of unlimited"), "{notes:?}");
    }
}
