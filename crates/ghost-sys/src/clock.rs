//! The kernel's clocks in nanoseconds: `clock_gettime(2)`.

#![allow(unsafe_code)]

/// CLOCK_REALTIME since 1970.
pub fn realtime_ns() -> i64 {
    read(libc::CLOCK_REALTIME)
}
/// CLOCK_MONOTONIC.
pub fn monotonic_ns() -> i64 {
    read(libc::CLOCK_MONOTONIC)
}
/// CLOCK_BOOTTIME.
pub fn boottime_ns() -> i64 {
    read(libc::CLOCK_BOOTTIME)
}

fn read(clock: libc::clockid_t) -> i64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` outlives the call; clock_gettime(2) writes one timespec. These clocks exist on every kernel.
    unsafe { libc::clock_gettime(clock, &raw mut t) };
    t.tv_sec * 1_000_000_000 + t.tv_nsec
}
