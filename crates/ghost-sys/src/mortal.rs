//! A child process that exists only to have existed: what refers to a process that is gone (a pidfd, a file of its
//! `/proc` directory) can only be made while there is one.

#![allow(unsafe_code)]

use crate::{Errno, Pid, Result};

/// A child that waits to be killed. Dropping it kills and reaps it; it dies with ghost too.
#[derive(Debug)]
pub struct Mortal {
    pid: Pid,
}

impl Mortal {
    /// Makes the child.
    pub fn new() -> Result<Self> {
        let parent = std::process::id() as Pid;
        // SAFETY: the child calls nothing but async-signal-safe functions, as a child of a process with threads must.
        match unsafe { libc::fork() } {
            -1 => Err(Errno::last()),
            0 => {
                // SAFETY: these calls take numbers only; the child owns nothing that they could harm and never returns.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    // Ghost may have ended before that was asked for.
                    while libc::getppid() == parent {
                        libc::pause();
                    }
                    libc::_exit(0)
                }
            }
            pid => Ok(Self { pid }),
        }
    }
    /// Its pid.
    pub fn pid(&self) -> Pid {
        self.pid
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        // SAFETY: our own child, which nobody else waits for: its pid can't have become another process.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            while libc::waitpid(self.pid, std::ptr::null_mut(), 0) == -1 && Errno::last() == Errno(libc::EINTR) {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn its_pidfd_outlives_it() {
        let mortal = Mortal::new().unwrap();
        let pidfd = crate::pidfd::open(mortal.pid()).unwrap();
        assert_eq!(crate::pidfd::signal(pidfd.as_fd(), 0), Ok(()));
        drop(mortal);
        assert_eq!(crate::pidfd::signal(pidfd.as_fd(), 0), Err(Errno(libc::ESRCH)));
    }
}
