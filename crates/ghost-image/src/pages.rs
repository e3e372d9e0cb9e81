//! Page runs: which pages a page section holds, and where their bytes are.
//!
//! A run is a stretch of pages of one owner (an address space, shared memory, the content of an inode). A zero
//! run has no bytes in the ghost: the importer leaves those pages as fresh memory is. The bytes of the other
//! runs follow each other in the order of the runs, aligned to pages within the ghost, so that a file can be
//! mapped, spliced or reflinked. Runs of an address space may be pages of further ones, too, at the same addresses.

use prost::Message;
use xxhash_rust::xxh3::Xxh3;

use crate::error::Flaw;
use crate::record::{PageHead, PageRun};

/// Checks that the runs are sane and ascending, and returns how many bytes of data they have.
///
/// Whoever holds a head that passed may add and multiply its numbers without fear of overflow.
pub fn check_head(head: &PageHead, page_size: u32) -> Result<u64, Flaw> {
    let page = u64::from(page_size);
    let (mut data, mut previous_end) = (0_u64, 0_u64);
    if head.runs.is_empty() {
        return Err(Flaw::NoRuns);
    }
    for run in &head.runs {
        let flaw = Flaw::Run { start: run.start, pages: run.pages };
        let end = run.pages.checked_mul(page).and_then(|len| run.start.checked_add(len)).ok_or(flaw.clone())?;
        if run.pages == 0 || run.start % page != 0 || run.start < previous_end {
            return Err(flaw);
        }
        previous_end = end;
        if !run.zero {
            data += end - run.start;
        }
    }
    if head.shares.is_empty() == (head.owner == SEVERAL) {
        return Err(Flaw::Shares { owner: head.owner });
    }
    let mut next = 0;
    for share in &head.shares {
        let flaw = Flaw::Share { first: share.first, count: share.count };
        let end = share.first.checked_add(share.count).ok_or(flaw.clone())?;
        if share.count == 0 || share.first < next || end as usize > head.runs.len() || share.ids.is_empty() {
            return Err(flaw);
        }
        next = end;
    }
    Ok(data)
}

/// `PageHead.owner`: an address space and, of some runs, further ones. A reader that does not know it refuses the pages.
pub const SEVERAL: u32 = 4;

/// A run and the place of its bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlacedRun {
    /// The run.
    pub run: PageRun,
    /// Where its bytes begin, counted from the beginning of the section's data; `None` for a zero run.
    pub data_offset: Option<u64>,
}

/// The runs of a checked head with the places of their bytes.
pub fn placed_runs(head: &PageHead, page_size: u32) -> impl Iterator<Item = PlacedRun> + '_ {
    let mut next = 0;
    head.runs.iter().map(move |&run| {
        let data_offset = (!run.zero).then_some(next);
        if !run.zero {
            next += run.pages * u64::from(page_size);
        }
        PlacedRun { run, data_offset }
    })
}

/// The checksum of a section's data, for those who compute it on another thread than the one that writes.
pub fn data_checksum(data: &[&[u8]]) -> u64 {
    if let [one] = data {
        return xxhash_rust::xxh3::xxh3_64(one);
    }
    let mut hash = Xxh3::new();
    for part in data {
        hash.update(part);
    }
    hash.digest()
}

/// The same, of data that comes in parts.
#[derive(Clone, Default)]
pub struct DataSum(Xxh3);

impl DataSum {
    /// Takes the next part in.
    pub fn add(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    /// The checksum of all parts so far.
    pub fn value(&self) -> u64 {
        self.0.digest()
    }
}

impl std::fmt::Debug for DataSum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DataSum({:016x})", self.value())
    }
}

/// Decodes the message of a page section and checks it against the length of its data.
pub(crate) fn decode_head(message: &[u8], data_len: u64, page_size: u32) -> Result<PageHead, Flaw> {
    let head = PageHead::decode(message).map_err(Flaw::Record)?;
    let expected = check_head(&head, page_size)?;
    if expected == data_len { Ok(head) } else { Err(Flaw::DataLength { found: data_len, expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(runs: &[(u64, u64, bool)]) -> PageHead {
        let runs = runs.iter().map(|&(start, pages, zero)| PageRun { start, pages, zero, huge: false }).collect();
        PageHead { owner: 0, id: 1, runs, ..PageHead::default() }
    }

    #[test]
    fn only_several_have_shares_and_those_of_runs_that_are_there() {
        let share = |first, count, ids: &[u32]| crate::record::PageShare { first, count, ids: ids.to_vec() };
        let check = |owner, shares: &[crate::record::PageShare]| {
            let runs = head(&[(0x1000, 1, false), (0x3000, 1, true), (0x5000, 1, false)]).runs;
            check_head(&PageHead { owner, id: 1, runs, shares: shares.to_vec() }, 4096)
        };
        let of_two = [share(0, 1, &[2]), share(1, 2, &[3, 2])];
        assert_eq!(check(SEVERAL, &of_two), Ok(0x2000));
        assert_eq!(check(0, &of_two), Err(Flaw::Shares { owner: 0 }));
        assert_eq!(check(SEVERAL, &[]), Err(Flaw::Shares { owner: SEVERAL }));
        for bad in [share(0, 0, &[2]), share(0, 1, &[]), share(2, 2, &[2]), share(3, 1, &[2]), share(u32::MAX, 2, &[2])]
        {
            let flaw = Flaw::Share { first: bad.first, count: bad.count };
            assert_eq!(check(SEVERAL, &[bad]), Err(flaw));
        }
        assert_eq!(check(SEVERAL, &[of_two[1].clone(), of_two[0].clone()]), Err(Flaw::Share { first: 0, count: 1 }));
    }

    #[test]
    fn bytes_of_runs_follow_each_other() {
        let head = head(&[(0x1000, 2, false), (0x3000, 9, true), (0x10000, 1, false)]);
        assert_eq!(check_head(&head, 4096), Ok(3 * 4096));
        let places: Vec<_> = placed_runs(&head, 4096).map(|placed| placed.data_offset).collect();
        assert_eq!(places, [Some(0), None, Some(8192)]);
    }

    #[test]
    fn impossible_runs_are_refused() {
        for runs in [
            &[(0x1001, 1, false)][..],
            &[(0x1000, 0, false)],
            &[(0x1000, u64::MAX, false)],
            &[(u64::MAX - 4095, 1, true), (0x1000, 1, true)],
            &[(0x2000, 1, false), (0x1000, 1, false)],
            &[(0x1000, 2, false), (0x2000, 1, false)],
        ] {
            assert!(matches!(check_head(&head(runs), 4096), Err(Flaw::Run { .. })), "{runs:?}");
        }
        assert_eq!(check_head(&head(&[]), 4096), Err(Flaw::NoRuns));
    }
}
