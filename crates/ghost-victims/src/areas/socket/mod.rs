//! Victims of the area `socket`.
use crate::Victim;

mod inet;
mod unix;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[unix::VICTIMS, inet::VICTIMS];
