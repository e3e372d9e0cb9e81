//! Locks: flock(2), POSIX and OFD record locks; who owns them, and who is kept out right after the import.
use crate::kit::fd;
use crate::kit::{fails, row, run, same, task};
use crate::{Flag, Victim};

const RW: i32 = libc::O_RDWR | libc::O_CREAT;
const ONE: Flag = Flag::NoDup("two copies cannot both hold the lock");
const F_OFD_GETLK: i32 = 36;
const F_OFD_SETLK: i32 = 37;

/// Another process opens the file and tries flock(2) at once.
fn others_flock(path: &str, op: i32, allowed: bool) -> Result<(), String> {
    task::in_child("flock by another process", || {
        let f = fd::open(path, libc::O_RDWR)?;
        let got = fd::flock(f, op | libc::LOCK_NB);
        if allowed { Ok(got?) } else { fails("the lock", libc::EWOULDBLOCK, got) }
    })
}

/// Another process tries a record lock on a byte at once.
fn others_record(path: &str, kind: i32, at: i64, allowed: bool) -> Result<(), String> {
    task::in_child("record lock by another process", || {
        let f = fd::open(path, libc::O_RDWR)?;
        let got = fd::fcntl_lock(f, libc::F_SETLK, kind, at, 1);
        if allowed {
            Ok(got.map(drop)?)
        } else {
            fails(&format!("the lock at {at}"), libc::EAGAIN, got.map(|l| l.l_pid))
        }
    })
}

/// Whom F_GETLK names as the owner of what is in the way at a byte: 0 nobody, -1 an open description.
fn owner(path: &str, at: i64) -> Result<i32, String> {
    let f = fd::open(path, libc::O_RDWR)?;
    let l = fd::fcntl_lock(f, F_OFD_GETLK, libc::F_WRLCK, at, 1)?;
    // Not closed: closing any descriptor of the file would drop this process's record locks.
    Ok(if i32::from(l.l_type) == libc::F_UNLCK { 0 } else { l.l_pid })
}

