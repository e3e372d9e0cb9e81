//! Objects without a file: eventfd, timerfd, signalfd, pidfd; and the plain devices.
use crate::kit::fd::{self, Facts};
use crate::kit::{fails, mem, row, run, same, same_bytes, task, truth};
use crate::{Flag, Victim};

/// timerfd_create(2).
fn timerfd(clock: i32, flags: i32) -> Result<i32, crate::kit::Errno> {
    fd::raw("timerfd_create", libc::SYS_timerfd_create, [clock.into(), flags.into(), 0, 0, 0, 0]).map(|f| f as i32)
}

/// timerfd_settime(2) in nanoseconds.
fn arm(f: i32, flags: i32, value: i64, interval: i64) -> Result<(), crate::kit::Errno> {
    let mut t = [interval / 1_000_000_000, interval % 1_000_000_000, value / 1_000_000_000, value % 1_000_000_000];
    fd::raw_ref("timerfd_settime", libc::SYS_timerfd_settime, [f.into(), flags.into(), 0, 0, 0, 0], 2, &mut t).map(drop)
}

/// timerfd_gettime(2): value, interval.
fn left(f: i32) -> Result<(i64, i64), crate::kit::Errno> {
    let mut t = [0i64; 4];
    fd::raw_ref("timerfd_gettime", libc::SYS_timerfd_gettime, [f.into(), 0, 0, 0, 0, 0], 1, &mut t)?;
    Ok((t[2] * 1_000_000_000 + t[3], t[0] * 1_000_000_000 + t[1]))
}

/// The number that a read of an eventfd or timerfd gives.
fn count(f: i32) -> Result<u64, crate::kit::Errno> {
    let b = fd::read(f, 8)?;
    Ok(b.try_into().map_or(0, u64::from_ne_bytes))
}

fn signalfd(signals: &[i32], flags: i32) -> Result<i32, crate::kit::Errno> {
    let mut set = signals.iter().fold(0u64, |m, s| m | 1 << (s - 1));
    let args = [-1, 0, 8, flags.into(), 0, 0];
    fd::raw_ref("signalfd4", libc::SYS_signalfd4, args, 1, &mut set).map(|f| f as i32)
}

const SECOND: i64 = 1_000_000_000;

