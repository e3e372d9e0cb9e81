//! Victims of the area `refuse`: each has something that does not travel, or not yet.
//!
//! They say nothing of a restart. What they check is that a refusal did no harm: what they have still works.
use crate::Victim;

mod objects;
mod outside;
mod places;
mod security;
mod sockets;

pub(crate) use places::pty;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] =
    &[objects::VICTIMS, security::VICTIMS, outside::VICTIMS, sockets::VICTIMS, places::VICTIMS];
