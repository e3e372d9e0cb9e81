//! The index and the commit mark: the end of a ghost, and the way to read it from there.
//!
//! A ghost that can be seeked in is read from its end: the commit mark is its last [`COMMIT_LEN`] bytes and
//! says where the index is; the index says where every section is. So `inspect` reads a few kilobytes of a
//! ghost of many gigabytes, and a lazy restart fetches pages one section at a time, each checked by itself.

use std::io::{Read, Seek, SeekFrom};

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Flaw, Place};
use crate::header::Header;
use crate::pages::decode_head;
use crate::record::PageHead;
use crate::section::{FRAME_LEN, Frame, Name, Tag, u32_at, u64_at};

/// Bytes of the message of the commit section.
pub(crate) const COMMIT_MESSAGE: usize = 24;
/// Bytes of the commit section, the last of a ghost.
pub const COMMIT_LEN: usize = FRAME_LEN + COMMIT_MESSAGE;

/// What the commit mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitMark {
    /// Where the index section begins.
    pub index_offset: u64,
    /// The number of sections before the commit mark, the index included.
    pub sections: u64,
    /// xxh3 of the header and of every section's frame and data checksum: the identity of the ghost.
    pub digest: u64,
}

impl CommitMark {
    pub(crate) fn encode(self) -> [u8; COMMIT_MESSAGE] {
        let mut out = [0; COMMIT_MESSAGE];
        out[..8].copy_from_slice(&self.index_offset.to_le_bytes());
        out[8..16].copy_from_slice(&self.sections.to_le_bytes());
        out[16..].copy_from_slice(&self.digest.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; COMMIT_MESSAGE]) -> CommitMark {
        CommitMark { index_offset: u64_at(bytes, 0), sections: u64_at(bytes, 8), digest: u64_at(bytes, 16) }
    }
}

/// One section, as the index lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Tag number, with [`crate::section::REQUIRED`].
    pub word: u32,
    /// Bytes of the message.
    pub message_len: u32,
    /// Zero bytes between message and data.
    pub padding_len: u32,
    /// Pages: whose they are ([`PageHead::owner`]).
    pub owner: u32,
    /// Pages: the owner's id.
    pub id: u32,
    /// Where the section begins.
    pub offset: u64,
    /// Bytes of data.
    pub data_len: u64,
    /// Pages: the first address.
    pub first: u64,
    /// Pages: how many, zero pages included.
    pub pages: u64,
}

impl Entry {
    /// Bytes of an entry in the index.
    pub const LEN: usize = 56;

    pub(crate) fn of_frame(offset: u64, frame: &Frame) -> Entry {
        Entry {
            word: frame.word,
            message_len: frame.message_len,
            padding_len: frame.padding_len,
            owner: 0,
            id: 0,
            offset,
            data_len: frame.data_len,
            first: 0,
            pages: 0,
        }
    }

    pub(crate) fn set_pages(&mut self, head: &PageHead) {
        self.owner = head.owner;
        self.id = head.id;
        self.first = head.runs.first().map_or(0, |run| run.start);
        self.pages = head.runs.iter().map(|run| run.pages).sum();
    }

    /// The tag, if this version knows it.
    pub fn tag(&self) -> Option<Tag> {
        Tag::from_number(self.word & !crate::section::REQUIRED)
    }

    /// Where the data begins.
    pub fn data_offset(&self) -> u64 {
        self.offset + FRAME_LEN as u64 + u64::from(self.message_len) + u64::from(self.padding_len)
    }

    /// Where the section ends; `None` if the numbers are absurd.
    fn end(&self) -> Option<u64> {
        let checksum = if self.data_len == 0 { 0 } else { 8 };
        let before = FRAME_LEN as u64 + u64::from(self.message_len) + u64::from(self.padding_len) + checksum;
        self.offset.checked_add(before)?.checked_add(self.data_len)
    }

