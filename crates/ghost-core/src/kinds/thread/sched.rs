//! How a thread is scheduled: policy, nice value, real-time and deadline parameters, CPUs, I/O priority.
//!
//! Read and set from outside ([`ghost_sys::sched`]). What the restorer may not raise, and CPUs that this host does not have,
//! are noted and left as they are: a program that runs slower is still the program.

use ghost_image::record as rec;
use ghost_sys::sched::{self, SchedAttr};
use ghost_sys::{Pid, Result};

const SCHED_DEADLINE: u32 = 6;
/// Policies with a nice value: NORMAL, BATCH, IDLE, EXT.
const FAIR: [u32; 4] = [0, 3, 5, 7];
/// SCHED_FLAG_UTIL_CLAMP.
const UTIL_CLAMP: u64 = 0x60;
/// The clamp of a thread that has none.
const NO_CLAMP: [(u32, u32); 2] = [(0, 0), (0, 1024)];

/// How many CPUs are online; 0 when that is not known.
pub(super) fn online_cpus() -> u32 {
    std::fs::read_to_string("/sys/devices/system/cpu/online").map_or(0, |text| count(text.trim()))
}

/// Counts a list like `0-3,8`.
fn count(list: &str) -> u32 {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(to.parse::<u32>().ok()?.checked_sub(from.parse().ok()?)? + 1)
    };
    list.split(',').filter_map(range).sum()
}

/// How this thread is scheduled; a full set of CPUs is left out, so that it is a full one elsewhere too.
pub(super) fn export(tid: Pid, fair_slice: u64, all_cpus: u32) -> Result<rec::Sched> {
    let a = sched::attributes(tid)?;
    let affinity = sched::affinity(tid)?;
    let runs_on: u32 = affinity.iter().map(|b| b.count_ones()).sum();
    // What a fair thread has as its runtime is its slice: the host's, unless it asked for another.
    let own_slice = !FAIR.contains(&a.policy) || a.runtime != fair_slice;
    Ok(rec::Sched {
        policy: a.policy,
        flags: a.flags,
        nice: if FAIR.contains(&a.policy) { a.nice } else { sched::nice(tid)? },
        priority: a.priority,
        runtime_ns: if own_slice { a.runtime } else { 0 },
        deadline_ns: a.deadline,
        period_ns: a.period,
        affinity: if runs_on >= all_cpus && all_cpus > 0 { Vec::new() } else { affinity },
        ioprio: sched::io_priority(tid)? as u32,
        util_min: a.util_min,
        util_max: a.util_max,
    })
}

/// What a thread has already.
pub(super) struct Now {
    attributes: SchedAttr,
    io_priority: Result<i32>,
}

impl Now {
    /// As this thread has it.
    pub(super) fn of(tid: Pid) -> Self {
        Self { attributes: sched::attributes(tid).unwrap_or_default(), io_priority: sched::io_priority(tid) }
    }
}

/// Schedules a thread like that, which has `now`; `note` is told (subject, text) what could not be had.
pub(super) fn import(tid: Pid, wanted: &rec::Sched, has: &Now, note: &mut dyn FnMut(String, String)) {
    let subject = |what: &str| format!("{what} of thread {tid}");
    // CPUs first: a deadline is only admitted for what a thread may run on.
    if !wanted.affinity.is_empty()
        && let Err(e) = sched::set_affinity(tid, &wanted.affinity)
    {
        note(subject("CPU affinity"), format!("it may run on every CPU here: {e}"));
    }
    let clamp = (wanted.util_min, wanted.util_max);
    let attr = SchedAttr {
        size: 0,
        policy: wanted.policy,
        flags: wanted.flags | if NO_CLAMP.contains(&clamp) { 0 } else { UTIL_CLAMP },
        nice: wanted.nice,
        priority: wanted.priority,
        runtime: wanted.runtime_ns,
        deadline: wanted.deadline_ns,
        period: wanted.period_ns,
        util_min: wanted.util_min,
        util_max: wanted.util_max,
    };
    let now = &has.attributes;
    let same = (now.policy, now.nice, now.priority, now.flags) == (attr.policy, attr.nice, attr.priority, attr.flags)
        && attr.flags & UTIL_CLAMP == 0
        && attr.policy != SCHED_DEADLINE
        && attr.runtime == 0;
    if !same && let Err(e) = sched::set_attributes(tid, &attr) {
        note(
            subject("scheduling"),
            format!("policy {} with nice {} and priority {}: {e}", attr.policy, attr.nice, attr.priority),
        );
    }
    // The policy has no use for it, but for those that come after it.
    if !FAIR.contains(&attr.policy)
        && sched::nice(tid) != Ok(attr.nice)
        && let Err(e) = sched::set_nice(tid, attr.nice)
    {
        note(subject("nice value"), format!("{}: {e}", attr.nice));
    }
    if has.io_priority != Ok(wanted.ioprio as i32)
        && let Err(e) = sched::set_io_priority(tid, wanted.ioprio as i32)
    {
        note(subject("I/O priority"), format!("{:#x}: {e}", wanted.ioprio));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_counted() {
        assert_eq!(count("0-3,8"), 5);
        assert_eq!(count("0"), 1);
        assert_eq!(count(""), 0);
    }

    #[test]
    fn a_thread_gets_what_another_has() {
        let thread = std::thread::spawn(|| {
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            let mut record = export(tid, sched::attributes(tid).unwrap().runtime, online_cpus()).unwrap();
            assert!(record.affinity.is_empty(), "all CPUs are no restriction");
            assert_eq!(record.runtime_ns, 0);
            (record.policy, record.nice, record.ioprio) = (3, record.nice + 2, (3 << 13) | 4);
            record.affinity = vec![1];
            let mut notes = Vec::new();
            import(tid, &record, &Now::of(tid), &mut |s, t| notes.push((s, t)));
            assert!(notes.is_empty(), "{notes:?}");
            let now = export(tid, sched::attributes(tid).unwrap().runtime, 64).unwrap();
            assert_eq!((now.policy, now.nice, now.ioprio, now.affinity[0]), (3, record.nice, (3 << 13) | 4, 1));
            record.affinity = vec![0, 0, 0, 0, 0, 0, 0, 128];
            import(tid, &record, &Now::of(tid), &mut |s, t| notes.push((s, t)));
            assert!(notes[0].1.contains("every CPU"), "{notes:?}");
        });
        thread.join().unwrap();
    }
}
