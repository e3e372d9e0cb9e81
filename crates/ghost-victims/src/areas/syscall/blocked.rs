//! Calls that wait for something to happen: they still wait afterwards, and it still happens.
use crate::inside::{Inside, enter};
use crate::sys::{c, sleep_ms};
use crate::{Ctx, Flag, Victim, call, flagged, must, raw, victim};

pub(super) const VICTIMS: &[Victim] = &[
    victim("read-pipe", |v| {
        let (r, w) = pipe();
        let t = enter(v, "blocked", &[libc::SYS_read], move || {
            let mut b = [0u8; 8];
            (raw!(libc::SYS_read, r, b.as_mut_ptr(), 8), b)
        });
        still(v, &t);
        must!(write(w, b"hello".as_ptr().cast(), 5));
        v.eq("read", Ok((Ok(5), *b"hello\0\0\0")), t.end(5000));
    }),
    victim("readv-pipe", |v| {
        let (r, w) = pipe();
        let t = enter(v, "blocked", &[libc::SYS_readv], move || {
            let mut b = [0u8; 8];
            let (a, z) = b.split_at_mut(2);
            let io = [a, z].map(|s| libc::iovec { iov_base: s.as_mut_ptr().cast(), iov_len: s.len() });
            (raw!(libc::SYS_readv, r, io.as_ptr(), 2), b)
        });
        still(v, &t);
        must!(write(w, b"hello".as_ptr().cast(), 5));
        v.eq("readv", Ok((Ok(5), *b"hello\0\0\0")), t.end(5000));
    }),
    victim("read-end-of-pipe", |v| {
        let (r, w) = pipe();
        let t = enter(v, "blocked", &[libc::SYS_read], move || {
            let mut b = [0u8; 8];
            raw!(libc::SYS_read, r, b.as_mut_ptr(), 8)
        });
        still(v, &t);
        must!(close(w));
        v.eq("read at the end", Ok(Ok(0)), t.end(5000));
    }),
    victim("write-pipe", |v| {
        let (r, w) = pipe();
        let size = must!(fcntl(r, libc::F_GETPIPE_SZ)) as usize;
        must!(write(w, vec![1u8; size].as_ptr().cast(), size));
        let t = enter(v, "blocked", &[libc::SYS_write], move || raw!(libc::SYS_write, w, b"more".as_ptr(), 4));
        still(v, &t);
        let mut b = vec![0u8; size];
        v.eq("read of what was there", size as isize, call!(read(r, b.as_mut_ptr().cast(), size)));
        v.check("it is as written", b.iter().all(|x| *x == 1));
        v.eq("write", Ok(Ok(4)), t.end(5000));
        let mut b = [0u8; 8];
        v.eq("read of the rest", 4, call!(read(r, b.as_mut_ptr().cast(), 8)));
        v.eq("the rest", *b"more\0\0\0\0", b);
    }),
    victim("write-pipe-part", |v| {
        // Interrupted after a part was written, a write returns that part; it never writes twice.
        let (r, w) = pipe();
        let size = must!(fcntl(r, libc::F_GETPIPE_SZ)) as usize;
        let data: Vec<u8> = (0..size * 2).map(|i| (i % 251) as u8).collect();
        let all = data.clone();
        let t = enter(v, "blocked", &[libc::SYS_write], move || {
            let mut done = 0;
            while done < all.len() {
                match raw!(libc::SYS_write, w, all[done..].as_ptr(), all.len() - done) {
                    Ok(n) => done += n as usize,
                    Err(e) => return Err(e),
                }
            }
            call!(close(w));
            Ok(done)
        });
        still(v, &t);
        let mut got = Vec::new();
        let mut b = vec![0u8; 4096];
        loop {
            match call!(read(r, b.as_mut_ptr().cast(), 4096)) {
                n if n > 0 => got.extend_from_slice(&b[..n as usize]),
                _ => break,
            }
        }
        v.eq("bytes written", Ok(Ok(size * 2)), t.end(5000));
        v.eq("bytes read", data.len(), got.len());
        v.check("they are the same", data == got);
    }),
    victim("poll-forever", |v| {
        let (r, w) = pipe();
        let t = enter(v, "blocked", &[libc::SYS_poll], move || {
            let mut p = libc::pollfd { fd: r, events: libc::POLLIN, revents: 0 };
            (raw!(libc::SYS_poll, &raw mut p, 1, -1), p.revents)
        });
        still(v, &t);
        must!(write(w, b"x".as_ptr().cast(), 1));
        v.eq("poll", Ok((Ok(1), libc::POLLIN)), t.end(5000));
    }),
    victim("select-forever", |v| {
        let (r, w) = pipe();
        let t = enter(v, "blocked", &[libc::SYS_select], move || {
            let mut set = [0u64; 16];
            set[0] = 1 << r;
            (raw!(libc::SYS_select, r + 1, set.as_mut_ptr(), 0, 0, 0), set[0] == 1 << r)
        });
        still(v, &t);
        must!(write(w, b"x".as_ptr().cast(), 1));
        v.eq("select", Ok((Ok(1), true)), t.end(5000));
    }),
    victim("epoll-forever", |v| {
        let (r, w) = pipe();
        let e = must!(epoll_create1(0));
        must!(epoll_ctl(e, libc::EPOLL_CTL_ADD, r, &mut libc::epoll_event { events: libc::EPOLLIN as u32, u64: 99 }));
        let t = enter(v, "blocked", &[libc::SYS_epoll_wait], move || {
            let mut got = libc::epoll_event { events: 0, u64: 0 };
            loop {
                match raw!(libc::SYS_epoll_wait, e, &raw mut got, 1, -1) {
                    Err(libc::EINTR) => {}
                    other => return (other, { got.u64 }),
                }
            }
        });
        still(v, &t);
        must!(write(w, b"x".as_ptr().cast(), 1));
        v.eq("epoll_wait", Ok((Ok(1), 99)), t.end(5000));
    }),
    flagged("accept", &[Flag::NoDup("a path leads to one socket")], |v| {
        let l = must!(socket(libc::AF_UNIX, libc::SOCK_STREAM, 0));
        let path = v.path("socket");
        let address = unix(&path);
        must!(bind(l, (&raw const address).cast(), size_of_val(&address) as u32));
        must!(listen(l, 5));
        let t = enter(v, "blocked", &[libc::SYS_accept, libc::SYS_accept4], move || {
            let fd = raw!(libc::SYS_accept4, l, 0, 0, 0)?;
            let mut b = [0u8; 8];
            let r = raw!(libc::SYS_read, fd, b.as_mut_ptr(), 8);
            Ok::<_, i32>((r, b))
        });
        still(v, &t);
        // A duplicate has a socket of the same name: only one of the two is reached by it. Connect through our own.
        let client = must!(socket(libc::AF_UNIX, libc::SOCK_STREAM, 0));
        if call!(connect(client, (&raw const address).cast(), size_of_val(&address) as u32)) == -1 {
            return v.bad("connect", "0", &crate::sys::strerror(crate::sys::errno()));
        }
        must!(write(client, b"hi".as_ptr().cast(), 2));
        v.eq("accept and read", Ok(Ok((Ok(2), *b"hi\0\0\0\0\0\0"))), t.end(5000));
    }),
    victim("recv", |v| {
        let (a, b) = socketpair(libc::SOCK_STREAM);
        let t = enter(v, "blocked", &[libc::SYS_recvfrom], move || {
            let mut buf = [0u8; 8];
            (raw!(libc::SYS_recvfrom, a, buf.as_mut_ptr(), 8, 0, 0, 0), buf)
        });
        still(v, &t);
        must!(send(b, b"hello".as_ptr().cast(), 5, 0));
        v.eq("recv", Ok((Ok(5), *b"hello\0\0\0")), t.end(5000));
    }),
    victim("recv-waitall", |v| {
        // Half of it is there already; a stop may make it return that half.
        let (a, b) = socketpair(libc::SOCK_STREAM);
        must!(send(b, b"four".as_ptr().cast(), 4, 0));
        let t = enter(v, "blocked", &[libc::SYS_recvfrom], move || {
            let mut buf = [0u8; 8];
            let mut n = 0;
            while n < 8 {
                match raw!(libc::SYS_recvfrom, a, buf[n..].as_mut_ptr(), 8 - n, libc::MSG_WAITALL, 0, 0) {
                    Ok(m) => n += m as usize,
                    Err(libc::EINTR) => {}
                    Err(e) => return Err(e),
                }
            }
            Ok(buf)
        });
        still(v, &t);
        must!(send(b, b"more".as_ptr().cast(), 4, 0));
        v.eq("recv", Ok(Ok(*b"fourmore")), t.end(5000));
    }),
    victim("recvmsg", |v| {
        let (a, b) = socketpair(libc::SOCK_SEQPACKET);
        let t = enter(v, "blocked", &[libc::SYS_recvmsg], move || {
            let mut buf = [0u8; 8];
            let mut io = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: 8 };
            // SAFETY: a plain C structure.
            let mut m: libc::msghdr = unsafe { crate::sys::zeroed() };
            m.msg_iov = &raw mut io;
            m.msg_iovlen = 1;
            (raw!(libc::SYS_recvmsg, a, &raw mut m, 0), buf)
        });
        still(v, &t);
        must!(send(b, b"packet".as_ptr().cast(), 6, 0));
        v.eq("recvmsg", Ok((Ok(6), *b"packet\0\0")), t.end(5000));
    }),
    victim("send", |v| {
        let (a, b) = socketpair(libc::SOCK_STREAM);
        while call!(send(a, [7u8; 1024].as_ptr().cast(), 1024, libc::MSG_DONTWAIT)) > 0 {}
        let t =
            enter(v, "blocked", &[libc::SYS_sendto], move || raw!(libc::SYS_sendto, a, b"end".as_ptr(), 3, 0, 0, 0));
        // How much fits is no promise of the kernel's: the rest of the send may find room afterwards.
        v.wait();
        let mut buf = vec![0u8; 65536];
        let mut last = Vec::new();
        while !last.ends_with(b"end") {
            match call!(recv(b, buf.as_mut_ptr().cast(), buf.len(), 0)) {
                n if n > 0 => last = buf[..n as usize].to_vec(),
                _ => break,
            }
        }
        v.check("the end arrives", last.ends_with(b"end"));
        v.eq("send", Ok(Ok(3)), t.end(5000));
    }),
    victim("wait4", |v| {
        let (r, w) = pipe();
        let child = must!(fork());
        if child == 0 {
            call!(close(w));
            let mut b = 0u8;
            call!(read(r, (&raw mut b).cast(), 1));
            call!(_exit(i32::from(b)));
        }
        let t = enter(v, "blocked", &[libc::SYS_wait4], || {
            let mut status = 0i32;
            let pid = raw!(libc::SYS_wait4, -1, &raw mut status, 0, 0);
            (pid.is_ok_and(|p| p > 0), status)
        });
        still(v, &t);
        must!(write(w, [55u8].as_ptr().cast(), 1));
        v.eq("wait4", Ok((true, 55 << 8)), t.end(5000));
    }),
    victim("waitid", |v| {
        let (r, w) = pipe();
        let child = must!(fork());
        if child == 0 {
            call!(close(w));
            let mut b = 0u8;
            call!(read(r, (&raw mut b).cast(), 1));
            call!(_exit(i32::from(b)));
        }
        let t = enter(v, "blocked", &[libc::SYS_waitid], || {
            // SAFETY: a plain C structure.
            let mut info: libc::siginfo_t = unsafe { crate::sys::zeroed() };
            let r = raw!(libc::SYS_waitid, libc::P_ALL, 0, &raw mut info, libc::WEXITED, 0);
            // SAFETY: waitid filled it.
            (r, unsafe { info.si_status() })
        });
        still(v, &t);
        must!(write(w, [56u8].as_ptr().cast(), 1));
        v.eq("waitid", Ok((Ok(0), 56)), t.end(5000));
    }),
    victim("pause", |v| {
        extern "C" fn nothing(_: i32) {}
        must!(signal(libc::SIGUSR1, nothing as *const () as usize));
        let t = enter(v, "blocked", &[libc::SYS_pause], || raw!(libc::SYS_pause));
        still(v, &t);
        v.check("the signal is sent", t.signal(libc::SIGUSR1).is_ok());
        v.eq("pause", Ok(Err(libc::EINTR)), t.end(5000));
    }),
    flagged("flock", &[Flag::NoDup("a lock has one holder")], |v| {
        let file = c(&v.path("lock"));
        let open = || must!(open(file.as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o600));
        let (a, b) = (open(), open());
        must!(flock(a, libc::LOCK_EX));
        let t = enter(v, "blocked", &[libc::SYS_flock], move || {
            (raw!(libc::SYS_flock, b, libc::LOCK_EX), raw!(libc::SYS_flock, b, libc::LOCK_UN))
        });
        still(v, &t);
        must!(flock(a, libc::LOCK_UN));
        v.eq("flock, and its end", Ok((Ok(0), Ok(0))), t.end(10_000));
    }),
    flagged("lockf", &[Flag::NoDup("a lock has one holder")], |v| {
        // A lock of another process of the tree, waited for.
        let path = v.path("lock");
        let file = c(&path);
        v.spawn(move |child| {
            let fd = must!(open(file.as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o600));
            must!(lockf(fd, libc::F_LOCK, 10));
            child.wait();
            must!(close(fd));
        });
        let file = c(&path);
        let t = enter(v, "blocked", &[libc::SYS_fcntl], move || {
            let fd = must!(open(file.as_ptr(), libc::O_RDWR));
            // SAFETY: a plain C structure.
            let mut l: libc::flock = unsafe { crate::sys::zeroed() };
            l.l_type = libc::F_WRLCK as i16;
            l.l_len = 10;
            raw!(libc::SYS_fcntl, fd, libc::F_SETLKW, &raw const l)
        });
        v.wait();
        v.join();
        v.eq("F_SETLKW", Ok(Ok(0)), t.end(10_000));
    }),
    flagged("open-fifo", &[Flag::NoDup("a FIFO's bytes reach one reader")], |v| {
        let path = v.path(&format!("fifo.{}", std::process::id()));
        let fifo = c(&path);
        must!(mkfifo(fifo.as_ptr(), 0o600));
        let reader = fifo.clone();
        let t = enter(v, "blocked", &[libc::SYS_openat, libc::SYS_open], move || {
            let fd = raw!(libc::SYS_openat, libc::AT_FDCWD, reader.as_ptr(), libc::O_RDONLY, 0)?;
            let mut b = [0u8; 8];
            let n = raw!(libc::SYS_read, fd, b.as_mut_ptr(), 8);
            Ok::<_, i32>((n, b))
        });
        still(v, &t);
        // A duplicate opens the same FIFO: whoever writes, both sides of one process meet at last.
        let w = must!(open(fifo.as_ptr(), libc::O_WRONLY));
        must!(write(w, b"fifo".as_ptr().cast(), 4));
        must!(close(w));
        v.eq("open and read", Ok(Ok((Ok(4), *b"fifo\0\0\0\0"))), t.end(5000));
    }),
    victim("eventfd-read", |v| {
        let fd = must!(eventfd(0, 0));
        let t = enter(v, "blocked", &[libc::SYS_read], move || {
            let mut n = 0u64;
            (raw!(libc::SYS_read, fd, &raw mut n, 8), n)
        });
        still(v, &t);
        must!(write(fd, std::ptr::from_ref(&77u64).cast(), 8));
        v.eq("read", Ok((Ok(8), 77)), t.end(5000));
    }),
    flagged("semop", &[Flag::NoDup("both would use one semaphore")], |v| {
        // SysV: the set is the ipc namespace's, so a duplicate shares it.
        let id = call!(semget(libc::IPC_PRIVATE, 1, 0o600));
        if id == -1 {
            v.skip("no SysV semaphores here");
        }
        let t = enter(v, "blocked", &[libc::SYS_semop, libc::SYS_semtimedop], move || {
            let down = libc::sembuf { sem_num: 0, sem_op: -1, sem_flg: 0 };
            loop {
                match raw!(libc::SYS_semop, id, &raw const down, 1) {
                    Err(libc::EINTR) => {}
                    other => return other,
                }
            }
        });
        still(v, &t);
        let up = libc::sembuf { sem_num: 0, sem_op: 1, sem_flg: 0 };
        v.eq("semop up", Ok(0), raw!(libc::SYS_semop, id, &raw const up, 1));
        v.eq("semop down", Ok(Ok(0)), t.end(5000));
        call!(semctl(id, 0, libc::IPC_RMID));
    }),
];

/// Waits; the thread must still be where it was.
fn still<T: Send + 'static>(v: &mut Ctx, t: &Inside<T>) {
    v.wait();
    sleep_ms(20);
    v.check("the call still waits", !t.is_back());
}

fn pipe() -> (i32, i32) {
    let mut ends = [0; 2];
    must!(pipe(ends.as_mut_ptr()));
    (ends[0], ends[1])
}

fn socketpair(kind: i32) -> (i32, i32) {
    let mut ends = [0; 2];
    must!(socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()));
    (ends[0], ends[1])
}

fn unix(path: &str) -> libc::sockaddr_un {
    // SAFETY: a plain C structure.
    let mut a: libc::sockaddr_un = unsafe { crate::sys::zeroed() };
    a.sun_family = libc::AF_UNIX as u16;
    for (to, from) in a.sun_path.iter_mut().zip(path.bytes()) {
        *to = from as libc::c_char;
    }
    a
}
