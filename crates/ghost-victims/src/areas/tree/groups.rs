//! Sessions and process groups, also those whose leader is dead.
use crate::{Ctx, Victim, call, must, proc, victim};

pub(super) const VICTIMS: &[Victim] = &[
    victim("session", |v| {
        v.spawn(|leader| {
            must!(setsid());
            leader.spawn(|member| {
                member.wait();
                member.eq("its session is its parent's", call!(getppid()), call!(getsid(0)));
                member.eq("its group is its parent's", call!(getppid()), call!(getpgrp()));
            });
            leader.wait();
            leader.eq("it leads its session", call!(getpid()), call!(getsid(0)));
        });
        v.wait();
        v.eq("the root leads its own session", call!(getpid()), call!(getsid(0)));
    }),
    victim("sessions-nested", |v| {
        nest(v, 4);
        v.wait();
    }),
    victim("group", |v| {
        v.spawn(|leader| {
            must!(setpgid(0, 0));
            leader.spawn(|member| {
                member.wait();
                member.eq("its group", call!(getppid()), call!(getpgrp()));
                member.eq("its session is the grandparent's", call!(getsid(call!(getppid()))), call!(getsid(0)));
            });
            // Born in the leader's group, then in one of its own.
            leader.spawn(|other| {
                must!(setpgid(0, 0));
                other.wait();
                other.eq("it leads its group", call!(getpid()), call!(getpgrp()));
            });
            leader.wait();
            leader.eq("it leads its group", call!(getpid()), call!(getpgrp()));
            leader.check("its session is another's", call!(getsid(0)) != call!(getpid()));
        });
        v.wait();
    }),
    victim("group-sibling", |v| {
        // A child in the group of its younger brother.
        let first = v.spawn(|c| c.wait());
        let second = v.spawn(|c| {
            must!(setpgid(0, 0));
            c.wait();
            c.eq("it leads its group", call!(getpid()), call!(getpgrp()));
        });
        must!(setpgid(first, second));
        v.wait_with(|| {});
        // The children may be gone already; those that are not, or are zombies, still tell their group.
        let all = proc::children();
        let groups: Vec<i32> = all.iter().map(|p| call!(getpgid(*p))).collect();
        v.eq("two children", 2, all.len());
        v.check("both are in the second's group", groups.len() == 2 && groups[0] == groups[1] && groups[1] == all[1]);
    }),
    victim("group-leader-dead", |v| {
        let leader = must!(fork());
        if leader == 0 {
            must!(setpgid(0, 0));
            loop {
                call!(pause());
            }
        }
        v.until("the leader leads", || call!(getpgid(leader)) == leader);
        for _ in 0..2 {
            let member = v.spawn(move |m| {
                must!(setpgid(0, leader));
                m.wait();
                m.check("its group is not its own", call!(getpgrp()) != call!(getpid()));
                m.check("its group is not its parent's", call!(getpgrp()) != call!(getpgid(call!(getppid()))));
            });
            v.need("the member is in the group", call!(getpgid(member)) == leader);
        }
        must!(kill(leader, libc::SIGKILL));
        must!(waitpid(leader, std::ptr::null_mut(), 0));
        v.wait();
        let groups: Vec<i32> = proc::children().iter().map(|p| call!(getpgid(*p))).collect();
        v.check("both members are in one group", groups.len() == 2 && groups[0] == groups[1] && groups[0] > 0);
    }),
    victim("session-leader-dead", |v| {
        must!(prctl(libc::PR_SET_CHILD_SUBREAPER, 1));
        let leader = must!(fork());
        if leader == 0 {
            must!(setsid());
            let child = must!(fork());
            if child == 0 {
                v.be_child(|m| {
                    m.until("the reaper is the parent", || {
                        proc::stat(std::process::id(), 6) != call!(getppid()).to_string()
                    });
                    m.wait();
                    let (pid, parent) = (call!(getpid()), call!(getppid()));
                    m.check("its session is not its own", call!(getsid(0)) != pid);
                    m.check("its session is not its parent's", call!(getsid(0)) != call!(getsid(parent)));
                    m.eq("its group has its session's number", call!(getsid(0)), call!(getpgrp()));
                });
            }
            call!(_exit(0));
        }
        must!(waitpid(leader, std::ptr::null_mut(), 0));
        let member = proc::children()[0];
        v.adopt(member);
        v.need("its session's leader is dead", call!(getsid(member)) == leader);
        v.wait();
    }),
    victim("session-from-a-brother", |v| {
        // As a daemon does it: it forked its child in the session of the leader, then led its own; who forked it has died. Its parent
        // was never in that session, and neither is anybody above it: the leader is its brother now.
        must!(prctl(libc::PR_SET_CHILD_SUBREAPER, 1));
        let root = call!(getpid());
        let leader = v.spawn(|leader| {
            must!(setsid());
            let between = must!(fork());
            if between == 0 {
                if must!(fork()) == 0 {
                    leader.be_child(|daemon| {
                        daemon.until("the root is the parent", || call!(getppid()) == root);
                        daemon.spawn(|child| {
                            child.wait();
                            child.check(
                                "its session is not its parent's",
                                call!(getsid(0)) != call!(getsid(call!(getppid()))),
                            );
                            child.check("its session is not its own", call!(getsid(0)) != call!(getpid()));
                        });
                        must!(setsid());
                        daemon.wait();
                        daemon.eq("it leads its session", call!(getpid()), call!(getsid(0)));
                        let child = proc::children()[0];
                        daemon.check("its child's is another", call!(getsid(child)) != call!(getpid()));
                    });
                }
                call!(_exit(0));
            }
            must!(waitpid(between, std::ptr::null_mut(), 0));
            leader.wait();
            leader.eq("it leads its session", call!(getpid()), call!(getsid(0)));
        });
        v.until("the daemon is ours", || proc::children().len() == 2);
        let daemon = *proc::children().iter().find(|p| **p != leader).expect("there are two");
        v.adopt(daemon);
        v.wait();
    }),
    victim("kill-group", |v| {
        // A group is what a signal reaches.
        let mut group = 0;
        for _ in 0..3 {
            let pid = must!(fork());
            if pid == 0 {
                loop {
                    call!(pause());
                }
            }
            group = if group == 0 { pid } else { group };
            must!(setpgid(pid, group));
        }
        let apart = must!(fork());
        if apart == 0 {
            loop {
                call!(pause());
            }
        }
        v.wait();
        let group = call!(getpgid(proc::children()[0]));
        v.check("the group is not the root's", group > 0 && group != call!(getpgrp()));
        must!(kill(-group, libc::SIGTERM));
        for _ in 0..3 {
            let mut status = 0;
            must!(waitpid(-group, &mut status, 0));
            v.eq("what ended a member", libc::SIGTERM, libc::WTERMSIG(status));
        }
        let left = proc::children();
        v.eq("one child is left", 1, left.len());
        must!(kill(left[0], libc::SIGKILL));
        must!(waitpid(left[0], std::ptr::null_mut(), 0));
    }),
];

fn nest(v: &mut Ctx, left: u32) {
    v.spawn(move |c| {
        must!(setsid());
        if left > 0 {
            nest(c, left - 1);
        }
        c.wait();
        c.eq("it leads its session", call!(getpid()), call!(getsid(0)));
        c.check("its parent's session is another", call!(getsid(call!(getppid()))) != call!(getsid(0)));
    });
}
