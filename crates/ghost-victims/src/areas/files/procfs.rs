//! Files under /proc and /sys: own, of a relative, of the dead; namespaces as files.
use crate::kit::{fails, fd, row, run, same, task, truth};
use crate::{Flag, Victim};

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

fn text(f: i32) -> Result<String, String> {
    Ok(String::from_utf8_lossy(&fd::pread(f, 65536, 0)?).into_owned())
}

/// A child that has ended and was waited for; `before` runs while it is a zombie.
fn dead<T>(before: impl FnOnce(i32) -> Result<T, String>) -> Result<T, String> {
    let Some(pid) = task::fork()? else { task::exit(3) };
    while !task::ended(pid)? {
        crate::sys::sleep_ms(1);
    }
    let kept = before(pid);
    task::wait(pid, 0)?;
    kept
}

pub(super) const VICTIMS: &[Victim] = &[
    row!("proc-self-status", |s| {
        let f = fd::open("/proc/self/status", libc::O_RDONLY)?;
        let facts = (fd::fcntl(f, libc::F_GETFL, 0)?, fd::stat(f)?.st_mode);
        s.wait();
        same("flags and mode", facts, (fd::fcntl(f, libc::F_GETFL, 0)?, fd::stat(f)?.st_mode))?;
        same("offset", 0, fd::tell(f)?)?;
        truth("it speaks of this process", text(f)?.contains(&format!("\nPid:\t{}\n", task::pid())))?;
        same("its link", format!("/proc/{}/status", task::pid()), fd::link_of(f)?)?;
    }),
    row!("proc-self-offset", |s| {
        let f = fd::open("/proc/self/stat", libc::O_RDONLY)?;
        let g = fd::open("/proc/self/cmdline", libc::O_RDONLY | libc::O_CLOEXEC)?;
        fd::read(g, 3)?;
        s.wait();
        same("offset", 3, fd::tell(g)?)?;
        same("close-on-exec", 1, fd::fcntl(g, libc::F_GETFD, 0)?)?;
        truth("stat speaks of this process", text(f)?.starts_with(&format!("{} ", task::pid())))?;
    }),
    row!("proc-self-maps", |s| {
        let f = fd::open("/proc/self/maps", libc::O_RDONLY)?;
        let task = fd::open(format!("/proc/self/task/{}/comm", task::pid()), libc::O_RDWR)?;
        let mem = fd::open("/proc/self/mem", libc::O_RDWR)?;
        s.wait();
        let here = std::fs::read_to_string("/proc/self/maps").map_err(|e| e.to_string())?;
        let first = |t: &str| t.lines().next().unwrap_or_default().to_owned();
        same("first line of maps", first(&here), first(&text(f)?))?;
        fd::write_full(task, b"renamed")?;
        same("comm", "renamed\n", &std::fs::read_to_string("/proc/self/comm").map_err(|e| e.to_string())?)?;
        let word = Box::new(0x1234_5678_9abc_def0u64);
        let bytes = fd::pread(mem, 8, std::ptr::from_ref(&*word) as i64)?;
        same("own memory through mem", word.to_ne_bytes().to_vec(), bytes)?;
    }),
    row!("proc-self-fd-directory", |s| {
        let d = fd::open("/proc/self/fd", libc::O_RDONLY | libc::O_DIRECTORY)?;
        let me = fd::open("/proc/self", libc::O_PATH)?;
        fd::dup3(d, 100, 0)?;
        s.wait();
        let names = fd::entries(d)?;
        truth("it lists number 100", names.iter().any(|n| n == "100"))?;
        let status = fd::openat(me, "status", libc::O_RDONLY)?;
        truth("/proc/self by path is this process", text(status)?.contains(&format!("\nPid:\t{}\n", task::pid())))?;
    }),
    row!("proc-self-fdinfo", |s| {
        // Opened by a number that need not be there any more.
        let f = fd::open("/dev/zero", libc::O_RDONLY)?;
        let info = fd::open(format!("/proc/self/fdinfo/{f}"), libc::O_RDONLY)?;
        let high = fd::dup3(f, 900, 0)?;
        let of_high = fd::open(format!("/proc/self/fdinfo/{high}"), libc::O_RDONLY)?;
        let gone = fd::dup(f)?;
        let of_gone = fd::open(format!("/proc/self/fdinfo/{gone}"), libc::O_RDONLY)?;
        fd::close(gone)?;
        s.wait();
        for (name, f) in [("that of a low number", info), ("that of a high number", of_high)] {
            truth(name, text(f)?.starts_with("pos:\t0\nflags:\t0100000\n"))?;
        }
        fails("that of a closed number", libc::ENOENT, fd::pread(of_gone, 10, 0))?;
        fd::closed("the number that was closed", gone)?;
    }),
    row!("proc-of-thread", |s| {
        // Of another thread than the first, which ghost makes late.
        let (told, heard) = std::sync::mpsc::channel();
        let team = s.team(1, move |_, t| {
            let f = fd::open("/proc/thread-self/comm", libc::O_RDWR).unwrap_or(-1);
            let dir = fd::open("/proc/thread-self", libc::O_RDONLY | libc::O_DIRECTORY).unwrap_or(-1);
            let _ = told.send((f, dir));
            t.wait();
        });
        let (f, dir) = heard.recv().map_err(|e| e.to_string())?;
        s.wait();
        fd::write_full(f, b"by its file")?;
        let comm = fd::openat(dir, "comm", libc::O_RDONLY)?;
        same("its name", "by its file\n".to_owned(), text(comm)?)?;
        s.gather(team);
    }),
    row!("proc-of-child", |s| {
        let pid = s.spawn(|c| c.wait());
        let f = fd::open(format!("/proc/{pid}/status"), libc::O_RDONLY)?;
        let d = fd::open(format!("/proc/{pid}"), libc::O_RDONLY | libc::O_DIRECTORY)?;
        s.spawn(|c| {
            run(c, |c| {
                let parent = fd::open(format!("/proc/{}/status", task::ppid()), libc::O_RDONLY)?;
                c.wait();
                truth("the parent's status", text(parent)?.contains(&format!("\nPid:\t{}\n", task::ppid())))
            });
        });
        s.ready();
        let me = format!("\nPPid:\t{}\n", task::pid());
        // Before `go`, so that the child is alive; a copy has another pid, which the text follows.
        while !s.gone() {
            s.pause();
        }
        // The child may end at any time now: ESRCH is right then, another process's text is not.
        match fd::pread(f, 65536, 0) {
            Ok(t) => truth("status of a child of this process", String::from_utf8_lossy(&t).contains(&me))?,
            Err(e) => same("reading a child that ended", libc::ESRCH, e.code)?,
        }
        same("kind of the directory", libc::S_IFDIR, fd::stat(d)?.st_mode & libc::S_IFMT)?;
        s.await_go();
    }),
    row!("proc-of-the-dead", |s| {
        let (f, d) = dead(|pid| {
            let f = fd::open(format!("/proc/{pid}/status"), libc::O_RDONLY)?;
            Ok((f, fd::open(format!("/proc/{pid}"), libc::O_RDONLY | libc::O_DIRECTORY)?))
        })?;
        fails("reading", libc::ESRCH, fd::read(f, 100))?;
        let names = fd::some_entries(d, 4096).map_err(|e| e.code).map(|n| n.len());
        s.wait();
        fails("reading the dead's status", libc::ESRCH, fd::read(f, 100))?;
        same("reading the dead's directory", names, fd::some_entries(d, 4096).map_err(|e| e.code).map(|n| n.len()))?;
        same(
            "opening in it",
            Some(libc::ENOENT),
            fd::openat(d, "status", libc::O_RDONLY)
                .err()
                .map(|e| e.code)
                .map(|c| if c == libc::ESRCH { libc::ENOENT } else { c }),
        )?;
        same("flags", libc::O_DIRECTORY, fd::fcntl(d, libc::F_GETFL, 0)? as i32 & libc::O_DIRECTORY)?;
    }),
    row!("proc-cwd-of-the-dead", |s| {
        let Some(pid) = task::fork()? else {
            crate::sys::sleep_ms(1_000_000);
            task::exit(0)
        };
        std::env::set_current_dir(format!("/proc/{pid}")).map_err(|e| e.to_string())?;
        task::kill(pid, libc::SIGKILL)?;
        task::wait(pid, 0)?;
        s.wait();
        truth("no file there", fd::open("status", libc::O_RDONLY).is_err())?;
    }),
    row!("proc-sys", |s| {
        let f = fd::open("/proc/sys/kernel/ostype", libc::O_RDONLY)?;
        let g = fd::open("/proc/uptime", libc::O_RDONLY)?;
        let d = fd::open("/sys/kernel", libc::O_RDONLY | libc::O_DIRECTORY)?;
        fd::read(f, 2)?;
        let links = (fd::link_of(f)?, fd::link_of(g)?, fd::link_of(d)?);
        s.wait();
        same("links", links, (fd::link_of(f)?, fd::link_of(g)?, fd::link_of(d)?))?;
        same("offset", 2, fd::tell(f)?)?;
        same("content", b"Linux\n".to_vec(), fd::pread(f, 20, 0)?)?;
        truth("uptime has two numbers", text(g)?.split_whitespace().count() == 2)?;
    }),
    row!("mountinfo-watched", |s| {
        let f = fd::open("/proc/self/mountinfo", libc::O_RDONLY)?;
        let root = text(f)?.lines().count();
        s.wait();
        same("lines", root, text(f)?.lines().count())?;
        same("nothing changed, by poll", libc::POLLIN, fd::poll_now(f, libc::POLLIN)? & libc::POLLIN)?;
    }),
    row!("namespaces", |s| {
        let list: Vec<(&str, i32)> = NAMESPACES
            .iter()
            .filter_map(|n| Some((*n, fd::open(format!("/proc/self/ns/{n}"), libc::O_RDONLY | libc::O_CLOEXEC).ok()?)))
            .collect();
        truth("there are some", list.len() > 4)?;
        s.wait();
        for (name, f) in list {
            // Those of now: a restart may have put the process into another pid namespace.
            let now = fd::open(format!("/proc/self/ns/{name}"), libc::O_RDONLY)?;
            same(&format!("{name} namespace"), fd::inode(now)?, fd::inode(f)?)?;
            same("close-on-exec", 1, fd::fcntl(f, libc::F_GETFD, 0)?)?;
        }
    }),
    row!("namespace-of-child", [Flag::NoDup("the processes talk by a file")], |s| {
        let pid = s.spawn(|c| {
            c.wait();
            let leave = c.path("leave");
            c.until("the parent is done", || std::path::Path::new(&leave).exists());
        });
        let f = fd::open(format!("/proc/{pid}/ns/uts"), libc::O_RDONLY)?;
        s.wait();
        let same_ns = fd::inode(f)? == fd::inode(fd::open("/proc/self/ns/uts", libc::O_RDONLY)?)?;
        fd::close(fd::open(s.path("leave"), libc::O_RDWR | libc::O_CREAT)?)?;
        truth("the namespace of the child is that of the parent", same_ns)?;
    }),
];
