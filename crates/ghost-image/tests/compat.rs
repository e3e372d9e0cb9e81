//! Ghosts of other times: the first format is read for ever, and a newer one is read or refused by its rule.

mod common;

use common::repair::repair;
use common::{Whole, header, indexed, page, placed, run, slice, small_ghost, stream};
use ghost_image::prost::Message;
use ghost_image::record::{Host, Mm, PageHead, Process};
use ghost_image::section::REQUIRED;
use ghost_image::{Arch, Error, Flaw, Header, ImageReader, ImageWriter, Tag, Unknown, VERSION, Version, verify};

/// Written by the first version of this crate. Never made anew: a reader that no longer takes it is broken.
const FIRST: &[u8] = include_bytes!("fixtures/format-1.0.bin");

#[test]
fn the_first_format_is_read() {
    let found = Header::read(&mut &FIRST[..]).unwrap();
    assert_eq!(found.version, Version { major: 1, minor: 0 });
    assert_eq!((found.arch, found.page_size, found.flags), (Arch::X86_64, 4096, 0));
    assert_eq!((found.created_ns, &*found.kernel), (1_764_064_000_000_000_000, "6.12.57-test"));
    assert_eq!((&found.id, found.parent.as_ref()), (b"0123456789abcdef", Some(b"fedcba9876543210")));
    assert_eq!(found.features, ["clone3-set-tid", "userfaultfd"]);
    assert_eq!(found.missing(&["userfaultfd"]), ["clone3-set-tid"]);

    let all = stream(FIRST, 4096).unwrap();
    assert_eq!(all, slice(FIRST).unwrap());
    assert_eq!(all, placed(FIRST).unwrap());
    assert_eq!(all, indexed(FIRST).unwrap());
    let [
        Whole::Record(Tag::Host, host),
        Whole::Record(Tag::Process, process),
        Whole::Record(Tag::Mm, mm),
        Whole::Pages(zero, nothing),
        Whole::Pages(head, data),
    ] = &all[..]
    else {
        panic!("other sections: {all:?}")
    };
    let host = Host::decode(&host[..]).unwrap();
    assert_eq!((&*host.hostname, host.root_pid, &*host.notes[0].text), ("here", 7, "closed on request"));
    let process = Process::decode(&process[..]).unwrap();
    let thread = &process.threads[0];
    assert_eq!((process.pid, process.mm_id, &*thread.comm, thread.signal_mask), (7, 1, "counter", 512));
    let mm = Mm::decode(&mm[..]).unwrap();
    assert_eq!((mm.id, mm.brk, mm.vmas[0].start, mm.vmas[0].prot), (1, 0x40_8000, 0x40_0000, 3));
    assert_eq!(*zero, PageHead { owner: 0, id: 1, runs: vec![run(0x40_0000, 4, true)], ..PageHead::default() });
    assert!(nothing.is_empty());
    let runs = vec![run(0x40_4000, 1, false), run(0x40_5000, 2, true), run(0x40_7000, 1, false)];
    assert_eq!(*head, PageHead { owner: 0, id: 1, runs, ..PageHead::default() });
    assert_eq!(*data, [page(1), page(2)].concat());

    let counts = verify(FIRST).unwrap();
    assert_eq!((counts.data_pages, counts.zero_pages, counts.skipped), (2, 6, 1));
    assert_eq!(counts.digest, FIRST_DIGEST);
}

const FIRST_DIGEST: u64 = 0x28ef_a4d0_54cd_4aa0;

/// A ghost without pages whose sections are written by `fill`.
fn ghost(fill: impl FnOnce(&mut ImageWriter<Vec<u8>>)) -> Vec<u8> {
    let mut writer = ImageWriter::new(Vec::new(), &header()).unwrap();
    fill(&mut writer);
    writer.finish().unwrap().0
}

