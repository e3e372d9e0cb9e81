//! Files and directories whose name is gone: the inode lives by an open description, a mapping or a cwd only.
use crate::kit::fd::{self, Facts};
use crate::kit::{digest, fails, mem, pattern, row, run, same, same_bytes, truth};
use crate::{Flag, Victim};

const RW: i32 = libc::O_RDWR | libc::O_CREAT;

/// A new file with that content, its name removed.
fn gone(path: &str, bytes: &[u8]) -> Result<i32, String> {
    let f = fd::open(path, RW)?;
    fd::write_full(f, bytes)?;
    fd::unlink(path)?;
    Ok(f)
}

pub(super) const VICTIMS: &[Victim] = &[
    row!("deleted-small", |s| {
        let f = gone(&s.path("f"), b"nobody finds me")?;
        fd::lseek(f, 7, libc::SEEK_SET)?;
        let facts = Facts::of(f)?.nameless();
        s.wait();
        facts.still("deleted file", f)?;
        truth("its link says so", fd::link_of(f)?.ends_with(" (deleted)"))?;
        same("links", 0, fd::stat(f)?.st_nlink)?;
        same_bytes("rest", b"finds me", &fd::read(f, 100)?)?;
        truth("no file came back under the name", !std::path::Path::new(&s.path("f")).exists())?;
        fd::write_full(f, b" yet")?;
        same_bytes("after writing", b"nobody finds me yet", &fd::pread(f, 100, 0)?)?;
    }),
    row!("deleted-attributes", |s| {
        // chattr +a, and how long what is written will live, of a file and of a memfd.
        const GETFLAGS: u64 = 0x8008_6601;
        const SETFLAGS: u64 = 0x4008_6602;
        const APPEND_ONLY: u64 = 0x20;
        const SET_RW_HINT: i32 = 1036;
        const GET_RW_HINT: i32 = 1035;
        let hint = |f: i32, how: i32, value: u64| {
            let mut value = value;
            fd::fcntl(f, how, &raw mut value as i64).map(|_| std::hint::black_box(value))
        };
        let f = fd::open(s.path("f"), libc::O_RDWR | libc::O_CREAT | libc::O_APPEND)?;
        fd::write_full(f, b"one")?;
        let mut flags = 0u64;
        let settable = fd::ioctl_ref(f, GETFLAGS, &mut flags).and_then(|_| {
            flags |= APPEND_ONLY;
            fd::ioctl_ref(f, SETFLAGS, &mut flags)
        });
        if settable.is_err() {
            s.skip("no attributes of chattr here");
        }
        hint(f, SET_RW_HINT, 2)?;
        let m = fd::raw("memfd_create", libc::SYS_memfd_create, [c"m".as_ptr() as i64, 0, 0, 0, 0, 0])? as i32;
        hint(m, SET_RW_HINT, 5)?;
        // Of an append-only file no name can be removed: its own, by taking the attribute away for a moment.
        flags &= !APPEND_ONLY;
        fd::ioctl_ref(f, SETFLAGS, &mut flags)?;
        fd::unlink(s.path("f"))?;
        flags |= APPEND_ONLY;
        fd::ioctl_ref(f, SETFLAGS, &mut flags)?;
        s.wait();
        let mut now = 0u64;
        fd::ioctl_ref(f, GETFLAGS, &mut now)?;
        same("attributes", APPEND_ONLY, now & 0xf0)?;
        same("hints", (2, 5), (hint(f, GET_RW_HINT, 0)?, hint(m, GET_RW_HINT, 0)?))?;
        fails("shortening it", libc::EPERM, fd::ftruncate(f, 1))?;
        fd::write_full(f, b"two")?;
    }),
    row!("deleted-link-name", |s| {
        // The name that readlink of /proc/self/fd still gives.
        let f = gone(&s.path("f"), b"named once")?;
        let name = fd::link_of(f)?;
        s.wait();
        same("its link", name, fd::link_of(f)?)?;
    }),
    row!("deleted-empty", |s| {
        let f = gone(&s.path("f"), b"")?;
        let facts = Facts::of(f)?.nameless();
        s.wait();
        facts.still("deleted file", f)?;
        same("links", 0, fd::stat(f)?.st_nlink)?;
    }),
    row!("deleted-8MiB", |s| {
        let bytes = pattern(20, (8 << 20) + 123);
        let f = gone(&s.path("f"), &bytes)?;
        let sum = digest(0, &bytes);
        drop(bytes);
        fd::lseek(f, 5 << 20, libc::SEEK_SET)?;
        let facts = Facts::of(f)?.nameless();
        s.wait();
        facts.still("deleted file", f)?;
        same("digest", sum, digest(0, &fd::pread(f, 9 << 20, 0)?))?;
    }),
    row!("deleted-sparse", |s| {
        let f = gone(&s.path("f"), b"head")?;
        fd::pwrite(f, b"middle", 1 << 30)?;
        fd::pwrite(f, b"late", (5 << 30) + 4093)?;
        fd::ftruncate(f, 20 << 30)?;
        let (facts, blocks) = (Facts::of(f)?.nameless(), fd::stat(f)?.st_blocks);
        s.wait();
        facts.still("deleted sparse file", f)?;
        same_bytes("head", b"head\0\0", &fd::pread(f, 6, 0)?)?;
        same_bytes("middle", b"\0middle\0", &fd::pread(f, 8, (1 << 30) - 1)?)?;
        same_bytes("late", b"\0late\0", &fd::pread(f, 6, (5 << 30) + 4092)?)?;
        truth("holes are still holes", fd::stat(f)?.st_blocks <= blocks + 64)?;
    }),
    row!("deleted-hard-linked", [Flag::NoDup("both copies would write to the same file")], |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::write_full(f, b"two names")?;
        std::fs::create_dir(s.path("d")).map_err(|e| e.to_string())?;
        fd::link(s.path("f"), s.path("d/other"))?;
        fd::unlink(s.path("f"))?;
        let (inode, at) = (fd::inode(f)?, fd::tell(f)?);
        s.wait();
        same("inode: still that of the other name", inode, fd::inode(f)?)?;
        same("offset", at, fd::tell(f)?)?;
        same("links", 1, fd::stat(f)?.st_nlink)?;
        fd::write_full(f, b", one inode")?;
        let found = std::fs::read(s.path("d/other")).map_err(|e| e.to_string())?;
        same_bytes("seen through the other name", b"two names, one inode", &found)?;
    }),
    row!("deleted-with-attributes", |s| {
        let f = gone(&s.path("f"), b"attributes")?;
        crate::must!(fchmod(f, 0o4751));
        let foreign = crate::call!(fchown(f, 1, 2)) == 0;
        crate::must!(fchmod(f, 0o4751));
        let user = fd::set_xattr(f, "user.victim", b"a value\0with zero").is_ok();
        let trusted = fd::set_xattr(f, "trusted.victim", b"of root").is_ok();
        let times = [
            libc::timespec { tv_sec: 1_000_000, tv_nsec: 123_456_000 },
            libc::timespec { tv_sec: 2_000_000, tv_nsec: 654_321_000 },
        ];
        crate::must!(futimens(f, times.as_ptr()));
        let facts = Facts::of(f)?.nameless();
        s.wait();
        facts.still("deleted file", f)?;
        if foreign {
            same("owner", (1, 2), fd::stat(f).map(|s| (s.st_uid, s.st_gid))?)?;
        }
        same("mode", 0o4751, fd::stat(f)?.st_mode & 0o7777)?;
        same("mtime", (2_000_000, 654_321_000), fd::stat(f).map(|s| (s.st_mtime, s.st_mtime_nsec))?)?;
        if user {
            same_bytes("user attribute", b"a value\0with zero", &fd::get_xattr(f, "user.victim")?)?;
        }
        if trusted {
            same_bytes("trusted attribute", b"of root", &fd::get_xattr(f, "trusted.victim")?)?;
        }
    }),
    row!("deleted-mapped-and-open", |s| {
        let f = gone(&s.path("f"), &pattern(21, 12288))?;
        let m = mem::map(12288, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, f, 0)?;
        let p = mem::map(4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE, f, 8192)?;
        m.put(4096, b"by the mapping");
        p.put(10, b"private");
        s.wait();
        same_bytes("what the mapping wrote, by read", b"by the mapping", &fd::pread(f, 14, 4096)?)?;
        same_bytes("private page", b"private", &p.get(10, 7))?;
        same_bytes("file under the private page", &pattern(21, 12288)[8202..8209], &fd::pread(f, 7, 8202)?)?;
        fd::pwrite(f, b"by write", 0)?;
        same_bytes("one inode for fd and mapping", b"by write", &m.get(0, 8))?;
        m.put(11_000, b"back");
        same_bytes("the other way", b"back", &fd::pread(f, 4, 11_000)?)?;
    }),
    row!("deleted-mapped-only", |s| {
        let bytes = pattern(22, 20_000);
        let f = gone(&s.path("f"), &bytes)?;
        let m = mem::map(20_000, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, f, 0)?;
        fd::close(f)?;
        m.put(3, b"!");
        s.spawn(|c| {
            run(c, |c| {
                c.wait();
                c.eventually("the parent's write is seen", 10_000, || m.get(19_000, 6) == b"shared");
                Ok(())
            });
        });
        s.wait();
        let mut expected = bytes;
        expected[3] = b'!';
        same_bytes("mapping", &expected, &m.get(0, 20_000))?;
        m.put(19_000, b"shared");
    }),
    row!("deleted-opened-twice", |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::write_full(f, b"0123456789")?;
        let g = fd::open(s.path("f"), libc::O_RDONLY)?;
        let w = fd::open(s.path("f"), libc::O_WRONLY | libc::O_APPEND)?;
        fd::unlink(s.path("f"))?;
        fd::lseek(g, 4, libc::SEEK_SET)?;
        let facts = [Facts::of(f)?.nameless(), Facts::of(g)?.nameless(), Facts::of(w)?.nameless()];
        s.wait();
        for (facts, f) in facts.iter().zip([f, g, w]) {
            facts.still("deleted file", f)?;
        }
        same("one inode", (fd::inode(f)?, fd::inode(f)?), (fd::inode(g)?, fd::inode(w)?))?;
        fd::write_full(w, b"appended")?;
        same_bytes("what another opening wrote", b"456789appended", &fd::read(g, 100)?)?;
        fails("writing to the one open for reading", libc::EBADF, fd::write(g, b"x"))?;
    }),
    row!("deleted-in-two-processes", |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::write_full(f, &[0; 16])?;
        s.spawn(|c| {
            run(c, |c| {
                fd::close(f)?;
                let mine = fd::open(c.path("f"), libc::O_RDWR)?;
                c.wait();
                fd::pwrite(mine, b"from the child", 0)?;
                Ok(())
            });
        });
        fd::unlink(s.path("f"))?;
        s.wait();
        s.join();
        same_bytes("what the child wrote", b"from the child", &fd::pread(f, 14, 0)?)?;
    }),
    row!("deleted-and-replaced", |s| {
        let f = gone(&s.path("f"), b"the old one")?;
        let other = fd::open(s.path("f"), RW)?;
        fd::write_full(other, b"the new one")?;
        let new = Facts::of(other)?;
        s.wait();
        same_bytes("deleted file", b"the old one", &fd::pread(f, 100, 0)?)?;
        new.still("file that has the name now", other)?;
        let found = std::fs::read(s.path("f")).map_err(|e| e.to_string())?;
        same_bytes("file that has the name now", b"the new one", &found)?;
    }),
    row!("deleted-by-rename", |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::write_full(f, b"overwritten")?;
        fd::write_full(fd::open(s.path("g"), RW)?, b"winner")?;
        fd::rename(s.path("g"), s.path("f"))?;
        let facts = Facts::of(f)?.nameless();
        s.wait();
        facts.still("file whose name went to another", f)?;
        same_bytes("its content", b"overwritten", &fd::pread(f, 100, 0)?)?;
        let found = std::fs::read(s.path("f")).map_err(|e| e.to_string())?;
        same_bytes("the other's content", b"winner", &found)?;
    }),
    row!("deleted-in-deleted-directory", |s| {
        std::fs::create_dir(s.path("d")).map_err(|e| e.to_string())?;
        let f = gone(&s.path("d/f"), b"twice gone")?;
        std::fs::remove_dir(s.path("d")).map_err(|e| e.to_string())?;
        let facts = Facts::of(f)?.nameless();
        s.wait();
        facts.still("deleted file", f)?;
        same_bytes("content", b"twice gone", &fd::pread(f, 100, 0)?)?;
    }),
    row!("deleted-path-only", |s| {
        let f = gone(&s.path("f"), b"seen by path")?;
        let p = fd::open(format!("/proc/self/fd/{f}"), libc::O_PATH)?;
        fd::close(f)?;
        s.wait();
        same("size", 12, fd::stat(p)?.st_size)?;
        fails("reading", libc::EBADF, fd::read(p, 1))?;
        let again = fd::open(format!("/proc/self/fd/{p}"), libc::O_RDONLY)?;
        same_bytes("content", b"seen by path", &fd::read(again, 100)?)?;
    }),
    row!("deleted-read-only", |s| {
        fd::close(gone(&s.path("other"), b"x")?)?;
        let w = fd::open(s.path("f"), RW)?;
        fd::write_full(w, b"for reading")?;
        fd::close(w)?;
        let f = fd::open(s.path("f"), libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOATIME)?;
        fd::unlink(s.path("f"))?;
        fd::read(f, 4)?;
        let facts = Facts::of(f)?.nameless();
        s.wait();
        facts.still("deleted file", f)?;
        same_bytes("rest", b"reading", &fd::read(f, 100)?)?;
        fails("writing", libc::EBADF, fd::write(f, b"x"))?;
    }),
    row!("deleted-on-tmpfs", |s| {
        let name = format!("/dev/shm/victim.{}.{}", std::process::id(), crate::sys::now_ns());
        let Ok(f) = fd::open(&name, RW) else { s.skip("no /dev/shm") };
        fd::unlink(&name)?;
        fd::write_full(f, &pattern(23, 100_000))?;
        let facts = Facts::of(f)?.nameless();
        s.wait();
        facts.still("deleted file", f)?;
        same_bytes("content", &pattern(23, 100_000), &fd::pread(f, 200_000, 0)?)?;
    }),
    row!("deleted-cwd", |s| {
        std::fs::create_dir(s.path("d")).map_err(|e| e.to_string())?;
        std::env::set_current_dir(s.path("d")).map_err(|e| e.to_string())?;
        std::fs::remove_dir(s.path("d")).map_err(|e| e.to_string())?;
        fails("opening a file there", libc::ENOENT, fd::open("f", RW))?;
        s.wait();
        fails("opening a file there, after", libc::ENOENT, fd::open("f", RW))?;
        let cwd = std::fs::read_link("/proc/self/cwd").map_err(|e| e.to_string())?;
        truth("cwd is a deleted directory", cwd.to_string_lossy().ends_with("/d (deleted)"))?;
        truth("no directory came back", !std::path::Path::new(&s.path("d")).exists())?;
    }),
    row!("deleted-directory-open", |s| {
        std::fs::create_dir(s.path("d")).map_err(|e| e.to_string())?;
        let d = fd::open(s.path("d"), libc::O_RDONLY | libc::O_DIRECTORY)?;
        std::fs::remove_dir(s.path("d")).map_err(|e| e.to_string())?;
        s.wait();
        same("kind", libc::S_IFDIR, fd::stat(d)?.st_mode & libc::S_IFMT)?;
        same("links", 0, fd::stat(d)?.st_nlink)?;
        fails("reading it", libc::ENOENT, fd::some_entries(d, 4096))?;
        fails("a new file in it", libc::ENOENT, fd::openat(d, "f", RW))?;
        truth("no directory came back", !std::path::Path::new(&s.path("d")).exists())?;
    }),
    row!("deleted-cwd-and-replaced", |s| {
        std::fs::create_dir(s.path("d")).map_err(|e| e.to_string())?;
        std::env::set_current_dir(s.path("d")).map_err(|e| e.to_string())?;
        std::fs::remove_dir(s.path("d")).map_err(|e| e.to_string())?;
        std::fs::create_dir(s.path("d")).map_err(|e| e.to_string())?;
        fd::close(fd::open(s.path("d/in"), RW)?)?;
        s.wait();
        fails("a file of the new directory, from the old", libc::ENOENT, fd::open("in", libc::O_RDONLY))?;
        truth("the new directory has its file", std::path::Path::new(&s.path("d/in")).exists())?;
    }),
    row!("deleted-leaves-no-trace", |s| {
        let f = gone(&s.path("f"), b"content")?;
        let list = |dir: &str| -> Result<Vec<String>, String> {
            let all = std::fs::read_dir(dir).map_err(|e| e.to_string())?;
            let mut all: Vec<String> = all.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            // What the victims write there themselves; a duplicate's result has a hidden name for a moment.
            let own = |n: &str| matches!(n, "ready" | "go") || n.starts_with("result.") || n.starts_with(".result.");
            all.retain(|n| !own(n));
            all.sort();
            Ok(all)
        };
        let before = list(s.dir())?;
        s.wait();
        same_bytes("content", b"content", &fd::pread(f, 100, 0)?)?;
        same("names in the directory", before, list(s.dir())?)?;
    }),
];
