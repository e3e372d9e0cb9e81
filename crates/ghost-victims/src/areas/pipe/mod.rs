//! Victims of the area `pipe`.
use crate::Victim;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[];
