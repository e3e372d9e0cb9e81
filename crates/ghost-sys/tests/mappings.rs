//! What the BPF iterator says of mappings is what smaps says, for every sort of mapping that can be made here; and of what it does not know
//! it says nothing.

#![allow(unsafe_code)]

use ghost_sys::bpf::vma::Flags;
use ghost_sys::proc::{self, ProcDir, VmFlags};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};

const PAGE: usize = 4096;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const RX: i32 = libc::PROT_READ | libc::PROT_EXEC;
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

fn map(len: usize, prot: i32, flags: i32, fd: i32) -> Option<usize> {
    // SAFETY: a new mapping at a place of the kernel's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, 0) };
    (at != libc::MAP_FAILED).then_some(at as usize)
}

fn unmap(at: usize, len: usize) {
    // SAFETY: the callers pass what they have mapped and do not use.
    unsafe { libc::munmap(at as *mut libc::c_void, len) };
}

fn memfd() -> File {
    // SAFETY: the name is NUL-terminated; the descriptor is new.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"of the test".as_ptr(), libc::MFD_CLOEXEC)) };
    file.set_len(4 * PAGE as u64).expect("set_len");
    file
}

fn advise(at: usize, advice: i32) -> bool {
    // SAFETY: of the advices used here only some change what is in the memory, which nobody uses.
    unsafe { libc::madvise(at as *mut libc::c_void, PAGE, advice) == 0 }
}

/// Both ways, in a moment in which nothing changes; None where the iterator does not know.
fn both(flags: &Flags) -> (Option<Vec<proc::Smap>>, Vec<proc::Smap>) {
    let dir = ProcDir::own().expect("own directory");
    // SAFETY: takes nothing.
    let tid = unsafe { libc::gettid() };
    for _ in 0..20 {
        let before = proc::read_smaps(&dir).expect("smaps");
        let told = flags.add(tid, proc::read_maps(&dir).expect("maps")).expect("iterator");
        let after = proc::read_smaps(&dir).expect("smaps");
        if before == after {
            // Smaps does not say it.
            let plain =
                |told: Vec<proc::Smap>| told.into_iter().map(|s| proc::Smap { has_policy: None, ..s }).collect();
            return (told.map(plain), after);
        }
    }
    panic!("our mappings never stand still");
}

