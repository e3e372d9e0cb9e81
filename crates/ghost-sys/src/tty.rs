//! Terminals: `ioctl_tty(2)`. Settings travel as bytes of `struct termios2` (Linux 2.6.20) and `struct winsize`.
//!
//! What a pseudo-terminal is asked for: its number (TIOCGPTN), lock (TIOCGPTLCK), exclusive mode (TIOCGEXCL) and packet mode
//! (TIOCGPKT), the last three since Linux 3.8. Window size and settings belong to the pair.

#![allow(unsafe_code)]

use crate::{Pid, Result, errno::cvt};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Bytes of `struct termios2` as the kernel has it on x86-64 and arm64.
pub const TERMIOS_LEN: usize = 44;
/// Bytes of `struct winsize`.
pub const WINSIZE_LEN: usize = 8;

/// `_IOR('T', 0x2A, struct termios2)` and its neighbours for setting: at once, and after output has drained.
const TCGETS2: libc::Ioctl = 0x802c_542a;
const TCSETS2: libc::Ioctl = 0x402c_542b;
const TIOCGPTN: libc::Ioctl = 0x8004_5430;
const TIOCSPTLCK: libc::Ioctl = 0x4004_5431;
const TIOCGPKT: libc::Ioctl = 0x8004_5438;
const TIOCGPTLCK: libc::Ioctl = 0x8004_5439;
const TIOCGEXCL: libc::Ioctl = 0x8004_5440;
const TIOCGPTPEER: libc::Ioctl = 0x5441;
const TIOCGDEV: libc::Ioctl = 0x8004_5432;
const TIOCGETD: libc::Ioctl = 0x5424;

/// Reads a number of bytes that the request fixes.
fn get<const N: usize>(fd: BorrowedFd<'_>, request: libc::Ioctl) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: each request passed here has the kernel write exactly N bytes, which outlive the call.
    cvt(unsafe { libc::ioctl(fd.as_raw_fd(), request, bytes.as_mut_ptr()) } as i64)?;
    Ok(bytes)
}

/// Hands a number of bytes over that the request fixes.
fn set<const N: usize>(fd: BorrowedFd<'_>, request: libc::Ioctl, bytes: &[u8; N]) -> Result<()> {
    // SAFETY: each request passed here has the kernel read exactly N bytes, which outlive the call.
    cvt(unsafe { libc::ioctl(fd.as_raw_fd(), request, bytes.as_ptr()) } as i64).map(drop)
}

fn flag(fd: BorrowedFd<'_>, request: libc::Ioctl) -> Result<bool> {
    get::<4>(fd, request).map(|b| i32::from_ne_bytes(b) != 0)
}

