//! What a disk, a network or an enemy does to a ghost: every single-byte flip, every truncation, bytes behind
//! it. Each must be refused by every reader, with an error and without a panic.

mod common;

use std::io::{Cursor, Read};

use common::repair::forge;
use common::{header, indexed, page, placed, run, slice, small_ghost, stream};
use ghost_image::record::{Host, PageHead};
use ghost_image::{Error, Flaw, ImageReader, ImageWriter, Index, Section, SliceReader, Tag, verify};

#[test]
fn the_small_ghost_is_sound() {
    let ghost = small_ghost();
    let all = stream(&ghost, 4096).unwrap();
    assert_eq!(all.len(), 5);
    assert_eq!(all, slice(&ghost).unwrap());
    assert_eq!(all, placed(&ghost).unwrap());
    assert_eq!(all, indexed(&ghost).unwrap());
    let counts = verify(&ghost[..]).unwrap();
    assert_eq!((counts.data_pages, counts.zero_pages, counts.skipped), (2, 6, 1));
    assert_eq!(counts.bytes, ghost.len() as u64);
}

#[test]
fn every_flipped_byte_is_refused() {
    let mut ghost = small_ghost();
    let sound = slice(&ghost).unwrap();
    for at in 0..ghost.len() {
        for flip in [0x01, 0x80] {
            ghost[at] ^= flip;
            for (reader, result) in [
                ("verify", verify(&ghost[..]).map(drop)),
                ("stream", stream(&ghost, 4096).map(drop)),
                ("slice", slice(&ghost).map(drop)),
                ("placed", placed(&ghost).map(drop)),
            ] {
                let error = result.expect_err(&format!("{reader} took byte {at} flipped by {flip:#x}"));
                let expected = if at < 8 { "not a ghost" } else { "corrupt ghost" };
                assert!(error.to_string().starts_with(expected), "{reader}, byte {at}: {error}");
            }
            // The index reads no padding and nothing that it skips; what it does read it checks.
            if let Ok(all) = indexed(&ghost) {
                assert_eq!(all, sound, "index, byte {at}");
            }
            ghost[at] ^= flip;
        }
    }
}

#[test]
fn every_truncation_is_torn() {
    let ghost = small_ghost();
    for len in 0..ghost.len() {
        for (reader, result) in [
            ("verify", verify(&ghost[..len]).map(drop)),
            ("stream", stream(&ghost[..len], 1000).map(drop)),
            ("slice", slice(&ghost[..len]).map(drop)),
            ("placed", placed(&ghost[..len]).map(drop)),
            ("index", indexed(&ghost[..len]).map(drop)),
        ] {
            let error = result.expect_err(&format!("{reader} took {len} of {} bytes", ghost.len()));
            assert!(error.is_torn(), "{reader}, {len} bytes: {error}");
            assert!(error.place().is_some_and(|place| place.offset <= len as u64), "{reader}, {len} bytes: {error}");
        }
    }
}

#[test]
fn bytes_behind_the_commit_mark_are_refused() {
    let mut ghost = small_ghost();
    ghost.push(0);
    assert!(matches!(verify(&ghost[..]), Err(Error::Corrupt { flaw: Flaw::Trailing, .. })));
    assert!(indexed(&ghost).unwrap_err().is_torn());
}

/// A section cut out cleanly, or two exchanged, leaves every checksum of a section intact.
#[test]
fn missing_and_exchanged_sections_are_refused() {
    let ghost = small_ghost();
    let index = Index::read_from(&mut Cursor::new(&ghost)).unwrap();
    let starts: Vec<usize> = index.entries.iter().map(|entry| entry.offset as usize).collect();
    let (host, process, foreign) = (starts[0], starts[1], starts[2]);
    let without = [&ghost[..host], &ghost[process..]].concat();
    let exchanged = [&ghost[..host], &ghost[process..foreign], &ghost[host..process], &ghost[foreign..]].concat();
    for damaged in [without, exchanged] {
        for result in
            [stream(&damaged, 4096), slice(&damaged), placed(&damaged), verify(&damaged[..]).map(|_| Vec::new())]
        {
            assert!(matches!(result, Err(Error::Corrupt { .. })), "{result:?}");
        }
    }
}

