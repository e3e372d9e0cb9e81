//! How threads wait for each other: futexes, mutexes, condition variables, rseq.
use crate::Victim;

mod futex;
mod mutex;
mod rseq;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[futex::VICTIMS, mutex::VICTIMS, rseq::VICTIMS];

/// A word of memory that children share.
fn shared_word() -> &'static std::sync::atomic::AtomicU32 {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let at = crate::must!(mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0));
    // SAFETY: a page of zeroes that is never unmapped.
    unsafe { &*at.cast() }
}
