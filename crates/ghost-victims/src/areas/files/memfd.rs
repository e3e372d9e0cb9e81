//! memfd: contents, seals, mappings, and files reopened.
use crate::Victim;
use crate::kit::fd::{self, Facts};
use crate::kit::outside::outsider;
use crate::kit::{fails, mem, pattern, row, run, same, same_bytes, truth};

/// memfd_create(2).
fn memfd(name: &str, flags: u32) -> Result<i32, crate::kit::Errno> {
    let name = crate::sys::c(name);
    fd::raw("memfd_create", libc::SYS_memfd_create, [name.as_ptr() as i64, flags.into(), 0, 0, 0, 0]).map(|f| f as i32)
}

const SEALS: i32 = 1034; // F_GET_SEALS
const ADD_SEALS: i32 = 1033;

pub(super) const VICTIMS: &[Victim] = &[
    // ---- memfd ----------------------------------------------------------------------------------------------
    row!("memfd-sealed-and-outside", |s| {
        // Somebody else has it too, but nobody can write it any more: a copy is as good.
        let f = memfd("sealed", libc::MFD_ALLOW_SEALING)?;
        fd::write_full(f, b"for all time")?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
        fd::fcntl(f, libc::F_ADD_SEALS, seals.into())?;
        let m = mem::map(4096, libc::PROT_READ, libc::MAP_SHARED, f, 0)?;
        outsider(s, || Ok(()))?;
        s.wait();
        same("seals", i64::from(seals), fd::fcntl(f, libc::F_GET_SEALS, 0)?)?;
        same_bytes("read", b"for all time", &fd::pread(f, 12, 0)?)?;
        same_bytes("mapped", b"for all time", &m.get(0, 12))?;
    }),
    row!("memfd", |s| {
        let f = memfd("a name with spaces", libc::MFD_CLOEXEC)?;
        fd::write_full(f, &pattern(30, 100_000))?;
        fd::lseek(f, 99_000, libc::SEEK_SET)?;
        let facts = Facts::of(f)?.nameless();
        let name = fd::link_of(f)?;
        s.wait();
        facts.still("memfd", f)?;
        same("its link", name, fd::link_of(f)?)?;
        same_bytes("rest", &pattern(30, 100_000)[99_000..], &fd::read(f, 5000)?)?;
        same("seals", libc::F_SEAL_SEAL.into(), fd::fcntl(f, SEALS, 0)?)?;
        fails("sealing one that was made without", libc::EPERM, fd::fcntl(f, ADD_SEALS, libc::F_SEAL_GROW.into()))?;
    }),
    row!("memfd-seals", |s| {
        let f = memfd("sealed", libc::MFD_ALLOW_SEALING)?;
        fd::write_full(f, b"never again")?;
        let all = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
        fd::fcntl(f, ADD_SEALS, all.into())?;
        let open = memfd("open", libc::MFD_ALLOW_SEALING)?;
        fd::ftruncate(open, 4096)?;
        fd::fcntl(open, ADD_SEALS, libc::F_SEAL_SHRINK.into())?;
        s.wait();
        same("seals", i64::from(all), fd::fcntl(f, SEALS, 0)?)?;
        fails("writing", libc::EPERM, fd::pwrite(f, b"x", 0))?;
        fails("shrinking", libc::EPERM, fd::ftruncate(f, 1))?;
        fails("growing", libc::EPERM, fd::ftruncate(f, 1 << 20))?;
        same_bytes("content", b"never again", &fd::pread(f, 100, 0)?)?;
        same("seals of the other", libc::F_SEAL_SHRINK.into(), fd::fcntl(open, SEALS, 0)?)?;
        fd::fcntl(open, ADD_SEALS, (libc::F_SEAL_GROW | libc::F_SEAL_SEAL).into())?;
        fails("a seal after the seal", libc::EPERM, fd::fcntl(open, ADD_SEALS, libc::F_SEAL_WRITE.into()))?;
    }),
    row!("memfd-future-write-seal", |s| {
        const F_SEAL_FUTURE_WRITE: i32 = 0x10;
        let f = memfd("mapped before", libc::MFD_ALLOW_SEALING)?;
        fd::ftruncate(f, 8192)?;
        let m = mem::map(8192, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, f, 0)?;
        m.put(0, b"early");
        fd::fcntl(f, ADD_SEALS, F_SEAL_FUTURE_WRITE.into())?;
        s.wait();
        same("seals", i64::from(F_SEAL_FUTURE_WRITE), fd::fcntl(f, SEALS, 0)?)?;
        m.put(5, b", late");
        same_bytes("through the old mapping", b"early, late", &fd::pread(f, 11, 0)?)?;
        fails("writing", libc::EPERM, fd::pwrite(f, b"x", 0))?;
        let new = mem::map(8192, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, f, 0);
        fails("a new writable mapping", libc::EPERM, new)?;
    }),
    row!("memfd-exec", |s| {
        const MFD_NOEXEC_SEAL: u32 = 8;
        const MFD_EXEC: u32 = 0x10;
        let Ok(no) = memfd("noexec", MFD_NOEXEC_SEAL) else { s.skip("no MFD_NOEXEC_SEAL") };
        let yes = memfd("exec", MFD_EXEC)?;
        let facts = [Facts::of(no)?.nameless(), Facts::of(yes)?.nameless()];
        let seals = [fd::fcntl(no, SEALS, 0)?, fd::fcntl(yes, SEALS, 0)?];
        s.wait();
        facts[0].still("memfd that may not be run", no)?;
        facts[1].still("memfd that may be run", yes)?;
        same("seals", seals, [fd::fcntl(no, SEALS, 0)?, fd::fcntl(yes, SEALS, 0)?])?;
        truth("no execute permission can come", crate::call!(fchmod(no, 0o777)) == -1)?;
    }),
    row!("memfd-reopened", |s| {
        // A second description of the same inode, for reading only, and a third for appending.
        let f = memfd("reopened", 0)?;
        fd::write_full(f, b"0123456789")?;
        let r = fd::open(format!("/proc/self/fd/{f}"), libc::O_RDONLY)?;
        let w = fd::open(format!("/proc/self/fd/{f}"), libc::O_WRONLY | libc::O_APPEND)?;
        fd::lseek(r, 5, libc::SEEK_SET)?;
        s.wait();
        same("one inode", [fd::inode(f)?; 2], [fd::inode(r)?, fd::inode(w)?])?;
        same("descriptions", (false, false), (fd::shared(f, r)?, fd::shared(f, w)?))?;
        fd::write_full(w, b"appended")?;
        same_bytes("read through the second", b"56789appended", &fd::read(r, 100)?)?;
        fails("writing through the second", libc::EBADF, fd::write(r, b"x"))?;
    }),
    row!("memfd-shared-mapping", |s| {
        let f = memfd("two processes", 0)?;
        fd::ftruncate(f, 3 << 20)?;
        let m = mem::map(3 << 20, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, f, 0)?;
        m.put(2 << 20, &pattern(31, 5000));
        s.spawn(|c| {
            run(c, |c| {
                fd::close(f)?;
                c.wait();
                same_bytes("content in the child", &pattern(31, 5000), &m.get(2 << 20, 5000))?;
                m.word(0).store(77, std::sync::atomic::Ordering::SeqCst);
                Ok(())
            });
        });
        s.wait();
        s.join();
        same("the child's word by read", 77u64.to_ne_bytes().to_vec(), fd::pread(f, 8, 0)?)?;
        same("size", 3 << 20, fd::stat(f)?.st_size)?;
    }),
    row!("memfd-sparse", |s| {
        let f = memfd("sparse", 0)?;
        fd::ftruncate(f, 1 << 40)?;
        fd::pwrite(f, b"far", 700 << 30)?;
        let blocks = fd::stat(f)?.st_blocks;
        s.wait();
        same("size", 1 << 40, fd::stat(f)?.st_size)?;
        same("blocks", blocks, fd::stat(f)?.st_blocks)?;
        same_bytes("data", b"\0far\0", &fd::pread(f, 5, (700 << 30) - 1)?)?;
    }),
];
