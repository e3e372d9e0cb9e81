//! Small writes become large ones on their way into a stream that keeps no image: a pipe or a connection.
//!
//! A ghost is written in records of a few bytes between runs of many pages. Each record by itself would be a system
//! call, and on a network a packet. Here small writes wait for the next large one, which takes them along in one
//! `writev(2)`, or for a flush.

use std::io::{self, IoSlice, Write};

use crate::error::{Aftermath, Error, Result};

/// What is gathered at most.
const GATHER_BYTES: usize = 64 << 10;
/// The kernel takes at most 1024 buffers in one `writev(2)` (`IOV_MAX`).
const IOV_MAX: usize = 1024;

/// Writes all buffers by as many vectored writes as it takes.
pub(crate) fn write_all_vectored(
    parts: &[IoSlice<'_>],
    mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<()> {
    for group in parts.chunks(IOV_MAX) {
        let mut group = group.to_vec();
        let mut rest = &mut group[..];
        // Takes empty buffers off the front, so that nothing left means done.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(done) => IoSlice::advance_slices(&mut rest, done),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

/// A stream that small writes are gathered for. Whoever finishes it must have flushed it.
#[derive(Debug)]
pub(crate) struct Gather<W> {
    stream: W,
    label: String,
    gathered: Vec<u8>,
    len_bytes: u64,
    /// A write failed, so what was sent has a gap.
    broken: bool,
}

impl<W: Write> Gather<W> {
    /// Gathers for this stream; `label` names it in messages.
    pub(crate) fn new(stream: W, label: String) -> Self {
        Self { stream, label, gathered: Vec::with_capacity(GATHER_BYTES), len_bytes: 0, broken: false }
    }

    pub(crate) fn stream(&self) -> &W {
        &self.stream
    }
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// Sends what is gathered; comes back with all bytes that were written, if none was lost.
    pub(crate) fn settle(&mut self) -> Result<u64> {
        self.send(&[]).map_err(|e| Error::from_io("finishing", &self.label, e))?;
        Ok(self.len_bytes)
    }

    /// Sends what is gathered, and these.
    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let fail = |e| Error::new("writing to", &self.label, e).leaving(Aftermath::Uncommitted);
        if self.broken {
            return Err(fail(io::Error::other("an earlier write failed")).into());
        }
        let all: Vec<_> = std::iter::once(IoSlice::new(&self.gathered)).chain(parts.iter().copied()).collect();
        let done = write_all_vectored(&all, |parts| self.stream.write_vectored(parts));
        self.broken = done.is_err();
        done.map_err(fail)?;
        self.gathered.clear();
        Ok(())
    }
}

impl<W: Write> Write for Gather<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let total: usize = parts.iter().map(|p| p.len()).sum();
        if self.gathered.len() + total <= GATHER_BYTES && !self.broken {
            for part in parts {
                self.gathered.extend_from_slice(part);
            }
        } else {
            self.send(parts)?;
        }
        self.len_bytes += total as u64;
        Ok(total)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes seven bytes at a time, and notes how often it was asked.
    #[derive(Default)]
    struct Slow(Vec<u8>, usize);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            let len = bytes.len().min(7);
            self.0.extend_from_slice(&bytes[..len]);
            Ok(len)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn small_writes_wait_and_order_is_kept() {
        let mut out = Gather::new(Slow::default(), "slow".into());
        out.write_all(b"small, ").unwrap();
        out.write_all(b"").unwrap();
        out.write_all(b"and small").unwrap();
        assert_eq!(out.stream.1, 0);
        let large = vec![b'x'; GATHER_BYTES];
        let done = out.write_vectored(&[IoSlice::new(b""), IoSlice::new(b"; "), IoSlice::new(&large)]).unwrap();
        assert_eq!(done, large.len() + 2);
        out.write_all(b"end").unwrap();
        assert_eq!(out.settle().unwrap(), large.len() as u64 + 21);
        assert_eq!(out.stream.0, [&b"small, and small; "[..], &large, b"end"].concat());
    }

    #[test]
    fn after_a_failed_write_nothing_is_sent_any_more() {
        let mut room = [0; 4];
        let mut out = Gather::new(&mut room[..], "full".into());
        out.write_all(b"longer than four").unwrap();
        let error = out.settle().unwrap_err();
        assert!(error.to_string().starts_with("writing to full: "), "{error}");
        assert!(out.write_all(b"x").is_err() && out.settle().is_err());
    }
}
