//! Trees of processes: parents and children, sessions and groups, the dead, and what clones share.
use crate::Victim;

mod common;
mod family;
mod groups;
mod sharing;
mod zombies;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] =
    &[common::VICTIMS, family::VICTIMS, groups::VICTIMS, zombies::VICTIMS, sharing::VICTIMS];
