//! Writing a ghost, front to back, into anything that takes bytes.

use std::io::{self, IoSlice, Write};

use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use crate::bounds::{MAX_DATA, MAX_SECTIONS, max_message};
use crate::error::{Error, Flaw, Place};
use crate::header::Header;
use crate::index::{CommitMark, Entry};
use crate::pages::{check_head, data_checksum};
use crate::record::PageHead;
use crate::section::{FRAME_LEN, Frame, Name, REQUIRED, Tag, padding};
use crate::walk::Walk;

/// As many slices as one `writev(2)` takes (`IOV_MAX`).
const MAX_SLICES: usize = 1024;
/// Padding, up to the largest page.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// Writes a ghost; it is one only after [`ImageWriter::finish`].
///
/// Each section goes out in one vectored write where the destination allows it. Memory does not grow with the
/// pages written, but for 56 bytes a section, which become the index.
pub struct ImageWriter<W> {
    destination: W,
    walk: Walk,
    index: Vec<u8>,
    message: Vec<u8>,
    broken: bool,
}

/// What a finished ghost came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes from header to commit mark.
    pub bytes: u64,
    /// The commit mark.
    pub commit: CommitMark,
}

/// Where a section is in the ghost, and what surrounds its message and data.
#[derive(Debug)]
struct SectionPlace {
    offset: u64,
    frame: [u8; FRAME_LEN],
    padding_len: u32,
    data_offset: u64,
    trailer: Option<[u8; 8]>,
}

impl SectionPlace {
    /// All of the section, in order.
    fn parts<'a>(&'a self, message: &'a [u8], data: &[&'a [u8]]) -> Vec<IoSlice<'a>> {
        let mut slices = Vec::with_capacity(data.len() + 4);
        slices.extend([&self.frame[..], message, &ZEROS[..self.padding_len as usize]].map(IoSlice::new));
        slices.extend(data.iter().map(|part| IoSlice::new(part)));
        slices.extend(self.trailer.as_ref().map(|trailer| IoSlice::new(trailer)));
        slices
    }
}

/// A page section that has its place in the ghost and is yet to be written there.
#[derive(Debug)]
pub struct Placed {
    place: SectionPlace,
    message: Vec<u8>,
    data_len: u64,
}

impl Placed {
    /// Where it begins in the ghost.
    pub fn offset(&self) -> u64 {
        self.place.offset
    }

    /// All of its bytes, in order, around those of its data.
    ///
    /// # Panics
    ///
    /// If the data has another length than the place was taken for.
    pub fn parts<'a>(&'a self, data: &[&'a [u8]]) -> Vec<IoSlice<'a>> {
        let found: u64 = data.iter().map(|part| part.len() as u64).sum();
        assert_eq!(found, self.data_len, "the data has the length that its place was taken for");
        self.place.parts(&self.message, data)
    }
}

impl<W: Write> ImageWriter<W> {
    /// Begins a ghost: writes the header.
    pub fn new(mut destination: W, header: &Header) -> Result<ImageWriter<W>, Error> {
        let bytes = header.encode()?;
        let place = Place { offset: 0, section: Name::HEADER };
        destination.write_all(&bytes).map_err(|source| Error::Write { place, source })?;
        let walk = Walk::new(&bytes, header.page_size);
        Ok(ImageWriter { destination, walk, index: Vec::new(), message: Vec::new(), broken: false })
    }

    /// Where the next section will begin.
    pub fn offset(&self) -> u64 {
        self.walk.offset
    }

    /// The destination, to flush it or to ask how it does. Bytes written to it directly ruin the ghost.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.destination
    }

    /// Writes a record.
    pub fn record(&mut self, tag: Tag, record: &impl Message) -> Result<(), Error> {
        if matches!(tag, Tag::Pages | Tag::Index | Tag::Commit) {
            return Err(self.unwritable(tag.into(), Flaw::Tag));
        }
        let message = self.encode(tag, record)?;
        let result = self.section(tag.number() | REQUIRED, tag.into(), &message, &[], None);
        self.message = message;
        result.map(drop)
    }