/// The settings; `ENOTTY` for what is no terminal.
pub fn termios(tty: BorrowedFd<'_>) -> Result<[u8; TERMIOS_LEN]> {
    get(tty, TCGETS2)
}
/// Sets the settings at once; waiting output and input stay.
pub fn set_termios(tty: BorrowedFd<'_>, bytes: &[u8; TERMIOS_LEN]) -> Result<()> {
    set(tty, TCSETS2, bytes)
}
/// The window size.
pub fn winsize(tty: BorrowedFd<'_>) -> Result<[u8; WINSIZE_LEN]> {
    get(tty, libc::TIOCGWINSZ)
}
/// Sets the window size; when it differs the foreground process group gets SIGWINCH.
pub fn set_winsize(tty: BorrowedFd<'_>, bytes: &[u8; WINSIZE_LEN]) -> Result<()> {
    set(tty, libc::TIOCSWINSZ, bytes)
}
/// The number of the slave, given the master.
pub fn pty_number(master: BorrowedFd<'_>) -> Result<u32> {
    get::<4>(master, TIOCGPTN).map(u32::from_ne_bytes)
}
/// The device number of the terminal itself, also of one that was opened as `/dev/tty` (TIOCGDEV, Linux 2.6.39).
pub fn device(tty: BorrowedFd<'_>) -> Result<u64> {
    let (major, minor) = numbers(get::<4>(tty, TIOCGDEV).map(u32::from_ne_bytes)?);
    Ok(libc::makedev(major, minor))
}
/// Major and minor number of a device in the 32 bits in which the kernel tells it of terminals (`tty_nr` of
/// `/proc/PID/stat`, TIOCGDEV).
pub fn numbers(device: u32) -> (u32, u32) {
    (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00)
}
/// The number of its line discipline; 0 is the usual one.
pub fn discipline(tty: BorrowedFd<'_>) -> Result<i32> {
    get::<4>(tty, TIOCGETD).map(i32::from_ne_bytes)
}
/// Whether the slave can't be opened yet.
pub fn is_locked(master: BorrowedFd<'_>) -> Result<bool> {
    flag(master, TIOCGPTLCK)
}
/// Locks or unlocks the slave.
pub fn set_locked(master: BorrowedFd<'_>, locked: bool) -> Result<()> {
    set(master, TIOCSPTLCK, &i32::from(locked).to_ne_bytes())
}
/// Whether the master reads packets with a control byte in front.
pub fn is_packet_mode(master: BorrowedFd<'_>) -> Result<bool> {
    flag(master, TIOCGPKT)
}
/// Switches packet mode.
pub fn set_packet_mode(master: BorrowedFd<'_>, on: bool) -> Result<()> {
    set(master, libc::TIOCPKT, &i32::from(on).to_ne_bytes())
}
/// Whether further opens are refused.
pub fn is_exclusive(tty: BorrowedFd<'_>) -> Result<bool> {
    flag(tty, TIOCGEXCL)
}
/// Refuses or allows further opens; CAP_SYS_ADMIN opens it all the same.
pub fn set_exclusive(tty: BorrowedFd<'_>, on: bool) -> Result<()> {
    let request = if on { libc::TIOCEXCL } else { libc::TIOCNXCL };
    // SAFETY: takes no argument.
    cvt(unsafe { libc::ioctl(tty.as_raw_fd(), request) } as i64).map(drop)
}
/// Opens the slave of a master wherever its devpts is mounted (TIOCGPTPEER, Linux 4.13); never becomes the controlling
/// terminal of the caller. Unlike open(2) it would leave O_CLOEXEC among the flags of the description, so that comes afterwards.
pub fn open_peer(master: BorrowedFd<'_>, flags: i32) -> Result<OwnedFd> {
    let flags = (flags | libc::O_NOCTTY) & !libc::O_CLOEXEC;
    // SAFETY: takes a number.
    let fd = cvt(unsafe { libc::ioctl(master.as_raw_fd(), TIOCGPTPEER, flags) } as i64)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    // SAFETY: takes a number.
    cvt(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) } as i64)?;
    Ok(fd)
}
/// The session that it controls, asked through the master or as its own terminal; `ENOTTY` when there is none.
pub fn session(tty: BorrowedFd<'_>) -> Result<Pid> {
    get::<4>(tty, libc::TIOCGSID).map(i32::from_ne_bytes)
}
/// Its foreground process group, under the same rule.
pub fn foreground(tty: BorrowedFd<'_>) -> Result<Pid> {
    get::<4>(tty, libc::TIOCGPGRP).map(i32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Errno;
    use std::os::fd::AsFd;

    #[test]
    fn a_pty_tells_and_takes_everything() {
        let master = std::fs::File::options().read(true).write(true).open("/dev/ptmx").unwrap();
        let m = master.as_fd();
        assert!(is_locked(m).unwrap());
        assert_eq!(open_peer(m, libc::O_RDWR).err(), Some(Errno(libc::EIO)));
        set_locked(m, false).unwrap();
        let slave = open_peer(m, libc::O_RDWR).unwrap();
        let link = crate::proc::ProcDir::own().unwrap().link(&format!("fd/{}", slave.as_raw_fd())).unwrap();
        assert_eq!(link, format!("/dev/pts/{}", pty_number(m).unwrap()).into_bytes());

        let mut settings = termios(slave.as_fd()).unwrap();
        settings[12] ^= 0x08; // ECHO
        set_termios(slave.as_fd(), &settings).unwrap();
        assert_eq!(termios(slave.as_fd()).unwrap(), settings);
        let size = [25, 0, 81, 0, 1, 0, 2, 0];
        set_winsize(m, &size).unwrap();
        assert_eq!(winsize(slave.as_fd()).unwrap(), size);

        type Get = fn(BorrowedFd<'_>) -> Result<bool>;
        type Set = fn(BorrowedFd<'_>, bool) -> Result<()>;
        let pairs: [(Get, Set); 3] =
            [(is_packet_mode, set_packet_mode), (is_locked, set_locked), (is_exclusive, set_exclusive)];
        for (get, set) in pairs {
            assert_eq!(get(m), Ok(false));
            set(m, true).unwrap();
            assert_eq!(get(m), Ok(true));
            set(m, false).unwrap();
            assert_eq!(get(m), Ok(false));
        }
        assert_eq!(foreground(m), Ok(0));
        assert!(session(slave.as_fd()).is_err());
        let file = std::fs::File::from(slave.try_clone().unwrap());
        let rdev = std::os::unix::fs::MetadataExt::rdev(&file.metadata().unwrap());
        assert_eq!(device(slave.as_fd()), Ok(rdev));
        assert_eq!(discipline(slave.as_fd()), Ok(0));
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(termios(null.as_fd()), Err(Errno(libc::ENOTTY)));
    }
}
