//! Victims of the area `tty`. Pseudo-terminals with both ends inside are in the area `refuse`.
use crate::Victim;

mod callers;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[callers::VICTIMS];
