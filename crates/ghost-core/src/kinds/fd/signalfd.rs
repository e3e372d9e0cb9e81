//! signalfd: signals that are read, `signalfd(2)`.
//!
//! Read: fdinfo (`sigmask`, Linux 3.8). Rebuilt: `signalfd4(2)`. It keeps nothing but its mask: what it reads is pending in
//! whichever process reads it.

use super::regular;
use crate::error::{Context, KindError};
use crate::view::FdView;
use ghost_image::record as rec;
use ghost_sys::fdops;
use std::os::fd::{AsFd, OwnedFd};

/// What is written of a signalfd.
pub fn export(fd: &FdView) -> rec::SignalFd {
    rec::SignalFd { mask: fd.info.sigmask.unwrap_or_default() }
}

/// Makes it.
pub fn import(file: &rec::File, signalfd: &rec::SignalFd) -> Result<OwnedFd, KindError> {
    let fd = fdops::signalfd(signalfd.mask, rustix::fs::OFlags::CLOEXEC.bits()).step("making a signalfd")?;
    regular::set_flags(fd.as_fd(), file.flags)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_comes_back() {
        let record = rec::SignalFd { mask: 1 << 9 | 1 << 63 | 1 };
        let fd = import(&rec::File { flags: 2, ..rec::File::default() }, &record).unwrap();
        assert_eq!(export(&crate::kinds::fd::testing::view_of(fd.as_fd())), record);
    }
}
