//! Reading a ghost: from a stream as it comes, or from memory that holds it whole, without a copy.

use crate::error::{Cause, KindError};
use crate::model::Model;
use ghost_image::record as rec;
use ghost_image::{Header, ImageReader, ImageWriter, Section, SliceData, SliceReader};
use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::sync::{Mutex, mpsc};

/// Threads that place pages at most: more of them only wait for each other and for memory.
const MAX_WORKERS: usize = 8;
/// Bytes from which on threads are made.
const WORTH_THREADS: u64 = 2 << 20;

/// A ghost being read.
pub struct Intake<'g> {
    source: Source<'g>,
    buffer: Vec<u8>,
    /// The first page section, met while the records were read.
    ahead: Option<rec::PageHead>,
    spooled: VecDeque<(rec::PageHead, Cow<'g, [u8]>)>,
    ended: bool,
    /// Of a ghost that is in memory.
    len_bytes: u64,
}

enum Source<'g> {
    Stream(Box<ImageReader<Box<dyn Read + Send + 'g>>>),
    /// Its page data is not checked by the reader: whoever uses it does. The first of it was met while the records were read.
    Whole(Box<SliceReader<'g>>, Option<SliceData<'g>>),
    /// Read to its end and let go, so that a peer who waits for that learns of it.
    Spent(Box<Header>),
}

impl<'g> Intake<'g> {
    /// Reads the header of a ghost that comes as a stream.
    pub fn stream(source: Box<dyn Read + Send + 'g>) -> Result<Self, KindError> {
        Ok(Self::new(Source::Stream(Box::new(ImageReader::open(source).map_err(reading)?))))
    }
    /// Reads the header of a ghost that is in memory.
    pub fn whole(ghost: &'g [u8]) -> Result<Self, KindError> {
        let reader = SliceReader::open(ghost).map_err(reading)?.defer_data_checks();
        Ok(Self { len_bytes: ghost.len() as u64, ..Self::new(Source::Whole(Box::new(reader), None)) })
    }
    fn new(source: Source<'g>) -> Self {
        Self { source, buffer: Vec::new(), ahead: None, spooled: VecDeque::new(), ended: false, len_bytes: 0 }
    }

    /// The header.
    pub fn header(&self) -> &Header {
        match &self.source {
            Source::Stream(reader) => reader.header(),
            Source::Whole(reader, _) => reader.header(),
            Source::Spent(header) => header,
        }
    }

    /// Reads all records, which stand before the pages.
    pub fn records(&mut self) -> Result<Model, KindError> {
        let mut model = Model::default();
        loop {
            match &mut self.source {
                Source::Stream(reader) => match reader.next().map_err(reading)? {
                    Some(Section::Record(record)) => model.take(record.tag, &record).map_err(reading)?,
                    Some(Section::Pages(mut pages)) => {
                        self.buffer.resize(pages.data.len() as usize, 0);
                        pages.data.read_into(&mut self.buffer).map_err(reading)?;
                        self.ahead = Some(pages.head);
                        break;
                    }
                    None => {
                        self.ended = true;
                        break;
                    }
                },
                Source::Whole(reader, data) => match reader.next().map_err(reading)? {
                    Some(Section::Record(record)) => model.take(record.tag, &record).map_err(reading)?,
                    Some(Section::Pages(pages)) => {
                        self.ahead = Some(pages.head);
                        *data = Some(pages.data);
                        break;
                    }
                    None => {
                        self.ended = true;
                        break;
                    }
                },
                Source::Spent(_) => break,
            }
        }
        Ok(model)
    }

    /// Calls `place` for every page section to the end. Only when this returns is the ghost known to be whole.
    pub fn pages(
        &mut self,
        mut place: impl FnMut(&rec::PageHead, &[u8]) -> Result<(), KindError>,
    ) -> Result<(), KindError> {
        while let Some((head, bytes)) = self.spooled.pop_front() {
            place(&head, &bytes)?;
        }
        if let Some(head) = self.ahead.take() {
            match &self.source {
                Source::Stream(_) => place(&head, &self.buffer)?,
                Source::Whole(_, data) => place(&head, checked(data.as_ref())?)?,
                Source::Spent(_) => {}
            }
        }
        while !self.ended {
            match &mut self.source {
                Source::Stream(reader) => match reader.next().map_err(reading)? {
                    Some(Section::Pages(mut pages)) => {
                        self.buffer.resize(pages.data.len() as usize, 0);
                        pages.data.read_into(&mut self.buffer).map_err(reading)?;
                        place(&pages.head, &self.buffer)?;
                    }
                    Some(Section::Record(record)) => return Err(late(record.tag.name())),
                    None => self.ended = true,
                },
                Source::Whole(reader, _) => match reader.next().map_err(reading)? {
                    Some(Section::Pages(pages)) => place(&pages.head, checked(Some(&pages.data))?)?,
                    Some(Section::Record(record)) => return Err(late(record.tag.name())),
                    None => self.ended = true,
                },
                Source::Spent(_) => self.ended = true,
            }
        }
        Ok(())
    }

