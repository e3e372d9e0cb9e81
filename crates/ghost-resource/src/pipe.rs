//! `-` and `fd:N`: pipes, and descriptors that the caller opened.
//!
//! Exports go to standard output, imports come from standard input, or both use the inherited descriptor `N`. The
//! descriptor is duplicated (`fcntl(2)`, `F_DUPFD_CLOEXEC`), so the caller's own stays open. What was written cannot
//! be called back: an aborted export leaves bytes without a commit mark, which no import takes for an image. An
//! image is never written to a terminal. Where the descriptor is a regular file at its beginning, an import can map it.

use std::fs::File;
use std::io::{self, IoSlice, IsTerminal, Read, Seek, Write};
use std::sync::OnceLock;

use ghost_sys::file::MappedFile;

use crate::error::{Aftermath, Cause, Error, Result};
use crate::gather::Gather;
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
        Ok(Box::new(PipeWriter(Gather::new(file, self.describe()))))
    }
    fn open_import(&mut self) -> Result<Box<dyn GhostRead>> {
        let file = self.open(0)?;
        if file.is_terminal() {
            let error = Error::new("opening", self.describe(), Cause::Address("it is a terminal".into()));
            return Err(error.advise("give it an image from a pipe or a file"));
        }
        let whole = file.metadata().is_ok_and(|m| m.is_file()) && (&file).stream_position().is_ok_and(|at| at == 0);
        Ok(Box::new(PipeReader { file, label: self.describe(), whole, map: OnceLock::new() }))
    }
}

struct PipeWriter(Gather<File>);

impl Write for PipeWriter {
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

impl GhostWrite for PipeWriter {
    fn write_pages(&mut self, pages: &[IoSlice<'_>]) -> io::Result<()> {
        self.0.write_vectored(pages).map(drop)
    }
    fn finish(mut self: Box<Self>) -> Result<Written> {
        let len_bytes = self.0.settle()?;
        // A redirected file can be made durable; a pipe cannot, and says EINVAL.
        let file = self.0.stream();
        let regular = file.metadata().is_ok_and(|m| m.is_file());
        if regular {
            let fail = |e| Error::new("finishing", self.0.label(), Cause::Io(e)).leaving(Aftermath::NotDurable);
            file.sync_all().map_err(fail)?;
        }
        Ok(Written { len_bytes, durable: regular })
    }
    fn abort(self: Box<Self>) {}
}

/// Reads no byte more than it is asked for: what follows the ghost belongs to somebody else.
struct PipeReader {
    file: File,
    label: String,
    /// It is a regular file that was at its beginning, so it can be read at any offset as well.
    whole: bool,
    map: OnceLock<Option<MappedFile>>,
}

impl Read for PipeReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.file.read(into) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => Err(Error::new("reading", &self.label, e).into()),
            other => other,
        }
    }
}

impl GhostRead for PipeReader {
    fn as_mapped(&self) -> Option<&[u8]> {
        self.map.get_or_init(|| MappedFile::new(self.as_file()?).ok()).as_deref()
    }
    fn as_file(&self) -> Option<&File> {
        self.whole.then_some(&self.file)
    }
}
