//! What a disk, a network or an enemy does to a ghost: every single-byte flip, every truncation, bytes behind
//! it. Each must be refused by every reader, with an error and without a panic.

mod common;

use common::{indexed, slice, small_ghost, stream};
use ghost_image::{Error, Flaw, verify};

#[test]
fn the_small_ghost_is_sound() {
    let ghost = small_ghost();
    let all = stream(&ghost, 4096).unwrap();
    assert_eq!(all.len(), 5);
    assert_eq!(all, slice(&ghost).unwrap());
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
        for flip in [0x01, 0x80, 0xff] {
            ghost[at] ^= flip;
            for (reader, result) in [
                ("verify", verify(&ghost[..]).map(drop)),
                ("stream", stream(&ghost, 4096).map(drop)),
                ("slice", slice(&ghost).map(drop)),
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
    let index = ghost_image::Index::read_from(&mut std::io::Cursor::new(&ghost)).unwrap();
    let starts: Vec<usize> = index.entries.iter().map(|entry| entry.offset as usize).collect();
    let (host, process, foreign) = (starts[0], starts[1], starts[2]);
    let without = [&ghost[..host], &ghost[process..]].concat();
    let exchanged = [&ghost[..host], &ghost[process..foreign], &ghost[host..process], &ghost[foreign..]].concat();
    for damaged in [without, exchanged] {
        for result in [stream(&damaged, 4096), slice(&damaged), verify(&damaged[..]).map(|_| Vec::new())] {
            assert!(matches!(result, Err(Error::Corrupt { .. })), "{result:?}");
        }
    }
}
