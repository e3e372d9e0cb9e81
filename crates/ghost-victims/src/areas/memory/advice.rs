//! What a program told the kernel of its memory: madvise, mlock, names, guards, seals, protection keys, huge pages.
use super::{Map, PAGE, PRIVATE, RW, readable};
use crate::sys::{prng_differs, prng_fill};
use crate::{Ctx, Victim, call, must, proc, raw, victim};

pub(super) const VICTIMS: &[Victim] = &[
    victim("dontfork", |v| {
        advised(v, libc::MADV_DONTFORK, "dc", |v, m| {
            v.eq("a child can read it", false, in_child(move || readable(m.at)));
        })
    }),
    victim("wipeonfork", |v| {
        advised(v, libc::MADV_WIPEONFORK, "wf", |v, m| {
            v.eq("a child finds it wiped", true, in_child(move || m.bytes().iter().all(|b| *b == 0)));
        })
    }),
    victim("dontdump", |v| advised(v, libc::MADV_DONTDUMP, "dd", |_, _| {})),
    victim("hugepage", |v| advised(v, libc::MADV_HUGEPAGE, "hg", |_, _| {})),
    victim("nohugepage", |v| advised(v, libc::MADV_NOHUGEPAGE, "nh", |_, _| {})),
    victim("mergeable", |v| advised(v, libc::MADV_MERGEABLE, "mg", |_, _| {})),
    victim("sequential", |v| advised(v, libc::MADV_SEQUENTIAL, "sr", |_, _| {})),
    victim("random", |v| advised(v, libc::MADV_RANDOM, "rr", |_, _| {})),
    victim("madv-free", |v| {
        // The kernel may take the pages at any time; until then they hold what they held. Written again, they stay.
        let m = Map::anonymous(16 * PAGE);
        prng_fill(11, m.bytes_mut());
        m.pages(0, 8).advise(libc::MADV_FREE).unwrap();
        m.put(0, 200);
        v.wait();
        let mut expected = vec![0u8; m.len];
        prng_fill(11, &mut expected);
        v.eq("the page written again", 200, m.get(0));
        v.check("the pages not given", expected[8 * PAGE..] == m.bytes()[8 * PAGE..]);
        let odd = (1..8).find(|p| {
            let page = &m.bytes()[p * PAGE..(p + 1) * PAGE];
            page.iter().any(|b| *b != 0) && page != &expected[p * PAGE..(p + 1) * PAGE]
        });
        v.eq("a given page that is neither as before nor zero", None, odd);
    }),
    victim("cold", |v| {
        let m = Map::anonymous(16 * PAGE);
        prng_fill(12, m.bytes_mut());
        m.pages(0, 8).advise(libc::MADV_COLD).unwrap();
        m.pages(8, 8).advise(libc::MADV_PAGEOUT).unwrap();
        v.wait();
        v.eq("first byte that differs", None, prng_differs(12, m.bytes()));
    }),
    victim("mlock", |v| {
        let m = Map::anonymous(16 * PAGE);
        m.put(0, 1);
        if call!(mlock((m.at + 4 * PAGE) as *const libc::c_void, 8 * PAGE)) == -1 {
            v.skip("RLIMIT_MEMLOCK is too low");
        }
        v.keep("VMAs", move || m.shapes());
        v.keep("VmLck", || proc::status("VmLck"));
        v.need("VmFlags hold lo", proc::vma_at(m.at + 4 * PAGE).is_some_and(|x| x.has("lo")));
        v.wait();
        v.check("locked pages are present", (4..12).all(|p| m.present(p)));
    }),
    victim("mlock-onfault", |v| {
        let m = Map::anonymous(16 * PAGE);
        if raw!(libc::SYS_mlock2, m.at, m.len, libc::MLOCK_ONFAULT).is_err() {
            v.skip("mlock2 is not allowed here");
        }
        m.put(3 * PAGE, 1);
        v.keep("VMA", move || m.shapes());
        v.keep("locked kB", move || proc::vma_at(m.at).map(|x| x.kb("Locked")));
        v.wait();
        v.check("pages never touched are not present", !m.present(9));
    }),
    victim("mlockall", |v| {
        if call!(mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT)) == -1 {
            v.skip("mlockall is not allowed here");
        }
        v.wait();
        let m = Map::anonymous(4 * PAGE);
        v.check("a mapping made afterwards is locked, too", proc::vma_at(m.at).is_some_and(|x| x.has("lo")));
        v.check("the stack is locked", proc::smaps().iter().any(|x| x.name == "[stack]" && x.has("lo")));
    }),
    victim("names", |v| {
        let m = Map::anonymous(8 * PAGE);
        m.put(0, 1);
        for (p, name) in [(0, c"first name"), (4, c"another: name!")] {
            let r =
                call!(prctl(libc::PR_SET_VMA, libc::PR_SET_VMA_ANON_NAME, m.at + p * PAGE, 2 * PAGE, name.as_ptr()));
            if r == -1 {
                v.skip("the kernel keeps no names of anonymous memory");
            }
        }
        v.keep("VMAs", move || m.shapes());
        v.wait();
        v.eq("name in maps", Some("[anon:another: name!]".to_owned()), proc::vma_at(m.at + 4 * PAGE).map(|x| x.name));
    }),
    victim("guard", |v| {
        const MADV_GUARD_INSTALL: i32 = 102;
        const MADV_GUARD_REMOVE: i32 = 103;
        let m = Map::anonymous(16 * PAGE);
        prng_fill(13, m.bytes_mut());
        if m.pages(4, 3).advise(MADV_GUARD_INSTALL).is_err() {
            v.skip("guard regions need Linux 6.13");
        }
        v.keep("VMA", move || m.shapes());
        v.wait();
        let states: Vec<bool> = (2..9).map(|p| readable(m.at + p * PAGE)).collect();
        v.eq("readable pages around the guard", vec![true, true, false, false, false, true, true], states);
        m.pages(4, 3).advise(MADV_GUARD_REMOVE).unwrap();
        v.check("zeroes where the guard was", m.pages(4, 3).bytes().iter().all(|b| *b == 0));
        let mut expected = vec![0u8; m.len];
        prng_fill(13, &mut expected);
        v.check("the rest is as it was", expected[7 * PAGE..] == m.bytes()[7 * PAGE..]);
    }),
    victim("guard-untouched", |v| {
        const MADV_GUARD_INSTALL: i32 = 102;
        let m = Map::anonymous(64 << 20);
        if m.pages(1000, 1).advise(MADV_GUARD_INSTALL).is_err() {
            v.skip("guard regions need Linux 6.13");
        }
        v.wait();
        let states = [999, 1000, 1001].map(|p| readable(m.at + p * PAGE));
        v.eq("readable pages around the guard", [true, false, true], states);
    }),
    victim("seal", |v| {
        const SYS_MSEAL: i64 = 462;
        let m = Map::anonymous(4 * PAGE);
        prng_fill(14, m.bytes_mut());
        m.protect(libc::PROT_READ);
        if raw!(SYS_MSEAL, m.at, m.len, 0).is_err() {
            v.skip("mseal needs Linux 6.10");
        }
        v.wait();
        v.eq("first byte that differs", None, prng_differs(14, m.bytes()));
        v.eq("mprotect", Err(libc::EPERM), raw!(libc::SYS_mprotect, m.at, m.len, RW));
        v.eq("munmap", Err(libc::EPERM), raw!(libc::SYS_munmap, m.at, PAGE));
    }),
    victim("droppable", |v| {
        const MAP_DROPPABLE: i32 = 8;
        let flags = MAP_DROPPABLE | libc::MAP_ANONYMOUS;
        let at = raw!(libc::SYS_mmap, 0, 4 * PAGE, RW, flags, -1, 0);
        let Ok(at) = at else { v.skip("MAP_DROPPABLE needs Linux 6.11") };
        let m = Map { at: at as usize, len: 4 * PAGE };
        prng_fill(15, m.bytes_mut());
        v.keep("VMA", move || m.shapes());
        v.need("VmFlags hold dp", proc::vma_at(m.at).is_some_and(|x| x.has("dp")));
        v.wait();
        let mut expected = vec![0u8; m.len];
        prng_fill(15, &mut expected);
        let odd = (0..4).find(|p| {
            let page = &m.bytes()[p * PAGE..(p + 1) * PAGE];
            page.iter().any(|b| *b != 0) && page != &expected[p * PAGE..(p + 1) * PAGE]
        });
        v.eq("a page that is neither as before nor zero", None, odd);
    }),
    victim("protection-key", |v| {
        let key = raw!(libc::SYS_pkey_alloc, 0, 0);
        let Ok(key) = key else { v.skip("this CPU has no protection keys") };
        let m = Map::anonymous(4 * PAGE);
        m.put(0, 9);
        raw!(libc::SYS_pkey_mprotect, m.at, m.len, RW, key).unwrap();
        v.keep("ProtectionKey", move || proc::vma_at(m.at).map(|x| x.kb("ProtectionKey")));
        v.wait();
        v.eq("its byte", 9, m.get(0));
        v.check("the key is still ours", raw!(libc::SYS_pkey_alloc, 0, 0).is_ok_and(|k| k != key));
    }),
    victim("huge-pages-kept", |v| {
        let room = Map::anonymous(8 << 20);
        let at = room.at.next_multiple_of(2 << 20);
        let m = Map { at, len: 4 << 20 };
        m.advise(libc::MADV_HUGEPAGE).unwrap();
        prng_fill(16, m.bytes_mut());
        let huge = move || {
            proc::smaps()
                .iter()
                .filter(|x| x.start < m.end() && m.at < x.end)
                .map(|x| x.kb("AnonHugePages"))
                .sum::<u64>()
        };
        if huge() < 4096 {
            v.skip("no huge pages are given here");
        }
        v.wait();
        v.eq("first byte that differs", None, prng_differs(16, m.bytes()));
        v.eq("kB in huge pages", 4096, huge());
    }),
    victim("huge-pages-collapsed", |v| {
        // Huge by a request of the moment, which leaves no flag behind.
        const MADV_COLLAPSE: i32 = 25;
        let room = Map::anonymous(8 << 20);
        let at = room.at.next_multiple_of(2 << 20);
        let m = Map { at, len: 4 << 20 };
        prng_fill(18, m.bytes_mut());
        if let Err(e) = m.advise(MADV_COLLAPSE) {
            v.skip(&format!("MADV_COLLAPSE: {}", crate::sys::strerror(e)));
        }
        let huge = move || {
            let within = |x: &&proc::Vma| x.start < m.end() && m.at < x.end;
            proc::smaps().iter().filter(within).map(|x| x.kb("AnonHugePages")).sum::<u64>()
        };
        v.need("they are huge", huge() == 4096);
        v.keep("VMAs", move || m.shapes());
        v.wait();
        v.eq("first byte that differs", None, prng_differs(18, m.bytes()));
        v.eq("kB in huge pages", 4096, huge());
    }),
    victim("hugetlb", |v| {
        let flags = PRIVATE | libc::MAP_HUGETLB;
        let free = proc::field_of("/proc/meminfo", "HugePages_Free");
        if free == "0" {
            v.skip("no page is in the pool of huge pages");
        }
        let m = Map::new(2 << 20, RW, flags, -1, 0);
        prng_fill(17, m.bytes_mut());
        v.keep("VMA", move || m.shapes());
        v.wait();
        v.eq("first byte that differs", None, prng_differs(17, m.bytes()));
    }),
    victim("mempolicy", |v| {
        const MPOL_PREFERRED: i64 = 1;
        const MPOL_BIND: i64 = 2;
        const MPOL_F_ADDR: i64 = 2;
        let m = Map::anonymous(8 * PAGE);
        let nodes = 1u64;
        if raw!(libc::SYS_mbind, m.at, 4 * PAGE, MPOL_BIND, &raw const nodes, 64, 0).is_err() {
            v.skip("no NUMA policy here");
        }
        raw!(libc::SYS_set_mempolicy, MPOL_PREFERRED, &raw const nodes, 64).unwrap();
        m.put(0, 1);
        let policy = |at: usize, flags: i64| {
            let (mut mode, mut mask) = (0i32, 0u64);
            (raw!(libc::SYS_get_mempolicy, &raw mut mode, &raw mut mask, 64, at, flags), mode, mask)
        };
        v.need("the policy is set", policy(m.at, MPOL_F_ADDR).1 == 2);
        v.keep("policy of the mapping", move || policy(m.at, MPOL_F_ADDR));
        v.keep("policy of the rest", move || policy(m.at + 6 * PAGE, MPOL_F_ADDR));
        v.keep("policy of the thread", move || policy(0, 0));
        v.wait();
    }),
];

/// Gives advice on the middle of a mapping, and verifies its flag and contents.
fn advised(v: &mut Ctx, advice: i32, flag: &'static str, verify: impl FnOnce(&mut Ctx, Map)) {
    let m = Map::anonymous(24 * PAGE);
    prng_fill(10, m.bytes_mut());
    let middle = m.pages(8, 8);
    if let Err(e) = middle.advise(advice) {
        v.skip(&format!("madvise({advice}): {}", crate::sys::strerror(e)));
    }
    v.need(&format!("VmFlags hold {flag}"), proc::vma_at(middle.at).is_some_and(|x| x.has(flag)));
    v.keep("VMAs", move || m.shapes());
    v.wait();
    v.eq("first byte that differs", None, prng_differs(10, m.bytes()));
    verify(v, middle);
}

/// What `f` says in a forked child.
fn in_child(f: impl FnOnce() -> bool) -> bool {
    let child = must!(fork());
    if child == 0 {
        call!(_exit(i32::from(f())));
    }
    let mut status = 0;
    must!(waitpid(child, &mut status, 0));
    status == 1 << 8
}
