//! Regular files that still have their name: offsets, flags, owners, leases.
use crate::kit::fd::{self, Facts};
use crate::kit::{fails, mem, pattern, row, same, same_bytes, task, truth};
use crate::{Flag, Victim};

const RW: i32 = libc::O_RDWR | libc::O_CREAT;
const GROWS: Flag = Flag::NoDup("both copies would write to the same file");

pub(super) const VICTIMS: &[Victim] = &[
    row!("offset", |s| {
        let f = fd::open(s.path("f"), RW)?;
        let bytes = pattern(1, 5000);
        fd::write_full(f, &bytes)?;
        fd::lseek(f, 1234, libc::SEEK_SET)?;
        let facts = Facts::of(f)?;
        s.wait();
        facts.still("file", f)?;
        same_bytes("what follows the offset", &bytes[1234..1300], &fd::read(f, 66)?)?;
    }),
    row!("offset-beyond-end", |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::write_full(f, b"short")?;
        fd::lseek(f, 1 << 40, libc::SEEK_SET)?;
        let facts = Facts::of(f)?;
        s.wait();
        facts.still("file", f)?;
        same("bytes behind the end", 0, fd::read(f, 10)?.len())?;
    }),
    row!("access-modes", |s| {
        fd::write_full(fd::open(s.path("f"), RW)?, b"0123456789")?;
        let r = fd::open(s.path("f"), libc::O_RDONLY)?;
        let w = fd::open(s.path("f"), libc::O_WRONLY)?;
        let none = fd::open(s.path("f"), libc::O_WRONLY | libc::O_RDWR)?;
        let facts = [Facts::of(r)?, Facts::of(w)?, Facts::of(none)?];
        s.wait();
        for (facts, f) in facts.iter().zip([r, w, none]) {
            facts.still("file", f)?;
        }
        fails("writing to a file open for reading", libc::EBADF, fd::write(r, b"x"))?;
        fails("reading from a file open for writing", libc::EBADF, fd::read(w, 1))?;
        fails("reading from a file open for ioctls only", libc::EBADF, fd::read(none, 1))?;
        same_bytes("bytes", b"0123456789", &fd::read(r, 20)?)?;
    }),
    row!("status-flags", |s| {
        use libc::{
            O_APPEND, O_ASYNC, O_DIRECT, O_DSYNC, O_NOATIME, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_RDWR, O_SYNC, O_WRONLY,
        };
        fd::close(fd::open(s.path("f"), RW)?)?;
        let mut kept = Vec::new();
        for flags in [
            O_RDONLY,
            O_WRONLY | O_APPEND,
            O_RDWR | O_SYNC,
            O_RDWR | O_DSYNC,
            O_RDWR | O_NONBLOCK,
            O_RDONLY | O_NOATIME,
            O_RDWR | O_DIRECT,
            O_RDONLY | O_NOFOLLOW,
            O_RDONLY | libc::O_TRUNC,
            O_WRONLY | O_APPEND | O_SYNC | O_NONBLOCK | O_NOATIME,
            O_RDONLY | libc::O_LARGEFILE,
            O_RDONLY | libc::O_NOCTTY,
        ] {
            match fd::open(s.path("f"), flags) {
                Ok(f) => kept.push((f, Facts::of(f)?)),
                // tmpfs has no O_DIRECT on older kernels
                Err(e) if flags & O_DIRECT != 0 && e.code == libc::EINVAL => {}
                Err(e) => Err(e)?,
            }
        }
        // flags set later, by fcntl
        let later = fd::open(s.path("f"), O_RDWR)?;
        fd::fcntl(later, libc::F_SETFL, i64::from(O_APPEND | O_NONBLOCK | O_NOATIME | O_ASYNC))?;
        kept.push((later, Facts::of(later)?));
        s.wait();
        for (f, facts) in &kept {
            facts.still("flags", *f)?;
        }
    }),
    row!("append", [GROWS], |s| {
        let f = fd::open(s.path("f"), RW | libc::O_APPEND)?;
        fd::write_full(f, b"first ")?;
        fd::lseek(f, 0, libc::SEEK_SET)?;
        s.wait();
        same("offset", 0, fd::tell(f)?)?;
        fd::write_full(f, b"last")?;
        same_bytes("content", b"first last", &fd::pread(f, 100, 0)?)?;
    }),
    row!("write-on", [GROWS], |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::write_full(f, b"before ")?;
        s.wait();
        fd::write_full(f, b"after")?;
        same_bytes("content", b"before after", &fd::pread(f, 100, 0)?)?;
    }),
    row!("direct", |s| {
        let bytes = pattern(2, 16384);
        fd::write_full(fd::open(s.path("f"), RW)?, &bytes)?;
        let f = match fd::open(s.path("f"), libc::O_RDWR | libc::O_DIRECT) {
            Ok(f) => f,
            Err(_) => s.skip("no O_DIRECT on this file system"),
        };
        fd::lseek(f, 4096, libc::SEEK_SET)?;
        let facts = Facts::of(f)?;
        s.wait();
        facts.still("file", f)?;
        let page = mem::anon(4096, false)?;
        let n = fd::raw("read", libc::SYS_read, [f.into(), page.address() as i64, 4096, 0, 0, 0])?;
        same("bytes read", 4096, n)?;
        same_bytes("content", &bytes[4096..8192], &page.get(0, 4096))?;
    }),
    row!("path-only", |s| {
        fd::write_full(fd::open(s.path("f"), RW)?, b"through the path")?;
        std::fs::create_dir(s.path("d")).map_err(|e| e.to_string())?;
        fd::close(fd::open(s.path("d/in"), RW)?)?;
        let f = fd::open(s.path("f"), libc::O_PATH)?;
        let d = fd::open(s.path("d"), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)?;
        let facts = [Facts::of(f)?, Facts::of(d)?];
        s.wait();
        facts[0].still("O_PATH file", f)?;
        facts[1].still("O_PATH directory", d)?;
        fails("reading from O_PATH", libc::EBADF, fd::read(f, 1))?;
        let again = fd::open(format!("/proc/self/fd/{f}"), libc::O_RDONLY)?;
        same_bytes("content", b"through the path", &fd::read(again, 100)?)?;
        truth("openat below", fd::openat(d, "in", libc::O_RDONLY).is_ok())?;
    }),
    row!("path-only-symlink", |s| {
        std::os::unix::fs::symlink("some/target that is not there", s.path("l")).map_err(|e| e.to_string())?;
        let f = fd::open(s.path("l"), libc::O_PATH | libc::O_NOFOLLOW)?;
        let facts = Facts::of(f)?;
        s.wait();
        facts.still("O_PATH symlink", f)?;
        same("kind", libc::S_IFLNK, fd::stat(f)?.st_mode & libc::S_IFMT)?;
        let mut buf = [0u8; 64];
        let n = fd::raw(
            "readlinkat",
            libc::SYS_readlinkat,
            [f.into(), c"".as_ptr() as i64, buf.as_mut_ptr() as i64, 64, 0, 0],
        )?;
        same_bytes("target", b"some/target that is not there", &buf[..n as usize])?;
    }),
    row!("tmpfile", [Flag::NoDup("both copies would link the file")], |s| {
        let f = match fd::open(s.dir(), libc::O_TMPFILE | libc::O_RDWR) {
            Ok(f) => f,
            Err(_) => s.skip("no O_TMPFILE on this file system"),
        };
        let bytes = pattern(3, 70_000);
        fd::write_full(f, &bytes)?;
        fd::lseek(f, 69_990, libc::SEEK_SET)?;
        let facts = Facts::of(f)?.nameless();
        s.wait();
        facts.still("file without a name", f)?;
        same_bytes("content", &bytes, &fd::pread(f, 100_000, 0)?)?;
        fd::write_full(f, b"0123456789ten more")?;
        let at = crate::sys::c(&format!("/proc/self/fd/{f}"));
        let to = crate::sys::c(&s.path("linked"));
        let here = i64::from(libc::AT_FDCWD);
        let follow = i64::from(libc::AT_SYMLINK_FOLLOW);
        fd::raw("linkat", libc::SYS_linkat, [here, at.as_ptr() as i64, here, to.as_ptr() as i64, follow, 0])?;
        same("size under its first name", 70_008, std::fs::metadata(s.path("linked")).map_or(0, |m| m.len()))?;
    }),
    row!("tmpfile-excl", |s| {
        let f = match fd::open(s.dir(), libc::O_TMPFILE | libc::O_RDWR | libc::O_EXCL) {
            Ok(f) => f,
            Err(_) => s.skip("no O_TMPFILE on this file system"),
        };
        fd::write_full(f, b"never linked")?;
        let facts = Facts::of(f)?.nameless();
        s.wait();
        facts.still("file that may not be linked", f)?;
        let at = crate::sys::c(&format!("/proc/self/fd/{f}"));
        let to = crate::sys::c(&s.path("linked"));
        let here = i64::from(libc::AT_FDCWD);
        let follow = i64::from(libc::AT_SYMLINK_FOLLOW);
        fails(
            "linking it",
            libc::ENOENT,
            fd::raw("linkat", libc::SYS_linkat, [here, at.as_ptr() as i64, here, to.as_ptr() as i64, follow, 0]),
        )?;
    }),
    row!("owner", [Flag::SamePid], |s| {
        const F_SETSIG: i32 = 10;
        const F_GETSIG: i32 = 11;
        const F_SETOWN_EX: i32 = 15;
        const F_GETOWN_EX: i32 = 16;
        let (pid, group) = (task::pid(), crate::call!(getpgrp()));
        let (r, w) = fd::pipe(0)?;
        let (r2, _w2) = fd::pipe(0)?;
        let (r3, _w3) = fd::pipe(0)?;
        task::block(&[libc::SIGRTMIN() + 3])?;
        fd::fcntl(r, libc::F_SETOWN, pid.into())?;
        fd::fcntl(r, F_SETSIG, (libc::SIGRTMIN() + 3).into())?;
        fd::fcntl(r, libc::F_SETFL, libc::O_ASYNC.into())?;
        fd::fcntl(r2, libc::F_SETOWN, (-group).into())?;
        let mut thread = [0i32, pid]; // struct f_owner_ex: F_OWNER_TID, tid
        fd::fcntl(r3, F_SETOWN_EX, thread.as_mut_ptr() as i64)?;
        s.wait();
        same("owner", i64::from(pid), fd::fcntl(r, libc::F_GETOWN, 0)?)?;
        same("signal", i64::from(libc::SIGRTMIN() + 3), fd::fcntl(r, F_GETSIG, 0)?)?;
        let mut ex = [9i32, 9];
        fd::fcntl(r2, F_GETOWN_EX, ex.as_mut_ptr() as i64)?;
        same("owner group", [2, group], ex)?;
        fd::fcntl(r3, F_GETOWN_EX, ex.as_mut_ptr() as i64)?;
        same("owner thread", [0, pid], ex)?;
        same("signal before there is data", None, task::take_signal(&[libc::SIGRTMIN() + 3], 0))?;
        fd::write_full(w, b"x")?;
        let got = task::take_signal(&[libc::SIGRTMIN() + 3], 2000);
        same("signal for data, with its descriptor", Some((libc::SIGRTMIN() + 3, r)), got.map(|(n, _, f)| (n, f)))?;
    }),
    row!("lease", [Flag::SamePid], |s| {
        const F_SETLEASE: i32 = 1024;
        const F_GETLEASE: i32 = 1025;
        let f = fd::open(s.path("f"), RW)?;
        fd::close(f)?;
        let f = fd::open(s.path("f"), libc::O_RDONLY)?;
        task::block(&[libc::SIGIO])?;
        if fd::fcntl(f, F_SETLEASE, libc::F_RDLCK.into()).is_err() {
            s.skip("no leases on this file system");
        }
        let w = fd::open(s.path("g"), RW)?;
        fd::fcntl(w, F_SETLEASE, libc::F_WRLCK.into())?;
        s.wait();
        same("read lease", i64::from(libc::F_RDLCK), fd::fcntl(f, F_GETLEASE, 0)?)?;
        same("write lease", i64::from(libc::F_WRLCK), fd::fcntl(w, F_GETLEASE, 0)?)?;
        same("break signal before anyone opens", None, task::take_signal(&[libc::SIGIO], 0).map(|t| t.0))?;
        let path = s.path("f");
        task::in_child("opening for writing", || {
            fails("the open", libc::EWOULDBLOCK, fd::open(&path, libc::O_WRONLY | libc::O_NONBLOCK))
        })?;
        same("break signal", Some(libc::SIGIO), task::take_signal(&[libc::SIGIO], 2000).map(|t| t.0))?;
    }),
    row!("lease-by-descriptor", [Flag::SamePid], |s| {
        // What breaks is named by the number under which the lease was taken, and /proc names who took it.
        const F_SETSIG: i32 = 10;
        const F_SETLEASE: i32 = 1024;
        let signal = libc::SIGRTMIN() + 1;
        task::block(&[signal])?;
        fd::close(fd::open(s.path("f"), RW)?)?;
        let low = fd::open(s.path("f"), libc::O_RDONLY)?;
        let f = fd::dup3(low, 77, 0)?;
        fd::close(low)?;
        if fd::fcntl(f, F_SETLEASE, libc::F_RDLCK.into()).is_err() {
            s.skip("no leases on this file system");
        }
        fd::fcntl(f, F_SETSIG, signal.into())?;
        let lock = fd::open(s.path("g"), RW)?;
        fd::flock(lock, libc::LOCK_EX)?;
        let (lease, taken) = (fd::info(f, "lock")?, fd::info(lock, "lock")?);
        s.wait();
        same("the lease as /proc tells it", lease, fd::info(f, "lock")?)?;
        same("the lock as /proc tells it", taken, fd::info(lock, "lock")?)?;
        let path = s.path("f");
        task::in_child("opening for writing", || {
            fails("the open", libc::EWOULDBLOCK, fd::open(&path, libc::O_WRONLY | libc::O_NONBLOCK))
        })?;
        let mut info = [0u32; 32];
        let set = task::set(&[signal]);
        let limit = libc::timespec { tv_sec: 2, tv_nsec: 0 };
        let args = [&raw const set as i64, info.as_mut_ptr() as i64, &raw const limit as i64, 8, 0, 0];
        same("break signal", i64::from(signal), fd::raw("rt_sigtimedwait", libc::SYS_rt_sigtimedwait, args)?)?;
        same("the descriptor that it names", 77, info[6])?;
    }),
    row!("holes", |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::pwrite(f, b"data", 10 << 20)?;
        fd::ftruncate(f, 30 << 20)?;
        let blocks = fd::stat(f)?.st_blocks;
        let data = fd::lseek(f, 0, libc::SEEK_DATA)?;
        let hole = fd::lseek(f, 10 << 20, libc::SEEK_HOLE)?;
        let facts = Facts::of(f)?;
        s.wait();
        facts.still("sparse file", f)?;
        same("blocks", blocks, fd::stat(f)?.st_blocks)?;
        same("first data", data, fd::lseek(f, 0, libc::SEEK_DATA)?)?;
        same("hole after it", hole, fd::lseek(f, 10 << 20, libc::SEEK_HOLE)?)?;
    }),
    row!("stdio-closed", |s| {
        for n in 0..3 {
            fd::close(n)?;
        }
        s.wait();
        for n in 0..3 {
            fd::closed("a standard descriptor", n)?;
        }
        same("numbers", Vec::<i32>::new(), fd::numbers()?)?;
    }),
    row!("stdio-replaced", |s| {
        for n in 0..3 {
            let f = fd::open(s.path(&format!("std{n}")), RW)?;
            fd::write_full(f, &pattern(9, 100))?;
            fd::lseek(f, 10 + i64::from(n), libc::SEEK_SET)?;
            fd::dup3(f, n, 0)?;
            fd::close(f)?;
        }
        let facts = [Facts::of(0)?, Facts::of(1)?, Facts::of(2)?];
        s.wait();
        for (n, facts) in facts.iter().enumerate() {
            facts.still("a standard descriptor", n as i32)?;
        }
    }),
    row!("tmpfs", [Flag::NoDup("each copy would remove the file of both")], |s| {
        let name = format!("/dev/shm/victim.{}.{}", task::pid(), crate::sys::now_ns());
        let Ok(f) = fd::open(&name, RW) else { s.skip("no /dev/shm") };
        fd::write_full(f, &pattern(10, 9000))?;
        fd::lseek(f, 8000, libc::SEEK_SET)?;
        let facts = Facts::of(f)?;
        s.wait();
        let found = facts.still("file on tmpfs", f);
        let bytes = fd::read(f, 2000);
        let _ = fd::unlink(&name);
        found?;
        same_bytes("content", &pattern(10, 9000)[8000..], &bytes?)?;
    }),
    row!("mapped-and-written", [GROWS], |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::ftruncate(f, 8192)?;
        let m = mem::map(8192, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, f, 0)?;
        m.put(100, b"by mapping");
        s.wait();
        same_bytes("file seen by read", b"by mapping", &fd::pread(f, 10, 100)?)?;
        fd::pwrite(f, b"by write", 5000)?;
        same_bytes("file seen by the mapping", b"by write", &m.get(5000, 8))?;
        m.put(6000, b"again");
        same_bytes(
            "file seen by another opening",
            b"again",
            &fd::pread(fd::open(s.path("f"), libc::O_RDONLY)?, 5, 6000)?,
        )?;
    }),
];
