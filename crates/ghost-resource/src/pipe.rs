//! `-` and `fd:N`: pipes, and descriptors that the caller opened.
//!
//! Exports go to standard output, imports come from standard input, or both use the inherited descriptor `N`. The
//! descriptor is duplicated (`fcntl(2)`, `F_DUPFD_CLOEXEC`), so the caller's own stays open. What was written cannot
//! be called back: an aborted export leaves bytes without a commit mark, which no import takes for an image. An
//! image is never written to a terminal.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};

use crate::error::{Aftermath, Cause, Error, Result};
use crate::{ClassId, Direction, GhostRead, GhostWrite, Resource, Written};

/// Asked of the kernel for a pipe (`F_SETPIPE_SZ`), which grants what `pipe-max-size` allows.
const PIPE_BYTES: usize = 1 << 20;

/// Standard input and output, or one inherited descriptor.
#[derive(Debug, Clone)]
pub struct Pipe {
    number: Option<i32>,
}

impl Pipe {
    /// Standard output for exports, standard input for imports.
    pub fn standard() -> Self {
        Self { number: None }
    }

    /// The descriptor of this number, inherited from whoever started the program.
    pub fn inherited(number: i32) -> Self {
        Self { number: Some(number) }
    }

    /// The descriptor whose number is written there.
    pub fn parse(number: &str) -> Result<Self> {
        if let Ok(fd @ 0..) = number.parse() {
            return Ok(Self::inherited(fd));
        }
        let why = format!("`{number}` is not the number of a descriptor");
        Err(Error::new("opening", format!("fd:{number}"), Cause::Address(why)))
    }

    fn open(&self, standard: i32) -> Result<File> {
        let fail = |e: io::Error| {
            let error = Error::new("opening", self.describe(), e);
            match self.number {
                Some(n) => error.advise(format!("start the program with descriptor {n} open, as in `{n}>FILE`")),
                None => error,
            }
        };
        let fd = ghost_sys::file::duplicate(self.number.unwrap_or(standard)).map_err(|e| fail(e.into()))?;
        // Not every descriptor is a pipe, and not every pipe may grow; it works at any size.
        let _ = rustix::pipe::fcntl_setpipe_size(&fd, PIPE_BYTES);
        Ok(File::from(fd))
    }
}

impl Resource for Pipe {
    fn class(&self, direction: Direction) -> ClassId {
        match direction {
            Direction::Export => ClassId::PIPE_WRITE,
            Direction::Import => ClassId::PIPE_READ,
        }
    }
    fn describe(&self) -> String {
        self.number.map_or_else(|| "-".into(), |n| format!("fd:{n}"))
    }
    fn open_export(&mut self) -> Result<Box<dyn GhostWrite>> {
        let file = self.open(1)?;
        if file.is_terminal() {
            let error = Error::new("opening", self.describe(), Cause::Address("it is a terminal".into()));
            return Err(error.advise("send it into a pipe or a file"));
        }
        Ok(Box::new(PipeWriter { file, label: self.describe(), len_bytes: 0, broken: false }))
    }
    fn open_import(&mut self) -> Result<Box<dyn GhostRead>> {
        let file = self.open(0)?;
        if file.is_terminal() {
            let error = Error::new("opening", self.describe(), Cause::Address("it is a terminal".into()));
            return Err(error.advise("give it an image from a pipe or a file"));
        }
        Ok(Box::new(PipeReader { file, label: self.describe() }))
    }
}

struct PipeWriter {
    file: File,
    label: String,
    len_bytes: u64,
    /// A write failed, so what was sent has a gap.
    broken: bool,
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.file.write(bytes) {
            Ok(done) => {
                self.len_bytes += done as u64;
                Ok(done)
            }
            // write_all tries again by itself, but only when it can see that.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                self.broken = true;
                Err(Error::new("writing", &self.label, e).leaving(Aftermath::Uncommitted).into())
            }
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl GhostWrite for PipeWriter {
    fn finish(self: Box<Self>) -> Result<Written> {
        if self.broken {
            let earlier = io::Error::other("an earlier write failed");
            return Err(Error::new("finishing", &self.label, earlier).leaving(Aftermath::Uncommitted));
        }
        // A redirected file can be made durable; a pipe cannot, and says EINVAL.
        let regular = self.file.metadata().is_ok_and(|m| m.is_file());
        if regular {
            self.file.sync_all().map_err(|e| Error::new("finishing", &self.label, e).leaving(Aftermath::NotDurable))?;
        }
        Ok(Written { len_bytes: self.len_bytes, durable: regular })
    }
    fn abort(self: Box<Self>) {}
}

struct PipeReader {
    file: File,
    label: String,
}

impl Read for PipeReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.file.read(into) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => Err(Error::new("reading", &self.label, e).into()),
            other => other,
        }
    }
}

impl GhostRead for PipeReader {}
