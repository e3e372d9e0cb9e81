//! Pages that parents and children have in common since a fork, because nobody has written to them.
use crate::{Ctx, Victim, victim};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

const WORDS: usize = 512;
const PAGES: usize = 48;
/// Initialized, so that it is a private mapping of the file; and not.
static OF_FILE: [[AtomicU64; WORDS]; PAGES] = [const { [const { AtomicU64::new(3) }; WORDS] }; PAGES];
static MEMORY: [[AtomicU64; WORDS]; PAGES] = [const { [const { AtomicU64::new(0) }; WORDS] }; PAGES];

pub(super) const VICTIMS: &[Victim] = &[victim("common-pages", |v| {
    let mut pages = [None; PAGES];
    for page in (0..30).chain([40, 46]) {
        fill(&mut pages, page, page as u64 * 1000 + 1);
    }
    // Of zeros, and a page all the same.
    fill(&mut pages, 5, 0);
    for i in 0..3 {
        v.spawn(|child| {
            fill(&mut pages, 10 + i, 7000 + i as u64);
            fill(&mut pages, 41, 41_000);
            for k in 0..2 {
                child.spawn(|grandchild| {
                    fill(&mut pages, 20 + 2 * i + k, 9000);
                    stay(grandchild, &mut pages);
                });
            }
            stay(child, &mut pages);
        });
    }
    // The children still have what was there in common, and the parent not.
    fill(&mut pages, 28, 5);
    fill(&mut pages, 0, 0);
    stay(v, &mut pages);
})];

fn fill(pages: &mut [Option<u64>; PAGES], page: usize, value: u64) {
    pages[page] = Some(value);
    for (i, (a, b)) in MEMORY[page].iter().zip(&OF_FILE[page]).enumerate() {
        let word = if value == 0 { 0 } else { value + i as u64 };
        a.store(word, SeqCst);
        b.store(word, SeqCst);
    }
}

/// Waits for the mechanism; all pages must be as they were, and stay so when each process writes to one that all have.
fn stay(v: &mut Ctx, pages: &mut [Option<u64>; PAGES]) {
    v.wait();
    look(v, pages);
    fill(pages, 1, u64::from(std::process::id()));
    fill(pages, 46, u64::from(std::process::id()) << 20);
    std::thread::sleep(std::time::Duration::from_millis(20));
    look(v, pages);
}

fn look(v: &mut Ctx, pages: &[Option<u64>; PAGES]) {
    for (page, value) in pages.iter().enumerate() {
        let word = |i: usize| value.map_or(0, |v| if v == 0 { 0 } else { v + i as u64 });
        let memory = MEMORY[page].iter().enumerate().all(|(i, w)| w.load(SeqCst) == word(i));
        let of_file = OF_FILE[page].iter().enumerate().all(|(i, w)| w.load(SeqCst) == value.map_or(3, |_| word(i)));
        v.check(&format!("page {page} of memory"), memory);
        v.check(&format!("page {page} of a file's private mapping"), of_file);
    }
}
