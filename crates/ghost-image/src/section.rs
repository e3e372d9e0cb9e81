//! Sections: the named, framed, checksummed parts of a ghost.
//!
//! A section is a frame of 56 bytes, a message, padding, data and, if there is data, its checksum. A record is
//! a section without data. The frame is checked by itself first, so that a length is believed only when it
//! arrived as it was written; it carries the section's name, so that a reader can refuse what it does not know
//! in words. See `docs/format.md`.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use crate::bounds::{MAX_DATA, max_message};
use crate::error::{Error, Flaw, Place, Unknown};

/// Bytes of a frame.
pub const FRAME_LEN: usize = 56;
/// Set in the tag word of a section without which the ghost cannot be understood.
pub const REQUIRED: u32 = 1 << 31;
/// Section flags that a reader may ignore.
const IGNORABLE_FLAGS: u32 = 0xffff;

macro_rules! tags {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// What a section holds. Numbers and names are for ever; new ones are added.
        ///
        /// A new kind of record takes a line in the table of `section.rs`, one in [`crate::Record::check`], and
        /// one in `docs/format.md`. Numbers from 65536 on are never given here: they are for the private
        /// sections of others ([`crate::ImageWriter::foreign`]).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Tag { $($(#[$doc])* $variant = $number,)* }

        impl Tag {
            /// Every tag this version knows, in the order of their numbers.
            pub const ALL: &[Tag] = &[$(Tag::$variant,)*];

            /// The name in the frame and in messages.
            pub const fn name(self) -> &'static str {
                match self { $(Tag::$variant => $name,)* }
            }

            /// The tag with this number, if this version knows it.
            pub const fn from_number(number: u32) -> Option<Tag> {
                match number { $($number => Some(Tag::$variant),)* _ => None }
            }
        }
    };
}

tags! {
    /// [`crate::record::Host`]: where and when; the first section.
    Host = 1, "host";
    /// [`crate::record::Process`]: a process or what is left of one.
    Process = 2, "process";
    /// [`crate::record::Mm`]: an address space.
    Mm = 3, "mm";
    /// [`crate::record::Shmem`]: anonymous memory that several address spaces map.
    Shmem = 4, "shmem";
    /// [`crate::record::FdTable`]: a table of file descriptors.
    FdTable = 5, "fd-table";
    /// [`crate::record::File`]: an open file description.
    File = 6, "file";
    /// [`crate::record::Fs`]: working directory, root, umask.
    Fs = 7, "fs";
    /// [`crate::record::Pipe`]: a pipe and what is in it.
    Pipe = 8, "pipe";
    /// [`crate::record::Content`]: an inode without a name; its bytes follow as pages.
    Content = 9, "content";
    /// [`crate::record::PosixLocks`]: the record locks of a process.
    PosixLocks = 10, "posix-locks";
    /// [`crate::record::SeccompFilter`]: a filter that threads share.
    SeccompFilter = 11, "seccomp-filter";
    /// [`crate::record::SysvShm`]: a System V shared memory segment; its bytes follow as pages.
    SysvShm = 12, "sysv-shm";
    /// [`crate::record::PageHead`] and the bytes of its pages.
    Pages = 64, "pages";
    /// Where every section is; written by the writer itself.
    Index = 254, "index";
    /// The end of a whole ghost; written by the writer itself.
    Commit = 255, "commit";
}

impl Tag {
    /// The number in the frame.
    pub const fn number(self) -> u32 {
        self as u32
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of a section: 1 to 16 of `a-z 0-9 - _ .`, padded with zero bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name([u8; 16]);

impl Name {
    /// Stands for the header in a [`Place`]; no section has this name.
    pub const HEADER: Name = Name([0; 16]);

    /// Stands in a [`Place`] for a section whose frame could not be read.
    pub const UNREAD: Name = Name(*b"unreadable frame");

    /// A name from text, if it is one.
    pub fn new(text: &str) -> Option<Name> {
        let mut bytes = [0; 16];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Name::from_bytes(bytes).filter(|_| !text.contains('\0'))
    }

    fn from_bytes(bytes: [u8; 16]) -> Option<Name> {
        let len = bytes.iter().position(|&b| b == 0).unwrap_or(16);
        let (text, rest) = bytes.split_at(len);
        let valid = text.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'));
        (len > 0 && valid && rest.iter().all(|&b| b == 0)).then_some(Name(bytes))
    }

    /// The name as text; empty for [`Name::HEADER`].
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(16);
        str::from_utf8(&self.0[..len]).unwrap_or_default()
    }
}

impl From<Tag> for Name {
    fn from(tag: Tag) -> Name {
        let mut bytes = [0; 16];
        bytes[..tag.name().len()].copy_from_slice(tag.name().as_bytes());
        Name(bytes)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// The frame of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Tag number, with [`REQUIRED`].
    pub word: u32,
    /// Bits 0 to 15 may be ignored by readers, bits 16 to 31 may not. None is defined in format 1.
    pub flags: u32,
    /// The section's name.
    pub name: Name,
    /// Bytes of the message.
    pub message_len: u32,
    /// Zero bytes between message and data.
    pub padding_len: u32,
    /// Bytes of data; the data's checksum follows unless this is 0.
    pub data_len: u64,
    /// xxh3 of the message.
    pub message_checksum: u64,
}

impl Frame {
    /// The tag, if this version knows it.
    pub fn tag(&self) -> Option<Tag> {
        Tag::from_number(self.word & !REQUIRED)
    }

