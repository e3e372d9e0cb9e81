//! The header: what must be known before anything else is read.
//!
//! Fixed places, little-endian, no protobuf, so that any tool in any language can tell what a file is and
//! whether it may read on. The layout is drawn in `docs/format.md`. The first 16 bytes (magic, version, length)
//! and the checksum in the last 8 stay where they are in every version to come.

use std::fmt;
use std::io::Read;

use xxhash_rust::xxh3::xxh3_64;

use crate::PAGE;
use crate::bounds::MAX_HEADER;
use crate::error::{Error, Flaw, Place, Unknown};
use crate::section::{Name, u16_at, u32_at, u64_at};

/// The first eight bytes of every ghost. The first is no text, the line end shows text-mode damage.
pub const MAGIC: [u8; 8] = *b"\x89ghost\r\n";
/// The format this crate writes: a reader refuses a newer major number and reads any minor one.
pub const VERSION: Version = Version { major: 1, minor: 0 };

/// Where the feature names begin: the end of the fixed fields of format 1.0.
const FIXED: usize = 136;
const KERNEL: std::ops::Range<usize> = 64..128;
/// Flags that a reader may ignore; the others it must know.
const IGNORABLE_FLAGS: u32 = 0xffff;

/// A format version. Minor versions only add; a reader of `major.0` reads every `major.x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Raised when old readers would misread.
    pub major: u16,
    /// Raised when something is added that old readers may ignore.
    pub minor: u16,
}

/// A processor architecture, by its number in ELF files (`e_machine`, `elf(5)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arch(pub u16);

impl Arch {
    /// AMD64.
    pub const X86_64: Arch = Arch(62);
    /// Arm, 64 bits.
    pub const AARCH64: Arch = Arch(183);
    /// 64-bit RISC-V.
    pub const RISCV64: Arch = Arch(243);

    /// The architecture this crate was compiled for, if it has a number here.
    pub fn of_this_build() -> Option<Arch> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Arch::X86_64),
            "aarch64" => Some(Arch::AARCH64),
            "riscv64" => Some(Arch::RISCV64),
            _ => None,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Arch::X86_64 => f.write_str("x86_64"),
            Arch::AARCH64 => f.write_str("aarch64"),
            Arch::RISCV64 => f.write_str("riscv64"),
            Arch(number) => write!(f, "machine {number}"),
        }
    }
}

/// The header of a ghost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The format the ghost is written in.
    pub version: Version,
    /// The processor its registers belong to.
    pub arch: Arch,
    /// Bytes in a page; page data is aligned to it.
    pub page_size: u32,
    /// Bits 0 to 15 may be ignored by readers, bits 16 to 31 may not. None is defined in format 1.
    pub flags: u32,
    /// `CLOCK_REALTIME` when the ghost was begun, in nanoseconds.
    pub created_ns: i64,
    /// Names this ghost for those that build on it.
    pub id: [u8; 16],
    /// The ghost this one builds on, whose pages it does not repeat.
    pub parent: Option<[u8; 16]>,
    /// The kernel's release (`uname(2)`), at most 64 bytes.
    pub kernel: String,
    /// What the restoring host must offer, by name.
    pub features: Vec<String>,
}

impl Header {
    /// A header in the current format, with pages of 4096 bytes and no features.
    pub fn new(arch: Arch, kernel: impl Into<String>) -> Header {
        Header {
            version: VERSION,
            arch,
            page_size: PAGE as u32,
            flags: 0,
            created_ns: 0,
            id: [0; 16],
            parent: None,
            kernel: kernel.into(),
            features: Vec::new(),
        }
    }

