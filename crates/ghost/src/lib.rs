//! Checkpoint, restart, migrate and duplicate Linux processes: one mechanism, a *ghost*, under all four.
//!
//! A [`Ghost`] is a process on its way: [`export_process`] extracts a process tree into it, [`import_process`] makes
//! processes of it. Where it goes is the business of the [`Resource`] that is plugged into it: a file, memory, a network
//! connection, or what you write yourself. The four actions are short compositions of these three:
//!
//! ```no_run
//! use ghost::{Ghost, Disk, ExportOptions, ImportOptions, export_process, import_process};
//!
//! # fn main() -> Result<(), ghost::Error> {
//! let mut ghost = Ghost::new();
//! ghost.plug(Disk::new("/var/tmp/app.ghost", &Default::default()));
//! export_process(&mut ghost, 4711, &ExportOptions::default())?;
//! // ... later, or elsewhere
//! let restored = import_process(&mut ghost, &ImportOptions::default())?;
//! println!("it runs again as pid {}", restored.root);
//! # Ok(())
//! # }
//! ```
//!
//! All ptrace work of one call happens on the calling thread. Nothing here starts a daemon or listens unless told to.

mod actions;
mod handle;
pub mod migrate;
pub mod protocol;

pub use actions::{checkpoint, duplicate, restart};
pub use ghost_core::error::{Action, Blocker, Cause, Error, KindError, printable};
pub use ghost_core::export::check;
pub use ghost_core::failpoint;
pub use ghost_core::import::Restored;
pub use ghost_core::options::{After, ExportOptions, ImportOptions, PidMap, Pids, Progress};
pub use ghost_core::report::Report;
pub use ghost_image as image;
pub use ghost_resource as resource;
pub use ghost_resource::{Buffer, ClassId, Disk, Memory, Pipe, Registry, Resource, Tcp};
pub use handle::{Ghost, export_process, import_process};
pub use migrate::{migrate, receive};

/// A process id in the caller's pid namespace.
pub type Pid = i32;
