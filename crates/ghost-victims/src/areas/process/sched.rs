//! How a process is scheduled: nice, policy, affinity, I/O priority, autogroup.
use crate::sys::zeroed;
use crate::{Ctx, Victim, call, must, proc, raw, victim};

/// `struct sched_attr` of sched_setattr(2), its first version.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const RESET_ON_FORK: u64 = 1;

pub(super) const VICTIMS: &[Victim] = &[
    victim("nice", |v| {
        must!(setpriority(libc::PRIO_PROCESS, 0, 7));
        v.wait();
        v.eq("nice", 7, call!(getpriority(libc::PRIO_PROCESS, 0)));
    }),
    victim("nice-negative", |v| {
        if call!(setpriority(libc::PRIO_PROCESS, 0, -3)) == -1 {
            v.skip("a negative nice needs CAP_SYS_NICE");
        }
        v.wait();
        v.eq("field 19 of stat", "-3", proc::stat(std::process::id(), 19).as_str());
    }),
    victim("sched-batch", |v| policy(v, SchedAttr { policy: libc::SCHED_BATCH as u32, nice: 4, ..Default::default() })),
    victim("sched-idle", |v| policy(v, SchedAttr { policy: libc::SCHED_IDLE as u32, ..Default::default() })),
    victim("sched-fifo", |v| {
        policy(v, SchedAttr { policy: libc::SCHED_FIFO as u32, priority: 5, ..Default::default() })
    }),
    victim("sched-rr", |v| {
        policy(v, SchedAttr { policy: libc::SCHED_RR as u32, priority: 7, flags: RESET_ON_FORK, ..Default::default() });
    }),
    victim("sched-rr-and-back", |v| {
        // The nice value is kept for when the thread is an ordinary one again.
        must!(setpriority(libc::PRIO_PROCESS, 0, 6));
        let param = libc::sched_param { sched_priority: 3 };
        if call!(sched_setscheduler(0, libc::SCHED_RR, &param)) == -1 {
            v.skip("real time needs CAP_SYS_NICE");
        }
        v.keep("getpriority", || call!(getpriority(libc::PRIO_PROCESS, 0)));
        v.wait();
        let param = libc::sched_param { sched_priority: 0 };
        must!(sched_setscheduler(0, libc::SCHED_OTHER, &param));
        v.eq("nice afterwards", 6, get().nice);
    }),
    victim("sched-deadline", |v| {
        let (runtime, deadline, period) = (1_000_000, 20_000_000, 40_000_000);
        policy(v, SchedAttr { policy: libc::SCHED_DEADLINE as u32, runtime, deadline, period, ..Default::default() });
    }),
    victim("affinity", |v| {
        if call!(sysconf(libc::_SC_NPROCESSORS_ONLN)) < 2 {
            v.skip("one CPU has but one affinity");
        }
        // SAFETY: a set of bits.
        let mut set: libc::cpu_set_t = unsafe { zeroed() };
        // SAFETY: CPU 1 is within the set.
        unsafe { libc::CPU_SET(1, &mut set) };
        if call!(sched_setaffinity(0, size_of_val(&set), &set)) == -1 {
            v.skip("CPU 1 is not ours");
        }
        v.wait();
        v.eq("Cpus_allowed_list", "1", proc::status("Cpus_allowed_list").as_str());
        v.eq("the CPU it runs on", 1, call!(sched_getcpu()));
    }),
    victim("ioprio", |v| {
        const BEST_EFFORT_3: i64 = 2 << 13 | 3;
        raw!(libc::SYS_ioprio_set, 1, 0, BEST_EFFORT_3).unwrap();
        v.wait();
        v.eq("ioprio", Ok(BEST_EFFORT_3), raw!(libc::SYS_ioprio_get, 1, 0));
    }),
    victim("ioprio-idle", |v| {
        const IDLE: i64 = 3 << 13;
        raw!(libc::SYS_ioprio_set, 1, 0, IDLE).unwrap();
        v.wait();
        v.eq("ioprio", Ok(IDLE), raw!(libc::SYS_ioprio_get, 1, 0));
    }),
    victim("autogroup", |v| {
        if std::fs::write("/proc/self/autogroup", "5").is_err() {
            v.skip("no autogroup here");
        }
        let nice = || proc::read("/proc/self/autogroup").rsplit(' ').next().unwrap_or("").trim().to_owned();
        v.need("autogroup's nice is 5", nice() == "5");
        v.wait();
        v.eq("autogroup's nice", "5", nice().as_str());
    }),
];

fn get() -> SchedAttr {
    let mut a = SchedAttr::default();
    raw!(libc::SYS_sched_getattr, 0, &mut a as *mut SchedAttr, size_of::<SchedAttr>(), 0).unwrap();
    a
}

fn policy(v: &mut Ctx, mut wanted: SchedAttr) {
    wanted.size = size_of::<SchedAttr>() as u32;
    if let Err(e) = raw!(libc::SYS_sched_setattr, 0, &wanted as *const SchedAttr, 0) {
        v.skip(&format!("sched_setattr: {}", crate::sys::strerror(e)));
    }
    let before = get();
    v.need("the policy is set", before.policy == wanted.policy && before.priority == wanted.priority);
    v.wait();
    v.eq("sched_getattr", before, get());
}
