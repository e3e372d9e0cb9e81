//! Descriptors and credentials in flight between unix sockets, and those of a peer.
use super::unix::name;
use crate::kit::fd::{self};
use crate::kit::sock::{self, Got};
use crate::kit::{Errno, pattern, row, run, same, same_bytes, task, truth};
use crate::{Flag, Victim};
use libc::{SO_PASSCRED, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET};

pub(super) const VICTIMS: &[Victim] = &[
    // ---- descriptors and credentials in flight --------------------------------------------------------------
    row!("rights-in-flight", |s| {
        let (a, b) = sock::pair(SOCK_STREAM)?;
        let f = fd::open(s.path("f"), libc::O_RDWR | libc::O_CREAT)?;
        fd::write_full(f, b"0123456789")?;
        fd::lseek(f, 3, libc::SEEK_SET)?;
        let (r, w) = fd::pipe(0)?;
        fd::write_full(a, b"plain ")?;
        sock::send(a, b"with two", &[f, r], None)?;
        fd::write_full(a, b" plain")?;
        fd::close(f)?;
        fd::close(r)?; // only in flight now
        fd::write_full(w, b"in a pipe in flight")?;
        s.wait();
        same_bytes("before", b"plain ", &sock::recv(b, 6, 0)?.data)?;
        let got = sock::recv(b, 100, 0)?;
        truth("data that goes with the descriptors", got.data.starts_with(b"with two"))?;
        same("descriptors", 2, got.fds.len())?;
        same_bytes("file at its offset", b"3456789", &fd::read(got.fds[0], 100)?)?;
        same_bytes("pipe", b"in a pipe in flight", &fd::read(got.fds[1], 100)?)?;
        let rest = [got.data[8..].to_vec(), sock::recv_now(b, 100).map(|g| g.data).unwrap_or_default()].concat();
        same_bytes("after", b" plain", &rest)?;
    }),
    row!("rights-in-empty-datagram", |s| {
        // Nothing but a descriptor, and a message with bytes behind it.
        let (a, b) = sock::pair(SOCK_DGRAM | libc::SOCK_NONBLOCK)?;
        let (r, w) = fd::pipe(0)?;
        fd::write_full(w, b"in a pipe")?;
        sock::send(a, b"", &[r], None)?;
        sock::send(a, b"bytes", &[r], None)?;
        fd::close(r)?;
        s.wait();
        let first = sock::recv(b, 100, 0)?;
        same("bytes of the first", 0, first.data.len())?;
        same("descriptors of the first", 1, first.fds.len())?;
        same_bytes("pipe", b"in a pipe", &fd::read(first.fds[0], 100)?)?;
        let second = sock::recv(b, 100, 0)?;
        same_bytes("the second", b"bytes", &second.data)?;
        same("descriptors of the second", 1, second.fds.len())?;
    }),
    row!("rights-in-flight-shared", |s| {
        // What is in flight is the description that is open too.
        let (a, b) = sock::pair(SOCK_DGRAM)?;
        let f = fd::open(s.path("f"), libc::O_RDWR | libc::O_CREAT)?;
        fd::write_full(f, &pattern(6, 100))?;
        sock::send(a, b"first", &[f], None)?;
        sock::send(a, b"second", &[f, f], None)?;
        s.wait();
        let got = [sock::recv(b, 100, 0)?, sock::recv(b, 100, 0)?];
        same("descriptors", (1, 2), (got[0].fds.len(), got[1].fds.len()))?;
        fd::lseek(f, 42, libc::SEEK_SET)?;
        for g in [got[0].fds[0], got[1].fds[0], got[1].fds[1]] {
            same("offset of what was in flight", 42, fd::tell(g)?)?;
        }
    }),
    row!("rights-nested", |s| {
        // A socket in flight, with a descriptor in flight in its own queue.
        let (a, b) = sock::pair(SOCK_STREAM)?;
        let (c, d) = sock::pair(SOCK_STREAM)?;
        let e = fd::eventfd(99, 0)?;
        sock::send(c, b"inner", &[e], None)?;
        sock::send(a, b"outer", &[d, c], None)?;
        for f in [c, d, e] {
            fd::close(f)?;
        }
        s.wait();
        let outer = sock::recv(b, 100, 0)?;
        same("outer", (b"outer".to_vec(), 2), (outer.data, outer.fds.len()))?;
        let inner = sock::recv(outer.fds[0], 100, 0)?;
        same("inner", (b"inner".to_vec(), 1), (inner.data, inner.fds.len()))?;
        same("eventfd", 99u64.to_ne_bytes().to_vec(), fd::read(inner.fds[0], 8)?)?;
        fd::write_full(outer.fds[1], b"alive")?;
        same_bytes("pair that was in flight", b"alive", &fd::read(outer.fds[0], 100)?)?;
    }),
    row!("rights-self", |s| {
        // A pair in its own queue: a circle that nobody reaches but through itself.
        let (a, b) = sock::pair(SOCK_STREAM)?;
        sock::send(a, b"myself", &[b], None)?;
        s.wait();
        let got = sock::recv(b, 100, 0)?;
        same("data", b"myself".to_vec(), got.data)?;
        same("the description itself", true, fd::shared(got.fds[0], b)?)?;
    }),
    row!("rights-epoll", |s| {
        // An epoll that nobody has but the queue; one of its targets has its number, another has given it up.
        let (a, b) = sock::pair(SOCK_STREAM)?;
        let (ep, one, two) =
            (fd::raw("epoll_create1", libc::SYS_epoll_create1, [0; 6])? as i32, fd::eventfd(1, 0)?, fd::eventfd(2, 0)?);
        for (f, data) in [(one, 71), (two, 72)] {
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: data };
            let args = [ep.into(), libc::EPOLL_CTL_ADD.into(), f.into(), 0, 0, 0];
            fd::raw_ref("epoll_ctl", libc::SYS_epoll_ctl, args, 3, &mut event)?;
        }
        let other = fd::dup(two)?;
        fd::close(two)?;
        sock::send(a, b"epoll", &[ep], None)?;
        fd::close(ep)?;
        let numbers = fd::numbers()?;
        s.wait();
        same("descriptors", numbers, fd::numbers()?)?;
        let ep = sock::recv(b, 100, 0)?.fds[0];
        let ready = || -> Result<Vec<u64>, Errno> {
            let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
            let n = fd::raw_ref("epoll_wait", libc::SYS_epoll_wait, [ep.into(), 0, 4, 0, 0, 0], 1, &mut events)?;
            let mut data: Vec<u64> = events[..n as usize].iter().map(|e| e.u64).collect();
            data.sort_unstable();
            Ok(data)
        };
        same("ready", vec![71, 72], ready()?)?;
        fd::close(other)?;
        same("ready once one is closed", vec![71], ready()?)?;
        let args = [ep.into(), libc::EPOLL_CTL_DEL.into(), one.into(), 0, 0, 0];
        fd::raw("epoll_ctl", libc::SYS_epoll_ctl, args)?;
        same("ready once the other is taken out", Vec::new(), ready()?)?;
    }),
    row!("rights-circle-named", [Flag::NoDup("two copies cannot both have the name")], |s| {
        // Datagram sockets with names, all in the queues of all: the kernel keeps such a circle, and its names, for a while after
        // the program's death.
        let (a, b) = sock::pair(SOCK_DGRAM | libc::SOCK_NONBLOCK)?;
        let mut names = Vec::new();
        for (f, which) in [(a, "a"), (b, "b")] {
            let name = format!("@circle.{}.{}.{which}", task::pid(), crate::sys::now_ns());
            sock::bind(f, &sock::unix(&name))?;
            names.push(sock::local(f)?);
            for (n, flying) in [a, b].iter().enumerate() {
                sock::send(f, format!("{which}{n}").as_bytes(), &[*flying], None)?;
            }
        }
        s.wait();
        for (f, text) in [(a, ["b0", "b1"]), (b, ["a0", "a1"])] {
            for (n, text) in text.iter().enumerate() {
                let got = sock::recv(f, 100, 0)?;
                same("data", text.as_bytes().to_vec(), got.data)?;
                same("the description itself", true, fd::shared(got.fds[0], [a, b][n])?)?;
                same("name", names[n].clone(), sock::local(got.fds[0])?)?;
            }
        }
    }),
    row!("credentials-in-flight", |s| {
        let (a, b) = sock::pair(SOCK_DGRAM | libc::SOCK_NONBLOCK)?;
        sock::set(b, SOL_SOCKET, SO_PASSCRED, 1)?;
        sock::send(a, b"signed", &[], None)?;
        let (uid, gid) = (crate::call!(getuid()), crate::call!(getgid()));
        s.wait();
        same("option", 1, sock::get(b, SOL_SOCKET, SO_PASSCRED)?)?;
        let got = sock::recv(b, 100, 0)?;
        same("data", b"signed".to_vec(), got.data)?;
        same("uid and gid of the sender", Some((uid, gid)), got.cred.map(|c| (c.1, c.2)))?;
        sock::send(a, b"later", &[], None)?;
        let Got { cred, .. } = sock::recv(b, 100, 0)?;
        same("sender of a later one", Some((task::pid(), uid, gid)), cred)?;
    }),
    row!("credentials-in-flight-pid", [Flag::SamePid], |s| {
        let (a, b) = sock::pair(SOCK_DGRAM)?;
        sock::set(b, SOL_SOCKET, SO_PASSCRED, 1)?;
        sock::send(a, b"mine", &[], None)?;
        s.spawn(|c| {
            run(c, |c| {
                sock::send(a, b"the child's", &[], None)?;
                c.wait();
                Ok(())
            });
        });
        s.wait();
        same("sender", Some(task::pid()), sock::recv(b, 100, 0)?.cred.map(|c| c.0))?;
        let theirs = sock::recv(b, 100, 0)?;
        same("data", b"the child's".to_vec(), theirs.data)?;
        truth("the child's pid", theirs.cred.is_some_and(|c| c.0 != task::pid() && c.0 > 0))?;
    }),
    row!("peer-credentials", |s| {
        let (a, b) = sock::pair(SOCK_STREAM)?;
        let (uid, gid) = (crate::call!(getuid()), crate::call!(getgid()));
        s.wait();
        for f in [a, b] {
            let cred = sock::get_raw(f, SOL_SOCKET, libc::SO_PEERCRED)?;
            let word = |i: usize| u32::from_ne_bytes([cred[i], cred[i + 1], cred[i + 2], cred[i + 3]]);
            same("uid and gid of the peer", (uid, gid), (word(4), word(8)))?;
        }
    }),
    row!("peer-credentials-pid", [Flag::SamePid], |s| {
        let path = name(s, "n");
        let server = sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?;
        sock::bind(server, &sock::unix(&path))?;
        sock::listen(server, 5)?;
        let child = s.spawn(|c| {
            run(c, |c| {
                let f = sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?;
                sock::connect(f, &sock::unix(&c.path("n")))?;
                c.wait();
                let cred = sock::get_raw(f, SOL_SOCKET, libc::SO_PEERCRED)?;
                same("pid of the server", task::ppid().to_ne_bytes().to_vec(), cred[..4].to_vec())
            });
        });
        let f = sock::accept(server, 0)?;
        s.wait();
        let cred = sock::get_raw(f, SOL_SOCKET, libc::SO_PEERCRED)?;
        same("pid of the client", child.to_ne_bytes().to_vec(), cred[..4].to_vec())?;
    }),
];
