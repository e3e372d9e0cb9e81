//! The writing end of compression: blocks go to the pool, come back in order, and go below.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::sync::mpsc::Receiver;

use super::frame::{BLOCK_BYTES, Codec, Form, Head, Header, Packer};
use super::pool::Pool;
use crate::error::{Aftermath, Error, Result};
use crate::{GhostWrite, Written};

/// A block on its way through the pool, with the buffer for its packed form; both are used again.
struct Block {
    raw: Vec<u8>,
    packed: Vec<u8>,
    form: io::Result<Form>,
}

pub(super) struct CompressWriter {
    inner: Box<dyn GhostWrite>,
    label: String,
    pool: Pool<Block, Block>,
    /// Blocks under way, oldest first.
    under_way: VecDeque<Receiver<Block>>,
    filling: Vec<u8>,
    spare: Vec<Block>,
    len_bytes: u64,
    /// Something failed; the stream below has a gap now.
    broken: bool,
}

impl CompressWriter {
    pub(super) fn new(mut inner: Box<dyn GhostWrite>, codec: Codec, label: String) -> Result<Self> {
        let fail = |e| Error::from_io("compressing", &label, e);
        let pool = Pool::new(|| {
            let mut packer = Packer::new(codec)?;
            Ok(move |mut block: Block| {
                block.form = packer.pack(&block.raw, &mut block.packed);
                block
            })
        })
        .map_err(fail)?;
        inner.write_all(&Header { codec, block_bytes: BLOCK_BYTES as u32 }.encode()).map_err(fail)?;
        let filling = Vec::with_capacity(BLOCK_BYTES);
        Ok(Self {
            inner,
            label,
            pool,
            under_way: VecDeque::new(),
            filling,
            spare: Vec::new(),
            len_bytes: 0,
            broken: false,
        })
    }

    /// Sends what is gathered to the pool, once there is a place.
    fn submit(&mut self) -> io::Result<()> {
        while self.under_way.len() >= self.pool.depth() {
            self.emit_oldest()?;
        }
        let mut block = self.spare.pop().unwrap_or_else(|| Block {
            raw: Vec::with_capacity(BLOCK_BYTES),
            packed: Vec::new(),
            form: Ok(Form::Zeros),
        });
        block.raw.clear();
        std::mem::swap(&mut block.raw, &mut self.filling);
        self.under_way.push_back(self.pool.submit(block));
        Ok(())
    }

    /// Waits for the oldest block and writes it below.
    fn emit_oldest(&mut self) -> io::Result<()> {
        let Some(answer) = self.under_way.pop_front() else { return Ok(()) };
        let done = answer.recv().map_err(|_| io::Error::other("a compressing thread died")).and_then(|mut block| {
            let form = std::mem::replace(&mut block.form, Ok(Form::Zeros))?;
            let bytes = match form {
                Form::Packed => &block.packed[..],
                Form::Stored => &block.raw[..],
                Form::Zeros => &[],
            };
            let head = Head { raw_len: block.raw.len() as u32, packed_len: bytes.len() as u32, form };
            self.inner.write_pages(&[IoSlice::new(&head.encode()), IoSlice::new(bytes)])?;
            self.spare.push(block);
            Ok(())
        });
        done.map_err(|e| {
            self.broken = true;
            Error::from_io("compressing", &self.label, e).into()
        })
    }

    fn drain(&mut self) -> io::Result<()> {
        if !self.filling.is_empty() {
            self.submit()?;
        }
        while !self.under_way.is_empty() {
            self.emit_oldest()?;
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        self.drain()?;
        if self.broken {
            return Err(io::Error::other("an earlier write failed"));
        }
        self.inner.write_pages(&[IoSlice::new(&Head::END), IoSlice::new(&self.len_bytes.to_le_bytes())])
    }
}

impl Write for CompressWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.broken {
            return Err(Error::new("compressing", &self.label, io::Error::other("an earlier write failed")).into());
        }
        let len = bytes.len().min(BLOCK_BYTES - self.filling.len());
        self.filling.extend_from_slice(&bytes[..len]);
        if self.filling.len() == BLOCK_BYTES {
            self.submit()?;
        }
        self.len_bytes += len as u64;
        Ok(len)
    }

    /// All that was written can be read at the other end afterwards.
    fn flush(&mut self) -> io::Result<()> {
        self.drain()?;
        self.inner.flush()
    }
}

impl GhostWrite for CompressWriter {
    fn finish(mut self: Box<Self>) -> Result<Written> {
        match self.end() {
            Ok(()) => Ok(Written { len_bytes: self.len_bytes, ..self.inner.finish()? }),
            Err(e) => {
                self.inner.abort();
                let error = Error::from_io("finishing", &self.label, e);
                let untold = error.aftermath() == Aftermath::Untouched;
                Err(if untold { error.leaving(Aftermath::NothingLeft) } else { error })
            }
        }
    }

    fn abort(self: Box<Self>) {
        self.inner.abort();
    }
}