/// Every protection of every sort, with every pair of advices, locked in both ways.
fn make_what_is_known() -> Vec<(usize, usize)> {
    let mut made = Vec::new();
    let writable = memfd();
    let read_only = File::open(format!("/proc/self/fd/{}", writable.as_raw_fd())).expect("open");
    let own = File::open("/proc/self/exe").expect("exe");
    let sources = [
        (ANONYMOUS, -1),
        (ANONYMOUS | libc::MAP_NORESERVE, -1),
        (ANONYMOUS | libc::MAP_GROWSDOWN, -1),
        (ANONYMOUS | libc::MAP_STACK, -1),
        (ANONYMOUS | libc::MAP_LOCKED, -1),
        (libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
        (libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1),
        (libc::MAP_ANONYMOUS | 8, -1),
        (libc::MAP_SHARED, writable.as_raw_fd()),
        (libc::MAP_PRIVATE, writable.as_raw_fd()),
        (libc::MAP_SHARED, read_only.as_raw_fd()),
        (libc::MAP_PRIVATE, read_only.as_raw_fd()),
        (libc::MAP_PRIVATE, own.as_raw_fd()),
    ];
    let advices = [
        libc::MADV_NORMAL,
        libc::MADV_SEQUENTIAL,
        libc::MADV_RANDOM,
        libc::MADV_DONTFORK,
        libc::MADV_WIPEONFORK,
        libc::MADV_DONTDUMP,
        libc::MADV_HUGEPAGE,
        libc::MADV_NOHUGEPAGE,
        libc::MADV_MERGEABLE,
    ];
    let mut add = |prot, flags, fd| {
        let at = map(PAGE, prot, flags, fd)?;
        made.push((at, PAGE));
        Some(at)
    };
    for (flags, fd) in sources {
        for prot in [libc::PROT_NONE, libc::PROT_READ, RW, RX, RW | libc::PROT_EXEC] {
            let Some(at) = add(prot, flags, fd) else { continue };
            if prot & libc::PROT_WRITE != 0 {
                // SAFETY: just mapped, writable, ours; a file's pages are there.
                unsafe { (at as *mut u8).write_volatile(1) };
            }
            if prot != RW {
                continue;
            }
            for (i, one) in advices.into_iter().enumerate() {
                for &other in &advices[i..] {
                    let Some(at) = add(RW, flags, fd) else { continue };
                    advise(at, one);
                    advise(at, other);
                }
            }
            for how in [0, libc::MLOCK_ONFAULT] {
                let Some(at) = add(RW, flags, fd) else { continue };
                // SAFETY: takes numbers.
                unsafe { libc::syscall(libc::SYS_mlock2, at, PAGE, how) };
            }
            // What was writable once.
            let Some(at) = add(RW, flags, fd) else { continue };
            // SAFETY: nothing refers to what is in it.
            unsafe { libc::mprotect(at as *mut libc::c_void, PAGE, libc::PROT_READ) };
        }
    }
    // SAFETY: a new segment, attached, and gone when it is detached.
    unsafe {
        let id = libc::shmget(libc::IPC_PRIVATE, PAGE, 0o600);
        let at = libc::shmat(id, std::ptr::null(), 0);
        libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut());
        assert_ne!(at as isize, -1);
    }
    made
}

/// Mappings with flags that there are no samples of: name, and what makes it and gives address and length.
type Strange = (&'static str, fn() -> Option<(usize, usize)>);

const STRANGE: [Strange; 8] = [
    ("hugetlb", || {
        let len = 2 << 20;
        map(len, RW, ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_NORESERVE, -1).map(|at| (at, len))
    }),
    ("secret", || {
        // SAFETY: takes numbers; the descriptor is new.
        let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, 0) } as i32;
        if fd < 0 {
            return None;
        }
        // SAFETY: as above.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(PAGE as u64).ok()?;
        page(RW, libc::MAP_SHARED, fd)
    }),
    ("uffd missing", || registered(1)),
    ("uffd write protection", || registered(2)),
    ("packet ring", || {
        let ring = [PAGE as u32, 1, 2048, 2];
        // SAFETY: the descriptor is new, and the option reads 16 bytes of ours.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            let made = fd >= 0 && libc::setsockopt(fd, 263, 5, ring.as_ptr().cast(), 16) == 0;
            made.then(|| page(RW, libc::MAP_SHARED, fd)).flatten()
        }
    }),
    ("pkey", || {
        // SAFETY: takes numbers.
        let key = unsafe { libc::syscall(libc::SYS_pkey_alloc, 0, 0) };
        let made = (key > 0).then(|| page(RW, ANONYMOUS, -1)).flatten()?;
        // SAFETY: the page is ours.
        unsafe { libc::syscall(libc::SYS_pkey_mprotect, made.0, PAGE, RW, key) };
        Some(made)
    }),
    ("executable only", || page(libc::PROT_EXEC, ANONYMOUS, -1)),
    ("sealed", || {
        let made = page(RW, ANONYMOUS, -1)?;
        // SAFETY: the page is ours; it stays until the process ends.
        unsafe { libc::syscall(462, made.0, PAGE, 0) };
        Some(made)
    }),
];

fn page(prot: i32, flags: i32, fd: i32) -> Option<(usize, usize)> {
    map(PAGE, prot, flags, fd).map(|at| (at, PAGE))
}

