//! The caller's terminal: standard descriptors on a pseudo-terminal whose master is outside of the tree.
//!
//! A restart puts the terminal of whoever restarts in its place, so nothing here depends on its number.
use crate::kit::{fails, fd, row, run, same, truth};
use crate::{Ctx, Flag, Victim};

/// Skips unless the runner gave a terminal.
fn need_terminal(s: &Ctx) {
    if !is_tty(0) {
        s.skip("standard input is no terminal");
    }
}

pub(super) fn is_tty(f: i32) -> bool {
    crate::call!(isatty(f)) == 1
}

pub(super) fn termios(f: i32) -> Result<libc::termios, crate::kit::Errno> {
    // SAFETY: an all-zero termios is valid.
    let mut t: libc::termios = unsafe { crate::sys::zeroed() };
    // SAFETY: `t` outlives the call.
    crate::kit::sys("tcgetattr", unsafe { libc::tcgetattr(f, &raw mut t) }.into()).map(|_| t)
}

pub(super) fn modes(f: i32) -> Result<([u32; 4], Vec<u8>), crate::kit::Errno> {
    termios(f).map(|t| ([t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag], t.c_cc.to_vec()))
}

/// Makes standard input the controlling terminal.
fn control(s: &Ctx) {
    need_terminal(s);
    if fd::ioctl_int(0, libc::TIOCSCTTY, 0).is_err() {
        s.skip("the terminal belongs to another session");
    }
}

pub(super) const VICTIMS: &[Victim] = &[
    row!("standard", [Flag::Terminal], |s| {
        need_terminal(s);
        let before: Vec<_> = (0..3).map(|n| fd::fcntl(n, libc::F_GETFL, 0)).collect::<Result<_, _>>()?;
        let shared = (fd::shared(0, 1)?, fd::shared(1, 2)?);
        s.wait();
        let after: Vec<_> = (0..3).map(|n| fd::fcntl(n, libc::F_GETFL, 0)).collect::<Result<_, _>>()?;
        same("flags", before, after)?;
        same("terminals", vec![true; 3], (0..3).map(is_tty).collect())?;
        same("which share a description", shared, (fd::shared(0, 1)?, fd::shared(1, 2)?))?;
        let numbers = (fd::stat(0)?.st_rdev, fd::stat(1)?.st_rdev, fd::stat(2)?.st_rdev);
        same("one terminal", (numbers.0, numbers.0), (numbers.1, numbers.2))?;
        fd::write_full(1, b"written to the terminal\n")?;
    }),
    row!("opened-by-name", [Flag::Terminal], |s| {
        need_terminal(s);
        let f = fd::open("/proc/self/fd/0", libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)?;
        let facts = (fd::fcntl(f, libc::F_GETFL, 0)?, fd::fcntl(f, libc::F_GETFD, 0)?);
        s.wait();
        same("flags", facts, (fd::fcntl(f, libc::F_GETFL, 0)?, fd::fcntl(f, libc::F_GETFD, 0)?))?;
        truth("it is a terminal", is_tty(f))?;
        same("the same terminal", fd::stat(0)?.st_rdev, fd::stat(f)?.st_rdev)?;
        same("a description of its own", false, fd::shared(0, f)?)?;
        fails("nothing typed", libc::EAGAIN, fd::read(f, 1))?;
    }),
    row!("controlling", [Flag::Terminal], |s| {
        control(s);
        let session = crate::call!(tcgetsid(0)) == crate::call!(getsid(0));
        let front = crate::call!(tcgetpgrp(0)) == crate::call!(getpgrp());
        truth("session and foreground group before", session && front)?;
        s.wait();
        same("session of the terminal", crate::call!(getsid(0)), crate::call!(tcgetsid(0)))?;
        same("foreground group", crate::call!(getpgrp()), crate::call!(tcgetpgrp(0)))?;
        truth("/dev/tty", fd::open("/dev/tty", libc::O_RDWR).is_ok())?;
    }),
    row!("dev-tty", [Flag::Terminal], |s| {
        control(s);
        let f = fd::open("/dev/tty", libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC)?;
        let facts = (fd::fcntl(f, libc::F_GETFL, 0)?, fd::stat(f)?.st_rdev, fd::link_of(f)?);
        s.wait();
        same("flags, number, link", facts, (fd::fcntl(f, libc::F_GETFL, 0)?, fd::stat(f)?.st_rdev, fd::link_of(f)?))?;
        truth("it is a terminal", is_tty(f))?;
        fd::write_full(f, b"written to /dev/tty\n")?;
    }),
    row!("raw-mode", [Flag::Terminal], |s| {
        need_terminal(s);
        let mut t = termios(0)?;
        t.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ISIG);
        t.c_iflag &= !libc::ICRNL;
        t.c_cc[libc::VMIN] = 3;
        t.c_cc[libc::VTIME] = 2;
        t.c_cc[libc::VINTR] = 7;
        crate::must!(tcsetattr(0, libc::TCSANOW, &raw const t));
        let before = modes(0)?;
        s.wait();
        same("modes", before, modes(0)?)?;
    }),
    row!("background-child", [Flag::Terminal], |s| {
        control(s);
        s.spawn(|c| {
            run(c, |c| {
                crate::must!(setpgid(0, 0));
                c.wait();
                same("own group", crate::call!(getpid()), crate::call!(getpgrp()))?;
                truth("not in front", crate::call!(tcgetpgrp(0)) != crate::call!(getpgrp()))
            });
        });
        s.wait();
        same("foreground group", crate::call!(getpgrp()), crate::call!(tcgetpgrp(0)))?;
        s.join();
    }),
    row!("foreground-child", [Flag::Terminal], |s| {
        // Job control of a shell: the child's group is in front, the session leader behind.
        control(s);
        crate::kit::task::ignore(libc::SIGTTOU);
        let pid = s.spawn(|c| {
            run(c, |c| {
                crate::must!(setpgid(0, 0));
                crate::must!(tcsetpgrp(0, crate::call!(getpid())));
                c.wait();
                let leave = c.path("leave");
                c.until("the parent has looked", || std::path::Path::new(&leave).exists());
                same("in front", crate::call!(getpgrp()), crate::call!(tcgetpgrp(0)))
            });
        });
        let group = crate::call!(getpgid(pid));
        s.wait();
        let front = crate::call!(tcgetpgrp(0));
        fd::close(fd::open(s.path("leave"), libc::O_RDWR | libc::O_CREAT)?)?;
        same("foreground group", group, front)?;
        s.join();
    }),
];
