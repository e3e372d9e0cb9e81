//! What this kernel has and what this process may do: the first half of `ghost check`.
//!
//! Each answer comes from trying the thing itself, in a form that changes nothing, since version numbers lie (vendors
//! backport, containers filter) and capabilities are no promise (seccomp, Yama). Asked once and kept.

#![allow(unsafe_code)]

use crate::proc::{ProcDir, Status, read_status};
use crate::{Errno, Result, errno::cvt, pagemap, pidfd, sock_diag::SockDiag};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

/// One thing that ghost can use, and whether it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its short name: `PAGEMAP_SCAN`, `CAP_SYS_PTRACE`.
    pub name: &'static str,
    /// Whether it works here.
    pub ok: bool,
    /// What it is for; when it is missing, why and what helps.
    pub why: String,
}

/// All features, in a fixed order.
pub fn all() -> &'static [Feature] {
    static ALL: OnceLock<Vec<Feature>> = OnceLock::new();
    ALL.get_or_init(ask)
}

/// Whether a feature is there; false for a name that is not in the list.
pub fn has(name: &str) -> bool {
    all().iter().any(|f| f.name == name && f.ok)
}

/// Capabilities that ghost can use: number, name, what for.
const CAPABILITIES: [(u32, &str, &str); 7] = [
    (19, "CAP_SYS_PTRACE", "exporting processes of other users"),
    (40, "CAP_CHECKPOINT_RESTORE", "restoring pids and the executable's name without CAP_SYS_ADMIN"),
    (21, "CAP_SYS_ADMIN", "namespaces, seccomp filters, mounts"),
    (12, "CAP_NET_ADMIN", "established TCP connections, silent networks"),
    (24, "CAP_SYS_RESOURCE", "raising hard limits, lowering oom_score_adj"),
    (6, "CAP_SETGID", "restoring groups"),
    (7, "CAP_SETUID", "restoring users"),
];

fn ask() -> Vec<Feature> {
    let status = ProcDir::own().and_then(|dir| read_status(&dir)).unwrap_or_default();
    let mut list = Vec::new();
    let mut add = |name, outcome: Result<()>, purpose: &str, help: &str| {
        let why = match outcome {
            Ok(()) => purpose.to_owned(),
            Err(e) => format!("{purpose}: {e}; {help}"),
        };
        list.push(Feature { name, ok: outcome.is_ok(), why });
    };
    for (number, name, purpose) in CAPABILITIES {
        let held = status.cap_effective >> number & 1 == 1;
        add(name, if held { Ok(()) } else { Err(Errno(libc::EPERM)) }, purpose, "run as root or grant the capability");
    }
    let (scan, guards) = pagemap::support().unwrap_or((false, false));
    add("PAGEMAP_SCAN", yes(scan), "finding written pages", "Linux 6.7 or newer is needed");
    add("guard regions", yes(guards), "telling guard pages from others", "Linux 6.15 or newer tells them");
    add("pidfd_getfd", getfd(), "descriptors of other processes", "Linux 5.6, and a seccomp profile that allows it");
    add(
        "clone3 set_tid",
        set_tid(),
        "restoring pids",
        "CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN is needed, or --pid ns",
    );
    add("userfaultfd", userfaultfd(0), "lazy restart", "see /proc/sys/vm/unprivileged_userfaultfd");
    add(
        "userfaultfd WP_ASYNC",
        userfaultfd(1 << 15),
        "tracking writes without stopping",
        "Linux 6.7 or newer is needed",
    );
    let time = std::fs::metadata("/proc/self/ns/time").map(drop).map_err(Errno::from);
    add("time namespace", time, "clocks that go on where they stopped", "Linux 5.6 with CONFIG_TIME_NS is needed");
    add(
        "seccomp suspend",
        suspend_seccomp(&status),
        "exporting processes under seccomp",
        "CAP_SYS_ADMIN, and ghost itself outside of seccomp",
    );
    add("kcmp", kcmp(), "finding what processes share", "CONFIG_KCMP, and a seccomp profile that allows it");
    let diag = SockDiag::open().and_then(|d| d.unix().map(drop));
    add("unix_diag", diag, "connected unix sockets", "load the module unix_diag");
    let diag = SockDiag::open().and_then(|d| d.inet(libc::IPPROTO_TCP).map(drop));
    add("tcp_diag", diag, "TCP sockets", "load the modules inet_diag and tcp_diag");
    add("TCP_REPAIR", tcp_repair(), "established TCP connections", "CAP_NET_ADMIN in the network namespace is needed");
    add(
        "map_files",
        map_files(),
        "mapped files that have no name any more",
        "CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN is needed",
    );
    list
}

