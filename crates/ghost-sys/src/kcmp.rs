//! Whether two processes share a kernel object: `kcmp(2)`, Linux 3.5; needs ptrace rights over both.
//!
//! The answer is an order, not only yes or no, so that sharing among many is found by sorting, never by comparing all pairs.

#![allow(unsafe_code)]

use crate::{Errno, Pid, Result};
use std::cmp::Ordering;

/// What is compared (`linux/kcmp.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Resource {
    /// Two open file descriptions, by descriptor number.
    File = 0,
    /// Address spaces.
    Vm = 1,
    /// Descriptor tables.
    Files = 2,
    /// cwd, root and umask.
    Fs = 3,
    /// Signal actions.
    Sighand = 4,
    /// I/O contexts.
    Io = 5,
    /// Undo lists of System V semaphores.
    SysvSem = 6,
}

/// Compares an object of two processes; `a` and `b` are descriptor numbers for [`Resource::File`], else 0.
pub fn kcmp(pid_a: Pid, pid_b: Pid, what: Resource, a: u64, b: u64) -> Result<Ordering> {
    // SAFETY: kcmp(2) takes five integers and touches no memory of ours for these resource types.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, pid_a, pid_b, what as i32, a, b) };
    match order {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        3.. => Err(Errno(libc::EIO)), // unequal without an order: kernels before 3.5 only
        _ => Err(Errno::last()),
    }
}
