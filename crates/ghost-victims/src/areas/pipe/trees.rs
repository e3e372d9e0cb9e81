//! Pipes between processes: who holds which end, blocked readers and writers, streams under way.
use crate::kit::{digest, fails, fd, mem, pattern, row, run, same, same_bytes, task, truth};
use crate::{Ctx, Flag, Victim};
use std::sync::atomic::Ordering::SeqCst;

/// Bytes a stream carries in one piece.
const PIECE: usize = 3000;

/// Writes the stream of a seed until the word to go, then its end: an empty length.
fn source(c: &mut Ctx, out: i32, seed: u64) -> Result<u64, String> {
    let mut sum = 0;
    let mut n = 0;
    c.ready();
    while !c.gone() {
        let part = pattern(seed + n, PIECE - (n % 7) as usize * 100);
        fd::write_full(out, &(part.len() as u64).to_ne_bytes())?;
        fd::write_full(out, &part)?;
        sum = digest(sum, &part);
        n += 1;
        if n % 8 == 0 {
            c.pause();
        }
    }
    fd::write_full(out, &0u64.to_ne_bytes())?;
    c.await_go();
    truth("something was sent", n > 0)?;
    Ok(sum)
}

/// Reads pieces to the end, checks each, passes it on where there is a next.
fn stage(input: i32, output: Option<i32>, seed: u64) -> Result<u64, String> {
    let mut sum = 0;
    for n in 0.. {
        let len = u64::from_ne_bytes(
            fd::read_full(input, 8)?
                .try_into()
                .map_err(|v: Vec<u8>| format!("length of piece {n}: expected 8 bytes, found {}", v.len()))?,
        );
        if let Some(out) = output {
            fd::write_full(out, &len.to_ne_bytes())?;
        }
        if len == 0 {
            break;
        }
        let expected = pattern(seed + n, PIECE - (n % 7) as usize * 100);
        same(&format!("length of piece {n}"), expected.len() as u64, len)?;
        let part = fd::read_full(input, len as usize)?;
        same_bytes(&format!("piece {n}"), &expected, &part)?;
        if let Some(out) = output {
            fd::write_full(out, &part)?;
        }
        sum = digest(sum, &part);
    }
    Ok(sum)
}

