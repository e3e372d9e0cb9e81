//! Victims of the area `files`.
use crate::Victim;

mod deleted;
mod epoll;
mod inotify;
mod locks;
mod memfd;
mod momentary;
mod named;
mod noticed;
mod objects;
mod procfs;
mod regular;
mod tables;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[
    regular::VICTIMS,
    named::VICTIMS,
    tables::VICTIMS,
    deleted::VICTIMS,
    locks::VICTIMS,
    memfd::VICTIMS,
    objects::VICTIMS,
    procfs::VICTIMS,
    epoll::VICTIMS,
    inotify::VICTIMS,
    momentary::VICTIMS,
    noticed::VICTIMS,
];
