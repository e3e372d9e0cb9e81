//! The rules of a ghost, in one place for the writer and every reader.
//!
//! A [`Walk`] follows a ghost from its header to its commit mark and knows what may come next. Its memory does
//! not grow with the ghost: the index is never kept, only the hash of what it must say.

use xxhash_rust::xxh3::Xxh3;

use crate::bounds::{MAX_SECTIONS, check_fields};
use crate::error::{Error, Flaw, Place};
use crate::index::{COMMIT_MESSAGE, CommitMark, Entry};
use crate::pages::decode_head;
use crate::record::PageHead;
use crate::section::{FRAME_LEN, Frame, Name, Tag};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Body,
    Indexed { index_offset: u64 },
    Committed,
}

pub(crate) struct Walk {
    pub page_size: u32,
    /// Where the next section begins.
    pub offset: u64,
    /// Sections so far, the index included.
    pub sections: u64,
    state: State,
    /// Over the header and the frame and data checksum of every section: the identity of the ghost.
    digest: Xxh3,
    /// Over the entries that the index must have.
    index: Xxh3,
}

impl Walk {
    pub fn new(header: &[u8], page_size: u32) -> Walk {
        let mut digest = Xxh3::new();
        digest.update(header);
        Walk { page_size, offset: header.len() as u64, sections: 0, state: State::Body, digest, index: Xxh3::new() }
    }

    /// What a reader says that is asked again after it has failed.
    pub fn failed_before(&self) -> Error {
        Error::Corrupt { place: Place { offset: self.offset, section: Name::UNREAD }, flaw: Flaw::Broken }
    }

    pub fn committed(&self) -> bool {
        self.state == State::Committed
    }

    /// Checks a frame that was read at the current offset, and that its section may come now.
    pub fn frame(&self, bytes: &[u8; FRAME_LEN]) -> Result<Frame, Error> {
        let frame = Frame::parse(bytes, self.offset, self.page_size)?;
        let place = Place { offset: self.offset, section: frame.name };
        let expected = match self.state {
            State::Body => frame.tag() != Some(Tag::Commit),
            State::Indexed { .. } => frame.tag() == Some(Tag::Commit),
            State::Committed => false,
        };
        if !expected {
            return Err(Error::Corrupt { place, flaw: Flaw::Order });
        }
        if self.sections >= MAX_SECTIONS && !matches!(frame.tag(), Some(Tag::Index | Tag::Commit)) {
            let (what, value) = ("the number of sections", self.sections + 1);
            return Err(Error::TooLarge { place, what, value, limit: MAX_SECTIONS });
        }
        Ok(frame)
    }

    /// Takes in a section whose message, with this checksum, has been read; `message` itself may be left out for
    /// the index and for sections we do not know. Returns the head of a page section.
    pub fn message(
        &mut self,
        frame: &Frame,
        bytes: &[u8; FRAME_LEN],
        checksum: u64,
        message: &[u8],
    ) -> Result<Option<PageHead>, Error> {
        let offset = self.offset;
        let corrupt = |flaw| {
            let place = Place { offset: offset + FRAME_LEN as u64, section: frame.name };
            Error::Corrupt { place, flaw }
        };
        if checksum != frame.message_checksum {
            return Err(corrupt(Flaw::MessageChecksum));
        }
        let mut entry = Entry::of_frame(self.offset, frame);
        let mut head = None;
        match frame.tag() {
            Some(Tag::Index) => {
                if checksum != self.index.digest() || u64::from(frame.message_len) != self.sections * Entry::LEN as u64
                {
                    return Err(corrupt(Flaw::Index));
                }
                self.state = State::Indexed { index_offset: self.offset };
            }
            Some(Tag::Commit) => {
                let message: &[u8; COMMIT_MESSAGE] = message.try_into().map_err(|_| corrupt(Flaw::Commit))?;
                if Some(CommitMark::decode(message)) != self.commit_mark() {
                    return Err(corrupt(Flaw::Commit));
                }
                self.state = State::Committed;
                self.offset += frame.total_len();
                return Ok(None);
            }
            Some(Tag::Pages) => {
                check_fields(Tag::Pages, message).map_err(corrupt)?;
                let pages = decode_head(message, frame.data_len, self.page_size).map_err(corrupt)?;
                entry.set_pages(&pages);
                head = Some(pages);
            }
            Some(tag) => check_fields(tag, message).map_err(corrupt)?,
            None => {}
        }
        self.digest.update(bytes);
        self.index.update(&entry.encode());
        self.sections += 1;
        self.offset += frame.total_len();
        Ok(head)
    }

    /// Takes in the checksum of the data of the section that [`Walk::message`] took in last.
    pub fn data_checksum(&mut self, checksum: u64) {
        self.digest.update(&checksum.to_le_bytes());
    }

    /// The commit mark that must follow; `None` before the index.
    pub fn commit_mark(&self) -> Option<CommitMark> {
        let State::Indexed { index_offset } = self.state else { return None };
        Some(CommitMark { index_offset, sections: self.sections, digest: self.digest.digest() })
    }

    /// The identity of the ghost up to here.
    pub fn digest(&self) -> u64 {
        self.digest.digest()
    }
}
