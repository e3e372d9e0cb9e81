//! Victims of the area `pipe`.
use crate::Victim;

mod data;
mod trees;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[data::VICTIMS, trees::VICTIMS];
