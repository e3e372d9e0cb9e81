//! Threads, and what each has of its own: numbers, names, masks, rights, registers.
use crate::Victim;

mod apart;
mod busy;
mod crowd;
mod each;
mod number;
mod registers;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] =
    &[number::VICTIMS, crowd::VICTIMS, busy::VICTIMS, each::VICTIMS, apart::VICTIMS, registers::VICTIMS];
