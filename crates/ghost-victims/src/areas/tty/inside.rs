//! Pseudo-terminals with both ends inside of the tree, as under script(1), tmux(1) or sshd(8).
use super::callers::{is_tty, modes, termios};
use crate::areas::refuse::pty;
use crate::kit::{Res, fails, fd, row, run, same, same_bytes, truth};
use crate::{Ctx, Victim};

/// Reads from the master until all of this has come, and nothing else.
fn shows(s: &Ctx, m: i32, what: &str, expected: &[u8]) -> Res {
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        s.until(what, || fd::poll_now(m, libc::POLLIN).is_ok_and(|e| e != 0));
        seen.extend(fd::read(m, expected.len() - seen.len())?);
    }
    same_bytes(what, expected, &seen)
}

/// The number of the pair that a master belongs to.
fn number(m: i32) -> Res<i32> {
    let mut n = -1i32;
    fd::ioctl_ref(m, libc::TIOCGPTN, &mut n)?;
    Ok(n)
}

fn winsize(f: i32) -> Res<[u16; 4]> {
    let mut size = [0u16; 4];
    fd::ioctl_ref(f, libc::TIOCGWINSZ, &mut size)?;
    Ok(size)
}

/// Whether the name of this side leads to it.
fn named(m: i32, t: i32) -> Res {
    let name = fd::link_of(t)?;
    same("name and number", format!("/dev/pts/{}", number(m)?), name.clone())?;
    let by_name = fd::open(&name, libc::O_RDWR | libc::O_NOCTTY)?;
    same("the terminal of that name", fd::inode(t)?, fd::inode(by_name)?)?;
    Ok(fd::close(by_name)?)
}

