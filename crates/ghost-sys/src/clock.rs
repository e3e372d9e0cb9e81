//! The clocks that a ghost notes at its birth: `clock_gettime(2)`; CLOCK_BOOTTIME since Linux 2.6.39.
//!
//! Monotonic and boot clock are those of the caller's time namespace (Linux 5.6), which is also where tracees that share
//! it live; a process in another one is `offset` ahead (`proc::read_time_offsets`).

#![allow(unsafe_code)]

use crate::{Result, errno::cvt};

/// A clock now, in nanoseconds (`libc::CLOCK_*`).
pub fn now_ns(clock: i32) -> Result<i64> {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `struct timespec`, which outlives the call.
    cvt(unsafe { libc::clock_gettime(clock, &raw mut t) } as i64)?;
    Ok(t.tv_sec * 1_000_000_000 + t.tv_nsec)
}

/// CLOCK_REALTIME.
pub fn realtime_ns() -> i64 {
    now_ns(libc::CLOCK_REALTIME).expect("every kernel has CLOCK_REALTIME")
}

/// CLOCK_MONOTONIC.
pub fn monotonic_ns() -> i64 {
    now_ns(libc::CLOCK_MONOTONIC).expect("every kernel has CLOCK_MONOTONIC")
}

/// CLOCK_BOOTTIME.
pub fn boottime_ns() -> i64 {
    now_ns(libc::CLOCK_BOOTTIME).expect("every kernel that ghost runs on has CLOCK_BOOTTIME")
}

/// Clock ticks per second: the unit of the times in `/proc/PID/stat`.
pub fn ticks_per_second() -> i64 {
    // SAFETY: asks for a number.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_agree_with_std() {
        let std = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
        assert!((realtime_ns() - std).abs() < 5_000_000_000);
        let (a, b) = (monotonic_ns(), monotonic_ns());
        assert!(a <= b && a > 0);
        assert!(boottime_ns() >= a);
        assert!(now_ns(9999).is_err());
        assert_eq!(ticks_per_second(), 100);
    }
}
