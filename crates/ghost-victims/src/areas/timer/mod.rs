//! Timers: neither early, nor lost, nor twice; measured with CLOCK_MONOTONIC.
use crate::Victim;

mod interval;
mod posix;
mod ticks;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[interval::VICTIMS, posix::VICTIMS];
