//! The frame of compressed streams: header, block heads, end mark, and the two codecs.

use std::io;

/// Raw bytes in one block: small enough that eight threads stay under 20 MB, large enough to compress well.
pub(super) const BLOCK_BYTES: usize = 512 << 10;
/// The largest block that a reader makes room for.
const BLOCK_BYTES_MAX: u32 = 2 << 20;

pub(super) const MAGIC: &[u8; 8] = b"GHOSTLYR";
const VERSION: u8 = 1;
const STORED: u32 = 1 << 31;
const ZEROS: u32 = 1 << 30;

/// How blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Zstd { level: i32 },
    Lz4,
}

impl Codec {
    fn number(self) -> u8 {
        match self {
            Self::Zstd { .. } => 1,
            Self::Lz4 => 2,
        }
    }
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Zstd { .. } => "zstd",
            Self::Lz4 => "lz4",
        }
    }
}

/// What stands before the first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub codec: Codec,
    pub block_bytes: u32,
}

impl Header {
    pub(super) const LEN: usize = 16;

    pub(super) fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8] = VERSION;
        bytes[9] = self.codec.number();
        bytes[12..].copy_from_slice(&self.block_bytes.to_le_bytes());
        bytes
    }

    /// `None` if this is no compressed stream; an error if it is one that cannot be read.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, String> {
        let Some(rest) = bytes.strip_prefix(MAGIC) else { return Ok(None) };
        let &[version, codec, r0, r1, b0, b1, b2, b3] = rest else {
            return Err("it ends within its header".into());
        };
        if version != VERSION || (r0, r1) != (0, 0) {
            return Err(format!("version {version} is not known here, only {VERSION}"));
        }
        let codec = match codec {
            1 => Codec::Zstd { level: 0 },
            2 => Codec::Lz4,
            other => return Err(format!("codec {other} is not known here")),
        };
        let block_bytes = u32::from_le_bytes([b0, b1, b2, b3]);
        if !(1..=BLOCK_BYTES_MAX).contains(&block_bytes) {
            return Err(format!("blocks of {block_bytes} bytes are not allowed"));
        }
        Ok(Some(Self { codec, block_bytes }))
    }
}

/// How the bytes of one block are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Packed,
    Stored,
    Zeros,
}

/// What stands before the bytes of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub raw_len: u32,
    pub packed_len: u32,
    pub form: Form,
}

impl Head {
    pub(super) const LEN: usize = 8;
    /// The head of the end mark; the total follows.
    pub(super) const END: [u8; Self::LEN] = [0; Self::LEN];

    pub(super) fn encode(self) -> [u8; Self::LEN] {
        let flag = match self.form {
            Form::Packed => 0,
            Form::Stored => STORED,
            Form::Zeros => ZEROS,
        };
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.raw_len.to_le_bytes());
        bytes[4..].copy_from_slice(&(self.packed_len | flag).to_le_bytes());
        bytes
    }

    /// `None` for the end mark. What comes back is bounded by the header's block size, whatever the bytes say.
    pub(super) fn parse(bytes: [u8; Self::LEN], header: Header) -> Result<Option<Self>, String> {
        let [r0, r1, r2, r3, p0, p1, p2, p3] = bytes;
        let (raw_len, word) = (u32::from_le_bytes([r0, r1, r2, r3]), u32::from_le_bytes([p0, p1, p2, p3]));
        if (raw_len, word) == (0, 0) {
            return Ok(None);
        }
        let packed_len = word & !(STORED | ZEROS);
        let (form, fits) = match word & (STORED | ZEROS) {
            0 => (Form::Packed, packed_len > 0 && packed_len < raw_len),
            STORED => (Form::Stored, packed_len == raw_len),
            ZEROS => (Form::Zeros, packed_len == 0),
            _ => return Err("a block is of two forms at once".into()),
        };
        if raw_len == 0 || raw_len > header.block_bytes || !fits {
            return Err(format!("a block claims {packed_len} bytes for {raw_len} of at most {}", header.block_bytes));
        }
        Ok(Some(Self { raw_len, packed_len, form }))
    }
}

