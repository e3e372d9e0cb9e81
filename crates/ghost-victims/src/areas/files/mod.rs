//! Victims of the area `files`.
use crate::Victim;

mod deleted;
mod locks;
mod momentary;
mod objects;
mod procfs;
mod regular;
mod tables;
mod watch;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[
    regular::VICTIMS,
    tables::VICTIMS,
    deleted::VICTIMS,
    locks::VICTIMS,
    objects::VICTIMS,
    procfs::VICTIMS,
    watch::VICTIMS,
    momentary::VICTIMS,
];
