//! Reading a ghost: from a stream as it comes, or from memory that holds it whole, without a copy.

use crate::error::{Cause, KindError};
use crate::model::Model;
use ghost_image::record as rec;
use ghost_image::{Header, ImageReader, ImageWriter, Section, SliceReader};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::Read;

/// A ghost being read.
pub struct Intake<'g> {
    source: Source<'g>,
    buffer: Vec<u8>,
    /// The first page section, met while the records were read.
    ahead: Option<rec::PageHead>,
    spooled: VecDeque<(rec::PageHead, Cow<'g, [u8]>)>,
    ended: bool,
}

enum Source<'g> {
    Stream(Box<ImageReader<Box<dyn Read + Send + 'g>>>),
    Whole(Box<SliceReader<'g>>, &'g [u8]),
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
        Ok(Self::new(Source::Whole(Box::new(SliceReader::open(ghost).map_err(reading)?), &[])))
    }
    fn new(source: Source<'g>) -> Self {
        Self { source, buffer: Vec::new(), ahead: None, spooled: VecDeque::new(), ended: false }
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
                        *data = pages.data.bytes;
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
                Source::Whole(_, data) => place(&head, data)?,
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
                    Some(Section::Pages(pages)) => place(&pages.head, pages.data.bytes)?,
                    Some(Section::Record(record)) => return Err(late(record.tag.name())),
                    None => self.ended = true,
                },
                Source::Spent(_) => self.ended = true,
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
                    all.push_back((head, Cow::Borrowed(*data)));
                }
                while !self.ended {
                    match reader.next().map_err(reading)? {
                        Some(Section::Pages(pages)) => all.push_back((pages.head, Cow::Borrowed(pages.data.bytes))),
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

fn late(name: &str) -> KindError {
    KindError::new("reading the ghost", Cause::Conflict(format!("a {name} record stands after the pages")))
}
