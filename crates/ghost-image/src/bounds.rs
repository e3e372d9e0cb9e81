//! The limits a ghost keeps, applied before anything is allocated.
//!
//! A length in a ghost is a claim by whoever wrote it. It is believed only below these limits, and even then
//! memory grows with the bytes that really arrive: a ghost of a hundred bytes never costs more than a buffer.

use crate::section::Tag;

/// The longest header, in bytes.
pub const MAX_HEADER: u32 = 4096;
/// The longest message of a section, in bytes.
pub const MAX_MESSAGE: u64 = 64 << 20;
/// The longest head of a page section, in bytes.
pub const MAX_PAGE_HEAD: u64 = 1 << 20;
/// The longest data of a section, in bytes. Writers stay at [`PAGE_SECTION`]; a transparent huge page or two fit.
pub const MAX_DATA: u64 = 64 << 20;
/// The data that a writer puts into one page section, in bytes: what is lost to a bit flip, and what a reader
/// holds to check it.
pub const PAGE_SECTION: u64 = 4 << 20;
/// The most sections in a ghost; at [`PAGE_SECTION`] each, 4 TiB of pages. Its index still is a message.
pub const MAX_SECTIONS: u64 = 1 << 20;
/// What is allocated for a message before its bytes arrive.
pub(crate) const FIRST_ALLOCATION: u64 = 64 << 10;

/// The longest message of a section with this tag (`None`: unknown to us), in bytes.
pub fn max_message(tag: Option<Tag>) -> u64 {
    match tag {
        Some(Tag::Pages) => MAX_PAGE_HEAD,
        Some(Tag::Commit) => crate::index::COMMIT_MESSAGE as u64,
        _ => MAX_MESSAGE,
    }
}
