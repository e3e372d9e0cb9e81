//! Reading a ghost, front to back, from anything that gives bytes.
//!
//! Nothing is read beyond what the ghost has shown to be its own, so a ghost can be followed by other traffic
//! on the same connection. The price is two small reads a record: give a `BufReader` where nothing follows.

use std::io::{self, Read};

use prost::Message;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::bounds::FIRST_ALLOCATION;
use crate::error::{Error, Flaw, Place};
use crate::header::Header;
use crate::placed::Room;
use crate::record::PageHead;
use crate::section::{FRAME_LEN, Frame, Name, Tag};
use crate::walk::Walk;

/// Read and hashed in one go, so that the hash finds the bytes in the cache.
const CHUNK: usize = 256 << 10;

/// A section of a ghost: a record, or pages whose bytes are given by `D`.
#[derive(Debug)]
pub enum Section<'m, D> {
    /// A record.
    Record(Record<'m>),
    /// Pages.
    Pages(Pages<D>),
}

/// A record, not decoded yet; its checksum holds.
#[derive(Clone, Copy, Debug)]
pub struct Record<'m> {
    /// What it is.
    pub tag: Tag,
    /// The protobuf message.
    pub bytes: &'m [u8],
    /// Where the message begins in the ghost.
    pub offset: u64,
}

impl Record<'_> {
    /// The record itself; `M` is the type that [`Record::tag`] names.
    pub fn decode<M: Message + Default>(&self) -> Result<M, Error> {
        M::decode(self.bytes).map_err(|e| {
            let place = Place { offset: self.offset, section: self.tag.into() };
            Error::Corrupt { place, flaw: Flaw::Record(e) }
        })
    }
}

/// A page section: what it holds, and its bytes.
#[derive(Debug)]
pub struct Pages<D> {
    /// Whose pages, and which; checked by [`crate::pages::check_head`].
    pub head: PageHead,
    /// The bytes of the runs that are not zero, one run after the other.
    pub data: D,
    /// Where these bytes begin in the ghost.
    pub offset: u64,
}

/// Reads a ghost as it comes.
///
/// ```no_run
/// # use ghost_image::{ImageReader, Section, record};
/// # fn import(source: impl std::io::Read) -> Result<(), ghost_image::Error> {
/// let mut reader = ImageReader::open(source)?;
/// while let Some(section) = reader.next()? {
///     match section {
///         Section::Record(record) => println!("{}: {} bytes", record.tag, record.bytes.len()),
///         Section::Pages(mut pages) => {
///             let mut bytes = vec![0; pages.data.len() as usize];
///             pages.data.read_into(&mut bytes)?;
///         }
///     }
/// }
/// // Only here is it known that the ghost is whole.
/// # Ok(())
/// # }
/// ```
pub struct ImageReader<R> {
    source: R,
    header: Header,
    walk: Walk,
    message: Vec<u8>,
    data: Option<DataState>,
    skipped: u64,
    failed: bool,
}

struct DataState {
    left: u64,
    /// Where the next byte is in the ghost.
    offset: u64,
    section: Name,
    hash: Xxh3,
}

impl<R: Read> ImageReader<R> {
    /// Reads the header.
    pub fn open(mut source: R) -> Result<ImageReader<R>, Error> {
        let (header, bytes) = Header::read_with_bytes(&mut source)?;
        let walk = Walk::new(&bytes, header.page_size);
        Ok(ImageReader { source, header, walk, message: Vec::new(), data: None, skipped: 0, failed: false })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where the next section begins, once the data of the last one has been read.
    pub fn offset(&self) -> u64 {
        self.walk.offset
    }

    /// The digest that the commit mark holds, of what was read so far.
    pub fn digest(&self) -> u64 {
        self.walk.digest()
    }

    /// How many optional sections were skipped because this version does not know them.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The source. Bytes read from it directly are missed by the reader.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.source
    }

    /// The source. Behind a ghost that was read to its commit mark it stands right after it.
    pub fn into_inner(self) -> R {
        self.source
    }

    /// The next record or page section; `None` after the commit mark, when the ghost has proven whole.
    ///
    /// Data of the last page section that was not read is read over, and checked all the same. After an error
    /// the place in the stream is lost: the same kind of failure is given again.
    #[allow(clippy::should_implement_trait)] // what it returns lends from the reader, an iterator's items cannot
    pub fn next(&mut self) -> Result<Option<Section<'_, PageData<'_, R>>>, Error> {
        let result = self.step();
        self.failed = result.is_err();
        let Some(found) = result? else { return Ok(None) };
        Ok(Some(match found {
            Found::Record { tag, offset } => Section::Record(Record { tag, bytes: &self.message, offset }),
            Found::Pages { head, offset } => Section::Pages(Pages { head, data: PageData { reader: self }, offset }),
        }))
    }

