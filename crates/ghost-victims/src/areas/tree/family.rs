//! Parents and children: few, deep, wide; orphans; stopped ones; children waited for later.
use crate::{Ctx, Flag, Victim, call, flagged, must, proc, victim};

pub(super) const VICTIMS: &[Victim] = &[
    victim("children", |v| {
        for i in 0..3u64 {
            v.spawn(move |child| {
                let own = i * 1111;
                name(&format!("child-{i}"));
                child.wait();
                child.eq("a value of its own", i * 1111, own);
                child.eq("its name", format!("child-{i}"), my_name());
                child.check("its parent is not init", call!(getppid()) > 1);
            });
        }
        v.wait();
        let names: Vec<String> =
            proc::children().iter().map(|p| proc::read(&format!("/proc/{p}/comm")).trim().to_owned()).collect();
        v.check("the children are still listed in order of birth, or gone", names.is_sorted());
    }),
    victim("deep", |v| {
        name("depth-0");
        deeper(v, 1);
        v.wait();
    }),
    flagged("wide", &[Flag::Seconds(120)], |v| {
        name("root-of-wide");
        for i in 0..100u32 {
            v.spawn(move |child| {
                let secret = i ^ 0x5555;
                child.wait();
                child.eq("a value of its own", i ^ 0x5555, secret);
                child.eq("its parent's name", "root-of-wide", parents_name().as_str());
            });
        }
        v.wait();
    }),
    victim("bushy", |v| {
        // Three children with three children each with three children each.
        fn grow(v: &mut Ctx, level: usize) {
            if level < 3 {
                for i in 0..3 {
                    v.spawn(move |c| {
                        name(&format!("leaf-{level}-{i}"));
                        grow(c, level + 1);
                        c.wait();
                        c.eq("its name", format!("leaf-{level}-{i}"), my_name());
                    });
                }
            }
        }
        grow(v, 0);
        v.wait();
    }),
    victim("wait-later", |v| {
        v.spawn(|child| {
            child.wait();
            call!(_exit(33));
        });
        v.wait();
        let mut status = 0;
        let pid = must!(waitpid(-1, &mut status, 0));
        v.eq("the child's status", 33 << 8, status);
        v.joined(pid, 0);
        v.eq("no child is left", -1, call!(waitpid(-1, &mut status, 0)));
    }),
    victim("orphans", |v| {
        must!(prctl(libc::PR_SET_CHILD_SUBREAPER, 1));
        name("reaper");
        let middle = must!(fork());
        if middle == 0 {
            for i in 0..3 {
                let child = must!(fork());
                if child == 0 {
                    v.be_child(|orphan| {
                        orphan.until("the reaper is the parent", || parents_name() == "reaper");
                        orphan.wait();
                        orphan.eq(&format!("orphan {i}: its parent's name"), "reaper", parents_name().as_str());
                    });
                }
                while !std::path::Path::new(&v.path(&format!("born.{i}"))).exists() {
                    std::fs::write(v.path(&format!("born.{i}")), "").unwrap();
                }
            }
            call!(_exit(0));
        }
        let mut status = 0;
        must!(waitpid(middle, &mut status, 0));
        let orphans = proc::children();
        v.need("three orphans", orphans.len() == 3);
        for pid in orphans {
            v.adopt(pid);
        }
        v.wait();
    }),
    flagged("stopped-unreported", &[Flag::NoStop], |v| {
        stopped_child(v, || ());
        v.wait();
        let mut info = zero();
        must!(waitid(libc::P_ALL, 0, &mut info, libc::WSTOPPED | libc::WNOHANG));
        // SAFETY: waitid filled it, or it is zero.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        v.eq("the code of the stop's report", libc::CLD_STOPPED, info.si_code);
        v.eq("the signal that stopped it", libc::SIGTSTP, status);
        v.check("a pid in the report", pid > 0);
        go_on(v);
    }),
    flagged("stopped-reported", &[Flag::NoStop], |v| {
        let child = stopped_child(v, || ());
        let mut status = 0;
        must!(waitpid(child, &mut status, libc::WUNTRACED));
        v.need("it was reported as stopped", libc::WIFSTOPPED(status));
        v.wait();
        let again = call!(waitpid(-1, &mut status, libc::WUNTRACED | libc::WNOHANG));
        v.eq("a second report of the same stop", 0, again);
        go_on(v);
    }),
    flagged("stopped-with-signal-waiting", &[Flag::NoStop], |v| {
        // A signal that would end it reached it after the stop: it acts when the process goes on, not before.
        let child = must!(fork());
        if child == 0 {
            must!(kill(call!(getpid()), libc::SIGSTOP));
            call!(_exit(0));
        }
        let mut status = 0;
        must!(waitpid(child, &mut status, libc::WUNTRACED));
        must!(kill(child, libc::SIGTERM));
        v.wait();
        go_on(v);
        let child = proc::children().first().copied().unwrap_or(0);
        must!(waitpid(child, &mut status, 0));
        v.eq("the signal that ended it", libc::SIGTERM, libc::WTERMSIG(status));
    }),
    flagged("stopped-threads", &[Flag::NoStop], |v| {
        // All threads of a stopped process stay stopped.
        v.spawn(|child| {
            let threads = child.team(3, |_, t| t.wait());
            child.ready();
            must!(kill(call!(getpid()), libc::SIGSTOP));
            child.await_go();
            child.gather(threads);
        });
        let child = proc::children()[0];
        v.until("it is stopped", || proc::state(child) == "T");
        v.wait();
        go_on(v);
    }),
    flagged("continued-unreported", &[Flag::NoStop], |v| {
        let mut ends = [0; 2];
        must!(pipe(ends.as_mut_ptr()));
        let child = stopped_child(v, move || {
            // A child that has ended has nothing else to report: it stays until its parent has asked.
            must!(close(ends[1]));
            must!(read(ends[0], [0_u8].as_mut_ptr().cast(), 1));
        });
        let mut status = 0;
        must!(waitpid(child, &mut status, libc::WUNTRACED));
        must!(kill(child, libc::SIGCONT));
        v.until("it runs again", || proc::state(child) != "T");
        v.wait();
        let mut info = zero();
        must!(waitid(libc::P_ALL, 0, &mut info, libc::WCONTINUED | libc::WNOHANG));
        v.eq("the code of the report", libc::CLD_CONTINUED, info.si_code);
        must!(close(ends[1]));
    }),
];

