//! Open file descriptions: what `fcntl(2)`, `kcmp(2)` and a few `ioctl(2)` tell of them and change, where rustix has no call.

#![allow(unsafe_code)]

use crate::{Errno, Pid, Result, errno::cvt};
use std::cmp::Ordering;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: the callers pass what a system call just returned as a new descriptor; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// `fcntl(2)` with a number.
fn fcntl(fd: BorrowedFd<'_>, command: i32, value: i64) -> Result<i32> {
    // SAFETY: the commands passed here take a number or nothing, no pointer.
    cvt(unsafe { libc::fcntl(fd.as_raw_fd(), command, value) } as i64).map(|v| v as i32)
}

/// Marks every descriptor from `first` on close-on-exec: programs started later do not inherit what we did.
///
/// `close_range(2)`, `CLOSE_RANGE_CLOEXEC` (Linux 5.11; `EINVAL` before).
pub fn close_on_exec_from(first: u32) -> Result<()> {
    // SAFETY: takes numbers only, and with this flag nothing is closed now.
    cvt(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Orders two descriptors of ours by the open file description behind them: equal when it is the same one.
///
/// `kcmp(2)`, `KCMP_FILE` (Linux 3.5). The order is the kernel's own, arbitrary and constant until the next boot.
pub fn compare(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> Result<Ordering> {
    const KCMP_FILE: i32 = 0;
    let me = std::process::id();
    // SAFETY: takes numbers only.
    let answer = cvt(unsafe { libc::syscall(libc::SYS_kcmp, me, me, KCMP_FILE, a.as_raw_fd(), b.as_raw_fd()) })?;
    order(answer)
}

/// Orders `file` against what `epoll` watches as its `nth` target (from 0) that was added as descriptor `target_fd`.
///
/// `kcmp(2)`, `KCMP_EPOLL_TFD` (Linux 4.13); `ENOENT` when there is no such target.
pub fn compare_epoll(file: BorrowedFd<'_>, epoll: BorrowedFd<'_>, target_fd: RawFd, nth: u32) -> Result<Ordering> {
    const KCMP_EPOLL_TFD: i32 = 7;
    /// `struct kcmp_epoll_slot`
    #[repr(C)]
    struct Slot {
        efd: u32,
        tfd: u32,
        toff: u32,
    }
    let me = std::process::id();
    let slot = Slot { efd: epoll.as_raw_fd() as u32, tfd: target_fd as u32, toff: nth };
    // SAFETY: `slot` has the kernel's layout and outlives the call, which only reads it.
    let answer =
        cvt(unsafe { libc::syscall(libc::SYS_kcmp, me, me, KCMP_EPOLL_TFD, file.as_raw_fd(), &raw const slot) })?;
    order(answer)
}

fn order(answer: i64) -> Result<Ordering> {
    match answer {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        // Unequal, and the kernel will not say in which way.
        _ => Err(Errno(libc::EDOM)),
    }
}

/// Who is told when input or output becomes possible on a description (`F_SETOWN_EX`, `F_SETSIG`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// `F_OWNER_TID` 0, `F_OWNER_PID` 1, `F_OWNER_PGRP` 2.
    pub sort: i32,
    /// The thread, process or group; 0 for nobody.
    pub pid: Pid,
    /// The signal, 0 for the usual SIGIO.
    pub signal: i32,
    /// The real uid of who set it, which decides whom it may signal.
    pub uid: u32,
    /// Its effective uid.
    pub euid: u32,
}

/// `struct f_owner_ex`
#[repr(C)]
struct OwnerEx {
    sort: i32,
    pid: i32,
}
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_GETOWNER_UIDS: i32 = 17;
const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;

/// Reads the owner; the uids need a kernel with CONFIG_CHECKPOINT_RESTORE and are 0 elsewhere.
pub fn owner(fd: BorrowedFd<'_>) -> Result<Owner> {
    let mut ex = OwnerEx { sort: 0, pid: 0 };
    // SAFETY: the kernel writes one `struct f_owner_ex`, which outlives the call.
    cvt(unsafe { libc::fcntl(fd.as_raw_fd(), F_GETOWN_EX, &raw mut ex) } as i64)?;
    let mut uids = [0_u32; 2];
    // Nobody has none; most descriptions have nobody.
    // SAFETY: the kernel writes two uid_t into the array, which outlives the call.
    let known = ex.pid != 0 && unsafe { libc::fcntl(fd.as_raw_fd(), F_GETOWNER_UIDS, uids.as_mut_ptr()) } == 0;
    let [uid, euid] = if known { uids } else { [0; 2] };
    Ok(Owner { sort: ex.sort, pid: ex.pid, signal: fcntl(fd, F_GETSIG, 0)?, uid, euid })
}

/// Sets the owner and the signal; the uids are those of the caller.
pub fn set_owner(fd: BorrowedFd<'_>, owner: Owner) -> Result<()> {
    let ex = OwnerEx { sort: owner.sort, pid: owner.pid };
    if owner.pid != 0 {
        // SAFETY: the kernel reads one `struct f_owner_ex`, which outlives the call.
        cvt(unsafe { libc::fcntl(fd.as_raw_fd(), F_SETOWN_EX, &raw const ex) } as i64)?;
    }
    if owner.signal != 0 {
        fcntl(fd, F_SETSIG, i64::from(owner.signal))?;
    }
    Ok(())
}

/// The lease on the inode: `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
pub fn lease(fd: BorrowedFd<'_>) -> Result<i32> {
    fcntl(fd, libc::F_GETLEASE, 0)
}

/// Takes a lease.
pub fn set_lease(fd: BorrowedFd<'_>, kind: i32) -> Result<()> {
    fcntl(fd, libc::F_SETLEASE, i64::from(kind)).map(drop)
}

/// Sets all status flags of a description that can be changed, by their bits (`F_SETFL`).
pub fn set_flags(fd: BorrowedFd<'_>, flags: u32) -> Result<()> {
    fcntl(fd, libc::F_SETFL, i64::from(flags)).map(drop)
}

/// All status flags of a description (`F_GETFL`).
pub fn flags(fd: BorrowedFd<'_>) -> Result<u32> {
    fcntl(fd, libc::F_GETFL, 0).map(|f| f as u32)
}

/// A lock on a range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Exclusive.
    pub write: bool,
    /// First byte.
    pub start: u64,
    /// How many bytes; 0 up to the end of the file, however it grows.
    pub len: u64,
}

/// `struct flock` for a lock of this range, as bytes for a call made in another process.
pub fn flock_bytes(range: Range) -> [u8; size_of::<libc::flock>()] {
    let lock = flock(range);
    // SAFETY: `struct flock` has no invalid bit patterns as bytes once it was zeroed whole, padding included.
    unsafe { std::mem::transmute(lock) }
}

fn flock(range: Range) -> libc::flock {
    // SAFETY: all bits zero is a valid `struct flock`.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = if range.write { libc::F_WRLCK } else { libc::F_RDLCK } as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = range.start as libc::off_t;
    lock.l_len = range.len as libc::off_t;
    lock
}

/// Takes a lock that belongs to the description (`F_OFD_SETLK`), or fails at once with `EAGAIN`.
pub fn lock_ofd(fd: BorrowedFd<'_>, range: Range) -> Result<()> {
    let lock = flock(range);
    // SAFETY: the kernel reads one `struct flock`, which outlives the call.
    cvt(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } as i64).map(drop)
}

