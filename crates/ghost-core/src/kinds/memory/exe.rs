//! An executable whose name is gone, with that name: what `/proc/PID/exe` shows is the last name of the file and where it was.
//!
//! A file made with O_TMPFILE never had one and shows as `#inode`. To give it the old name in its old directory and take it
//! away would leave it there when ghost is killed in between. So the file is made under its old path in a tmpfs of its own
//! that is mounted nowhere (`fsopen(2)`, `fsmount(2)`, Linux 5.2; CAP_SYS_ADMIN): the kernel shows paths in such a mount from
//! its root, and the whole of it ends with its last user. The price: the bytes are in memory, and the device is another.

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Result;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::os::fd::OwnedFd;

/// An empty file, open for reading and writing, that had this absolute path and has it no more.
pub fn deleted(path: &[u8]) -> Result<OwnedFd> {
    let mut parts = path.split(|b| *b == b'/').filter(|p| !p.is_empty()).peekable();
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&fs)?;
    let mut at = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&at, part, flags, Mode::RUSR | Mode::WUSR)?;
            rustix::fs::unlinkat(&at, part, AtFlags::empty())?;
            return Ok(file);
        }
        // Whoever may ask for the path may look at it, as it was.
        rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        at = rustix::fs::openat(&at, part, flags, Mode::empty())?;
    }
    Err(rustix::io::Errno::INVAL)
}
