//! N processes, each the parent of up to four, with memory of their own and one page that all share.

use super::{Life, mix};
use ghost_victims::kit::{Res, mem, task};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Runs the tree; its root answers for all.
pub fn run(life: Life, n: usize) -> Res {
    let ticks = mem::anon((n * 8).next_multiple_of(4096), true)?;
    grow(0, n, ticks)?;
    let all_move = || {
        let before: Vec<u64> = (0..n).map(|i| ticks.word(i * 8).load(Ordering::Relaxed)).collect();
        let moved = |i: usize| ticks.word(i * 8).load(Ordering::Relaxed) > before[i];
        for _ in 0..400 {
            std::thread::sleep(Duration::from_millis(10));
            if (1..n).all(moved) {
                break;
            }
        }
        Ok((1..n).filter(|i| moved(*i)).count() as u64)
    };
    all_move()?;
    life.live(n as u64 - 1, all_move)
}

fn grow(i: usize, n: usize, ticks: mem::Map) -> Res {
    for child in (4 * i + 1..=4 * i + 4).take_while(|c| *c < n) {
        if task::fork()?.is_none() {
            // The root was asked to end by a signal that they had blocked as well: they end with their parent.
            let _ = task::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL.into(), 0, 0, 0);
            let done = grow(child, n, ticks).and_then(|()| tick(child, ticks));
            task::exit(i32::from(done.is_err()));
        }
    }
    Ok(())
}

/// Counts on while its own memory and its parent are what they were.
fn tick(i: usize, ticks: mem::Map) -> Res {
    let own: Vec<u64> = (0..512).map(|k| mix((i * 512 + k) as u64)).collect();
    let parent = task::ppid();
    loop {
        std::thread::sleep(Duration::from_millis(20));
        if task::ppid() == parent && own.iter().enumerate().all(|(k, w)| *w == mix((i * 512 + k) as u64)) {
            ticks.word(i * 8).fetch_add(1, Ordering::Relaxed);
        }
    }
}