fn yes(there: bool) -> Result<()> {
    if there { Ok(()) } else { Err(Errno(libc::EOPNOTSUPP)) }
}

/// Takes a descriptor of our own.
fn getfd() -> Result<()> {
    let me = pidfd::open(std::process::id() as i32)?;
    pidfd::getfd(me.as_fd(), me.as_raw_fd()).map(drop)
}

/// Asks for a child with our own pid: the right is checked first, and then the pid is found taken, so that none is made.
fn set_tid() -> Result<()> {
    let tid = std::process::id() as i32;
    /// `struct clone_args` up to `set_tid_size`, Linux 5.5.
    #[repr(C)]
    struct CloneArgs([u64; 10]);
    let mut args = CloneArgs([0; 10]);
    args.0[4] = libc::SIGCHLD as u64;
    args.0[8] = &raw const tid as u64;
    args.0[9] = 1;
    // SAFETY: `args` and the tid that it points at outlive the call. Neither memory nor stack is shared (no flags), so that
    // a child, were one made against all expectation, is a copy that ends at once below.
    let r = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    if r == 0 {
        // SAFETY: ends this copy of the process without running anything of it.
        unsafe { libc::_exit(0) };
    }
    match cvt(r) {
        Err(Errno(libc::EEXIST)) => Ok(()),
        Err(e) => Err(e),
        Ok(_) => Err(Errno(libc::EPROTO)),
    }
}

/// Opens a userfaultfd and asks for its features; `wanted` must be among them.
fn userfaultfd(wanted: u64) -> Result<()> {
    // SAFETY: takes numbers only.
    let fd = cvt(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) })?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    /// `_IOWR(0xAA, 0x3F, struct uffdio_api)`
    const UFFDIO_API: libc::Ioctl = 0xc018_aa3f;
    // api, features, ioctls
    let mut api = [0xaa_u64, 0, 0];
    // SAFETY: the kernel reads and writes one `struct uffdio_api`, three words, which outlive the call.
    cvt(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()) } as i64)?;
    yes(api[1] & wanted == wanted)
}

/// PTRACE_O_SUSPEND_SECCOMP is refused to who lacks CAP_SYS_ADMIN or is under seccomp (kernel ptrace.c); its kernel option
/// is the one that brings `/proc/PID/timers`.
fn suspend_seccomp(status: &Status) -> Result<()> {
    std::fs::metadata("/proc/self/timers").map_err(|_| Errno(libc::EOPNOTSUPP))?;
    if status.seccomp == 0 && status.cap_effective >> 21 & 1 == 1 { Ok(()) } else { Err(Errno(libc::EPERM)) }
}

fn kcmp() -> Result<()> {
    let me = std::process::id();
    // SAFETY: takes numbers only; compares our address space with itself (KCMP_VM).
    cvt(unsafe { libc::syscall(libc::SYS_kcmp, me, me, 1, 0, 0) }).map(drop)
}

fn tcp_repair() -> Result<()> {
    // SAFETY: takes numbers only.
    let fd = cvt(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) } as i64)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    crate::sockopt::set_i32(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_REPAIR, 1)
}

/// Opens one of our own mapped files by its range.
fn map_files() -> Result<()> {
    let gone = Errno(libc::ENOENT);
    let dir = ProcDir::own().map_err(|e| e.errno().unwrap_or(gone))?;
    let maps = crate::proc::read_maps(&dir).map_err(|e| e.errno().unwrap_or(gone))?;
    let file = maps.iter().find(|m| m.is_file()).ok_or(gone)?;
    dir.open_file(&file.map_file(), libc::O_RDONLY).map(drop).map_err(|e| e.errno().unwrap_or(gone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_agree_with_what_works() {
        let list = all();
        let names: std::collections::HashSet<_> = list.iter().map(|f| f.name).collect();
        assert_eq!(names.len(), list.len(), "each name once");
        assert!(list.iter().all(|f| !f.why.is_empty()));
        assert!(has("pidfd_getfd"), "{list:?}");
        assert_eq!(has("PAGEMAP_SCAN"), pagemap::scan(&ProcDir::own().unwrap()).is_ok());
        assert!(!has("levitation"));
        // The kernel grants set_tid to who has either of these capabilities (in the first user namespace, as here).
        if has("CAP_SYS_ADMIN") || has("CAP_CHECKPOINT_RESTORE") {
            assert!(has("clone3 set_tid"), "{list:?}");
        }
        let missing: Vec<_> = list.iter().filter(|f| !f.ok).collect();
        assert!(missing.iter().all(|f| f.why.contains("; ")), "each says what helps: {missing:?}");
    }
}