    /// Writes pages: what `head` says, and the bytes of its runs that are not zero, in one or several slices.
    ///
    /// The slices may be cut anywhere; together they have the bytes of the runs in their order. Returns where
    /// these bytes begin in the ghost, which is at a page. Up to [`crate::bounds::PAGE_SECTION`] bytes at once
    /// are good; more than [`MAX_DATA`] are refused.
    pub fn pages(&mut self, head: &PageHead, data: &[&[u8]]) -> Result<u64, Error> {
        self.pages_with_checksum(head, data, None)
    }

    /// The same with the checksum of the data, computed elsewhere by [`data_checksum`].
    pub fn pages_with_checksum(
        &mut self,
        head: &PageHead,
        data: &[&[u8]],
        checksum: Option<u64>,
    ) -> Result<u64, Error> {
        let message = self.page_head(head, data.iter().map(|part| part.len() as u64).sum())?;
        let result = self.section(Tag::Pages.number() | REQUIRED, Tag::Pages.into(), &message, data, checksum);
        self.message = message;
        result
    }

    /// Gives a page section its place in the ghost and leaves the writing to the caller: for destinations that can be
    /// written at several places at once. `data_len` and `checksum` ([`data_checksum`]) are those of its data.
    ///
    /// The ghost is only one if the caller writes [`Placed::parts`] at [`Placed::offset`] of the destination, and
    /// moves the destination to [`ImageWriter::offset`] before anything is written by this writer again.
    pub fn place_pages(&mut self, head: &PageHead, data_len: u64, checksum: u64) -> Result<Placed, Error> {
        let message = self.page_head(head, data_len)?;
        let checksum = (data_len != 0).then_some(checksum);
        let result = self.place(Tag::Pages.number() | REQUIRED, Tag::Pages.into(), &message, data_len, checksum);
        Ok(Placed { place: result?, message, data_len })
    }

    /// The message of a page section whose data has this length.
    fn page_head(&mut self, head: &PageHead, data_len: u64) -> Result<Vec<u8>, Error> {
        let name = Name::from(Tag::Pages);
        let expected = check_head(head, self.walk.page_size).map_err(|flaw| self.unwritable(name, flaw))?;
        if data_len != expected {
            return Err(self.unwritable(name, Flaw::DataLength { found: data_len, expected }));
        }
        self.encode(Tag::Pages, head)
    }

    /// Writes a section this crate has no tag for: `word` is its number, with [`REQUIRED`] if a reader that
    /// does not know it must not go on. Returns where its data begins.
    pub fn foreign(&mut self, word: u32, name: &str, message: &[u8], data: &[&[u8]]) -> Result<u64, Error> {
        let tag = word & !REQUIRED;
        let name = Name::new(name).ok_or_else(|| self.unwritable(Name::UNREAD, Flaw::Name { tag }))?;
        if Tag::from_number(tag).is_some() {
            return Err(self.unwritable(name, Flaw::Tag));
        }
        self.section(word, name, message, data, None)
    }

    /// Writes index and commit mark, flushes, and gives the destination back.
    pub fn finish(mut self) -> Result<(W, Written), Error> {
        let index = std::mem::take(&mut self.index);
        self.section(Tag::Index.number() | REQUIRED, Tag::Index.into(), &index, &[], None)?;
        let name = Name::from(Tag::Commit);
        let commit = self.walk.commit_mark().ok_or_else(|| self.unwritable(name, Flaw::Order))?;
        self.section(Tag::Commit.number() | REQUIRED, name, &commit.encode(), &[], None)?;
        let place = Place { offset: self.walk.offset, section: name };
        self.destination.flush().map_err(|source| Error::Write { place, source })?;
        Ok((self.destination, Written { bytes: self.walk.offset, commit }))
    }