fn refusal(ghost: &[u8]) -> Error {
    let error = verify(ghost).unwrap_err();
    assert_eq!(error.to_string(), stream(ghost, 4096).unwrap_err().to_string());
    assert_eq!(error.to_string(), slice(ghost).unwrap_err().to_string());
    assert_eq!(error.to_string(), placed(ghost).unwrap_err().to_string());
    error
}

#[test]
fn an_unknown_optional_section_is_skipped() {
    let bytes = ghost(|writer| {
        writer.foreign(19, "tcp", b"a message", &[&[1; 5000]]).unwrap();
        writer.record(Tag::Host, &Host::default()).unwrap();
    });
    assert_eq!(stream(&bytes, 4096).unwrap(), [Whole::Record(Tag::Host, Vec::new())]);
    assert_eq!(verify(&bytes[..]).unwrap().skipped, 1);
}

#[test]
fn an_unknown_required_section_is_refused_by_name() {
    let bytes = ghost(|writer| {
        writer.foreign(REQUIRED + 19, "tcp", b"a message", &[]).unwrap();
    });
    let error = refusal(&bytes);
    assert!(error.is_unsupported());
    assert!(error.to_string().contains("section 'tcp' (tag 19) is required and unknown to this version"), "{error}");
}

#[test]
fn a_newer_major_version_is_refused_and_a_newer_minor_one_read() {
    let mut newer = small_ghost();
    newer[8..12].copy_from_slice(&[2, 0, 7, 0]);
    repair(&mut newer);
    let error = refusal(&newer);
    let what = Unknown::Version { major: 2, minor: 7, known: VERSION.major };
    assert!(matches!(&error, Error::Unsupported { what: found, .. } if *found == what), "{error}");
    newer[8..12].copy_from_slice(&[1, 0, 7, 0]);
    repair(&mut newer);
    assert_eq!(stream(&newer, 4096).unwrap(), stream(&small_ghost(), 4096).unwrap());
}

/// A later minor version may put more into the header, between the features and the checksum.
#[test]
fn a_longer_header_is_read() {
    let plain = ghost(|writer| writer.record(Tag::Host, &Host::default()).unwrap());
    let len = header().encode().unwrap().len();
    let mut longer = [&plain[..len - 8], &[0xaa; 40], &plain[len - 8..]].concat();
    longer[10..16].copy_from_slice(&[1, 0, (len + 40) as u8, ((len + 40) >> 8) as u8, 0, 0]);
    repair(&mut longer);
    assert_eq!(Header::read(&mut &longer[..]).unwrap().features, header().features);
    assert_eq!(stream(&longer, 4096).unwrap(), [Whole::Record(Tag::Host, Vec::new())]);
    assert_eq!(indexed(&longer).unwrap(), [Whole::Record(Tag::Host, Vec::new())]);
}

#[test]
fn unknown_flags_are_ignored_or_refused_by_their_half() {
    for (flags, refused) in [(1_u32, false), (1 << 15, false), (1 << 16, true), (1 << 31, true)] {
        let section = header().encode().unwrap().len() + 4;
        for at in [20, section] {
            let mut bytes = small_ghost();
            bytes[at..at + 4].copy_from_slice(&flags.to_le_bytes());
            repair(&mut bytes);
            match stream(&bytes, 4096) {
                Ok(_) => assert!(!refused, "flags {flags:#x} at {at}"),
                Err(error) => assert!(refused && error.is_unsupported(), "flags {flags:#x} at {at}: {error}"),
            }
        }
    }
}

