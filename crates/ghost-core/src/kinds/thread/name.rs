//! The name of a thread: `prctl(2)`, PR_SET_NAME; read from `/proc/PID/task/TID/status`.
//!
//! It is at most 15 bytes of any sort but 0, and what asks for text (`ghost inspect`, messages) gets it as far as it is text. A
//! name that is no UTF-8 travels in a field of its own beside that text.

use ghost_image::record as rec;

/// The record with this name.
pub(crate) fn named(mut record: rec::Thread, name: &[u8]) -> rec::Thread {
    record.comm = String::from_utf8_lossy(name).into_owned();
    record.comm_bytes = if record.comm.as_bytes() == name { Vec::new() } else { name.to_vec() };
    record
}

/// The name as the kernel had it.
pub(crate) fn of(record: &rec::Thread) -> &[u8] {
    if record.comm_bytes.is_empty() { record.comm.as_bytes() } else { &record.comm_bytes }
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
