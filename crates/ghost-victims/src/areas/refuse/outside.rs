//! What leads out of the tree: ends, descriptions, locks and memory that a process outside shares.
use crate::kit::outside::{NAME, outsider};
use crate::kit::{Res, fails, fd, mem, row, run, same, same_bytes, sock, task, truth};
use crate::{Flag, Victim};

const RW: i32 = libc::O_RDWR | libc::O_CREAT;

/// A memfd of two pages.
fn memfd() -> Res<i32> {
    let f = fd::raw("memfd_create", libc::SYS_memfd_create, [c"shared".as_ptr() as i64, 0, 0, 0, 0, 0])? as i32;
    fd::ftruncate(f, 8192)?;
    Ok(f)
}

pub(super) const VICTIMS: &[Victim] = &[
    row!("uprobe", [Flag::Refuse("uprobes"), Flag::Asked], |s| {
        // Somebody outside counts the calls of a routine, which nobody has called yet: only the page of code is another.
        let at = probed as *const () as usize;
        let offset =
            crate::proc::smaps().iter().find(|v| v.start <= at && at < v.end).map(|v| (at - v.start) as u64 + v.offset);
        let of_probes = std::fs::read_to_string("/sys/bus/event_source/devices/uprobe/type").unwrap_or_default();
        let (Some(offset), Ok(kind)) = (offset, of_probes.trim().parse::<u64>()) else { s.skip("no uprobes") };
        let exe = c"/proc/self/exe".as_ptr() as u64;
        let victim = i64::from(task::pid());
        let set = outsider(s, || {
            // struct perf_event_attr: type, size 128; uprobe_path in the place of config1, its offset in that of config2
            let mut attr = [0u64; 16];
            attr[0] = kind | 128 << 32;
            (attr[7], attr[8]) = (exe, offset);
            Ok(fd::raw_ref("perf_event_open", libc::SYS_perf_event_open, [0, victim, -1, -1, 0, 0], 0, &mut attr)
                .map(drop)?)
        });
        let now = byte_of_code(at);
        if set.is_err() || now != 0xcc {
            s.skip("may not set probes");
        }
        s.wait();
        same("what the routine gives", 4711, std::hint::black_box(probed as extern "C" fn() -> i32)())?;
    }),
    // The refusal must name who holds the other end.
    row!("pipe-from-outside", [Flag::Refuse(NAME)], |s| {
        let (r, w) = fd::pipe(0)?;
        outsider(s, || {
            fd::close(r)?;
            Ok(fd::write_full(w, b"from outside")?)
        })?;
        fd::close(w)?;
        s.wait();
        same_bytes("data", b"from outside", &fd::read_full(r, 12)?)?;
    }),
    row!("pipe-to-outside", [Flag::Refuse(NAME)], |s| {
        let (r, w) = fd::pipe(0)?;
        outsider(s, || Ok(fd::close(w)?))?;
        fd::close(r)?;
        fd::write_full(w, b"before, ")?;
        s.wait();
        // The other end may have gone with the word to go.
        task::ignore(libc::SIGPIPE);
        truth(
            "the pipe still takes data or its reader has ended",
            fd::write(w, b"x").map_or_else(|e| e.code == libc::EPIPE, |n| n == 1),
        )?;
    }),
    row!("fifo-to-outside", [Flag::Refuse(NAME)], |s| {
        fd::mkfifo(s.path("p"))?;
        let path = s.path("p");
        outsider(s, || Ok(fd::open(&path, libc::O_RDWR).map(drop)?))?;
        let w = fd::open(s.path("p"), libc::O_WRONLY | libc::O_NONBLOCK)?;
        s.wait();
        task::ignore(libc::SIGPIPE);
        truth(
            "the FIFO still takes data or its reader has ended",
            fd::write(w, b"x").map_or_else(|e| e.code == libc::EPIPE, |n| n == 1),
        )?;
    }),
    row!("sysv-shm", [Flag::Refuse("sysv shm")], |s| {
        let Ok(id) = fd::raw("shmget", libc::SYS_shmget, [0, 8192, 0o600 | 0o1000, 0, 0, 0]) else {
            s.skip("no System V shared memory")
        };
        let at = fd::raw("shmat", libc::SYS_shmat, [id, 0, 0, 0, 0, 0])?;
        let m = mem::Map::of(at, 8192);
        m.put(5000, b"attached");
        // Inherited there, too.
        outsider(s, || Ok(()))?;
        // Marked for removal, so that it ends with the victim; attached it stays.
        fd::raw("shmctl", libc::SYS_shmctl, [id, libc::IPC_RMID.into(), 0, 0, 0, 0])?;
        s.wait();
        same_bytes("segment", b"attached", &m.get(5000, 8))?;
        m.put(0, b"x");
    }),
    row!("unix-pair-to-outside", [Flag::Refuse("unix")], |s| {
        let (a, b) = sock::pair(libc::SOCK_STREAM)?;
        outsider(s, || {
            fd::close(a)?;
            Ok(fd::write_full(b, b"from outside")?)
        })?;
        fd::close(b)?;
        s.wait();
        same_bytes("data", b"from outside", &fd::read_full(a, 12)?)?;
    }),
    row!("unix-connected-to-outside", [Flag::Refuse("unix")], |s| {
        let path = s.path("n");
        let server = sock::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
        sock::bind(server, &sock::unix(&path))?;
        sock::listen(server, 2)?;
        let c = sock::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
        sock::connect(c, &sock::unix(&path))?;
        outsider(s, || {
            fd::close(c)?;
            let a = sock::accept(server, 0)?;
            Ok(fd::write_full(a, b"welcome")?)
        })?;
        fd::close(server)?;
        s.wait();
        same_bytes("data", b"welcome", &fd::read_full(c, 7)?)?;
    }),
    row!("unix-client-from-outside", [Flag::Refuse("unix")], |s| {
        // Connected from outside and not yet accepted.
        let path = s.path("n");
        let server = sock::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
        sock::bind(server, &sock::unix(&path))?;
        sock::listen(server, 2)?;
        outsider(s, || {
            fd::close(server)?;
            let c = sock::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
            sock::connect(c, &sock::unix(&path))?;
            Ok(fd::write_full(c, b"knock")?)
        })?;
        s.wait();
        let a = sock::accept(server, 0)?;
        same_bytes("data", b"knock", &fd::read_full(a, 5)?)?;
    }),
    row!("tcp-to-outside", [Flag::Refuse("tcp")], |s| {
        let server = sock::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        sock::bind(server, &sock::v4(Some([127, 0, 0, 1]), 0))?;
        sock::listen(server, 2)?;
        let to = sock::local(server)?;
        let c = sock::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        sock::connect(c, &to)?;
        outsider(s, || {
            fd::close(c)?;
            let a = sock::accept(server, 0)?;
            Ok(fd::write_full(a, b"welcome")?)
        })?;
        fd::close(server)?;
        s.wait();
        same_bytes("data", b"welcome", &fd::read_full(c, 7)?)?;
    }),
    row!("flock-shared-with-outside", [Flag::Refuse("lock")], |s| {
        // The lock belongs to a description that outlives the tree: a restart could not have it back.
        let f = fd::open(s.path("f"), RW)?;
        fd::flock(f, libc::LOCK_EX)?;
        outsider(s, || Ok(()))?;
        s.wait();
        let other = fd::open(s.path("f"), libc::O_RDWR)?;
        fails("the lock by another description", libc::EWOULDBLOCK, fd::flock(other, libc::LOCK_SH | libc::LOCK_NB))?;
    }),
    row!("memory-shared-with-outside", [Flag::Refuse("outside")], |s| {
        let m = mem::anon(8192, true)?;
        outsider(s, || {
            m.put(100, b"by the outsider");
            Ok(())
        })?;
        s.wait();
        same_bytes("shared memory", b"by the outsider", &m.get(100, 15))?;
    }),
    row!("memfd-shared-with-outside", [Flag::Refuse("outside")], |s| {
        // Open here, mapped there.
        let f = memfd()?;
        outsider(s, || {
            let m = mem::map(8192, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, f, 0)?;
            fd::close(f)?;
            m.put(100, b"by the outsider");
            Ok(())
        })?;
        s.wait();
        same_bytes("content", b"by the outsider", &fd::pread(f, 15, 100)?)?;
    }),
    row!("memfd-mapped-and-open-outside", [Flag::Refuse("outside")], |s| {
        // Mapped here, open there.
        let f = memfd()?;
        let m = mem::map(8192, libc::PROT_READ, libc::MAP_SHARED, f, 0)?;
        outsider(s, || Ok(fd::pwrite(f, b"by the outsider", 100)?))?;
        fd::close(f)?;
        s.wait();
        same_bytes("content", b"by the outsider", &m.get(100, 15))?;
    }),
    row!("deleted-file-shared-with-outside", [Flag::Refuse("outside")], |s| {
        // By descriptions of their own.
        let path = s.path("f");
        let f = fd::open(&path, RW)?;
        outsider(s, || {
            let own = fd::open(&path, libc::O_RDWR)?;
            fd::close(f)?;
            Ok(fd::pwrite(own, b"by the outsider", 0)?)
        })?;
        fd::unlink(&path)?;
        s.wait();
        same_bytes("content", b"by the outsider", &fd::pread(f, 15, 0)?)?;
    }),
    row!("eventfd-shared-with-outside", [Flag::Refuse("outside")], |s| {
        let e = fd::eventfd(0, 0)?;
        outsider(s, || Ok(fd::write_full(e, &5u64.to_ne_bytes())?))?;
        s.wait();
        same("count", 5u64.to_ne_bytes().to_vec(), fd::read(e, 8)?)?;
    }),
    row!("pidfd-of-outside", [Flag::Refuse("pidfd")], |s| {
        let f = task::pidfd(task::ppid(), 0)?;
        s.wait();
        same("poll", 0, fd::poll_now(f, libc::POLLIN)?)?;
    }),
    row!("epoll-target-outside", [Flag::Refuse("epoll")], |s| {
        // What the epoll watches is open in no process of the tree any more.
        let ep = fd::raw("epoll_create1", libc::SYS_epoll_create1, [0; 6])? as i32;
        let e = fd::eventfd(0, 0)?;
        let mut ev = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 4 };
        fd::raw_ref("epoll_ctl", libc::SYS_epoll_ctl, [ep.into(), 1, e.into(), 0, 0, 0], 3, &mut ev)?;
        outsider(s, || Ok(fd::write_full(e, &1u64.to_ne_bytes())?))?;
        fd::close(e)?;
        let mut out = [libc::epoll_event { events: 0, u64: 0 }; 2];
        let n = fd::raw("epoll_wait", libc::SYS_epoll_wait, [ep.into(), out.as_mut_ptr() as i64, 2, 0, 0, 0])?;
        same("events", 1, n)?;
        s.wait();
        // The outsider may have ended with the word to go; then the entry is gone with it.
        fd::raw("epoll_wait", libc::SYS_epoll_wait, [ep.into(), out.as_mut_ptr() as i64, 2, 0, 0, 0])?;
        same("epoll is alive", 0, fd::fcntl(ep, libc::F_GETFL, 0)? & i64::from(libc::O_NONBLOCK))?;
    }),
    row!("traced", [Flag::Refuse("traced"), Flag::NoStop], |s| {
        // A debugger inside the tree.
        let leave = s.path("leave");
        let pid = s.spawn(|c| {
            c.wait();
            let leave = c.path("leave");
            c.until("the debugger has looked", || std::path::Path::new(&leave).exists());
        });
        const PTRACE_SEIZE: i64 = 0x4206;
        fd::raw("ptrace", libc::SYS_ptrace, [PTRACE_SEIZE, pid.into(), 0, 0, 0, 0])?;
        s.wait();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| e.to_string())?;
        fd::close(fd::open(leave, RW)?)?;
        truth("the child is traced by its parent", status.contains(&format!("\nTracerPid:\t{}\n", task::pid())))?;
    }),
    row!("traced-and-stopped", [Flag::Refuse("traced"), Flag::NoStop], |s| {
        let pid = s.spawn(|c| c.wait());
        const PTRACE_SEIZE: i64 = 0x4206;
        const PTRACE_INTERRUPT: i64 = 0x4207;
        fd::raw("ptrace", libc::SYS_ptrace, [PTRACE_SEIZE, pid.into(), 0, 0, 0, 0])?;
        fd::raw("ptrace", libc::SYS_ptrace, [PTRACE_INTERRUPT, pid.into(), 0, 0, 0, 0])?;
        task::wait(pid, 0)?;
        s.wait();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| e.to_string());
        const PTRACE_DETACH: i64 = 17;
        fd::raw("ptrace", libc::SYS_ptrace, [PTRACE_DETACH, pid.into(), 0, 0, 0, 0])?;
        truth("the child is in its trace stop", status?.contains("\nState:\tt (tracing stop)\n"))?;
    }),
    row!("vfork-in-progress", [Flag::Refuse("vfork")], |s| {
        // The child of vfork(2) has not called execve(2) yet; its parent is inside the call.
        extern "C" fn child(go: *mut libc::c_void) -> i32 {
            // SAFETY: `go` is the C string that the parent, which waits, keeps alive.
            while unsafe { libc::access(go.cast(), libc::F_OK) } != 0 {
                crate::sys::sleep_ms(2);
            }
            7
        }
        s.spawn(|c| {
            run(c, |c| {
                let go = crate::sys::c(&c.path("go"));
                let stack = mem::anon(65536, false)?;
                let top = (stack.address() + 65536) as *mut libc::c_void;
                c.ready();
                let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
                // SAFETY: the child runs on a stack of its own and touches nothing but `go`, which outlives it.
                let pid = unsafe { libc::clone(child, top, flags, go.as_ptr().cast_mut().cast()) };
                truth("the child was made", pid > 0)?;
                same("its exit status", 7, libc::WEXITSTATUS(task::wait(pid, 0)?.1))?;
                c.await_go();
                Ok(())
            });
        });
        s.until("the child of vfork is there", || crate::proc::tree(std::process::id()).len() == 3);
        s.wait();
        s.join();
    }),
    row!("table-of-a-thread-shared", [Flag::Refuse("unshared")], |s| {
        // A child shares a descriptor table with a thread that has it apart from its process.
        let go = crate::sys::c(&s.path("go"));
        let (told, heard) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            crate::must!(unshare(libc::CLONE_FILES));
            let pid = crate::raw!(libc::SYS_clone, libc::CLONE_FILES | libc::SIGCHLD, 0, 0, 0, 0).unwrap_or(-1);
            if pid == 0 {
                // Bare calls only: it was forked from one of several threads.
                while crate::call!(access(go.as_ptr(), libc::F_OK)) != 0 {
                    crate::sys::sleep_ms(2);
                }
                let made = crate::call!(dup2(crate::call!(open(c"/dev/null".as_ptr(), libc::O_RDONLY)), 93));
                crate::call!(_exit(i32::from(made != 93)))
            }
            let _ = told.send(pid);
            let status = task::wait(pid as i32, 0).map_or(-1, |w| w.1);
            (status, crate::call!(fcntl(93, libc::F_GETFD)))
        });
        truth("the child was made", heard.recv().unwrap_or(-1) > 0)?;
        s.wait();
        let (status, opened) = thread.join().unwrap_or((-1, -1));
        same("the child's status", 0, status)?;
        truth("the thread has what the child has opened", opened >= 0)?;
    }),
];

#[inline(never)]
extern "C" fn probed() -> i32 {
    std::hint::black_box(4711)
}

/// A byte of the program's own code.
fn byte_of_code(at: usize) -> u8 {
    // SAFETY: code is readable.
    unsafe { std::ptr::read_volatile(at as *const u8) }
}
