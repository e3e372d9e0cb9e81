//! `/proc/PID/timers`: the POSIX timers, `proc_pid_timers(5)`; Linux 3.10 with CONFIG_CHECKPOINT_RESTORE.
//!
//! How long each has still to run is not here: `timer_gettime(2)` must be asked inside the process.

use super::text::{At, lines, split_once};
use super::{Parsed, ProcDir, ProcResult};
use crate::Pid;

/// A POSIX timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PosixTimer {
    /// Its id, as `timer_create(2)` returned it.
    pub id: i32,
    /// The signal that it sends.
    pub signal: i32,
    /// The value that comes with the signal.
    pub sigval: u64,
    /// `SIGEV_SIGNAL`, `SIGEV_NONE`, `SIGEV_THREAD`, with `SIGEV_THREAD_ID` added where one thread is meant.
    pub notify: i32,
    /// Whom the signal is for: a tid with `SIGEV_THREAD_ID`, else the process.
    pub target: Pid,
    /// `CLOCK_*`, or the number of a CPU clock.
    pub clock: i32,
}

/// Parses `/proc/PID/timers`: four lines a timer.
pub fn parse_timers(text: &[u8]) -> Parsed<Vec<PosixTimer>> {
    let at = At("timers");
    let mut all: Vec<PosixTimer> = Vec::new();
    for line in lines(text) {
        let Some((key, value)) = split_once(line, b':') else { return at.error("name", line) };
        let value = value.trim_ascii();
        if key == b"ID" {
            all.push(PosixTimer { id: at.narrow("ID", value)?, ..PosixTimer::default() });
            continue;
        }
        let Some(timer) = all.last_mut() else { return at.error("ID", line) };
        match key {
            b"signal" => {
                let (signal, sigval) = split_once(value, b'/').map_or_else(|| at.error("signal", line), Ok)?;
                timer.signal = at.narrow("signal", signal)?;
                timer.sigval = at.hex("signal", sigval)?;
            }
            b"notify" => {
                // `signal/pid.6093`
                let (how, whom) = split_once(value, b'/').map_or_else(|| at.error("notify", line), Ok)?;
                let (scope, target) = split_once(whom, b'.').map_or_else(|| at.error("notify", line), Ok)?;
                timer.notify = match how {
                    b"signal" => libc::SIGEV_SIGNAL,
                    b"none" => libc::SIGEV_NONE,
                    b"thread" => libc::SIGEV_THREAD,
                    _ => return at.error("notify", line),
                };
                timer.notify |= match scope {
                    b"pid" => 0,
                    b"tid" => libc::SIGEV_THREAD_ID,
                    _ => return at.error("notify", line),
                };
                timer.target = at.narrow("notify", target)?;
            }
            b"ClockID" => timer.clock = at.narrow("ClockID", value)?,
            _ => {}
        }
    }
    Ok(all)
}

/// Reads the POSIX timers of a process, in the kernel's order.
pub fn read_timers(dir: &ProcDir) -> ProcResult<Vec<PosixTimer>> {
    dir.parse("timers", parse_timers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_text() {
        let text = b"ID: 0
signal: 14/00000000deadbeef
notify: signal/pid.6093
ClockID: 1
ID: 7
signal: 34/0000000000000000
notify: signal/tid.6094
ClockID: -6
";
        let t = parse_timers(text).unwrap();
        let first = PosixTimer { id: 0, signal: 14, sigval: 0xdeadbeef, notify: 0, target: 6093, clock: 1 };
        assert_eq!(t[0], first);
        assert_eq!((t[1].id, t[1].notify, t[1].target, t[1].clock), (7, libc::SIGEV_THREAD_ID, 6094, -6));
        assert_eq!(parse_timers(b""), Ok(vec![]));
        assert!(parse_timers(b"signal: 14/0\n").is_err());
        assert!(parse_timers(b"ID: 1\nnotify: signal/whom.6\n").is_err());
    }
}
