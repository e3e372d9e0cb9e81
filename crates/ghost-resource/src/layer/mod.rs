//! Layers: what lies between an exporter and any place, whatever plug-in that is.
//!
//! A [`Layered`] resource is a resource with a [`Layer`] on it, and is itself one; several are stacked by wrapping
//! again, or by naming them in [`Options::layers`](crate::Options). Compression writes a frame of its own
//! (`docs/format.md` has nothing of it: it wraps the ghost, and is taken off before the ghost is looked at):
//!
//! ```text
//! "GHOSTLYR" | version 1: u8 | codec: u8 (1 zstd, 2 lz4) | 0: u16 | block_bytes: u32            header, 16 bytes
//! raw_len: u32 | packed_len: u32, bit 31 stored, bit 30 all zeros | packed_len bytes               any number of blocks
//! 0: u32 | 0: u32 | total raw bytes: u64                                                           end mark
//! ```
//!
//! All numbers are little-endian. Blocks are compressed independently by a small pool of threads, and written in
//! order. An importer needs not be told: [`open_import_auto`] sees the magic and undoes what it finds. A stream
//! without its end mark is [`Cause::Truncated`](crate::Cause), never a shorter ghost.

mod compress;
mod decompress;
mod frame;
mod pool;
mod rate;

use std::io::{self, Read};
use std::num::NonZeroU64;
use std::str::FromStr;

use crate::error::{Cause, Error, Result};
use crate::{ClassId, Direction, GhostRead, GhostWrite, Resource, Store};
use frame::Header;

/// Layers that are undone on one stream; more is taken for an attack on the importer's memory.
const LAYERS_MAX: usize = 4;

/// What a layer does to the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Compressed by zstd, -7 (fast) to 19 (small); 1 is a good level for memory.
    Zstd {
        /// The compression level.
        level: i32,
    },
    /// Compressed by LZ4: less small than zstd, and faster.
    Lz4,
    /// No more than so many bytes each second, in either direction.
    RateLimit {
        /// Bytes each second.
        bytes_per_s: NonZeroU64,
    },
}

impl FromStr for Layer {
    type Err = Error;

    /// `zstd`, `zstd:LEVEL` or `lz4`.
    fn from_str(text: &str) -> Result<Self> {
        let (name, level) = text.split_once(':').map_or((text, None), |(name, level)| (name, Some(level)));
        let refuse = || {
            let why = format!("`{text}` is no compression: zstd, zstd:LEVEL (-7 to 19) or lz4");
            Err(Error::new("choosing", "the compression", Cause::Address(why)).advise("name one of these"))
        };
        match (name, level.map(str::parse::<i32>)) {
            ("zstd", None) => Ok(Self::Zstd { level: 1 }),
            ("zstd", Some(Ok(level @ -7..=19))) => Ok(Self::Zstd { level }),
            ("lz4", None) => Ok(Self::Lz4),
            _ => refuse(),
        }
    }
}

/// A resource with a layer on it.
pub struct Layered {
    inner: Box<dyn Resource>,
    layer: Layer,
}

impl Layered {
    /// Puts the layer on the resource.
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use ghost_resource::{Buffer, Layer, Layered, Resource, open_import_auto};
    ///
    /// let mut buffer = Buffer::new();
    /// let mut out = Layered::new(Box::new(buffer.clone()), Layer::Lz4).open_export()?;
    /// out.write_all(&[7; 100_000])?;
    /// assert_eq!(out.finish()?.len_bytes, 100_000);
    /// assert!(buffer.bytes().unwrap().len() < 1_000);
    ///
    /// let mut image = Vec::new();
    /// open_import_auto(&mut buffer)?.read_to_end(&mut image)?; // finds the layer by itself
    /// assert_eq!(image, [7; 100_000]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(inner: Box<dyn Resource>, layer: Layer) -> Self {
        Self { inner, layer }
    }

    /// Puts all of them on, the first one nearest to the exporter.
    pub fn stack(place: Box<dyn Resource>, layers: &[Layer]) -> Box<dyn Resource> {
        layers.iter().rev().fold(place, |inner, layer| Box::new(Self::new(inner, *layer)))
    }
}

