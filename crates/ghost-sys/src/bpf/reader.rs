//! Rows of an iterator, as they are read from its file.

use crate::{Errno, Result};
use std::io::Read;
use std::ops::ControlFlow;

/// Rows after which the reading is given up: nothing has so many, and of what changes meanwhile the kernel may tell without end.
const ENDLESS: u64 = 1 << 24;

/// Reads to the end and gives `row` what was read, row by row. It says how many bytes the first one takes; None: they are not a whole
/// one yet; or that it has enough, with what comes of the reading.
///
/// A row that `buf` has no room for is an error (EIO), like half a row at the end.
pub(super) fn read(
    mut from: impl Read,
    buf: &mut [u8],
    mut row: impl FnMut(&[u8]) -> ControlFlow<Result<()>, Option<usize>>,
) -> Result<()> {
    let (mut len, mut rows) = (0, 0);
    loop {
        match from.read(&mut buf[len..]) {
            Ok(0) if len == 0 => return Ok(()),
            Ok(0) => return Err(Errno(libc::EIO)),
            Ok(n) => len += n,
            // After a million objects without a row the kernel takes breath.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => continue,
            Err(e) => return Err(e.into()),
        }
        let mut done = 0;
        loop {
            match row(&buf[done..len]) {
                ControlFlow::Continue(Some(bytes)) => done += bytes,
                ControlFlow::Continue(None) => break,
                ControlFlow::Break(outcome) => return outcome,
            }
            rows += 1;
            if rows > ENDLESS {
                return Err(Errno(libc::EIO));
            }
        }
        buf.copy_within(done..len, 0);
        len -= done;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ControlFlow::{Break, Continue};

    /// Gives out a few bytes at a time.
    struct Slowly<'b>(&'b [u8]);

    impl Read for Slowly<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let len = buf.len().min(self.0.len()).min(5);
            let (now, later) = self.0.split_at(len);
            buf[..len].copy_from_slice(now);
            self.0 = later;
            Ok(len)
        }
    }

    /// Rows that begin with their length.
    fn texts(bytes: &[u8], room: usize) -> (Result<()>, Vec<Vec<u8>>) {
        let mut texts = Vec::new();
        let outcome = read(Slowly(bytes), &mut vec![0; room], |bytes| {
            let Some(text) = bytes.first().and_then(|len| bytes.get(1..1 + usize::from(*len))) else {
                return Continue(None);
            };
            texts.push(text.to_vec());
            if text == b"enough" { Break(Ok(())) } else { Continue(Some(1 + text.len())) }
        });
        (outcome, texts)
    }

    #[test]
    fn rows_come_whole_however_they_are_read() {
        let (outcome, all) = texts(b"\x03one\x00\x05three\x0bseventeen..\x01x", 16);
        assert_eq!(outcome, Ok(()));
        assert_eq!(all, [&b"one"[..], b"", b"three", b"seventeen..", b"x"]);
        assert_eq!(texts(b"\x01a\x06enough\x01b", 16), (Ok(()), vec![b"a".to_vec(), b"enough".to_vec()]));
        assert_eq!(texts(b"", 16), (Ok(()), Vec::new()));
    }

    #[test]
    fn half_a_row_and_one_without_room_are_errors() {
        assert_eq!(texts(b"\x03one\x03tw", 16), (Err(Errno(libc::EIO)), vec![b"one".to_vec()]));
        assert_eq!(texts(b"\x0bseventeen..", 8), (Err(Errno(libc::EIO)), Vec::new()));
    }

    #[test]
    fn rows_without_end_are_given_up() {
        let mut rows = 0;
        let outcome = read(std::io::repeat(7), &mut [0; 4096], |bytes| {
            rows += u64::from(!bytes.is_empty());
            Continue((!bytes.is_empty()).then_some(1))
        });
        assert_eq!((outcome, rows), (Err(Errno(libc::EIO)), ENDLESS + 1));
    }
}