/// Bytes that can be read now (`FIONREAD`).
pub fn readable_bytes(fd: BorrowedFd<'_>) -> Result<usize> {
    let mut n = 0_i32;
    // SAFETY: the kernel writes one int, which outlives the call.
    cvt(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut n) } as i64)?;
    Ok(n as usize)
}

/// How long what is written to this inode is said to live (`F_GET_RW_HINT`, Linux 4.13); 0 if nobody has said.
pub fn write_hint(fd: BorrowedFd<'_>) -> Result<u64> {
    const F_GET_RW_HINT: i32 = 1035;
    let mut hint = 0_u64;
    // SAFETY: the kernel writes one word, which outlives the call.
    cvt(unsafe { libc::fcntl(fd.as_raw_fd(), F_GET_RW_HINT, &raw mut hint) } as i64)?;
    Ok(hint)
}

/// Says so.
pub fn set_write_hint(fd: BorrowedFd<'_>, hint: u64) -> Result<()> {
    const F_SET_RW_HINT: i32 = 1036;
    // SAFETY: the kernel reads one word, which outlives the call.
    cvt(unsafe { libc::fcntl(fd.as_raw_fd(), F_SET_RW_HINT, &raw const hint) } as i64).map(drop)
}

/// Puts expirations that nobody has read into a timerfd (`TFD_IOC_SET_TICKS`, Linux 3.17, CONFIG_CHECKPOINT_RESTORE).
pub fn set_timerfd_ticks(fd: BorrowedFd<'_>, ticks: u64) -> Result<()> {
    /// `_IOW('T', 0, __u64)`
    const TFD_IOC_SET_TICKS: libc::Ioctl = 0x4008_5400;
    // SAFETY: the kernel reads one u64, which outlives the call.
    cvt(unsafe { libc::ioctl(fd.as_raw_fd(), TFD_IOC_SET_TICKS, &raw const ticks) } as i64).map(drop)
}

/// How an epoll polls network devices itself (Linux 6.9): microseconds, packets at a time, whether rather than by interrupts.
pub type BusyPoll = (u32, u32, bool);

/// `struct epoll_params`
#[repr(C)]
#[derive(Default)]
struct EpollParams {
    usecs: u32,
    budget: u16,
    prefer: u8,
    pad: u8,
}

