//! The plug-in trait, and the two ends of an opened resource.
//!
//! A [`Resource`] is a place, named but not yet touched. [`Resource::open_export`] gives a [`GhostWrite`]: bytes go
//! in, and *nothing is there for others* until [`GhostWrite::finish`]; dropped before, it leaves nothing.
//! [`Resource::open_import`] gives a [`GhostRead`]. What a place can do beyond that it offers itself: a [`Store`]
//! keeps several images, a mapped or file-backed reader is read at any offset, a duplex resource carries answers.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::time::SystemTime;

use crate::error::{Cause, Result};
use crate::{ClassId, Direction, Error, Seekable};

/// A place that ghosts go to and come from.
///
/// One implementation is all that a new place needs. Methods with a default body are abilities; the default is *no*.
pub trait Resource: Send {
    /// Its class id in this direction.
    fn class(&self, direction: Direction) -> ClassId;

    /// The resource as its user writes it, `disk:/p/app.ghost`: the subject of every message about it.
    fn describe(&self) -> String;

    /// Opens it to be written. An image that is there already is refused unless replacing was asked for, and then
    /// stays intact until [`GhostWrite::finish`].
    fn open_export(&mut self) -> Result<Box<dyn GhostWrite>>;

    /// Opens it to be read from its beginning.
    fn open_import(&mut self) -> Result<Box<dyn GhostRead>>;

    /// The images kept there can be listed, looked for and removed.
    fn store(&self) -> Option<&dyn Store> {
        None
    }

    /// Opens both directions at once, for protocols in which the other end answers. `listen` waits for a peer.
    fn open_duplex(&mut self, _listen: bool) -> Result<Box<dyn Duplex>> {
        Err(Error::new("opening", self.describe(), Cause::Unable("carry answers")))
    }
}

/// What a finished export amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes that the exporter wrote or skipped, before any layer below.
    pub len_bytes: u64,
    /// The image survives: a power cut for a disk, the end of this connection for a network (the peer has read all).
    pub durable: bool,
}

/// The open end that an export writes into.
///
/// Dropped without [`finish`](GhostWrite::finish) it acts as [`abort`](GhostWrite::abort).
pub trait GhostWrite: Write + Send {
    /// Writes all of several buffers, in order.
    fn write_pages(&mut self, pages: &[IoSlice<'_>]) -> io::Result<()> {
        for page in pages {
            self.write_all(page)?;
        }
        Ok(())
    }

    /// Moves forward over `len_bytes` that read as zeros: a hole where the place has holes, zeros elsewhere.
    ///
    /// Over what was written behind the writer's back (see [`as_file`](GhostWrite::as_file) and
    /// [`places`](GhostWrite::places)) it leaves what is there.
    fn skip(&mut self, len_bytes: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let mut left = len_bytes;
        while left > 0 {
            let part = left.min(ZEROS.len() as u64);
            self.write_all(&ZEROS[..part as usize])?;
            left -= part;
        }
        Ok(())
    }

    /// The file behind it, for `splice(2)` and parallel `pwrite(2)`; all that was written before is in it.
    ///
    /// The next write goes to the file's own offset, which `splice` and `write` through this reference move. Who
    /// writes at offsets beyond it with `pwrite` calls [`skip`](GhostWrite::skip) over that range afterwards.
    fn as_file(&mut self) -> io::Result<Option<&File>> {
        Ok(None)
    }

    /// Writes at any offset, by several threads at once, of a place that can be written so.
    ///
    /// All that was written before is in it. Who writes beyond it calls [`skip`](GhostWrite::skip) over that range
    /// afterwards, and writes nothing more by what this returned.
    fn places(&mut self) -> io::Result<Option<Arc<dyn WriteAt>>> {
        Ok(None)
    }

    /// Makes the image be there, whole and durable. On an error it is as after [`abort`](GhostWrite::abort), unless
    /// the error's aftermath says otherwise.
    fn finish(self: Box<Self>) -> Result<Written>;

    /// Takes everything back.
    fn abort(self: Box<Self>);
}

/// Writes at any offset of an image; see [`GhostWrite::places`].
pub trait WriteAt: Send + Sync {
    /// Writes all of several buffers, in order, from this offset of the image on.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
}

/// The open end that an import reads from.
pub trait GhostRead: Read + Send {
    /// The whole image as memory, from its first byte and whatever was read before.
    ///
    /// The hazard of a file that shrinks under its mapping is described in [`ghost_sys::file`]; places where others
    /// could do that answer `None`.
    fn as_mapped(&self) -> Option<&[u8]> {
        None
    }

    /// The file behind it, to be read at offsets (`pread(2)`, `splice(2)` with an offset); its own offset belongs to
    /// the reader.
    fn as_file(&self) -> Option<&File> {
        None
    }

    /// The whole image to be read at any offset, by whichever of the two ways above there is.
    fn as_seekable(&self) -> Option<Seekable<'_>> {
        self.as_mapped().map(Seekable::mapped).or_else(|| self.as_file().map(Seekable::file))
    }
}

/// Both directions of one connection.
pub trait Duplex: Read + Write + Send {
    /// Two halves that can live in two threads. The writing half says goodbye when it is dropped.
    fn split(self: Box<Self>) -> Result<(Box<dyn Read + Send>, Box<dyn Write + Send>)>;
    /// Who is at the other end, for messages.
    fn peer(&self) -> String;
}

/// A place that keeps several images.
pub trait Store {
    /// All images in the place that this resource points into, in order of name.
    fn list(&self) -> Result<Vec<Entry>>;
    /// This image is there.
    fn exists(&self) -> Result<bool>;
    /// Removes this image; [`Cause::Missing`] if there is none.
    fn remove(&self) -> Result<()>;
}

/// One image of a [`Store`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The URL that opens it.
    pub url: String,
    /// Its length.
    pub len_bytes: u64,
    /// When it was written, where the place knows.
    pub modified: Option<SystemTime>,
}
