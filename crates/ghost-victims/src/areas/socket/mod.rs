//! Victims of the area `socket`.
use crate::Victim;

mod inet;
mod pair;
mod unix;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[pair::VICTIMS, unix::VICTIMS, inet::VICTIMS];