/// EPIOCGPARAMS; nothing set on a kernel that does not know it.
pub fn busy_poll(epoll: BorrowedFd<'_>) -> BusyPoll {
    const EPIOCGPARAMS: libc::Ioctl = 0x8008_8a02;
    let mut params = EpollParams::default();
    // SAFETY: the kernel writes one `struct epoll_params` to `params`, which outlives the call.
    let done = unsafe { libc::ioctl(epoll.as_raw_fd(), EPIOCGPARAMS, &raw mut params) };
    if done == 0 { (params.usecs, params.budget.into(), params.prefer != 0) } else { BusyPoll::default() }
}

/// EPIOCSPARAMS. A budget above 64 needs CAP_NET_ADMIN.
pub fn set_busy_poll(epoll: BorrowedFd<'_>, (usecs, budget, prefer): BusyPoll) -> Result<()> {
    const EPIOCSPARAMS: libc::Ioctl = 0x4008_8a01;
    let params = EpollParams { usecs, budget: budget as u16, prefer: prefer.into(), pad: 0 };
    // SAFETY: the kernel reads one `struct epoll_params` from `params`, which outlives the call.
    cvt(unsafe { libc::ioctl(epoll.as_raw_fd(), EPIOCSPARAMS, &raw const params) }.into()).map(drop)
}

/// A descriptor that reads these signals (`signalfd4(2)`); bit 0 of the mask is signal 1.
pub fn signalfd(mask: u64, flags: u32) -> Result<OwnedFd> {
    // SAFETY: the kernel reads eight bytes of mask, which outlive the call.
    cvt(unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const mask, 8_usize, flags) }).map(owned)
}

/// The handle of the file behind a descriptor, which finds its inode again: `(type, bytes)`.
///
/// `name_to_handle_at(2)`, Linux 2.6.39; `EOPNOTSUPP` where the file system has none.
pub fn file_handle(fd: BorrowedFd<'_>) -> Result<(i32, Vec<u8>)> {
    let mut handle = Handle { len: HANDLE_MAX as u32, kind: 0, bytes: [0; HANDLE_MAX] };
    let mut mount = 0_i32;
    // SAFETY: `handle` says how much room it has and outlives the call; the path is an empty string.
    cvt(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    })?;
    Ok((handle.kind, handle.bytes[..handle.len as usize].to_vec()))
}

/// Opens the file that a handle names, on the file system in which `mount` lies; needs CAP_DAC_READ_SEARCH.
/// `ESTALE` when it is gone.
pub fn open_by_handle(mount: BorrowedFd<'_>, kind: i32, bytes: &[u8], flags: u32) -> Result<OwnedFd> {
    if bytes.len() > HANDLE_MAX {
        return Err(Errno(libc::EINVAL));
    }
    let mut handle = Handle { len: bytes.len() as u32, kind, bytes: [0; HANDLE_MAX] };
    handle.bytes[..bytes.len()].copy_from_slice(bytes);
    let flags = flags | libc::O_CLOEXEC as u32;
    // SAFETY: `handle` has the kernel's layout, says its length and outlives the call, which only reads it.
    cvt(unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw const handle, flags) }).map(owned)
}

/// `MAX_HANDLE_SZ`
const HANDLE_MAX: usize = 128;
/// `struct file_handle`
#[repr(C)]
struct Handle {
    len: u32,
    kind: i32,
    bytes: [u8; HANDLE_MAX],
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn descriptions_are_told_apart_and_ordered() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let same = file.try_clone().unwrap();
        let other = std::fs::File::open("/proc/self/status").unwrap();
        assert_eq!(compare(file.as_fd(), same.as_fd()), Ok(Ordering::Equal));
        let one_way = compare(file.as_fd(), other.as_fd()).unwrap();
        assert_ne!(one_way, Ordering::Equal);
        assert_eq!(compare(other.as_fd(), same.as_fd()), Ok(one_way.reverse()));
    }

    #[test]
    fn a_handle_finds_its_file() {
        let dir = std::fs::File::open("/tmp").unwrap();
        let Ok((kind, bytes)) = file_handle(dir.as_fd()) else { return };
        match open_by_handle(dir.as_fd(), kind, &bytes, (libc::O_RDONLY | libc::O_DIRECTORY) as u32) {
            Ok(again) => {
                use std::os::unix::fs::MetadataExt;
                let again = std::fs::File::from(again).metadata().unwrap();
                let first = dir.metadata().unwrap();
                assert_eq!((again.dev(), again.ino()), (first.dev(), first.ino()));
            }
            Err(e) => assert!(matches!(e, Errno(libc::EPERM | libc::EOPNOTSUPP)), "{e}"),
        }
    }

    #[test]
    fn owner_and_signal_come_back() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(owner(a.as_fd()).unwrap().pid, 0);
        let me = std::process::id() as Pid;
        set_owner(a.as_fd(), Owner { sort: 1, pid: me, signal: 35, uid: 0, euid: 0 }).unwrap();
        let got = owner(a.as_fd()).unwrap();
        assert_eq!((got.sort, got.pid, got.signal), (1, me, 35));
    }
}
