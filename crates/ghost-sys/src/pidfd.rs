//! Processes as file descriptors: `pidfd_open(2)`, `pidfd_getfd(2)`, `pidfd_send_signal(2)`; Linux 5.6.

use crate::{Pid, Result};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

/// A descriptor for this process.
pub fn open(_pid: Pid) -> Result<OwnedFd> {
    todo!()
}
/// The other process's descriptor `fd`, as a descriptor of ours for the same open file description.
pub fn getfd(_process: BorrowedFd<'_>, _fd: RawFd) -> Result<OwnedFd> {
    todo!()
}
/// Sends a signal.
pub fn signal(_process: BorrowedFd<'_>, _signal: i32) -> Result<()> {
    todo!()
}
