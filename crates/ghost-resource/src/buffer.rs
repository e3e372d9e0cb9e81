//! Ghosts inside one program: an image in a buffer, and a pipe between two threads.
//!
//! A [`Buffer`] holds one image; its clones are the same buffer, so one is plugged into an export and another into an
//! import. Readers keep the image they opened even when the buffer is replaced or emptied. A [`channel`] is the two
//! ends of a bounded pipe: what is exported into one is imported from the other meanwhile, in constant memory.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Aftermath, Cause, Error, Result};
use crate::{ClassId, Direction, GhostRead, GhostWrite, Resource, Written};

/// Bytes that travel through a [`channel`] in one piece.
const PIECE_BYTES: usize = 256 << 10;

/// One image in the memory of this program, shared by all clones.
#[derive(Debug, Clone, Default)]
pub struct Buffer {
    image: Arc<Mutex<Option<Arc<Vec<u8>>>>>,
    replace: bool,
}

impl Buffer {
    /// An empty buffer; an export into one that holds an image already is refused.
    pub fn new() -> Self {
        Self::default()
    }

    /// A buffer that holds this image.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        let buffer = Self::new();
        *buffer.lock() = Some(Arc::new(bytes));
        buffer
    }

    /// The same buffer, but exports through this handle replace what it holds.
    pub fn replacing(&self) -> Self {
        Self { image: Arc::clone(&self.image), replace: true }
    }

    /// The image that it holds.
    pub fn bytes(&self) -> Option<Arc<Vec<u8>>> {
        self.lock().clone()
    }

    /// Takes the image out, so that the buffer is empty.
    pub fn take(&self) -> Option<Arc<Vec<u8>>> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Vec<u8>>>> {
        // Only whole values are ever put in, so a panic elsewhere leaves it sound.
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resource for Buffer {
    fn class(&self, direction: Direction) -> ClassId {
        match direction {
            Direction::Export => ClassId::MEMORY_WRITE,
            Direction::Import => ClassId::MEMORY_READ,
        }
    }
    fn describe(&self) -> String {
        "the memory buffer".into()
    }
    fn open_export(&mut self) -> Result<Box<dyn GhostWrite>> {
        if !self.replace && self.lock().is_some() {
            let advice = "take the image out first, or use `Buffer::replacing`";
            return Err(Error::new("opening", self.describe(), Cause::Exists).advise(advice));
        }
        Ok(Box::new(BufferWriter { buffer: self.clone(), bytes: Vec::new() }))
    }
    fn open_import(&mut self) -> Result<Box<dyn GhostRead>> {
        let image = self.bytes().ok_or_else(|| {
            Error::new("opening", self.describe(), Cause::Missing).advise("export into the buffer first")
        })?;
        Ok(Box::new(BufferReader { image, at: 0 }))
    }
}

struct BufferWriter {
    buffer: Buffer,
    bytes: Vec<u8>,
}

impl Write for BufferWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.try_reserve(bytes.len()).map_err(|_| {
            let full = io::Error::from(io::ErrorKind::OutOfMemory);
            Error::new("writing", self.buffer.describe(), full).leaving(Aftermath::NothingLeft)
        })?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl GhostWrite for BufferWriter {
    fn finish(self: Box<Self>) -> Result<Written> {
        let mut held = self.buffer.lock();
        if !self.buffer.replace && held.is_some() {
            let error = Error::new("finishing", self.buffer.describe(), Cause::Exists);
            return Err(error.leaving(Aftermath::NothingLeft));
        }
        let written = Written { len_bytes: self.bytes.len() as u64, durable: false };
        *held = Some(Arc::new(self.bytes));
        Ok(written)
    }
    fn abort(self: Box<Self>) {}
}

struct BufferReader {
    image: Arc<Vec<u8>>,
    at: usize,
}

impl Read for BufferReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = &self.image[self.at..];
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        self.at += len;
        Ok(len)
    }
}

impl GhostRead for BufferReader {
    fn as_mapped(&self) -> Option<&[u8]> {
        Some(&self.image)
    }
}

enum Piece {
    Bytes(Vec<u8>),
    End,
}

/// The two ends of a pipe that holds at most `capacity_bytes` (rounded up to pieces of 256 KiB).
///
/// Each end is opened once. An exporter that gives up is an error at the reading end, never a short image; a reader
/// that goes away is an error at the writing end.
pub fn channel(capacity_bytes: usize) -> (ChannelExport, ChannelImport) {
    let (send, receive) = sync_channel(capacity_bytes.div_ceil(PIECE_BYTES).max(1));
    let taken = Arc::new(AtomicU64::new(0));
    (ChannelExport(Some((send, Arc::clone(&taken)))), ChannelImport(Some((receive, taken))))
}

/// The end of a [`channel`] that is exported into.
#[derive(Debug)]
pub struct ChannelExport(Option<(SyncSender<Piece>, Arc<AtomicU64>)>);

/// The end of a [`channel`] that is imported from.
#[derive(Debug)]
pub struct ChannelImport(Option<(Receiver<Piece>, Arc<AtomicU64>)>);

const CHANNEL: &str = "the channel";

fn used(step: &'static str, what: &'static str) -> Error {
    Error::new(step, CHANNEL, Cause::Unable(what)).advise("make a new channel for each ghost")
}

