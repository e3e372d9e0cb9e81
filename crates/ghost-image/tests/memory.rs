//! What a ghost costs to write and to read does not grow with it. One test, so that nothing else in this
//! process takes memory meanwhile.

mod common;

use std::fs;
use std::thread;

use common::repair::repair;
use common::{header, page, run, small_ghost};
use ghost_image::record::PageHead;
use ghost_image::{ImageReader, ImageWriter, verify};

const SECTIONS: u64 = 64;
const SECTION: usize = 4 << 20;
const MIB: u64 = 1 << 20;

/// The most memory this process has had (`VmHWM`, `proc_pid_status(5)`), in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn memory_does_not_grow_with_the_ghost() {
    // A length that is claimed and never comes: 64 MiB of message, 64 MiB of data.
    let start = header().encode().unwrap().len();
    let before = peak();
    for (field, claim) in [(24, 64 * MIB as u32), (32, 64 * MIB as u32)] {
        let mut hostile = small_ghost();
        hostile[start + field..start + field + 4].copy_from_slice(&claim.to_le_bytes());
        repair(&mut hostile);
        let mut reader = ImageReader::open(&hostile[..]).unwrap();
        assert!(reader.next().is_err());
    }
    assert!(peak() - before < 4 * MIB, "a claim cost {} bytes", peak() - before);

    // 256 MiB of pages through a pipe.
    let data: Vec<u8> = page(5).into_iter().cycle().take(SECTION).collect();
    let before = peak();
    let (source, destination) = std::io::pipe().unwrap();
    let writer = thread::spawn(move || {
        let mut writer = ImageWriter::new(destination, &header()).unwrap();
        for i in 0..SECTIONS {
            let runs = vec![run(i * SECTION as u64, SECTION as u64 / 4096, false)];
            writer.pages(&PageHead { owner: 0, id: 1, runs, ..PageHead::default() }, &[&data]).unwrap();
        }
        writer.finish().unwrap().1
    });
    let counts = verify(source).unwrap();
    let written = writer.join().unwrap();
    assert_eq!((counts.bytes, counts.digest), (written.bytes, written.commit.digest));
    assert_eq!(counts.data_pages, SECTIONS * SECTION as u64 / 4096);
    // The kernel counts pages of each thread apart and adds them up late: the peak may even read lower than before.
    let cost = peak().saturating_sub(before);
    assert!(cost < 4 * MIB, "{SECTIONS} sections cost {cost} bytes");
}