    fn encode(&mut self, tag: Tag, record: &impl Message) -> Result<Vec<u8>, Error> {
        let (value, limit) = (record.encoded_len() as u64, max_message(Some(tag)));
        if value > limit {
            return Err(self.too_large(tag.into(), "its message", value, limit));
        }
        let mut message = std::mem::take(&mut self.message);
        message.clear();
        message.reserve(value as usize);
        // A Vec takes every byte, so encoding into it does not fail.
        let _ = record.encode(&mut message);
        Ok(message)
    }

    fn section(
        &mut self,
        word: u32,
        name: Name,
        message: &[u8],
        data: &[&[u8]],
        checksum: Option<u64>,
    ) -> Result<u64, Error> {
        let data_len = data.iter().map(|part| part.len() as u64).sum();
        let checksum = (data_len != 0).then(|| checksum.unwrap_or_else(|| data_checksum(data)));
        let section = self.place(word, name, message, data_len, checksum)?;
        let mut slices = section.parts(message, data);
        self.broken = true;
        let place = Place { offset: section.offset, section: name };
        write_all(&mut self.destination, &mut slices).map_err(|source| Error::Write { place, source })?;
        self.broken = false;
        Ok(section.data_offset)
    }

    /// Takes a section into the ghost: all but the writing. Data has a checksum, and only data.
    fn place(
        &mut self,
        word: u32,
        name: Name,
        message: &[u8],
        data_len: u64,
        checksum: Option<u64>,
    ) -> Result<SectionPlace, Error> {
        if self.broken {
            return Err(self.unwritable(name, Flaw::Broken));
        }
        let tag = Tag::from_number(word & !REQUIRED);
        let ours = matches!(tag, Some(Tag::Index | Tag::Commit));
        if data_len > MAX_DATA {
            return Err(self.too_large(name, "its data", data_len, MAX_DATA));
        }
        if message.len() as u64 > max_message(tag) {
            return Err(self.too_large(name, "its message", message.len() as u64, max_message(tag)));
        }
        if !ours && self.walk.sections == MAX_SECTIONS {
            return Err(self.too_large(name, "the number of sections", MAX_SECTIONS + 1, MAX_SECTIONS));
        }
        let offset = self.walk.offset;
        let message_len = message.len() as u32;
        let padding_len = padding(offset, message_len, data_len, self.walk.page_size);
        let message_checksum = xxh3_64(message);
        let frame = Frame { word, flags: 0, name, message_len, padding_len, data_len, message_checksum };
        let frame_bytes = frame.encode();
        let head = self.walk.message(&frame, &frame_bytes, message_checksum, message)?;
        if let Some(checksum) = checksum {
            self.walk.data_checksum(checksum);
        }
        if !ours {
            let mut entry = Entry::of_frame(offset, &frame);
            if let Some(head) = &head {
                entry.set_pages(head);
            }
            self.index.extend_from_slice(&entry.encode());
        }
        let trailer = checksum.map(u64::to_le_bytes);
        let data_offset = offset + frame.data_start();
        Ok(SectionPlace { offset, frame: frame_bytes, padding_len, data_offset, trailer })
    }

    fn unwritable(&self, section: Name, flaw: Flaw) -> Error {
        Error::Unwritable { place: Place { offset: self.walk.offset, section }, flaw }
    }

    fn too_large(&self, section: Name, what: &'static str, value: u64, limit: u64) -> Error {
        Error::TooLarge { place: Place { offset: self.walk.offset, section }, what, value, limit }
    }
}

/// Writes every byte of every slice, as few calls as the destination allows.
fn write_all(destination: &mut impl Write, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0); // steps over empty ones in front
    while !slices.is_empty() {
        let some = slices.len().min(MAX_SLICES);
        match destination.write_vectored(&slices[..some]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut slices, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