    pub(crate) fn encode(&self) -> [u8; Entry::LEN] {
        let mut out = [0; Entry::LEN];
        let words = [self.word, self.message_len, self.padding_len, self.owner, self.id, 0];
        for (place, word) in out.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let longs = [self.offset, self.data_len, self.first, self.pages];
        for (place, long) in out[24..].chunks_exact_mut(8).zip(longs) {
            place.copy_from_slice(&long.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Entry {
        Entry {
            word: u32_at(bytes, 0),
            message_len: u32_at(bytes, 4),
            padding_len: u32_at(bytes, 8),
            owner: u32_at(bytes, 12),
            id: u32_at(bytes, 16),
            offset: u64_at(bytes, 24),
            data_len: u64_at(bytes, 32),
            first: u64_at(bytes, 40),
            pages: u64_at(bytes, 48),
        }
    }
}

/// The sections of a ghost that can be seeked in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The ghost's header.
    pub header: Header,
    /// The ghost's commit mark.
    pub commit: CommitMark,
    /// Every section before the index, in the order of the ghost.
    pub entries: Vec<Entry>,
}

impl Index {
    /// Reads header, commit mark and index; the sections between are not looked at.
    ///
    /// The index is as trustworthy as its checksum: sections read through it are checked one by one, and only
    /// [`verify()`](crate::verify()) proves that the whole is as it was written. A ghost within a larger file is not found:
    /// it must begin at byte 0 and end at the end.
    pub fn read_from(source: &mut (impl Read + Seek)) -> Result<Index, Error> {
        let at = |offset, section| Place { offset, section };
        let seek =
            |source: &mut dyn SeekRead, to, place| source.seek(to).map_err(|source| Error::Read { place, source });
        seek(source, SeekFrom::Start(0), at(0, Name::HEADER))?;
        let (header, header_bytes) = Header::read_with_bytes(source)?;
        let len = seek(source, SeekFrom::End(0), at(0, Name::HEADER))?;
        let place = at(len, Tag::Commit.into());
        let commit_offset = len.checked_sub(COMMIT_LEN as u64).ok_or(Error::Torn { place })?;
        if commit_offset < header_bytes.len() as u64 {
            return Err(Error::Torn { place });
        }
        let place = at(commit_offset, Tag::Commit.into());
        let (frame, message) = read_section(source, commit_offset, &header)
            .map_err(|e| if matches!(e, Error::Read { .. }) { e } else { Error::Torn { place } })?;
        let message: Option<[u8; COMMIT_MESSAGE]> = message.try_into().ok();
        let Some(message) = message.filter(|_| frame.tag() == Some(Tag::Commit)) else {
            return Err(Error::Torn { place });
        };
        let commit = CommitMark::decode(&message);
        let corrupt = |flaw| Error::Corrupt { place, flaw };
        if commit.index_offset < header_bytes.len() as u64 || commit.index_offset >= commit_offset {
            return Err(corrupt(Flaw::Commit));
        }
        let (frame, message) = read_section(source, commit.index_offset, &header)?;
        let count = (message.len() / Entry::LEN) as u64;
        let ends_at_commit = commit.index_offset + frame.total_len() == commit_offset;
        let whole = message.len() % Entry::LEN == 0 && count + 1 == commit.sections;
        if frame.tag() != Some(Tag::Index) || !ends_at_commit || !whole {
            return Err(corrupt(Flaw::Index));
        }
        let entries: Vec<Entry> = message.chunks_exact(Entry::LEN).map(Entry::decode).collect();
        let end = entries
            .iter()
            .try_fold(header_bytes.len() as u64, |end, entry| if entry.offset == end { entry.end() } else { None });
        if end != Some(commit.index_offset) {
            return Err(corrupt(Flaw::Index));
        }
        Ok(Index { header, commit, entries })
    }

    /// The entries with this tag.
    pub fn of(&self, tag: Tag) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.tag() == Some(tag))
    }

