//! System V semaphores, `sysvipc(7)`: which sets there are, and who operated on them last.
//!
//! `/proc/sysvipc/sem` lists those of the IPC namespace of whoever opens it, whether it may use them or not.

#![allow(unsafe_code)]

use crate::errno::cvt;
use crate::{Pid, Result};

/// A set of semaphores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SemaphoreSet {
    /// Its identifier, as semop(2) takes it.
    pub id: i32,
    /// How many semaphores it has.
    pub len: u32,
    /// When somebody last operated on it, in seconds since 1970; 0 for never.
    pub operated: u64,
}

/// The sets of ghost's IPC namespace. None where the kernel has no System V IPC.
pub fn semaphore_sets() -> Vec<SemaphoreSet> {
    let text = std::fs::read_to_string("/proc/sysvipc/sem").unwrap_or_default();
    text.lines().skip(1).filter_map(parse).collect()
}

/// key semid perms nsems uid gid cuid cgid otime ctime
fn parse(line: &str) -> Option<SemaphoreSet> {
    let mut words = line.split_ascii_whitespace();
    Some(SemaphoreSet {
        id: words.nth(1)?.parse().ok()?,
        len: words.nth(1)?.parse().ok()?,
        operated: words.nth(4)?.parse().ok()?,
    })
}

/// Who operated last on this semaphore of the set, 0 for nobody or somebody of another pid namespace.
pub fn last_operator(set: &SemaphoreSet, number: u32) -> Result<Pid> {
    // SAFETY: with GETPID the call takes three integers and touches no memory of ours.
    cvt(unsafe { libc::semctl(set.id, number as i32, libc::GETPID) }.into()).map(|pid| pid as Pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_lines() {
        let line = "         0         28   600          1     0     0     0     0 1795605922 1795605923";
        assert_eq!(parse(line), Some(SemaphoreSet { id: 28, len: 1, operated: 1_795_605_922 }));
        assert_eq!(parse(" 0 1 600 2 0 0"), None);
    }

    #[test]
    fn a_set_of_our_own_is_listed() {
        // SAFETY: integers only.
        let id = unsafe { libc::semget(libc::IPC_PRIVATE, 3, 0o600) };
        if id < 0 {
            return;
        }
        let found = semaphore_sets().into_iter().find(|set| set.id == id);
        let last = found.map(|set| last_operator(&set, 2));
        // SAFETY: integers only; the set is ours.
        unsafe { libc::semctl(id, 0, libc::IPC_RMID) };
        assert_eq!(found, Some(SemaphoreSet { id, len: 3, operated: 0 }));
        assert_eq!(last, Some(Ok(0)));
    }
}
