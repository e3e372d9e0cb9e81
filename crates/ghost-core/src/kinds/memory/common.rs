//! Pages that several address spaces of a tree have in common: since a fork nobody has written to them.
//!
//! The kernel shows by the frame of a page (`/proc/PID/pagemap`; CAP_SYS_ADMIN) who has the same one at the same address. Such a page is
//! read and written once, for all of them. While all are frozen nobody writes; only the kernel may move a page to another frame, for
//! all who have it, and give the old frame to somebody else. So everybody is looked at twice: for two pages to look like one, each would have to
//! have come into and out of the other's frame in turn, between the looks. Where anything has moved nothing is taken for common.

use super::pages::{self, PAGE};
use crate::abreast;
use ghost_sys::pagemap::PageMap;
use ghost_sys::proc::ProcDir;
use std::collections::HashMap;

/// One address space.
pub struct Space<'a> {
    /// Its id in the records.
    pub id: u32,
    /// /proc/PID of a process that has it.
    pub dir: &'a ProcDir,
    /// What is to be copied: (first address, bytes), ascending.
    pub runs: &'a [(u64, u64)],
    /// Where others may have some of it: (first address, end), ascending. Each run is all in it, or not at all.
    pub common: &'a [(u64, u64)],
}

impl Space<'_> {
    /// The runs that others may have.
    fn candidates(&self) -> impl Iterator<Item = (u64, u64)> {
        self.runs.iter().copied().filter(|run| pages::has(self.common, run.0))
    }
}

/// What is to be copied of one address space when common pages are copied with the first that has them.
#[derive(Debug, Default)]
pub struct Share {
    /// (first address, bytes), ascending.
    pub runs: Vec<(u64, u64)>,
    /// Which of those are pages of others, too.
    pub also: Vec<Also>,
}

/// A stretch of pages, and who else has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Also {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Ids of the other address spaces, ascending.
    pub ids: Vec<u32>,
}

/// Pages that are compared at most: it bounds ghost's memory, and what the head of a section may have to say.
const MOST: u64 = 1 << 18;
/// Pages between two runs that are rather read along than by another call.
const GAP: u64 = 64;
/// Words read at once.
const WORDS: u64 = 8192;

const PRESENT: u64 = 1 << 63;
/// Swapped out, of a file, or of nobody else.
const APART: u64 = 1 << 62 | 1 << 61 | 1 << 56;
const FRAME: u64 = (1 << 55) - 1;

