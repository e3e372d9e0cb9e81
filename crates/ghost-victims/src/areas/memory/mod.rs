//! Victims of the area `memory`.
use crate::Victim;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[];
