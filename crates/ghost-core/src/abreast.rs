//! Work of which the parts don't need each other, on all CPUs.
//!
//! Looking at a process is mostly system calls that read: procfs, `pidfd_getfd(2)`, `getsockopt(2)`. Any thread may make those;
//! only ptrace belongs to the one that froze the tree.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// More threads than that would only wait for each other in the kernel, and for memory.
const THREADS: usize = 8;

/// Processes of which each has some files of procfs to be read: from here on other threads are worth their start.
pub const PROCESSES: usize = 8;

/// Threads of a process of which each has a file or two to be read: the same.
pub const TASKS: usize = 32;

/// How many threads there can be work for: CPUs that this thread may run on.
pub fn threads() -> usize {
    rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count() as usize).clamp(1, THREADS)
}

/// The results of `work` on each item, in their order. Fewer than `worth` items stay on this thread.
pub fn each<T: Sync, R: Send>(items: &[T], worth: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let count = if items.len() < worth.max(2) { 1 } else { threads().min(items.len()) };
    if count < 2 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Option<R>>> = Mutex::new(items.iter().map(|_| None).collect());
    // Many small ones are taken together, but not so many that one thread would still be at it when the others have nothing left.
    let at_once = (items.len() / (8 * count)).max(1);
    let take = || {
        while let Some((at, some)) = Some(next.fetch_add(at_once, Ordering::Relaxed))
            .and_then(|at| Some((at, items.get(at..(at + at_once).min(items.len()))?)))
            .filter(|(_, some)| !some.is_empty())
        {
            let results: Vec<R> = some.iter().map(&work).collect();
            let mut done = done.lock().expect("nobody panics while holding it");
            for (place, result) in done[at..].iter_mut().zip(results) {
                *place = Some(result);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..count {
            // Without another thread this one does it all.
            let _ = std::thread::Builder::new().spawn_scoped(scope, take);
        }
        take();
    });
    let done = done.into_inner().expect("nobody panics while holding it");
    done.into_iter().map(|r| r.expect("every item was taken by somebody")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_however_many_threads_there_are() {
        let items: Vec<usize> = (0..1000).collect();
        let twice: Vec<usize> = items.iter().map(|i| i * 2).collect();
        assert_eq!(each(&items, 1, |i| i * 2), twice);
        assert_eq!(each(&items, usize::MAX, |i| i * 2), twice);
        assert!(each(&[] as &[usize], 1, |i| i * 2).is_empty());
    }

    #[test]
    fn everybody_helps() {
        let who: std::collections::HashSet<_> = each(&[(); 64], 2, |()| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            std::thread::current().id()
        })
        .into_iter()
        .collect();
        assert_eq!(who.len(), threads().min(64));
    }
}