/// Sizes above the limits are refused before memory is had for them; the ghost below has 56 bytes of them.
#[test]
fn hostile_sizes_are_refused() {
    let start = header().encode().unwrap().len();
    let with = |range: std::ops::Range<usize>, value: &[u8]| {
        let mut bytes = small_ghost();
        bytes[start + range.start..start + range.end].copy_from_slice(value);
        repair(&mut bytes);
        refusal(&bytes)
    };
    let message = with(24..28, &u32::MAX.to_le_bytes());
    assert!(matches!(message, Error::TooLarge { what: "its message", .. }), "{message}");
    let data = with(32..40, &u64::MAX.to_le_bytes());
    assert!(matches!(data, Error::TooLarge { what: "its data", .. }), "{data}");
    let padding = with(28..32, &4096_u32.to_le_bytes());
    assert!(matches!(padding, Error::Corrupt { flaw: Flaw::PaddingLength { .. }, .. }), "{padding}");
    // Allowed, and not there: torn, whatever it claims.
    let absent = with(24..28, &(64_u32 << 20).to_le_bytes());
    assert!(absent.is_torn(), "{absent}");
}

#[test]
fn a_section_under_a_false_name_is_refused() {
    let start = header().encode().unwrap().len();
    for name in
        [*b"ghost\0\0\0\0\0\0\0\0\0\0\0", *b"host\0x\0\0\0\0\0\0\0\0\0\0", [0; 16], *b"HOST\0\0\0\0\0\0\0\0\0\0\0\0"]
    {
        let mut bytes = small_ghost();
        bytes[start + 8..start + 24].copy_from_slice(&name);
        repair(&mut bytes);
        let error = refusal(&bytes);
        assert!(matches!(error, Error::Corrupt { flaw: Flaw::Name { tag: 1 }, .. }), "{error}");
    }
}

#[test]
fn other_files_are_not_ghosts() {
    for bytes in [&b"\x7fELF\x02\x01\x01\0\0\0\0\0"[..], b"#!/bin/sh\nexec true\n", b"\x89ghost\n\n"] {
        assert!(matches!(ImageReader::open(bytes).err(), Some(Error::NotGhost { .. })), "{bytes:?}");
    }
}

#[test]
fn what_no_reader_would_take_is_not_written() {
    let mut writer = ImageWriter::new(Vec::new(), &header()).unwrap();
    let head = |start, pages| PageHead { owner: 0, id: 1, runs: vec![run(start, pages, false)], ..PageHead::default() };
    let flaw = |result: Result<u64, Error>| match result {
        Err(Error::Unwritable { flaw, .. }) => flaw,
        other => panic!("{other:?}"),
    };
    assert!(matches!(flaw(writer.pages(&head(0x1000, 2), &[&page(1)])), Flaw::DataLength { .. }));
    assert!(matches!(flaw(writer.pages(&head(0x1001, 1), &[&page(1)])), Flaw::Run { .. }));
    assert_eq!(flaw(writer.foreign(Tag::Commit.number(), "commit", &[], &[])), Flaw::Tag);
    assert_eq!(flaw(writer.foreign(300, "Not A Name", &[], &[])), Flaw::Name { tag: 300 });
    assert!(matches!(writer.record(Tag::Index, &Host::default()), Err(Error::Unwritable { flaw: Flaw::Tag, .. })));
    writer.record(Tag::Host, &Host::default()).unwrap();
    let (bytes, _) = writer.finish().unwrap();
    assert_eq!(stream(&bytes, 1).unwrap().len(), 1);
}

/// A destination that fails leaves a torn ghost, which a later commit mark must not bless.
#[test]
fn nothing_is_written_after_a_failed_write() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let n = bytes.len().min(self.0);
            self.0 -= n;
            if n == 0 { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(n) }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let len = header().encode().unwrap().len();
    let mut writer = ImageWriter::new(Full(len + 30), &header()).unwrap();
    assert!(matches!(writer.record(Tag::Host, &Host::default()), Err(Error::Write { .. })));
    writer.get_mut().0 = usize::MAX;
    let again = writer.record(Tag::Host, &Host::default());
    assert!(matches!(again, Err(Error::Unwritable { flaw: Flaw::Broken, .. })));
    assert!(matches!(writer.finish(), Err(Error::Unwritable { flaw: Flaw::Broken, .. })));
}
