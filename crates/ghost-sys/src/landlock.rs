//! Whether a thread is in a Landlock domain: `landlock(7)`.
//!
//! Nothing tells. But whoever is in a domain may not look at a process outside of it (PTRACE_MODE_READ, since the first Landlock
//! in Linux 5.13, whatever else the domain restricts), not even as root. So a thread is let look, by `kcmp(2)`, at somebody
//! whom its credentials alone allow it to look at: a [`Witness`](crate::witness::Witness).

#![allow(unsafe_code)]

/// Whether this kernel has Landlock, and it is switched on.
pub fn is_there() -> bool {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_int = 1;
    // SAFETY: with this flag the call takes no memory of ours and makes nothing.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, LANDLOCK_CREATE_RULESET_VERSION) > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kcmp::{Resource, kcmp};
    use crate::witness::Witness;

    /// Runs `look` in a child as this user, and returns what it did.
    fn as_user(uid: u32, restrict: bool, look: impl Fn() -> bool) -> i32 {
        // SAFETY: the child makes system calls only and ends by _exit.
        match unsafe { libc::fork() } {
            0 => unsafe {
                let mut ok = libc::setresgid(uid, uid, uid) == 0 && libc::setresuid(uid, uid, uid) == 0;
                if restrict {
                    let attr = [2_u64];
                    let f = libc::syscall(libc::SYS_landlock_create_ruleset, attr.as_ptr(), 8, 0);
                    ok &= libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
                    ok &= libc::syscall(libc::SYS_landlock_restrict_self, f, 0) == 0;
                }
                libc::_exit(if ok { i32::from(look()) } else { 9 })
            },
            pid => {
                let mut status = 0;
                // SAFETY: our own child, and `status` outlives the call.
                unsafe { libc::waitpid(pid, &raw mut status, 0) };
                libc::WEXITSTATUS(status)
            }
        }
    }

    #[test]
    fn only_a_domain_keeps_one_from_looking() {
        // SAFETY: no memory is involved.
        if !is_there() || unsafe { libc::geteuid() } != 0 {
            return;
        }
        let witness = Witness::of(4321, 4321).unwrap();
        let look = || kcmp(witness.pid(), witness.pid(), Resource::Vm, 0, 0).is_ok();
        assert_eq!(as_user(4321, false, look), 1);
        assert_eq!(as_user(4321, true, look), 0);
        assert_eq!(as_user(4322, false, look), 0, "another user may not look anyway");
        assert_eq!(as_user(0, true, look), 0);
        assert_eq!(as_user(0, false, look), 1);
        let root = Witness::of(0, 0).unwrap();
        // SAFETY: the child makes system calls only.
        let as_other = || unsafe { libc::setegid(4321) == 0 && libc::seteuid(4321) == 0 };
        let look = || as_other() && kcmp(root.pid(), root.pid(), Resource::Vm, 0, 0).is_ok();
        assert_eq!(as_user(0, false, look), 1, "real ids decide");
        assert_eq!(as_user(0, true, look), 0);
    }
}
