//! Mapped files: clean and dirty, shared, deleted, replaced, sealed, shorter than their mapping, and memory shared in a tree.
use super::{Map, PAGE, RW};
use crate::sys::{c, prng_differs, prng_fill};
use crate::{Ctx, Flag, Victim, call, flagged, must, proc, raw, victim};
use std::os::unix::fs::FileExt as _;

const SHARED: i32 = libc::MAP_SHARED;
const PRIVATE: i32 = libc::MAP_PRIVATE;

pub(super) const VICTIMS: &[Victim] = &[
    victim("file-private-clean", |v| {
        let (m, _) = mapped(v, "file", 16, libc::PROT_READ, PRIVATE);
        v.keep("VMA", move || m.shapes());
        v.need("it is read", m.get(5) == expect(16)[5]);
        v.wait();
        v.check("the contents", expect(16) == m.bytes());
        v.eq("private dirty kB", 0, proc::vma_at(m.at).map_or(99, |x| x.kb("Anonymous")));
    }),
    victim("file-private-dirty", |v| {
        let (m, path) = mapped(v, "file", 16, RW, PRIVATE);
        for p in [1, 5, 15] {
            m.put(p * PAGE + 7, !expect(16)[p * PAGE + 7]);
        }
        v.keep("VMA", move || m.shapes());
        v.wait();
        let mut expected = expect(16);
        v.check("the file is as it was", std::fs::read(path).unwrap_or_default() == expected);
        for p in [1, 5, 15] {
            expected[p * PAGE + 7] = !expected[p * PAGE + 7];
        }
        v.check("the contents", expected == m.bytes());
        m.pages(5, 1).advise(libc::MADV_DONTNEED).unwrap();
        v.eq("a page given back shows the file again", expect(16)[5 * PAGE + 7], m.get(5 * PAGE + 7));
    }),
    flagged("file-shared", &[Flag::NoDup("both would write one file")], |v| {
        let (m, path) = mapped(v, "file", 16, RW, SHARED);
        m.put(3, 0xaa);
        v.keep("VMA", move || m.shapes());
        v.wait();
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut b = [0u8; 1];
        file.read_exact_at(&mut b, 3).unwrap();
        v.eq("written before: in the file", 0xaa, b[0]);
        m.put(PAGE + 9, 0xbb);
        file.read_exact_at(&mut b, PAGE as u64 + 9).unwrap();
        v.eq("written through the mapping: in the file", 0xbb, b[0]);
        file.write_all_at(&[0xcc], 2 * PAGE as u64).unwrap();
        v.eq("written to the file: in the mapping", 0xcc, m.get(2 * PAGE));
    }),
    victim("file-shared-readonly", |v| {
        let (m, _) = mapped(v, "file", 4, libc::PROT_READ, SHARED);
        v.keep("VMA", move || m.shapes());
        v.wait();
        v.check("the contents", expect(4) == m.bytes());
    }),
    victim("file-offset", |v| {
        let path = file(v, "file", 16);
        let fd = must!(open(path.as_ptr(), libc::O_RDONLY));
        let m = Map::new(4 * PAGE, libc::PROT_READ, PRIVATE, fd, 8 * PAGE as i64);
        must!(close(fd));
        v.keep("VMA", move || m.shapes());
        v.wait();
        v.check("the contents", expect(16)[8 * PAGE..12 * PAGE] == *m.bytes());
    }),
    victim("file-deleted-private", |v| deleted(v, PRIVATE)),
    flagged("file-deleted-shared", &[Flag::NoDup("both would write one file")], |v| deleted(v, SHARED)),
    victim("file-replaced", |v| {
        let (m, path) = mapped(v, "file", 4, libc::PROT_READ, PRIVATE);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, vec![7u8; 4 * PAGE]).unwrap();
        v.need("it is another file now", proc::vma_at(m.at).is_some_and(|x| x.name.ends_with("(deleted)")));
        v.wait();
        v.check("the contents are the old file's", expect(4) == m.bytes());
        v.eq("the new file", vec![7u8; 4 * PAGE], std::fs::read(&path).unwrap_or_default());
    }),
    victim("file-renamed", |v| {
        let (m, path) = mapped(v, "file", 4, libc::PROT_READ, PRIVATE);
        std::fs::rename(&path, v.path("renamed")).unwrap();
        let renamed = v.path("renamed");
        v.keep("VMA", move || m.shapes());
        v.wait();
        v.check("the contents", expect(4) == m.bytes());
        v.eq("name in maps", Some(renamed), proc::vma_at(m.at).map(|x| x.name));
    }),
    victim("file-beyond-end", |v| {
        // One and a half pages of file under four pages of mapping: zeroes after the end, then SIGBUS.
        let path = v.path("short");
        std::fs::write(&path, vec![5u8; PAGE + PAGE / 2]).unwrap();
        let p = c(&path);
        let fd = must!(open(p.as_ptr(), libc::O_RDWR));
        let m = Map::new(4 * PAGE, RW, PRIVATE, fd, 0);
        must!(close(fd));
        m.put(PAGE, 6);
        v.keep("VMA", move || m.shapes());
        v.wait();
        v.eq("first bytes of both pages", (5, 6), (m.get(0), m.get(PAGE)));
        v.eq("after the end of the file, within its page", 0, m.get(PAGE + PAGE / 2 + 1));
        v.check("beyond it nothing can be read", !super::readable(m.at + 2 * PAGE));
    }),
    victim("file-huge-private", |v| {
        // 1 TiB of hole, a few pages read, a few written.
        let path = v.path("huge");
        let f = std::fs::File::create(&path).unwrap();
        if f.set_len(1 << 40).is_err() {
            v.skip("the file system has no files of 1 TiB");
        }
        f.write_all_at(b"end", (1 << 40) - 3).unwrap();
        drop(f);
        let p = c(&path);
        let fd = must!(open(p.as_ptr(), libc::O_RDWR));
        let m = Map::new(1 << 40, RW, PRIVATE | libc::MAP_NORESERVE, fd, 0);
        must!(close(fd));
        for i in 0..20usize {
            m.put(i << 35, i as u8 + 1);
        }
        v.keep("VMA", move || m.shapes());
        v.wait();
        v.check("what was written", (0..20usize).all(|i| m.get(i << 35) == i as u8 + 1));
        v.eq("the file's last byte", b'd', m.get((1 << 40) - 1));
        v.eq("a hole", 0, m.get(12345 << 20));
    }),
    victim("memfd", |v| {
        let fd = must!(memfd_create(c"victim's".as_ptr(), 0));
        must!(ftruncate(fd, 8 * PAGE as i64));
        let m = Map::new(8 * PAGE, RW, SHARED, fd, 0);
        must!(close(fd));
        prng_fill(21, m.bytes_mut());
        v.keep("VMA", move || m.shapes());
        v.wait();
        v.eq("first byte that differs", None, prng_differs(21, m.bytes()));
    }),
    victim("memfd-sealed", |v| {
        let fd = must!(memfd_create(c"sealed".as_ptr(), libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC));
        must!(ftruncate(fd, 4 * PAGE as i64));
        let w = Map::new(4 * PAGE, RW, SHARED, fd, 0);
        prng_fill(22, w.bytes_mut());
        must!(munmap(w.at as *mut libc::c_void, w.len));
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
        must!(fcntl(fd, libc::F_ADD_SEALS, seals));
        let m = Map::new(4 * PAGE, libc::PROT_READ, SHARED, fd, 0);
        v.keep("VMA", move || m.shapes());
        v.wait();
        v.eq("seals", seals, call!(fcntl(fd, libc::F_GET_SEALS)));
        v.eq("first byte that differs", None, prng_differs(22, m.bytes()));
        v.eq("ftruncate", -1, call!(ftruncate(fd, 0)));
        v.eq("write", Err(libc::EPERM), raw!(libc::SYS_write, fd, [1u8].as_ptr(), 1));
    }),
    victim("memfd-two-mappings", |v| {
        // One object seen at two places: what is written here shows there.
        let fd = must!(memfd_create(c"twice".as_ptr(), 0));
        must!(ftruncate(fd, 8 * PAGE as i64));
        let (a, b) = (Map::new(8 * PAGE, RW, SHARED, fd, 0), Map::new(4 * PAGE, RW, SHARED, fd, 4 * PAGE as i64));
        must!(close(fd));
        a.put(5 * PAGE, 55);
        v.wait();
        v.eq("seen at the other place", 55, b.get(PAGE));
        b.put(2 * PAGE, 66);
        v.eq("and the other way", 66, a.get(6 * PAGE));
    }),
    victim("shared-anonymous", |v| {
        let m = Map::new(8 * PAGE, RW, SHARED | libc::MAP_ANONYMOUS, -1, 0);
        shared_in_tree(v, m);
    }),
    victim("shared-dev-zero", |v| {
        let fd = must!(open(c"/dev/zero".as_ptr(), libc::O_RDWR));
        let m = Map::new(8 * PAGE, RW, SHARED, fd, 0);
        must!(close(fd));
        shared_in_tree(v, m);
    }),
    victim("shared-mapped-as-a-file", |v| {
        // /proc/self/map_files leads to anonymous shared memory as to a file: open, mapped privately, and mapped shared once more.
        let m = Map::new(4 * PAGE, RW, SHARED | libc::MAP_ANONYMOUS, -1, 0);
        let at = format!("/proc/self/map_files/{:x}-{:x}", m.at, m.end());
        let at = std::ffi::CString::new(at).expect("no NUL in it");
        let fd = call!(open(at.as_ptr(), libc::O_RDWR));
        if fd < 0 {
            v.skip("/proc/self/map_files takes CAP_CHECKPOINT_RESTORE");
        }
        for (n, byte) in [1, 2, 3].into_iter().enumerate() {
            m.pages(n, 1).bytes_mut()[0] = byte;
        }
        let private = Map::new(4 * PAGE, RW, PRIVATE, fd, 0);
        let again = Map::new(2 * PAGE, RW, SHARED, fd, 2 * PAGE as i64);
        private.pages(1, 1).bytes_mut()[0] = 22;
        v.wait();
        v.eq("an unchanged private page", 1, private.pages(0, 1).bytes()[0]);
        v.eq("a changed private page", 22, private.pages(1, 1).bytes()[0]);
        v.eq("what is below it", 2, m.pages(1, 1).bytes()[0]);
        m.pages(3, 1).bytes_mut()[0] = 44;
        v.eq("written by one mapping, read by the other", 44, again.pages(1, 1).bytes()[0]);
        v.eq("read by the private one", 44, private.pages(3, 1).bytes()[0]);
        let mut byte = 0_u8;
        must!(pread(fd, (&raw mut byte).cast(), 1, 3 * PAGE as i64));
        v.eq("read by the descriptor", 44, byte);
    }),
    victim("private-dev-zero", |v| {
        let fd = must!(open(c"/dev/zero".as_ptr(), libc::O_RDWR));
        let m = Map::new(8 * PAGE, RW, PRIVATE, fd, 0);
        must!(close(fd));
        prng_fill(23, m.pages(0, 4).bytes_mut());
        v.keep("range", move || m.shapes().iter().map(|s| s[..30].to_owned()).collect::<Vec<_>>());
        v.wait();
        v.eq("first byte that differs", None, prng_differs(23, m.pages(0, 4).bytes()));
        v.check("the rest is zero", m.pages(4, 4).bytes().iter().all(|b| *b == 0));
    }),
    victim("cow-in-tree", |v| {
        // Inherited pages: each process has its own from the moment it writes.
        let m = Map::anonymous(256 * PAGE);
        prng_fill(24, m.bytes_mut());
        for i in 1..=3u8 {
            v.spawn(move |child| {
                m.put(usize::from(i) * PAGE, i);
                child.wait();
                let mut expected = vec![0u8; m.len];
                prng_fill(24, &mut expected);
                expected[usize::from(i) * PAGE] = i;
                child.check("the child's contents", expected == m.bytes());
            });
        }
        v.wait();
        v.eq("first byte of the parent that differs", None, prng_differs(24, m.bytes()));
    }),
    victim("cow-stays", |v| {
        // A program that runs on after a checkpoint has no more memory than before: what its processes share they go on sharing.
        let m = Map::anonymous(256 * PAGE);
        prng_fill(25, m.bytes_mut());
        v.spawn(move |child| {
            child.wait();
            child.eq("first byte of the child that differs", None, prng_differs(25, m.bytes()));
        });
        v.need("the pages are shared after the fork", own_pages(m) == Some(0));
        let born = || proc::stat(std::process::id(), 22);
        let before = born();
        v.wait();
        if born() == before {
            v.eq("pages that the parent has for itself now", Some(0), own_pages(m));
        }
        v.eq("first byte of the parent that differs", None, prng_differs(25, m.bytes()));
    }),
];

