//! Threads that need not be asked, since another one would say the same ([`ghost_sys::bpf::threads`]).
//!
//! A visit takes 40 µs, and of many threads mostly all are alike. The kernel's rows are matched to stopped threads by the base of the FS
//! segment, where each has its thread-local storage; those that have one in common are asked.

use ghost_sys::bpf::threads::{COMPARED, Row, Threads};
use ghost_sys::ptrace::Stopped;
use ghost_sys::{Pid, Result, arch};
use std::collections::HashMap;

/// So many threads of a process are worth preparing to read of them all.
pub const MANY: usize = 80;

/// How a thread's answers come about.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// It is asked.
    Asked,
    /// It would say what an earlier one says, but for two things.
    Like {
        /// The place of that one.
        place: usize,
        /// Its alternate signal stack: address, flags, size.
        alt_stack: (u64, u32, u64),
        /// Where the kernel writes a zero at its end.
        clear_child_tid: u64,
    },
}

/// Who of the threads of process `pid` is to be asked; the first in any case.
pub fn sources(threads: &Threads, pid: Pid, stopped: &[&Stopped]) -> Result<Vec<Source>> {
    let mut rows: HashMap<u64, Option<Row>> = HashMap::new();
    for row in threads.read(pid)? {
        rows.entry(row.fs_base).and_modify(|known| *known = None).or_insert(Some(row));
    }
    let mut bases = HashMap::new();
    for thread in stopped {
        *bases.entry(thread.registers()?.fs_base).or_insert(0) += 1;
    }
    let mut firsts: HashMap<[u64; COMPARED], usize> = HashMap::new();
    let mut sources = Vec::with_capacity(stopped.len());
    for (place, thread) in stopped.iter().enumerate() {
        let registers = thread.registers()?;
        let row = rows.get(&registers.fs_base).copied().flatten();
        // With a selector in FS ptrace may tell the base of that, and the row another. One in 32-bit code must be met to be refused.
        let is_told = registers.fs == 0 && arch::is_native(&registers);
        let row = row.filter(|_| is_told && bases[&registers.fs_base] == 1);
        let Some(row) = row else {
            sources.push(Source::Asked);
            continue;
        };
        let like = firsts.get(&row.rest).zip(row.alt_stack(registers.rsp));
        sources.push(like.map_or(Source::Asked, |(&place, alt_stack)| Source::Like {
            place,
            alt_stack,
            clear_child_tid: row.clear_child_tid,
        }));
        firsts.entry(row.rest).or_insert(place);
    }
    Ok(sources)
}