pub(super) const VICTIMS: &[Victim] = &[
    row!("flock-exclusive", [ONE], |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::flock(f, libc::LOCK_EX)?;
        s.wait();
        others_flock(&s.path("f"), libc::LOCK_SH, false)?;
        fd::flock(f, libc::LOCK_UN)?;
        others_flock(&s.path("f"), libc::LOCK_EX, true)?;
    }),
    row!("flock-shared", [ONE], |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::flock(f, libc::LOCK_SH)?;
        s.wait();
        others_flock(&s.path("f"), libc::LOCK_EX, false)?;
        others_flock(&s.path("f"), libc::LOCK_SH, true)?;
        fd::flock(f, libc::LOCK_UN)?;
        others_flock(&s.path("f"), libc::LOCK_EX, true)?;
    }),
    row!("flock-read-only", [ONE], |s| {
        fd::close(fd::open(s.path("f"), RW)?)?;
        let f = fd::open(s.path("f"), libc::O_RDONLY)?;
        fd::flock(f, libc::LOCK_EX)?;
        s.wait();
        others_flock(&s.path("f"), libc::LOCK_SH, false)?;
        fd::close(f)?;
        others_flock(&s.path("f"), libc::LOCK_EX, true)?;
    }),
    row!("flock-of-a-description", [ONE], |s| {
        // The lock belongs to the description: the child, which shares it, may give it up for both.
        let f = fd::open(s.path("f"), RW)?;
        fd::flock(f, libc::LOCK_EX)?;
        let other = fd::open(s.path("f"), libc::O_RDWR)?;
        s.spawn(|c| {
            run(c, |c| {
                c.wait();
                fails(
                    "lock by another description",
                    libc::EWOULDBLOCK,
                    fd::flock(other, libc::LOCK_SH | libc::LOCK_NB),
                )?;
                fd::flock(f, libc::LOCK_UN)?;
                Ok(())
            });
        });
        s.wait();
        s.join();
        fd::flock(other, libc::LOCK_EX | libc::LOCK_NB)?;
    }),
    row!("flock-waiting", [ONE], |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::flock(f, libc::LOCK_EX)?;
        let got = s.path("got");
        s.spawn(|c| {
            run(c, |c| {
                let mine = fd::open(c.path("f"), libc::O_RDWR)?;
                c.ready();
                while fd::flock(mine, libc::LOCK_EX).is_err_and(|e| e.code == libc::EINTR) {}
                fd::close(fd::open(c.path("got"), RW)?)?;
                c.await_go();
                Ok(())
            });
        });
        crate::sys::sleep_ms(50);
        s.wait();
        s.check("the child does not have the lock yet", !std::path::Path::new(&got).exists());
        fd::flock(f, libc::LOCK_UN)?;
        s.eventually("the child gets the lock", 10_000, || std::path::Path::new(&got).exists());
    }),
    row!("posix-ranges", [ONE, Flag::SamePid], |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::fcntl_lock(f, libc::F_SETLK, libc::F_WRLCK, 10, 5)?;
        fd::fcntl_lock(f, libc::F_SETLK, libc::F_RDLCK, 100, 50)?;
        fd::fcntl_lock(f, libc::F_SETLK, libc::F_WRLCK, 1 << 40, 0)?;
        s.wait();
        others_record(&s.path("f"), libc::F_WRLCK, 9, true)?;
        others_record(&s.path("f"), libc::F_RDLCK, 10, false)?;
        others_record(&s.path("f"), libc::F_RDLCK, 14, false)?;
        others_record(&s.path("f"), libc::F_WRLCK, 15, true)?;
        others_record(&s.path("f"), libc::F_RDLCK, 120, true)?;
        others_record(&s.path("f"), libc::F_WRLCK, 149, false)?;
        others_record(&s.path("f"), libc::F_WRLCK, 150, true)?;
        others_record(&s.path("f"), libc::F_RDLCK, (1 << 50) + 7, false)?;
        same("owner by F_GETLK", task::pid(), owner(&s.path("f"), 10)?)?;
        fd::fcntl_lock(f, libc::F_SETLK, libc::F_UNLCK, 0, 0)?;
        others_record(&s.path("f"), libc::F_WRLCK, 12, true)?;
    }),
    row!("posix-of-two-processes", [ONE, Flag::SamePid], |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::fcntl_lock(f, libc::F_SETLK, libc::F_WRLCK, 0, 10)?;
        let child = s.spawn(|c| {
            run(c, |c| {
                // The same description, but the locks are the child's own.
                fd::fcntl_lock(f, libc::F_SETLK, libc::F_WRLCK, 10, 10)?;
                c.wait();
                fails(
                    "the parent's range",
                    libc::EAGAIN,
                    fd::fcntl_lock(f, libc::F_SETLK, libc::F_RDLCK, 0, 1).map(|l| l.l_pid),
                )?;
                fd::fcntl_lock(f, libc::F_SETLK, libc::F_RDLCK, 10, 1)?;
                same("owner of the parent's range", task::ppid(), owner(&c.path("f"), 5)?)?;
                fd::close(fd::open(c.path("child.done"), RW)?)?;
                let leave = c.path("leave");
                c.until("the parent is done", || std::path::Path::new(&leave).exists());
                Ok(())
            });
        });
        s.wait();
        let done = s.path("child.done");
        s.eventually("the child has checked", 10_000, || std::path::Path::new(&done).exists());
        let hers = fd::fcntl_lock(f, libc::F_SETLK, libc::F_RDLCK, 19, 1).map(|l| l.l_pid);
        let who = owner(&s.path("f"), 15);
        fd::close(fd::open(s.path("leave"), RW)?)?;
        fails("the child's range", libc::EAGAIN, hers)?;
        same("owner of the child's range", child, who?)?;
        s.join();
        fd::fcntl_lock(f, libc::F_SETLK, libc::F_WRLCK, 0, 0)?;
    }),
    row!("posix-waiting", [ONE], |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::fcntl_lock(f, libc::F_SETLK, libc::F_WRLCK, 0, 1)?;
        let got = s.path("got");
        s.spawn(|c| {
            run(c, |c| {
                c.ready();
                while fd::fcntl_lock(f, libc::F_SETLKW, libc::F_WRLCK, 0, 1).is_err_and(|e| e.code == libc::EINTR) {}
                fd::close(fd::open(c.path("got"), RW)?)?;
                c.await_go();
                Ok(())
            });
        });
        crate::sys::sleep_ms(50);
        s.wait();
        s.check("the child does not have the lock yet", !std::path::Path::new(&got).exists());
        fd::fcntl_lock(f, libc::F_SETLK, libc::F_UNLCK, 0, 1)?;
        s.eventually("the child gets the lock", 10_000, || std::path::Path::new(&got).exists());
    }),
    row!("posix-several-openings", [ONE], |s| {
        // Closing any descriptor of the file drops the locks: an importer that opens and closes it loses them.
        let f = fd::open(s.path("f"), RW)?;
        let g = fd::open(s.path("f"), libc::O_RDONLY)?;
        fd::fcntl_lock(f, libc::F_SETLK, libc::F_WRLCK, 0, 1)?;
        fd::fcntl_lock(g, libc::F_SETLK, libc::F_RDLCK, 7, 1)?;
        s.wait();
        others_record(&s.path("f"), libc::F_RDLCK, 0, false)?;
        others_record(&s.path("f"), libc::F_WRLCK, 7, false)?;
        fd::close(g)?;
        others_record(&s.path("f"), libc::F_WRLCK, 0, true)?;
    }),
    row!("posix-deleted-file", [ONE], |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::unlink(s.path("f"))?;
        fd::fcntl_lock(f, libc::F_SETLK, libc::F_WRLCK, 3, 4)?;
        s.wait();
        task::in_child("record lock by another process", || {
            fails("the lock", libc::EAGAIN, fd::fcntl_lock(f, libc::F_SETLK, libc::F_RDLCK, 5, 1).map(|l| l.l_pid))?;
            fd::fcntl_lock(f, libc::F_SETLK, libc::F_WRLCK, 7, 1)?;
            Ok(())
        })?;
    }),
    row!("ofd", [ONE], |s| {
        let f = fd::open(s.path("f"), RW)?;
        let g = fd::open(s.path("f"), libc::O_RDWR)?;
        fd::fcntl_lock(f, F_OFD_SETLK, libc::F_WRLCK, 0, 10)?;
        fd::fcntl_lock(g, F_OFD_SETLK, libc::F_RDLCK, 20, 10)?;
        s.wait();
        fails(
            "the first's range by the second",
            libc::EAGAIN,
            fd::fcntl_lock(g, F_OFD_SETLK, libc::F_RDLCK, 9, 1).map(|l| l.l_pid),
        )?;
        fd::fcntl_lock(g, F_OFD_SETLK, libc::F_WRLCK, 10, 1)?;
        fails(
            "the second's range by the first",
            libc::EAGAIN,
            fd::fcntl_lock(f, F_OFD_SETLK, libc::F_WRLCK, 25, 1).map(|l| l.l_pid),
        )?;
        fd::fcntl_lock(f, F_OFD_SETLK, libc::F_RDLCK, 25, 1)?;
        same("owner by F_GETLK", -1, owner(&s.path("f"), 5)?)?;
        others_record(&s.path("f"), libc::F_RDLCK, 5, false)?;
        fd::close(f)?;
        others_record(&s.path("f"), libc::F_WRLCK, 5, true)?;
    }),
    row!("ofd-of-a-description", [ONE], |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::fcntl_lock(f, F_OFD_SETLK, libc::F_WRLCK, 0, 10)?;
        s.spawn(|c| {
            run(c, |c| {
                c.wait();
                // Shared with the parent: the child may change it.
                fd::fcntl_lock(f, F_OFD_SETLK, libc::F_UNLCK, 0, 5)?;
                Ok(())
            });
        });
        s.wait();
        s.join();
        others_record(&s.path("f"), libc::F_WRLCK, 4, true)?;
        others_record(&s.path("f"), libc::F_RDLCK, 5, false)?;
    }),
    row!("all-kinds-at-once", [ONE], |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::flock(f, libc::LOCK_EX)?;
        fd::fcntl_lock(f, libc::F_SETLK, libc::F_WRLCK, 0, 1)?;
        fd::fcntl_lock(f, F_OFD_SETLK, libc::F_WRLCK, 10, 1)?;
        s.wait();
        others_flock(&s.path("f"), libc::LOCK_SH, false)?;
        others_record(&s.path("f"), libc::F_RDLCK, 0, false)?;
        others_record(&s.path("f"), libc::F_RDLCK, 10, false)?;
        others_record(&s.path("f"), libc::F_WRLCK, 5, true)?;
    }),
    row!("none-where-none-was", |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::flock(f, libc::LOCK_EX)?;
        fd::fcntl_lock(f, libc::F_SETLK, libc::F_WRLCK, 0, 0)?;
        fd::flock(f, libc::LOCK_UN)?;
        fd::fcntl_lock(f, libc::F_SETLK, libc::F_UNLCK, 0, 0)?;
        s.wait();
        others_flock(&s.path("f"), libc::LOCK_SH, true)?;
        others_record(&s.path("f"), libc::F_RDLCK, 0, true)?;
    }),
];
