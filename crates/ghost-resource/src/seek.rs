//! Reading an image at any offset, whatever way its reader offers.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// An image that can be read and sought in, without moving the reader that it belongs to.
///
/// [`GhostRead::as_seekable`](crate::GhostRead::as_seekable) makes one; several of one image can be used at the same
/// time, from several threads.
#[derive(Debug, Clone)]
pub struct Seekable<'a>(Access<'a>);

#[derive(Debug, Clone)]
enum Access<'a> {
    Mapped(Cursor<&'a [u8]>),
    File { file: &'a File, at: u64 },
}

impl<'a> Seekable<'a> {
    pub(crate) fn mapped(image: &'a [u8]) -> Self {
        Self(Access::Mapped(Cursor::new(image)))
    }
    pub(crate) fn file(file: &'a File) -> Self {
        Self(Access::File { file, at: 0 })
    }
}

impl Read for Seekable<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Access::Mapped(cursor) => cursor.read(into),
            Access::File { file, at } => {
                let done = file.read_at(into, *at)?;
                *at += done as u64;
                Ok(done)
            }
        }
    }
}

impl Seek for Seekable<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match &mut self.0 {
            Access::Mapped(cursor) => cursor.seek(to),
            Access::File { file, at } => {
                let place = match to {
                    SeekFrom::Start(place) => Some(place),
                    SeekFrom::Current(by) => at.checked_add_signed(by),
                    SeekFrom::End(by) => file.metadata()?.len().checked_add_signed(by),
                };
                *at = place.ok_or(io::ErrorKind::InvalidInput)?;
                Ok(*at)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_read_the_same_anywhere() {
        let file = File::open("/proc/self/exe").unwrap();
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        let (mut by_file, mut mapped) = (Seekable::file(&file), Seekable::mapped(&bytes));
        for to in [SeekFrom::Start(5000), SeekFrom::Current(-77), SeekFrom::End(-3), SeekFrom::End(10)] {
            assert_eq!(by_file.seek(to).unwrap(), mapped.seek(to).unwrap());
            let (mut a, mut b) = (Vec::new(), Vec::new());
            by_file.by_ref().take(300).read_to_end(&mut a).unwrap();
            mapped.by_ref().take(300).read_to_end(&mut b).unwrap();
            assert_eq!(a, b);
        }
        assert!(by_file.seek(SeekFrom::Current(i64::MIN)).is_err());
    }
}
