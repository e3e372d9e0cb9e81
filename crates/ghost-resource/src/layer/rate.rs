//! The layer that keeps a stream slow, so that others have their share of a disk or a network.
//!
//! Time is booked ahead: each piece takes as long as its size says, the next one waits until that time is over. A
//! stream that was idle has saved up nothing, so there are no bursts longer than one piece (50 ms).

use std::io::{self, Read, Write};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::{GhostRead, GhostWrite, Written};

/// A writer or a reader that moves no more than so many bytes each second.
pub(super) struct Limited<T> {
    inner: T,
    bytes_per_s: NonZeroU64,
    booked_until: Instant,
}

impl<T> Limited<T> {
    pub(super) fn new(inner: T, bytes_per_s: NonZeroU64) -> Self {
        Self { inner, bytes_per_s, booked_until: Instant::now() }
    }

    /// Bytes that may move in one piece.
    fn piece(&self) -> usize {
        usize::try_from(self.bytes_per_s.get() / 20).unwrap_or(usize::MAX).max(1)
    }

    fn wait(&self) {
        std::thread::sleep(self.booked_until.saturating_duration_since(Instant::now()));
    }

    fn book(&mut self, bytes: usize) {
        let ns = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_s.get());
        let time = Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX));
        self.booked_until = self.booked_until.max(Instant::now()) + time;
    }
}

impl<T: Write> Write for Limited<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait();
        let done = self.inner.write(&bytes[..bytes.len().min(self.piece())])?;
        self.book(done);
        Ok(done)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl GhostWrite for Limited<Box<dyn GhostWrite>> {
    /// A hole costs nothing where the place has holes, and its zeros' time where not; which of both, only the place
    /// knows, so it is not charged.
    fn skip(&mut self, len_bytes: u64) -> io::Result<()> {
        self.inner.skip(len_bytes)
    }
    fn finish(self: Box<Self>) -> Result<Written> {
        // The last piece has its time as well, or many short ghosts would pass any limit.
        self.wait();
        self.inner.finish()
    }
    fn abort(self: Box<Self>) {
        self.inner.abort();
    }
}

impl<T: Read> Read for Limited<T> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.wait();
        let len = into.len().min(self.piece());
        let done = self.inner.read(&mut into[..len])?;
        self.book(done);
        Ok(done)
    }
}

impl GhostRead for Limited<Box<dyn GhostRead>> {}