/// Compresses blocks, with what is worth keeping between them.
pub(super) enum Packer {
    Zstd(zstd::bulk::Compressor<'static>),
    Lz4,
}

impl Packer {
    pub(super) fn new(codec: Codec) -> io::Result<Self> {
        Ok(match codec {
            Codec::Zstd { level } => Self::Zstd(zstd::bulk::Compressor::new(level)?),
            Codec::Lz4 => Self::Lz4,
        })
    }

    /// Packs `raw` into `packed`, or says that it is to be stored as it is, or not at all.
    pub(super) fn pack(&mut self, raw: &[u8], packed: &mut Vec<u8>) -> io::Result<Form> {
        packed.clear();
        if is_zero(raw) {
            return Ok(Form::Zeros);
        }
        let room = match self {
            Self::Zstd(_) => zstd::zstd_safe::compress_bound(raw.len()),
            Self::Lz4 => lz4_flex::block::get_maximum_output_size(raw.len()),
        };
        packed.resize(room, 0);
        let len = match self {
            Self::Zstd(zstd) => zstd.compress_to_buffer(raw, &mut packed[..])?,
            Self::Lz4 => lz4_flex::block::compress_into(raw, packed).map_err(io::Error::other)?,
        };
        packed.truncate(len);
        Ok(if len < raw.len() { Form::Packed } else { Form::Stored })
    }
}

/// Decompresses blocks.
pub(super) enum Unpacker {
    Zstd(zstd::bulk::Decompressor<'static>),
    Lz4,
}

impl Unpacker {
    pub(super) fn new(codec: Codec) -> io::Result<Self> {
        Ok(match codec {
            Codec::Zstd { .. } => Self::Zstd(zstd::bulk::Decompressor::new()?),
            Codec::Lz4 => Self::Lz4,
        })
    }

    /// Unpacks into `raw`, which has the length that the head promised.
    pub(super) fn unpack(&mut self, packed: &[u8], raw: &mut [u8]) -> Result<(), String> {
        let len = match self {
            Self::Zstd(zstd) => zstd.decompress_to_buffer(packed, raw).map_err(|e| e.to_string())?,
            Self::Lz4 => lz4_flex::block::decompress_into(packed, raw).map_err(|e| e.to_string())?,
        };
        if len == raw.len() { Ok(()) } else { Err(format!("a block of {} bytes holds {len}", raw.len())) }
    }
}

/// All bytes are zero; by words, since most blocks that are not say so in their first page.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|page| page.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header { codec: Codec::Lz4, block_bytes: 1000 };

    #[test]
    fn headers_come_back_and_strange_ones_are_refused() {
        assert_eq!(Header::parse(&HEADER.encode()), Ok(Some(HEADER)));
        assert_eq!(Header::parse(b"GHOST, but another thing"), Ok(None));
        assert_eq!(Header::parse(b""), Ok(None));
        for (at, value) in [(8, 2), (9, 9), (10, 1), (15, 0xff)] {
            let mut bytes = HEADER.encode();
            bytes[at] = value;
            assert!(Header::parse(&bytes).is_err(), "byte {at}");
        }
        assert!(Header::parse(&HEADER.encode()[..12]).is_err());
    }

    #[test]
    fn heads_never_promise_more_than_a_block() {
        let good = Head { raw_len: 1000, packed_len: 999, form: Form::Packed };
        assert_eq!(Head::parse(good.encode(), HEADER), Ok(Some(good)));
        assert_eq!(Head::parse(Head::END, HEADER), Ok(None));
        for (raw_len, packed_len, form) in [
            (1001, 5, Form::Packed),
            (1000, 1000, Form::Packed),
            (10, 0, Form::Packed),
            (0, 5, Form::Stored),
            (10, 9, Form::Stored),
            (10, 1, Form::Zeros),
            (u32::MAX, 0, Form::Zeros),
        ] {
            assert!(Head::parse(Head { raw_len, packed_len, form }.encode(), HEADER).is_err(), "{raw_len} {form:?}");
        }
    }
}
