//! Threads with a descriptor table or directories apart from their process.
use crate::kit::{Res, fails, fd, run, same, truth};
use crate::{Ctx, Flag, Victim, flagged, must, proc, victim};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

pub(super) const VICTIMS: &[Victim] = &[
    victim("unshared-files", |v| {
        // A thread may have its own table of fds and its own directory.
        let threads = v.team(2, |i, t| {
            if i == 1 {
                must!(unshare(libc::CLONE_FILES | libc::CLONE_FS));
                must!(chdir(c"/proc".as_ptr()));
                must!(dup2(must!(open(c"/dev/zero".as_ptr(), libc::O_RDONLY)), 88));
            }
            t.ready();
            t.await_go();
            let cwd = proc::link("/proc/thread-self/cwd");
            t.eq("the thread's directory is its own", i == 1, cwd == "/proc");
            t.eq("fd 88 is open", i == 1, crate::call!(fcntl(88, libc::F_GETFD)) >= 0);
        });
        v.wait();
        v.gather(threads);
    }),
    victim("apart-everything", |v| {
        // What a table can hold: shared descriptions, a pipe within, epoll, cloexec.
        run(v, |v| {
            let shared = fd::open(v.path("shared"), libc::O_RDWR | libc::O_CREAT)?;
            fd::write_full(shared, b"0123456789")?;
            fd::lseek(shared, 3, libc::SEEK_SET)?;
            must!(fcntl(shared, libc::F_SETFD, libc::FD_CLOEXEC));
            let threads = v.team(1, move |_, t| run(t, |t| everything(t, shared)));
            v.wait();
            v.gather(threads);
            same("the bytes of the shared description that are left", b"89".to_vec(), fd::read(shared, 9)?)?;
            truth("its descriptor is closed by exec", fd::fcntl(shared, libc::F_GETFD, 0)? == 1)?;
            fd::closed("what the thread has opened", 90)
        });
    }),
    flagged("apart-lock", &[Flag::NoDup("a lock has one holder")], |v| {
        // A POSIX lock belongs to a table, not to a process.
        let path = crate::sys::c(&v.path("locked"));
        let file = must!(open(path.as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o600));
        let threads = v.team(1, move |_, t| {
            run(t, |t| {
                must!(unshare(libc::CLONE_FILES));
                fd::fcntl_lock(file, libc::F_SETLK, libc::F_WRLCK, 10, 5)?;
                t.wait();
                let info = std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{file}")).unwrap_or_default();
                truth("the lock is still held", info.contains("POSIX") && info.contains(" 10 14"))
            });
        });
        v.keep("what it has locked itself", move || {
            std::fs::read_to_string(format!("/proc/self/fdinfo/{file}")).unwrap_or_default().contains("POSIX")
        });
        v.wait();
        run(v, |_| {
            let taken = fd::fcntl_lock(file, libc::F_SETLK, libc::F_WRLCK, 10, 5);
            fails("a lock that the thread has", libc::EAGAIN, taken)
        });
        v.gather(threads);
    }),
    victim("apart-together", |v| {
        // Two that have a table together, and a third with that table and directories of its own.
        let threads = v.team(1, |_, t| {
            must!(unshare(libc::CLONE_FILES));
            let team = t.team(2, |i, t| {
                if i == 1 {
                    must!(unshare(libc::CLONE_FS));
                    must!(chdir(c"/".as_ptr()));
                    must!(umask(0o135));
                }
                t.ready();
                t.await_go();
                t.eq("its directory is /", i == 1, proc::link("/proc/thread-self/cwd") == "/");
                let mask = must!(umask(0o022));
                t.eq("its umask is its own", i == 1, mask == 0o135);
                if i == 0 {
                    must!(dup2(must!(open(c"/dev/null".as_ptr(), libc::O_RDONLY)), 91));
                }
            });
            t.ready();
            t.await_go();
            t.gather(team);
            t.check("what another thread has opened is open here", crate::call!(fcntl(91, libc::F_GETFD)) >= 0);
        });
        v.wait();
        v.gather(threads);
        v.check("and not in the first thread's table", crate::call!(fcntl(91, libc::F_GETFD)) < 0);
    }),
    victim("apart-in-root", |v| {
        // The process is in a root of its own, the thread is not.
        let (ready, go) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (is_ready, may_go) = (ready.clone(), go.clone());
        let thread = std::thread::spawn(move || {
            must!(unshare(libc::CLONE_FS));
            is_ready.store(true, SeqCst);
            while !may_go.load(SeqCst) {
                crate::sys::sleep_ms(2);
            }
            std::path::Path::new("/proc/thread-self/root").exists()
        });
        v.until("the thread has directories of its own", || ready.load(SeqCst));
        if crate::call!(chroot(crate::sys::c(v.dir()).as_ptr())) == -1 {
            v.skip("chroot needs CAP_SYS_CHROOT");
        }
        v.rebase("/");
        v.wait();
        v.check("the process does not see /proc", !std::path::Path::new("/proc/self").exists());
        go.store(true, SeqCst);
        v.eq("the thread sees /proc", true, thread.join().unwrap_or(false));
    }),
];

fn everything(t: &mut Ctx, shared: i32) -> Res {
    must!(unshare(libc::CLONE_FILES));
    must!(fcntl(shared, libc::F_SETFD, 0));
    let (r, w) = fd::pipe(libc::O_NONBLOCK)?;
    fd::write_full(w, b"held")?;
    let file = fd::open(t.path("file"), libc::O_RDWR | libc::O_CREAT)?;
    let epoll = must!(epoll_create1(0));
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 77 };
    must!(epoll_ctl(epoll, libc::EPOLL_CTL_ADD, r, &mut event));
    fd::dup3(file, 90, libc::O_CLOEXEC)?;
    let numbers = numbers();
    t.wait();
    same("its descriptors", numbers, self::numbers())?;
    truth("the shared one is not closed by exec here", fd::fcntl(shared, libc::F_GETFD, 0)? == 0)?;
    same("from where the shared one reads", b"34567".to_vec(), fd::read(shared, 5)?)?;
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    same("events", 1, must!(epoll_wait(epoll, &mut event, 1, 0)))?;
    let data = event.u64;
    same("data of the event", 77, data)?;
    same("what lies in the pipe", b"held".to_vec(), fd::read(r, 9)?)?;
    truth("fd 90 is closed by exec", fd::fcntl(90, libc::F_GETFD, 0)? == 1)?;
    fd::lseek(90, 5, libc::SEEK_SET)?;
    same("where the same description stands", 5, fd::tell(file)?)
}

/// The descriptors of the calling thread.
fn numbers() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc/thread-self/fd").expect("a list");
    let mut numbers: Vec<i32> = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}
