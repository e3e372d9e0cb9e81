//! Any bytes as the head of a page section: refused, or runs whose places add up and whose pages come back.
#![no_main]

use ghost_fuzz::common::{Whole, header, placed, slice, stream};
use ghost_image::ImageWriter;
use ghost_image::pages::{check_head, placed_runs};
use ghost_image::prost::Message;
use ghost_image::record::{PageHead, PageRun};
use libfuzzer_sys::fuzz_target;

/// Pages of data that are worth writing in each run of the fuzzer.
const FEW: u64 = 16;

/// Runs that are nearly right: gaps and lengths in place of addresses, so that the fuzzer finds sound heads.
fn shaped(bytes: &[u8]) -> PageHead {
    let mut next = 0_u64;
    let runs = bytes.chunks_exact(4).map(|part| {
        let gap = u64::from(part[0]) << (part[1] & 63);
        let start = next.wrapping_add(gap.wrapping_mul(4096));
        let pages = u64::from(part[2]);
        next = start.wrapping_add(pages.wrapping_mul(4096));
        PageRun { start, pages, zero: part[3] & 1 == 1, huge: part[3] & 2 == 2 }
    });
    PageHead { owner: 0, id: 1, runs: runs.collect(), shares: Vec::new() }
}

fuzz_target!(|data: &[u8]| {
    let head = match data.split_first() {
        Some((&mode, bytes)) if mode & 1 == 1 => shaped(bytes),
        Some((_, bytes)) => match PageHead::decode(bytes) {
            Ok(head) => head,
            Err(_) => return,
        },
        None => return,
    };
    let Ok(len) = check_head(&head, 4096) else {
        let mut writer = ImageWriter::new(Vec::new(), &header()).expect("a header");
        assert!(writer.pages(&head, &[]).is_err());
        return;
    };
    let mut next = 0;
    for placed in placed_runs(&head, 4096) {
        assert_eq!(placed.data_offset, (!placed.run.zero).then_some(next));
        next += if placed.run.zero { 0 } else { placed.run.pages * 4096 };
    }
    assert_eq!(next, len);
    if len > FEW * 4096 {
        return;
    }
    let bytes: Vec<u8> = (0..len).map(|i| (i >> 5) as u8).collect();
    let mut writer = ImageWriter::new(Vec::new(), &header()).expect("a header");
    if writer.pages(&head, &[&bytes]).is_err() {
        return; // more runs than a head may have
    }
    let ghost = writer.finish().expect("a ghost").0;
    let expected = [Whole::Pages(head, bytes)];
    assert_eq!(stream(&ghost, 5000).expect("a sound ghost"), expected);
    assert_eq!(slice(&ghost).expect("a sound ghost"), expected);
    assert_eq!(placed(&ghost).expect("a sound ghost"), expected);
});