    fn step(&mut self) -> Result<Option<Found>, Error> {
        if self.failed {
            return Err(self.walk.failed_before());
        }
        let mut scratch = Vec::new();
        loop {
            self.skip_data(&mut scratch)?;
            if self.walk.committed() {
                return Ok(None);
            }
            let offset = self.walk.offset;
            let mut bytes = [0; FRAME_LEN];
            let unread = Place { offset, section: Name::UNREAD };
            self.source.read_exact(&mut bytes).map_err(|e| Error::read(unread, e))?;
            let frame = self.walk.frame(&bytes)?;
            let message_at = Place { offset: offset + FRAME_LEN as u64, section: frame.name };
            let wanted = !matches!(frame.tag(), None | Some(Tag::Index));
            let checksum = if wanted {
                read_message(&mut self.source, &mut self.message, frame.message_len, message_at)?;
                xxh3_64(&self.message)
            } else {
                self.message.clear();
                self.hash_over(frame.message_len.into(), message_at, &mut scratch)?
            };
            let head = self.walk.message(&frame, &bytes, checksum, &self.message)?;
            self.read_padding(&frame, offset, &mut scratch)?;
            if frame.data_len != 0 {
                let offset = offset + frame.data_start();
                let hash = Xxh3::new();
                self.data = Some(DataState { left: frame.data_len, offset, section: frame.name, hash });
            }
            match (frame.tag(), head) {
                (Some(Tag::Pages), Some(head)) => {
                    return Ok(Some(Found::Pages { head, offset: offset + frame.data_start() }));
                }
                (Some(Tag::Pages | Tag::Index | Tag::Commit), _) => {}
                (Some(tag), _) => return Ok(Some(Found::Record { tag, offset: message_at.offset })),
                (None, _) => self.skipped += 1,
            }
        }
    }

    /// Reads over bytes and returns their hash.
    fn hash_over(&mut self, len: u64, mut place: Place, scratch: &mut Vec<u8>) -> Result<u64, Error> {
        let mut hash = Xxh3::new();
        let mut left = len;
        while left != 0 {
            scratch.resize(CHUNK.min(left as usize), 0);
            self.source.read_exact(scratch).map_err(|e| Error::read(place, e))?;
            hash.update(scratch);
            left -= scratch.len() as u64;
            place.offset += scratch.len() as u64;
        }
        Ok(hash.digest())
    }

    fn read_padding(&mut self, frame: &Frame, offset: u64, scratch: &mut Vec<u8>) -> Result<(), Error> {
        let start = offset + FRAME_LEN as u64 + u64::from(frame.message_len);
        let place = Place { offset: start, section: frame.name };
        scratch.resize(frame.padding_len as usize, 0);
        self.source.read_exact(scratch).map_err(|e| Error::read(place, e))?;
        if scratch.iter().any(|&b| b != 0) {
            return Err(Error::Corrupt { place, flaw: Flaw::Padding });
        }
        Ok(())
    }

    fn skip_data(&mut self, scratch: &mut Vec<u8>) -> Result<(), Error> {
        while let Some(data) = &self.data {
            scratch.resize(CHUNK.min(data.left as usize), 0);
            self.read_data(scratch)?;
        }
        Ok(())
    }

    /// Reads up to `out.len()` bytes of data; the last of them only if the checksum holds. Fails for good.
    fn read_data(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        let Some(data) = &mut self.data else { return Ok(0) };
        let place = Place { offset: data.offset, section: data.section };
        let want = out.len().min(CHUNK).min(usize::try_from(data.left).unwrap_or(CHUNK));
        let n = loop {
            match self.source.read(&mut out[..want]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(Error::read(place, e)),
                Ok(0) if want != 0 => break Err(Error::Torn { place }),
                Ok(n) => break Ok(n),
            }
        };
        let n = n.inspect_err(|_| self.failed = true)?;
        data.hash.update(&out[..n]);
        data.left -= n as u64;
        data.offset += n as u64;
        if data.left == 0 {
            let computed = data.hash.digest();
            let place = Place { offset: data.offset, section: data.section };
            self.data = None;
            self.failed = true;
            let mut stored = [0; 8];
            self.source.read_exact(&mut stored).map_err(|e| Error::read(place, e))?;
            if u64::from_le_bytes(stored) != computed {
                return Err(Error::Corrupt { place, flaw: Flaw::DataChecksum });
            }
            self.walk.data_checksum(computed);
            self.failed = false;
        }
        Ok(n)
    }
}