impl Resource for Layered {
    fn class(&self, direction: Direction) -> ClassId {
        self.inner.class(direction)
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn open_export(&mut self) -> Result<Box<dyn GhostWrite>> {
        let label = self.inner.describe();
        let codec = match self.layer {
            Layer::Zstd { level } => frame::Codec::Zstd { level },
            Layer::Lz4 => frame::Codec::Lz4,
            Layer::RateLimit { bytes_per_s } => {
                return Ok(Box::new(rate::Limited::new(self.inner.open_export()?, bytes_per_s)));
            }
        };
        Ok(Box::new(compress::CompressWriter::new(self.inner.open_export()?, codec, label)?))
    }
    fn open_import(&mut self) -> Result<Box<dyn GhostRead>> {
        match self.layer {
            Layer::RateLimit { bytes_per_s } => {
                Ok(Box::new(rate::Limited::new(self.inner.open_import()?, bytes_per_s)))
            }
            // Whatever was written there; a plain ghost is read as well.
            Layer::Zstd { .. } | Layer::Lz4 => open_import_auto(&mut *self.inner),
        }
    }
    fn store(&self) -> Option<&dyn Store> {
        self.inner.store()
    }
}

/// Whether these first bytes of a stream are those of a layer.
pub fn is_layer(first: &[u8]) -> bool {
    first.starts_with(frame::MAGIC)
}

/// Opens a resource to be read, and undoes all layers that its first bytes tell of.
pub fn open_import_auto(resource: &mut dyn Resource) -> Result<Box<dyn GhostRead>> {
    let label = resource.describe();
    undo_layers(resource.open_import()?, &label)
}

/// Undoes all layers that the first bytes of an opened stream tell of; `label` names it in messages.
///
/// A stream without layers keeps its abilities: it can still be mapped and read as a file.
pub fn undo_layers(mut reader: Box<dyn GhostRead>, label: &str) -> Result<Box<dyn GhostRead>> {
    for _ in 0..LAYERS_MAX {
        let peeked = Peeked::new(reader).map_err(|e| Error::from_io("reading", label, e))?;
        let Some(header) = Header::parse(peeked.first()).map_err(|what| damaged("compressed", label, what))? else {
            return Ok(Box::new(peeked));
        };
        reader = Box::new(decompress::DecompressReader::new(peeked.inner, header, label)?);
    }
    Err(damaged("compressed", label, format!("more than {LAYERS_MAX} layers lie on each other")))
}

fn damaged(layer: &'static str, label: &str, what: impl Into<String>) -> Error {
    Error::new("reading", label, Cause::Damaged { layer, what: what.into() })
}

/// A reader whose first bytes were looked at.
struct Peeked {
    first: [u8; Header::LEN],
    len: usize,
    at: usize,
    inner: Box<dyn GhostRead>,
}

impl Peeked {
    fn new(mut inner: Box<dyn GhostRead>) -> io::Result<Self> {
        let (mut first, mut len) = ([0; Header::LEN], 0);
        while len < first.len() {
            match inner.read(&mut first[len..]) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Self { first, len, at: 0, inner })
    }

    fn first(&self) -> &[u8] {
        &self.first[..self.len]
    }
}

impl Read for Peeked {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.len {
            return self.inner.read(into);
        }
        let rest = &self.first[self.at..self.len];
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        self.at += len;
        Ok(len)
    }
}

impl GhostRead for Peeked {
    fn as_mapped(&self) -> Option<&[u8]> {
        self.inner.as_mapped()
    }
    fn as_file(&self) -> Option<&std::fs::File> {
        self.inner.as_file()
    }
}
