//! A ghost in a file, read at any offset: from the page cache at once, from the disk ahead of who needs it.
//!
//! A read that does not find its bytes in the page cache (`preadv2(2)`, RWF_NOWAIT) shows that the file is cold; from there on
//! the kernel is asked for more of it ahead (`posix_fadvise(2)`, POSIX_FADV_WILLNEED), so that the disk always has work, whatever
//! the threads do that read here and there.

use ghost_image::ReadAt;
use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far ahead the disk is asked.
const AHEAD: u64 = 16 << 20;
/// What is asked for at once: the kernel cuts what is more than a request of the disk takes.
const PIECE: u64 = 256 << 10;

/// The file of a ghost.
#[derive(Debug)]
pub struct Ahead<'f> {
    file: &'f File,
    /// Up to here the disk was asked.
    asked: AtomicU64,
}

impl<'f> Ahead<'f> {
    /// Reads this file.
    pub fn new(file: &'f File) -> Self {
        Self { file, asked: AtomicU64::new(0) }
    }

    fn ask(&self, from: u64) {
        let end = from + AHEAD;
        loop {
            let asked = self.asked.load(Ordering::Relaxed);
            let at = asked.max(from / PIECE * PIECE);
            if at >= end {
                return;
            }
            let mine = self.asked.compare_exchange(asked, at + PIECE, Ordering::Relaxed, Ordering::Relaxed);
            // Only a hint.
            if mine.is_ok()
                && let Some(len) = std::num::NonZeroU64::new(PIECE)
            {
                let _ = rustix::fs::fadvise(self.file, at, Some(len), Advice::WillNeed);
            }
        }
    }
}

impl ReadAt for Ahead<'_> {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let wanted = into.len();
        match rustix::io::preadv2(self.file, &mut [IoSliceMut::new(into)], offset, ReadWriteFlags::NOWAIT) {
            Ok(done) if done == wanted => return Ok(done),
            // The end of the file, or of what is in the page cache.
            Ok(0) | Err(Errno::AGAIN) => self.ask(offset),
            Ok(done) => {
                self.ask(offset + done as u64);
                return Ok(done);
            }
            // This file system or kernel has no such read.
            Err(_) => {}
        }
        self.file.read_at(into, offset)
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
        for cold in [false, true] {
            if cold {
                file.sync_all().unwrap();
                rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
            }
            let ahead = Ahead::new(&file);
            let (mut all, mut part) = (Vec::new(), vec![0; 700_001]);
            loop {
                let done = ahead.read_at(&mut part, all.len() as u64).unwrap();
                if done == 0 {
                    break;
                }
                all.extend_from_slice(&part[..done]);
            }
            assert!(all == bytes, "cold: {cold}");
        }
    }
}
