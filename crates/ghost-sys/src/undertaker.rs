//! A child that outlives ghost for a moment, to take away what a killed ghost would leave behind.
//!
//! The kernel undoes most of what ghost has under construction when ghost dies: tracees end, descriptors close. It does not take
//! back a name in a directory, nor end a process that has been let go already while its kin has not. So where one of these is about
//! to be made, it is first written into a *will*, and a child waits on a socket: a byte in it says that all is well, its end without
//! one that ghost has died. Then the child kills the doomed and removes the names, which takes it some microseconds.
//!
//! The child has a session of its own, every signal blocked and no descriptor but these, so that a kill that is meant for ghost, or
//! for its process group, does not reach it and nobody waits for the end of a pipe that it holds. What kills both at the same
//! instant (`cgroup.kill`, the loss of power) leaves what the will says.

#![allow(unsafe_code)]

use crate::{Errno, Pid, Result, errno::cvt, process};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// What a name leads to; nothing of another sort is ever removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Sort {
    /// A directory, removed if it is empty.
    Directory = 1,
    /// A FIFO.
    Fifo = 2,
    /// A unix socket.
    Socket = 3,
    /// A character device.
    Device = 4,
}

/// A line of the will; [`Undertaker::revoke`] takes it out again.
#[derive(Debug, Clone, Copy)]
pub struct Entry(i64);

/// The longest path of an entry, with its NUL.
const PATH_ROOM: usize = 4096;
/// Sort, three bytes of nothing, length of the path with its NUL; device and inode, once they are known.
const HEAD: usize = 24;

/// The child and the way to it. Dropping it sends the child home: all is well, or has been taken back already.
#[derive(Debug)]
pub struct Undertaker {
    pid: Pid,
    line: OwnedFd,
    will: OwnedFd,
    len: i64,
}

impl Undertaker {
    /// Makes the child. `doomed` are pidfds of processes that end with ghost.
    pub fn new(doomed: &[OwnedFd]) -> Result<Self> {
        Self::with_will(process::memfd(c"ghost-will", 0)?, 0, doomed)
    }

    /// Makes another child for the same will and more processes, then sends this one home: at no instant there is none.
    pub fn succeeded(self, doomed: &[OwnedFd]) -> Result<Self> {
        let will = self.will.try_clone()?;
        Self::with_will(will, self.len, doomed)
    }

    fn with_will(will: OwnedFd, len: i64, doomed: &[OwnedFd]) -> Result<Self> {
        let (hears, line) = channel()?;
        let fds: Vec<RawFd> = doomed.iter().map(AsRawFd::as_raw_fd).collect();
        let mut kept = [&fds[..], &[will.as_raw_fd(), hears.as_raw_fd()]].concat();
        kept.sort_unstable();
        // SAFETY: plain data; the kernel fills what is read.
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
        // SAFETY: both sets are ours. Blocked before the fork, so that there is no instant in which a signal could end the child.
        unsafe {
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        }
        // SAFETY: the child calls nothing but async-signal-safe functions, as a child of a process with threads must.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: the descriptors are open, the list is sorted; the child never returns.
            unsafe { attend(&kept, hears.as_raw_fd(), will.as_raw_fd(), &fds) }
        }
        let failed = Errno::last();
        // SAFETY: the set that was in force before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
        if pid < 0 {
            return Err(failed);
        }
        Ok(Self { pid, line, will, len })
    }

    /// Writes down that what is at this absolute path is to be removed. To be said before it is made, while the name is free.
    pub fn intend(&mut self, path: &[u8], sort: Sort) -> Result<Entry> {
        if path.len() >= PATH_ROOM || path.contains(&0) || !path.starts_with(b"/") {
            return Err(Errno(libc::EINVAL));
        }
        let len = path.len() as u32 + 1;
        let line = [&[sort as u8, 0, 0, 0], &len.to_ne_bytes()[..], &[0; 16], path, &[0]].concat();
        self.put(self.len, &line)?;
        let entry = Entry(self.len);
        self.len += line.len() as i64;
        Ok(entry)
    }

    /// It has been made, and is this inode: whatever else has the name then is not removed.
    pub fn made(&mut self, entry: Entry, device: u64, inode: u64) -> Result<()> {
        self.put(entry.0 + 8, &[device.to_ne_bytes(), inode.to_ne_bytes()].concat())
    }

    /// It is gone again, or was not made.
    pub fn revoke(&mut self, entry: Entry) -> Result<()> {
        self.put(entry.0, &[0])
    }

    fn put(&self, at: i64, bytes: &[u8]) -> Result<()> {
        // SAFETY: the kernel reads the bytes, which outlive the call.
        let n = unsafe { libc::pwrite(self.will.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), at) };
        // A memfd takes all of it or has no room.
        if cvt(n as i64)? == bytes.len() as i64 { Ok(()) } else { Err(Errno(libc::ENOSPC)) }
    }
}

impl Drop for Undertaker {
    fn drop(&mut self) {
        // SAFETY: one byte of ours to read; the child is ours, and nobody else waits for it by its pid.
        unsafe {
            libc::send(self.line.as_raw_fd(), [1_u8].as_ptr().cast(), 1, libc::MSG_NOSIGNAL);
            while libc::waitpid(self.pid, std::ptr::null_mut(), 0) == -1 && Errno::last() == Errno(libc::EINTR) {}
        }
    }
}

/// A socket pair and not a pipe: writing to it can be told not to raise SIGPIPE.
fn channel() -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel writes two numbers.
    cvt(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) } as i64)?;
    // SAFETY: both are new, and nobody else owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// The life of the child.
