//! Victims of the area `tty`.
use crate::Victim;

mod callers;
mod inside;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[callers::VICTIMS, inside::VICTIMS];
