//! Victims of the area `files`.
use crate::Victim;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[];
