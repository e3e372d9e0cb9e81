//! Memory: what is mapped, how, and what lies in it.
use crate::Victim;
use crate::{call, must};

mod advice;
mod anonymous;
mod files;
mod segments;
mod special;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] =
    &[anonymous::VICTIMS, advice::VICTIMS, files::VICTIMS, special::VICTIMS, segments::VICTIMS];

pub(crate) use anonymous::all_mappings_but;

const PAGE: usize = 4096;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// A mapping that a victim made; never unmapped by itself.
#[derive(Clone, Copy)]
pub(crate) struct Map {
    at: usize,
    len: usize,
}

impl Map {
    /// Maps; panics when it cannot.
    fn new(len: usize, prot: i32, flags: i32, fd: i32, offset: i64) -> Map {
        Map::fixed(0, len, prot, flags, fd, offset)
    }

    /// Maps at an address.
    fn fixed(at: usize, len: usize, prot: i32, flags: i32, fd: i32, offset: i64) -> Map {
        let p = must!(mmap(at as *mut libc::c_void, len, prot, flags, fd, offset));
        Map { at: p as usize, len }
    }

    /// Private anonymous memory, readable and writable.
    fn anonymous(len: usize) -> Map {
        Map::new(len, RW, PRIVATE, -1, 0)
    }

    fn end(self) -> usize {
        self.at + self.len
    }

    /// The bytes; the range must be readable.
    fn bytes(self) -> &'static [u8] {
        // SAFETY: mapped for good; victims look only at what they made readable.
        unsafe { std::slice::from_raw_parts(self.at as *const u8, self.len) }
    }

    /// The bytes, to write.
    #[allow(clippy::mut_from_ref)]
    fn bytes_mut(self) -> &'static mut [u8] {
        // SAFETY: as for `bytes`; one borrow at a time.
        unsafe { std::slice::from_raw_parts_mut(self.at as *mut u8, self.len) }
    }

    /// A part, in pages.
    fn pages(self, first: usize, count: usize) -> Map {
        Map { at: self.at + first * PAGE, len: count * PAGE }
    }

    /// Writes the byte at `offset`.
    fn put(self, offset: usize, value: u8) {
        assert!(offset < self.len);
        // SAFETY: within the mapping.
        unsafe { ((self.at + offset) as *mut u8).write_volatile(value) }
    }

    /// Reads the byte at `offset`.
    fn get(self, offset: usize) -> u8 {
        assert!(offset < self.len);
        // SAFETY: within the mapping.
        unsafe { ((self.at + offset) as *const u8).read_volatile() }
    }

    /// Whether each even page begins with its number, as [`all_mappings_but`] leaves them; then it is unmapped.
    pub(crate) fn numbered(self) -> bool {
        let right = (0..self.len / PAGE).step_by(2).all(|i| self.get(i * PAGE) == (i % 251) as u8);
        must!(munmap(self.at as *mut libc::c_void, self.len));
        right
    }

    fn protect(self, prot: i32) {
        must!(mprotect(self.at as *mut libc::c_void, self.len, prot));
    }

    fn advise(self, advice: i32) -> Result<i64, i32> {
        crate::raw!(libc::SYS_madvise, self.at, self.len, advice)
    }

    /// Whether page `n` is present, as mincore(2) tells it; false where nothing is mapped.
    fn present(self, n: usize) -> bool {
        let mut b = 0u8;
        call!(mincore((self.at + n * PAGE) as *mut libc::c_void, PAGE, &mut b)) == 0 && b & 1 == 1
    }

    /// The shapes of all VMAs of this range.
    fn shapes(self) -> Vec<String> {
        crate::proc::shapes(self.at, self.end())
    }
}

/// Whether one byte at this address can be read: asked of the kernel, so that nothing dies.
fn readable(at: usize) -> bool {
    let mut ends = [0; 2];
    must!(pipe(ends.as_mut_ptr()));
    let r = crate::raw!(libc::SYS_write, ends[1], at, 1);
    must!(close(ends[0]));
    must!(close(ends[1]));
    r == Ok(1)
}

/// Whether one byte at this address can be written.
fn writable(at: usize) -> bool {
    let mut ends = [0; 2];
    must!(pipe(ends.as_mut_ptr()));
    must!(write(ends[1], [0u8].as_ptr().cast(), 1));
    let r = crate::raw!(libc::SYS_read, ends[0], at, 1);
    must!(close(ends[0]));
    must!(close(ends[1]));
    r == Ok(1)
}
