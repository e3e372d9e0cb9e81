//! What the kernel keeps of the threads of a process, by the iterator `task`: which of them are alike in all that only a thread itself can
//! tell.
//!
//! What a thread would answer (`sigaltstack(2)`, `prctl(2)`, `personality(2)`, keyrings, Landlock, ...) comes from few members of its
//! `task_struct`. Two of them are read as numbers: its alternate signal stack and the address that is cleared at its end. The rest is not
//! interpreted, only compared: threads whose members are the same, pointers and flags included, answer the same, so that one of them has to
//! be asked. A flag that means nothing here makes two threads different for nothing, and costs a visit.
//!
//! Where a member is missing, nothing can be had. That none has been forgotten is known of the kernels in [`KNOWN`]; on others each
//! thread is asked.

use super::iter::{Path, Rows};
use super::{Of, btf::Btf};
use crate::{Errno, Pid, Result};

/// The kernels that answer from these members: the first of which one process alone can be read, and the last that was looked at.
pub const KNOWN: std::ops::RangeInclusive<(u32, u32)> = (6, 1)..=(6, 18);

/// Members that are read; those from [`FIRST_COMPARED`] on are compared.
const PATHS: [Path<'static>; 15] = [
    // What tells the threads of a process apart; ptrace says it, too.
    &["task", "thread", "fsbase"],
    &["task", "sas_ss_sp"],
    &["task", "sas_ss_size"],
    &["task", "sas_ss_flags"],
    &["task", "clear_child_tid"],
    // Securebits, keyrings, Landlock, and who may do what.
    &["task", "cred"],
    &["task", "real_cred"],
    // PR_GET_TSC, ARCH_GET_CPUID, PR_GET_SPECULATION_CTRL.
    &["task", "thread_info", "flags"],
    &["task", "atomic_flags"],
    // PR_MCE_KILL_GET.
    &["task", "flags"],
    // get_mempolicy(2)
    &["task", "mempolicy"],
    &["task", "personality"],
    &["task", "pdeath_signal"],
    // PR_GET_TIMERSLACK, which is 0 for those of real time.
    &["task", "timer_slack_ns"],
    &["task", "policy"],
];
const FIRST_COMPARED: usize = 5;
/// How many are compared.
pub const COMPARED: usize = PATHS.len() - FIRST_COMPARED;

/// SS_DISABLE, and the flag of a stack that the kernel takes away while it is used.
const SS_DISABLE: u32 = 2;
const SS_AUTODISARM: u32 = 1 << 31;

/// A way to read it.
#[derive(Debug)]
pub struct Threads {
    rows: Rows,
}

/// A thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The base of its FS segment, as ptrace has it.
    pub fs_base: u64,
    /// Where the kernel writes a zero at its end.
    pub clear_child_tid: u64,
    /// Its alternate signal stack: address, size, flags.
    alt_stack: (u64, u64, u32),
    /// All else that its answers come from.
    pub rest: [u64; COMPARED],
}

impl Threads {
    /// Prepares it; an error where it cannot be had. Some two milliseconds.
    pub fn load() -> Result<Self> {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        if !version(&release).is_some_and(|version| KNOWN.contains(&version)) {
            return Err(Errno(libc::ENOTSUP));
        }
        Ok(Self { rows: Rows::load(&mut Btf::of_kernel()?, "task", &PATHS)? })
    }

    /// All threads of a process.
    pub fn read(&self, pid: Pid) -> Result<Vec<Row>> {
        let mut all = Vec::new();
        self.rows.read(Of::Process(pid), |row| {
            let &[fs_base, sp, size, flags, clear_child_tid, ref rest @ ..] = row else { return false };
            let Ok(rest) = rest.try_into() else { return false };
            all.push(Row { fs_base, clear_child_tid, alt_stack: (sp, size, flags as u32), rest });
            true
        })?;
        Ok(all)
    }
}

impl Row {
    /// What `sigaltstack(2)` would tell: address, flags, size; None of one that stands on that stack with `sp`.
    pub fn alt_stack(&self, sp: u64) -> Option<(u64, u32, u64)> {
        let (start, size, flags) = self.alt_stack;
        if size != 0 && sp >= start && sp - start <= size {
            return None;
        }
        Some((start, if size == 0 { SS_DISABLE } else { 0 } | flags & SS_AUTODISARM, size))
    }
}

/// The first two numbers of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_told_apart() {
        assert_eq!(version("6.18.5+deb14-amd64"), Some((6, 18)));
        assert_eq!(version("6.1-rc3"), Some((6, 1)));
        assert_eq!(version("next"), None);
        assert!(KNOWN.contains(&(6, 12)) && !KNOWN.contains(&(5, 19)) && !KNOWN.contains(&(6, 19)));
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_thread_is_known_by_what_it_has() {
        let Ok(threads) = Threads::load().inspect_err(|e| eprintln!("skipped: {e}")) else { return };
        let (to, from) = std::sync::mpsc::channel();
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let one = std::thread::spawn(move || {
            // SAFETY: a plain C structure, into which the kernel writes where the signal stack of this thread is.
            let (stack, done) = unsafe {
                let mut stack: libc::stack_t = std::mem::zeroed();
                let done = libc::sigaltstack(std::ptr::null(), &raw mut stack);
                (stack, done)
            };
            assert_eq!(done, 0);
            to.send((stack.ss_sp as u64, stack.ss_flags as u32, stack.ss_size as u64)).unwrap();
            let _ = wait.recv();
        });
        let stack: (u64, u32, u64) = from.recv().unwrap();
        let all = threads.read(std::process::id() as Pid).unwrap();
        assert!(all.len() >= 2);
        assert!(all.iter().any(|row| row.alt_stack(0) == Some(stack)), "{stack:?} in {all:?}");
        assert!(all.iter().all(|row| row.rest[0] == all[0].rest[0] && row.rest[0] != 0), "{all:?}");
        drop(end);
        one.join().unwrap();
    }
}
