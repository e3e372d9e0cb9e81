//! The open ends of a connection: both ways, only out, only in.

use std::io::{self, BufReader, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use crate::error::{Aftermath, Cause, Error, Result};
use crate::gather::Gather;
use crate::{Duplex, GhostRead, GhostWrite, Written};

/// What one read takes from the connection, unless more is asked for.
const READ_BYTES: usize = 64 << 10;
/// What a reader that is dropped early still takes from the wire, so that an exporter whose last bytes carry nothing
/// new sees an orderly end.
const DRAIN_BYTES: usize = 64 << 10;
/// How long it waits for them.
const DRAIN_TIME: Duration = Duration::from_millis(200);

/// A connection, both ways.
#[derive(Debug)]
pub struct TcpDuplex {
    stream: TcpStream,
    peer: String,
    silence: Duration,
}

impl TcpDuplex {
    pub(super) fn new(stream: TcpStream, peer: String, silence: Duration) -> Self {
        Self { stream, peer, silence }
    }

    /// The socket itself, for what only sockets can do.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn told<T>(&self, step: &'static str, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|e| match e.kind() {
            io::ErrorKind::Interrupted => e,
            io::ErrorKind::WouldBlock => {
                let cause = Cause::Timeout(self.silence.as_millis());
                Error::new(step, &self.peer, cause).leaving(Aftermath::Uncommitted).into()
            }
            _ => Error::new(step, &self.peer, e).leaving(Aftermath::Uncommitted).into(),
        })
    }
}

impl Read for TcpDuplex {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let result = self.stream.read(into);
        self.told("reading from", result)
    }
}

impl Write for TcpDuplex {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.stream.write(bytes);
        self.told("writing to", result)
    }
    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let result = self.stream.write_vectored(parts);
        self.told("writing to", result)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Duplex for TcpDuplex {
    fn split(self: Box<Self>) -> Result<(Box<dyn Read + Send>, Box<dyn Write + Send>)> {
        let fail = |e| Error::new("splitting", &self.peer, Cause::Io(e));
        let stream = self.stream.try_clone().map_err(fail)?;
        // Who has both halves speaks a protocol, in which somebody waits for every word.
        let limit = Some(self.silence).filter(|s| !s.is_zero());
        stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit)).map_err(fail)?;
        let writing = Self { stream, peer: self.peer.clone(), silence: self.silence };
        Ok((self, Box::new(WriteHalf(writing))))
    }
    fn peer(&self) -> String {
        self.peer.clone()
    }
}

/// The writing half: tells the peer that nothing more comes when it is dropped, though the reading half lives on.
struct WriteHalf(TcpDuplex);

impl Write for WriteHalf {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(parts)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        // The connection may be gone already, which says the same.
        let _ = self.0.stream.shutdown(Shutdown::Write);
    }
}

/// The exporting end.
pub(super) struct TcpWriter {
    out: Gather<TcpStream>,
    silence: Duration,
    /// `finish` was reached; else the peer must see a cut.
    whole: bool,
}

impl TcpWriter {
    pub(super) fn new(link: TcpDuplex) -> Self {
        Self { out: Gather::new(link.stream, link.peer), silence: link.silence, whole: false }
    }
}

impl Write for TcpWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }
    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.out.write_vectored(parts)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl GhostWrite for TcpWriter {
    fn write_pages(&mut self, pages: &[IoSlice<'_>]) -> io::Result<()> {
        self.out.write_vectored(pages).map(drop)
    }

    fn finish(mut self: Box<Self>) -> Result<Written> {
        let len_bytes = self.out.settle()?;
        self.whole = true;
        let fail = |e| Error::new("finishing towards", self.out.label(), Cause::Io(e)).leaving(Aftermath::Uncommitted);
        let mut stream = self.out.stream();
        stream.shutdown(Shutdown::Write).map_err(fail)?;
        // The peer closes when it has read all. Whoever keeps the connection open longer than we wait has the
        // bytes in the kernel's hands, and no promise.
        stream.set_read_timeout(Some(self.silence)).map_err(fail)?;
        let mut answer = [0; 512];
        let durable = loop {
            match stream.read(&mut answer) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break false,
                Err(e) => return Err(fail(e)),
            }
        };
        Ok(Written { len_bytes, durable })
    }

    fn abort(self: Box<Self>) {}
}

impl Drop for TcpWriter {
    fn drop(&mut self) {
        if !self.whole {
            // A zero linger time makes close(2) send a reset: a reader then sees a cut, not an orderly end.
            let _ = sockopt::set_socket_linger(self.out.stream(), Some(Duration::ZERO));
        }
    }
}

/// The importing end. The connection carries one ghost and nothing else, so it is read ahead.
pub(super) struct TcpReader(BufReader<TcpDuplex>);

impl TcpReader {
    pub(super) fn new(link: TcpDuplex) -> Self {
        Self(BufReader::with_capacity(READ_BYTES, link))
    }
}

impl Read for TcpReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl GhostRead for TcpReader {}

impl Drop for TcpReader {
    fn drop(&mut self) {
        let mut stream = &self.0.get_ref().stream;
        let deadline = Instant::now() + DRAIN_TIME;
        let mut left = DRAIN_BYTES;
        let mut rest = [0; 4096];
        while left > 0 {
            let wait = deadline.saturating_duration_since(Instant::now());
            if wait.is_zero() || stream.set_read_timeout(Some(wait)).is_err() {
                return;
            }
            match stream.read(&mut rest) {
                Ok(0) | Err(_) => return,
                Ok(n) => left = left.saturating_sub(n),
            }
        }
    }
}