///
/// # Safety
/// Called in a forked child only; all descriptors are open, and `kept` is sorted.
unsafe fn attend(kept: &[RawFd], hears: RawFd, will: RawFd, doomed: &[RawFd]) -> ! {
    // SAFETY: async-signal-safe calls on numbers and on memory of this function; nothing is allocated.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, c"ghost-undertakr".as_ptr());
        let mut free = 0;
        for &fd in kept {
            if fd > free {
                libc::syscall(libc::SYS_close_range, free, fd - 1, 0);
            }
            free = fd + 1;
        }
        libc::syscall(libc::SYS_close_range, free, u32::MAX, 0);
        let mut byte = 0_u8;
        loop {
            match libc::read(hears, (&raw mut byte).cast(), 1) {
                0 => break,
                -1 if Errno::last() == Errno(libc::EINTR) => {}
                _ => libc::_exit(0),
            }
        }
        for &fd in doomed {
            let none = std::ptr::null::<libc::siginfo_t>();
            libc::syscall(libc::SYS_pidfd_send_signal, fd, libc::SIGKILL, none, 0);
        }
        // A directory is empty once what was made in it is gone: so again, until nothing more can be removed.
        while execute(will) {}
        libc::_exit(0)
    }
}

/// Removes what the will names; whether anything was.
///
/// # Safety
/// As [`attend`].
unsafe fn execute(will: RawFd) -> bool {
    let mut head = [0_u8; HEAD];
    let mut path = [0_u8; PATH_ROOM];
    let mut at = 0_i64;
    let mut removed = false;
    loop {
        // SAFETY: the kernel writes at most as many bytes as there is room; the path is NUL-terminated by its writer, and its room is
        // filled to the end that the writer gave.
        unsafe {
            if libc::pread(will, head.as_mut_ptr().cast(), HEAD, at) != HEAD as isize {
                return removed;
            }
            let len = u32::from_ne_bytes([head[4], head[5], head[6], head[7]]) as usize;
            if len == 0 || len > PATH_ROOM {
                return removed;
            }
            if libc::pread(will, path.as_mut_ptr().cast(), len, at + HEAD as i64) != len as isize || path[len - 1] != 0
            {
                return removed;
            }
            at += (HEAD + len) as i64;
            let mut stat: libc::stat = std::mem::zeroed();
            if head[0] == 0 || libc::lstat(path.as_ptr().cast(), &raw mut stat) != 0 {
                continue;
            }
            let word = |i: usize| u64::from_ne_bytes(std::array::from_fn(|b| head[i + b]));
            let known = (word(8), word(16));
            // Killed between making it and writing down which inode it is: the name was free, so it is ours if it has our owner.
            let ours =
                if known == (0, 0) { stat.st_uid == libc::geteuid() } else { known == (stat.st_dev, stat.st_ino) };
            if !ours {
                continue;
            }
            let is = stat.st_mode & libc::S_IFMT;
            let gone = match head[0] {
                d if d == Sort::Directory as u8 && is == libc::S_IFDIR => libc::rmdir(path.as_ptr().cast()),
                f if f == Sort::Fifo as u8 && is == libc::S_IFIFO => libc::unlink(path.as_ptr().cast()),
                d if d == Sort::Device as u8 && is == libc::S_IFCHR => libc::unlink(path.as_ptr().cast()),
                s if s == Sort::Socket as u8 && is == libc::S_IFSOCK => libc::unlink(path.as_ptr().cast()),
                _ => -1,
            };
            removed |= gone == 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    fn until(mut done: impl FnMut() -> bool) {
        for _ in 0..1000 {
            if done() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("it does not come true");
    }

    /// Runs in a child that then dies by SIGKILL.
    fn in_doomed(work: impl FnOnce()) {
        // SAFETY: the test's child does what a thread of its own would, and ends.
        match unsafe { libc::fork() } {
            0 => {
                work();
                // SAFETY: ends the child itself.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
                unreachable!("SIGKILL to oneself is delivered before kill(2) returns");
            }
            // SAFETY: our own child.
            pid => unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) },
        };
    }

    #[test]
    fn names_and_processes_end_with_the_maker() {
        let dir = std::env::temp_dir().join(format!("ghost-undertaker-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let name = |n: &str| dir.join(n);
        let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = sleeper.id() as Pid;
        std::fs::write(name("file"), "somebody's").unwrap();
        in_doomed(|| {
            let u = Undertaker::new(&[]).unwrap();
            let mut u = u.succeeded(&[crate::pidfd::open(pid).unwrap()]).unwrap();
            for (n, sort) in [("d", Sort::Directory), ("d/d", Sort::Directory), ("file", Sort::Socket)] {
                u.intend(name(n).as_os_str().as_bytes(), sort).unwrap();
            }
            std::fs::create_dir_all(name("d/d")).unwrap();
            u.intend(name("s").as_os_str().as_bytes(), Sort::Socket).unwrap();
            std::mem::forget(UnixListener::bind(name("s")).unwrap());
            let kept = u.intend(name("kept").as_os_str().as_bytes(), Sort::Directory).unwrap();
            std::fs::create_dir(name("kept")).unwrap();
            u.revoke(kept).unwrap();
            std::mem::forget(u);
        });
        until(|| !name("s").exists() && !name("d").exists());
        assert!(name("file").exists() && name("kept").exists());
        until(|| sleeper.try_wait().unwrap().is_some());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn sent_home_it_touches_nothing() {
        let dir = std::env::temp_dir().join(format!("ghost-undertaker-home-{}", std::process::id()));
        let mut u = Undertaker::new(&[]).unwrap();
        u.intend(dir.as_os_str().as_bytes(), Sort::Directory).unwrap();
        std::fs::create_dir(&dir).unwrap();
        let pid = u.pid;
        drop(u);
        assert!(crate::pidfd::open(pid).is_err(), "it is still there");
        std::fs::remove_dir(&dir).unwrap();
    }
}
