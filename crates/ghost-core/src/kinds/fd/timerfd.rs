//! timerfd: a timer that is read, `timerfd_create(2)`.
//!
//! Read: fdinfo (clock, flags, unread expirations; Linux 3.17), `timerfd_gettime(2)`. Rebuilt: `timerfd_settime(2)`, then
//! TFD_IOC_SET_TICKS (Linux 3.17, CONFIG_CHECKPOINT_RESTORE). It is armed in `finish`, so that the time of the restart does
//! not count. A timer on the wall clock that was set to a point in time keeps that point; every other keeps what remained.

use super::{note, regular};
use crate::error::{Context, KindError};
use crate::import::ImportCx;
use crate::view::FdView;
use ghost_image::record as rec;
use ghost_sys::{clock, fdops};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const REALTIME: u32 = 0;
const REALTIME_ALARM: u32 = 8;
const ABSTIME: u32 = 1;

/// What is written of a timerfd.
pub fn export(fd: &FdView) -> Result<rec::TimerFd, KindError> {
    let left = rustix::time::timerfd_gettime(&fd.ours).step("asking for what is left of a timer")?;
    // Only the question above makes the kernel count periods that have passed unread, so that fdinfo is read after it.
    let own = ghost_sys::proc::ProcDir::own().step("looking at a timer")?;
    let info = ghost_sys::proc::read_fdinfo(&own, fd.ours.as_raw_fd()).step("looking at a timer")?;
    let info = info.timerfd.unwrap_or_default();
    let (value_ns, interval_ns) = (ns(left.it_value), ns(left.it_interval));
    let clock = info.clock as u32;
    let wall = matches!(clock, REALTIME | REALTIME_ALARM) && info.settime_flags & ABSTIME != 0 && value_ns > 0;
    let expires_ns = if wall { clock::now_ns(0).step("reading the clock")? + value_ns } else { 0 };
    Ok(rec::TimerFd { clock, ticks: info.ticks, settime_flags: info.settime_flags, value_ns, interval_ns, expires_ns })
}

/// Makes it, not yet armed.
pub fn import(file: &rec::File, timer: &rec::TimerFd) -> Result<OwnedFd, KindError> {
    let clock = match timer.clock {
        REALTIME => TimerfdClockId::Realtime,
        1 => TimerfdClockId::Monotonic,
        7 => TimerfdClockId::Boottime,
        REALTIME_ALARM => TimerfdClockId::RealtimeAlarm,
        9 => TimerfdClockId::BoottimeAlarm,
        other => return Err(KindError::conflict("making a timerfd", format!("there is no clock {other}"))),
    };
    let fd = rustix::time::timerfd_create(clock, TimerfdFlags::CLOEXEC).step("making a timerfd")?;
    regular::set_flags(fd.as_fd(), file.flags)?;
    Ok(fd)
}

/// Arms all timerfds.
pub fn finish(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    for file in &cx.model.files {
        let Some(rec::file::Object::Timerfd(timer)) = &file.object else { continue };
        let Some(fd) = cx.files.get(&file.id) else { continue };
        if let Some(text) = arm(fd.as_fd(), timer).map_err(|e| e.on(0, super::describe(cx.model, file)))? {
            cx.notes.push(note(0, "timerfd", super::describe(cx.model, file), text));
        }
    }
    Ok(())
}

fn arm(fd: BorrowedFd<'_>, timer: &rec::TimerFd) -> Result<Option<&'static str>, KindError> {
    if timer.value_ns > 0 {
        let (flags, value_ns) = match timer.expires_ns {
            0 if timer.settime_flags & ABSTIME != 0 => {
                (timer.settime_flags, clock::now_ns(timer.clock as i32).step("reading the clock")? + timer.value_ns)
            }
            0 => (timer.settime_flags, timer.value_ns),
            expires_ns => (timer.settime_flags, expires_ns),
        };
        let spec = Itimerspec { it_value: timespec(value_ns), it_interval: timespec(timer.interval_ns) };
        rustix::time::timerfd_settime(fd, TimerfdTimerFlags::from_bits_retain(flags), &spec).step("arming a timer")?;
    }
    if timer.ticks > 0 && fdops::set_timerfd_ticks(fd, timer.ticks).is_err() {
        // A kernel without CONFIG_CHECKPOINT_RESTORE: one expiration can still be told by letting it expire.
        return Ok(Some("this kernel can't put unread expirations back: they are lost"));
    }
    Ok(None)
}

fn ns(t: Timespec) -> i64 {
    t.tv_sec * 1_000_000_000 + t.tv_nsec
}
fn timespec(ns: i64) -> Timespec {
    Timespec { tv_sec: ns / 1_000_000_000, tv_nsec: (ns % 1_000_000_000) as _ }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::fd::testing::view_of;

    fn again(timer: &rec::TimerFd) -> rec::TimerFd {
        let fd = import(&rec::File { flags: 2, ..rec::File::default() }, timer).unwrap();
        assert_eq!(arm(fd.as_fd(), timer).unwrap(), None);
        export(&view_of(fd.as_fd())).unwrap()
    }

    #[test]
    fn what_is_left_and_unread_comes_back() {
        let hour = 3_600_000_000_000;
        let timer =
            rec::TimerFd { clock: 1, ticks: 5, settime_flags: 0, value_ns: hour, interval_ns: 7, expires_ns: 0 };
        let got = again(&timer);
        assert_eq!((got.clock, got.ticks, got.interval_ns), (1, 5, 7));
        assert!(got.value_ns <= hour && got.value_ns > hour - 5_000_000_000);
    }

    #[test]
    fn a_point_on_the_wall_clock_stays_that_point() {
        let expires_ns = clock::realtime_ns() + 3_600_000_000_000;
        let timer = rec::TimerFd { clock: 0, settime_flags: 3, value_ns: 1, expires_ns, ..rec::TimerFd::default() };
        let got = again(&timer);
        assert_eq!(got.settime_flags, 3);
        assert!((got.expires_ns - expires_ns).abs() < 50_000_000);
    }
}