/// Only the digest of the commit mark ties a header and the data of pages to the rest.
#[test]
fn parts_of_another_ghost_are_refused() {
    let with = |id: u8, seed: u8| {
        let mut header = header();
        header.id = [id; 16];
        let mut writer = ImageWriter::new(Vec::new(), &header).unwrap();
        let head = PageHead { owner: 0, id: 1, runs: vec![run(0x1000, 1, false)], ..PageHead::default() };
        let at = writer.pages(&head, &[&page(seed)]).unwrap() as usize;
        (writer.finish().unwrap().0, at)
    };
    let ((one, at), (other, _)) = (with(1, 1), with(2, 2));
    let len = header().encode().unwrap().len();
    let header = [&other[..len], &one[len..]].concat();
    let data = [&one[..at], &other[at..at + 4096 + 8], &one[at + 4096 + 8..]].concat();
    for mixed in [header, data] {
        for result in [stream(&mixed, 4096), slice(&mixed), placed(&mixed), verify(&mixed[..]).map(|_| Vec::new())] {
            assert!(matches!(result, Err(Error::Corrupt { flaw: Flaw::Commit, .. })), "{result:?}");
        }
    }
}

/// An index that lies would lead `inspect` and a lazy restart elsewhere than a restart that reads all.
#[test]
fn an_index_that_lies_is_refused() {
    let sound = small_ghost();
    let index = Index::read_from(&mut Cursor::new(&sound)).unwrap();
    let first = index.commit.index_offset as usize + 56;
    for at in first..first + index.entries.len() * 56 {
        let mut ghost = sound.clone();
        ghost[at] ^= 1;
        forge(&mut ghost, false);
        for result in [stream(&ghost, 4096), slice(&ghost), placed(&ghost), verify(&ghost[..]).map(|_| Vec::new())] {
            assert!(matches!(result, Err(Error::Corrupt { flaw: Flaw::Index, .. })), "byte {at}: {result:?}");
        }
    }
    let mut ghost = sound.clone();
    forge(&mut ghost, false);
    assert!(ghost == sound, "what the repair computes is what the writer wrote");
}

/// The small ghost with its last byte of page data changed: 8 bytes of checksum lie between it and the index.
fn with_damaged_data() -> Vec<u8> {
    let mut ghost = small_ghost();
    let index = Index::read_from(&mut Cursor::new(&ghost)).unwrap();
    let at = index.commit.index_offset as usize - 9;
    ghost[at] ^= 0x10;
    ghost
}

#[test]
fn a_deferred_check_is_still_a_check() {
    let ghost = with_damaged_data();
    let mut reader = SliceReader::open(&ghost).unwrap().defer_data_checks();
    let mut outcomes = Vec::new();
    while let Some(section) = reader.next().unwrap() {
        if let Section::Pages(pages) = section {
            outcomes.push(pages.data.check().map_err(|error| error.to_string()));
        }
    }
    let [Ok(()), Err(error)] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert!(error.contains("'pages'") && error.contains("the data's checksum does not match"), "{error}");
}

/// All bytes but the last of damaged data may be had; the last never is, and nothing after it.
#[test]
fn damaged_data_is_never_handed_out_whole() {
    let ghost = with_damaged_data();
    let mut reader = ImageReader::open(&ghost[..]).unwrap();
    loop {
        match reader.next().unwrap() {
            Some(Section::Pages(mut pages)) if !pages.data.is_empty() => {
                let len = pages.data.len() as usize;
                pages.data.read_exact(&mut vec![0; len - 1]).unwrap();
                let error = pages.data.read(&mut [0; 10]).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
                break;
            }
            Some(_) => {}
            None => panic!("the ghost has pages"),
        }
    }
    assert!(matches!(reader.next(), Err(Error::Corrupt { flaw: Flaw::Broken, .. })));
}

#[test]
fn the_index_finds_damage_where_it_reads() {
    let ghost = with_damaged_data();
    let mut source = Cursor::new(&ghost);
    let index = Index::read_from(&mut source).unwrap();
    let entry = *index.of(Tag::Pages).last().unwrap();
    assert_eq!(entry.data_offset() % 4096, 0);
    assert_eq!(index.page_head(&mut source, &entry).unwrap().runs.len(), 3);
    let mut data = vec![0; entry.data_len as usize];
    let error = index.data(&mut source, &entry, &mut data).unwrap_err();
    assert!(matches!(error, Error::Corrupt { flaw: Flaw::DataChecksum, .. }), "{error}");
    let host: Host = index.record(&mut source, index.of(Tag::Host).next().unwrap()).unwrap();
    assert_eq!(host.root_pid, 7);
}
