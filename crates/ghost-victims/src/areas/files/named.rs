//! By which name files are found again: renamed, strange, long, through links, without permission; and directories.
use crate::Victim;
use crate::kit::fd::{self, Facts};
use crate::kit::{fails, row, same, same_bytes, truth};

const RW: i32 = libc::O_RDWR | libc::O_CREAT;

pub(super) const VICTIMS: &[Victim] = &[
    row!("renamed", |s| {
        let f = fd::open(s.path("old"), RW)?;
        fd::write_full(f, b"renamed since")?;
        fd::rename(s.path("old"), s.path("new"))?;
        let facts = Facts::of(f)?;
        s.wait();
        facts.still("renamed file", f)?;
        truth("its link names the new path", fd::link_of(f)?.ends_with("/new"))?;
    }),
    row!("directory-renamed", |s| {
        std::fs::create_dir(s.path("d")).map_err(|e| e.to_string())?;
        let f = fd::open(s.path("d/f"), RW)?;
        fd::rename(s.path("d"), s.path("e"))?;
        let facts = Facts::of(f)?;
        s.wait();
        facts.still("file in a renamed directory", f)?;
    }),
    row!("strange-name", |s| {
        use std::os::unix::ffi::OsStringExt as _;
        let mut name = s.path("a\nb (deleted)").into_bytes();
        name.extend_from_slice(b"\xff\xfe\\012 (deleted)");
        let name = std::ffi::OsString::from_vec(name);
        let f = fd::open(&name, RW)?;
        fd::write_full(f, b"strange")?;
        let facts = Facts::of(f)?;
        s.wait();
        facts.still("strangely named file", f)?;
        truth("its inode has its name still", fd::stat(f)?.st_nlink == 1)?;
    }),
    row!("long-name", |s| {
        // The path is longer than PATH_MAX: only reachable step by step.
        let name = "n".repeat(200);
        let mut dir = fd::open(s.dir(), libc::O_PATH)?;
        for _ in 0..25 {
            let c = crate::sys::c(&name);
            fd::raw("mkdirat", libc::SYS_mkdirat, [dir.into(), c.as_ptr() as i64, 0o700, 0, 0, 0])?;
            let next = fd::openat(dir, &name, libc::O_PATH)?;
            fd::close(dir)?;
            dir = next;
        }
        let f = fd::openat(dir, "f", RW)?;
        fd::close(dir)?;
        fd::write_full(f, b"far down")?;
        let before = (fd::inode(f)?, fd::tell(f)?);
        s.wait();
        same("inode and offset", before, (fd::inode(f)?, fd::tell(f)?))?;
        same_bytes("content", b"far down", &fd::pread(f, 20, 0)?)?;
    }),
    row!("through-symlink", |s| {
        fd::write_full(fd::open(s.path("f"), RW)?, b"behind a link")?;
        std::os::unix::fs::symlink(s.path("f"), s.path("l")).map_err(|e| e.to_string())?;
        let f = fd::open(s.path("l"), libc::O_RDONLY)?;
        fd::unlink(s.path("l"))?;
        let facts = Facts::of(f)?;
        s.wait();
        facts.still("file opened by a symlink", f)?;
    }),
    row!("no-permission-now", |s| {
        // Opened while it was allowed: mode and owner have changed since.
        let f = fd::open(s.path("f"), RW)?;
        fd::write_full(f, b"no longer for me")?;
        let r = fd::open(s.path("f"), libc::O_RDONLY)?;
        crate::must!(fchmod(f, 0));
        let facts = [Facts::of(f)?, Facts::of(r)?];
        s.wait();
        facts[0].still("file", f)?;
        facts[1].still("file", r)?;
        same_bytes("content", b"no longer for me", &fd::read(r, 100)?)?;
    }),
    row!("no-capability-now", |s| {
        // Belongs to another user, opened by root, who then gave up the capabilities that let it.
        let f = fd::open(s.path("f"), RW)?;
        fd::write_full(f, b"of another user")?;
        if crate::call!(fchown(f, 1, 1)) != 0 {
            s.skip("not root");
        }
        crate::must!(fchmod(f, 0o600));
        let mut head = [0x2008_0522u32, 0]; // _LINUX_CAPABILITY_VERSION_3, self
        let mut data = [0u32; 6];
        fd::raw("capget", libc::SYS_capget, [head.as_mut_ptr() as i64, data.as_mut_ptr() as i64, 0, 0, 0, 0])?;
        data[0] &= !0b110; // CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: effective
        data[1] &= !0b110; // permitted
        fd::raw("capset", libc::SYS_capset, [head.as_mut_ptr() as i64, data.as_mut_ptr() as i64, 0, 0, 0, 0])?;
        fails("opening it again", libc::EACCES, fd::open(s.path("f"), libc::O_RDONLY))?;
        let facts = Facts::of(f)?;
        s.wait();
        facts.still("file", f)?;
        same_bytes("content", b"of another user", &fd::pread(f, 100, 0)?)?;
        fails("opening it again, after", libc::EACCES, fd::open(s.path("f"), libc::O_RDONLY))?;
    }),
    row!("readdir-position", |s| {
        std::fs::create_dir(s.path("d")).map_err(|e| e.to_string())?;
        for i in 0..600 {
            fd::close(fd::open(s.path(&format!("d/entry-{i}")), RW)?)?;
        }
        let d = fd::open(s.path("d"), libc::O_RDONLY | libc::O_DIRECTORY)?;
        let mut names = fd::some_entries(d, 4096)?;
        names.extend(fd::some_entries(d, 2048)?);
        let at = fd::tell(d)?;
        let first = names.len();
        s.wait();
        same("position", at, fd::tell(d)?)?;
        names.extend(fd::entries(d)?);
        truth("some were left to read", names.len() > first)?;
        names.retain(|n| n != "." && n != "..");
        let total = names.len();
        names.sort();
        names.dedup();
        same("entries seen", (600, 600), (total, names.len()))?;
    }),
    row!("directory", |s| {
        std::fs::create_dir(s.path("d")).map_err(|e| e.to_string())?;
        fd::close(fd::open(s.path("d/in"), RW)?)?;
        let d = fd::open(s.path("d"), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOATIME)?;
        let root = fd::open("/", libc::O_RDONLY)?;
        let facts = [Facts::of(d)?, Facts::of(root)?];
        s.wait();
        facts[0].still("directory", d)?;
        facts[1].still("root directory", root)?;
        truth("openat", fd::openat(d, "in", libc::O_RDONLY).is_ok())?;
        truth("fchdir", crate::call!(fchdir(d)) == 0 && std::path::Path::new("in").exists())?;
    }),
];
