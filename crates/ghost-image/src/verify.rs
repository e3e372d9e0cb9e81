//! Checking every byte of a ghost.

use std::collections::BTreeMap;
use std::io::{self, Read};

use crate::error::{Error, Flaw, Place};
use crate::header::Header;
use crate::read::{ImageReader, Record, Section};
use crate::record::{Content, FdTable, File, Fs, Host, Mm, Pipe, PosixLocks, Process, SeccompFilter, Shmem, SysvShm};
use crate::section::Tag;

/// What a ghost that was verified holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Its header.
    pub header: Header,
    /// Bytes from header to commit mark.
    pub bytes: u64,
    /// Records by tag.
    pub records: BTreeMap<Tag, u64>,
    /// Page sections.
    pub page_sections: u64,
    /// Pages whose bytes are in the ghost.
    pub data_pages: u64,
    /// Pages known to be zero.
    pub zero_pages: u64,
    /// Optional sections that this version does not know.
    pub skipped: u64,
    /// The ghost's identity, from its commit mark.
    pub digest: u64,
}

/// Reads a whole ghost and checks all there is to check: checksums, order, limits, that every record is of its
/// kind, the index, the commit mark, and that nothing follows it.
pub fn verify(source: impl Read) -> Result<Counts, Error> {
    let mut reader = ImageReader::open(source)?;
    let mut counts = Counts {
        header: reader.header().clone(),
        bytes: 0,
        records: BTreeMap::new(),
        page_sections: 0,
        data_pages: 0,
        zero_pages: 0,
        skipped: 0,
        digest: 0,
    };
    while let Some(section) = reader.next()? {
        match section {
            Section::Record(record) => {
                record.check()?;
                *counts.records.entry(record.tag).or_default() += 1;
            }
            Section::Pages(pages) => {
                counts.page_sections += 1;
                for run in &pages.head.runs {
                    let of = if run.zero { &mut counts.zero_pages } else { &mut counts.data_pages };
                    *of = of.saturating_add(run.pages);
                }
            }
        }
    }
    counts.bytes = reader.offset();
    counts.skipped = reader.skipped();
    counts.digest = reader.digest();
    let place = Place { offset: counts.bytes, section: Tag::Commit.into() };
    loop {
        match reader.get_mut().read(&mut [0]) {
            Ok(0) => return Ok(counts),
            Ok(_) => return Err(Error::Corrupt { place, flaw: Flaw::Trailing }),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Read { place, source }),
        }
    }
}

impl Record<'_> {
    /// Decodes the record as the type its tag names, only to see that it can be.
    pub fn check(&self) -> Result<(), Error> {
        match self.tag {
            Tag::Host => self.decode::<Host>().map(drop),
            Tag::Process => self.decode::<Process>().map(drop),
            Tag::Mm => self.decode::<Mm>().map(drop),
            Tag::Shmem => self.decode::<Shmem>().map(drop),
            Tag::FdTable => self.decode::<FdTable>().map(drop),
            Tag::File => self.decode::<File>().map(drop),
            Tag::Fs => self.decode::<Fs>().map(drop),
            Tag::Pipe => self.decode::<Pipe>().map(drop),
            Tag::Content => self.decode::<Content>().map(drop),
            Tag::PosixLocks => self.decode::<PosixLocks>().map(drop),
            Tag::SeccompFilter => self.decode::<SeccompFilter>().map(drop),
            Tag::SysvShm => self.decode::<SysvShm>().map(drop),
            // The reader has checked these itself.
            Tag::Pages | Tag::Index | Tag::Commit => Ok(()),
        }
    }
}