    /// Bytes from the frame to the data.
    pub fn data_start(&self) -> u64 {
        FRAME_LEN as u64 + u64::from(self.message_len) + u64::from(self.padding_len)
    }

    /// Bytes of the whole section.
    pub fn total_len(&self) -> u64 {
        let checksum = if self.data_len == 0 { 0 } else { 8 };
        self.data_start() + self.data_len + checksum
    }

    /// The bytes of this frame, checksum included.
    pub fn encode(&self) -> [u8; FRAME_LEN] {
        let mut out = [0; FRAME_LEN];
        out[..4].copy_from_slice(&self.word.to_le_bytes());
        out[4..8].copy_from_slice(&self.flags.to_le_bytes());
        out[8..24].copy_from_slice(&self.name.0);
        out[24..28].copy_from_slice(&self.message_len.to_le_bytes());
        out[28..32].copy_from_slice(&self.padding_len.to_le_bytes());
        out[32..40].copy_from_slice(&self.data_len.to_le_bytes());
        out[40..48].copy_from_slice(&self.message_checksum.to_le_bytes());
        let checksum = xxh3_64(&out[..48]);
        out[48..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Parses the frame at byte `offset` of a ghost: checksum first, then limits, then whether we know it.
    pub fn parse(bytes: &[u8; FRAME_LEN], offset: u64, page_size: u32) -> Result<Frame, Error> {
        if u64_at(bytes, 48) != xxh3_64(&bytes[..48]) {
            let place = Place { offset, section: Name::UNREAD };
            return Err(Error::Corrupt { place, flaw: Flaw::FrameChecksum });
        }
        let word = u32_at(bytes, 0);
        let number = word & !REQUIRED;
        let mut name = [0; 16];
        name.copy_from_slice(&bytes[8..24]);
        let tag = Tag::from_number(number);
        let name = Name::from_bytes(name).filter(|&name| tag.is_none_or(|tag| Name::from(tag) == name));
        let name = name.ok_or(Error::Corrupt {
            place: Place { offset, section: Name::UNREAD },
            flaw: Flaw::Name { tag: number },
        })?;
        let place = Place { offset, section: name };
        let frame = Frame {
            word,
            flags: u32_at(bytes, 4),
            name,
            message_len: u32_at(bytes, 24),
            padding_len: u32_at(bytes, 28),
            data_len: u64_at(bytes, 32),
            message_checksum: u64_at(bytes, 40),
        };
        if tag.is_none() && word & REQUIRED != 0 {
            return Err(Error::Unsupported { place, what: Unknown::Section { name, tag: number } });
        }
        if frame.flags & !IGNORABLE_FLAGS != 0 {
            let what = Unknown::SectionFlags(frame.flags & !IGNORABLE_FLAGS);
            return Err(Error::Unsupported { place, what });
        }
        let limit = max_message(tag);
        if u64::from(frame.message_len) > limit {
            return Err(Error::TooLarge { place, what: "its message", value: frame.message_len.into(), limit });
        }
        if frame.data_len > MAX_DATA {
            return Err(Error::TooLarge { place, what: "its data", value: frame.data_len, limit: MAX_DATA });
        }
        let expected = padding(offset, frame.message_len, frame.data_len, page_size);
        if frame.padding_len != expected {
            let flaw = Flaw::PaddingLength { found: frame.padding_len, expected };
            return Err(Error::Corrupt { place, flaw });
        }
        if frame.data_len != 0 && tag.is_some_and(|tag| tag != Tag::Pages) {
            let flaw = Flaw::DataLength { found: frame.data_len, expected: 0 };
            return Err(Error::Corrupt { place, flaw });
        }
        Ok(frame)
    }
}

/// The padding that makes the data of a section at `offset` begin at a page of the ghost.
pub(crate) fn padding(offset: u64, message_len: u32, data_len: u64, page_size: u32) -> u32 {
    if data_len == 0 {
        return 0;
    }
    let end = offset + FRAME_LEN as u64 + u64::from(message_len);
    (end.next_multiple_of(u64::from(page_size)) - end) as u32
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_is_in_the_documentation() {
        let page = include_str!("../../../docs/format.md");
        for tag in Tag::ALL {
            let row = format!("| {} | `{tag}` | ", tag.number());
            assert!(page.contains(&row), "docs/format.md has no row {row:?}");
            assert!(tag.number() < 65536 && Name::new(tag.name()) == Some(Name::from(*tag)));
        }
    }

    #[test]
    fn a_frame_comes_back_from_its_bytes() {
        let frame = Frame {
            word: Tag::Pages.number() | REQUIRED,
            flags: 3,
            name: Tag::Pages.into(),
            message_len: 17,
            padding_len: padding(1000, 17, 8192, 4096),
            data_len: 8192,
            message_checksum: 0x0123_4567_89ab_cdef,
        };
        assert_eq!(frame.padding_len, 4096 - 1000 - 56 - 17);
        assert_eq!(Frame::parse(&frame.encode(), 1000, 4096).unwrap(), frame);
        assert_eq!(frame.total_len(), 4096 - 1000 + 8192 + 8);
    }

    #[test]
    fn names_are_plain() {
        for name in ["a", "fd-table", "x.y_z-0123456789", "exactly-16-bytes"] {
            assert_eq!(Name::new(name).map(|name| name.to_string()).as_deref(), Some(name));
        }
        for name in ["", "A", "two words", "seventeen-letters", "\u{e9}t\u{e9}", "nul\0"] {
            assert_eq!(Name::new(name), None, "{name:?}");
        }
    }
}
