//! The dead that nobody has waited for yet.
use crate::sys::sleep_ms;
use crate::{Ctx, Victim, call, must, proc, raw, victim};

pub(super) const VICTIMS: &[Victim] = &[
    victim("zombie-exit", |v| {
        die(v, || call!(_exit(7)));
        v.wait();
        v.eq("statuses", vec![7 << 8], statuses());
    }),
    victim("zombie-signal", |v| {
        die(v, || {
            call!(raise(libc::SIGKILL));
        });
        v.wait();
        v.eq("statuses", vec![libc::SIGKILL], statuses());
    }),
    victim("zombie-of-a-user", |v| {
        die(v, || {
            must!(setgid(1234));
            must!(setuid(4321));
            call!(raise(libc::SIGTERM));
        });
        v.wait();
        // SAFETY: plain data, all zero is a valid value.
        let mut info: libc::siginfo_t = unsafe { crate::sys::zeroed() };
        must!(waitid(libc::P_ALL, 0, &mut info, libc::WEXITED));
        // SAFETY: the kernel has filled it as for SIGCHLD.
        let (user, status) = unsafe { (info.si_uid(), info.si_status()) };
        v.eq("user and status", (4321, libc::SIGTERM), (user, status));
    }),
    victim("zombie-core", |v| {
        // No core file is wanted, but the bit in the status is: only where a core was written does it show.
        die(v, || {
            call!(raise(libc::SIGSEGV));
        });
        v.keep("the zombie's exit code in stat", || proc::children().first().map(|p| proc::stat(*p as u32, 52)));
        v.wait();
        let all = statuses();
        v.eq("the signal", vec![libc::SIGSEGV], all.iter().map(|s| libc::WTERMSIG(*s)).collect::<Vec<_>>());
    }),
    victim("zombies", |v| {
        for i in 0..20 {
            die(v, move || call!(_exit(i)));
        }
        v.wait();
        let mut all = statuses();
        all.sort_unstable();
        v.eq("statuses", (0..20).map(|i| i << 8).collect::<Vec<_>>(), all);
    }),
    victim("zombie-waitid", |v| {
        die(v, || call!(_exit(99)));
        v.wait();
        // SAFETY: a plain C structure.
        let mut info: libc::siginfo_t = unsafe { crate::sys::zeroed() };
        for options in [libc::WEXITED | libc::WNOWAIT, libc::WEXITED] {
            must!(waitid(libc::P_ALL, 0, &mut info, options));
            // SAFETY: waitid filled it.
            let (status, uid) = unsafe { (info.si_status(), info.si_uid()) };
            v.eq("si_code", libc::CLD_EXITED, info.si_code);
            v.eq("si_status", 99, status);
            v.eq("si_uid", call!(getuid()), uid);
        }
    }),
    victim("zombie-of-child", |v| {
        v.spawn(|c| {
            die(c, || call!(_exit(41)));
            c.wait();
            c.eq("statuses", vec![41 << 8], statuses());
        });
        v.wait();
    }),
    victim("zombie-group-leader", |v| {
        // Dead, not waited for, and its group has living members.
        let leader = must!(fork());
        if leader == 0 {
            must!(setpgid(0, 0));
            call!(_exit(3));
        }
        v.until("it is a zombie", || proc::state(leader) == "Z");
        v.spawn(move |m| {
            must!(setpgid(0, leader));
            m.wait();
            m.check("its group is not its own", call!(getpgrp()) != call!(getpid()));
        });
        v.wait();
        let all = proc::children();
        v.eq("two children", 2, all.len());
        let zombie = all.iter().copied().find(|p| proc::stat(*p as u32, 5) == p.to_string());
        v.check("one of them leads the group", zombie.is_some());
        let mut status = 0;
        must!(waitpid(zombie.unwrap_or(-1), &mut status, 0));
        v.eq("its status", 3 << 8, status);
    }),
    victim("zombie-leader-thread", |v| {
        // The first thread is gone, another goes on.
        v.spawn(|c| {
            let dir = c.dir().to_owned();
            std::thread::spawn(move || {
                Ctx::root(&dir).be_child(|c| {
                    let me = std::process::id();
                    c.until("the leader is a zombie", || proc::stat(me, 3) == "Z");
                    c.keep("name of the leader", move || {
                        proc::read(&format!("/proc/{}/task/{0}/comm", std::process::id()))
                    });
                    c.wait();
                    c.eq("state of the leader", "Z", proc::stat(std::process::id(), 3).as_str());
                    c.check(
                        "the thread's id is not the process's",
                        raw!(libc::SYS_gettid) != Ok(std::process::id().into()),
                    );
                })
            });
            // Only this thread, not the process.
            call!(syscall(libc::SYS_exit, 0));
        });
        v.wait();
    }),
    victim("not-yet-dead", |v| {
        // Ends of itself at about the time when others look at it.
        for i in 0..8 {
            let child = must!(fork());
            if child == 0 {
                sleep_ms(i * 40);
                call!(_exit(10 + i as i32));
            }
        }
        v.wait();
        let mut all = statuses();
        all.sort_unstable();
        v.eq("statuses", (10..18).map(|i| i << 8).collect::<Vec<_>>(), all);
    }),
];

/// Forks a child that ends by `end`, and returns when it is a zombie.
fn die(v: &Ctx, end: impl FnOnce()) {
    let child = must!(fork());
    if child == 0 {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        must!(setrlimit(libc::RLIMIT_CORE, &none));
        // std's handler of SIGSEGV looks for stack overflows; here it shall be the plain end.
        must!(signal(libc::SIGSEGV, libc::SIG_DFL));
        end();
        call!(_exit(255));
    }
    v.until("the child is a zombie", || proc::state(child) == "Z");
}

/// The statuses of all children, waited for until there is none.
fn statuses() -> Vec<i32> {
    let mut all = Vec::new();
    let mut status = 0;
    while call!(waitpid(-1, &mut status, 0)) > 0 {
        all.push(status);
    }
    all
}
