//! Reading a ghost that can be read at any offset, without touching the data of its pages.
//!
//! Frames, messages and checksums are read in order and checked as in a stream; the data of page sections is left where
//! it is, to be read by whoever places it, on whichever thread ([`PlacedData::read`]).

use std::io;

use xxhash_rust::xxh3::xxh3_64;

use crate::bounds::FIRST_ALLOCATION;
use crate::error::{Error, Flaw, Place};
use crate::header::Header;
use crate::pages::DataSum;
use crate::read::{Pages, Record, Section};
use crate::section::{FRAME_LEN, Name, Tag, u64_at};
use crate::walk::Walk;

/// What is read at once around a frame: its message and padding mostly fit.
const WINDOW: usize = 8 << 10;
/// What of the data is read and summed at once, while it is in the cache.
const HOT: usize = 256 << 10;

/// Bytes that can be read at any offset, by several threads at the same time.
pub trait ReadAt: Sync {
    /// Reads some of the bytes from `offset` on; 0 only at the end.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Whether it is better read in order, by one thread: a disk, not memory.
    fn in_order(&self) -> bool {
        false
    }
}

impl ReadAt for &[u8] {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

/// Memory to read into, used again and again.
pub trait Room {
    /// The first `len` bytes of it, whatever is in them; it grows as far as that takes.
    fn room(&mut self, len: usize) -> &mut [u8];
}

impl Room for Vec<u8> {
    fn room(&mut self, len: usize) -> &mut [u8] {
        if self.len() < len {
            self.resize(len, 0);
        }
        &mut self[..len]
    }
}

/// Fills `into`; how many bytes there were if the source ends before.
fn fill(source: &dyn ReadAt, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match source.read_at(&mut into[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// The data of a page section, where it lies.
#[derive(Clone, Copy)]
pub struct PlacedData<'g> {
    source: &'g dyn ReadAt,
    len: u64,
    checksum: u64,
    place: Place,
}

impl PlacedData<'_> {
    /// Bytes of it.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// All pages of the section are zero.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads all of it into the front of `buffer`, which grows as far as that takes, and compares it with its checksum.
    pub fn read<'b>(&self, buffer: &'b mut impl Room) -> Result<&'b [u8], Error> {
        let (into, mut done, mut sum) = (buffer.room(self.len as usize), 0, DataSum::default());
        let at_once = if self.source.in_order() { into.len() } else { HOT };
        while done < into.len() {
            let end = into.len().min(done.saturating_add(at_once));
            let place = Place { offset: self.place.offset + done as u64, ..self.place };
            let part = &mut into[done..end];
            match fill(self.source, part, place.offset) {
                Ok(n) if n == part.len() => {}
                Ok(n) => return Err(Error::Torn { place: Place { offset: place.offset + n as u64, ..place } }),
                Err(source) => return Err(Error::Read { place, source }),
            }
            sum.add(part);
            done = end;
        }
        self.compare(into, sum.value())
    }

    /// Compares data that [`PlacedReader::next_with`] has read to the front of a buffer with its checksum.
    pub fn check<'b>(&self, buffer: &'b [u8]) -> Result<&'b [u8], Error> {
        let bytes = &buffer[..self.len as usize];
        self.compare(bytes, xxh3_64(bytes))
    }

    fn compare<'b>(&self, bytes: &'b [u8], sum: u64) -> Result<&'b [u8], Error> {
        if self.len != 0 && sum != self.checksum {
            return Err(Error::Corrupt { place: self.place, flaw: Flaw::DataChecksum });
        }
        Ok(bytes)
    }
}

impl std::fmt::Debug for PlacedData<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PlacedData({} bytes at {})", self.len, self.place.offset)
    }
}

/// Reads a ghost that lies in a file. The checksums of page data are left to whoever reads them.
pub struct PlacedReader<'g> {
    source: &'g dyn ReadAt,
    header: Header,
    walk: Walk,
    /// Bytes of the source, and where they begin in it.
    window: Vec<u8>,
    window_at: u64,
    skipped: u64,
    failed: bool,
}

/// A message is in the window at this place.
struct Found {
    tag: Tag,
    message: std::ops::Range<usize>,
    offset: u64,
}