pub(super) const VICTIMS: &[Victim] = &[
    // ---- eventfd --------------------------------------------------------------------------------------------
    row!("eventfd", |s| {
        let plain = fd::eventfd(7, 0)?;
        let semaphore = fd::eventfd(3, libc::EFD_SEMAPHORE | libc::EFD_NONBLOCK)?;
        let empty = fd::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let full = fd::eventfd(0, libc::EFD_NONBLOCK)?;
        fd::write_full(full, &(u64::MAX - 1).to_ne_bytes())?;
        let facts: Vec<_> = [plain, semaphore, empty, full]
            .iter()
            .map(|f| Facts::of(*f).map(Facts::nameless))
            .collect::<Result<_, _>>()?;
        s.wait();
        for (facts, f) in facts.iter().zip([plain, semaphore, empty, full]) {
            facts.still("eventfd", f)?;
        }
        same("count", 7, count(plain)?)?;
        same("semaphore", (1, 1, 1), (count(semaphore)?, count(semaphore)?, count(semaphore)?))?;
        fails("semaphore at 0", libc::EAGAIN, count(semaphore))?;
        fails("empty", libc::EAGAIN, count(empty))?;
        fails("adding to the full one", libc::EAGAIN, fd::write(full, &1u64.to_ne_bytes()))?;
        same("full", u64::MAX - 1, count(full)?)?;
    }),
    row!("eventfd-shared", |s| {
        let f = fd::eventfd(0, 0)?;
        let back = fd::eventfd(0, 0)?;
        s.spawn(|c| {
            run(c, |c| {
                c.ready();
                same("what the parent sent", 41, count(f)?)?; // blocked in read(2) meanwhile
                fd::write_full(back, &42u64.to_ne_bytes())?;
                c.await_go();
                Ok(())
            });
        });
        crate::sys::sleep_ms(20);
        s.wait();
        fd::write_full(f, &41u64.to_ne_bytes())?;
        same("answer", 42, count(back)?)?;
    }),
    // ---- timerfd --------------------------------------------------------------------------------------------
    row!("timerfd-clocks", |s| {
        let mut list = Vec::new();
        for clock in [
            libc::CLOCK_REALTIME,
            libc::CLOCK_MONOTONIC,
            libc::CLOCK_BOOTTIME,
            libc::CLOCK_REALTIME_ALARM,
            libc::CLOCK_BOOTTIME_ALARM,
        ] {
            // The alarm clocks need a real-time clock that can wake the machine.
            let Ok(f) = timerfd(clock, libc::TFD_NONBLOCK) else { continue };
            if arm(f, 0, 1000 * SECOND, 7 * SECOND).is_ok() {
                list.push((clock, f, fd::info(f, "clockid")?));
            }
        }
        truth("the three usual clocks", list.len() >= 3)?;
        let idle = timerfd(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC)?;
        let facts = Facts::of(idle)?.nameless();
        s.wait();
        for (clock, f, info) in list {
            same("clock", info, fd::info(f, "clockid")?)?;
            let (value, interval) = left(f)?;
            same(&format!("interval on clock {clock}"), 7 * SECOND, interval)?;
            s.within(&format!("time left on clock {clock}"), 800 * SECOND, 1000 * SECOND, value);
            fails("ticks", libc::EAGAIN, count(f))?;
        }
        same("the disarmed one", (0, 0), left(idle)?)?;
        facts.still("the disarmed one", idle)?;
    }),
    row!("timerfd-fires-after", |s| {
        let f = timerfd(libc::CLOCK_MONOTONIC, 0)?;
        arm(f, 0, SECOND / 2, 0)?;
        s.wait();
        same("ticks", 1, count(f)?)?; // blocks until it fires, at once if it has
        same("left", (0, 0), left(f)?)?;
    }),
    row!("timerfd-ticks-pending", |s| {
        let f = timerfd(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK)?;
        arm(f, 0, 1_000_000, 1000 * SECOND)?;
        let once = timerfd(libc::CLOCK_REALTIME, libc::TFD_NONBLOCK)?;
        arm(once, 0, 1_000_000, 0)?;
        let many = timerfd(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK)?;
        arm(many, 0, 1_000_000, 1_000_000)?;
        crate::sys::sleep_ms(30);
        // Stopping the ticks: the count stays until it is read or the timer is set again.
        s.wait();
        same("poll", libc::POLLIN, fd::poll_now(f, libc::POLLIN)?)?;
        same("ticks", 1, count(f)?)?;
        fails("ticks twice", libc::EAGAIN, count(f))?;
        let (value, interval) = left(f)?;
        same("interval", 1000 * SECOND, interval)?;
        s.within("left", 800 * SECOND, 1000 * SECOND, value);
        same("ticks of the one without interval", 1, count(once)?)?;
        same("left of it", (0, 0), left(once)?)?;
        truth("ticks of the fast one", count(many)? >= 29)?;
    }),
    row!("timerfd-absolute", |s| {
        const CANCEL_ON_SET: i32 = 2;
        let f = timerfd(libc::CLOCK_REALTIME, libc::TFD_NONBLOCK)?;
        let due = crate::sys::clock_ns(libc::CLOCK_REALTIME) + 500 * SECOND;
        arm(f, libc::TFD_TIMER_ABSTIME | CANCEL_ON_SET, due, 0)?;
        let g = timerfd(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK)?;
        arm(g, libc::TFD_TIMER_ABSTIME, crate::sys::now_ns() + 400 * SECOND, 3 * SECOND)?;
        let flags = (fd::info(f, "settime flags")?, fd::info(g, "settime flags")?);
        s.wait();
        same("flags of setting", flags, (fd::info(f, "settime flags")?, fd::info(g, "settime flags")?))?;
        let off = left(f)?.0 + crate::sys::clock_ns(libc::CLOCK_REALTIME) - due;
        s.within("the absolute time it is due, off by ns", -SECOND / 10, SECOND / 10, off);
        s.within("left of the monotonic one", 200 * SECOND, 400 * SECOND, left(g)?.0);
        same("interval", 3 * SECOND, left(g)?.1)?;
    }),
    // ---- signalfd -------------------------------------------------------------------------------------------
    row!("signalfd", |s| {
        task::block(&[libc::SIGUSR1, libc::SIGUSR2, libc::SIGRTMIN() + 5])?;
        let f = signalfd(&[libc::SIGUSR1, libc::SIGRTMIN() + 5], libc::SFD_NONBLOCK | libc::SFD_CLOEXEC)?;
        let mask = fd::info(f, "sigmask")?;
        let facts = Facts::of(f)?.nameless();
        crate::call!(raise(libc::SIGUSR2));
        s.wait();
        facts.still("signalfd", f)?;
        same("mask", mask, fd::info(f, "sigmask")?)?;
        fails("a signal outside its mask", libc::EAGAIN, fd::read(f, 128))?;
        crate::call!(raise(libc::SIGUSR1));
        let got = fd::read(f, 128)?;
        same("signal", libc::SIGUSR1.to_ne_bytes().to_vec(), got[..4].to_vec())?;
    }),
    row!("signalfd-pending", |s| {
        let rt = libc::SIGRTMIN() + 6;
        task::block(&[rt])?;
        let f = signalfd(&[rt], libc::SFD_NONBLOCK)?;
        for value in [11usize, 22, 33] {
            let v = libc::sigval { sival_ptr: value as *mut libc::c_void };
            crate::must!(sigqueue(task::pid(), rt, v));
        }
        s.wait();
        for value in [11u64, 22, 33] {
            let got = fd::read(f, 128)?;
            same("signal", rt.to_ne_bytes().to_vec(), got[..4].to_vec())?;
            same("its value", value.to_ne_bytes().to_vec(), got[48..56].to_vec())?; // ssi_ptr
        }
        fails("no fourth", libc::EAGAIN, fd::read(f, 128))?;
    }),
    // ---- pidfd ----------------------------------------------------------------------------------------------
    row!("pidfd-alive", |s| {
        s.spawn(|c| c.wait());
        // The child's pid of now, by the list of children: a copy has another child.
        let Some(pid) = task::fork()? else {
            crate::sys::sleep_ms(1_000_000);
            task::exit(0)
        };
        let f = task::pidfd(pid, libc::PIDFD_NONBLOCK)?;
        let flags = (fd::fcntl(f, libc::F_GETFL, 0)?, fd::fcntl(f, libc::F_GETFD, 0)?);
        s.wait();
        same("flags", flags, (fd::fcntl(f, libc::F_GETFL, 0)?, fd::fcntl(f, libc::F_GETFD, 0)?))?;
        same("poll", 0, fd::poll_now(f, libc::POLLIN)?)?;
        task::pidfd_kill(f, 0)?;
        task::pidfd_kill(f, libc::SIGTERM)?;
        same("poll after its end", libc::POLLIN, fd::poll_ms(f, libc::POLLIN, 5000)? & libc::POLLIN)?;
        let (_, status) = wait_pidfd(f)?;
        same("status", libc::SIGTERM, status)?;
    }),
    row!("pidfd-zombie", |s| {
        let Some(pid) = task::fork()? else { task::exit(9) };
        let f = task::pidfd(pid, 0)?;
        s.until("the child has ended", || task::ended(pid).unwrap_or(false));
        s.wait();
        same("poll", libc::POLLIN, fd::poll_now(f, libc::POLLIN)? & libc::POLLIN)?;
        let (code, status) = wait_pidfd(f)?;
        same("how it ended", (libc::CLD_EXITED, 9), (code, status))?;
    }),
    row!("pidfd-reaped", |s| {
        let Some(pid) = task::fork()? else { task::exit(9) };
        let f = task::pidfd(pid, 0)?;
        task::wait(pid, 0)?;
        s.wait();
        fails("a signal", libc::ESRCH, task::pidfd_kill(f, 0))?;
        truth("poll", fd::poll_now(f, libc::POLLIN)? & libc::POLLIN != 0)?;
        same("pid in fdinfo", "-1", &fd::info(f, "Pid")?)?;
    }),
    row!("pidfd-reaped-in-two", |s| {
        // Two pidfds of one process that is gone, in two processes, and one of another: the inode tells.
        let Some(pid) = task::fork()? else { task::exit(9) };
        let Some(other) = task::fork()? else { task::exit(9) };
        let (f, g) = (task::pidfd(pid, 0)?, task::pidfd(other, 0)?);
        let to_child = fd::pipe(0)?;
        s.spawn(|c| {
            run(c, |c| {
                let mine = task::pidfd(pid, 0)?;
                fd::close(f)?;
                c.wait();
                fd::write_full(to_child.1, &fd::stat(mine)?.st_ino.to_ne_bytes())?;
                Ok(())
            });
        });
        task::wait(pid, 0)?;
        task::wait(other, 0)?;
        s.wait();
        let theirs = fd::read_full(to_child.0, 8)?;
        same("inode", fd::stat(f)?.st_ino.to_ne_bytes().to_vec(), theirs.clone())?;
        truth("another inode", fd::stat(g)?.st_ino.to_ne_bytes().to_vec() != theirs)?;
        fails("a signal", libc::ESRCH, task::pidfd_kill(f, 0))?;
        s.join();
    }),
    row!("pidfd-own", |s| {
        let f = task::pidfd(task::pid(), 0)?;
        task::block(&[libc::SIGUSR1])?;
        s.wait();
        same("pid in fdinfo", task::pid().to_string(), fd::info(f, "Pid")?)?;
        task::pidfd_kill(f, libc::SIGUSR1)?;
        same("own signal", Some(libc::SIGUSR1), task::take_signal(&[libc::SIGUSR1], 1000).map(|t| t.0))?;
    }),
    row!("pidfd-of-parent-and-sibling", |s| {
        let first = s.spawn(|c| {
            run(c, |c| {
                task::block(&[libc::SIGUSR2])?;
                c.wait();
                let got = task::take_signal(&[libc::SIGUSR2], 10_000);
                same("the sibling's signal", Some(libc::SIGUSR2), got.map(|t| t.0))
            });
        });
        s.spawn(|c| {
            run(c, |c| {
                let parent = task::pidfd(task::ppid(), 0)?;
                let sibling = task::pidfd(first, 0)?;
                c.wait();
                same("the parent's pid in fdinfo", task::ppid().to_string(), fd::info(parent, "Pid")?)?;
                task::pidfd_kill(parent, 0)?;
                task::pidfd_kill(sibling, libc::SIGUSR2)?;
                Ok(())
            });
        });
        s.wait();
        s.join();
    }),
    row!("pidfd-thread", |s| {
        const PIDFD_THREAD: u32 = libc::O_EXCL as u32;
        let Ok(f) = task::pidfd(task::pid(), PIDFD_THREAD) else { s.skip("no PIDFD_THREAD") };
        let flags = fd::fcntl(f, libc::F_GETFL, 0)?;
        s.wait();
        same("flags", flags, fd::fcntl(f, libc::F_GETFL, 0)?)?;
        same("pid in fdinfo", task::pid().to_string(), fd::info(f, "Pid")?)?;
    }),
    // ---- devices --------------------------------------------------------------------------------------------
    row!("devices", |s| {
        let names = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
        let mut list = Vec::new();
        for name in names {
            let f = fd::open(name, libc::O_RDWR | libc::O_CLOEXEC)?;
            list.push((f, Facts::of(f)?, fd::stat(f)?.st_rdev));
        }
        s.wait();
        for (f, facts, rdev) in &list {
            facts.still("device", *f)?;
            same("device number", *rdev, fd::stat(*f)?.st_rdev)?;
        }
        same("null", 0, fd::read(list[0].0, 10)?.len())?;
        same("zero", vec![0; 10], fd::read(list[1].0, 10)?)?;
        fails("full", libc::ENOSPC, fd::write(list[2].0, b"x"))?;
        truth("random bytes differ", fd::read(list[3].0, 16)? != fd::read(list[4].0, 16)?)?;
    }),
    row!("device-deleted", |s| {
        // By nodes of our own, one of which is gone.
        let node = |name: &str, minor| {
            let c = crate::sys::c(name);
            let args = [c.as_ptr() as i64, i64::from(libc::S_IFCHR | 0o640), libc::makedev(1, minor) as i64, 0, 0, 0];
            fd::raw("mknod", libc::SYS_mknod, args)
        };
        let (zero, null) = (s.path("zero"), s.path("null"));
        if node(&zero, 5).and(node(&null, 3)).is_err() {
            s.skip("may not make device nodes");
        }
        let zero = (fd::open(&zero, libc::O_RDWR | libc::O_APPEND)?, zero);
        fd::unlink(&zero.1)?;
        let null = fd::open(&null, libc::O_WRONLY)?;
        let facts = [Facts::of(zero.0)?.nameless(), Facts::of(null)?];
        s.wait();
        facts[0].still("one without a node", zero.0)?;
        facts[1].still("one with a node", null)?;
        let stat = fd::stat(zero.0)?;
        same("device", (libc::makedev(1, 5), 0), (stat.st_rdev, stat.st_nlink))?;
        same("mode", 0o640, stat.st_mode & 0o777)?;
        same("zero", vec![0; 10], fd::read(zero.0, 10)?)?;
        truth("no node came back", !std::path::Path::new(&zero.1).exists())?;
    }),
    row!("device-null-many", |s| {
        let read = fd::open("/dev/null", libc::O_RDONLY)?;
        let write = fd::open("/dev/null", libc::O_WRONLY | libc::O_APPEND | libc::O_NONBLOCK)?;
        let path = fd::open("/dev/null", libc::O_PATH)?;
        let facts = [Facts::of(read)?, Facts::of(write)?, Facts::of(path)?];
        s.wait();
        for (facts, f) in facts.iter().zip([read, write, path]) {
            facts.still("/dev/null", f)?;
        }
        fails("writing to the one for reading", libc::EBADF, fd::write(read, b"x"))?;
        same("writing", 4, fd::write(write, b"gone")?)?;
    }),
    row!("device-zero-mapped", |s| {
        let f = fd::open("/dev/zero", libc::O_RDWR)?;
        let private = mem::map(8192, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE, f, 0)?;
        let shared = mem::map(8192, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, f, 0)?;
        private.put(5000, b"private");
        shared.put(100, b"shared");
        s.spawn(|c| {
            run(c, |c| {
                c.wait();
                shared.put(4096, b"by the child");
                private.put(5000, b"CHILD..");
                Ok(())
            });
        });
        s.wait();
        s.join();
        same_bytes("private", b"private", &private.get(5000, 7))?;
        same_bytes("shared", b"shared", &shared.get(100, 6))?;
        same_bytes("shared by the child", b"by the child", &shared.get(4096, 12))?;
        same("zero still", vec![0; 8], fd::read(f, 8)?)?;
    }),
    row!("fifo-path-only", [Flag::NoDup("both copies would use the same FIFO")], |s| {
        fd::mkfifo(s.path("p"))?;
        let path = fd::open(s.path("p"), libc::O_PATH)?;
        let facts = Facts::of(path)?;
        s.wait();
        facts.still("O_PATH of a FIFO", path)?;
        let rw = fd::open(format!("/proc/self/fd/{path}"), libc::O_RDWR)?;
        fd::write_full(rw, b"through it")?;
        same_bytes("data", b"through it", &fd::read(rw, 100)?)?;
    }),
];

/// waitid(2) by a pidfd: si_code, si_status.
fn wait_pidfd(f: i32) -> Result<(i32, i32), String> {
    let mut info = [0i32; 32];
    let flags = i64::from(libc::WEXITED);
    fd::raw_ref("waitid", libc::SYS_waitid, [libc::P_PIDFD.into(), f.into(), 0, flags, 0, 0], 2, &mut info)?;
    Ok((info[2], info[6])) // siginfo_t of a child: signo, errno, code, (pad), pid, uid, status
}