pub(super) const VICTIMS: &[Victim] = &[
    row!("pair", |s| {
        let (m, t) = pty()?;
        let flags = (fd::fcntl(m, libc::F_GETFL, 0)?, fd::fcntl(t, libc::F_GETFL, 0)?);
        let before = modes(t)?;
        s.wait();
        same("flags", flags, (fd::fcntl(m, libc::F_GETFL, 0)?, fd::fcntl(t, libc::F_GETFL, 0)?))?;
        same("modes", before, modes(t)?)?;
        named(m, t)?;
        fd::write_full(m, b"typed\n")?;
        same_bytes("line", b"typed\n", &fd::read(t, 100)?)?;
        shows(s, m, "echo", b"typed\r\n")?;
        fd::write_full(t, b"printed\n")?;
        shows(s, m, "output", b"printed\r\n")?;
    }),
    row!("hung-up", |s| {
        // As left behind by a window that was closed: the program runs on, and its terminal is nobody's.
        let (m, t) = pty()?;
        let again = fd::open(fd::link_of(t)?, libc::O_RDONLY | libc::O_NOCTTY | libc::O_NONBLOCK)?;
        fd::close(m)?;
        let flags = [fd::fcntl(t, libc::F_GETFL, 0)?, fd::fcntl(again, libc::F_GETFL, 0)?];
        s.wait();
        same("flags", flags, [fd::fcntl(t, libc::F_GETFL, 0)?, fd::fcntl(again, libc::F_GETFL, 0)?])?;
        for f in [t, again] {
            let all = libc::POLLIN | libc::POLLOUT | libc::POLLERR | libc::POLLHUP;
            same("poll", all, fd::poll_now(f, libc::POLLIN | libc::POLLOUT)?)?;
            same("end", 0, fd::read(f, 1)?.len())?;
            truth("it is no terminal that answers", !is_tty(f))?;
        }
        fails("write", libc::EIO, fd::write(t, b"x"))?;
    }),
    row!("pair-settings", |s| {
        let (m, t) = pty()?;
        let mut raw = termios(t)?;
        raw.c_lflag &= !(libc::ICANON | libc::ECHO);
        raw.c_oflag &= !libc::OPOST;
        raw.c_cc[libc::VMIN] = 3;
        raw.c_cc[libc::VINTR] = 7;
        crate::must!(tcsetattr(t, libc::TCSANOW, &raw const raw));
        let mut size = [25u16, 81, 5, 6];
        fd::ioctl_ref(m, libc::TIOCSWINSZ, &mut size)?;
        crate::must!(fchmod(t, 0o620));
        let mut on = 1i32;
        fd::ioctl_ref(m, libc::TIOCPKT, &mut on)?;
        let before = modes(t)?;
        s.wait();
        same("modes", before, modes(t)?)?;
        same("window", (size, size), (winsize(m)?, winsize(t)?))?;
        same("mode of the file", 0o620, fd::stat(t)?.st_mode & 0o777)?;
        fd::write_full(t, b"a\n")?;
        s.until("the output", || fd::poll_now(m, libc::POLLIN).is_ok_and(|e| e != 0));
        same_bytes("a packet", b"\0a\n", &fd::read(m, 100)?)?;
        fd::write_full(m, b"ab")?;
        same("two of three bytes", 0, fd::poll_now(t, libc::POLLIN)?)?;
        fd::write_full(m, b"c")?;
        s.until("the third", || fd::poll_now(t, libc::POLLIN).is_ok_and(|e| e != 0));
        same_bytes("typed", b"abc", &fd::read(t, 100)?)?;
    }),
    row!("pair-flags", |s| {
        // Three descriptions of one side, one of them shared; the master does not block.
        let (m, t) = pty()?;
        crate::must!(fcntl(m, libc::F_SETFL, libc::O_NONBLOCK));
        let name = fd::link_of(t)?;
        let reader = fd::open(&name, libc::O_RDONLY | libc::O_NOCTTY | libc::O_NONBLOCK)?;
        let writer = fd::open(&name, libc::O_WRONLY | libc::O_NOCTTY | libc::O_CLOEXEC)?;
        let again = fd::dup(t)?;
        let flags =
            [m, t, reader, writer, again].map(|f| (fd::fcntl(f, libc::F_GETFL, 0), fd::fcntl(f, libc::F_GETFD, 0)));
        s.wait();
        let now =
            [m, t, reader, writer, again].map(|f| (fd::fcntl(f, libc::F_GETFL, 0), fd::fcntl(f, libc::F_GETFD, 0)));
        same("flags", flags, now)?;
        same(
            "which share",
            (true, false, false),
            (fd::shared(t, again)?, fd::shared(t, reader)?, fd::shared(reader, writer)?),
        )?;
        fails("nothing to show", libc::EAGAIN, fd::read(m, 1))?;
        fails("nothing typed", libc::EAGAIN, fd::read(reader, 1))?;
        fd::write_full(writer, b"x")?;
        shows(s, m, "output", b"x")?;
    }),
    row!("pair-two", |s| {
        // With a number left out between them.
        let ((a, at), (gap, gt), (b, bt)) = (pty()?, pty()?, pty()?);
        fd::close(gt)?;
        fd::close(gap)?;
        let apart = number(b)? - number(a)?;
        s.wait();
        truth("two numbers", number(a)? != number(b)?)?;
        s.check("numbers as far apart, or others", number(b)? - number(a)? == apart || number(b)? != number(a)?);
        named(a, at)?;
        named(b, bt)?;
        fd::write_full(at, b"1")?;
        fd::write_full(bt, b"2")?;
        shows(s, a, "of the first", b"1")?;
        shows(s, b, "of the second", b"2")?;
    }),
    row!("master-closed-by-child", |s| {
        let (m, t) = pty()?;
        fd::close(t)?;
        s.wait();
        truth("it has a number", number(m)? >= 0)?;
        same("poll", libc::POLLHUP, fd::poll_now(m, libc::POLLIN)? & libc::POLLHUP)?;
    }),
    row!("master-not-yet-opened", |s| {
        let m = fd::open("/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK)?;
        s.wait();
        let mut locked = 0i32;
        const TIOCGPTLCK: u64 = 0x8004_5439;
        fd::ioctl_ref(m, TIOCGPTLCK, &mut locked)?;
        same("locked", 1, locked)?;
        same("poll", 0, fd::poll_now(m, libc::POLLIN)?)?;
        fails("nobody has it", libc::EAGAIN, fd::read(m, 1))?;
    }),
    row!("session-of-child", |s| {
        // As script(1): the master here, a child with the terminal as its controlling one, and a grandchild in front.
        let (m, t) = pty()?;
        s.spawn(|c| {
            run(c, |c| {
                fd::close(m)?;
                crate::must!(setsid());
                fd::ioctl_int(t, libc::TIOCSCTTY, 0)?;
                for n in 0..3 {
                    fd::dup3(t, n, 0)?;
                }
                fd::close(t)?;
                let own = fd::open("/dev/tty", libc::O_RDWR)?;
                crate::kit::task::ignore(libc::SIGTTOU);
                crate::kit::task::block(&[libc::SIGINT])?;
                c.spawn(|g| {
                    run(g, |g| {
                        crate::must!(setpgid(0, 0));
                        crate::must!(tcsetpgrp(0, crate::call!(getpid())));
                        g.wait();
                        same("in front", crate::call!(getpgrp()), crate::call!(tcgetpgrp(0)))?;
                        let got = crate::kit::task::take_signal(&[libc::SIGINT], 5000);
                        same("^C", Some(libc::SIGINT), got.map(|t| t.0))
                    });
                });
                c.wait();
                same("session of the terminal", crate::call!(getsid(0)), crate::call!(tcgetsid(0)))?;
                truth("/dev/tty is a terminal", is_tty(own))?;
                c.join();
                crate::must!(tcsetpgrp(0, crate::call!(getpgrp())));
                fd::write_full(own, b"$ ")?;
                same_bytes("line", b"typed\n", &fd::read(0, 100)?)
            });
        });
        fd::close(t)?;
        s.wait();
        fd::write_full(m, b"\x03")?;
        shows(s, m, "^C and the prompt", b"^C$ ")?;
        fd::write_full(m, b"typed\n")?;
        s.join();
    }),
];
