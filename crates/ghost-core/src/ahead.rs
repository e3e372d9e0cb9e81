//! A ghost in a file, read at any offset: from the page cache, or past it from the disk.
//!
//! A read that does not find its bytes in the page cache (`preadv2(2)`, RWF_NOWAIT) shows that the file is cold. From there on it is
//! read in order ([`ReadAt::in_order`]), and what is aligned to pages comes straight from the disk (`O_DIRECT`): no page of the cache
//! is made for it, and nothing is copied. That pays with memory in huge pages ([`ghost_sys::huge`]), which the disk takes in large
//! pieces; without such the kernel's own readahead is better, and is left to it. A small file is not worth huge pages: all of it is
//! asked for at once (`posix_fadvise(2)`, POSIX_FADV_WILLNEED).

use ghost_image::ReadAt;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Of addresses, offsets and lengths that go past the page cache; no disk asks for more.
const ALIGNED: usize = 4096;

/// From so many bytes on a file is worth huge pages.
const LARGE: u64 = 16 << 20;
/// What of a small one is asked for at once: the kernel cuts what is more than a request of the disk takes.
const PIECE: u64 = 256 << 10;

/// The file of a ghost.
#[derive(Debug)]
pub struct Ahead<'f> {
    file: &'f File,
    len: u64,
    /// A read did not find its bytes.
    cold: AtomicBool,
    /// The same file, past the page cache, once it is wanted and where that can be had.
    direct: OnceLock<Option<File>>,
}

impl<'f> Ahead<'f> {
    /// Reads this file.
    pub fn new(file: &'f File) -> Self {
        let len = file.metadata().map_or(0, |m| m.len());
        Self { file, len, cold: AtomicBool::new(false), direct: OnceLock::new() }
    }

    /// It is cold, which shows at this offset.
    fn is_cold(&self, offset: u64) {
        if !self.cold.swap(true, Ordering::Relaxed) && self.len < LARGE {
            for at in (offset / PIECE * PIECE..self.len).step_by(PIECE as usize) {
                // Only a hint.
                let _ = rustix::fs::fadvise(self.file, at, NonZeroU64::new(PIECE), rustix::fs::Advice::WillNeed);
            }
        }
    }

    fn direct(&self) -> Option<&File> {
        let open = || {
            // A description of our own: that of the file is not ours to change.
            let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
            let file = || rustix::fs::open(path, flags, Mode::empty()).ok().map(File::from);
            if ghost_sys::huge::available() { file() } else { None }
        };
        self.direct.get_or_init(open).as_ref()
    }
}

impl ReadAt for Ahead<'_> {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        if !self.in_order() {
            let wanted = into.len();
            match rustix::io::preadv2(self.file, &mut [IoSliceMut::new(into)], offset, ReadWriteFlags::NOWAIT) {
                Ok(done) if done == wanted => return Ok(done),
                // The end of the file, or of what is in the page cache.
                Ok(0) | Err(Errno::AGAIN) => self.is_cold(offset),
                Ok(done) => {
                    self.is_cold(offset + done as u64);
                    return Ok(done);
                }
                // This file system or kernel has no such read.
                Err(_) => {}
            }
        }
        let aligned = [into.as_ptr() as usize, into.len(), offset as usize].iter().all(|n| n.is_multiple_of(ALIGNED));
        if aligned
            && self.in_order()
            && let Some(direct) = self.direct()
        {
            match direct.read_at(into, offset) {
                Ok(done) if done > 0 => return Ok(done),
                // What it cannot do, the other can, or says why not.
                _ => {}
            }
        }
        self.file.read_at(into, offset)
    }
    fn in_order(&self) -> bool {
        self.len >= LARGE && self.cold.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_there_warm_or_cold() {
        let path = std::env::temp_dir().join(format!("ghost-ahead-{}", std::process::id()));
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for (cold, large) in [(false, false), (true, false), (true, true)] {
            if cold {
                file.sync_all().unwrap();
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            }
            let mut ahead = Ahead::new(&file);
            ahead.len = if large { LARGE } else { ahead.len };
            let (mut all, mut part) = (Vec::new(), vec![0; 700_001]);
            loop {
                let done = ahead.read_at(&mut part, all.len() as u64).unwrap();
                if done == 0 {
                    break;
                }
                all.extend_from_slice(&part[..done]);
            }
            assert!(all == bytes, "cold: {cold}, large: {large}");
        }
    }
}
