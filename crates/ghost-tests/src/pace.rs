//! In which order the cases of a binary are played, and how many of them at once.
//!
//! Most cases keep a CPU busy, some sleep for a second on purpose. Played by the same few hands in the order of their table,
//! the sleepers would leave the machine idle for minutes, and a long case that comes last would leave all but one CPU idle.
//! So sleepers are spread among the others and have hands of their own, and what is known to be long begins first.
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// Lets so many through at once; the others wait.
#[derive(Debug)]
pub struct Gate {
    free: Mutex<usize>,
    changed: Condvar,
}

/// A way through a [`Gate`], until it is dropped.
#[derive(Debug)]
pub struct Passage<'a>(&'a Gate);

impl Gate {
    /// A gate for `at_once`.
    pub fn new(at_once: usize) -> Gate {
        Gate { free: Mutex::new(at_once), changed: Condvar::new() }
    }

    /// Waits until there is room.
    pub fn pass(&self) -> Passage<'_> {
        // A count is never half changed, so a case that panicked leaves it right.
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = self.changed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Passage(self)
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.changed.notify_one();
    }
}

/// Both lists in one, each in its own order, and as evenly mixed as it goes.
pub fn spread<T>(many: Vec<T>, few: Vec<T>) -> Vec<T> {
    let (a, b) = (many.len(), few.len());
    let mut all = Vec::with_capacity(a + b);
    let (mut many, mut few) = (many.into_iter(), few.into_iter());
    let mut taken = 0;
    for n in 0..a + b {
        // As many of the few as their share of the first n + 1.
        if (n + 1) * b >= (taken + 1) * (a + b) {
            all.extend(few.next());
            taken += 1;
        } else {
            all.extend(many.next());
        }
    }
    all
}

/// Puts what `first` names, by its beginning, to the front in that order; the rest stays as it is.
pub fn first<T>(all: &mut [T], first: &[&str], name: impl Fn(&T) -> String) {
    all.sort_by_key(|t| first.iter().position(|f| name(t).starts_with(f)).unwrap_or(first.len()));
}

/// Plays a case; with `GHOST_TIMES=FILE` its time in ms and its name become a line of that file.
pub fn timed<T>(name: &str, play: impl FnOnce() -> T) -> T {
    use std::io::Write as _;
    let begin = Instant::now();
    let outcome = play();
    if let Some(file) = std::env::var_os("GHOST_TIMES") {
        let line = format!("{} {name}\n", begin.elapsed().as_millis());
        let file = std::fs::File::options().append(true).create(true).open(file);
        if let Err(e) = file.and_then(|mut f| f.write_all(line.as_bytes())) {
            eprintln!("GHOST_TIMES: {e}");
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_few_are_spread_evenly_and_nothing_is_lost() {
        let mixed = spread(vec!['a', 'b', 'c', 'd', 'e', 'f'], vec!['X', 'Y', 'Z']);
        assert_eq!(mixed.iter().collect::<String>(), "abXcdYefZ");
        assert_eq!(spread(vec![1, 2], vec![]), [1, 2]);
        assert_eq!(spread(vec![], vec![1, 2]), [1, 2]);
        let mut all = spread((0..5432).collect(), (5432..6000).collect());
        all.sort_unstable();
        assert!(all.iter().copied().eq(0..6000));
    }

    #[test]
    fn what_is_named_comes_first_and_the_rest_keeps_its_order() {
        let mut all = ["one::a", "two::a", "two::b", "three::a", "four::a"];
        first(&mut all, &["three", "two::b"], |n| (*n).to_owned());
        assert_eq!(all, ["three::a", "two::b", "one::a", "two::a", "four::a"]);
    }

    #[test]
    fn a_gate_lets_no_more_through_than_it_says() {
        use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
        let (gate, inside, most) = (Gate::new(2), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|s| {
            for _ in 0..6 {
                s.spawn(|| {
                    let _way = gate.pass();
                    most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                    std::thread::sleep(std::time::Duration::from_millis(5));
                    inside.fetch_sub(1, SeqCst);
                });
            }
        });
        assert_eq!(most.into_inner(), 2);
    }
}
