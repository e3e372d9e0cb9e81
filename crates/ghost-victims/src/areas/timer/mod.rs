//! Victims of the area `timer`.
use crate::Victim;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[];
