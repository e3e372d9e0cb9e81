//! eventfd: a counter, `eventfd(2)`.
//!
//! Read: fdinfo (`eventfd-count`, Linux 3.8; `eventfd-semaphore`, Linux 6.7). Rebuilt: `eventfd2(2)`, then one `write(2)` of
//! the count. On kernels before 6.7 nothing tells EFD_SEMAPHORE apart, so that an eventfd is refused there.

use super::class::Refusal;
use super::regular;
use crate::error::{Context, KindError};
use crate::view::FdView;
use ghost_image::record as rec;
use rustix::event::EventfdFlags;
use std::os::fd::{AsFd, OwnedFd};

/// Refuses where the kernel hides half of what it is.
pub fn check(fd: &FdView) -> Option<Refusal> {
    let known = fd.info.eventfd.is_some_and(|e| e.semaphore.is_some());
    (!known).then(|| {
        Refusal::new("eventfd", "this kernel does not tell whether it is a semaphore", "use a kernel of 6.7 or newer")
    })
}

/// What is written of an eventfd.
pub fn export(fd: &FdView) -> rec::EventFd {
    let info = fd.info.eventfd.unwrap_or_default();
    rec::EventFd { count: info.count, semaphore: info.semaphore.unwrap_or_default() }
}

/// Makes it with its count.
pub fn import(file: &rec::File, eventfd: &rec::EventFd) -> Result<OwnedFd, KindError> {
    let semaphore = if eventfd.semaphore { EventfdFlags::SEMAPHORE } else { EventfdFlags::empty() };
    let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | semaphore)
        .step("making an eventfd")?;
    if eventfd.count > 0 {
        rustix::io::write(&fd, &eventfd.count.to_ne_bytes()).step("giving an eventfd its count")?;
    }
    regular::set_flags(fd.as_fd(), file.flags)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::fd::testing::view_of;

    #[test]
    fn count_and_semaphore_come_back() {
        for (count, semaphore) in [(0_u64, false), (7, true), (u64::MAX - 1, false)] {
            let record = rec::EventFd { count, semaphore };
            let file = rec::File { flags: 2 | rustix::fs::OFlags::NONBLOCK.bits(), ..rec::File::default() };
            let fd = import(&file, &record).unwrap();
            let view = view_of(fd.as_fd());
            assert_eq!(export(&view), record);
            assert_eq!(view.info.description_flags(), file.flags);
        }
    }
}
