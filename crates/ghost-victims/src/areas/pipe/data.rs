//! Data in flight in pipes and FIFOs: how much, in which pieces, in how large a pipe.
use crate::kit::fd::{self, Facts};
use crate::kit::{Errno, fails, pattern, row, run, same, same_bytes, task, truth};
use crate::{Flag, Victim};

const SETSZ: i32 = 1031; // F_SETPIPE_SZ
const GETSZ: i32 = 1032;
const NB: i32 = libc::O_NONBLOCK;

/// A pipe of that size, both ends non-blocking.
fn sized(size: i64) -> Result<(i32, i32), Errno> {
    let (r, w) = fd::pipe(NB)?;
    fd::fcntl(w, SETSZ, size)?;
    Ok((r, w))
}

/// Writes until the pipe is full; gives what went in.
fn fill(w: i32, seed: u64, piece: usize) -> Result<Vec<u8>, Errno> {
    let mut all = Vec::new();
    for n in 0.. {
        let part = pattern(seed + n, piece);
        match fd::write(w, &part) {
            Ok(len) => all.extend_from_slice(&part[..len]),
            Err(e) if e.code == libc::EAGAIN => break,
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

fn splice(from: i32, to: i32, len: usize) -> Result<i64, Errno> {
    fd::raw("splice", libc::SYS_splice, [from.into(), 0, to.into(), 0, len as i64, 0])
}

fn tee(from: i32, to: i32, len: usize) -> Result<i64, Errno> {
    fd::raw("tee", libc::SYS_tee, [from.into(), to.into(), len as i64, 0, 0, 0])
}

pub(super) const VICTIMS: &[Victim] = &[
    row!("empty", |s| {
        let (r, w) = fd::pipe(0)?;
        let facts = [Facts::of(r)?.nameless(), Facts::of(w)?.nameless()];
        s.wait();
        facts[0].still("read end", r)?;
        facts[1].still("write end", w)?;
        same("readable", 0, fd::readable(r)?)?;
        same("poll of the read end", 0, fd::poll_now(r, libc::POLLIN)?)?;
        same("poll of the write end", libc::POLLOUT, fd::poll_now(w, libc::POLLOUT)?)?;
        same("one pipe", fd::inode(r)?, fd::inode(w)?)?;
        fd::write_full(w, b"through")?;
        same_bytes("data", b"through", &fd::read(r, 100)?)?;
    }),
    row!("unread", |s| {
        // The last reader has gone and left bytes; whoever still writes can become a reader by /proc.
        task::ignore(libc::SIGPIPE);
        let (r, w) = fd::pipe(NB)?;
        fd::write_full(w, b"never read")?;
        fd::close(r)?;
        s.wait();
        same("readable", 10, fd::readable(w)?)?;
        same("poll of the write end", libc::POLLERR | libc::POLLOUT, fd::poll_now(w, libc::POLLOUT)?)?;
        fails("more", libc::EPIPE, fd::write(w, b"more"))?;
        let again = fd::open(format!("/proc/self/fd/{w}"), libc::O_RDONLY | NB)?;
        same_bytes("data", b"never read", &fd::read(again, 100)?)?;
        fd::write_full(w, b"more")?;
        same_bytes("data after it", b"more", &fd::read(again, 100)?)?;
    }),
    row!("unread-fifo", [Flag::NoDup("each would be the other's reader")], |s| {
        // Bytes in a FIFO without a reader live as long as a writer does: lost, and noted.
        task::ignore(libc::SIGPIPE);
        let path = s.path("fifo");
        fd::mkfifo(&path)?;
        let r = fd::open(&path, libc::O_RDONLY | NB)?;
        let w = fd::open(&path, libc::O_WRONLY | NB)?;
        fd::write_full(w, b"never read")?;
        fd::close(r)?;
        s.wait();
        fails("more", libc::EPIPE, fd::write(w, b"more"))?;
        let r = fd::open(&path, libc::O_RDONLY | NB)?;
        fd::write_full(w, b"read")?;
        truth("what is written now comes", fd::read(r, 100)?.ends_with(b"read"))?;
    }),
    row!("one-byte", |s| {
        let (r, w) = fd::pipe(NB)?;
        fd::write_full(w, b"1")?;
        s.wait();
        same("readable", 1, fd::readable(r)?)?;
        fd::write_full(w, b"2")?;
        same_bytes("data", b"12", &fd::read(r, 100)?)?;
        fails("more", libc::EAGAIN, fd::read(r, 1))?;
    }),
    row!("full", |s| {
        let (r, w) = fd::pipe(NB)?;
        let all = fill(w, 1, 4096)?;
        truth("64 KiB", all.len() == 65536)?;
        s.wait();
        fails("one byte more", libc::EAGAIN, fd::write(w, b"x"))?;
        same("poll of the write end", 0, fd::poll_now(w, libc::POLLOUT)?)?;
        same_bytes("data", &all, &fd::read_full(r, all.len())?)?;
        fails("more", libc::EAGAIN, fd::read(r, 1))?;
        same("poll of the write end, after", libc::POLLOUT, fd::poll_now(w, libc::POLLOUT)?)?;
    }),
    row!("full-of-odd-pieces", |s| {
        let (r, w) = fd::pipe(NB)?;
        let all = fill(w, 2, 1777)?;
        s.wait();
        same("readable", all.len() as i32, fd::readable(r)?)?;
        same_bytes("data", &all, &fd::read_full(r, all.len())?)?;
        fails("more", libc::EAGAIN, fd::read(r, 1))?;
    }),
    row!("partly-read", |s| {
        let (r, w) = fd::pipe(NB)?;
        let all = fill(w, 3, 5000)?;
        fd::read_full(r, 6789)?;
        s.wait();
        same_bytes("rest", &all[6789..], &fd::read_full(r, all.len() - 6789)?)?;
        fails("more", libc::EAGAIN, fd::read(r, 1))?;
    }),
    row!("sized", |s| {
        let mut list = Vec::new();
        for (n, size) in [4096i64, 8192, 65536, 262_144, 1 << 20].into_iter().enumerate() {
            let (r, w) = sized(size)?;
            fd::write_full(w, &pattern(n as u64, 100 + n))?;
            list.push((r, w, fd::fcntl(r, GETSZ, 0)?, n));
        }
        s.wait();
        for (r, w, size, n) in list {
            same("size", (size, size), (fd::fcntl(r, GETSZ, 0)?, fd::fcntl(w, GETSZ, 0)?))?;
            same_bytes("data", &pattern(n as u64, 100 + n), &fd::read(r, 1000)?)?;
            same("room", size as usize, fill(w, 9, 4096)?.len())?;
        }
    }),
    row!("one-MiB-full", |s| {
        let (r, w) = sized(1 << 20)?;
        let all = fill(w, 4, 65536)?;
        truth("1 MiB", all.len() == 1 << 20)?;
        s.wait();
        same("size", 1 << 20, fd::fcntl(r, GETSZ, 0)?)?;
        same_bytes("data", &all, &fd::read_full(r, all.len())?)?;
    }),
    row!("many-small-writes", |s| {
        let (r, w) = fd::pipe(NB)?;
        let mut all = Vec::new();
        for n in 0..1000u64 {
            let part = pattern(n, (n % 13) as usize + 1);
            fd::write_full(w, &part)?;
            all.extend(part);
        }
        s.wait();
        same_bytes("data", &all, &fd::read_full(r, all.len())?)?;
    }),
    row!("packets", |s| {
        let (r, w) = fd::pipe(NB | libc::O_DIRECT)?;
        let lens = [1usize, 100, 4096, 7, 3000, 1];
        for (n, len) in lens.iter().enumerate() {
            fd::write_full(w, &pattern(n as u64, *len))?;
        }
        let facts = [Facts::of(r)?.nameless(), Facts::of(w)?.nameless()];
        s.wait();
        facts[0].still("read end", r)?;
        facts[1].still("write end", w)?;
        for (n, len) in lens.iter().enumerate() {
            if n == 4 {
                // A short read throws the rest of its packet away.
                same_bytes("part of a packet", &pattern(4, 3000)[..10], &fd::read(r, 10)?)?;
            } else {
                same_bytes(&format!("packet {n}"), &pattern(n as u64, *len), &fd::read(r, 8192)?)?;
            }
        }
        fails("more", libc::EAGAIN, fd::read(r, 1))?;
        fd::write_full(w, b"a")?;
        fd::write_full(w, b"b")?;
        same_bytes("a later packet", b"a", &fd::read(r, 10)?)?;
    }),
    row!("packets-mixed", |s| {
        // Packet mode is a flag of the write end and may change: what was written keeps its kind.
        let (r, w) = fd::pipe(NB | libc::O_DIRECT)?;
        fd::write_full(w, b"packet")?;
        fd::write_full(w, b"another")?;
        fd::fcntl(w, libc::F_SETFL, NB.into())?;
        fd::write_full(w, b"stream")?;
        fd::write_full(w, b", again stream")?;
        s.wait();
        same("flags", 0, fd::fcntl(w, libc::F_GETFL, 0)? & i64::from(libc::O_DIRECT))?;
        same_bytes("packet", b"packet", &fd::read(r, 100)?)?;
        same_bytes("second packet", b"another", &fd::read(r, 100)?)?;
        same_bytes("stream", b"stream, again stream", &fd::read(r, 100)?)?;
    }),
    row!("flags-of-ends", |s| {
        let (r, w) = fd::pipe(libc::O_CLOEXEC)?;
        fd::fcntl(r, libc::F_SETFL, NB.into())?;
        fd::fcntl(w, libc::F_SETFL, libc::O_APPEND.into())?;
        fd::fcntl(r, libc::F_SETFD, 0)?;
        let facts = [Facts::of(r)?.nameless(), Facts::of(w)?.nameless()];
        s.wait();
        facts[0].still("read end", r)?;
        facts[1].still("write end", w)?;
        fails("empty", libc::EAGAIN, fd::read(r, 1))?;
        fails("reading from the write end", libc::EBADF, fd::read(w, 1))?;
        fails("writing to the read end", libc::EBADF, fd::write(r, b"x"))?;
    }),
    row!("reopened", |s| {
        // More descriptions of one pipe, by /proc: another flag set, and one for both directions.
        let (r, w) = fd::pipe(0)?;
        let quick = fd::open(format!("/proc/self/fd/{r}"), libc::O_RDONLY | NB)?;
        let both = fd::open(format!("/proc/self/fd/{r}"), libc::O_RDWR | NB)?;
        fd::write_full(w, b"abc")?;
        let facts = [Facts::of(quick)?.nameless(), Facts::of(both)?.nameless()];
        s.wait();
        facts[0].still("second read end", quick)?;
        facts[1].still("end for both", both)?;
        same("one pipe", [fd::inode(r)?; 2], [fd::inode(quick)?, fd::inode(both)?])?;
        same("descriptions", (false, false), (fd::shared(r, quick)?, fd::shared(r, both)?))?;
        fd::write_full(both, b"def")?;
        same_bytes("data", b"abcdef", &fd::read(quick, 100)?)?;
        fails("empty", libc::EAGAIN, fd::read(quick, 1))?;
        fd::close(w)?;
        fails("still a writer", libc::EAGAIN, fd::read(quick, 1))?;
        fd::close(both)?;
        same("no writer", 0, fd::read(quick, 1)?.len())?;
    }),
    row!("read-end-closed", |s| {
        task::ignore(libc::SIGPIPE);
        let (r, w) = fd::pipe(0)?;
        fd::write_full(w, b"nobody reads this")?;
        fd::close(r)?;
        s.wait();
        same("poll", libc::POLLOUT | libc::POLLERR, fd::poll_now(w, libc::POLLOUT)?)?;
        fails("writing", libc::EPIPE, fd::write(w, b"x"))?;
    }),
    row!("read-end-closed-signal", |s| {
        let (r, w) = fd::pipe(0)?;
        fd::close(r)?;
        task::block(&[libc::SIGPIPE])?;
        s.wait();
        fails("writing", libc::EPIPE, fd::write(w, b"x"))?;
        same("signal", Some(libc::SIGPIPE), task::take_signal(&[libc::SIGPIPE], 1000).map(|t| t.0))?;
    }),
    row!("write-end-closed", |s| {
        let (r, w) = fd::pipe(0)?;
        fd::write_full(w, &pattern(5, 9000))?;
        fd::close(w)?;
        s.wait();
        same("poll", libc::POLLIN | libc::POLLHUP, fd::poll_now(r, libc::POLLIN)?)?;
        same_bytes("data", &pattern(5, 9000), &fd::read_full(r, 9000)?)?;
        same("end", 0, fd::read(r, 1)?.len())?;
        same("poll at the end", libc::POLLHUP, fd::poll_now(r, libc::POLLIN)?)?;
    }),
    row!("write-end-closed-empty", |s| {
        let (r, w) = fd::pipe(0)?;
        fd::close(w)?;
        s.wait();
        same("end", 0, fd::read(r, 1)?.len())?;
        let again = fd::open(format!("/proc/self/fd/{r}"), libc::O_WRONLY)?;
        fd::write_full(again, b"a new writer")?;
        same_bytes("data", b"a new writer", &fd::read(r, 100)?)?;
    }),
    row!("spliced-from-file", |s| {
        // The pipe holds pages of a file, which is overwritten later: the pipe's data may change with it or not,
        // so the file is left alone here.
        let f = fd::open(s.path("f"), libc::O_RDWR | libc::O_CREAT)?;
        fd::write_full(f, &pattern(6, 20_000))?;
        fd::lseek(f, 123, libc::SEEK_SET)?;
        let (r, w) = fd::pipe(NB)?;
        let n = splice(f, w, 15_000)? as usize;
        let at = fd::tell(f)?;
        s.wait();
        same("file offset", at, fd::tell(f)?)?;
        same("readable", n as i32, fd::readable(r)?)?;
        same_bytes("data", &pattern(6, 20_000)[123..123 + n], &fd::read_full(r, n)?)?;
        let out = fd::open(s.path(&format!("out.{}", task::pid())), libc::O_RDWR | libc::O_CREAT)?;
        fd::write_full(w, b"out again")?;
        same("spliced out", 9, splice(r, out, 100)?)?;
        same_bytes("file", b"out again", &fd::pread(out, 100, 0)?)?;
    }),
    row!("spliced-user-memory", |s| {
        let m = crate::kit::mem::anon(16384, false)?;
        m.put(0, &pattern(7, 16384));
        let (r, w) = fd::pipe(NB)?;
        let mut iov = [m.address() + 50, 10_000];
        fd::raw_ref("vmsplice", libc::SYS_vmsplice, [w.into(), 0, 1, 0, 0, 0], 1, &mut iov)?;
        s.wait();
        same_bytes("data", &pattern(7, 16384)[50..10_050], &fd::read_full(r, 10_000)?)?;
    }),
    row!("tee", |s| {
        let (r, w) = fd::pipe(NB)?;
        let (r2, w2) = fd::pipe(NB)?;
        fd::write_full(w, &pattern(8, 10_000))?;
        same("teed", 10_000, tee(r, w2, 10_000)?)?;
        s.wait();
        same_bytes("original", &pattern(8, 10_000), &fd::read_full(r, 10_000)?)?;
        same_bytes("copy", &pattern(8, 10_000), &fd::read_full(r2, 10_000)?)?;
        fd::write_full(w, b"tee on")?;
        same("teed after", 6, tee(r, w2, 100)?)?;
        same_bytes("copy after", b"tee on", &fd::read(r2, 100)?)?;
    }),
    row!("many", |s| {
        let list: Vec<_> = (0..200).map(|_| fd::pipe(NB)).collect::<Result<_, _>>()?;
        for (n, (_, w)) in list.iter().enumerate() {
            fd::write_full(*w, &pattern(n as u64, n * 7))?;
        }
        s.wait();
        for (n, (r, _)) in list.iter().enumerate() {
            let found = if n == 0 { Vec::new() } else { fd::read(*r, 4096)? };
            same_bytes(&format!("data of pipe {n}"), &pattern(n as u64, n * 7), &found)?;
        }
    }),
    row!("signal-driven", [Flag::SamePid], |s| {
        let (r, w) = fd::pipe(0)?;
        task::block(&[libc::SIGIO])?;
        fd::fcntl(r, libc::F_SETOWN, task::pid().into())?;
        fd::fcntl(r, libc::F_SETFL, libc::O_ASYNC.into())?;
        s.wait();
        same("signal before data", None, task::take_signal(&[libc::SIGIO], 0))?;
        fd::write_full(w, b"x")?;
        same("signal", Some(libc::SIGIO), task::take_signal(&[libc::SIGIO], 1000).map(|t| t.0))?;
    }),
    // ---- FIFOs ----------------------------------------------------------------------------------------------
    row!("fifo", [Flag::NoDup("both copies would use the same FIFO")], |s| {
        fd::mkfifo(s.path("p"))?;
        let r = fd::open(s.path("p"), libc::O_RDONLY | NB)?;
        let w = fd::open(s.path("p"), libc::O_WRONLY)?;
        fd::write_full(w, &pattern(10, 5000))?;
        let facts = [Facts::of(r)?, Facts::of(w)?];
        s.wait();
        facts[0].still("read end", r)?;
        facts[1].still("write end", w)?;
        same_bytes("data", &pattern(10, 5000), &fd::read_full(r, 5000)?)?;
        fails("more", libc::EAGAIN, fd::read(r, 1))?;
        let late = fd::open(s.path("p"), libc::O_WRONLY | NB)?;
        fd::write_full(late, b"by name")?;
        same_bytes("by a new writer", b"by name", &fd::read(r, 100)?)?;
        fd::close(late)?;
        fd::close(w)?;
        same("end", 0, fd::read(r, 1)?.len())?;
    }),
    row!("fifo-both-ways", [Flag::NoDup("both copies would use the same FIFO")], |s| {
        fd::mkfifo(s.path("p"))?;
        let f = fd::open(s.path("p"), libc::O_RDWR | NB)?;
        fd::fcntl(f, SETSZ, 8192)?;
        let all = fill(f, 11, 1000)?;
        let facts = Facts::of(f)?;
        s.wait();
        facts.still("FIFO", f)?;
        same("size", 8192, fd::fcntl(f, GETSZ, 0)?)?;
        same_bytes("data", &all, &fd::read_full(f, all.len())?)?;
        fails("more", libc::EAGAIN, fd::read(f, 1))?;
    }),
    row!("fifo-no-writer-yet", [Flag::NoDup("both copies would use the same FIFO")], |s| {
        // Opened before there was a writer: poll(2) tells no end of what has not begun. Of a third one that has a writer's bytes, too.
        let mut all = Vec::new();
        for n in 0..3 {
            let path = s.path(&format!("p{n}"));
            fd::mkfifo(&path)?;
            all.push((fd::open(&path, libc::O_RDONLY | NB)?, path));
        }
        fd::unlink(&all[1].1)?;
        let w = fd::open(&all[2].1, libc::O_WRONLY)?;
        fd::write_full(w, b"left behind")?;
        fd::close(w)?;
        let third = (all[2].0, fd::open(&all[2].1, libc::O_RDONLY | NB)?);
        let states = |all: &[(i32, String)]| -> Result<Vec<i16>, Errno> {
            all.iter().map(|(f, _)| *f).chain([third.1]).map(|f| fd::poll_now(f, libc::POLLIN)).collect()
        };
        let before = states(&all)?;
        same("before", vec![0, 0, libc::POLLIN | libc::POLLHUP, libc::POLLIN], before.clone())?;
        s.wait();
        same("after", before, states(&all)?)?;
        same_bytes("left in it", b"left behind", &fd::read(third.1, 100)?)?;
        let w = fd::open(&all[0].1, libc::O_WRONLY | NB)?;
        fd::write_full(w, b"the first")?;
        same_bytes("of the first writer", b"the first", &fd::read(all[0].0, 100)?)?;
        fd::close(w)?;
        same("it has gone", libc::POLLHUP, fd::poll_now(all[0].0, libc::POLLIN)?)?;
    }),
    row!("fifo-deleted", |s| {
        fd::mkfifo(s.path("p"))?;
        let r = fd::open(s.path("p"), libc::O_RDONLY | NB)?;
        let w = fd::open(s.path("p"), libc::O_WRONLY)?;
        fd::unlink(s.path("p"))?;
        fd::write_full(w, b"without a name")?;
        let facts = [Facts::of(r)?.nameless(), Facts::of(w)?.nameless()];
        s.wait();
        facts[0].still("read end", r)?;
        facts[1].still("write end", w)?;
        same_bytes("data", b"without a name", &fd::read(r, 100)?)?;
        fd::write_full(w, b"on")?;
        same_bytes("more", b"on", &fd::read(r, 100)?)?;
        truth("no FIFO came back", !std::path::Path::new(&s.path("p")).exists())?;
    }),
    row!("fifo-two-processes", [Flag::NoDup("both copies would use the same FIFO")], |s| {
        fd::mkfifo(s.path("p"))?;
        s.spawn(|c| {
            run(c, |c| {
                // Without a reader yet: for both ways, as a writer alone would wait.
                let f = fd::open(c.path("p"), libc::O_RDWR)?;
                fd::write_full(f, b"from the child, ")?;
                c.wait();
                fd::write_full(f, b"twice")?;
                let seen = c.path("seen");
                c.until("the parent has read", || std::path::Path::new(&seen).exists());
                Ok(())
            });
        });
        let r = fd::open(s.path("p"), libc::O_RDONLY)?;
        s.wait();
        let found = fd::read_full(r, 21);
        fd::close(fd::open(s.path("seen"), libc::O_RDWR | libc::O_CREAT)?)?;
        same_bytes("data", b"from the child, twice", &found?)?;
    }),
];
