//! Namespaces that are held open: `/proc/PID/ns/NAME`, `namespaces(7)`.
//!
//! Carried when it is a namespace that ghost itself is in: at the restart it is the one that ghost is in then. Any other is
//! refused.

use super::class::Refusal;
use super::regular;
use crate::error::{Context, KindError};
use crate::view::FdView;
use ghost_image::record as rec;
use rustix::fs::{Mode, OFlags};
use std::os::fd::OwnedFd;

/// Names that one sort of namespace has in `/proc/PID/ns`, by the name that the link prints.
fn name(link: &[u8]) -> Option<String> {
    let end = link.iter().position(|b| *b == b':')?;
    Some(String::from_utf8_lossy(&link[..end]).into_owned())
}

/// Refuses a namespace that is not ghost's own.
pub fn check(fd: &FdView) -> Option<Refusal> {
    let own = name(&fd.link)
        .and_then(|n| rustix::fs::stat(format!("/proc/self/ns/{n}")).ok())
        .is_some_and(|s| (s.st_dev, s.st_ino) == (fd.stat.st_dev, fd.stat.st_ino));
    (!own).then(|| {
        let why = format!("holds the namespace {} open, which is not that of ghost", String::from_utf8_lossy(&fd.link));
        Refusal::new("namespace", why, "run ghost in that namespace (nsenter), or close it before the checkpoint")
    })
}

/// What is written of it.
pub fn export(fd: &FdView) -> rec::NsFd {
    rec::NsFd { name: name(&fd.link).unwrap_or_default(), own: true }
}

/// Opens ghost's own namespace of that sort.
pub fn import(file: &rec::File, ns: &rec::NsFd) -> Result<OwnedFd, KindError> {
    const SORTS: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    if !SORTS.contains(&ns.name.as_str()) {
        return Err(KindError::conflict("opening a namespace", format!("there is no sort `{}`", ns.name)));
    }
    let flags = OFlags::from_bits_retain(file.flags & !(regular::NOT_AGAIN | regular::ASYNC)) | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/self/ns/{}", ns.name), flags, Mode::empty())
        .step(format!("opening its {} namespace", ns.name))
}
