//! Descriptor tables: descriptions that several descriptors share, numbers, limits.
use crate::kit::fd::{self, Facts};
use crate::kit::{fails, pattern, row, run, same, sock, truth};
use crate::{Flag, Victim};

const RW: i32 = libc::O_RDWR | libc::O_CREAT;

/// Raises the limit of open files to the hard one, at most 65,536; gives it.
fn raise_limit() -> i32 {
    let mut lim = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    crate::must!(getrlimit(libc::RLIMIT_NOFILE, &raw mut lim));
    lim.rlim_cur = lim.rlim_max.min(65_536);
    crate::must!(setrlimit(libc::RLIMIT_NOFILE, &raw const lim));
    lim.rlim_cur as i32
}

pub(super) const VICTIMS: &[Victim] = &[
    row!("dup-shares", |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::write_full(f, &pattern(4, 100))?;
        let (a, b) = (fd::dup(f)?, fd::dup3(f, 77, libc::O_CLOEXEC)?);
        let other = fd::open(s.path("f"), libc::O_RDWR)?;
        s.wait();
        fd::lseek(a, 33, libc::SEEK_SET)?;
        same("offset seen by the first number", 33, fd::tell(f)?)?;
        same("offset seen by number 77", 33, fd::tell(b)?)?;
        same("offset of the file opened again", 0, fd::tell(other)?)?;
        same("one description", true, fd::shared(f, a)? && fd::shared(f, b)?)?;
        same("one description with the other opening", false, fd::shared(f, other)?)?;
        fd::fcntl(b, libc::F_SETFL, libc::O_APPEND.into())?;
        truth("flags are shared", fd::fcntl(f, libc::F_GETFL, 0)? & i64::from(libc::O_APPEND) != 0)?;
        same("close-on-exec of the first", 0, fd::fcntl(f, libc::F_GETFD, 0)?)?;
        same("close-on-exec of 77", 1, fd::fcntl(b, libc::F_GETFD, 0)?)?;
    }),
    row!("fork-shares", [Flag::NoDup("the processes talk by a file")], |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::write_full(f, &pattern(5, 1000))?;
        fd::lseek(f, 100, libc::SEEK_SET)?;
        s.spawn(|c| {
            run(c, |c| {
                c.wait();
                same("offset in the child", 100, fd::tell(f)?)?;
                fd::lseek(f, 555, libc::SEEK_SET)?;
                fd::close(fd::open(c.path("moved"), RW)?)?;
                Ok(())
            });
        });
        s.wait();
        let moved = s.path("moved");
        s.eventually("the child moved the offset", 10_000, || std::path::Path::new(&moved).exists());
        same("offset after the child's seek", 555, fd::tell(f)?)?;
    }),
    row!("opened-twice-in-two", |s| {
        let f = fd::open(s.path("f"), RW)?;
        fd::write_full(f, &pattern(6, 1000))?;
        s.spawn(|c| {
            run(c, |c| {
                fd::close(f)?;
                let mine = fd::open(c.path("f"), libc::O_RDWR)?;
                same("the same number", f, mine)?;
                fd::lseek(mine, 11, libc::SEEK_SET)?;
                c.wait();
                fd::lseek(mine, 1, libc::SEEK_CUR)?;
                same("the child's offset", 12, fd::tell(mine)?)?;
                Ok(())
            });
        });
        s.wait();
        s.join();
        same("the parent's offset", 1000, fd::tell(f)?)?;
    }),
    row!("passed-shares", [Flag::NoDup("the processes talk by a file")], |s| {
        let (a, b) = sock::pair(libc::SOCK_STREAM)?;
        s.spawn(|c| {
            run(c, |c| {
                let f = fd::open(c.path("f"), RW)?;
                fd::write_full(f, &pattern(7, 1000))?;
                sock::send(b, b"here", &[f], None)?;
                fd::close(a)?;
                fd::close(b)?;
                c.wait();
                fd::lseek(f, 444, libc::SEEK_SET)?;
                fd::close(fd::open(c.path("moved"), RW)?)?;
                Ok(())
            });
        });
        let f = sock::recv(a, 10, 0)?.fds[0];
        fd::close(a)?;
        fd::close(b)?;
        s.wait();
        let moved = s.path("moved");
        s.eventually("the child moved the offset", 10_000, || std::path::Path::new(&moved).exists());
        same("offset of the description that was passed", 444, fd::tell(f)?)?;
    }),
    row!("fork-tables-differ", |s| {
        let a = fd::open(s.path("a"), RW)?;
        let b = fd::open(s.path("b"), RW)?;
        s.spawn(|c| {
            run(c, |c| {
                fd::close(a)?;
                fd::dup3(b, a, libc::O_CLOEXEC)?;
                fd::close(b)?;
                let only = fd::dup3(a, 50, 0)?;
                let facts = Facts::of(a)?;
                let all = fd::numbers()?;
                c.wait();
                facts.still("child's file", a)?;
                fd::closed("number closed in the child", b)?;
                same("number 50 in the child", true, fd::shared(only, a)?)?;
                same("the child's numbers", all, fd::numbers()?)?;
                Ok(())
            });
        });
        let (fa, fb) = (Facts::of(a)?, Facts::of(b)?);
        s.wait();
        fa.still("parent's file", a)?;
        fb.still("parent's file", b)?;
        fd::closed("number 50 in the parent", 50)?;
    }),
    row!("cloexec", |s| {
        let f = fd::open(s.path("f"), RW | libc::O_CLOEXEC)?;
        let mut list = vec![f];
        for i in 0..20 {
            list.push(fd::dup3(f, 30 + i, if i % 3 == 0 { libc::O_CLOEXEC } else { 0 })?);
        }
        let before: Vec<_> = list.iter().map(|f| fd::fcntl(*f, libc::F_GETFD, 0)).collect::<Result<_, _>>()?;
        s.wait();
        let after: Vec<_> = list.iter().map(|f| fd::fcntl(*f, libc::F_GETFD, 0)).collect::<Result<_, _>>()?;
        same("close-on-exec of each", before, after)?;
    }),
    row!("sparse-numbers", |s| {
        let limit = raise_limit();
        if limit < 4097 {
            s.skip("may not raise RLIMIT_NOFILE");
        }
        let numbers = [63, 64, 255, 256, 1023, 1024, 4095, 31_337, 65_535];
        let numbers: Vec<i32> = numbers.into_iter().filter(|n| *n < limit - 1).chain([limit - 1]).collect();
        let f = fd::open(s.path("f"), RW)?;
        for &n in &numbers {
            let other = fd::open(s.path("f"), libc::O_RDONLY)?;
            fd::lseek(other, n.into(), libc::SEEK_SET)?;
            fd::dup3(other, n, 0)?;
            fd::close(other)?;
        }
        let all = fd::numbers()?;
        s.wait();
        same("open numbers", all, fd::numbers()?)?;
        for &n in &numbers {
            same(&format!("offset of number {n}"), i64::from(n), fd::tell(n)?)?;
        }
        same("the next free number", f + 1, fd::dup(f)?)?;
    }),
    row!("lowered-limit", |s| {
        // Numbers above the limit stay open when the limit is lowered afterwards.
        let f = fd::open(s.path("f"), RW)?;
        fd::dup3(f, 500, 0)?;
        let lim = libc::rlimit { rlim_cur: 20, rlim_max: 20 };
        crate::must!(setrlimit(libc::RLIMIT_NOFILE, &raw const lim));
        s.wait();
        same("number 500", true, fd::shared(f, 500)?)?;
        fails("a number above the limit", libc::EBADF, fd::dup3(f, 21, 0))?;
    }),
    row!("thousand", |s| {
        if raise_limit() < 1100 {
            s.skip("may not raise RLIMIT_NOFILE");
        }
        fd::write_full(fd::open(s.path("f"), RW)?, &pattern(8, 4096))?;
        let list: Vec<i32> = (0..1000).map(|_| fd::open(s.path("f"), libc::O_RDONLY)).collect::<Result<_, _>>()?;
        for (i, f) in list.iter().enumerate() {
            fd::lseek(*f, 3 * i as i64, libc::SEEK_SET)?;
        }
        s.wait();
        for (i, f) in list.iter().enumerate() {
            same(&format!("offset of number {f}"), 3 * i as i64, fd::tell(*f)?)?;
        }
    }),
    row!("inherited-by-many", |s| {
        // Six processes with 300 descriptors each, which are the same descriptions; two children have opened some anew.
        if raise_limit() < 400 {
            s.skip("may not raise RLIMIT_NOFILE");
        }
        fd::write_full(fd::open(s.path("f"), RW)?, &pattern(8, 4096))?;
        let list: Vec<i32> = (0..300).map(|_| fd::open(s.path("f"), libc::O_RDONLY)).collect::<Result<_, _>>()?;
        for child in 0..5 {
            let (list, path) = (list.clone(), s.path("f"));
            s.spawn(move |c| {
                crate::kit::run(c, |c| {
                    for f in list.iter().take(if child < 2 { 10 } else { 0 }) {
                        fd::close(*f)?;
                        same("number", *f, fd::open(&path, libc::O_RDONLY)?)?;
                        fd::lseek(*f, 77, libc::SEEK_SET)?;
                    }
                    c.wait();
                    let right = |(i, f): (usize, &i32)| {
                        let own = child < 2 && i < 10;
                        let at = fd::tell(*f).unwrap_or(-1);
                        own == (at == 77) && (own || at == 2 * i as i64 + 1000)
                    };
                    same("descriptors with a wrong offset", 0, list.iter().enumerate().filter(|x| !right(*x)).count())
                });
            });
        }
        for (i, f) in list.iter().enumerate() {
            fd::lseek(*f, 2 * i as i64 + 1000, libc::SEEK_SET)?;
        }
        s.wait();
        same("offset of the last", 1598, fd::tell(list[299])?)?;
    }),
];