fn deeper(v: &mut Ctx, depth: u32) {
    v.spawn(move |child| {
        name(&format!("depth-{depth}"));
        if depth < 10 {
            deeper(child, depth + 1);
        }
        child.wait();
        child.eq("its parent's name", format!("depth-{}", depth - 1), parents_name());
        child.eq("its children", usize::from(depth < 10), proc::children().len());
    });
}

fn stopped_child(v: &mut Ctx, at_the_end: impl Fn()) -> i32 {
    let pid = v.spawn(|child| {
        // In a group of its own: SIGTSTP does not stop an orphaned one.
        must!(setpgid(0, 0));
        child.ready();
        must!(kill(call!(getpid()), libc::SIGTSTP));
        child.await_go();
        at_the_end();
    });
    v.until("the child is stopped", || proc::state(pid) == "T");
    pid
}

/// The one child must be stopped still; continues it.
fn go_on(v: &mut Ctx) {
    let child = proc::children().first().copied().unwrap_or(0);
    v.eq("the child's state", "T", proc::state(child).as_str());
    crate::sys::sleep_ms(30);
    v.eq("the child's state a little later", "T", proc::state(child).as_str());
    must!(kill(child, libc::SIGCONT));
}

fn zero() -> libc::siginfo_t {
    // SAFETY: a plain C structure.
    unsafe { crate::sys::zeroed() }
}

/// Names this thread.
pub(super) fn name(text: &str) {
    let text = crate::sys::c(text);
    must!(prctl(libc::PR_SET_NAME, text.as_ptr()));
}

fn my_name() -> String {
    proc::read("/proc/self/comm").trim_end().to_owned()
}

fn parents_name() -> String {
    proc::read(&format!("/proc/{}/comm", call!(getppid()))).trim_end().to_owned()
}
