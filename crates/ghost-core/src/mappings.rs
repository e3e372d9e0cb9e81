//! The mappings of processes with their flags: by smaps where they are few and small, by a BPF iterator where they are many or large.
//!
//! `/proc/PID/smaps` takes the kernel 3 µs a mapping and 40 ms a GiB, since it walks page tables for sums that nobody here wants; `maps` and the iterator
//! ([`ghost_sys::bpf::vma`]) take less than 1 µs together and say the same. But the iterator must be made first, which takes as long as smaps of
//! several hundred mappings. Where it cannot be had, or does not know a flag of a process, that one is read by smaps.
//!
//! `GHOST_MAPPINGS=smaps` and `=bpf` are for tests: never the iterator, or always where it knows all flags, and an error where it cannot
//! be had.

use ghost_sys::bpf::vma::Flags;
use ghost_sys::proc::{self, Mapping, ProcDir, Smap};
use ghost_sys::{Errno, Pid};
use std::sync::OnceLock;

/// Mappings of one process from which on the iterator is worth its making.
const MAPPINGS: usize = 800;
/// Processes whose mappings are read, likewise.
const PROCESSES: usize = 24;
/// Memory of one process in KiB, likewise: smaps walks all its page tables, 40 ms a GiB.
const MEMORY_KB: u64 = 96 << 10;

/// A way to read the mappings of the processes of one tree.
#[derive(Debug)]
pub struct Reader {
    wish: Wish,
    are_many: bool,
    flags: OnceLock<Result<Flags, Errno>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Cheapest,
    Smaps,
    Bpf,
}

fn wish() -> Wish {
    static WISH: OnceLock<Wish> = OnceLock::new();
    *WISH.get_or_init(|| match std::env::var("GHOST_MAPPINGS").as_deref() {
        Ok("smaps") => Wish::Smaps,
        Ok("bpf") => Wish::Bpf,
        _ => Wish::Cheapest,
    })
}

impl Reader {
    /// For so many processes.
    pub fn new(processes: usize) -> Self {
        let wish = wish();
        Self { wish, are_many: processes >= PROCESSES || wish == Wish::Bpf, flags: OnceLock::new() }
    }

    /// The mappings without their flags. As soon as they are many, another thread makes the iterator beside it.
    fn read_maps(&self, dir: &ProcDir) -> proc::ProcResult<Vec<Mapping>> {
        std::thread::scope(|scope| {
            let mut beside = None;
            proc::read_many_maps(dir, |count| {
                if count >= MAPPINGS && beside.is_none() && self.flags.get().is_none() {
                    let load = || {
                        self.flags.get_or_init(Flags::load);
                    };
                    // Without another thread this one does it later.
                    beside = Some(std::thread::Builder::new().spawn_scoped(scope, load));
                }
            })
        })
    }

    /// The mappings of a process with so much memory, through its thread `live`.
    pub fn read(&self, live: Pid, dir: &ProcDir, memory_kb: u64) -> proc::ProcResult<Vec<Smap>> {
        if self.wish == Wish::Smaps {
            return proc::read_smaps(dir);
        }
        let maps = self.read_maps(dir)?;
        if !self.are_many && maps.len() < MAPPINGS && memory_kb < MEMORY_KB {
            return proc::read_smaps(dir);
        }
        match self.flags.get_or_init(Flags::load).as_ref().map_err(|e| *e).and_then(|flags| flags.add(live, maps)) {
            Ok(Some(all)) => Ok(all),
            Err(e) if self.wish == Wish::Bpf => Err(refused(e)),
            _ => proc::read_smaps(dir),
        }
    }
}

fn refused(errno: Errno) -> proc::ProcError {
    proc::ProcError::Kernel { path: "GHOST_MAPPINGS=bpf".to_owned(), errno }
}