enum Found {
    Record { tag: Tag, offset: u64 },
    Pages { head: PageHead, offset: u64 },
}

/// The data of a page section, to be read straight to where it is needed.
///
/// The checksum is compared when the last byte arrives: until then bytes are as they came. A reader that
/// must not act on damaged bytes reads all of a section before it does.
pub struct PageData<'r, R> {
    reader: &'r mut ImageReader<R>,
}

impl<R: Read> PageData<'_, R> {
    /// Bytes not read yet.
    pub fn len(&self) -> u64 {
        self.reader.data.as_ref().map_or(0, |data| data.left)
    }

    /// True once all has been read and the checksum has proven right.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `out` with the next bytes.
    pub fn read_into(&mut self, out: &mut [u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < out.len() {
            match self.reader.read_data(&mut out[done..])? {
                0 => {
                    let place = Place { offset: self.reader.walk.offset, section: Tag::Pages.into() };
                    let flaw = Flaw::DataLength { found: done as u64, expected: out.len() as u64 };
                    return Err(Error::Corrupt { place, flaw });
                }
                n => done += n,
            }
        }
        Ok(())
    }
}

impl<R: Read> PageData<'_, R> {
    /// Reads all of the data, of which nothing may have been read yet, into the front of `buffer`. Comparing it with its checksum is
    /// left to the caller, on whichever thread.
    pub fn read_unchecked(self, buffer: &mut impl Room) -> Result<Unchecked, Error> {
        let ImageReader { source, walk, data, failed, .. } = self.reader;
        let Some(mut state) = data.take() else {
            let place = Place { offset: walk.offset, section: Tag::Pages.into() };
            return Ok(Unchecked { len: 0, checksum: 0, place });
        };
        *failed = true;
        let start = Place { offset: state.offset, section: state.section };
        let len = state.left as usize;
        for part in buffer.room(len).chunks_mut(CHUNK) {
            let place = Place { offset: state.offset, section: state.section };
            source.read_exact(part).map_err(|e| Error::read(place, e))?;
            state.offset += part.len() as u64;
        }
        let mut stored = [0; 8];
        let place = Place { offset: state.offset, section: state.section };
        source.read_exact(&mut stored).map_err(|e| Error::read(place, e))?;
        let checksum = u64::from_le_bytes(stored);
        walk.data_checksum(checksum);
        *failed = false;
        Ok(Unchecked { len, checksum, place: start })
    }
}

/// What must be true of data that was read and not compared with its checksum.
#[derive(Clone, Copy, Debug)]
pub struct Unchecked {
    len: usize,
    checksum: u64,
    place: Place,
}

impl Unchecked {
    /// The data at the front of the buffer that it was read into, compared with its checksum.
    pub fn check<'b>(&self, buffer: &'b [u8]) -> Result<&'b [u8], Error> {
        let data = &buffer[..self.len];
        if self.len == 0 || xxh3_64(data) == self.checksum {
            Ok(data)
        } else {
            Err(Error::Corrupt { place: self.place, flaw: Flaw::DataChecksum })
        }
    }
}

impl<R: Read> Read for PageData<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        self.reader.read_data(out).map_err(Error::into_io)
    }
}

impl<R> std::fmt::Debug for PageData<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageData({} bytes left)", self.reader.data.as_ref().map_or(0, |data| data.left))
    }
}

/// Reads a message of a length that was checked, with memory growing as its bytes arrive.
pub(crate) fn read_message(source: &mut impl Read, out: &mut Vec<u8>, len: u32, place: Place) -> Result<(), Error> {
    out.clear();
    out.reserve(u64::from(len).min(FIRST_ALLOCATION) as usize);
    match source.take(len.into()).read_to_end(out) {
        Ok(n) if n as u64 == u64::from(len) => Ok(()),
        Ok(n) => Err(Error::Torn { place: Place { offset: place.offset + n as u64, ..place } }),
        Err(source) => Err(Error::Read { place, source }),
    }
}
