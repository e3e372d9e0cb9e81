//! Work done inside other namespaces: `setns(2)` (Linux 3.0), `unshare(2)`, in a thread of its own that ends with the work.
//!
//! A thread can enter mount, network, uts, ipc, cgroup and pid namespaces (the last only for its children) without the rest of
//! the process. It can *not* enter a user or time namespace: the kernel wants a single-threaded process for these (`EINVAL`,
//! `EUSERS`); for them a child process is needed. Needs CAP_SYS_ADMIN in the owning user namespace and in our own; for mount
//! namespaces CAP_SYS_CHROOT too.
//!
//! Descriptors opened inside stay good outside: a socket keeps its network namespace, a file its mount.

#![allow(unsafe_code)]

use crate::{Errno, Result, errno::cvt};
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Runs `work` in a thread that has entered these namespaces (descriptors of `/proc/PID/ns/*`), in the order given.
///
/// With a mount namespace the thread's root and working directory become that namespace's root.
pub fn run_in<T: Send>(namespaces: &[BorrowedFd<'_>], work: impl FnOnce() -> T + Send) -> Result<T> {
    in_thread(
        || {
            // A thread that shares root and working directory with others may not change its mount namespace.
            unshare(libc::CLONE_FS)?;
            for ns in namespaces {
                // SAFETY: takes numbers only; `ns` is open for as long as it is borrowed. Only this thread is moved.
                cvt(unsafe { libc::setns(ns.as_raw_fd(), 0) } as i64)?;
            }
            Ok(())
        },
        work,
    )
}

/// Runs `work` in a thread that has left its namespaces for new ones (`CLONE_NEWNET | CLONE_NEWNS ...`). They live on as
/// long as a descriptor made inside (of `/proc/thread-self/ns/*`), a mount or a process holds them.
pub fn run_in_new<T: Send>(flags: i32, work: impl FnOnce() -> T + Send) -> Result<T> {
    in_thread(|| unshare(flags | libc::CLONE_FS), work)
}

fn unshare(flags: i32) -> Result<()> {
    // SAFETY: takes a number. CLONE_FILES is never asked for, so that the descriptor table stays that of the process, which
    // std relies on.
    cvt(unsafe { libc::unshare(flags & !libc::CLONE_FILES) } as i64).map(drop)
}

/// A panic of `work` goes on in the caller, as if it had been called there.
fn in_thread<T: Send>(enter: impl FnOnce() -> Result<()> + Send, work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let spawned =
            std::thread::Builder::new().name("ghost-ns".into()).spawn_scoped(scope, || enter().map(|()| work()));
        match spawned {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(e) => Err(Errno::from(e)),
        }
    })
}

/// `mount(2)`; what is None is not given. Meant for a mount namespace of one's own.
pub fn mount(source: Option<&CStr>, target: &CStr, kind: Option<&CStr>, flags: u64, data: Option<&CStr>) -> Result<()> {
    let raw = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: all strings are NUL-terminated or null, and outlive the call, which only reads them.
    cvt(unsafe { libc::mount(raw(source), target.as_ptr(), raw(kind), flags, raw(data).cast()) } as i64).map(drop)
}

/// `umount2(2)`; `flags`: MNT_DETACH, UMOUNT_NOFOLLOW.
pub fn unmount(target: &CStr, flags: i32) -> Result<()> {
    // SAFETY: the string is NUL-terminated and outlives the call.
    cvt(unsafe { libc::umount2(target.as_ptr(), flags) } as i64).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn ns(name: &str) -> std::path::PathBuf {
        std::fs::read_link(format!("/proc/thread-self/ns/{name}")).unwrap()
    }

    /// False, with a word why, where this user may make no namespaces.
    fn allowed(outcome: &Result<impl Sized>) -> bool {
        let refused = matches!(outcome, Err(Errno(libc::EPERM)));
        if refused {
            eprintln!("skipped: CAP_SYS_ADMIN is missing");
        }
        !refused
    }

    #[test]
    fn a_thread_works_inside_and_the_process_stays_outside() {
        let before = (ns("net"), ns("uts"));
        let made = run_in_new(libc::CLONE_NEWNET | libc::CLONE_NEWUTS, || {
            let open = |name| std::fs::File::open(format!("/proc/thread-self/ns/{name}")).unwrap();
            (open("net"), open("uts"), ns("net"))
        });
        if !allowed(&made) {
            return;
        }
        let (net, uts, inside) = made.unwrap();
        assert_ne!(inside, before.0);
        let (again, diag) =
            run_in(&[net.as_fd(), uts.as_fd()], || (ns("net"), crate::sock_diag::SockDiag::open())).unwrap();
        assert_eq!(again, inside);
        assert_eq!((ns("net"), ns("uts")), before);
        // A socket made inside goes on speaking of that namespace: no unix socket is there.
        assert!(diag.unwrap().unix().unwrap().is_empty());
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(run_in(&[null.as_fd()], || ()), Err(Errno(libc::EINVAL)));
    }

    #[test]
    fn mounts_stay_inside() {
        let before = std::fs::read("/proc/self/mountinfo").unwrap();
        let made = run_in_new(libc::CLONE_NEWNS, || {
            mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None)?;
            mount(Some(c"ghost"), c"/tmp", Some(c"tmpfs"), 0, Some(c"size=4096"))?;
            std::fs::write("/tmp/inside", b"x")?;
            unmount(c"/tmp", libc::MNT_DETACH)
        });
        if allowed(&made) {
            made.unwrap().unwrap();
            assert!(!std::path::Path::new("/tmp/inside").exists());
            assert_eq!(std::fs::read("/proc/self/mountinfo").unwrap(), before);
        }
    }
}
