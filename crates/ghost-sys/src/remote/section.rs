//! Restartable sequences (`rseq(2)`) in which threads were stopped.
//!
//! The kernel forgets the section of a thread as soon as that returns to user space anywhere else, as it does to run a batch: whoever
//! moves a thread sends it to the abort handler itself, as a signal would.

use super::{Memory, RemoteAddr};
use crate::ptrace::Stopped;
use crate::{Result, arch};

/// Offset of the pointer to the descriptor in `struct rseq` (linux/rseq.h).
const RSEQ_CS: u64 = 8;

/// Where each of these stopped threads of one process would go on: the abort handler of the section in which it is; None outside of
/// any.
///
/// # Errors
/// A section cannot be read, or a thread is gone.
pub fn aborts(memory: &Memory, threads: &[&Stopped]) -> Vec<Result<Option<u64>>> {
    let areas: Vec<Result<Option<(u64, u32)>>> =
        threads.iter().map(|t| Ok(t.rseq()?.map(|(area, _, signature, _)| (area + RSEQ_CS, signature)))).collect();
    let known: Vec<(RemoteAddr, usize)> =
        areas.iter().filter_map(|a| a.as_ref().ok()?.map(|(at, _)| (RemoteAddr(at), 8))).collect();
    let mut words = vec![0; known.len() * 8];
    // All in one call. Should one be unreadable, each is read alone.
    let together = memory.read_ranges(&known, &mut words).is_ok();
    let mut words = words.chunks_exact(8).map(|c| u64::from_ne_bytes(c.try_into().expect("eight bytes")));
    areas
        .into_iter()
        .zip(threads)
        .map(|(area, thread)| {
            let Some((at, signature)) = area? else { return Ok(None) };
            let word = words.next().unwrap_or(0);
            let descriptor = if together { word } else { memory.read_u64(RemoteAddr(at)).unwrap_or(0) };
            if descriptor == 0 { Ok(None) } else { abort(memory, thread, descriptor, signature) }
        })
        .collect()
}

/// The abort handler that a `struct rseq_cs` names, if the thread is within the section.
fn abort(memory: &Memory, thread: &Stopped, descriptor: u64, signature: u32) -> Result<Option<u64>> {
    // Version and flags, start, length, abort address.
    let mut cs = [0; 32];
    if memory.read(RemoteAddr(descriptor), &mut cs).is_err() {
        return Ok(None);
    }
    let word = |at: usize| u64::from_ne_bytes(cs[at..at + 8].try_into().expect("eight bytes"));
    let (start, len, abort) = (word(8), word(16), word(24));
    if arch::instruction_pointer(&thread.registers()?).wrapping_sub(start) >= len {
        return Ok(None);
    }
    let mut before = [0; 4];
    memory.read(RemoteAddr(abort.wrapping_sub(4)), &mut before)?;
    // With a wrong signature the kernel kills the program; that is not for us to do.
    Ok((u32::from_ne_bytes(before) == signature).then_some(abort))
}
