//! Victims of the area `socket`.
use crate::Victim;

mod inet;
mod pair;
mod rights;
mod tcp;
mod udp;
mod unix;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[pair::VICTIMS, rights::VICTIMS, unix::VICTIMS, tcp::VICTIMS, udp::VICTIMS];