impl Resource for ChannelExport {
    fn class(&self, direction: Direction) -> ClassId {
        Buffer::new().class(direction)
    }
    fn describe(&self) -> String {
        CHANNEL.into()
    }
    fn open_export(&mut self) -> Result<Box<dyn GhostWrite>> {
        let (send, taken) = self.0.take().ok_or_else(|| used("opening", "be opened twice"))?;
        Ok(Box::new(ChannelWriter { send, taken, piece: Vec::new(), len_bytes: 0 }))
    }
    fn open_import(&mut self) -> Result<Box<dyn GhostRead>> {
        Err(used("opening", "be read at its writing end"))
    }
}

impl Resource for ChannelImport {
    fn class(&self, direction: Direction) -> ClassId {
        Buffer::new().class(direction)
    }
    fn describe(&self) -> String {
        CHANNEL.into()
    }
    fn open_export(&mut self) -> Result<Box<dyn GhostWrite>> {
        Err(used("opening", "be written at its reading end"))
    }
    fn open_import(&mut self) -> Result<Box<dyn GhostRead>> {
        let (receive, taken) = self.0.take().ok_or_else(|| used("opening", "be opened twice"))?;
        Ok(Box::new(ChannelReader { receive, taken, piece: Vec::new(), at: 0, ended: false }))
    }
}

struct ChannelWriter {
    send: SyncSender<Piece>,
    /// Bytes that the reader has received.
    taken: Arc<AtomicU64>,
    piece: Vec<u8>,
    len_bytes: u64,
}

impl ChannelWriter {
    fn send(&self, piece: Piece) -> Result<()> {
        self.send.send(piece).map_err(|_| {
            Error::new("writing", CHANNEL, io::Error::from(io::ErrorKind::BrokenPipe)).leaving(Aftermath::Uncommitted)
        })
    }
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..len]);
        self.len_bytes += len as u64;
        if self.piece.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(len)
    }
    fn flush(&mut self) -> io::Result<()> {
        if !self.piece.is_empty() {
            let piece = std::mem::take(&mut self.piece);
            self.send(Piece::Bytes(piece))?;
        }
        Ok(())
    }
}

impl GhostWrite for ChannelWriter {
    fn finish(mut self: Box<Self>) -> Result<Written> {
        self.flush().map_err(|e| Error::from_io("finishing", CHANNEL, e))?;
        if let Err(gone) = self.send(Piece::End) {
            // A reader that knows by itself where a ghost ends may leave before it is told, but not before it has all.
            if self.taken.load(Ordering::Acquire) != self.len_bytes {
                return Err(gone);
            }
        }
        Ok(Written { len_bytes: self.len_bytes, durable: false })
    }
    fn abort(self: Box<Self>) {}
}

struct ChannelReader {
    receive: Receiver<Piece>,
    taken: Arc<AtomicU64>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for ChannelReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() && !self.ended {
            match self.receive.recv() {
                Ok(Piece::Bytes(piece)) => {
                    self.taken.fetch_add(piece.len() as u64, Ordering::Release);
                    (self.piece, self.at) = (piece, 0);
                }
                Ok(Piece::End) => self.ended = true,
                Err(_) => return Err(Error::new("reading", CHANNEL, Cause::PeerGone).into()),
            }
        }
        let rest = &self.piece[self.at..];
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        self.at += len;
        Ok(len)
    }
}

impl GhostRead for ChannelReader {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_carries_more_than_it_holds() {
        let (mut export, mut import) = channel(1);
        let writer = std::thread::spawn(move || {
            let mut out = export.open_export().unwrap();
            for n in 0..200u8 {
                out.write_all(&vec![n; 9_973]).unwrap();
            }
            out.finish().unwrap()
        });
        let mut all = Vec::new();
        import.open_import().unwrap().read_to_end(&mut all).unwrap();
        assert_eq!(writer.join().unwrap().len_bytes, all.len() as u64);
        assert!(all.chunks(9_973).zip(0..).all(|(part, n)| part.len() == 9_973 && part.iter().all(|b| *b == n)));
    }

    #[test]
    fn an_exporter_that_gives_up_is_an_error_for_the_importer() {
        let (mut export, mut import) = channel(1);
        let mut out = export.open_export().unwrap();
        out.write_all(b"half").unwrap();
        out.abort();
        let error = import.open_import().unwrap().read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "reading the channel: the exporting end gave up");
    }

    #[test]
    fn an_importer_that_goes_away_is_an_error_for_the_exporter() {
        let (mut export, mut import) = channel(1);
        let mut out = export.open_export().unwrap();
        drop(import.open_import().unwrap());
        out.write_all(&vec![0; PIECE_BYTES]).unwrap_err();
        assert!(out.finish().is_err());
    }

    #[test]
    fn an_importer_that_has_all_may_go_before_it_is_told_the_end() {
        for (taken, fine) in [(&b"al"[..], true), (b"", false)] {
            let (mut export, mut import) = channel(1);
            let mut out = export.open_export().unwrap();
            out.write_all(b"all").unwrap();
            out.flush().unwrap();
            let mut input = import.open_import().unwrap();
            input.read_exact(&mut vec![0; taken.len()]).unwrap();
            drop(input);
            assert_eq!(out.finish().is_ok(), fine);
        }
    }
}