/// Finds what the address spaces have in common. None: nothing, or it can't be told.
pub fn find(spaces: &[Space<'_>]) -> Option<Vec<Share>> {
    let mut left = MOST;
    let compared = spaces.iter().map(|space| {
        let pages = space.candidates().map(|r| r.1 / PAGE).sum();
        let fits = left.checked_sub(pages);
        left = fits.unwrap_or(left);
        fits.is_some() && pages > 0
    });
    let compared: Vec<(&Space<'_>, bool)> = spaces.iter().zip(compared.collect::<Vec<_>>()).collect();
    if compared.iter().filter(|c| c.1).count() < 2 {
        return None;
    }
    let look = || {
        let look =
            |(space, is_compared): &(&Space<'_>, bool)| if *is_compared { frames(space) } else { Some(Vec::new()) };
        abreast::each(&compared, abreast::PROCESSES, look).into_iter().collect::<Option<Vec<_>>>()
    };
    let first = look()?;
    if first.iter().all(Vec::is_empty) || look()? != first {
        return None;
    }
    Some(share(spaces, &first))
}

/// The pages of a space that somebody else has, too: (address, frame), ascending.
fn frames(space: &Space<'_>) -> Option<Vec<(u64, u64)>> {
    let map = PageMap::open(space.dir).ok()?;
    let mut found = Vec::new();
    let runs: Vec<(u64, u64)> = space.candidates().collect();
    let mut rest = &runs[..];
    while let Some(&(start, _)) = rest.first() {
        let mut end = start;
        let near = |r: &&(u64, u64)| {
            let is_near = r.0 <= end + GAP * PAGE && r.0 + r.1 <= start + WORDS * PAGE;
            end = if is_near { r.0 + r.1 } else { end };
            is_near
        };
        let count = rest.iter().take_while(near).count();
        // A run that is longer than what is read at once is cut.
        let (some, end) = if count == 0 { (&rest[..1], rest[0].0 + rest[0].1) } else { (&rest[..count], end) };
        let mut next = some.iter().peekable();
        for from in (start..end).step_by((WORDS * PAGE) as usize) {
            let words = map.words(from..end.min(from + WORDS * PAGE), PAGE).ok()?;
            for (at, word) in words.into_iter().enumerate().map(|(i, word)| (from + i as u64 * PAGE, word)) {
                while next.next_if(|r| r.0 + r.1 <= at).is_some() {}
                let is_wanted = next.peek().is_some_and(|r| r.0 <= at);
                if is_wanted && word & PRESENT != 0 && word & APART == 0 && word & FRAME != 0 {
                    found.push((at, word & FRAME));
                }
            }
        }
        rest = &rest[some.len()..];
    }
    Some(found)
}

/// Gives each common page to the first that has it.
fn share(spaces: &[Space<'_>], frames: &[Vec<(u64, u64)>]) -> Vec<Share> {
    let mut groups: Vec<Vec<u32>> = Vec::new();
    let mut known: HashMap<(u64, u64), usize> = HashMap::new();
    let mut owned: Vec<Vec<(u64, usize)>> = Vec::with_capacity(spaces.len());
    let mut shares = Vec::with_capacity(spaces.len());
    for (space, frames) in spaces.iter().zip(frames) {
        let (mut own, mut taken) = (Vec::new(), Vec::new());
        for &(at, frame) in frames {
            let group = *known.entry((at, frame)).or_insert(groups.len());
            if group == groups.len() {
                groups.push(Vec::new());
                own.push((at, group));
            } else {
                groups[group].push(space.id);
                taken.push(at);
            }
        }
        owned.push(own);
        shares.push(Share { runs: without(space.runs, &taken), also: Vec::new() });
    }
    for (share, own) in shares.iter_mut().zip(owned) {
        for (at, group) in own.into_iter().filter(|(_, group)| !groups[*group].is_empty()) {
            let ids = &groups[group];
            match share.also.last_mut() {
                Some(last) if last.end == at && last.ids == *ids => last.end += PAGE,
                _ => share.also.push(Also { start: at, end: at + PAGE, ids: ids.clone() }),
            }
        }
    }
    shares
}

/// The runs without these pages, which are pages of them; both ascending.
fn without(runs: &[(u64, u64)], pages: &[u64]) -> Vec<(u64, u64)> {
    let mut left = Vec::with_capacity(runs.len());
    let mut pages = pages.iter().copied().peekable();
    for &(start, len) in runs {
        let mut from = start;
        while let Some(page) = pages.next_if(|page| *page < start + len) {
            if page > from {
                left.push((from, page - from));
            }
            from = page + PAGE;
        }
        if from < start + len {
            left.push((from, start + len - from));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_pages_are_copied_with_the_first_that_has_them() {
        let dir = ProcDir::own().unwrap();
        let runs = [(0x1000, 0x4000), (0x8000, 0x1000)];
        let spaces = [1, 2, 3].map(|id| Space { id, dir: &dir, runs: &runs, common: &[] });
        let frames = [
            vec![(0x1000, 7), (0x2000, 8), (0x8000, 9)],
            vec![(0x1000, 7), (0x2000, 8), (0x3000, 5)],
            vec![(0x1000, 7), (0x2000, 8), (0x3000, 5), (0x4000, 7)],
        ];
        let shares = share(&spaces, &frames);
        assert_eq!(shares[0].runs, runs);
        assert_eq!(shares[0].also, [Also { start: 0x1000, end: 0x3000, ids: vec![2, 3] }]);
        assert_eq!(shares[1].runs, [(0x3000, 0x2000), (0x8000, 0x1000)]);
        assert_eq!(shares[1].also, [Also { start: 0x3000, end: 0x4000, ids: vec![3] }]);
        assert_eq!(shares[2].runs, [(0x4000, 0x1000), (0x8000, 0x1000)]);
        assert_eq!(shares[2].also, []);
    }

    #[test]
    fn taken_pages_are_cut_out_of_the_runs() {
        let runs = [(0x1000, 0x3000), (0x6000, 0x2000)];
        assert_eq!(without(&runs, &[]), runs);
        assert_eq!(without(&runs, &[0x2000]), [(0x1000, 0x1000), (0x3000, 0x1000), (0x6000, 0x2000)]);
        assert_eq!(without(&runs, &[0x1000, 0x2000, 0x3000, 0x7000]), [(0x6000, 0x1000)]);
        assert_eq!(without(&runs, &[0x1000, 0x2000, 0x3000, 0x6000, 0x7000]), []);
    }
}
