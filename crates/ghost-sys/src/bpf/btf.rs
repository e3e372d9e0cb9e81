//! The kernel's own description of its types, `/sys/kernel/btf/vmlinux` (Linux 5.4, `CONFIG_DEBUG_INFO_BTF`).
//!
//! Layout: kernel `Documentation/bpf/btf.rst`: a header, types one behind the other, numbered from 1, and the strings that they name. What is
//! wanted is few: one function by name, and from it, by number, the types of its parameters, their members, and so on. The description
//! is mapped where the kernel allows it (Linux 6.16), so that only what is looked at is touched, else read (5 MB).
//!
//! Nothing here is trusted: whatever does not fit is None. A wrong offset would be found by the verifier only by chance; but the
//! kernel checks programs against this same description.

#![allow(unsafe_code)]

use super::asm::Width;
use crate::{Errno, Result};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

/// The number of a type; 0 is `void`.
pub type TypeId = u32;

const PATH: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
/// Every so many types the place of one is kept.
const MARK: usize = 64;

const KIND_INT: u32 = 1;
const KIND_POINTER: u32 = 2;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNCTION: u32 = 12;
const KIND_PROTOTYPE: u32 = 13;
const KIND_ENUM64: u32 = 19;

/// What a type is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number of so many bytes: integers, enumerations.
    Number(u32),
    /// A pointer to this.
    Pointer(TypeId),
    /// A structure or union of so many bytes.
    Struct(u32),
    /// Anything else.
    Other,
}

/// A member of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it lies in the structure that was asked, in bytes.
    pub offset: u32,
    /// Its type.
    pub ty: TypeId,
    /// Bytes of the nameless union or structure that it stands in, or of itself.
    pub within: u32,
}

/// The description.
#[derive(Debug)]
pub struct Btf {
    bytes: Bytes,
    types: std::ops::Range<usize>,
    strings: std::ops::Range<usize>,
    /// Where types 1, 1 + MARK, 1 + 2 MARK, ... begin, as far as was looked.
    marks: Vec<u32>,
}

