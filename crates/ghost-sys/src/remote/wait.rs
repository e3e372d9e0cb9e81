//! Waiting for a batch without any signal: by looking at its done word.

use super::program::Program;
use super::{Memory, RemoteError};
use crate::Errno;
use crate::ptrace::{Stop, Stopped};
use std::time::{Duration, Instant};

/// For how long to look, giving the CPU away, before a sleep: that takes 70 microseconds at least.
const SOON: Duration = Duration::from_micros(200);

/// What a wait found: a stop, or the wait status of the end.
pub(super) type Seen = Result<Stop, i32>;

/// Waits until the program is done: the thread is then to be interrupted.
///
/// `pass` sees every stop and lets the thread run on. At the first error it ends, with the thread stopped or gone.
pub(super) fn wait_until_done(
    program: &Program,
    memory: &Memory,
    thread: &Stopped,
    mut pass: impl FnMut(Seen) -> Result<(), RemoteError>,
) -> Result<(), RemoteError> {
    let mut pause = Duration::from_micros(20);
    let mut begin = None;
    // An error of the look is a hint that the thread has ended or gone; the wait below tells which.
    while !program.is_done(memory).unwrap_or(true) {
        if begin.get_or_insert_with(Instant::now).elapsed() < SOON {
            // It may be waiting for the very CPU on which we look.
            std::thread::yield_now();
        } else if let Some(seen) = thread.wait_again(libc::WNOHANG).map_err(fail)? {
            pass(seen)?;
        } else {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// Waits, after the interruption, until the thread stands in its sleep ([`Stop::Trap`] or [`Stop::Group`]).
pub(super) fn stop_in_sleep(
    thread: &Stopped,
    mut pass: impl FnMut(Seen) -> Result<(), RemoteError>,
) -> Result<(), RemoteError> {
    loop {
        match thread.wait_soon().map_err(fail)? {
            Ok(Stop::Trap | Stop::Group(_)) => return Ok(()),
            seen => pass(seen)?,
        }
        thread.interrupt().map_err(fail)?;
    }
}

fn fail(errno: Errno) -> RemoteError {
    RemoteError::Step { step: "waiting for a batch", errno }
}
