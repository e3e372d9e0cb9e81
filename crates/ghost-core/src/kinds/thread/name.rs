//! The name of a thread: `prctl(2)`, PR_SET_NAME; read from `/proc/PID/task/TID/status`.
//!
//! It is at most 15 bytes of any sort but 0, and what asks for text (`ghost inspect`, messages) gets it as far as it is text. A
//! name that is no UTF-8 travels in a field of its own beside that text.

use ghost_image::record as rec;
use ghost_sys::nr;
use ghost_sys::remote::Batch;

const PR_SET_NAME: i32 = 15;

/// A name as text, and beside it as bytes if the text cannot say it.
pub(crate) fn apart(name: &[u8]) -> (String, Vec<u8>) {
    let text = String::from_utf8_lossy(name).into_owned();
    let bytes = if text.as_bytes() == name { Vec::new() } else { name.to_vec() };
    (text, bytes)
}

/// The name that [`apart`] was given.
pub(crate) fn whole<'n>(text: &'n str, bytes: &'n [u8]) -> &'n [u8] {
    if bytes.is_empty() { text.as_bytes() } else { bytes }
}

/// The record with this name.
pub(crate) fn named(mut record: rec::Thread, name: &[u8]) -> rec::Thread {
    (record.comm, record.comm_bytes) = apart(name);
    record
}

/// The name as the kernel had it.
pub(crate) fn of(record: &rec::Thread) -> &[u8] {
    whole(&record.comm, &record.comm_bytes)
}

/// Queues its giving to the thread that runs the batch.
pub(crate) fn give(batch: &mut Batch, record: &rec::Thread) {
    let name = batch.c_string(of(record));
    batch.call("PR_SET_NAME", nr::PRCTL, &[PR_SET_NAME.into(), name.into()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back_to_the_byte() {
        for name in [&b""[..], b"plain", b"a) R 1\n(b \\", "n\u{e9}".as_bytes(), b"\xff\xfe\x01 ) (\x7f", b"cut \xc3"] {
            assert_eq!(of(&named(rec::Thread::default(), name)), name);
        }
        assert!(named(rec::Thread::default(), b"plain").comm_bytes.is_empty());
    }
}
