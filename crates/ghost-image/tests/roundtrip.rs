//! Whatever is written is read again, the same by every reader, however the bytes are cut on their way.

mod common;

use std::io::{self, IoSlice, Read, Write};

use common::{Whole, encoded, indexed, placed, slice, stream};
use ghost_image::record::{File, Mm, PageHead, PageRun, Path, Pipe, Regular, Vma, file};
use ghost_image::{Arch, Error, Header, ImageReader, ImageWriter, Section, Tag, pages, verify};
use proptest::collection::vec;
use proptest::prelude::*;

/// A pipe that passes on at most `step` bytes at once, in both directions.
struct Narrow<T> {
    inner: T,
    step: usize,
}

impl<T: Write> Write for Narrow<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(&bytes[..bytes.len().min(self.step)])
    }
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        slices.iter().find(|slice| !slice.is_empty()).map_or(Ok(0), |slice| self.write(slice))
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Narrow<T> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let step = out.len().min(self.step);
        self.inner.read(&mut out[..step])
    }
}

/// What one call to the writer is given.
#[derive(Clone, Debug)]
enum Piece {
    Mm(Mm),
    File(File),
    Pipe(Pipe),
    Pages { head: PageHead, seed: u8, cut: usize },
    Foreign(Vec<u8>, Vec<u8>),
}

fn path() -> impl Strategy<Value = Path> {
    (vec(any::<u8>(), 0..40), any::<bool>(), any::<u64>(), any::<u32>()).prop_map(|(path, deleted, inode, mode)| Path {
        path,
        deleted,
        inode,
        mode,
        ..Path::default()
    })
}

fn vma() -> impl Strategy<Value = Vma> {
    (any::<u64>(), any::<u64>(), any::<u32>(), any::<bool>(), vec(any::<u32>(), 0..4), "[a-z]{0,9}").prop_map(
        |(start, end, prot, shared, advice, name)| Vma { start, end, prot, shared, advice, name, ..Vma::default() },
    )
}

/// Ascending runs, from gaps and lengths.
fn runs(page_size: u64) -> impl Strategy<Value = Vec<PageRun>> {
    vec((0..1_u64 << 30, 1..4_u64, any::<bool>(), any::<bool>()), 1..9).prop_map(move |parts| {
        let mut next = 0;
        let mut place = |(gap, pages, zero, huge): (u64, u64, bool, bool)| {
            let start = next + gap * page_size;
            next = start + pages * page_size;
            PageRun { start, pages, zero, huge }
        };
        parts.into_iter().map(&mut place).collect()
    })
}

fn piece(page_size: u64) -> impl Strategy<Value = Piece> {
    prop_oneof![
        (1..9_u32, vec(vma(), 0..6), path()).prop_map(|(id, vmas, exe)| Piece::Mm(Mm {
            id,
            vmas,
            exe: Some(exe),
            ..Mm::default()
        })),
        (any::<u32>(), any::<u64>(), path()).prop_map(|(flags, offset, path)| {
            let regular = Regular { path: Some(path), ..Regular::default() };
            Piece::File(File { id: 1, flags, offset, object: Some(file::Object::Regular(regular)), ..File::default() })
        }),
        vec(vec(any::<u8>(), 0..300), 0..5).prop_map(|packets| Piece::Pipe(Pipe { id: 2, packets, ..Pipe::default() })),
        (any::<u32>(), any::<u32>(), runs(page_size), any::<u8>(), any::<usize>()).prop_map(
            |(owner, id, runs, seed, cut)| {
                // Only the owner of that number has shared runs.
                let owner = if owner == pages::SEVERAL { 0 } else { owner };
                Piece::Pages { head: PageHead { owner, id, runs, ..PageHead::default() }, seed, cut }
            }
        ),
        (vec(any::<u8>(), 0..40), vec(any::<u8>(), 0..9000)).prop_map(|(message, data)| Piece::Foreign(message, data)),
    ]
}

fn any_header() -> impl Strategy<Value = Header> {
    (
        any::<u16>(),
        12..17_u32,
        0..0x1_0000_u32,
        any::<i64>(),
        any::<[u8; 16]>(),
        vec("[a-z0-9-]{1,20}", 0..9),
        "\\PC{0,16}",
    )
        .prop_map(|(arch, shift, flags, created_ns, id, features, kernel)| Header {
            page_size: 1 << shift,
            flags,
            created_ns,
            id,
            features,
            ..Header::new(Arch(arch), kernel)
        })
}

fn ghost() -> impl Strategy<Value = (Header, Vec<Piece>)> {
    any_header().prop_flat_map(|header| {
        let page_size = u64::from(header.page_size);
        (Just(header), vec(piece(page_size), 0..8))
    })
}

