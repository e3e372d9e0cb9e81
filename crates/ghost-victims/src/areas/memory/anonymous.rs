//! Anonymous memory: filled, empty, sparse, guarded, in many pieces, growing.
use super::{Map, PAGE, PRIVATE, RW, readable, writable};
use crate::sys::{prng_differs, prng_fill};
use crate::{Flag, Victim, call, flagged, must, proc, raw, victim};

const NORESERVE: i32 = libc::MAP_NORESERVE;

pub(super) const VICTIMS: &[Victim] = &[
    victim("private", |v| {
        let m = Map::anonymous(64 * PAGE);
        prng_fill(1, m.bytes_mut());
        v.keep("VMA", move || m.shapes());
        v.wait();
        v.eq("first byte that differs", None, prng_differs(1, m.bytes()));
    }),
    flagged("filled-64m", &[Flag::Seconds(90)], |v| {
        let m = Map::anonymous(64 << 20);
        prng_fill(64, m.bytes_mut());
        v.wait();
        v.eq("first byte that differs", None, prng_differs(64, m.bytes()));
    }),
    victim("untouched", |v| {
        let m = Map::anonymous(256 << 20);
        v.keep("VMA", move || m.shapes());
        v.wait();
        v.eq("resident kB of what was never touched", 0, proc::vma_at(m.at).map_or(99, |x| x.kb("Rss")));
        v.check("it reads as zero", (0..m.len).step_by(1 << 20).all(|o| m.get(o) == 0));
    }),
    victim("partly-touched", |v| {
        let m = Map::anonymous(4096 * PAGE);
        for page in (0..4096).filter(|p| p % 7 == 3) {
            m.put(page * PAGE + page % PAGE, page as u8 | 1);
        }
        let resident = move || proc::vma_at(m.at).map_or(0, |x| x.kb("Rss"));
        let before = resident();
        v.wait();
        v.within("resident kB", before, before + 64, resident());
        let wrong = (0..4096usize).find(|&p| m.get(p * PAGE + p % PAGE) != if p % 7 == 3 { p as u8 | 1 } else { 0 });
        v.eq("first page that differs", None, wrong);
    }),
    flagged("patchwork", &[Flag::Seconds(90)], |v| {
        // Runs of data, of zeroes that were written, and of nothing, in mappings large and small that touch each other.
        let m = Map::anonymous(12_288 * PAGE);
        let class = |p: usize| match p % 611 {
            0..97 => 0,
            97..151 => 1,
            r if r % 5 == 0 => 0,
            _ => 2,
        };
        for p in (0..12_288).filter(|p| class(*p) > 0) {
            m.put(p * PAGE, 0);
            if class(p) == 2 {
                prng_fill(p as u64, &mut m.pages(p, 1).bytes_mut()[8..]);
            }
        }
        m.pages(3000, 7).protect(libc::PROT_READ);
        m.pages(5000, 2000).protect(libc::PROT_READ);
        m.pages(9000, 1000).protect(libc::PROT_NONE);
        v.keep("VMAs", move || m.shapes());
        v.wait();
        m.protect(RW);
        let is = |p: usize| {
            let page = m.pages(p, 1);
            let zero = page.bytes()[..8] == [0; 8];
            let rest = &page.bytes()[8..];
            zero && if class(p) == 2 { prng_differs(p as u64, rest).is_none() } else { rest.iter().all(|b| *b == 0) }
        };
        v.eq("first page that differs", None, (0..12_288).find(|p| !is(*p)));
    }),
    victim("zero-pages", |v| {
        // Read but never written: the kernel's one page of zeroes. And written with zeroes: pages of its own.
        let m = Map::anonymous(512 * PAGE);
        let sum: u32 = (0..256).map(|p| u32::from(m.get(p * PAGE))).sum();
        for page in 256..512 {
            m.put(page * PAGE, 0);
        }
        v.need("all zero", sum == 0);
        v.wait();
        v.check("all zero", m.bytes().iter().all(|b| *b == 0));
        m.put(5, 1);
        v.check("written pages are apart", m.get(5) == 1 && m.get(PAGE + 5) == 0);
    }),
    victim("none", |v| {
        let m = Map::anonymous(16 * PAGE);
        prng_fill(2, m.bytes_mut());
        m.pages(4, 8).protect(libc::PROT_NONE);
        v.keep("VMAs", move || m.shapes());
        v.wait();
        v.check("a page of PROT_NONE cannot be read", !readable(m.at + 5 * PAGE));
        m.protect(RW);
        v.eq("first byte that differs", None, prng_differs(2, m.bytes()));
    }),
    victim("protections", |v| {
        let m = Map::anonymous(64 * PAGE);
        prng_fill(3, m.bytes_mut());
        let rights = [libc::PROT_READ, RW, libc::PROT_NONE, libc::PROT_READ | libc::PROT_EXEC];
        for p in 0..64 {
            m.pages(p, 1).protect(rights[p % 4]);
        }
        v.keep("VMAs", move || m.shapes());
        v.wait();
        for p in 0..8 {
            v.eq(&format!("page {p} is readable"), p % 4 != 2, readable(m.at + p * PAGE));
            v.eq(&format!("page {p} is writable"), p % 4 == 1, p % 4 == 1 && writable(m.at + p * PAGE));
            v.check("a read-only page is not writable", p % 4 != 0 || !writable(m.at + p * PAGE));
        }
        m.protect(RW);
        // The kernel wrote one zero into each writable page that was tried.
        let mut expected = vec![0u8; m.len];
        prng_fill(3, &mut expected);
        for p in (1..8).step_by(4) {
            expected[p * PAGE] = 0;
        }
        v.check("the contents", expected == m.bytes());
    }),
    flagged("many-vmas", &[Flag::Seconds(120)], |v| {
        const N: usize = 4000;
        let m = Map::anonymous(2 * N * PAGE);
        for i in 0..N {
            m.put(2 * i * PAGE, (i % 251) as u8);
            m.pages(2 * i + 1, 1).protect(libc::PROT_READ);
        }
        v.need("they are apart", m.shapes().len() == 2 * N);
        v.keep("VMAs", move || m.shapes());
        v.wait();
        let wrong = (0..N).find(|i| m.get(2 * i * PAGE) != (i % 251) as u8);
        v.eq("first page that differs", None, wrong);
    }),
    flagged("most-mappings", &[Flag::Seconds(120)], |v| {
        // As many as a process can have that is to be rebuilt.
        let Some(m) = all_mappings_but(2) else { v.skip("vm.max_map_count is too high to be used up") };
        v.keep("how many there are", mappings);
        v.wait();
        v.check("every other page is read-only", (1..2000).step_by(2).all(|i| !writable(m.at + i * PAGE)));
        v.check("the others are as they were", m.numbered());
    }),
    victim("sparse-tib", |v| {
        let size = 2usize << 40;
        let m = Map::new(size, RW, PRIVATE | NORESERVE, -1, 0);
        let places: Vec<usize> = (0..40).map(|i| (i * (size / 40) + i * 12345) & !7).collect();
        for p in &places {
            m.put(*p, (*p >> 12) as u8 | 1);
        }
        v.keep("VMA", move || m.shapes());
        v.wait();
        v.check("what was written", places.iter().all(|p| m.get(*p) == (*p >> 12) as u8 | 1));
        v.within("resident kB", 160, 40 * 2048 + 400, proc::vma_at(m.at).map_or(0, |x| x.kb("Rss")));
        v.eq("a place never touched", 0, m.get(size / 80 + 4096 * 77));
    }),
    victim("reservation-none", |v| {
        let m = Map::new(8 << 40, libc::PROT_NONE, PRIVATE | NORESERVE, -1, 0);
        m.pages(1000, 4).protect(RW);
        m.put(1000 * PAGE, 9);
        v.keep("VMAs", move || m.shapes());
        v.wait();
        v.eq("the byte in the middle", 9, m.get(1000 * PAGE));
        m.pages(5_000_000, 2).protect(RW);
        m.put(5_000_000 * PAGE, 1);
        v.check("the reservation can still be used", m.get(5_000_000 * PAGE) == 1);
    }),
    victim("dontneed", |v| {
        // What is given back is zero afterwards, also after a restart: it is anonymous memory, not a file's.
        let m = Map::anonymous(16 * PAGE);
        prng_fill(4, m.bytes_mut());
        m.pages(2, 2).advise(libc::MADV_DONTNEED).unwrap();
        v.wait();
        v.check("given back before: zero", m.pages(2, 2).bytes().iter().all(|b| *b == 0));
        m.pages(8, 4).advise(libc::MADV_DONTNEED).unwrap();
        v.check("given back after: zero", m.pages(8, 4).bytes().iter().all(|b| *b == 0));
        let mut expected = vec![0u8; m.len];
        prng_fill(4, &mut expected);
        v.check("the rest is as it was", expected[12 * PAGE..] == m.bytes()[12 * PAGE..]);
    }),
    victim("brk", |v| {
        let begin = call!(sbrk(0)) as usize;
        must!(sbrk(10 * PAGE as isize));
        let m = Map { at: begin.next_multiple_of(PAGE), len: 8 * PAGE };
        prng_fill(5, m.bytes_mut());
        let end = call!(sbrk(0)) as usize;
        v.wait();
        v.eq("the break", end, call!(sbrk(0)) as usize);
        v.eq("first byte that differs", None, prng_differs(5, m.bytes()));
        must!(sbrk(100 * PAGE as isize));
        let more = Map { at: end.next_multiple_of(PAGE), len: 90 * PAGE };
        v.check("the break grew, into zeroes", more.bytes().iter().all(|b| *b == 0));
        v.check("[heap] is its name", proc::vma_at(m.at).is_some_and(|x| x.name == "[heap]" && x.end >= more.end()));
    }),
    victim("stack-growth", |v| {
        #[inline(never)]
        fn deep(n: usize) -> usize {
            let room = std::hint::black_box([n as u8; 4096]);
            if n == 0 { usize::from(room[0]) } else { deep(n - 1) + usize::from(room[17] == n as u8) }
        }
        let size = || proc::smaps().iter().find(|m| m.name == "[stack]").map_or(0, |m| m.end - m.start);
        v.keep("the stack's end", || {
            proc::smaps().iter().find(|m| m.name == "[stack]").map(|m| (m.end, m.perms.clone()))
        });
        let before = size();
        v.wait();
        v.eq("frames of a deep call", 1000, deep(1000));
        v.check("the stack grew", before > 0 && size() >= 4_000_000);
    }),
    victim("growsdown", |v| {
        let room = Map::new(64 * PAGE, libc::PROT_NONE, PRIVATE | NORESERVE, -1, 0);
        must!(munmap(room.at as *mut libc::c_void, room.len));
        let m = Map::fixed(room.at + 60 * PAGE, 2 * PAGE, RW, PRIVATE | libc::MAP_GROWSDOWN | libc::MAP_FIXED, -1, 0);
        m.put(0, 77);
        v.keep("VMA", move || m.shapes());
        v.need("VmFlags hold gd", proc::vma_at(m.at).is_some_and(|x| x.has("gd")));
        v.wait();
        v.eq("its byte", 77, m.get(0));
        let below = Map { at: m.at - PAGE, len: PAGE };
        below.put(100, 5);
        v.eq("the byte that made it grow", 5, below.get(100));
    }),
    victim("low-address", |v| {
        let at = 0x10000;
        let flags = PRIVATE | libc::MAP_FIXED_NOREPLACE;
        if raw!(libc::SYS_mmap, at, 4 * PAGE, RW, flags, -1, 0) != Ok(at as i64) {
            v.skip("0x10000 cannot be mapped here");
        }
        let m = Map { at, len: 4 * PAGE };
        prng_fill(6, m.bytes_mut());
        v.keep("VMA", move || m.shapes());
        v.wait();
        v.eq("first byte that differs", None, prng_differs(6, m.bytes()));
    }),
    victim("high-address", |v| {
        let at = 0x7fff_0000_0000usize - (64 << 20);
        let flags = PRIVATE | libc::MAP_FIXED_NOREPLACE;
        if raw!(libc::SYS_mmap, at, 4 * PAGE, RW, flags, -1, 0) != Ok(at as i64) {
            v.skip("that address is in use");
        }
        let m = Map { at, len: 4 * PAGE };
        prng_fill(7, m.bytes_mut());
        v.wait();
        v.eq("first byte that differs", None, prng_differs(7, m.bytes()));
    }),
    victim("adjacent", |v| {
        // Two mappings made apart that the kernel has joined or not; the list must be the same.
        let m = Map::anonymous(10 * PAGE);
        must!(munmap((m.at + 4 * PAGE) as *mut libc::c_void, 2 * PAGE));
        Map::fixed(m.at + 4 * PAGE, PAGE, RW, PRIVATE | libc::MAP_FIXED, -1, 0);
        m.put(0, 1);
        m.put(4 * PAGE, 2);
        v.keep("VMAs", move || m.shapes());
        v.wait();
        v.check("the hole is still a hole", !readable(m.at + 5 * PAGE));
        v.eq("bytes", (1, 2), (m.get(0), m.get(4 * PAGE)));
    }),
    victim("moved", |v| {
        // mremap'ed: its offset (vm_pgoff) tells where it was born.
        let m = Map::anonymous(4 * PAGE);
        prng_fill(8, m.bytes_mut());
        let to = Map::new(16 * PAGE, libc::PROT_NONE, PRIVATE, -1, 0);
        let moved = must!(mremap(
            m.at as *mut libc::c_void,
            m.len,
            m.len,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            to.at + 8 * PAGE
        ));
        let m = Map { at: moved as usize, len: m.len };
        v.keep("VMA", move || m.shapes());
        v.wait();
        v.eq("first byte that differs", None, prng_differs(8, m.bytes()));
        let grown = call!(mremap(m.at as *mut libc::c_void, m.len, 64 * PAGE, libc::MREMAP_MAYMOVE));
        v.check("it can grow", grown != libc::MAP_FAILED);
    }),
    victim("changing", |v| {
        // Written all the time: all of one page is of one round.
        let m = Map::anonymous(64 * PAGE);
        let mut round = 0u64;
        v.wait_with(|| {
            round += 1;
            for p in 0..64 {
                m.put(p * PAGE, (round + p as u64) as u8);
                m.put(p * PAGE + PAGE - 1, (round + p as u64) as u8);
            }
        });
        let wrong = (0..64).find(|p| {
            let want = (round + *p as u64) as u8;
            m.get(p * PAGE) != want || m.get(p * PAGE + PAGE - 1) != want
        });
        v.eq("first page that is not of the last round", None, wrong);
    }),
];

