//! inotify: what is watched, under which number, and what has been reported already.
use crate::kit::fd::{self, Facts};
use crate::kit::{Errno, row, run, same, truth};
use crate::{Flag, Victim};

pub(super) const SHARED: Flag = Flag::NoDup("both copies would change the watched files");

pub(super) fn inotify(flags: i32) -> Result<i32, Errno> {
    fd::raw("inotify_init1", libc::SYS_inotify_init1, [flags.into(), 0, 0, 0, 0, 0]).map(|f| f as i32)
}

pub(super) fn watch(f: i32, path: &str, mask: u32) -> Result<i32, Errno> {
    let path = crate::sys::c(path);
    let args = [f.into(), path.as_ptr() as i64, mask.into(), 0, 0, 0];
    fd::raw("inotify_add_watch", libc::SYS_inotify_add_watch, args).map(|w| w as i32)
}

/// The queued events: watch, mask, name.
pub(super) fn heard(f: i32) -> Result<Vec<(i32, u32, String)>, Errno> {
    let bytes = match fd::read(f, 65536) {
        Ok(b) => b,
        Err(e) if e.code == libc::EAGAIN => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (mut at, mut out) = (0, Vec::new());
    while at + 16 <= bytes.len() {
        let len = word(at + 12) as usize;
        let name = bytes[at + 16..at + 16 + len].split(|b| *b == 0).next().unwrap_or_default();
        out.push((word(at) as i32, word(at + 4), String::from_utf8_lossy(name).into_owned()));
        at += 16 + len;
    }
    Ok(out)
}

/// The `inotify wd:` lines of fdinfo without file handles.
pub(super) fn watches(f: i32) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{f}")).map_err(|e| e.to_string())?;
    let part = |l: &str| l.split(" fhandle-bytes").next().unwrap_or_default().to_owned();
    let mut list: Vec<String> = text.lines().filter(|l| l.starts_with("inotify ")).map(part).collect();
    list.sort();
    Ok(list)
}

pub(super) fn touch(path: &str) -> Result<(), Errno> {
    fd::close(fd::open(path, libc::O_RDWR | libc::O_CREAT)?)
}

pub(super) fn mkdir(path: &str) -> Result<(), String> {
    std::fs::create_dir(path).map_err(|e| e.to_string())
}

