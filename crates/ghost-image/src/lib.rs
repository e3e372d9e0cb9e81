//! The ghost as bytes: how the state of processes is written down and read again.
//!
//! This crate knows the format and nothing of processes: no system calls, no unsafe code, only [`std::io::Read`]
//! and [`std::io::Write`]. What it reads is hostile until proven otherwise.
//!
//! A *ghost* is a [`Header`], then *sections*, each with a [`Tag`], a length and checksums. Most sections carry
//! one *record*, a protobuf message about one kernel object ([`mod@record`]); page sections carry a head that
//! names *page runs*, and the raw bytes of these pages, aligned to pages. An [`Index`] and a commit mark come
//! last: bytes without the mark are a torn ghost and never taken for a whole one.
//!
//! [`ImageWriter`] writes one and [`ImageReader`] reads one, front to back, through a pipe if need be, with
//! memory that does not grow with the ghost. [`SliceReader`] does the same to a mapped file and copies no page.
//! [`Index`] jumps to a section of a ghost that can be seeked in. [`verify()`] checks every byte. All of them
//! fail with an [`Error`] that names the section and the byte.
//!
//! ```
//! use ghost_image::record::{Host, PageHead, PageRun};
//! use ghost_image::{Arch, Header, ImageReader, ImageWriter, Section, Tag};
//!
//! # fn main() -> Result<(), ghost_image::Error> {
//! let mut writer = ImageWriter::new(Vec::new(), &Header::new(Arch::X86_64, "6.12.0"))?;
//! writer.record(Tag::Host, &Host { root_pid: 4312, ..Host::default() })?;
//! let run = PageRun { start: 0x7f00_0000_0000, pages: 2, ..PageRun::default() };
//! let offset = writer.pages(&PageHead { owner: 0, id: 1, runs: vec![run], ..PageHead::default() }, &[&[7; 4096], &[8; 4096]])?;
//! assert_eq!(offset % 4096, 0);
//! let (bytes, _) = writer.finish()?;
//!
//! let mut reader = ImageReader::open(&bytes[..])?;
//! while let Some(section) = reader.next()? {
//!     match section {
//!         Section::Record(record) => assert_eq!(record.decode::<Host>()?.root_pid, 4312),
//!         Section::Pages(mut pages) => {
//!             let mut page = [0; 4096];
//!             pages.data.read_into(&mut page)?;
//!             assert_eq!(page, [7; 4096]);
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! It does not compress, encrypt or sign (plug-ins around the stream do), and does not judge whether records
//! fit together: that is the importer's work.

/// The page size of a ghost from a machine with 4 KiB pages, which [`Header::new`] makes.
pub const PAGE: u64 = 4096;

pub mod bounds;
mod error;
mod header;
mod index;
pub mod pages;
mod placed;
mod read;
pub mod record;
pub mod section;
mod slice;
mod verify;
mod walk;
mod write;

pub use error::{Error, Flaw, Place, Unknown};
pub use header::{Arch, Header, MAGIC, VERSION, Version};
pub use index::{COMMIT_LEN, CommitMark, Entry, Index};
pub use placed::{PlacedData, PlacedReader, ReadAt, Room};
pub use prost;
pub use read::{ImageReader, PageData, Pages, Record, Section, Unchecked};
pub use section::{Name, Tag};
pub use slice::{SliceData, SliceReader};
pub use verify::{Counts, verify};
pub use write::{ImageWriter, Placed, Written};
