//! Breakpoints that the kernel keeps in the code of a program for others, who trace it: uprobes of perf, bpftrace and tracefs.
//!
//! They are private pages of the mapped file with one instruction changed. A process made from such pages would die of SIGTRAP
//! wherever nobody waits for the trap any more. No interface tells of them (the mapping `[uprobes]` is there once one was hit), so
//! that changed pages of code are compared with their file: a single byte that is a breakpoint now is one. Refused: such a page.

use crate::error::{Context, KindError};
use crate::view::ProcessView;
use ghost_sys::arch::BREAKPOINT;
use ghost_sys::proc::{Perms, Smap};
use ghost_sys::remote::{Memory, RemoteAddr};
use rustix::io::pread;

const PAGE: usize = 4096;

/// Refuses a mapping of code with breakpoints in these of its pages: (start, end).
pub fn check(process: &ProcessView, smap: &Smap, changed: impl Iterator<Item = (u64, u64)>) -> Result<(), KindError> {
    let m = &smap.mapping;
    if !m.perms.contains(Perms::EXEC) {
        return Ok(());
    }
    let mut changed = changed.peekable();
    if changed.peek().is_none() {
        return Ok(());
    }
    let what = || format!("memory {:x}-{:x} {}", m.start, m.end, String::from_utf8_lossy(&m.name));
    let step = "looking for breakpoints in its code";
    // Without the privilege to open it, it is not known.
    let Ok(file) = process.dir.open_file(&m.map_file(), libc::O_RDONLY) else { return Ok(()) };
    let memory = Memory::open(process.live).step_on(process.pid, what, step)?;
    let (mut now, mut then) = ([0; PAGE], [0; PAGE]);
    for at in changed.flat_map(|(start, end)| (start..end).step_by(PAGE)) {
        memory.read_forced(RemoteAddr(at), &mut now).step_on(process.pid, what, step)?;
        then.fill(0);
        let Ok(_) = pread(&file, &mut then, m.offset + (at - m.start)) else { continue };
        if let Some(place) = breakpoint(&now, &then) {
            let why = format!("uprobes: a tracer has put a breakpoint into its code at {:#x}", at + place as u64);
            let refusal = KindError::refusal(step, why).on(process.pid, what());
            return Err(refusal.advise("end perf, bpftrace or whatever traces it first"));
        }
    }
    Ok(())
}

/// Where a lone byte has become a breakpoint.
fn breakpoint(now: &[u8], then: &[u8]) -> Option<usize> {
    let same = |at: usize| now.get(at) == then.get(at);
    let lone = |at: usize| !same(at) && now[at] == BREAKPOINT && (at == 0 || same(at - 1)) && same(at + 1);
    (0..now.len()).find(|&at| lone(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_byte_that_traps_is_found() {
        let then = [0x55, 0x48, 0x89, 0xe5, 0x31, 0xc0];
        let with = |changes: &[(usize, u8)]| {
            let mut now = then;
            for &(at, byte) in changes {
                now[at] = byte;
            }
            breakpoint(&now, &then)
        };
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[(0, BREAKPOINT)]), Some(0));
        assert_eq!(with(&[(5, BREAKPOINT), (2, 7)]), Some(5));
        assert_eq!(with(&[(1, 9), (2, BREAKPOINT)]), None, "code of another sort");
    }
}
