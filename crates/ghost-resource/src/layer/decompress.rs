//! The reading end of compression: one thread reads blocks from below, the pool unpacks them, order is kept.
//!
//! The reading thread is what lets a block be handed out as soon as it is there, although the next one may be long
//! in coming. When a reader is dropped early, that thread ends with the next block or the end of what it reads from,
//! and closes the stream below then.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::damaged;
use super::frame::{Form, Head, Header, Unpacker};
use super::pool::Pool;
use crate::GhostRead;
use crate::error::{Cause, Error, Result};

type Unpacked = Result<Vec<u8>, String>;

/// What the reading thread tells, in order.
enum Step {
    Block(Receiver<Unpacked>),
    End,
    Failed(Error),
}

pub(super) struct DecompressReader {
    steps: Receiver<Step>,
    below: Option<JoinHandle<()>>,
    layer: &'static str,
    label: String,
    block: Vec<u8>,
    at: usize,
    ended: bool,
}

impl DecompressReader {
    pub(super) fn new(inner: Box<dyn GhostRead>, header: Header, label: &str) -> Result<Self> {
        let fail = |e| Error::new("decompressing", label, Cause::Io(e));
        let pool = Pool::new(|| {
            let mut unpacker = Unpacker::new(header.codec)?;
            Ok(move |(head, packed): (Head, Vec<u8>)| unpack(&mut unpacker, head, packed))
        })
        .map_err(fail)?;
        let (tell, steps) = sync_channel(pool.depth());
        let layer = header.codec.name();
        let below = Below { inner, header, label: label.into(), layer, len_bytes: 0, pool };
        let name = "ghost-layer-in".to_string();
        let below = std::thread::Builder::new().name(name).spawn(move || below.run(&tell)).map_err(fail)?;
        Ok(Self { steps, below: Some(below), layer, label: label.into(), block: Vec::new(), at: 0, ended: false })
    }

    /// The next block is in `block`, or there is none any more.
    fn advance(&mut self) -> Result<()> {
        let dead = || damaged(self.layer, &self.label, "a decompressing thread died");
        match self.steps.recv().map_err(|_| dead())? {
            Step::Block(answer) => {
                let block = answer.recv().map_err(|_| dead())?;
                self.block = block.map_err(|what| damaged(self.layer, &self.label, what))?;
                self.at = 0;
            }
            Step::End => {
                self.ended = true;
                self.close();
            }
            Step::Failed(error) => {
                self.close();
                return Err(error);
            }
        }
        Ok(())
    }

    /// The reading thread has told its last; waiting for it closes what is below before the caller goes on.
    fn close(&mut self) {
        if let Some(below) = self.below.take() {
            // Should it have died, that was told as well.
            let _ = below.join();
        }
    }
}

fn unpack(unpacker: &mut Unpacker, head: Head, packed: Vec<u8>) -> Unpacked {
    match head.form {
        Form::Stored => Ok(packed),
        Form::Zeros => Ok(vec![0; head.raw_len as usize]),
        Form::Packed => {
            let mut raw = vec![0; head.raw_len as usize];
            unpacker.unpack(&packed, &mut raw)?;
            Ok(raw)
        }
    }
}

impl Read for DecompressReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() && !self.ended && !into.is_empty() {
            self.advance()?;
        }
        let rest = &self.block[self.at..];
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        self.at += len;
        Ok(len)
    }
}

impl GhostRead for DecompressReader {}

/// What the reading thread owns.
struct Below {
    inner: Box<dyn GhostRead>,
    header: Header,
    label: String,
    layer: &'static str,
    len_bytes: u64,
    pool: Pool<(Head, Vec<u8>), Unpacked>,
}

impl Below {
    fn run(mut self, tell: &SyncSender<Step>) {
        loop {
            let step = match self.next() {
                Ok(Some(answer)) => Step::Block(answer),
                Ok(None) => Step::End,
                Err(error) => Step::Failed(error),
            };
            let last = !matches!(step, Step::Block(_));
            // A reader that is gone needs nothing more.
            if tell.send(step).is_err() || last {
                return;
            }
        }
    }

    fn next(&mut self) -> Result<Option<Receiver<Unpacked>>> {
        let mut head = [0; Head::LEN];
        self.fill(&mut head)?;
        let parsed = Head::parse(head, self.header).map_err(|what| damaged(self.layer, &self.label, what))?;
        let Some(head) = parsed else {
            let mut total = [0; 8];
            self.fill(&mut total)?;
            let total = u64::from_le_bytes(total);
            if total == self.len_bytes {
                return Ok(None);
            }
            let what = format!("its end tells of {total} bytes, its blocks held {}", self.len_bytes);
            return Err(damaged(self.layer, &self.label, what));
        };
        // Bounded by the header's block size, which is bounded itself.
        let mut packed = vec![0; head.packed_len as usize];
        self.fill(&mut packed)?;
        self.len_bytes += u64::from(head.raw_len);
        Ok(Some(self.pool.submit((head, packed))))
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<()> {
        self.inner.read_exact(into).map_err(|e| match e.downcast::<Error>() {
            Ok(ours) => ours,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                let cause = Cause::Truncated { layer: self.layer, bytes: self.len_bytes };
                Error::new("reading", &self.label, cause)
            }
            Err(e) => Error::new("reading", &self.label, e),
        })
    }
}
