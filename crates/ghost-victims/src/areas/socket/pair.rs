//! Pairs of unix sockets: data in flight, halves shut down, options.
use crate::Victim;
use crate::kit::fd::{self, Facts};
use crate::kit::sock::{self};
use crate::kit::{Errno, fails, pattern, row, run, same, same_bytes, task};
use libc::{SO_PASSCRED, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET};

/// Fills one direction of a socket until it would block; the pieces that went in.
fn fill(f: i32, seed: u64, len: usize) -> Result<Vec<Vec<u8>>, Errno> {
    let mut all = Vec::new();
    for n in 0.. {
        let part = pattern(seed + n, len);
        match fd::write(f, &part) {
            Ok(done) => all.push(part[..done].to_vec()),
            Err(e) if e.code == libc::EAGAIN => break,
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

pub(super) const VICTIMS: &[Victim] = &[
    // ---- pairs: data ----------------------------------------------------------------------------------------
    row!("pair-empty", |s| {
        let mut list = Vec::new();
        for kind in [SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET] {
            let (a, b) = sock::pair(kind | libc::SOCK_CLOEXEC)?;
            fd::fcntl(b, libc::F_SETFL, libc::O_NONBLOCK.into())?;
            list.push((kind, a, b, Facts::of(a)?.nameless(), Facts::of(b)?.nameless()));
        }
        s.wait();
        for (kind, a, b, fa, fb) in list {
            fa.still("first end", a)?;
            fb.still("second end", b)?;
            same("type", kind, sock::get(a, SOL_SOCKET, libc::SO_TYPE)?)?;
            same("domain", libc::AF_UNIX, sock::get(a, SOL_SOCKET, libc::SO_DOMAIN)?)?;
            fails("empty", libc::EAGAIN, fd::read(b, 1))?;
            fd::write_full(a, b"one way")?;
            same_bytes("one way", b"one way", &fd::read(b, 100)?)?;
            fd::write_full(b, b"the other")?;
            same_bytes("the other way", b"the other", &fd::read(a, 100)?)?;
        }
    }),
    row!("pair-stream-data", |s| {
        let (a, b) = sock::pair(SOCK_STREAM)?;
        fd::write_full(a, &pattern(1, 30_000))?;
        fd::write_full(b, &pattern(2, 777))?;
        fd::read_full(b, 1234)?;
        s.wait();
        same("readable", (777, 28_766), (fd::readable(a)?, fd::readable(b)?))?;
        fd::write_full(a, b"more")?;
        same_bytes("one way", &pattern(1, 30_000)[1234..], &fd::read_full(b, 28_766)?)?;
        same_bytes("what was sent after", b"more", &fd::read(b, 100)?)?;
        same_bytes("the other way", &pattern(2, 777), &fd::read(a, 1000)?)?;
        fails("more", libc::EAGAIN, sock::recv_now(a, 1))?;
    }),
    row!("pair-stream-full", |s| {
        let (a, b) = sock::pair(SOCK_STREAM | libc::SOCK_NONBLOCK)?;
        let all = fill(a, 3, 4000)?.concat();
        s.wait();
        same_bytes("data", &all, &fd::read_full(b, all.len())?)?;
        fails("more", libc::EAGAIN, fd::read(b, 1))?;
        fd::write_full(a, b"room again")?;
        same_bytes("more data", b"room again", &fd::read(b, 100)?)?;
    }),
    row!("pair-datagrams", |s| {
        let (a, b) = sock::pair(SOCK_DGRAM | libc::SOCK_NONBLOCK)?;
        for n in 0..8u64 {
            fd::write(a, &pattern(n, n as usize * 500))?; // an empty one first
        }
        fd::write(a, b"")?;
        s.wait();
        for n in 0..8u64 {
            same_bytes(&format!("datagram {n}"), &pattern(n, n as usize * 500), &sock::recv(b, 10_000, 0)?.data)?;
        }
        same("an empty datagram", 0, sock::recv(b, 10, 0)?.data.len())?;
        fails("more", libc::EAGAIN, sock::recv(b, 10, 0))?;
        fd::write_full(a, b"long")?;
        same(
            "truncation",
            (2, libc::MSG_TRUNC),
            sock::recv(b, 2, 0).map(|g| (g.data.len(), g.flags & libc::MSG_TRUNC))?,
        )?;
    }),
    row!("pair-empty-among-others", |s| {
        // Also beside descriptors, where two parts of ghost would like to look.
        let (a, b) = sock::pair(SOCK_DGRAM | libc::SOCK_NONBLOCK)?;
        let (r, w) = fd::pipe(0)?;
        let texts = [&b"one"[..], b"", b"", b"two", b""];
        for (n, text) in texts.iter().enumerate() {
            sock::send(a, text, &[w][..usize::from(n == 2 || n == 3)], None)?;
        }
        fd::close(w)?;
        s.wait();
        for (n, text) in texts.iter().enumerate() {
            let got = sock::recv(b, 100, 0)?;
            same_bytes("message", text, &got.data)?;
            same(&format!("descriptors with message {n}"), usize::from(n == 2 || n == 3), got.fds.len())?;
            for f in got.fds {
                fd::write_full(f, b"w")?;
                fd::close(f)?;
            }
        }
        fails("more", libc::EAGAIN, sock::recv(b, 10, 0))?;
        same_bytes("through the pipe", b"ww", &fd::read(r, 10)?)?;
    }),
    row!("pair-seqpackets", |s| {
        let (a, b) = sock::pair(SOCK_SEQPACKET | libc::SOCK_NONBLOCK)?;
        for n in 1..9u64 {
            fd::write_full(a, &pattern(n, n as usize * 700))?;
        }
        fd::write_full(b, b"back")?;
        s.wait();
        for n in 1..9u64 {
            same_bytes(&format!("packet {n}"), &pattern(n, n as usize * 700), &sock::recv(b, 10_000, 0)?.data)?;
        }
        same_bytes("the other way", b"back", &sock::recv(a, 100, 0)?.data)?;
        fd::close(a)?;
        same("end", 0, fd::read(b, 10)?.len())?;
    }),
    row!("pair-datagrams-full", |s| {
        let (a, b) = sock::pair(SOCK_DGRAM | libc::SOCK_NONBLOCK)?;
        let all = fill(a, 4, 100)?;
        s.wait();
        fails("one more", libc::EAGAIN, fd::write(a, b"x"))?;
        for (n, part) in all.iter().enumerate() {
            same_bytes(&format!("datagram {n}"), part, &sock::recv(b, 1000, 0)?.data)?;
        }
        fails("more", libc::EAGAIN, sock::recv(b, 10, 0))?;
    }),
    row!("pair-large-datagram", |s| {
        let (a, b) = sock::pair(SOCK_SEQPACKET | libc::SOCK_NONBLOCK)?;
        fd::write_full(a, &pattern(5, 150_000))?;
        s.wait();
        same_bytes("datagram", &pattern(5, 150_000), &sock::recv(b, 200_000, 0)?.data)?;
    }),
    row!("pair-out-of-band", |s| {
        let (a, b) = sock::pair(SOCK_STREAM | libc::SOCK_NONBLOCK)?;
        fd::write_full(a, b"before")?;
        if fd::raw("sendto", libc::SYS_sendto, [a.into(), b"!".as_ptr() as i64, 1, libc::MSG_OOB.into(), 0, 0]).is_err()
        {
            s.skip("no MSG_OOB on unix sockets");
        }
        s.wait();
        same_bytes("urgent byte", b"!", &sock::recv(b, 1, libc::MSG_OOB)?.data)?;
        same_bytes("data before it", b"before", &fd::read(b, 100)?)?;
    }),
    row!("pair-out-of-band-places", |s| {
        // The byte before, between and after others, alone, in line with them, and the second of two.
        let oob = |f: i32, b: &[u8]| {
            fd::raw(
                "sendto",
                libc::SYS_sendto,
                [f.into(), b.as_ptr() as i64, b.len() as i64, libc::MSG_OOB.into(), 0, 0],
            )
        };
        let mut all = Vec::new();
        for (nth, parts) in
            [&["<!", "after"][..], &["before", "<!"], &["<!"], &["<old", "<new", "after"], &["a", "<!", "b"]]
                .iter()
                .enumerate()
        {
            let (a, b) = sock::pair(SOCK_STREAM | libc::SOCK_NONBLOCK)?;
            sock::set(b, SOL_SOCKET, libc::SO_OOBINLINE, i32::from(nth == 4))?;
            for part in *parts {
                match part.strip_prefix('<') {
                    Some(part) if oob(a, part.as_bytes()).is_err() => s.skip("no MSG_OOB on unix sockets"),
                    Some(_) => {}
                    None => fd::write_full(a, part.as_bytes())?,
                }
            }
            all.push((a, b));
        }
        let told = |b: i32| {
            let mut mark = 0;
            fd::raw_ref("SIOCATMARK", libc::SYS_ioctl, [b.into(), 0x8905, 0, 0, 0, 0], 2, &mut mark)?;
            Ok::<_, String>((fd::poll_now(b, libc::POLLIN | libc::POLLPRI)?, mark, fd::readable(b)?))
        };
        let before: Vec<_> = all.iter().map(|p| told(p.1)).collect::<Result<_, _>>()?;
        s.wait();
        for (&(_, b), before) in all.iter().zip(before) {
            same("poll, mark and length", before, told(b)?)?;
        }
        let byte = |nth: usize| sock::recv(all[nth].1, 1, libc::MSG_OOB).map(|m| m.data);
        let read = |nth: usize| fd::read(all[nth].1, 100);
        same_bytes("first", b"!", &byte(0)?)?;
        same_bytes("after it", b"after", &read(0)?)?;
        same_bytes("before the last", b"before", &read(1)?)?;
        same_bytes("last", b"!", &byte(1)?)?;
        same_bytes("alone", b"!", &byte(2)?)?;
        same_bytes("up to the second", b"oldne", &read(3)?)?;
        same_bytes("the second", b"w", &byte(3)?)?;
        same_bytes("after the second", b"after", &read(3)?)?;
        same_bytes("up to the one in line", b"a", &read(4)?)?;
        same_bytes("in line", b"!b", &read(4)?)?;
        for (a, b) in all {
            fd::write_full(a, b"more")?;
            same_bytes("more", b"more", &fd::read(b, 100)?)?;
        }
    }),
    row!("pair-peek-offset", |s| {
        let (a, b) = sock::pair(SOCK_STREAM)?;
        fd::write_full(a, b"0123456789")?;
        sock::set(b, SOL_SOCKET, libc::SO_PEEK_OFF, 4)?;
        s.wait();
        same("offset", 4, sock::get(b, SOL_SOCKET, libc::SO_PEEK_OFF)?)?;
        same_bytes("peek", b"45", &sock::recv(b, 2, libc::MSG_PEEK)?.data)?;
        same_bytes("next peek", b"67", &sock::recv(b, 2, libc::MSG_PEEK)?.data)?;
    }),
    // ---- pairs: ends ----------------------------------------------------------------------------------------
    row!("pair-shutdown", |s| {
        task::ignore(libc::SIGPIPE);
        let (a, b) = sock::pair(SOCK_STREAM | libc::SOCK_NONBLOCK)?;
        fd::write_full(a, b"last")?;
        sock::shutdown(a, libc::SHUT_WR)?;
        let (c, d) = sock::pair(SOCK_STREAM | libc::SOCK_NONBLOCK)?;
        sock::shutdown(c, libc::SHUT_RD)?;
        let (e, f) = sock::pair(SOCK_SEQPACKET | libc::SOCK_NONBLOCK)?;
        sock::shutdown(e, libc::SHUT_RDWR)?;
        s.wait();
        same_bytes("data before the end", b"last", &fd::read(b, 100)?)?;
        same("end", 0, fd::read(b, 100)?.len())?;
        fails("writing on the half that is shut", libc::EPIPE, fd::write(a, b"x"))?;
        fd::write_full(b, b"open half")?;
        same_bytes("open half", b"open half", &fd::read(a, 100)?)?;
        same("reading where reading is shut", 0, fd::read(c, 10)?.len())?;
        fails("writing to it", libc::EPIPE, fd::write(d, b"x"))?;
        fd::write_full(c, b"still")?;
        same_bytes("its other half", b"still", &fd::read(d, 100)?)?;
        same("both halves shut", (0, 0), (fd::read(e, 1)?.len(), fd::read(f, 1)?.len()))?;
        fails("writing with both shut", libc::EPIPE, fd::write(f, b"x"))?;
    }),
    row!("pair-peer-closed", |s| {
        task::ignore(libc::SIGPIPE);
        let (a, b) = sock::pair(SOCK_STREAM)?;
        fd::write_full(b, b"will")?;
        fd::close(b)?;
        let (c, d) = sock::pair(SOCK_DGRAM)?;
        fd::close(d)?;
        let (e, g) = sock::pair(SOCK_SEQPACKET)?;
        fd::close(g)?;
        s.wait();
        same_bytes("what the peer left", b"will", &fd::read(a, 100)?)?;
        same("end", 0, fd::read(a, 100)?.len())?;
        same("poll", libc::POLLIN | libc::POLLHUP, fd::poll_now(a, libc::POLLIN)? & (libc::POLLIN | libc::POLLHUP))?;
        fails("writing to a stream", libc::EPIPE, fd::write(a, b"x"))?;
        fails("sending a datagram", libc::ECONNREFUSED, fd::write(c, b"x"))?;
        fails("sending a packet", libc::EPIPE, fd::write(e, b"x"))?;
        same("end of packets", 0, fd::read(e, 10)?.len())?;
    }),
    row!("pair-reset", |s| {
        // Closed with data unread: the other end hears of it once.
        let (a, b) = sock::pair(SOCK_STREAM)?;
        fd::write_full(a, b"never read")?;
        fd::close(b)?;
        s.wait();
        fails("reading", libc::ECONNRESET, fd::read(a, 10))?;
        same("reading again", 0, fd::read(a, 10)?.len())?;
    }),
    row!("pair-parent-child", |s| {
        let (a, b) = sock::pair(SOCK_STREAM)?;
        s.spawn(|c| {
            run(c, |c| {
                fd::close(a)?;
                fd::write_full(b, b"hello ")?;
                c.ready();
                // Blocked in recvmsg(2) during the wait.
                same_bytes("question", b"question", &fd::read_full(b, 8)?)?;
                fd::write_full(b, b"answer")?;
                c.await_go();
                Ok(())
            });
        });
        fd::close(b)?;
        s.wait();
        fd::write_full(a, b"question")?;
        same_bytes("all the child said", b"hello answer", &fd::read_full(a, 12)?)?;
        s.join();
        same("end", 0, fd::read(a, 1)?.len())?;
    }),
    row!("pair-many", |s| {
        let list: Vec<_> = (0..100).map(|_| sock::pair(SOCK_STREAM)).collect::<Result<_, _>>()?;
        for (n, (a, _)) in list.iter().enumerate() {
            fd::write_full(*a, &pattern(n as u64, n + 1))?;
        }
        s.wait();
        for (n, (_, b)) in list.iter().enumerate() {
            same_bytes(&format!("data of pair {n}"), &pattern(n as u64, n + 1), &fd::read(*b, 1000)?)?;
        }
    }),
    // ---- options --------------------------------------------------------------------------------------------
    row!("options", |s| {
        let (a, b) = sock::pair(SOCK_STREAM)?;
        let timeout = |sec: i64, usec: i64| [sec.to_ne_bytes(), usec.to_ne_bytes()].concat();
        sock::set(a, SOL_SOCKET, libc::SO_SNDBUF, 30_000)?;
        sock::set(a, SOL_SOCKET, libc::SO_RCVBUF, 40_000)?;
        sock::set_raw(a, SOL_SOCKET, libc::SO_RCVTIMEO, &timeout(0, 120_000))?;
        sock::set_raw(a, SOL_SOCKET, libc::SO_SNDTIMEO, &timeout(7, 0))?;
        sock::set(a, SOL_SOCKET, SO_PASSCRED, 1)?;
        sock::set(a, SOL_SOCKET, libc::SO_PASSSEC, 1)?;
        sock::set_raw(a, SOL_SOCKET, libc::SO_LINGER, &[1i32.to_ne_bytes(), 5i32.to_ne_bytes()].concat())?;
        sock::set(a, SOL_SOCKET, libc::SO_PRIORITY, 4)?;
        sock::set(a, SOL_SOCKET, libc::SO_TIMESTAMP, 1)?;
        sock::set(a, SOL_SOCKET, libc::SO_RCVLOWAT, 3)?;
        sock::set(a, SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
        sock::set(a, SOL_SOCKET, libc::SO_BROADCAST, 1)?;
        sock::set(a, SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        let _ = sock::set(a, SOL_SOCKET, libc::SO_MARK, 77);
        let names = [
            libc::SO_SNDBUF,
            libc::SO_RCVBUF,
            libc::SO_RCVTIMEO,
            libc::SO_SNDTIMEO,
            SO_PASSCRED,
            libc::SO_PASSSEC,
            libc::SO_LINGER,
            libc::SO_PRIORITY,
            libc::SO_TIMESTAMP,
            libc::SO_RCVLOWAT,
            libc::SO_KEEPALIVE,
            libc::SO_BROADCAST,
            libc::SO_REUSEADDR,
            libc::SO_MARK,
            libc::SO_TYPE,
            libc::SO_ACCEPTCONN,
            libc::SO_ERROR,
        ];
        let read = move |f: i32| names.map(|n| (n, sock::get_raw(f, SOL_SOCKET, n).ok()));
        let before = (read(a), read(b));
        s.wait();
        same("options of the first", before.0, read(a))?;
        same("options of the second", before.1, read(b))?;
        let begin = crate::sys::now_ns();
        fails("reading with a time limit", libc::EAGAIN, fd::read(a, 10))?;
        s.within("time until it gave up, ms", 100, 5000, (crate::sys::now_ns() - begin) / 1_000_000);
    }),
];
