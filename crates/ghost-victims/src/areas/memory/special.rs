//! The vDSO, code made at run time, rings of asynchronous I/O, SysV segments.
use super::{Map, PAGE, PRIVATE, RW, readable, writable};
use crate::sys::{c, clock_ns, now_ns};
use crate::{Flag, Victim, call, flagged, must, proc, raw, victim};

pub(super) const VICTIMS: &[Victim] = &[
    victim("vdso", |v| {
        let base = call!(getauxval(libc::AT_SYSINFO_EHDR)) as usize;
        v.need("the auxiliary vector names it", base != 0);
        v.keep("AT_SYSINFO_EHDR", || call!(getauxval(libc::AT_SYSINFO_EHDR)));
        v.keep("name in maps", move || proc::vma_at(base).map(|x| (x.name, x.perms, x.end)));
        let before = now_ns();
        v.wait();
        // SAFETY: the vDSO is readable memory.
        v.eq("it begins as an ELF file", *b"\x7fELF", unsafe { *(base as *const [u8; 4]) });
        let (by_vdso, mut by_call) = (now_ns(), crate::sys::ms(0));
        must!(syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut by_call));
        let by_call = by_call.tv_sec * 1_000_000_000 + by_call.tv_nsec;
        v.check("the clock goes forward", by_vdso >= before);
        v.within("its clock beside the kernel's, in ns", 0, 50_000_000, by_call - by_vdso);
        let wall = clock_ns(libc::CLOCK_REALTIME);
        v.check("the wall clock is of this century", wall > 1_500_000_000_000_000_000);
        // A hundred thousand calls without the vDSO would take 10 ms and more.
        let begin = now_ns();
        for _ in 0..100_000 {
            std::hint::black_box(now_ns());
        }
        v.within("time of 100,000 looks at the clock, in ms", 0, 500, (now_ns() - begin) / 1_000_000);
        v.check("getcpu answers", call!(sched_getcpu()) >= 0);
    }),
    victim("clock-goes-on", |v| {
        // Asked all the time, from the vDSO: never backwards.
        let (mut last, mut backwards) = (now_ns(), 0);
        v.wait_with(|| {
            for _ in 0..100 {
                let now = now_ns();
                backwards += i32::from(now < last);
                last = now;
            }
        });
        v.eq("steps backwards", 0, backwards);
    }),
    victim("code-made-here", |v| {
        let m = Map::new(PAGE, RW, PRIVATE, -1, 0);
        // mov eax, 4242; ret
        m.bytes_mut()[..6].copy_from_slice(&[0xb8, 0x92, 0x10, 0, 0, 0xc3]);
        m.protect(libc::PROT_READ | libc::PROT_EXEC);
        v.keep("VMA", move || m.shapes());
        v.wait();
        // SAFETY: the page holds the routine above.
        let f: extern "C" fn() -> i32 = unsafe { std::mem::transmute(m.at) };
        v.eq("what the code gives", 4242, f());
    }),
    victim("code-writable", |v| {
        let m = Map::new(PAGE, RW | libc::PROT_EXEC, PRIVATE, -1, 0);
        m.bytes_mut()[..6].copy_from_slice(&[0xb8, 0x92, 0x10, 0, 0, 0xc3]);
        v.keep("VMA", move || m.shapes());
        v.wait();
        m.put(1, 0x93);
        // SAFETY: as above.
        let f: extern "C" fn() -> i32 = unsafe { std::mem::transmute(m.at) };
        v.eq("what the changed code gives", 4243, f());
    }),
    victim("text-patched", |v| {
        // A page of the program's own code, changed as a tracer of functions does.
        #[inline(never)]
        extern "C" fn patched() -> i32 {
            std::hint::black_box(1)
        }
        let at = patched as *const () as usize;
        let page = Map { at: at & !(PAGE - 1), len: 2 * PAGE };
        page.protect(RW | libc::PROT_EXEC);
        // SAFETY: the routine is at least as long as the six bytes that replace its beginning (debug or not, it keeps a frame
        // or loads its constant through memory), and the second page still belongs to the text.
        unsafe { std::ptr::copy_nonoverlapping([0xb8u8, 0x92, 0x10, 0, 0, 0xc3].as_ptr(), at as *mut u8, 6) };
        page.protect(libc::PROT_READ | libc::PROT_EXEC);
        let f = std::hint::black_box(patched as extern "C" fn() -> i32);
        v.need("the patch works", f() == 4242);
        v.keep("VMAs", move || page.shapes());
        v.wait();
        v.eq("what the patched routine gives", 4242, f());
    }),
    victim("aio-ring", |v| {
        // Reads that are done, whose events nobody has fetched.
        let path = v.path("data");
        std::fs::write(&path, b"asynchronous").unwrap();
        let p = c(&path);
        let fd = must!(open(p.as_ptr(), libc::O_RDONLY));
        let mut ring = 0u64;
        if let Err(e) = raw!(libc::SYS_io_setup, 8, &raw mut ring) {
            v.skip(&format!("io_setup: {}", crate::sys::strerror(e)));
        }
        let buffers: &'static mut [[u8; 16]; 3] = Box::leak(Box::new([[0; 16]; 3]));
        let mut submit = |i: usize| {
            // struct iocb: data, key and flags, opcode (0 is pread) and fd, buffer, length, offset.
            let block = [100 + i as u64, 0, (fd as u64) << 32, buffers[i].as_mut_ptr() as u64, 12, 0, 0, 0];
            let list = [block.as_ptr()];
            raw!(libc::SYS_io_submit, ring, 1, list.as_ptr())
        };
        v.need("two are submitted", submit(0) == Ok(1) && submit(1) == Ok(1));
        v.wait();
        let mut events = [[0u64; 4]; 8];
        let limit = crate::sys::ms(2000);
        v.eq("events", Ok(2), raw!(libc::SYS_io_getevents, ring, 2, 8, events.as_mut_ptr(), &raw const limit));
        let mut got = [(events[0][0], events[0][2]), (events[1][0], events[1][2])];
        got.sort_unstable();
        v.eq("data and results", [(100, 12), (101, 12)], got);
        v.eq("a third is submitted", Ok(1), submit(2));
        v.eq("its event", Ok(1), raw!(libc::SYS_io_getevents, ring, 1, 8, events.as_mut_ptr(), &raw const limit));
        v.check("the bytes", buffers.iter().all(|b| b.starts_with(b"asynchronous")));
        v.eq("io_destroy", Ok(0), raw!(libc::SYS_io_destroy, ring));
    }),
    victim("aio-ring-round-its-end", |v| {
        // So many requests that the events that wait lie at both ends of the ring.
        let fd = must!(open(c"/dev/null".as_ptr(), libc::O_RDONLY));
        let mut ring = 0u64;
        if let Err(e) = raw!(libc::SYS_io_setup, 8, &raw mut ring) {
            v.skip(&format!("io_setup: {}", crate::sys::strerror(e)));
        }
        // SAFETY: the first words of a ring (kernel fs/aio.c): id, slots, head, tail.
        let place = move || unsafe { std::slice::from_raw_parts(ring as *const u32, 4)[1..].to_vec() };
        let slots = place()[0];
        let submit = move |data: u64| {
            let block = [data, 0, (fd as u64) << 32, block_buffer(), 0, 0, 0, 0];
            let list = [block.as_ptr()];
            raw!(libc::SYS_io_submit, ring, 1, list.as_ptr())
        };
        let fetch = move || {
            let mut event = [0u64; 4];
            raw!(libc::SYS_io_getevents, ring, 1, 1, event.as_mut_ptr(), 0).map(|_| event[0])
        };
        for i in 0..u64::from(slots) - 3 {
            v.need("a request", submit(i) == Ok(1) && fetch() == Ok(i));
        }
        for i in 0..6 {
            v.need("a request whose event waits", submit(1000 + i) == Ok(1));
        }
        v.need("it went round", place()[1] > place()[2]);
        v.keep("slots, head and tail", place);
        v.wait();
        let got: Vec<_> = (0..6).map(|_| fetch()).collect();
        v.eq("events", (0..6).map(|i| Ok(1000 + i)).collect::<Vec<_>>(), got);
        for i in 0..u64::from(slots) * 2 {
            v.need("a request afterwards", submit(i) == Ok(1) && fetch() == Ok(i));
        }
    }),
    victim("sysv-segment", |v| {
        let id = call!(shmget(libc::IPC_PRIVATE, 4 * PAGE, libc::IPC_CREAT | 0o600));
        if id == -1 {
            v.skip("no SysV shared memory here");
        }
        let m = Map { at: must!(shmat(id, std::ptr::null(), 0)) as usize, len: 4 * PAGE };
        // Gone with its last user.
        must!(shmctl(id, libc::IPC_RMID, std::ptr::null_mut()));
        m.put(PAGE, 9);
        v.spawn(move |child| {
            child.wait();
            child.eq("the parent's byte", 9, m.get(PAGE));
            m.put(2 * PAGE, 10);
        });
        v.wait();
        v.join();
        v.eq("the child's byte", 10, m.get(2 * PAGE));
    }),
    victim("sysv-pieces", |v| {
        // Attached twice, once for reading only; cut, protected and locked in parts.
        let id = call!(shmget(libc::IPC_PRIVATE, 8 * PAGE - 100, libc::IPC_CREAT | 0o640));
        if id == -1 {
            v.skip("no SysV shared memory here");
        }
        let m = Map { at: must!(shmat(id, std::ptr::null(), 0)) as usize, len: 8 * PAGE };
        let r = Map { at: must!(shmat(id, std::ptr::null(), libc::SHM_RDONLY)) as usize, len: 8 * PAGE };
        must!(shmctl(id, libc::IPC_RMID, std::ptr::null_mut()));
        for page in 0..8 {
            m.put(page * PAGE, page as u8 + 1);
        }
        must!(munmap((m.at + 2 * PAGE) as *mut libc::c_void, 2 * PAGE));
        m.pages(5, 1).protect(libc::PROT_READ);
        m.pages(6, 1).protect(libc::PROT_NONE);
        call!(mlock(m.at as *const libc::c_void, PAGE));
        v.keep("VMAs", move || m.shapes());
        v.keep("VMAs of the other", move || r.shapes());
        // Of a removed one the id may change, which its mappings tell.
        let id = move || {
            let maps = proc::read("/proc/self/maps");
            let line = maps.lines().find(|l| l.starts_with(&format!("{:x}-", r.at)));
            line.and_then(|l| l.split_whitespace().nth(4)?.parse().ok()).unwrap_or(-1)
        };
        v.keep("segment", move || segment(id()).map(|s| (s.shm_nattch, s.shm_perm.mode, s.shm_segsz)));
        v.wait();
        for page in 0..8 {
            v.eq("a page", page as u8 + 1, r.get(page * PAGE));
        }
        v.check("cut there", !readable(m.at + 2 * PAGE) && !readable(m.at + 3 * PAGE));
        v.check("read only", readable(m.at + 5 * PAGE) && !writable(m.at + 5 * PAGE) && !writable(r.at));
        v.check("neither", !readable(m.at + 6 * PAGE));
        r.protect(libc::PROT_READ);
        v.check("the other can't be made writable", call!(mprotect(r.at as *mut libc::c_void, PAGE, RW)) == -1);
        m.put(7 * PAGE, 77);
        v.eq("seen through the other", 77, r.get(7 * PAGE));
        must!(shmdt(r.at as *const libc::c_void));
        v.check("detached", !readable(r.at));
        must!(shmdt(m.at as *const libc::c_void));
        v.check("detached too", !readable(m.at) && !readable(m.at + 7 * PAGE));
    }),
    flagged("sysv-key", &[Flag::NoDup("both would have one segment")], |v| {
        // As a database has it: found by its key, owned by another user, attached by a child and never removed by itself.
        let key = (std::process::id() as i32) << 12 | (now_ns() as i32 & 0xfff) | 1;
        let id = call!(shmget(key, 3 * PAGE, libc::IPC_CREAT | libc::IPC_EXCL | 0o640));
        if id == -1 {
            v.skip("no SysV shared memory here");
        }
        let m = Map { at: must!(shmat(id, std::ptr::null(), 0)) as usize, len: 3 * PAGE };
        m.put(2 * PAGE, 7);
        let mut s = segment(id).unwrap();
        (s.shm_perm.uid, s.shm_perm.gid, s.shm_perm.mode) = (1234, 4321, 0o604);
        must!(shmctl(id, libc::IPC_SET, &raw mut s));
        v.keep("segment", move || {
            segment(id).map(|s| {
                let p = s.shm_perm;
                (p.uid, p.gid, p.cuid, p.cgid, p.mode, s.shm_segsz, s.shm_cpid)
            })
        });
        v.keep("VMA", move || m.shapes());
        v.keep("what its key finds", move || call!(shmget(key, 0, 0)));
        v.spawn(move |child| {
            child.wait();
            child.eq("the parent's byte", 7, m.get(2 * PAGE));
            m.put(0, 8);
        });
        v.wait();
        v.join();
        v.eq("the child's byte", 8, m.get(0));
        let again = Map { at: must!(shmat(id, std::ptr::null(), 0)) as usize, len: 3 * PAGE };
        v.eq("attached anew", 8, again.get(0));
        must!(shmctl(id, libc::IPC_RMID, std::ptr::null_mut()));
        v.eq("nobody finds it any more", -1, call!(shmget(key, 0, 0)));
    }),
    flagged("secret", &[Flag::Accept("secretmem")], |v| {
        let Some(fd) = secret(v) else { return };
        must!(ftruncate(fd, PAGE as i64));
        let m = Map::new(PAGE, RW, libc::MAP_SHARED, fd, 0);
        m.put(0, 42);
        v.wait();
        v.eq("the secret", 42, m.get(0));
        v.check("still hidden from others", hidden(m.at));
    }),
    flagged("secret-mapped-only", &[Flag::Accept("secretmem")], |v| {
        // As libraries for cryptography have it: no descriptor, pages that are not there, others that may not be touched.
        let Some(fd) = secret(v) else { return };
        const PAGES: usize = 200;
        must!(ftruncate(fd, (PAGES * PAGE) as i64));
        let m = Map::new(PAGES * PAGE, RW, libc::MAP_SHARED, fd, 0);
        let part = Map::new(2 * PAGE, RW, libc::MAP_SHARED, fd, (100 * PAGE) as i64);
        must!(close(fd));
        for page in [1, 2, 70, 100, 150] {
            m.put(page * PAGE + page, page as u8);
        }
        must!(mprotect(m.at as *mut libc::c_void, PAGE, libc::PROT_NONE));
        v.wait();
        for page in 1..PAGES {
            let expected = if [1, 2, 70, 100, 150].contains(&page) { page as u8 } else { 0 };
            v.eq("a byte of it", expected, m.get(page * PAGE + page));
        }
        part.put(5, 99);
        v.eq("what the other mapping has written", 99, m.get(100 * PAGE + 5));
        v.check("still hidden from others", hidden(m.at + PAGE));
    }),
    flagged("secret-open-only", &[Flag::Accept("secretmem")], |v| {
        // Only a descriptor, twice, and a child that has it too.
        let Some(fd) = secret(v) else { return };
        must!(ftruncate(fd, (3 * PAGE) as i64));
        Map::new(PAGE, RW, libc::MAP_SHARED, fd, PAGE as i64).put(7, 77);
        let other = must!(dup(fd));
        v.spawn(move |c| {
            c.wait();
            Map::new(PAGE, RW, libc::MAP_SHARED, other, 0).put(8, 88);
        });
        v.wait();
        v.join();
        let m = Map::new(3 * PAGE, RW, libc::MAP_SHARED, fd, 0);
        v.eq("the secret", 77, m.get(PAGE + 7));
        v.eq("the child's", 88, m.get(8));
    }),
];

/// A new descriptor of hidden memory.
fn secret(v: &crate::Ctx) -> Option<i32> {
    const SYS_MEMFD_SECRET: i64 = 447;
    match raw!(SYS_MEMFD_SECRET, 0) {
        Ok(fd) => Some(fd as i32),
        Err(_) => v.skip("memfd_secret is off here"),
    }
}

/// Whether what lies there can't be read through procfs.
fn hidden(at: usize) -> bool {
    use std::os::unix::fs::FileExt as _;
    let mem = std::fs::File::open("/proc/self/mem").expect("its memory");
    mem.read_exact_at(&mut [0; 1], at as u64).is_err()
}

/// What the kernel says of a segment.
fn segment(id: i32) -> Option<libc::shmid_ds> {
    // SAFETY: a structure of numbers; the call fills it.
    let mut s: libc::shmid_ds = unsafe { std::mem::zeroed() };
    (call!(shmctl(id, libc::IPC_STAT, &raw mut s)) == 0).then_some(s)
}

/// Room that a request of no bytes names and never uses.
fn block_buffer() -> u64 {
    static ROOM: u64 = 0;
    (&raw const ROOM) as u64
}
