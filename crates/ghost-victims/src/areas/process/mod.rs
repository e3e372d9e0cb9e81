//! Victims of the area `process`.
use crate::Victim;

mod basics;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[basics::VICTIMS];