/// How many pages this process alone has: `PM_MMAP_EXCLUSIVE` of pagemap.
fn own_pages(m: Map) -> Option<usize> {
    use std::os::unix::fs::FileExt as _;
    let mut entries = vec![0u8; m.len / PAGE * 8];
    let file = std::fs::File::open("/proc/self/pagemap").ok()?;
    file.read_exact_at(&mut entries, (m.at / PAGE * 8) as u64).ok()?;
    Some(entries.chunks(8).filter(|e| e[7] & 1 != 0).count())
}

fn expect(pages: usize) -> Vec<u8> {
    let mut b = vec![0u8; pages * PAGE];
    prng_fill(20, &mut b);
    b
}

fn file(v: &Ctx, name: &str, pages: usize) -> std::ffi::CString {
    std::fs::write(v.path(name), expect(pages)).unwrap();
    c(&v.path(name))
}

/// A file of known contents, mapped, and closed again.
fn mapped(v: &Ctx, name: &str, pages: usize, prot: i32, flags: i32) -> (Map, String) {
    let path = file(v, name, pages);
    let mode = if prot & libc::PROT_WRITE != 0 { libc::O_RDWR } else { libc::O_RDONLY };
    let fd = must!(open(path.as_ptr(), mode));
    let m = Map::new(pages * PAGE, prot, flags, fd, 0);
    must!(close(fd));
    (m, v.path(name))
}

