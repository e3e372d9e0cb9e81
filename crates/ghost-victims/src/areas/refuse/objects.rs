//! Kernel objects that do not travel in this stage: each is refused by name, and works on as before.
use crate::kit::{Errno, fails, fd, mem, row, same, same_bytes, task, truth};
use crate::{Flag, Victim, raw};

/// bpf(2).
fn bpf(cmd: i64, attr: &mut [u64; 16]) -> Result<i64, Errno> {
    fd::raw_ref("bpf", libc::SYS_bpf, [cmd, 0, 128, 0, 0, 0], 1, attr)
}

/// Two u32 of a structure in one word.
const fn two(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

pub(super) const VICTIMS: &[Victim] = &[
    // ---- System V and POSIX IPC -----------------------------------------------------------------------------
    row!("sysv-sem-undo", [Flag::Refuse("sysv sem"), Flag::Asked], |s| {
        let Ok(id) = fd::raw("semget", libc::SYS_semget, [0, 1, 0o600 | 0o1000, 0, 0, 0]) else {
            s.skip("no System V semaphores")
        };
        let mut op = libc::sembuf { sem_num: 0, sem_op: 3, sem_flg: libc::SEM_UNDO as i16 };
        fd::raw_ref("semop", libc::SYS_semop, [id, 0, 1, 0, 0, 0], 1, &mut op)?;
        s.wait();
        const GETVAL: i64 = 12;
        let value = fd::raw("semctl", libc::SYS_semctl, [id, 0, GETVAL, 0, 0, 0]);
        fd::raw("semctl", libc::SYS_semctl, [id, 0, libc::IPC_RMID.into(), 0, 0, 0])?;
        same("value", 3, value?)?;
    }),
    row!("sysv-sem-lock-of-thread", [Flag::Refuse("sysv sem"), Flag::Asked], |s| {
        // Taken by a thread in a list of its own, and the kernel names another process as the last that operated on the set.
        let Ok(id) = fd::raw("semget", libc::SYS_semget, [0, 2, 0o600 | 0o1000, 0, 0, 0]) else {
            s.skip("no System V semaphores")
        };
        let operate = move |number, op, flags| {
            let mut op = libc::sembuf { sem_num: number, sem_op: op, sem_flg: flags };
            fd::raw_ref("semop", libc::SYS_semop, [id, 0, 1, 0, 0, 0], 1, &mut op)
        };
        operate(1, 2, 0)?;
        let team = s.team(1, move |_, t| {
            raw!(libc::SYS_unshare, libc::CLONE_SYSVSEM).unwrap();
            operate(1, -1, libc::SEM_UNDO as i16).unwrap();
            t.wait();
        });
        task::in_child("another", || Ok(operate(1, 1, 0).map(drop)?))?;
        s.wait();
        let value = || fd::raw("semctl", libc::SYS_semctl, [id, 1, libc::GETVAL.into(), 0, 0, 0]);
        let before = value();
        s.gather(team);
        // The kernel says that the thread has ended a moment before it gives back what it took.
        s.eventually("the value after the end of the thread is 3", 2000, || value() == Ok(3));
        let after = value();
        fd::raw("semctl", libc::SYS_semctl, [id, 0, libc::IPC_RMID.into(), 0, 0, 0])?;
        same("value before and after the end of the thread", (2, 3), (before?, after?))?;
    }),
    row!("lease-breaking", [Flag::Refuse("lease")], |s| {
        // Somebody wants to read what the program has a write lease on.
        const F_SETLEASE: i32 = 1024;
        const F_GETLEASE: i32 = 1025;
        task::block(&[libc::SIGIO])?;
        let f = fd::open(s.path("f"), libc::O_WRONLY | libc::O_CREAT)?;
        if fd::fcntl(f, F_SETLEASE, libc::F_WRLCK.into()).is_err() {
            s.skip("no leases on this file system");
        }
        fails("the open", libc::EWOULDBLOCK, fd::open(s.path("f"), libc::O_RDONLY | libc::O_NONBLOCK))?;
        s.wait();
        same("lease", i64::from(libc::F_RDLCK), fd::fcntl(f, F_GETLEASE, 0)?)?;
        same("signal", Some(libc::SIGIO), task::take_signal(&[libc::SIGIO], 0).map(|t| t.0))?;
    }),
    row!("sysv-sem-given-back", [Flag::NoDup("the first to end would remove the set")], |s| {
        // Taken and given back: nothing is left to be undone, so it travels, and the values stay as they are.
        let Ok(id) = fd::raw("semget", libc::SYS_semget, [0, 3, 0o600 | 0o1000, 0, 0, 0]) else {
            s.skip("no System V semaphores")
        };
        for (number, value) in [(0, 0), (1, 5), (2, 30000)] {
            fd::raw("semctl", libc::SYS_semctl, [id, number, libc::SETVAL.into(), value, 0, 0])?;
            for op in [3, -3] {
                let mut op = libc::sembuf { sem_num: number as u16, sem_op: op, sem_flg: libc::SEM_UNDO as i16 };
                fd::raw_ref("semop", libc::SYS_semop, [id, 0, 1, 0, 0, 0], 1, &mut op)?;
            }
        }
        s.wait();
        let values =
            [0, 1, 2].map(|number| fd::raw("semctl", libc::SYS_semctl, [id, number, libc::GETVAL.into(), 0, 0, 0]));
        fd::raw("semctl", libc::SYS_semctl, [id, 0, libc::IPC_RMID.into(), 0, 0, 0])?;
        same("values", [Ok(0), Ok(5), Ok(30000)], values)?;
    }),
    row!("sysv-msg-stays", [Flag::NoDup("both copies would take the message")], |s| {
        // No process holds a queue: it stays in the kernel, so this one is not refused, and its number stays good.
        let Ok(id) = fd::raw("msgget", libc::SYS_msgget, [0, 0o600 | 0o1000, 0, 0, 0, 0]) else {
            s.skip("no System V queues")
        };
        let mut message = (7i64, *b"queued, until it is taken");
        fd::raw_ref("msgsnd", libc::SYS_msgsnd, [id, 0, 25, 0, 0, 0], 1, &mut message)?;
        s.wait();
        let mut got = (0i64, [0u8; 100]);
        let n = fd::raw_ref("msgrcv", libc::SYS_msgrcv, [id, 0, 100, 7, libc::IPC_NOWAIT.into(), 0], 1, &mut got);
        fd::raw("msgctl", libc::SYS_msgctl, [id, libc::IPC_RMID.into(), 0, 0, 0, 0])?;
        same_bytes("message", &message.1, &got.1[..n? as usize])?;
    }),
    row!("posix-mqueue", [Flag::Refuse("mqueue")], |s| {
        let name = crate::sys::c(&format!("victim.{}", task::pid())); // the bare call takes no slash
        let attr = [0i64, 5, 64, 0, 0, 0, 0, 0]; // flags, messages, bytes of each
        let flags = i64::from(libc::O_RDWR | libc::O_CREAT | libc::O_NONBLOCK);
        let args = [name.as_ptr() as i64, flags, 0o600, attr.as_ptr() as i64, 0, 0];
        let Ok(q) = fd::raw("mq_open", libc::SYS_mq_open, args) else { s.skip("no POSIX message queues") };
        fd::raw("mq_unlink", libc::SYS_mq_unlink, [name.as_ptr() as i64, 0, 0, 0, 0, 0])?;
        for (text, priority) in [(b"low ", 1), (b"high", 9)] {
            fd::raw("mq_timedsend", libc::SYS_mq_timedsend, [q, text.as_ptr() as i64, 4, priority, 0, 0])?;
        }
        s.wait();
        for text in [b"high", b"low "] {
            let mut buf = [0u8; 64];
            let n = fd::raw("mq_timedreceive", libc::SYS_mq_timedreceive, [q, buf.as_mut_ptr() as i64, 64, 0, 0, 0])?;
            same_bytes("message", text, &buf[..n as usize])?;
        }
    }),
    // ---- memory ---------------------------------------------------------------------------------------------
    row!("mappings-at-limit", [Flag::Refuse("mappings"), Flag::Seconds(60)], |s| {
        let Some(m) = crate::areas::memory::all_mappings_but(0) else { s.skip("vm.max_map_count is too high") };
        s.wait();
        truth("the pages are there", m.numbered())?;
    }),
    row!("pressure-trigger", [Flag::Refuse("pressure")], |s| {
        let Ok(f) = fd::open("/proc/pressure/cpu", libc::O_RDWR | libc::O_NONBLOCK) else {
            s.skip("no pressure stall information")
        };
        if fd::write(f, b"some 500000 2000000\0").is_err() {
            s.skip("may not set a trigger");
        }
        s.wait();
        same("poll: the trigger is there", 0, fd::poll_now(f, libc::POLLPRI)? & libc::POLLERR)?;
    }),
    row!("userfaultfd", [Flag::Refuse("userfaultfd")], |s| {
        const USER_MODE_ONLY: i64 = 1;
        let nonblock = i64::from(libc::O_NONBLOCK | libc::O_CLOEXEC);
        let Ok(f) = fd::raw("userfaultfd", libc::SYS_userfaultfd, [nonblock | USER_MODE_ONLY, 0, 0, 0, 0, 0]) else {
            s.skip("no userfaultfd")
        };
        let f = f as i32;
        let mut api = [0xaau64, 0, 0]; // UFFD_API
        fd::ioctl_ref(f, 0xc018_aa3f, &mut api)?;
        let m = mem::anon(16384, false)?;
        let mut register = [m.address(), 16384, 1, 0]; // UFFDIO_REGISTER_MODE_MISSING
        fd::ioctl_ref(f, 0xc020_aa00, &mut register)?;
        s.wait();
        let page = mem::anon(4096, false)?;
        page.put(0, b"by the handler");
        let mut copy = [m.address() + 4096, page.address(), 4096, 0, 0]; // UFFDIO_COPY
        fd::ioctl_ref(f, 0xc028_aa03, &mut copy)?;
        same_bytes("page", b"by the handler", &m.get(4096, 14))?;
        fails("faults nobody handled", libc::EAGAIN, fd::read(f, 32))?;
    }),
    row!("memfd-secret", [Flag::Refuse("secretmem")], |s| {
        let Ok(f) = fd::raw("memfd_secret", libc::SYS_memfd_secret, [0; 6]) else { s.skip("no memfd_secret") };
        fd::ftruncate(f as i32, 8192)?;
        let m = match mem::map(8192, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, f as i32, 0) {
            Ok(m) => m,
            Err(e) => s.skip(&String::from(e)),
        };
        m.put(4000, b"a secret");
        s.wait();
        same_bytes("secret memory", b"a secret", &m.get(4000, 8))?;
    }),
    row!("memfd-secret-mapped-only", [Flag::Refuse("secretmem")], |s| {
        let Ok(f) = fd::raw("memfd_secret", libc::SYS_memfd_secret, [0; 6]) else { s.skip("no memfd_secret") };
        fd::ftruncate(f as i32, 8192)?;
        let m = match mem::map(8192, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, f as i32, 0) {
            Ok(m) => m,
            Err(e) => s.skip(&String::from(e)),
        };
        fd::close(f as i32)?;
        m.put(0, b"a secret");
        s.wait();
        same_bytes("secret memory", b"a secret", &m.get(0, 8))?;
    }),
    row!("hugetlb-memory", [Flag::Refuse("hugetlb")], |s| {
        // Reserved addresses only: no huge page needs to be free.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_NORESERVE;
        let Ok(m) = mem::map(4 << 20, libc::PROT_NONE, flags, -1, 0) else { s.skip("no huge pages") };
        let maps = || std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        s.wait();
        truth("the mapping is there", maps().contains(&format!("{:x}-{:x}", m.address(), m.address() + (4 << 20))))?;
    }),
    row!("hugetlb-memfd", [Flag::Refuse("hugetlb")], |s| {
        let args = [c"huge".as_ptr() as i64, libc::MFD_HUGETLB.into(), 0, 0, 0, 0];
        let Ok(f) = fd::raw("memfd_create", libc::SYS_memfd_create, args) else { s.skip("no huge pages") };
        fd::ftruncate(f as i32, 4 << 20)?;
        s.wait();
        same("size", 4 << 20, fd::stat(f as i32)?.st_size)?;
    }),
    // ---- rings, counters, programs --------------------------------------------------------------------------
    row!("io-uring", [Flag::Refuse("io_uring")], |s| {
        // struct io_uring_params: sq_entries, cq_entries, flags, … 40 bytes; sq_off: head tail mask entries flags dropped array
        let mut p = [0u32; 30];
        let Ok(f) = fd::raw_ref("io_uring_setup", libc::SYS_io_uring_setup, [8, 0, 0, 0, 0, 0], 1, &mut p) else {
            s.skip("no io_uring")
        };
        let f = f as i32;
        let (rw, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        let ring = mem::map(8192, rw, shared, f, 0)?; // both rings, IORING_FEAT_SINGLE_MMAP
        let entries = mem::map(8 * 64, rw, shared, f, 0x1000_0000)?;
        let word = |at: u32| u32::from_ne_bytes(ring.get(at as usize, 4).try_into().unwrap_or_default());
        let (tail, array, done) = (p[11], p[16], p[21]);
        let submit = |n: u32, data: u64| {
            entries.put(n as usize * 64, &[0; 64]); // IORING_OP_NOP
            entries.put(n as usize * 64 + 32, &data.to_ne_bytes());
            ring.put((array + 4 * n) as usize, &n.to_ne_bytes());
            ring.put(tail as usize, &(word(tail) + 1).to_ne_bytes());
            fd::raw("io_uring_enter", libc::SYS_io_uring_enter, [f.into(), 1, 1, 1, 0, 0])
        };
        same("submitted", 1, submit(0, 42)?)?;
        same("completions", 1, word(done))?;
        s.wait();
        same("submitted after", 1, submit(1, 43)?)?;
        same("completions after", 2, word(done))?;
        let cqes = p[25] as usize; // cq_off: head tail mask entries overflow cqes
        same(
            "whose they are",
            [42u64.to_ne_bytes(), 43u64.to_ne_bytes()].concat(),
            [ring.get(cqes, 8), ring.get(cqes + 16, 8)].concat(),
        )?;
    }),
    row!("perf-event", [Flag::Refuse("perf_event")], |s| {
        // struct perf_event_attr: type 1 (software), size 128, config 1 (task clock)
        let mut attr = [0u64; 16];
        attr[0] = two(1, 128);
        attr[1] = 1;
        let args = [0, 0, -1, -1, 0, 0];
        let Ok(f) = fd::raw_ref("perf_event_open", libc::SYS_perf_event_open, args, 0, &mut attr) else {
            s.skip("no performance counters")
        };
        let count = |f: i64| fd::read(f as i32, 8).map(|b| b.try_into().map_or(0, u64::from_ne_bytes));
        let before = count(f)?;
        s.wait();
        truth("it went on counting", count(f)? > before)?;
    }),
    row!("bpf-map", [Flag::Refuse("bpf")], |s| {
        // BPF_MAP_CREATE of an array: type, key size, value size, entries
        let mut attr = [0u64; 16];
        attr[0] = two(2, 4);
        attr[1] = two(8, 16);
        let Ok(f) = bpf(0, &mut attr) else { s.skip("no BPF") };
        let (key, mut value) = (3u32, 0x1122_3344_5566_7788u64);
        let mut at = [0u64; 16];
        at[..4].copy_from_slice(&[f as u64, &raw const key as u64, &raw mut value as u64, 0]);
        bpf(2, &mut at)?; // BPF_MAP_UPDATE_ELEM
        s.wait();
        value = 0;
        bpf(1, &mut at)?; // BPF_MAP_LOOKUP_ELEM
        same("element", 0x1122_3344_5566_7788, std::hint::black_box(value))?;
    }),
    row!("bpf-program", [Flag::Refuse("bpf")], |s| {
        // BPF_PROG_LOAD of a socket filter: r0 = 0; exit
        let code = [0x0000_0000_0000_00b7u64, 0x95];
        let mut attr = [0u64; 16];
        attr[0] = two(1, 2);
        attr[1] = code.as_ptr() as u64;
        attr[2] = c"GPL".as_ptr() as u64;
        let Ok(f) = bpf(5, &mut attr) else { s.skip("no BPF programs") };
        s.wait();
        same("its fdinfo", "1", &fd::info(f as i32, "prog_type")?)?;
    }),
    row!("fanotify", [Flag::Refuse("fanotify")], |s| {
        const CLASS_NOTIF_NONBLOCK: i64 = 2;
        let read_only = i64::from(libc::O_RDONLY);
        let Ok(f) = fd::raw("fanotify_init", libc::SYS_fanotify_init, [CLASS_NOTIF_NONBLOCK, read_only, 0, 0, 0, 0])
        else {
            s.skip("no fanotify")
        };
        let path = crate::sys::c(s.dir());
        const MARK_ADD: i64 = 1;
        const OPEN_ON_CHILD: i64 = 0x20 | 0x0800_0000;
        let here = i64::from(libc::AT_FDCWD);
        fd::close(fd::open(s.path("f"), libc::O_RDWR | libc::O_CREAT)?)?;
        fd::raw("fanotify_mark", libc::SYS_fanotify_mark, [f, MARK_ADD, OPEN_ON_CHILD, here, path.as_ptr() as i64, 0])?;
        s.wait();
        let _ = fd::read(f as i32, 24); // what the wait itself may have caused
        fd::close(fd::open(s.path("f"), libc::O_RDONLY)?)?;
        truth("an event", fd::read(f as i32, 24)?.len() == 24)?;
    }),
    row!("seccomp-notify", [Flag::Refuse("seccomp notify")], |s| {
        task::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)?;
        // Notify for one call that nobody makes (getpgid of number 121 on x86-64 would be too common: 1023), allow the rest.
        let code = [two(0x20, 0), two(0x0001_0015, 1023), two(0x06, 0x7fc0_0000), two(0x06, 0x7fff_0000)];
        // struct sock_filter: code u16, jt u8, jf u8, k u32. The comparison is 0x15 with jt 0, jf 1.
        let code = [code[0], 0x15 | 1 << 24 | 1023 << 32, code[2], code[3]];
        let mut prog = [4u64, code.as_ptr() as u64];
        const NEW_LISTENER: i64 = 8;
        let Ok(f) = fd::raw_ref("seccomp", libc::SYS_seccomp, [1, NEW_LISTENER, 0, 0, 0, 0], 2, &mut prog) else {
            s.skip("no seccomp notification")
        };
        s.wait();
        same("poll of the listener", 0, fd::poll_now(f as i32, libc::POLLIN)?)?;
        same("seccomp mode", "2", crate::proc::status("Seccomp").trim())?;
    }),
    // ---- security -------------------------------------------------------------------------------------------
    row!("core-scheduling-cookie", [Flag::Refuse("core sched")], |s| {
        const PR_SCHED_CORE: i32 = 62;
        if task::prctl(PR_SCHED_CORE, 1, 0, 0, 0).is_err() {
            s.skip("no core scheduling");
        }
        let mut before = 0u64;
        task::prctl(PR_SCHED_CORE, 0, 0, 0, &raw mut before as i64)?;
        s.wait();
        let mut after = 1u64;
        task::prctl(PR_SCHED_CORE, 0, 0, 0, &raw mut after as i64)?;
        same("cookie", before, after)?;
    }),
    row!("directory-notification", [Flag::Refuse("dnotify")], |s| {
        const F_NOTIFY: i32 = 1026;
        const DN_CREATE_MULTISHOT: i64 = 0x8000_0004;
        let d = fd::open(s.dir(), libc::O_RDONLY | libc::O_DIRECTORY)?;
        task::block(&[libc::SIGIO])?;
        if fd::fcntl(d, F_NOTIFY, DN_CREATE_MULTISHOT).is_err() {
            s.skip("no dnotify");
        }
        s.wait();
        while task::take_signal(&[libc::SIGIO], 0).is_some() {}
        fd::close(fd::open(s.path("new"), libc::O_RDWR | libc::O_CREAT)?)?;
        same("signal", Some(libc::SIGIO), task::take_signal(&[libc::SIGIO], 1000).map(|t| t.0))?;
    }),
    row!("notification-pipe", [Flag::Refuse("notification")], |s| {
        let Ok((r, _w)) = fd::pipe(libc::O_EXCL) else { s.skip("no notification pipes") };
        const IOC_WATCH_QUEUE_SET_SIZE: u64 = 0x5760;
        fd::ioctl_int(r, IOC_WATCH_QUEUE_SET_SIZE, 8)?;
        s.wait();
        same("poll", 0, fd::poll_now(r, libc::POLLIN)?)?;
    }),
];