pub(super) const VICTIMS: &[Victim] = &[
    // ---- inotify --------------------------------------------------------------------------------------------
    row!("inotify", [SHARED], |s| {
        let f = inotify(libc::IN_NONBLOCK | libc::IN_CLOEXEC)?;
        mkdir(&s.path("d"))?;
        touch(&s.path("f"))?;
        let d = watch(f, &s.path("d"), libc::IN_CREATE | libc::IN_DELETE)?;
        let g = watch(f, &s.path("f"), libc::IN_MODIFY)?;
        let (facts, list) = (Facts::of(f)?.nameless(), watches(f)?);
        s.wait();
        facts.still("inotify", f)?;
        same("watches", list, watches(f)?)?;
        same("events before anything happens", vec![], heard(f)?)?;
        touch(&s.path("d/new"))?;
        fd::write_full(fd::open(s.path("f"), libc::O_WRONLY)?, b"x")?;
        fd::unlink(s.path("d/new"))?;
        let name = || "new".to_owned();
        same(
            "events",
            vec![(d, libc::IN_CREATE, name()), (g, libc::IN_MODIFY, String::new()), (d, libc::IN_DELETE, name())],
            heard(f)?,
        )?;
    }),
    row!("inotify-numbers", [SHARED], |s| {
        let f = inotify(libc::IN_NONBLOCK)?;
        for n in 1..=6 {
            touch(&s.path(&format!("f{n}")))?;
            same("watch number", n, watch(f, &s.path(&format!("f{n}")), libc::IN_OPEN)?)?;
        }
        for n in [1, 2, 5] {
            fd::raw("inotify_rm_watch", libc::SYS_inotify_rm_watch, [f.into(), n, 0, 0, 0, 0])?;
        }
        heard(f)?;
        let list = watches(f)?;
        s.wait();
        same("watches", list, watches(f)?)?;
        for n in 1..=6 {
            touch(&s.path(&format!("f{n}")))?;
        }
        same("watches that hear", vec![3, 4, 6], heard(f)?.iter().map(|e| e.0).collect::<Vec<_>>())?;
        touch(&s.path("f7"))?;
        let next = watch(f, &s.path("f7"), libc::IN_OPEN)?;
        truth("a new watch has a number of its own", next > 6 || [1, 2, 5].contains(&next))?;
    }),
    row!("inotify-queued", [SHARED], |s| {
        let f = inotify(libc::IN_NONBLOCK)?;
        mkdir(&s.path("d"))?;
        let w = watch(f, &s.path("d"), libc::IN_CREATE | libc::IN_MOVE)?;
        touch(&s.path("d/first"))?;
        touch(&s.path("d/second"))?;
        fd::rename(s.path("d/first"), s.path("d/third"))?;
        let waiting = fd::readable(f)?;
        s.wait();
        same("bytes queued", waiting, fd::readable(f)?)?;
        let got = heard(f)?;
        let expected = [
            (w, libc::IN_CREATE, "first".to_owned()),
            (w, libc::IN_CREATE, "second".to_owned()),
            (w, libc::IN_MOVED_FROM, "first".to_owned()),
            (w, libc::IN_MOVED_TO, "third".to_owned()),
        ];
        same("events", expected.to_vec(), got)?;
        touch(&s.path("d/fourth"))?;
        same("one more", vec![(w, libc::IN_CREATE, "fourth".to_owned())], heard(f)?)?;
    }),
    row!("inotify-read-late", [SHARED], |s| {
        // Half of the time an event waits: a moment when none does must be found.
        let f = inotify(libc::IN_NONBLOCK)?;
        mkdir(&s.path("d"))?;
        let w = watch(f, &s.path("d"), libc::IN_CREATE)?;
        let (mut made, mut read) = (Vec::new(), Vec::new());
        let mut next = crate::sys::now_ns();
        let (dir, mut failed) = (s.path("d"), Ok(()));
        s.wait_with(|| {
            let now = crate::sys::now_ns();
            if made.len() > read.len() && now > next - 100_000_000 {
                match heard(f) {
                    Ok(events) => read.extend(events),
                    Err(e) => failed = Err(e),
                }
            } else if made.len() == read.len() && now > next {
                let name = format!("{}", made.len());
                failed = std::mem::replace(&mut failed, Ok(())).and_then(|()| touch(&format!("{dir}/{name}")));
                made.push((w, libc::IN_CREATE, name));
                next = now + 200_000_000;
            }
        });
        failed?;
        if made.len() > read.len() {
            read.extend(heard(f)?);
        }
        same("events", made, read)?;
    }),
    row!("inotify-renamed", [SHARED], |s| {
        let f = inotify(libc::IN_NONBLOCK)?;
        mkdir(&s.path("d"))?;
        touch(&s.path("g"))?;
        let d = watch(f, &s.path("d"), libc::IN_CREATE)?;
        let g = watch(f, &s.path("g"), libc::IN_ATTRIB)?;
        fd::rename(s.path("d"), s.path("e"))?;
        fd::rename(s.path("g"), s.path("e/h"))?;
        heard(f)?;
        s.wait();
        same("events before anything happens", vec![], heard(f)?)?;
        touch(&s.path("e/in"))?;
        std::os::unix::fs::chown(s.path("e/h"), None, None).map_err(|e| e.to_string())?;
        let h = crate::sys::c(&s.path("e/h"));
        crate::must!(chmod(h.as_ptr(), 0o640));
        let got = heard(f)?;
        truth("the renamed directory", got.contains(&(d, libc::IN_CREATE, "in".to_owned())))?;
        truth("the renamed file", got.contains(&(g, libc::IN_ATTRIB, String::new())))?;
    }),
    row!("inotify-deleted-but-open", |s| {
        // The watched file has no name: only its last close ends the watch.
        let f = inotify(libc::IN_NONBLOCK)?;
        let file = fd::open(s.path("f"), libc::O_RDWR | libc::O_CREAT)?;
        let w = watch(f, &s.path("f"), libc::IN_MODIFY)?;
        fd::unlink(s.path("f"))?;
        s.wait();
        same("events before anything happens", vec![], heard(f)?)?;
        fd::write_full(file, b"x")?;
        same("events", vec![(w, libc::IN_MODIFY, String::new())], heard(f)?)?;
    }),
    row!("inotify-masks", [SHARED], |s| {
        let f = inotify(libc::IN_NONBLOCK)?;
        mkdir(&s.path("d"))?;
        touch(&s.path("once"))?;
        let d = watch(f, &s.path("d"), libc::IN_ALL_EVENTS | libc::IN_ONLYDIR | libc::IN_EXCL_UNLINK)?;
        let once = watch(f, &s.path("once"), libc::IN_OPEN | libc::IN_ONESHOT)?;
        let list = watches(f)?;
        s.wait();
        same("watches", list, watches(f)?)?;
        touch(&s.path("once"))?;
        touch(&s.path("once"))?;
        let got = heard(f)?;
        let expected = vec![(once, libc::IN_OPEN, String::new()), (once, libc::IN_IGNORED, String::new())];
        same("events of the one shot", expected, got)?;
        mkdir(&s.path("d/sub"))?;
        truth("a directory made", heard(f)?.contains(&(d, libc::IN_CREATE | libc::IN_ISDIR, "sub".to_owned())))?;
    }),
    row!("inotify-same-inode-twice", [SHARED], |s| {
        // Two names of one inode are one watch; two inotify descriptors are two.
        let (f, g) = (inotify(libc::IN_NONBLOCK)?, inotify(libc::IN_NONBLOCK)?);
        touch(&s.path("a"))?;
        fd::link(s.path("a"), s.path("b"))?;
        let w = watch(f, &s.path("a"), libc::IN_MODIFY)?;
        same("watch by the other name", w, watch(f, &s.path("b"), libc::IN_MODIFY | libc::IN_OPEN)?)?;
        watch(g, &s.path("b"), libc::IN_OPEN)?;
        s.wait();
        fd::write_full(fd::open(s.path("a"), libc::O_WRONLY)?, b"x")?;
        same("events", vec![libc::IN_OPEN, libc::IN_MODIFY], heard(f)?.iter().map(|e| e.1).collect::<Vec<_>>())?;
        same("events of the other", vec![libc::IN_OPEN], heard(g)?.iter().map(|e| e.1).collect::<Vec<_>>())?;
    }),
    row!("inotify-shared-by-fork", [SHARED], |s| {
        let f = inotify(0)?;
        mkdir(&s.path("d"))?;
        let w = watch(f, &s.path("d"), libc::IN_CREATE)?;
        s.spawn(|c| {
            run(c, |c| {
                c.ready();
                // Blocked in read(2) during the wait.
                same("what the child heard", vec![(w, libc::IN_CREATE, "late".to_owned())], heard(f)?)?;
                c.await_go();
                Ok(())
            });
        });
        crate::sys::sleep_ms(20);
        s.wait();
        touch(&s.path("d/late"))?;
        s.join();
    }),
];