    /// The features this ghost needs that are not among `offered`.
    pub fn missing<'h>(&'h self, offered: &[&str]) -> Vec<&'h str> {
        self.features.iter().map(String::as_str).filter(|needed| !offered.contains(needed)).collect()
    }

    /// The bytes of this header, checksum included.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let refuse = |flaw| Error::Unwritable { place: at(0), flaw };
        if !self.page_size.is_power_of_two() || !page_shift_known(self.page_size.trailing_zeros() as u8) {
            return Err(refuse(Flaw::PageSize(self.page_size.trailing_zeros() as u8)));
        }
        if self.kernel.len() > KERNEL.len() || self.kernel.contains('\0') {
            return Err(refuse(Flaw::HeaderText("the kernel release")));
        }
        let mut features = Vec::new();
        for feature in &self.features {
            if feature.is_empty() || feature.contains('\0') {
                return Err(refuse(Flaw::HeaderText("a feature name")));
            }
            features.extend_from_slice(feature.as_bytes());
            features.push(0);
        }
        let len = (FIXED + features.len()).next_multiple_of(8) + 8;
        if len > MAX_HEADER as usize {
            return Err(refuse(Flaw::HeaderText("the list of features")));
        }
        let mut out = vec![0; len - 8];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&self.version.major.to_le_bytes());
        out[10..12].copy_from_slice(&self.version.minor.to_le_bytes());
        out[12..16].copy_from_slice(&(len as u32).to_le_bytes());
        out[16..18].copy_from_slice(&self.arch.0.to_le_bytes());
        out[18] = self.page_size.trailing_zeros() as u8;
        out[20..24].copy_from_slice(&self.flags.to_le_bytes());
        out[24..32].copy_from_slice(&self.created_ns.to_le_bytes());
        out[32..48].copy_from_slice(&self.id);
        out[48..64].copy_from_slice(&self.parent.unwrap_or_default());
        out[64..64 + self.kernel.len()].copy_from_slice(self.kernel.as_bytes());
        out[128..130].copy_from_slice(&(features.len() as u16).to_le_bytes());
        out[FIXED..FIXED + features.len()].copy_from_slice(&features);
        let checksum = xxh3_64(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        Ok(out)
    }

    /// Reads a header and nothing beyond it.
    pub fn read(source: &mut impl Read) -> Result<Header, Error> {
        Ok(Header::read_with_bytes(source)?.0)
    }

    /// The header and the bytes it was read from, which the commit mark covers too.
    pub(crate) fn read_with_bytes(source: &mut impl Read) -> Result<(Header, Vec<u8>), Error> {
        let mut bytes = vec![0; 16];
        fill(source, &mut bytes[..8], 0)?;
        if bytes[..8] != MAGIC {
            let mut found = [0; 8];
            found.copy_from_slice(&bytes[..8]);
            return Err(Error::NotGhost { found });
        }
        fill(source, &mut bytes[8..], 8)?;
        let len = u32_at(&bytes, 12);
        if len < FIXED as u32 + 8 || len > MAX_HEADER || !len.is_multiple_of(8) {
            return Err(Error::Corrupt { place: at(12), flaw: Flaw::HeaderLength(len) });
        }
        bytes.resize(len as usize, 0);
        fill(source, &mut bytes[16..], 16)?;
        let header = Header::parse(&bytes)?;
        Ok((header, bytes))
    }

    /// Parses a whole header, magic and length checked.
    fn parse(bytes: &[u8]) -> Result<Header, Error> {
        let corrupt = |offset, flaw| Error::Corrupt { place: at(offset), flaw };
        let end = bytes.len() - 8;
        if u64_at(bytes, end) != xxh3_64(&bytes[..end]) {
            return Err(corrupt(end as u64, Flaw::HeaderChecksum));
        }
        let version = Version { major: u16_at(bytes, 8), minor: u16_at(bytes, 10) };
        if version.major > VERSION.major {
            let what = Unknown::Version { major: version.major, minor: version.minor, known: VERSION.major };
            return Err(Error::Unsupported { place: at(8), what });
        }
        if version.major == 0 {
            return Err(corrupt(8, Flaw::HeaderText("version 0")));
        }
        let flags = u32_at(bytes, 20);
        if flags & !IGNORABLE_FLAGS != 0 {
            let what = Unknown::HeaderFlags(flags & !IGNORABLE_FLAGS);
            return Err(Error::Unsupported { place: at(20), what });
        }
        if !page_shift_known(bytes[18]) {
            return Err(corrupt(18, Flaw::PageSize(bytes[18])));
        }
        let kernel = &bytes[KERNEL];
        let kernel = &kernel[..kernel.iter().position(|&b| b == 0).unwrap_or(kernel.len())];
        let kernel = str::from_utf8(kernel).map_err(|_| corrupt(64, Flaw::HeaderText("the kernel release")))?;
        let names = bytes[FIXED..end].get(..u16_at(bytes, 128) as usize);
        let names = names.and_then(|names| str::from_utf8(names).ok());
        let names = names.filter(|names| names.is_empty() || names.ends_with('\0'));
        let names = names.filter(|names| !names.starts_with('\0') && !names.contains("\0\0"));
        let names = names.ok_or_else(|| corrupt(128, Flaw::HeaderText("the list of features")))?;
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[32..48]);
        let mut parent = [0; 16];
        parent.copy_from_slice(&bytes[48..64]);
        Ok(Header {
            version,
            arch: Arch(u16_at(bytes, 16)),
            page_size: 1 << bytes[18],
            flags,
            created_ns: u64_at(bytes, 24) as i64,
            id,
            parent: (parent != [0; 16]).then_some(parent),
            kernel: kernel.to_owned(),
            features: names.split_terminator('\0').map(str::to_owned).collect(),
        })
    }
}

/// 4 KiB to 64 KiB: the base page sizes of the machines Linux runs on.
fn page_shift_known(shift: u8) -> bool {
    (12..=16).contains(&shift)
}

fn at(offset: u64) -> Place {
    Place { offset, section: Name::HEADER }
}

fn fill(source: &mut impl Read, out: &mut [u8], mut offset: u64) -> Result<(), Error> {
    let mut done = 0;
    while done < out.len() {
        match source.read(&mut out[done..]) {
            Ok(0) => return Err(Error::Torn { place: at(offset) }),
            Ok(n) => {
                done += n;
                offset += n as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Read { place: at(offset), source }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by the fuzzer: a reader that took them read headers which the writer refused.
    #[test]
    fn empty_feature_names_are_refused_by_reader_and_writer() {
        let mut header = Header::new(Arch::AARCH64, "6.18.0");
        header.features = vec!["ab".into(), "cd".into()];
        let sound = header.encode().unwrap();
        for at in [FIXED, FIXED + 2, FIXED + 3, FIXED + 5] {
            let mut bytes = sound.clone();
            bytes[at] = if bytes[at] == 0 { b'x' } else { 0 };
            let end = bytes.len() - 8;
            let checksum = xxh3_64(&bytes[..end]);
            bytes[end..].copy_from_slice(&checksum.to_le_bytes());
            let read = Header::read(&mut &bytes[..]);
            if at == FIXED + 2 {
                assert_eq!(read.unwrap().features, ["abxcd"]);
            } else {
                let flaw = Flaw::HeaderText("the list of features");
                assert!(matches!(read, Err(Error::Corrupt { flaw: found, .. }) if found == flaw), "byte {at}");
            }
        }
        header.features.push(String::new());
        assert!(matches!(header.encode(), Err(Error::Unwritable { .. })));
    }
}