    /// The message of a section, checked: a record, or the head of a page section.
    pub fn message(&self, source: &mut (impl Read + Seek), entry: &Entry) -> Result<Vec<u8>, Error> {
        Ok(self.read_entry(source, entry)?.1)
    }

    /// A record, checked and decoded.
    pub fn record<M: prost::Message + Default>(
        &self,
        source: &mut (impl Read + Seek),
        entry: &Entry,
    ) -> Result<M, Error> {
        let (frame, message) = self.read_entry(source, entry)?;
        M::decode(&*message).map_err(|e| message_flaw(entry, &frame, Flaw::Record(e)))
    }

    /// The head of a page section, checked. Its data begins at [`Entry::data_offset`]; see
    /// [`crate::pages::placed_runs`].
    pub fn page_head(&self, source: &mut (impl Read + Seek), entry: &Entry) -> Result<PageHead, Error> {
        let (frame, message) = self.read_entry(source, entry)?;
        decode_head(&message, frame.data_len, self.header.page_size).map_err(|flaw| message_flaw(entry, &frame, flaw))
    }

    /// The whole data of a page section into `out`, which must have its length; checked.
    pub fn data(&self, source: &mut (impl Read + Seek), entry: &Entry, out: &mut [u8]) -> Result<(), Error> {
        let place = Place { offset: entry.data_offset(), section: Tag::Pages.into() };
        if out.len() as u64 != entry.data_len {
            let flaw = Flaw::DataLength { found: entry.data_len, expected: out.len() as u64 };
            return Err(Error::Corrupt { place, flaw });
        }
        if out.is_empty() {
            return Ok(());
        }
        let mut checksum = [0; 8];
        source
            .seek(SeekFrom::Start(entry.data_offset()))
            .and_then(|_| source.read_exact(out))
            .and_then(|()| source.read_exact(&mut checksum))
            .map_err(|e| Error::read(place, e))?;
        if u64_at(&checksum, 0) == xxh3_64(out) {
            Ok(())
        } else {
            Err(Error::Corrupt { place, flaw: Flaw::DataChecksum })
        }
    }

    fn read_entry(&self, source: &mut (impl Read + Seek), entry: &Entry) -> Result<(Frame, Vec<u8>), Error> {
        let (frame, message) = read_section(source, entry.offset, &self.header)?;
        let mut seen = Entry::of_frame(entry.offset, &frame);
        (seen.owner, seen.id, seen.first, seen.pages) = (entry.owner, entry.id, entry.first, entry.pages);
        if seen == *entry { Ok((frame, message)) } else { Err(message_flaw(entry, &frame, Flaw::Index)) }
    }
}

trait SeekRead: Read + Seek {}
impl<T: Read + Seek> SeekRead for T {}

fn message_flaw(entry: &Entry, frame: &Frame, flaw: Flaw) -> Error {
    let place = Place { offset: entry.offset + FRAME_LEN as u64, section: frame.name };
    Error::Corrupt { place, flaw }
}

/// The frame and message at `offset`, both checked.
fn read_section(source: &mut (impl Read + Seek), offset: u64, header: &Header) -> Result<(Frame, Vec<u8>), Error> {
    let place = Place { offset, section: Name::UNREAD };
    let mut bytes = [0; FRAME_LEN];
    source
        .seek(SeekFrom::Start(offset))
        .and_then(|_| source.read_exact(&mut bytes))
        .map_err(|e| Error::read(place, e))?;
    let frame = Frame::parse(&bytes, offset, header.page_size)?;
    let place = Place { offset: offset + FRAME_LEN as u64, section: frame.name };
    let mut message = Vec::new();
    crate::read::read_message(source, &mut message, frame.message_len, place)?;
    if xxh3_64(&message) != frame.message_checksum {
        return Err(Error::Corrupt { place, flaw: Flaw::MessageChecksum });
    }
    Ok((frame, message))
}
