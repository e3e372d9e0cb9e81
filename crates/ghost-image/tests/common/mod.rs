//! A small ghost with a section of every shape, and ways to read one whole.
#![allow(dead_code)] // each test file uses its part

pub mod repair;

use std::io::Cursor;

use ghost_image::prost::Message;
use ghost_image::record::{Host, Mm, Note, PageHead, PageRun, Process, Thread, Vma};
use ghost_image::{
    Arch, Error, Header, ImageReader, ImageWriter, Index, PlacedReader, Room, Section, SliceReader, Tag,
};

/// A section with all it carries, however it was read.
#[derive(Clone, Debug, PartialEq)]
pub enum Whole {
    Record(Tag, Vec<u8>),
    Pages(PageHead, Vec<u8>),
}

pub fn header() -> Header {
    let mut header = Header::new(Arch::X86_64, "6.12.57-test");
    header.created_ns = 1_764_064_000_000_000_000;
    header.id = *b"0123456789abcdef";
    header.parent = Some(*b"fedcba9876543210");
    header.features = vec!["clone3-set-tid".into(), "userfaultfd".into()];
    header
}

pub fn run(start: u64, pages: u64, zero: bool) -> PageRun {
    PageRun { start, pages, zero, huge: false }
}

/// Two pages of data, a record on both sides, zero runs, an optional section that no version knows.
pub fn small_ghost() -> Vec<u8> {
    let mut writer = ImageWriter::new(Vec::new(), &header()).unwrap();
    let note = Note { pid: 7, kind: "tcp".into(), subject: "fd 3".into(), text: "closed on request".into() };
    let host = Host { hostname: "here".into(), root_pid: 7, notes: vec![note], ..Host::default() };
    writer.record(Tag::Host, &host).unwrap();
    let thread = Thread { tid: 7, comm: "counter".into(), signal_mask: 1 << 9, ..Thread::default() };
    writer.record(Tag::Process, &Process { pid: 7, mm_id: 1, threads: vec![thread], ..Process::default() }).unwrap();
    writer.foreign(200, "from-tomorrow", b"a message of tomorrow", &[]).unwrap();
    let vma = Vma { start: 0x40_0000, end: 0x40_8000, prot: 3, ..Vma::default() };
    writer.record(Tag::Mm, &Mm { id: 1, brk: 0x40_8000, vmas: vec![vma], ..Mm::default() }).unwrap();
    let zero = PageHead { owner: 0, id: 1, runs: vec![run(0x40_0000, 4, true)], ..PageHead::default() };
    writer.pages(&zero, &[]).unwrap();
    let runs = vec![run(0x40_4000, 1, false), run(0x40_5000, 2, true), run(0x40_7000, 1, false)];
    writer
        .pages(
            &PageHead { owner: 0, id: 1, runs, ..PageHead::default() },
            &[&page(1)[..100], &page(1)[100..], &page(2)],
        )
        .unwrap();
    writer.finish().unwrap().0
}

/// A page whose every byte depends on `seed`.
pub fn page(seed: u8) -> Vec<u8> {
    (0..4096_u32).map(|i| (i.wrapping_mul(31) >> 3) as u8 ^ seed).collect()
}

/// Reads by streaming, `step` bytes of data at once; and all of it, to be checked afterwards, which must come to the same.
pub fn stream(ghost: &[u8], step: usize) -> Result<Vec<Whole>, Error> {
    agreed(stream_by(ghost, Some(step)), stream_by(ghost, None))
}

fn stream_by(ghost: &[u8], step: Option<usize>) -> Result<Vec<Whole>, Error> {
    let mut reader = ImageReader::open(ghost)?;
    let mut all = Vec::new();
    while let Some(section) = reader.next()? {
        all.push(match (section, step) {
            (Section::Record(record), _) => Whole::Record(record.tag, record.bytes.to_vec()),
            (Section::Pages(mut pages), Some(step)) => {
                let mut bytes = vec![0; pages.data.len() as usize];
                for part in bytes.chunks_mut(step) {
                    pages.data.read_into(part)?;
                }
                Whole::Pages(pages.head, bytes)
            }
            (Section::Pages(pages), None) => {
                let mut bytes = vec![0xee; 10];
                let unchecked = pages.data.read_unchecked(&mut bytes)?;
                Whole::Pages(pages.head, unchecked.check(&bytes)?.to_vec())
            }
        });
    }
    Ok(all)
}

/// Two ways to read the same: both find the same, or the same sort of damage.
fn agreed(one: Result<Vec<Whole>, Error>, other: Result<Vec<Whole>, Error>) -> Result<Vec<Whole>, Error> {
    match (&one, &other) {
        (Ok(one), Ok(other)) => assert_eq!(one, other),
        (Err(one), Err(other)) => assert_eq!(one.is_torn(), other.is_torn(), "{one}; {other}"),
        _ => panic!("{one:?}; {other:?}"),
    }
    other
}

/// Reads in place.
pub fn slice(ghost: &[u8]) -> Result<Vec<Whole>, Error> {
    let mut reader = SliceReader::open(ghost)?;
    let mut all = Vec::new();
    while let Some(section) = reader.next()? {
        all.push(match section {
            Section::Record(record) => Whole::Record(record.tag, record.bytes.to_vec()),
            Section::Pages(pages) => Whole::Pages(pages.head, pages.data.bytes.to_vec()),
        });
    }
    Ok(all)
}

/// Reads at offsets, the data of pages by itself; and all in order, which must come to the same.
pub fn placed(ghost: &[u8]) -> Result<Vec<Whole>, Error> {
    agreed(placed_by(ghost, false), placed_by(ghost, true))
}

fn placed_by(ghost: &[u8], in_order: bool) -> Result<Vec<Whole>, Error> {
    let mut reader = PlacedReader::open(&ghost)?;
    let mut buffer = vec![0xee; 10];
    let mut all = Vec::new();
    while let Some(section) = reader.next_with(in_order.then_some(&mut buffer as &mut dyn Room))? {
        all.push(match section {
            Section::Record(record) => Whole::Record(record.tag, record.bytes.to_vec()),
            Section::Pages(pages) => {
                let bytes = if in_order { pages.data.check(&buffer)? } else { pages.data.read(&mut buffer)? };
                Whole::Pages(pages.head, bytes.to_vec())
            }
        });
    }
    Ok(all)
}

/// Reads through the index.
pub fn indexed(ghost: &[u8]) -> Result<Vec<Whole>, Error> {
    let mut source = Cursor::new(ghost);
    let index = Index::read_from(&mut source)?;
    let mut all = Vec::new();
    for entry in &index.entries {
        match entry.tag() {
            Some(Tag::Pages) => {
                let head = index.page_head(&mut source, entry)?;
                let mut bytes = vec![0; entry.data_len as usize];
                index.data(&mut source, entry, &mut bytes)?;
                all.push(Whole::Pages(head, bytes));
            }
            Some(tag) => all.push(Whole::Record(tag, index.message(&mut source, entry)?)),
            None => {}
        }
    }
    Ok(all)
}

pub fn encoded(message: &impl Message) -> Vec<u8> {
    message.encode_to_vec()
}
