//! Why a ghost could not be read or written: always with the section and the byte.
//!
//! Three refusals are kept apart because their cures differ. A *torn* ghost was cut short: its writer died or
//! the connection broke; write it again. A *corrupt* ghost has bytes its writer never wrote: look at the disk
//! or at whoever sent it. An *unsupported* ghost is sound, and newer than this reader: use a newer ghost.

use std::{fmt, io};

use crate::section::Name;

/// A place in a ghost: a section, and a byte counted from the beginning of the ghost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The byte at which the trouble was met.
    pub offset: u64,
    /// The section that was being read or written; [`Name::HEADER`] before the first one.
    pub section: Name,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.section == Name::HEADER {
            write!(f, "header, byte {}", self.offset)
        } else {
            write!(f, "section '{}', byte {}", self.section, self.offset)
        }
    }
}

/// What went wrong, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The first bytes are not those of a ghost.
    #[error("not a ghost: it begins with `{}`", found.escape_ascii())]
    NotGhost {
        /// The bytes in place of the magic.
        found: [u8; 8],
    },
    /// The bytes end before the commit mark.
    #[error("torn ghost: it ends in {place}, before its commit mark")]
    Torn {
        /// Where it ends.
        place: Place,
    },
    /// The bytes contradict their checksums or each other.
    #[error("corrupt ghost: {place}: {flaw}")]
    Corrupt {
        /// Where.
        place: Place,
        /// The contradiction.
        flaw: Flaw,
    },
    /// A size above the limits of [`crate::bounds`]; nothing was allocated for it.
    #[error("ghost refused: {place}: {what} is {value}, the limit is {limit}")]
    TooLarge {
        /// Where.
        place: Place,
        /// What is too large.
        what: &'static str,
        /// Its size in the ghost.
        value: u64,
        /// The largest that is read.
        limit: u64,
    },
    /// Sound, and beyond what this version knows.
    #[error("ghost not supported: {what} ({place})")]
    Unsupported {
        /// Where.
        place: Place,
        /// What is not known.
        what: Unknown,
    },
    /// The source failed.
    #[error("reading the ghost failed in {place}")]
    Read {
        /// Where.
        place: Place,
        /// The cause.
        source: io::Error,
    },
    /// The destination failed; the ghost is torn from here on and the writer refuses all else.
    #[error("writing the ghost failed in {place}")]
    Write {
        /// Where.
        place: Place,
        /// The cause.
        source: io::Error,
    },
    /// What was to be written would not be read again, so it is not written.
    #[error("not written: {place}: {flaw}")]
    Unwritable {
        /// Where it would have been.
        place: Place,
        /// What readers would find wrong.
        flaw: Flaw,
    },
}

impl Error {
    /// What a user can do about it; `None` where the source or the destination has to say that.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Error::NotGhost { .. } => Some("name what `ghost checkpoint` has made"),
            Error::Torn { .. } => {
                Some("use another copy, or take it anew: its writer or the connection ended too early")
            }
            Error::Corrupt { .. } | Error::TooLarge { .. } => {
                Some("use another copy, or take it anew: these are not the bytes that were written")
            }
            Error::Unsupported { .. } => Some("use a newer version of ghost"),
            Error::Read { .. } | Error::Write { .. } | Error::Unwritable { .. } => None,
        }
    }

    /// True if the bytes end too early: the writer did not finish.
    pub fn is_torn(&self) -> bool {
        matches!(self, Error::Torn { .. })
    }

    /// True if nothing was tried because an earlier write had failed already: that one's error tells why.
    pub fn is_consequence(&self) -> bool {
        matches!(self, Error::Unwritable { flaw: Flaw::Broken, .. })
    }

    /// True if the ghost may be read by a newer version of this crate.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Error::Unsupported { .. })
    }

    /// Where it happened; `None` only for bytes that are no ghost at all.
    pub fn place(&self) -> Option<Place> {
        match self {
            Error::NotGhost { .. } => None,
            Error::Torn { place }
            | Error::Corrupt { place, .. }
            | Error::TooLarge { place, .. }
            | Error::Unsupported { place, .. }
            | Error::Read { place, .. }
            | Error::Write { place, .. }
            | Error::Unwritable { place, .. } => Some(*place),
        }
    }

    /// Errors of a source at `place`; its end is a torn ghost.
    pub(crate) fn read(place: Place, source: io::Error) -> Error {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            Error::Torn { place }
        } else {
            Error::Read { place, source }
        }
    }

    /// The same for a caller who asked through [`io::Read`].
    pub(crate) fn into_io(self) -> io::Error {
        let kind = if self.is_torn() { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::InvalidData };
        match self {
            Error::Read { source, .. } => source,
            other => io::Error::new(kind, other),
        }
    }
}