fn write(header: &Header, pieces: &[Piece], step: usize) -> Result<(Vec<u8>, Vec<Whole>), Error> {
    let mut writer = ImageWriter::new(Narrow { inner: Vec::new(), step }, header)?;
    let mut expected = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Mm(mm) => {
                writer.record(Tag::Mm, mm)?;
                expected.push(Whole::Record(Tag::Mm, encoded(mm)));
            }
            Piece::File(file) => {
                writer.record(Tag::File, file)?;
                expected.push(Whole::Record(Tag::File, encoded(file)));
            }
            Piece::Pipe(pipe) => {
                writer.record(Tag::Pipe, pipe)?;
                expected.push(Whole::Record(Tag::Pipe, encoded(pipe)));
            }
            Piece::Pages { head, seed, cut } => {
                let len = pages::check_head(head, header.page_size).unwrap() as usize;
                let data: Vec<u8> = (0..len).map(|i| (i >> 4) as u8 ^ seed).collect();
                let (front, back) = data.split_at(cut % (len + 1));
                let offset = if cut % 2 == 0 {
                    writer.pages(head, &[front, &[], back])?
                } else {
                    let placed = writer.place_pages(head, len as u64, pages::data_checksum(&[front, back]))?;
                    let parts = placed.parts(&[front, &[], back]);
                    let before = writer.get_mut().inner.len();
                    assert_eq!(before as u64, placed.offset());
                    for part in parts {
                        writer.get_mut().inner.extend_from_slice(&part);
                    }
                    let after = writer.get_mut().inner.len();
                    assert_eq!(after as u64, writer.offset());
                    (after - len - if len == 0 { 0 } else { 8 }) as u64
                };
                assert!(len == 0 || offset % u64::from(header.page_size) == 0);
                expected.push(Whole::Pages(head.clone(), data));
            }
            Piece::Foreign(message, data) => {
                writer.foreign(77, "from-tomorrow", message, &[data])?;
            }
        }
    }
    let offset = writer.offset();
    let (narrow, written) = writer.finish()?;
    assert!(written.bytes > offset && written.bytes == narrow.inner.len() as u64);
    Ok((narrow.inner, expected))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_is_written_is_read((header, pieces) in ghost(), out in 1..70_000_usize, step in 1..70_000_usize) {
        let (bytes, expected) = write(&header, &pieces, out).unwrap();
        prop_assert_eq!(&Header::read(&mut &bytes[..]).unwrap(), &header);
        prop_assert_eq!(&stream(&bytes, step).unwrap(), &expected);
        prop_assert_eq!(&slice(&bytes).unwrap(), &expected);
        prop_assert_eq!(&placed(&bytes).unwrap(), &expected);
        prop_assert_eq!(&indexed(&bytes).unwrap(), &expected);
        let counts = verify(Narrow { inner: &bytes[..], step }).unwrap();
        prop_assert_eq!(counts.bytes, bytes.len() as u64);
        let foreign = pieces.iter().filter(|piece| matches!(piece, Piece::Foreign(..))).count();
        prop_assert_eq!(counts.skipped, foreign as u64);
    }

    /// Data that nobody asked for is read over, and the rest is read as if it had been.
    #[test]
    fn pages_may_be_left_unread((header, pieces) in ghost(), take in 0..9000_usize) {
        let (bytes, expected) = write(&header, &pieces, usize::MAX).unwrap();
        let mut reader = ImageReader::open(&bytes[..]).unwrap();
        let mut sections = 0;
        while let Some(section) = reader.next().unwrap() {
            if let Section::Pages(mut pages) = section {
                let mut some = vec![0; take.min(pages.data.len() as usize)];
                pages.data.read_exact(&mut some).unwrap();
            }
            sections += 1;
        }
        prop_assert_eq!(sections, expected.len());
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in vec(any::<u8>(), 0..600)) {
        prop_assert!(stream(&bytes, 100).is_err());
        prop_assert!(slice(&bytes).is_err());
        prop_assert!(placed(&bytes).is_err());
        prop_assert!(indexed(&bytes).is_err());
    }

    #[test]
    fn one_checksum_however_the_data_is_cut(data in vec(any::<u8>(), 0..3000), cut in any::<usize>()) {
        let (front, back) = data.split_at(cut % (data.len() + 1));
        prop_assert_eq!(pages::data_checksum(&[&data]), pages::data_checksum(&[front, &[], back]));
    }
}

/// The reader takes nothing that is not the ghost's: traffic behind it on the same connection stays.
#[test]
fn what_follows_the_ghost_is_left_in_the_source() {
    let ghost = common::small_ghost();
    let both = [&ghost[..], b"ACK"].concat();
    let mut reader = ImageReader::open(&both[..]).unwrap();
    while reader.next().unwrap().is_some() {}
    assert_eq!(reader.into_inner(), b"ACK");
}

/// Two ghosts that differ in one bit have different identities, and the writer knows that of its own.
#[test]
fn the_digest_names_the_bytes() {
    let write = |byte: u8| {
        let mut writer = ImageWriter::new(Vec::new(), &common::header()).unwrap();
        let mut page = common::page(3);
        page[4000] ^= byte;
        let head = PageHead { owner: 1, id: 1, runs: vec![common::run(0, 1, false)], ..PageHead::default() };
        writer.pages(&head, &[&page]).unwrap();
        let (bytes, written) = writer.finish().unwrap();
        assert_eq!(verify(&bytes[..]).unwrap().digest, written.commit.digest);
        written.commit.digest
    };
    assert_eq!(write(0), write(0));
    assert_ne!(write(0), write(1));
}
