//! The victims, by area. An area's `mod.rs` joins the tables of its files.
use crate::{Ctx, Flag, Victim};

pub mod files;
pub mod memory;
pub mod pipe;
pub mod process;
pub mod refuse;
pub mod signal;
pub mod socket;
pub mod sync;
pub mod syscall;
pub mod thread;
pub mod timer;
pub mod tree;
pub mod tty;

/// The table of all victims: area, and the tables of its files.
pub const ALL: &[(&str, &[&[Victim]])] = &[
    ("process", process::TABLES),
    ("tree", tree::TABLES),
    ("thread", thread::TABLES),
    ("sync", sync::TABLES),
    ("signal", signal::TABLES),
    ("timer", timer::TABLES),
    ("syscall", syscall::TABLES),
    ("memory", memory::TABLES),
    ("files", files::TABLES),
    ("pipe", pipe::TABLES),
    ("socket", socket::TABLES),
    ("tty", tty::TABLES),
    ("refuse", refuse::TABLES),
];

/// All victims as `area/name` and row.
pub fn all() -> impl Iterator<Item = (String, &'static Victim)> {
    ALL.iter().flat_map(|(area, tables)| {
        tables.iter().flat_map(move |t| t.iter().map(move |v| (format!("{area}/{}", v.name), v)))
    })
}

/// The victim of this full name.
#[allow(clippy::type_complexity)] // it is a row without its name
pub fn find(name: &str) -> Option<(fn(&mut Ctx), &'static [Flag])> {
    all().find(|(n, _)| n == name).map(|(_, v)| (v.run, v.flags))
}
