//! Helpers of the unit tests: a descriptor of ours, seen as one of a process.

use crate::view::FdView;
use ghost_sys::proc::{ProcDir, read_fdinfo};
use std::os::fd::{AsRawFd, BorrowedFd};

/// What [`crate::view`] would see of this descriptor.
pub fn view_of(fd: BorrowedFd<'_>) -> FdView {
    let own = ProcDir::own().unwrap();
    let number = fd.as_raw_fd();
    FdView {
        fd: number,
        link: own.link(&format!("fd/{number}")).unwrap(),
        info: read_fdinfo(&own, number).unwrap(),
        ours: fd.try_clone_to_owned().unwrap(),
        stat: rustix::fs::fstat(fd).unwrap(),
    }
}
