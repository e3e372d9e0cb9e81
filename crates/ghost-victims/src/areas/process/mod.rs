//! What belongs to a process as a whole: names, places, limits, scheduling, credentials, seccomp.
use crate::Victim;

mod basics;
mod creds;
mod names;
mod sched;
mod seccomp;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[basics::VICTIMS, names::VICTIMS, sched::VICTIMS, creds::VICTIMS, seccomp::VICTIMS];
