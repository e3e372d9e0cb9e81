//! Where ghosts go and come from: the resource plug-ins.
//!
//! A [`Resource`] is a place that a ghost is exported to or imported from: a file, RAM, a network peer, a pipe, a
//! buffer of this program, or what somebody else wrote. It knows bytes, not processes. Opened for export it is a
//! [`GhostWrite`], which shows nothing to anybody until [`GhostWrite::finish`]; opened for import it is a
//! [`GhostRead`]. A place that keeps images is also a [`Store`] and can list and remove them. The [`Registry`] finds
//! the plug-in for a URL, or for one of the [`ClassId`]s that the ghost process of 2005 was plugged by.
//!
//! ```
//! use std::io::{Read, Write};
//! use ghost_resource::{Buffer, Options, Registry, Resource};
//!
//! # let dir = std::env::temp_dir().join(format!("ghost-resource-doc-{}", std::process::id()));
//! # std::fs::create_dir(&dir)?;
//! let registry = Registry::with_defaults();
//! let url = format!("disk:{}/app.ghost", dir.display());
//! let mut disk = registry.open_url(&url, &Options::default())?;
//!
//! let mut out = disk.open_export()?;
//! out.write_all(b"a process")?;
//! assert!(!disk.store().unwrap().exists()?); // not before it is whole
//! assert_eq!(out.finish()?.len_bytes, 9);
//!
//! let mut image = String::new();
//! disk.open_import()?.read_to_string(&mut image)?;
//! assert_eq!(image, "a process");
//! assert!(disk.open_export().is_err()); // never overwritten unasked
//! disk.store().unwrap().remove()?;
//! # std::fs::remove_dir(dir)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What this crate does not do: it gives no meaning to the bytes (that is `ghost-image`), so whether an image is
//! complete is for its commit mark to say; it encrypts nothing and authenticates nobody.

pub mod buffer;
pub mod class;
pub mod disk;
pub mod error;
mod file_image;
mod gather;
pub mod guard;
pub mod layer;
pub mod memory;
pub mod options;
pub mod patient;
pub mod pipe;
pub mod plugin;
pub mod registry;
pub mod resource;
mod seek;
pub mod tcp;

pub use buffer::{Buffer, ChannelExport, ChannelImport, channel};
pub use class::{ClassId, Direction};
pub use disk::Disk;
pub use error::{Aftermath, Cause, Error, Result};
pub use layer::{Layer, Layered, open_import_auto, undo_layers};
pub use memory::Memory;
pub use options::{Network, Options};
pub use pipe::Pipe;
pub use registry::{Factory, Registry};
pub use resource::{Duplex, Entry, GhostRead, GhostWrite, Resource, Store, WriteAt, Written};
pub use seek::Seekable;
pub use tcp::Tcp;