fn deleted(v: &mut Ctx, flags: i32) {
    let (m, path) = mapped(v, "file", 8, RW, flags);
    m.put(7, 0x5a);
    std::fs::remove_file(&path).unwrap();
    v.need("maps says deleted", proc::vma_at(m.at).is_some_and(|x| x.name.ends_with(" (deleted)")));
    v.wait();
    let mut expected = expect(8);
    expected[7] = 0x5a;
    v.check("the contents", expected == m.bytes());
    v.check("nobody gave the file a name again", !std::path::Path::new(&path).exists());
    v.check("maps says deleted", proc::vma_at(m.at).is_some_and(|x| x.name.ends_with(" (deleted)")));
}

/// Parent and child share `m`: each sees what the other writes, before and after.
fn shared_in_tree(v: &mut Ctx, m: Map) {
    m.put(0, 1);
    v.spawn(move |child| {
        m.put(PAGE, 2);
        child.wait();
        child.eq("written by the parent before", 1, m.get(0));
        child.eventually("what the parent writes now arrives", 5000, || m.get(2 * PAGE) == 3);
        m.put(3 * PAGE, 4);
    });
    v.keep("VMA", move || m.shapes().iter().map(|s| s.split(" (").next().unwrap_or("").to_owned()).collect::<Vec<_>>());
    v.wait();
    v.eq("written by the child before", 2, m.get(PAGE));
    m.put(2 * PAGE, 3);
    v.eventually("what the child writes now arrives", 5000, || m.get(3 * PAGE) == 4);
    v.check("the rest is zero", m.pages(4, 4).bytes().iter().all(|b| *b == 0));
}
