//! Victims of the area `sync`.
use crate::Victim;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[];