pub(super) const VICTIMS: &[Victim] = &[
    row!("parent-to-child", |s| {
        let (r, w) = fd::pipe(0)?;
        fd::write_full(w, b"before, ")?;
        s.spawn(|c| {
            run(c, |c| {
                fd::close(w)?;
                c.wait();
                same_bytes("data", b"before, after", &fd::read_full(r, 100)?)
            });
        });
        fd::close(r)?;
        s.wait();
        fd::write_full(w, b"after")?;
        fd::close(w)?;
        s.join();
    }),
    row!("both-directions", |s| {
        let ((r, w), (r2, w2)) = (fd::pipe(0)?, fd::pipe(0)?);
        s.spawn(|c| {
            run(c, |c| {
                fd::close(w)?;
                fd::close(r2)?;
                c.ready();
                // Blocked in read(2) during the wait; answers each.
                while let Some(b) = fd::read_full(r, 1)?.first() {
                    fd::write_full(w2, &[b ^ 0xff])?;
                }
                c.await_go();
                Ok(())
            });
        });
        fd::close(r)?;
        fd::close(w2)?;
        s.wait();
        for b in 0..=255u8 {
            fd::write_full(w, &[b])?;
            same("answer", vec![b ^ 0xff], fd::read_full(r2, 1)?)?;
        }
        fd::close(w)?;
        same("the child's end", 0, fd::read(r2, 1)?.len())?;
        s.join();
    }),
    row!("writer-blocked", |s| {
        // 1 MiB through 64 KiB: the child is inside write(2), part of it done.
        let (r, w) = fd::pipe(0)?;
        s.spawn(|c| {
            run(c, |c| {
                fd::close(r)?;
                c.ready();
                fd::write_full(w, &pattern(20, 1 << 20))?;
                c.await_go();
                Ok(())
            });
        });
        fd::close(w)?;
        s.until("the pipe is full", || fd::readable(r).is_ok_and(|n| n == 65536));
        s.wait();
        same_bytes("data", &pattern(20, 1 << 20), &fd::read_full(r, 1 << 20)?)?;
        same("end", 0, fd::read(r, 1)?.len())?;
        s.join();
    }),
    row!("end-held-by-child-only", |s| {
        let (r, w) = fd::pipe(libc::O_NONBLOCK)?;
        s.spawn(|c| {
            run(c, |c| {
                fd::close(r)?;
                c.wait();
                fd::write_full(w, b"last words")?;
                Ok(())
            });
        });
        fd::close(w)?;
        fails("empty while the child lives", libc::EAGAIN, fd::read(r, 1))?;
        s.wait();
        s.join();
        same_bytes("data", b"last words", &fd::read(r, 100)?)?;
        same("end after the child's", 0, fd::read(r, 1)?.len())?;
    }),
    row!("dead-writer", |s| {
        let (r, w) = fd::pipe(0)?;
        task::in_child("writer", || Ok(fd::write_full(w, b"will")?))?;
        fd::close(w)?;
        s.wait();
        same_bytes("what the dead left", b"will", &fd::read_full(r, 100)?)?;
    }),
    row!("many-writers", |s| {
        // Pieces of at most PIPE_BUF bytes stay whole, whoever writes.
        let (r, w) = fd::pipe(0)?;
        let total = mem::anon(4096, true)?;
        for who in 0..4u64 {
            s.spawn(|c| {
                run(c, |c| {
                    fd::close(r)?;
                    c.ready();
                    let mut n = 0u64;
                    while !c.gone() {
                        let mut piece = vec![who as u8; 64];
                        piece[8..16].copy_from_slice(&n.to_ne_bytes());
                        fd::write_full(w, &piece)?;
                        n += 1;
                        c.pause();
                    }
                    total.word(who as usize * 8).store(n, SeqCst);
                    c.await_go();
                    Ok(())
                });
            });
        }
        fd::close(w)?;
        let mut next = [0u64; 4];
        let mut take = |piece: &[u8]| {
            let who = usize::from(piece[0]);
            let n = piece[8..16].try_into().map_or(0, u64::from_ne_bytes);
            truth("piece is whole", piece.len() == 64 && piece[16..].iter().all(|b| usize::from(*b) == who))?;
            same(&format!("piece of writer {who}"), next[who], n)?;
            next[who] += 1;
            Ok::<(), String>(())
        };
        s.ready();
        while !s.gone() {
            if fd::poll_ms(r, libc::POLLIN, 2)? & libc::POLLIN != 0 {
                take(&fd::read_full(r, 64)?)?;
            }
        }
        loop {
            let piece = fd::read_full(r, 64)?;
            if piece.is_empty() {
                break;
            }
            take(&piece)?;
        }
        s.await_go();
        s.join();
        let sent: Vec<u64> = (0..4).map(|i| total.word(i * 8).load(SeqCst)).collect();
        same("pieces of each", sent, next.to_vec())?;
    }),
    row!("stream", |s| {
        let (r, w) = fd::pipe(0)?;
        let sums = mem::anon(4096, true)?;
        s.spawn(|c| {
            run(c, |c| {
                fd::close(w)?;
                c.ready();
                sums.word(0).store(stage(r, None, 50)?, SeqCst);
                c.await_go();
                Ok(())
            });
        });
        fd::close(r)?;
        let sent = source(s, w, 50)?;
        s.join();
        same("digest of the stream", sent, sums.word(0).load(SeqCst))?;
    }),
    row!("pipeline-of-five", [Flag::Seconds(60)], |s| {
        let sums = mem::anon(4096, true)?;
        let (mut input, mut output) = fd::pipe(0)?;
        let first = output;
        for n in 0..4usize {
            let last = n == 3;
            let (r, w) = if last { (-1, -1) } else { fd::pipe(0)? };
            s.spawn(|c| {
                run(c, |c| {
                    fd::close(first)?;
                    if !last {
                        fd::close(r)?;
                    }
                    c.ready();
                    let next = (!last).then_some(w);
                    sums.word(n * 8).store(stage(input, next, 60)?, SeqCst);
                    c.await_go();
                    Ok(())
                });
            });
            fd::close(input)?;
            if !last {
                fd::close(w)?;
            }
            (input, output) = (r, w);
        }
        let _ = output;
        let sent = source(s, first, 60)?;
        s.join();
        for n in 0..4 {
            same(&format!("digest after stage {n}"), sent, sums.word(n * 8).load(SeqCst))?;
        }
    }),
    row!("poll-blocked", |s| {
        let (r, w) = fd::pipe(0)?;
        s.spawn(|c| {
            run(c, |c| {
                c.ready();
                same(
                    "poll",
                    libc::POLLIN,
                    loop {
                        match fd::poll_ms(r, libc::POLLIN, 60_000) {
                            Err(e) if e.code == libc::EINTR => {}
                            other => break other?,
                        }
                    },
                )?;
                c.await_go();
                Ok(())
            });
        });
        crate::sys::sleep_ms(20);
        s.wait();
        fd::write_full(w, b"x")?;
        s.join();
    }),
    row!("stdio-of-child", |s| {
        // As a shell makes it: the pipe is the child's standard output, and nothing else.
        let (r, w) = fd::pipe(libc::O_CLOEXEC)?;
        s.spawn(|c| {
            run(c, |c| {
                fd::dup3(w, 1, 0)?;
                fd::close(w)?;
                fd::close(r)?;
                c.wait();
                fd::write_full(1, b"printed")?;
                Ok(())
            });
        });
        fd::close(w)?;
        s.wait();
        same_bytes("output", b"printed", &fd::read_full(r, 100)?)?;
        s.join();
    }),
];