/// How many mappings this process has, as the kernel counts them. Takes no memory, which might be a mapping more.
pub(crate) fn mappings() -> usize {
    let file = must!(open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY));
    let (mut lines, mut room) = (0, [0u8; 8192]);
    loop {
        let len = must!(read(file, room.as_mut_ptr().cast(), room.len())) as usize;
        let text = &room[..len];
        lines += text.iter().filter(|b| **b == b'\n').count();
        lines -= usize::from(text.ends_with(b"[vsyscall]\n"));
        if len == 0 {
            must!(close(file));
            return lines;
        }
    }
}

/// Divides memory until only `left` of `vm.max_map_count` are left; even pages of it hold their number, odd ones are read-only.
pub(crate) fn all_mappings_but(left: usize) -> Option<Map> {
    let limit: usize = proc::read("/proc/sys/vm/max_map_count").trim().parse().ok()?;
    let goal = limit.checked_sub(left).filter(|goal| *goal < 100_000)?;
    let m = Map::anonymous((goal - mappings()) / 2 * 2 * PAGE);
    for i in (0..m.len / PAGE).step_by(2) {
        m.put(i * PAGE, (i % 251) as u8);
        m.pages(i + 1, 1).protect(libc::PROT_READ);
    }
    for i in mappings()..goal {
        // Of changing protection, so that no two become one.
        Map::new(PAGE, if i % 2 == 0 { libc::PROT_EXEC } else { libc::PROT_READ | libc::PROT_EXEC }, PRIVATE, -1, 0);
    }
    Some(m)
}