impl Btf {
    /// That of the running kernel.
    pub fn of_kernel() -> Result<Self> {
        let file = File::open(PATH)?;
        let len = file.metadata()?.len() as usize;
        let bytes = match Bytes::map(&file, len) {
            Ok(bytes) => bytes,
            Err(_) => Bytes::read(file, len)?,
        };
        Self::of(bytes).ok_or(Errno(libc::EINVAL))
    }
    fn of(bytes: Bytes) -> Option<Self> {
        let all: &[u8] = &bytes;
        let word = |at: usize| Some(u32::from_ne_bytes(all.get(at..at + 4)?.try_into().ok()?) as usize);
        if u16::from_ne_bytes(all.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let head = word(4)?;
        let range = |offset: usize, len: usize| {
            let range = head.checked_add(offset)?..head.checked_add(offset)?.checked_add(len)?;
            (range.end <= all.len() && range.end <= u32::MAX as usize).then_some(range)
        };
        let (types, strings) = (range(word(8)?, word(12)?)?, range(word(16)?, word(20)?)?);
        let marks = vec![types.start as u32];
        Some(Self { bytes, types, strings, marks })
    }
    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
    }
    /// The three words that every type begins with: name, kind and count, size or type.
    fn head(&self, at: usize) -> Option<[u32; 3]> {
        let head = self.bytes.get(at..at.checked_add(12)?).filter(|_| at < self.types.end)?;
        let word = |i: usize| u32::from_ne_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
        Some([word(0), word(4), word(8)])
    }
    fn is_named(&self, name: u32, wanted: &str) -> bool {
        let at = self.strings.start + name as usize;
        self.bytes
            .get(at..at + wanted.len() + 1)
            .is_some_and(|s| s[..wanted.len()] == *wanted.as_bytes() && s[wanted.len()] == 0)
    }
    /// Where the type behind the one at `at` begins.
    fn next(at: usize, info: u32) -> Option<usize> {
        let count = count(info);
        let more = match kind(info) {
            // Numbers, variables, declaration tags.
            KIND_INT | 14 | 17 => 4,
            // Arrays.
            3 => 12,
            KIND_STRUCT | KIND_UNION | 15 | KIND_ENUM64 => 12 * count,
            KIND_ENUM | KIND_PROTOTYPE => 8 * count,
            KIND_POINTER | 7..=12 | 16 | 18 => 0,
            _ => return None,
        };
        at.checked_add(12 + more)
    }
    /// Where a type begins.
    fn place(&self, id: TypeId) -> Option<usize> {
        let index = (id as usize).checked_sub(1)?;
        let nearest = (index / MARK).min(self.marks.len() - 1);
        let mut at = self.marks[nearest] as usize;
        for _ in nearest * MARK..index {
            at = Self::next(at, self.head(at)?[1])?;
        }
        (at < self.types.end).then_some(at)
    }
    /// The functions with these names, in one pass.
    pub fn functions<const N: usize>(&mut self, names: [&str; N]) -> [Option<TypeId>; N] {
        let mut found = [None; N];
        let (mut at, mut index) = (self.types.start, 0_usize);
        self.marks.clear();
        while let Some([name, info, _]) = self.head(at) {
            if index.is_multiple_of(MARK) {
                self.marks.push(at as u32);
            }
            index += 1;
            if kind(info) == KIND_FUNCTION
                && let Some(which) = names.iter().position(|wanted| self.is_named(name, wanted))
            {
                found[which].get_or_insert(index as TypeId);
                if found.iter().all(Option::is_some) {
                    break;
                }
            }
            let Some(next) = Self::next(at, info) else { break };
            at = next;
        }
        if self.marks.is_empty() {
            self.marks.push(self.types.start as u32);
        }
        found
    }
    /// Which parameter of a function has this name, from 0, and its type.
    pub fn parameter(&self, function: TypeId, wanted: &str) -> Option<(usize, TypeId)> {
        let [_, info, prototype] = self.head(self.place(function)?)?;
        let at = self.place(prototype).filter(|_| kind(info) == KIND_FUNCTION)?;
        let [_, info, _] = self.head(at)?;
        let mut parameters = (0..count(info)).filter(|_| kind(info) == KIND_PROTOTYPE);
        let which = parameters.find(|i| self.word(at + 12 + 8 * i).is_some_and(|n| self.is_named(n, wanted)))?;
        Some((which, self.word(at + 16 + 8 * which)?))
    }
    /// What a type is, once its `const`, `volatile` and other names are taken off.
    pub fn kind(&self, ty: TypeId) -> Option<Kind> {
        let [_, info, last] = self.head(self.place(self.bare(ty)?)?)?;
        Some(match kind(info) {
            KIND_INT | KIND_ENUM | KIND_ENUM64 => Kind::Number(last),
            KIND_POINTER => Kind::Pointer(last),
            KIND_STRUCT | KIND_UNION => Kind::Struct(last),
            _ => Kind::Other,
        })
    }
    fn bare(&self, mut ty: TypeId) -> Option<TypeId> {
        for _ in 0..32 {
            let [_, info, last] = self.head(self.place(ty)?)?;
            match kind(info) {
                // Typedef, volatile, const, restrict, type tag.
                8..=11 | 18 => ty = last,
                _ => return Some(ty),
            }
        }
        None
    }
    /// A member of a structure or union by its name, also inside of nameless ones. Not one of single bits.
    pub fn member(&self, structure: TypeId, wanted: &str) -> Option<Member> {
        let (member, bits) = self.member_below(structure, wanted, 8)?;
        bits.is_empty().then_some(member)
    }
    /// Loads from an object of this type to the number that these members lead to, the first of them at this many bytes more. A
    /// pointer on the way is followed; one at the end is itself the number.
    pub fn route(&self, mut at: u32, mut ty: TypeId, members: &[&str]) -> Option<Vec<(Width, i16)>> {
        let mut loads = Vec::new();
        for member in members {
            if let Kind::Pointer(to) = self.kind(ty)? {
                loads.push((Width::B8, i16::try_from(at).ok()?));
                (at, ty) = (0, to);
            }
            let found = self.member(ty, member)?;
            (at, ty) = (at + found.offset, found.ty);
        }
        let bytes = match self.kind(ty)? {
            Kind::Number(bytes) => bytes,
            Kind::Pointer(_) => size_of::<u64>() as u32,
            _ => return None,
        };
        loads.push((Width::of(bytes)?, i16::try_from(at).ok()?));
        Some(loads)
    }
    /// The byte that has a member which is some of its bits, or a whole byte.
    pub fn byte(&self, structure: TypeId, wanted: &str) -> Option<u32> {
        let (member, bits) = self.member_below(structure, wanted, 8)?;
        let is_byte = if bits.is_empty() { member.within == 1 } else { bits.end <= 8 };
        is_byte.then_some(member.offset)
    }
    /// Also which bits of the byte at its offset it has, where it is not whole bytes.
    fn member_below(&self, structure: TypeId, wanted: &str, depth: usize) -> Option<(Member, std::ops::Range<u32>)> {
        let at = self.place(self.bare(structure)?)?;
        let [_, info, _] = self.head(at)?;
        if !matches!(kind(info), KIND_STRUCT | KIND_UNION) {
            return None;
        }
        let has_bits = info >> 31 == 1;
        for i in 0..count(info) {
            let [name, ty, offset] = [0, 4, 8].map(|k| self.word(at + 12 + 12 * i + k));
            let (name, ty, offset) = (name?, ty?, offset?);
            // In a structure with members of bits, the upper byte says how many this one has.
            let (bits, offset) = if has_bits { (offset >> 24, offset & 0xff_ffff) } else { (0, offset) };
            if name != 0 && self.is_named(name, wanted) {
                let size = match self.kind(ty)? {
                    Kind::Number(size) | Kind::Struct(size) => size,
                    Kind::Pointer(_) => size_of::<u64>() as u32,
                    Kind::Other => 0,
                };
                let bits = if bits == 0 { 0..0 } else { offset % 8..offset % 8 + bits };
                let is_whole = offset.is_multiple_of(8) || !bits.is_empty();
                return is_whole.then_some((Member { offset: offset / 8, ty, within: size }, bits));
            }
            if name == 0
                && depth > 0
                && let Some(Kind::Struct(size)) = self.kind(ty)
                && let Some((inner, bits)) = self.member_below(ty, wanted, depth - 1)
            {
                return Some((
                    Member { offset: inner.offset + offset / 8, within: inner.within.max(size), ..inner },
                    bits,
                ));
            }
        }
        None
    }
}

fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

fn count(info: u32) -> usize {
    (info & 0xffff) as usize
}

/// Bytes of the kernel, or a copy of them.
#[derive(Debug)]
enum Bytes {
    Mapped(NonNull<u8>, usize),
    Read(Vec<u8>),
}

impl Bytes {
    fn map(file: &File, len: usize) -> Result<Self> {
        // SAFETY: a new mapping at a place of the kernel's choice, which may only be read.
        let map =
            unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
        match NonNull::new(map.cast::<u8>()) {
            Some(at) if map != libc::MAP_FAILED => Ok(Self::Mapped(at, len)),
            _ => Err(Errno::last()),
        }
    }
    fn read(mut file: File, len: usize) -> Result<Self> {
        let mut bytes = Vec::with_capacity(len);
        file.read_to_end(&mut bytes)?;
        Ok(Self::Read(bytes))
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            // SAFETY: so many bytes are mapped and readable until the value is dropped; the kernel never changes its own description.
            Self::Mapped(at, len) => unsafe { std::slice::from_raw_parts(at.as_ptr(), *len) },
            Self::Read(bytes) => bytes,
        }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if let Self::Mapped(at, len) = self {
            // SAFETY: the whole mapping is ours, and nothing borrows it any more.
            unsafe { libc::munmap(at.as_ptr().cast(), *len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernels() -> Option<Btf> {
        Btf::of_kernel().inspect_err(|e| eprintln!("skipped: {PATH}: {e}")).ok()
    }

    #[test]
    fn the_kernel_knows_its_own_types() {
        let Some(mut btf) = kernels() else { return };
        let [Some(function), None] = btf.functions(["bpf_iter_task_vma", "no function of the kernel"]) else {
            eprintln!("skipped: no bpf_iter_task_vma");
            return;
        };
        let (which, ty) = btf.parameter(function, "vma").unwrap();
        assert_eq!(which, 2);
        let Some(Kind::Pointer(vma)) = btf.kind(ty) else { panic!("{ty} is no pointer") };
        let (start, end) = (btf.member(vma, "vm_start").unwrap(), btf.member(vma, "vm_end").unwrap());
        assert_eq!((start.offset + 8, btf.kind(start.ty)), (end.offset, Some(Kind::Number(8))));
        assert!(btf.member(vma, "no_member_of_it").is_none());
        let file = btf.member(vma, "vm_file").unwrap();
        assert!(matches!(btf.kind(file.ty), Some(Kind::Pointer(_))));
    }

    #[test]
    fn a_copy_reads_as_the_mapping_does() {
        let Some(mut mapped) = kernels() else { return };
        let file = File::open(PATH).unwrap();
        let mut copy = Btf::of(Bytes::read(file, 0).unwrap()).unwrap();
        let names = ["bpf_iter_task_vma", "bpf_iter_task"];
        assert_eq!(mapped.functions(names), copy.functions(names));
    }

    #[test]
    fn cut_or_changed_bytes_are_no_panic() {
        let Some(btf) = kernels() else { return };
        let whole = btf.bytes[..1 << 16].to_vec();
        let look = |bytes: Vec<u8>| {
            if let Some(mut btf) = Btf::of(Bytes::Read(bytes)) {
                btf.functions(["bpf_iter_task_vma"]);
                (0..3000).for_each(|id| {
                    btf.member(id, "vm_start");
                    btf.parameter(id, "vma");
                });
            }
        };
        (0..64).for_each(|len| look(whole[..len].to_vec()));
        let mut seed = 1_u32;
        for _ in 0..20 {
            let mut bytes = whole.clone();
            // So that what is left counts as all there is.
            bytes[12..16].copy_from_slice(&50_000_u32.to_ne_bytes());
            bytes[16..20].copy_from_slice(&50_000_u32.to_ne_bytes());
            bytes[20..24].copy_from_slice(&10_000_u32.to_ne_bytes());
            for _ in 0..200 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                bytes[24 + (seed >> 8) as usize % 50_000] = seed as u8;
            }
            look(bytes);
        }
    }
}