impl<'g> PlacedReader<'g> {
    /// Reads the header.
    pub fn open(source: &'g dyn ReadAt) -> Result<PlacedReader<'g>, Error> {
        let (header, bytes) = Header::read_with_bytes(&mut From { source, at: 0 })?;
        let walk = Walk::new(&bytes, header.page_size);
        Ok(PlacedReader { source, header, walk, window: Vec::new(), window_at: 0, skipped: 0, failed: false })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether the source is to be read in order now.
    pub fn in_order(&self) -> bool {
        self.source.in_order()
    }

    /// Where the next section begins; after the commit mark, the length of the ghost.
    pub fn offset(&self) -> u64 {
        self.walk.offset
    }

    /// How many optional sections were skipped because this version does not know them.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next record or page section; `None` after the commit mark, when the ghost has proven whole but for the data of
    /// its pages.
    #[allow(clippy::should_implement_trait)] // what it returns lends from the reader
    pub fn next(&mut self) -> Result<Option<Section<'_, PlacedData<'g>>>, Error> {
        self.next_with(None)
    }

    /// The same, with data read into the front of `buffer` on the way, not compared with its checksum yet ([`PlacedData::check`]): so
    /// that the source is read in order.
    pub fn next_with(&mut self, buffer: Option<&mut dyn Room>) -> Result<Option<Section<'_, PlacedData<'g>>>, Error> {
        if self.failed {
            return Err(self.walk.failed_before());
        }
        let result = self.step(buffer);
        self.failed = result.is_err();
        Ok(match result? {
            None => None,
            Some(Ok(pages)) => Some(Section::Pages(pages)),
            Some(Err(Found { tag, message, offset })) => {
                Some(Section::Record(Record { tag, bytes: &self.window[message], offset }))
            }
        })
    }

    fn step(
        &mut self,
        mut buffer: Option<&mut dyn Room>,
    ) -> Result<Option<Result<Pages<PlacedData<'g>>, Found>>, Error> {
        while !self.walk.committed() {
            let offset = self.walk.offset;
            let at = self.take(offset, FRAME_LEN as u64, Place { offset, section: Name::UNREAD })?;
            let mut bytes = [0; FRAME_LEN];
            bytes.copy_from_slice(&self.window[at]);
            let frame = self.walk.frame(&bytes)?;
            let mut place = Place { offset: offset + FRAME_LEN as u64, section: frame.name };
            let before = u64::from(frame.message_len) + u64::from(frame.padding_len);
            let both = self.take(place.offset, before, place)?;
            let message = both.start..both.start + frame.message_len as usize;
            let checksum = xxh3_64(&self.window[message.clone()]);
            let head = self.walk.message(&frame, &bytes, checksum, &self.window[message.clone()])?;
            let message_offset = place.offset;
            place.offset += u64::from(frame.message_len);
            if self.window[message.end..both.end].iter().any(|&b| b != 0) {
                return Err(Error::Corrupt { place, flaw: Flaw::Padding });
            }
            place.offset += u64::from(frame.padding_len);
            let mut data = PlacedData { source: self.source, len: frame.data_len, checksum: 0, place };
            if frame.data_len != 0 {
                if let Some(buffer) = &mut buffer {
                    self.fetch(buffer.room(frame.data_len as usize + WINDOW), frame.data_len as usize, place)?;
                }
                place.offset += frame.data_len;
                let trailer = self.take(place.offset, 8, place).map_err(|e| match data.read(&mut Vec::new()) {
                    Err(inside) if e.is_torn() && inside.is_torn() => inside,
                    _ => e,
                })?;
                data.checksum = u64_at(&self.window[trailer], 0);
                self.walk.data_checksum(data.checksum);
            }
            match (frame.tag(), head) {
                (Some(Tag::Pages), Some(head)) => {
                    return Ok(Some(Ok(Pages { head, data, offset: offset + frame.data_start() })));
                }
                (tag, _) => {
                    // Of format 1 only pages have data, which whoever uses it checks.
                    data.read(&mut Vec::new())?;
                    match tag {
                        Some(Tag::Pages | Tag::Index | Tag::Commit) => {}
                        Some(tag) => return Ok(Some(Err(Found { tag, message, offset: message_offset }))),
                        None => self.skipped += 1,
                    }
                }
            }
        }
        Ok(None)
    }

    /// Reads data of this length, and what comes after it into the window: one read for both.
    fn fetch(&mut self, into: &mut [u8], len: usize, place: Place) -> Result<(), Error> {
        let got = fill(self.source, into, place.offset).map_err(|source| Error::Read { place, source })?;
        if got < len {
            return Err(Error::Torn { place: Place { offset: place.offset + got as u64, ..place } });
        }
        self.window.clear();
        self.window.extend_from_slice(&into[len..got]);
        self.window_at = place.offset + len as u64;
        Ok(())
    }

    /// Where in the window these bytes of the ghost are. The window grows only with bytes that there are.
    fn take(&mut self, offset: u64, len: u64, place: Place) -> Result<std::ops::Range<usize>, Error> {
        let len = len as usize;
        let inside = offset.checked_sub(self.window_at).and_then(|at| usize::try_from(at).ok());
        if let Some(at) = inside.filter(|at| at + len <= self.window.len()) {
            return Ok(at..at + len);
        }
        (self.window_at, self.window) = (offset, std::mem::take(&mut self.window));
        self.window.clear();
        while self.window.len() < len {
            let have = self.window.len();
            let more = (len - have).min(have.max(FIRST_ALLOCATION as usize)).max(WINDOW);
            self.window.resize(have + more, 0);
            let at = offset + have as u64;
            let got = fill(self.source, &mut self.window[have..], at)
                .map_err(|source| Error::Read { place: Place { offset: at, ..place }, source })?;
            self.window.truncate(have + got);
            if got < more && self.window.len() < len {
                return Err(Error::Torn { place: Place { offset: at + got as u64, ..place } });
            }
        }
        Ok(0..len)
    }
}

/// A source from one offset on.
struct From<'g> {
    source: &'g dyn ReadAt,
    at: u64,
}

impl io::Read for From<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let done = self.source.read_at(into, self.at)?;
        self.at += done as u64;
        Ok(done)
    }
}
