//! The mechanism: export and import of every kind of kernel object.
//!
//! ```text
//! process ─▶ freeze ─▶ collect ─▶ export each kind ─▶ ghost stream ─▶ resource
//! process ◀─ thaw   ◀─ rebuild ◀─ import each kind ◀─ ghost stream ◀─ resource
//! ```

mod abreast;
mod advice;
pub mod ahead;
pub mod asleep;
mod detour;
pub mod error;
pub mod export;
pub mod failpoint;
pub mod freeze;
pub mod host;
pub mod import;
pub mod inquiry;
pub mod intake;
pub mod kinds;
mod mappings;
pub mod model;
pub mod names;
pub mod options;
pub mod replace;
pub mod report;
mod room;
pub mod sane;
pub mod shared;
pub mod view;