    /// The same on several threads at once where the ghost is in memory; no two sections with pages in common meet.
    pub fn pages_at_once(
        &mut self,
        place: impl Fn(&rec::PageHead, &[u8]) -> Result<(), KindError> + Sync,
    ) -> Result<(), KindError> {
        let workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_WORKERS));
        let Source::Whole(reader, ahead) = &mut self.source else { return self.pages(place) };
        if workers == 1 || self.len_bytes - reader.offset() < WORTH_THREADS {
            return self.pages(place);
        }
        let mut next = self.ahead.take().zip(ahead.take());
        while !self.ended {
            let failed = Mutex::new(None);
            let (give, take) = mpsc::sync_channel::<(rec::PageHead, SliceData<'g>)>(2 * workers);
            let take = Mutex::new(take);
            let work = || {
                loop {
                    // The guard ends with the statement: others take the next section while this one is placed.
                    let got = take.lock().expect("no worker panics").recv();
                    let Ok((head, data)) = got else { return };
                    if failed.lock().expect("no worker panics").is_some() {
                        continue;
                    }
                    if let Err(e) = checked(Some(&data)).and_then(|bytes| place(&head, bytes)) {
                        failed.lock().expect("no worker panics").get_or_insert(e);
                    }
                }
            };
            std::thread::scope(|scope| {
                for _ in 0..workers {
                    scope.spawn(work);
                }
                let give = give;
                let mut ends: HashMap<(u32, u32), u64> = HashMap::new();
                while failed.lock().expect("no worker panics").is_none() {
                    let (head, data) = match next.take() {
                        Some(section) => section,
                        None => match reader.next().map_err(reading)? {
                            Some(Section::Pages(pages)) => (pages.head, pages.data),
                            Some(Section::Record(record)) => return Err(late(record.tag.name())),
                            None => {
                                self.ended = true;
                                break;
                            }
                        },
                    };
                    // The runs of a section ascend; those of one owner do in any ghost that was not put together.
                    let first = head.runs.first().map_or(0, |r| r.start);
                    let last = head.runs.last().map_or(0, |r| r.start.saturating_add(r.pages.saturating_mul(4096)));
                    let end = ends.entry((head.owner, head.id)).or_default();
                    if first < *end {
                        next = Some((head, data));
                        break;
                    }
                    *end = last;
                    let _ = give.send((head, data));
                }
                Ok(())
            })?;
            if let Some(e) = failed.into_inner().expect("no worker panics") {
                return Err(e);
            }
        }
        Ok(())
    }

    /// Reads the rest of a stream and keeps the whole ghost, byte for byte as it is defined, in `into`.
    ///
    /// The ghost is written anew from its sections: the copy is as good as the original and is checked like one.
    pub fn keep(&mut self, into: &mut Vec<u8>) -> Result<(), KindError> {
        let mut header = self.header().clone();
        header.parent = None;
        let model = self.records()?;
        let mut out = ImageWriter::new(into, &header).map_err(reading)?;
        model.write(&mut out).map_err(reading)?;
        self.pages(|head, bytes| out.pages(head, &[bytes]).map(drop).map_err(reading))?;
        out.finish().map_err(reading)?;
        Ok(())
    }

    /// Reads and checks the rest now: for a source that will only end once everything has been read, and before something is
    /// given up for this ghost. A stream is kept in memory; of a ghost that is in memory already nothing is copied.
    pub fn spool(&mut self) -> Result<(), KindError> {
        let mut all = VecDeque::new();
        match &mut self.source {
            Source::Stream(_) => self.pages(|head, bytes| {
                all.push_back((head.clone(), Cow::Owned(bytes.to_vec())));
                Ok(())
            })?,
            Source::Whole(reader, data) => {
                all.append(&mut self.spooled);
                if let Some(head) = self.ahead.take() {
                    all.push_back((head, Cow::Borrowed(checked(data.as_ref())?)));
                }
                while !self.ended {
                    match reader.next().map_err(reading)? {
                        Some(Section::Pages(pages)) => {
                            all.push_back((pages.head, Cow::Borrowed(checked(Some(&pages.data))?)));
                        }
                        Some(Section::Record(record)) => return Err(late(record.tag.name())),
                        None => self.ended = true,
                    }
                }
            }
            Source::Spent(_) => return Ok(()),
        }
        self.spooled = all;
        self.source = Source::Spent(Box::new(self.header().clone()));
        Ok(())
    }
}

fn reading(e: ghost_image::Error) -> KindError {
    KindError::new("reading the ghost", e)
}

/// The bytes of a section, once they are known to be those that were written.
fn checked<'g>(data: Option<&SliceData<'g>>) -> Result<&'g [u8], KindError> {
    let Some(data) = data else { return Ok(&[]) };
    data.check().map_err(reading)?;
    Ok(data.bytes)
}

fn late(name: &str) -> KindError {
    KindError::new("reading the ghost", Cause::Conflict(format!("a {name} record stands after the pages")))
}
