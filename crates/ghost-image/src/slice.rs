//! Reading a ghost that is in memory already, without copying its pages.

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Flaw, Place};
use crate::header::Header;
use crate::read::{Pages, Record, Section};
use crate::section::{FRAME_LEN, Name, Tag, u64_at};
use crate::walk::Walk;

/// Reads a ghost from a slice: a mapped file or a ghost kept in memory. Records and pages are borrowed from it.
pub struct SliceReader<'g> {
    ghost: &'g [u8],
    header: Header,
    walk: Walk,
    deferred: bool,
    skipped: u64,
    failed: bool,
}

/// The data of a page section, where it lies.
#[derive(Clone, Copy, Debug)]
pub struct SliceData<'g> {
    /// The bytes. Checked, unless the reader defers that.
    pub bytes: &'g [u8],
    checksum: u64,
    place: Place,
}

impl SliceData<'_> {
    /// Compares the bytes with their checksum: for readers that defer it, on whichever thread uses the bytes.
    pub fn check(&self) -> Result<(), Error> {
        if self.bytes.is_empty() || xxh3_64(self.bytes) == self.checksum {
            Ok(())
        } else {
            Err(Error::Corrupt { place: self.place, flaw: Flaw::DataChecksum })
        }
    }
}

impl<'g> SliceReader<'g> {
    /// Reads the header.
    pub fn open(ghost: &'g [u8]) -> Result<SliceReader<'g>, Error> {
        let (header, bytes) = Header::read_with_bytes(&mut &*ghost)?;
        let walk = Walk::new(&bytes, header.page_size);
        Ok(SliceReader { ghost, header, walk, deferred: false, skipped: 0, failed: false })
    }

    /// Leaves the checksums of page data to the caller ([`SliceData::check`]), who may compute them in parallel
    /// or while copying. All else is checked as ever.
    pub fn defer_data_checks(mut self) -> SliceReader<'g> {
        self.deferred = true;
        self
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where the next section begins; after the commit mark, the length of the ghost.
    pub fn offset(&self) -> u64 {
        self.walk.offset
    }

    /// How many optional sections were skipped because this version does not know them.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next record or page section; `None` after the commit mark, when the ghost has proven whole.
    #[allow(clippy::should_implement_trait)] // fallible, and shaped as that of `ImageReader`
    pub fn next(&mut self) -> Result<Option<Section<'g, SliceData<'g>>>, Error> {
        if self.failed {
            return Err(self.walk.failed_before());
        }
        let result = self.step();
        self.failed = result.is_err();
        result
    }

    fn step(&mut self) -> Result<Option<Section<'g, SliceData<'g>>>, Error> {
        while !self.walk.committed() {
            let offset = self.walk.offset;
            let mut rest = self.ghost.get(offset as usize..).unwrap_or_default();
            let unread = Place { offset, section: Name::UNREAD };
            let mut bytes = [0; FRAME_LEN];
            bytes.copy_from_slice(take(&mut rest, FRAME_LEN as u64, unread)?);
            let frame = self.walk.frame(&bytes)?;
            let mut place = Place { offset: offset + FRAME_LEN as u64, section: frame.name };
            let message = take(&mut rest, frame.message_len.into(), place)?;
            let head = self.walk.message(&frame, &bytes, xxh3_64(message), message)?;
            let record = Record { tag: frame.tag().unwrap_or(Tag::Commit), bytes: message, offset: place.offset };
            place.offset += u64::from(frame.message_len);
            if take(&mut rest, frame.padding_len.into(), place)?.iter().any(|&b| b != 0) {
                return Err(Error::Corrupt { place, flaw: Flaw::Padding });
            }
            place.offset += u64::from(frame.padding_len);
            let mut data = SliceData { bytes: take(&mut rest, frame.data_len, place)?, checksum: 0, place };
            if frame.data_len != 0 {
                place.offset += frame.data_len;
                data.checksum = u64_at(take(&mut rest, 8, place)?, 0);
                self.walk.data_checksum(data.checksum);
                if !(self.deferred && frame.tag() == Some(Tag::Pages)) {
                    data.check()?;
                }
            }
            match (frame.tag(), head) {
                (Some(Tag::Pages), Some(head)) => {
                    let offset = offset + frame.data_start();
                    return Ok(Some(Section::Pages(Pages { head, data, offset })));
                }
                (Some(Tag::Pages | Tag::Index | Tag::Commit), _) => {}
                (Some(_), _) => return Ok(Some(Section::Record(record))),
                (None, _) => self.skipped += 1,
            }
        }
        Ok(None)
    }
}

/// Takes `len` bytes off the front of `rest`.
fn take<'g>(rest: &mut &'g [u8], len: u64, mut place: Place) -> Result<&'g [u8], Error> {
    let Some((front, back)) = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len)) else {
        place.offset += rest.len() as u64;
        return Err(Error::Torn { place });
    };
    *rest = back;
    Ok(front)
}
