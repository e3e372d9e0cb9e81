//! What every thread has of its own: name, mask, alternate stack, ids, scheduling, slack.
use crate::sys::zeroed;
use crate::{Victim, call, must, proc, raw, victim};

pub(super) const VICTIMS: &[Victim] = &[
    victim("names", |v| {
        let threads = v.team(5, |i, t| {
            let name = crate::sys::c(&format!("thread {i}"));
            must!(prctl(libc::PR_SET_NAME, name.as_ptr()));
            t.wait();
            t.eq("comm", format!("thread {i}"), proc::read("/proc/thread-self/comm").trim_end().to_owned());
        });
        must!(prctl(libc::PR_SET_NAME, c"the first".as_ptr()));
        v.wait();
        v.eq("comm", "the first", proc::read("/proc/self/comm").trim_end());
        v.gather(threads);
    }),
    victim("masks", |v| {
        let threads = v.team(5, |i, t| {
            let mask: u64 = 1 << (9 + i) | 1 << (33 + i);
            raw!(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, 0, 8).unwrap();
            t.keep("SigBlk", || proc::thread_status("SigBlk"));
            t.wait();
            let mut found = 0u64;
            raw!(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, 0, &raw mut found, 8).unwrap();
            t.eq("mask", mask, found);
        });
        v.wait();
        v.gather(threads);
    }),
    victim("altstacks", |v| {
        let threads = v.team(5, |i, t| {
            let area = Box::leak(vec![0u8; 32 << 10].into_boxed_slice());
            let size = (16 << 10) + 1024 * i;
            let wanted = libc::stack_t { ss_sp: area.as_mut_ptr().cast(), ss_flags: 0, ss_size: size };
            must!(sigaltstack(&wanted, std::ptr::null_mut()));
            t.wait();
            // SAFETY: a plain C structure.
            let mut found: libc::stack_t = unsafe { zeroed() };
            must!(sigaltstack(std::ptr::null(), &mut found));
            t.eq("ss_sp", wanted.ss_sp as usize, found.ss_sp as usize);
            t.eq("ss_size", size, found.ss_size);
            t.eq("ss_flags", 0, found.ss_flags);
            let off = libc::stack_t { ss_flags: libc::SS_DISABLE, ..wanted };
            must!(sigaltstack(&off, std::ptr::null_mut()));
        });
        v.wait();
        v.gather(threads);
    }),
    victim("creds", |v| {
        if call!(geteuid()) != 0 {
            v.skip("needs root");
        }
        // libc would change all threads at once; the kernel changes one.
        let threads = v.team(4, |i, t| {
            let id = 3000 + i as i64;
            raw!(libc::SYS_setgroups, 1, [id as u32].as_ptr()).unwrap();
            raw!(libc::SYS_setresgid, id, id + 10, id + 20).unwrap();
            if i == 3 {
                raw!(libc::SYS_prctl, libc::PR_SET_KEEPCAPS, 1).unwrap();
            }
            raw!(libc::SYS_setresuid, id, id + 10, id + 20).unwrap();
            if i == 2 {
                raw!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).unwrap();
            }
            for f in ["Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"] {
                t.keep(f, move || proc::thread_status(f));
            }
            t.wait();
            let uids = format!("{id} {} {} {}", id + 10, id + 20, id + 10);
            t.eq("Uid", uids, proc::thread_status("Uid"));
            t.eq("permitted capabilities are none", i != 3, proc::thread_status("CapPrm") == "0000000000000000");
        });
        v.wait();
        v.eq("Uid of the first thread", "0 0 0 0", proc::status("Uid").as_str());
        v.gather(threads);
    }),
    victim("scheduling", |v| {
        let threads = v.team(5, |i, t| {
            match i {
                0 => drop(raw!(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, 5).unwrap()),
                1 => drop(raw!(libc::SYS_sched_setscheduler, 0, libc::SCHED_BATCH, [0i32].as_ptr()).unwrap()),
                2 => drop(raw!(libc::SYS_sched_setscheduler, 0, libc::SCHED_IDLE, [0i32].as_ptr()).unwrap()),
                3 => drop(raw!(libc::SYS_ioprio_set, 1, 0, 2 << 13 | 6).unwrap()),
                _ => drop(raw!(libc::SYS_sched_setaffinity, 0, 8, [1u64].as_ptr()).unwrap()),
            }
            t.keep("nice", || raw!(libc::SYS_getpriority, libc::PRIO_PROCESS, 0));
            t.keep("policy", || raw!(libc::SYS_sched_getscheduler, 0));
            t.keep("ioprio", || raw!(libc::SYS_ioprio_get, 1, 0));
            t.keep("Cpus_allowed", || proc::thread_status("Cpus_allowed"));
            t.wait();
        });
        v.wait();
        v.eq("nice of the first thread", 0, call!(getpriority(libc::PRIO_PROCESS, 0)));
        v.gather(threads);
    }),
    victim("timerslack", |v| {
        let threads = v.team(3, |i, t| {
            must!(prctl(libc::PR_SET_TIMERSLACK, 1000 + i));
            t.wait();
            t.eq("timerslack", 1000 + i as i32, call!(prctl(libc::PR_GET_TIMERSLACK)));
        });
        v.wait();
        v.gather(threads);
    }),
    victim("tid-address", |v| {
        // Where the kernel writes 0 when the thread ends; pthread_join waits for that.
        let threads = v.team(3, |_, t| {
            t.keep("clear_child_tid", || {
                let mut at = 0usize;
                (call!(prctl(libc::PR_GET_TID_ADDRESS, &mut at)), at)
            });
            t.wait();
        });
        v.wait();
        v.gather(threads);
    }),
];
