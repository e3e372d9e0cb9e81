//! The limits a ghost keeps, applied before anything is allocated.
//!
//! A length in a ghost is a claim by whoever wrote it. It is believed only below these limits, and even then
//! memory grows with the bytes that really arrive: a ghost of a hundred bytes never costs more than a buffer.

use crate::error::Flaw;
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

/// The most fields in a record with this tag, each element of a repeated field counted, nested ones not.
///
/// An empty thread takes two bytes in a ghost and hundreds in memory, so the bytes alone are no bound. These
/// are beyond what a kernel has been configured for: mappings of an address space, descriptors in a table,
/// threads in a process.
pub fn max_fields(tag: Tag) -> u64 {
    match tag {
        Tag::Mm | Tag::FdTable => 1 << 20,
        Tag::Process => 1 << 18,
        _ => 1 << 16,
    }
}

/// Counts the fields of a protobuf message without decoding it, up to the limit of its tag.
pub(crate) fn check_fields(tag: Tag, message: &[u8]) -> Result<(), Flaw> {
    let (mut rest, mut fields, limit) = (message, 0, max_fields(tag));
    while !rest.is_empty() {
        fields += 1;
        let at = message.len() - rest.len();
        let next = if fields > limit { None } else { field_end(rest) };
        rest = next.ok_or(if fields > limit { Flaw::Fields { limit } } else { Flaw::Wire { at: at as u64 } })?;
    }
    Ok(())
}

/// What follows the field at the front of `bytes`; `None` if there is no whole field.
fn field_end(bytes: &[u8]) -> Option<&[u8]> {
    let (key, rest) = varint(bytes)?;
    match key & 7 {
        0 => Some(varint(rest)?.1),
        1 => rest.get(8..),
        2 => {
            let (len, rest) = varint(rest)?;
            rest.get(usize::try_from(len).ok()?..)
        }
        5 => rest.get(4..),
        _ => None, // groups are not used in proto3
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::record::{Pipe, Process, Thread};

    #[test]
    fn fields_are_counted_without_decoding() {
        let pipe = Pipe { id: 1, size: 1 << 20, packets: vec![vec![0xff; 300], vec![]], ..Pipe::default() };
        assert_eq!(check_fields(Tag::Pipe, &pipe.encode_to_vec()), Ok(()));
        let crowd = Process { threads: vec![Thread::default(); 1 << 18], ..Process::default() };
        assert_eq!(check_fields(Tag::Process, &crowd.encode_to_vec()), Ok(()));
        let mut one_more = crowd.encode_to_vec();
        one_more.extend_from_slice(&[0x5a, 0]);
        assert_eq!(check_fields(Tag::Process, &one_more), Err(Flaw::Fields { limit: 1 << 18 }));
    }

    #[test]
    fn a_cut_message_is_no_message() {
        for (bytes, at) in [(&[0x08, 0x80][..], 0), (&[0x08, 1, 0x12, 5, 0], 2), (&[0x0b], 0), (&[0x80; 11], 0)] {
            assert_eq!(check_fields(Tag::Pipe, bytes), Err(Flaw::Wire { at }), "{bytes:x?}");
        }
    }
}