/// A contradiction in the bytes of a ghost.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// The header's own checksum does not hold.
    #[error("the header's checksum does not match")]
    HeaderChecksum,
    /// The header's length is impossible.
    #[error("a header of {0} bytes is impossible")]
    HeaderLength(u32),
    /// A text of the header is not valid.
    #[error("{0} is not valid text, or too long")]
    HeaderText(&'static str),
    /// The page size is no power of two that a machine has.
    #[error("2^{0} is no page size")]
    PageSize(u8),
    /// A section's frame does not match its checksum.
    #[error("the frame's checksum does not match")]
    FrameChecksum,
    /// A section's message does not match its checksum.
    #[error("the message's checksum does not match")]
    MessageChecksum,
    /// A section's data does not match its checksum.
    #[error("the data's checksum does not match")]
    DataChecksum,
    /// A section's name is not lower-case ASCII, or not that of its tag.
    #[error("the name does not fit tag {tag}")]
    Name {
        /// The tag beside the name.
        tag: u32,
    },
    /// Padding of the wrong length.
    #[error("{found} bytes of padding where {expected} are due")]
    PaddingLength {
        /// As the frame says.
        found: u32,
        /// As alignment asks for.
        expected: u32,
    },
    /// Padding that is not zero.
    #[error("padding that is not zero")]
    Padding,
    /// Data in a section that has none, or of the wrong length.
    #[error("{found} bytes of data where {expected} are due")]
    DataLength {
        /// As the frame says.
        found: u64,
        /// As the message says.
        expected: u64,
    },
    /// A page section without runs.
    #[error("a page section without page runs")]
    NoRuns,
    /// A page run that is empty, unaligned, out of order or beyond the address space.
    #[error("page run at {start:#x} with {pages} pages is empty, unaligned, out of order or out of range")]
    Run {
        /// Its address.
        start: u64,
        /// Its length.
        pages: u64,
    },
    /// Page runs are shared by an owner that can't, or by nobody although they say so.
    #[error("page runs of owner {owner} say wrongly whether they are shared")]
    Shares {
        /// Whose they are.
        owner: u32,
    },
    /// Page runs that are said to be shared are not there, out of order, or shared by nobody.
    #[error("{count} shared page runs from the {first}th on are not there, out of order, or shared by nobody")]
    Share {
        /// The first of them.
        first: u32,
        /// How many.
        count: u32,
    },
    /// A message that is not the protobuf record its tag promises.
    #[error("the message is not a record of its kind: {0}")]
    Record(prost::DecodeError),
    /// A message that is no protobuf.
    #[error("byte {at} of the message begins no protobuf field")]
    Wire {
        /// Counted from the beginning of the message.
        at: u64,
    },
    /// A record with more fields than any kernel object has.
    #[error("the record has more than {limit} fields")]
    Fields {
        /// The most that is read.
        limit: u64,
    },
    /// A section where none of its kind may be.
    #[error("the section is out of its order")]
    Order,
    /// The index does not list the sections that were read.
    #[error("the index does not list the sections as they are")]
    Index,
    /// The commit mark does not belong to what was read.
    #[error("the commit mark belongs to other bytes")]
    Commit,
    /// More bytes after the commit mark.
    #[error("bytes follow the commit mark")]
    Trailing,
    /// The writer has failed before; what it wrote ends there.
    #[error("an earlier write failed, the ghost ends there")]
    Broken,
    /// A tag that the writer keeps for itself or that needs another call.
    #[error("a section of this tag is not written by this call")]
    Tag,
}

/// Something a newer ghost has and this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unknown {
    /// A newer format.
    #[error("format {major}.{minor} is newer than {known}, the newest known to this version")]
    Version {
        /// The ghost's major version.
        major: u16,
        /// The ghost's minor version.
        minor: u16,
        /// Ours.
        known: u16,
    },
    /// A flag in the header that readers must understand.
    #[error("header flags {0:#010x} are required and unknown to this version")]
    HeaderFlags(u32),
    /// A flag of a section that readers must understand.
    #[error("section flags {0:#010x} are required and unknown to this version")]
    SectionFlags(u32),
    /// A section that readers must understand.
    #[error("section '{name}' (tag {tag}) is required and unknown to this version")]
    Section {
        /// Its name, as its writer calls it.
        name: Name,
        /// Its tag.
        tag: u32,
    },
}
