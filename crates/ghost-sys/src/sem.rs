//! System V semaphores, `sysvipc(7)`: who operated on them last. Which sets there are tells
//! [`read_sysvipc_sem`](crate::proc::read_sysvipc_sem).

#![allow(unsafe_code)]

use crate::errno::cvt;
use crate::{Pid, Result};

/// Who operated last on this semaphore of the set, 0 for nobody or somebody of another pid namespace.
pub fn last_operator(id: i32, number: u32) -> Result<Pid> {
    // SAFETY: with GETPID the call takes three integers and touches no memory of ours.
    cvt(unsafe { libc::semctl(id, number as i32, libc::GETPID) }.into()).map(|pid| pid as Pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::{SemaphoreSet, read_sysvipc_sem};

    #[test]
    fn a_set_of_our_own_is_listed() {
        // SAFETY: integers only.
        let id = unsafe { libc::semget(libc::IPC_PRIVATE, 3, 0o600) };
        if id < 0 {
            return;
        }
        let found = read_sysvipc_sem().unwrap().into_iter().find(|set| set.id == id);
        let last = last_operator(id, 2);
        // SAFETY: integers only; the set is ours.
        unsafe { libc::semctl(id, 0, libc::IPC_RMID) };
        assert_eq!(found, Some(SemaphoreSet { id, len: 3, operated: 0 }));
        assert_eq!(last, Ok(0));
    }
}
