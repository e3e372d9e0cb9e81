//! Neighbouring mappings that one `mmap(2)` makes: those that differ only in what [`vma::finish`] gives them later (protection, name,
//! locks, most advice).
//!
//! A program that has protected every second page has thousands of them. Each call takes the kernel a search and two updates of the tree of
//! mappings; and pages come faster into one large mapping than into many small ones ([`super::pages`]). It is split when all is
//! there, as it was in the program, by `mprotect(2)`.

use super::vma;
use ghost_image::record as rec;
use ghost_image::record::vma::Special;
use std::borrow::Cow;

/// Bytes that one call makes of several mappings. A call for more than the machine has is refused, where many small ones are not.
const MOST: u64 = 64 << 20;

/// The mappings of an address space as they are to be made.
pub fn gathered(vmas: &[rec::Vma]) -> impl Iterator<Item = Cow<'_, rec::Vma>> {
    let groups = vmas.chunk_by(|one, next| is_gatherable(one) && is_gatherable(next) && are_alike(one, next));
    groups.flat_map(|group| {
        let mut rest = group;
        std::iter::from_fn(move || {
            let first = rest.first()?;
            let count = 1 + rest[1..].iter().take_while(|v| v.end - first.start <= MOST).count();
            let (now, later) = rest.split_at(count);
            rest = later;
            let [_, .., last] = now else { return Some(Cow::Borrowed(first)) };
            let data_pages = now.iter().map(|v| v.data_pages).fold(0, u64::saturating_add);
            let huge = now.iter().flat_map(|v| v.huge.iter().copied()).collect();
            Some(Cow::Owned(rec::Vma { end: last.end, data_pages, huge, ..first.clone() }))
        })
    })
}

/// Private anonymous memory for which nothing is to be done before its pages come.
pub(super) fn is_gatherable(v: &rec::Vma) -> bool {
    let is_anonymous = v.file_id == 0 && v.shmem_id == 0 && v.sysv_id == 0 && v.special() == Special::None;
    is_anonymous && !v.shared && !v.grows_down && !v.droppable && !vma::has_early(v)
}

/// Whether the kernel would make one mapping of the two.
fn are_alike(one: &rec::Vma, next: &rec::Vma) -> bool {
    one.end == next.start && one.no_reserve == next.no_reserve && vma::first_prot(one) == vma::first_prot(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(vmas: &[rec::Vma]) -> Vec<(u64, u64)> {
        gathered(vmas).map(|v| (v.start, v.end)).collect()
    }

    fn vma(start: u64, end: u64, prot: i32) -> rec::Vma {
        rec::Vma { start, end, prot: prot as u32, accounted: true, ..rec::Vma::default() }
    }

    #[test]
    fn neighbours_that_differ_later_are_made_together() {
        let (r, rw, rwx) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE, 7);
        let full = rec::Vma { data_pages: 2, ..vma(0x3000, 0x5000, rwx) };
        let alternating = [vma(0x1000, 0x2000, r), vma(0x2000, 0x3000, rw), full, vma(0x5000, 0x6000, 0)];
        assert_eq!(made(&alternating), [(0x1000, 0x6000)]);
        let first = gathered(&alternating).next().unwrap().into_owned();
        assert_eq!((vma::first_prot(&first), first.data_pages), (rw, 2));
        // A gap; one that was never writable.
        let never = rec::Vma { accounted: false, ..vma(0x7000, 0x8000, r) };
        let all = [vma(0x1000, 0x2000, rw), vma(0x3000, 0x4000, rw), vma(0x4000, 0x7000, rw), never];
        assert_eq!(made(&all), [(0x1000, 0x2000), (0x3000, 0x7000), (0x7000, 0x8000)]);
    }

    #[test]
    fn what_has_something_of_its_own_is_made_alone() {
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let own: [fn(&mut rec::Vma); 9] = [
            |v| v.file_id = 1,
            |v| v.shmem_id = 1,
            |v| v.sysv_id = 1,
            |v| v.special = Special::Vdso.into(),
            |v| v.grows_down = true,
            |v| v.no_reserve = true,
            |v| v.advice = vec![libc::MADV_HUGEPAGE as u32],
            |v| v.guards = vec![0x2000, 0x3000],
            |v| v.mempolicy = vec![1],
        ];
        for change in own {
            let mut all = [vma(0x1000, 0x2000, rw), vma(0x2000, 0x3000, rw), vma(0x3000, 0x4000, rw)];
            change(&mut all[1]);
            assert_eq!(made(&all).len(), 3);
        }
        let large = [vma(0x1000, MOST, rw), vma(MOST, MOST + 0x1000, rw), vma(MOST + 0x1000, 3 * MOST, rw)];
        assert_eq!(made(&large), [(0x1000, MOST + 0x1000), (MOST + 0x1000, 3 * MOST)]);
    }
}
