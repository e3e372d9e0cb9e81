//! Resource limits, `prlimit(2)`: read and set from outside, set last of all, when nothing that ghost does can hit them.
//!
//! A hard limit can be raised only with CAP_SYS_RESOURCE. Without it the limit stays as low as the restorer's, and a note says so.

use crate::error::{Context, KindError};
use crate::import::ImportCx;
use ghost_image::record as rec;
use ghost_sys::process::{limit, set_limit};
use ghost_sys::{Errno, Pid};

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
pub fn export(pid: Pid) -> Result<Vec<rec::Rlimit>, KindError> {
    let read = |which| limit(pid, which).map(|(soft, hard)| rec::Rlimit { which, soft, hard });
    (0..NAMES.len() as u32).map(read).collect::<Result<_, _>>().step_on(pid, String::new, "reading its limits")
}

/// Sets the limits of every process.
pub fn import(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let mut notes = Vec::new();
    for (building, record) in cx.building.iter().zip(&cx.model.processes).filter(|(_, p)| p.zombie.is_none()) {
        for wanted in &record.rlimits {
            let name = *NAMES.get(wanted.which as usize).unwrap_or(&"?");
            let subject = || format!("RLIMIT_{name}");
            match set(building.pid, wanted) {
                Ok(None) => {}
                Ok(Some(text)) => {
                    notes.push(rec::Note { pid: record.pid, kind: "rlimit".into(), subject: subject(), text })
                }
                Err(e) => return Err(KindError::new("setting its limits", e).on(record.pid, subject())),
            }
        }
    }
    cx.notes.append(&mut notes);
    Ok(())
}

/// Sets one limit; the words say what could not be had.
fn set(pid: Pid, wanted: &rec::Rlimit) -> Result<Option<String>, Errno> {
    let (soft, hard) = limit(pid, wanted.which)?;
    if (soft, hard) == (wanted.soft, wanted.hard) {
        return Ok(None);
    }
    match set_limit(pid, wanted.which, (wanted.soft, wanted.hard)) {
        Ok(()) => Ok(None),
        Err(Errno(libc::EPERM)) if wanted.hard > hard => {
            set_limit(pid, wanted.which, (wanted.soft.min(hard), hard))?;
            let say = |v: u64| if v == u64::MAX { "unlimited".to_owned() } else { v.to_string() };
            Ok(Some(format!("the hard limit is {} instead of {}", say(hard), say(wanted.hard))))
        }
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_go_from_one_process_to_another() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as Pid;
        let mut all = export(std::process::id() as Pid).unwrap();
        assert_eq!(all.len(), NAMES.len());
        all[libc::RLIMIT_NOFILE as usize].soft = 123;
        for limit in &all {
            assert_eq!(set(pid, limit).unwrap(), None);
        }
        let now = export(pid).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(now, all);
    }
}
