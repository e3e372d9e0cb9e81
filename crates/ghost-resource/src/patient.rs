//! Pipes to a peer that do not wait for it forever: `poll(2)` before each read and write.
//!
//! A process may be frozen as long as ghost waits for its peer's word. On a connection the kernel keeps the time
//! (`SO_RCVTIMEO`, `SO_SNDTIMEO`, see [`crate::tcp`]); a pipe has no such thing.

use crate::error::{Aftermath, Cause, Error};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// A pipe that is told to be writable takes this much without waiting (`PIPE_BUF`).
const ATOMIC_BYTES: usize = 4096;

/// An end of a pipe, and how long its peer may keep silent.
#[derive(Debug)]
pub struct Patient<F> {
    inner: F,
    silence: Duration,
    peer: String,
    /// What one write may take without waiting.
    most: usize,
}

impl<F: AsFd> Patient<F> {
    /// An end that others may have too: its flags stay as they are.
    pub fn new(inner: F, peer: &str, silence: Duration) -> Self {
        Self { inner, silence, peer: peer.to_owned(), most: ATOMIC_BYTES }
    }

    /// An end that is ours alone: it is made not to block, so that large writes go in one piece.
    pub fn of_own(inner: F, peer: &str, silence: Duration) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&inner)?;
        rustix::fs::fcntl_setfl(&inner, flags | OFlags::NONBLOCK)?;
        Ok(Self { most: usize::MAX, ..Self::new(inner, peer, silence) })
    }

    fn await_ready(&self, what: PollFlags, step: &'static str) -> io::Result<()> {
        await_ready(self.inner.as_fd(), what, self.silence)
            .map_err(|cause| Error::new(step, &self.peer, cause).leaving(Aftermath::Uncommitted).into())
    }
}

fn await_ready(fd: BorrowedFd<'_>, what: PollFlags, limit: Duration) -> Result<(), Cause> {
    let timeout = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
    loop {
        match rustix::event::poll(&mut [PollFd::new(&fd, what)], Some(&timeout)) {
            Ok(0) => return Err(Cause::Timeout(limit.as_millis())),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Cause::Io(e.into())),
        }
    }
}

impl<F: Read + AsFd> Read for Patient<F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            self.await_ready(PollFlags::IN, "reading from")?;
            match self.inner.read(into) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

impl<F: Write + AsFd> Write for Patient<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }
    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            self.await_ready(PollFlags::OUT, "writing to")?;
            let done = if self.most == usize::MAX {
                self.inner.write_vectored(parts)
            } else {
                let first = parts.iter().find(|p| !p.is_empty()).map_or(&[][..], |p| p);
                self.inner.write(&first[..first.len().min(self.most)])
            };
            match done {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const SHORT: Duration = Duration::from_millis(60);

    #[test]
    fn a_silent_peer_ends_the_wait_both_ways() {
        let (from, to) = io::pipe().unwrap();
        let mut reader = Patient::new(from, "nobody", SHORT);
        let began = Instant::now();
        let e = reader.read(&mut [0; 4]).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::TimedOut);
        assert!(e.to_string().contains("nobody"), "{e}");
        assert!(began.elapsed() >= SHORT);
        let mut writer = Patient::of_own(to, "nobody", SHORT).unwrap();
        let e = writer.write_all(&vec![7; 4 << 20]).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn all_bytes_pass_while_somebody_reads() {
        for own in [false, true] {
            let (mut from, to) = io::pipe().unwrap();
            let bytes: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
            let sent = bytes.clone();
            let writer = std::thread::spawn(move || {
                let limit = Duration::from_secs(20);
                let mut to = if own { Patient::of_own(to, "r", limit).unwrap() } else { Patient::new(to, "r", limit) };
                to.write_all(&sent).unwrap();
            });
            let mut got = Vec::new();
            from.read_to_end(&mut got).unwrap();
            writer.join().unwrap();
            assert!(got == bytes);
        }
    }
}