/// A page registered with a userfaultfd that stays open.
fn registered(mode: u64) -> Option<(usize, usize)> {
    let made = page(RW, ANONYMOUS, -1)?;
    let (mut api, mut register) = ([0xaa_u64, 0, 0], [made.0 as u64, PAGE as u64, mode, 0]);
    // SAFETY: both structures are ours and as long as the kernel has them.
    unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) as i32;
        let done = fd >= 0
            && libc::ioctl(fd, 0xc018_aa3f, &raw mut api) == 0
            && libc::ioctl(fd, 0xc020_aa00, &raw mut register) == 0;
        done.then_some(made)
    }
}

/// MPOL_PREFERRED for one page of anonymous memory and one that is shared.
fn policies_are_told(flags: &Flags) {
    let pages = [ANONYMOUS, ANONYMOUS, libc::MAP_SHARED | libc::MAP_ANONYMOUS].map(|flags| {
        let at = map(3 * PAGE, libc::PROT_NONE, ANONYMOUS, -1).expect("room") + PAGE;
        // SAFETY: the page lies in what was just mapped.
        let page = unsafe { libc::mmap(at as *mut libc::c_void, PAGE, RW, flags | libc::MAP_FIXED, -1, 0) };
        page as usize
    });
    for at in &pages[1..] {
        // SAFETY: takes numbers; no mask is given.
        if unsafe { libc::syscall(libc::SYS_mbind, *at, PAGE, 1, 0, 0, 0) } != 0 {
            return eprintln!("no NUMA policies here");
        }
    }
    // SAFETY: takes nothing.
    let tid = unsafe { libc::gettid() };
    let maps = proc::read_maps(&ProcDir::own().expect("own directory")).expect("maps");
    let told = flags.add(tid, maps).expect("iterator").expect("nothing strange");
    let policy = |at: usize| told.iter().find(|s| s.mapping.start == at as u64).expect("a mapping").has_policy;
    let expected = [Some(false), Some(true), None];
    let seen = pages.map(policy);
    assert!(seen == expected || seen == [None; 3], "{seen:?}");
    pages.iter().for_each(|at| unmap(at - PAGE, 3 * PAGE));
}

#[test]
fn the_iterator_says_what_smaps_says() {
    let flags = match Flags::load() {
        Ok(flags) => flags,
        Err(e) => return eprintln!("skipped: no iterator of mappings: {e}"),
    };
    let made = make_what_is_known();
    let (told, smaps) = both(&flags);
    let told = told.expect("flags that there are samples of");
    for (told, smap) in told.iter().zip(&smaps) {
        assert_eq!(told, smap);
    }
    assert_eq!(told.len(), smaps.len());
    let different: BTreeSet<u64> = smaps.iter().map(|s| s.flags.bits()).collect();
    eprintln!("{} mappings, {} combinations of flags", smaps.len(), different.len());
    assert!(different.len() > 100);
    for (at, len) in made {
        unmap(at, len);
    }

    policies_are_told(&flags);
    for (name, make) in STRANGE {
        let Some((at, len)) = make() else {
            eprintln!("{name}: not to be had here");
            continue;
        };
        let (told, smaps) = both(&flags);
        let smap = smaps.iter().find(|s| s.mapping.start <= at as u64 && s.mapping.end > at as u64).expect(name);
        eprintln!("{name}: {:?}, {}", smap.flags, if told.is_some() { "known" } else { "left to smaps" });
        if let Some(told) = &told {
            assert_eq!(told, &smaps, "{name}");
        }
        let strange =
            VmFlags::HUGE_TLB | VmFlags::UFFD_MISSING | VmFlags::UFFD_WP | VmFlags::MIXED_MAP | VmFlags::SEALED;
        assert!(told.is_none() || !smap.flags.intersects(strange) && smap.protection_key == 0, "{name}: {smap:?}");
        unmap(at, len);
        // The seal, which is the last, keeps it there.
        assert!(name == "sealed" || both(&flags).0.is_some(), "it was {name} that was not known");
    }
}
