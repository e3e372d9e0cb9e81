//! A few threads that each do the same work on one block at a time.
//!
//! Each job carries the way for its answer, so whoever keeps the answers' receivers in order gets the results in
//! order. Dropping the pool waits for its threads, which end with the last job. A job whose thread died gives no answer,
//! which its receiver sees.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// More threads than this gain nothing over the memory they touch.
const THREADS_MAX: usize = 8;

/// Threads that turn an `I` into an `O`.
#[derive(Debug)]
pub(super) struct Pool<I, O> {
    /// Gone only while the pool is dropped, which is what tells the threads to end.
    jobs: Option<SyncSender<(I, SyncSender<O>)>>,
    threads: Vec<JoinHandle<()>>,
}

impl<I: Send + 'static, O: Send + 'static> Pool<I, O> {
    /// Starts the threads; `make` gives each its own way of working.
    pub(super) fn new<W>(mut make: impl FnMut() -> io::Result<W>) -> io::Result<Self>
    where
        W: FnMut(I) -> O + Send + 'static,
    {
        let wanted = std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS_MAX));
        let (jobs, queue) = sync_channel::<(I, SyncSender<O>)>(wanted);
        let queue = Arc::new(Mutex::new(queue));
        // From here on an error drops the pool, and with it the threads that there are already.
        let mut pool = Self { jobs: Some(jobs), threads: Vec::new() };
        for _ in 0..wanted {
            let (mut work, queue) = (make()?, Arc::clone(&queue));
            let thread = std::thread::Builder::new().name("ghost-layer".into()).spawn(move || {
                loop {
                    // Nothing can panic while the lock is held.
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((input, answer)) = job else { return };
                    // Whoever asked may have gone; the next one may not.
                    let _ = answer.send(work(input));
                }
            })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Jobs that should be under way at once: each thread has one and finds the next.
    pub(super) fn depth(&self) -> usize {
        2 * self.threads.len()
    }

    /// Gives a job to the next free thread. The answer arrives at what comes back.
    pub(super) fn submit(&self, input: I) -> Receiver<O> {
        let (answer, receiver) = sync_channel(1);
        if let Some(jobs) = &self.jobs {
            // If all threads died, the answer's sender is dropped here and the receiver says so.
            let _ = jobs.send((input, answer));
        }
        receiver
    }
}

impl<I, O> Drop for Pool<I, O> {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // One that died was told of where its answer was missed.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_belong_to_their_jobs_and_a_dead_thread_gives_none() {
        let pool = Pool::new(|| {
            Ok(|n: u32| {
                assert_ne!(n, 7, "this thread dies");
                n * 2
            })
        })
        .unwrap();
        let answers: Vec<_> = (0..7).map(|n| pool.submit(n)).collect();
        for (n, answer) in (0..).zip(answers) {
            assert_eq!(answer.recv(), Ok(n * 2));
        }
        assert!(pool.submit(7).recv().is_err());
    }
}
