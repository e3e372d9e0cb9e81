//! Namespaces, `namespaces(7)`: a tree can only be rebuilt in those of the restorer.
//!
//! Read: `/proc/PID/ns`. A process that is in another namespace than ghost, or has made one for its children, is refused: what a
//! namespace holds (mounts, interfaces, host name, clocks) would not come along.

use crate::abreast;
use crate::error::Blocker;
use crate::view::TreeView;
use ghost_sys::proc::ProcDir;

/// Links of `/proc/PID/ns`, and what each is a namespace of.
const SORTS: [(&str, &str); 10] = [
    ("mnt", "mounts"),
    ("net", "network"),
    ("pid", "pids"),
    ("pid_for_children", "pids, for its children"),
    ("uts", "host name"),
    ("ipc", "System V IPC"),
    ("user", "users"),
    ("cgroup", "cgroups"),
    ("time", "clocks"),
    ("time_for_children", "clocks, for its children"),
];

/// Names the processes that are in other namespaces than ghost.
pub fn check(view: &TreeView, out: &mut Vec<Blocker>) {
    let Ok(own) = ProcDir::own() else { return };
    // The text of the link, `mnt:[4026531841]`: to follow it the kernel would have to make the inode that it stands for.
    let number = |dir: &ProcDir, name: &str| dir.link(&format!("ns/{name}")).ok();
    let ours = SORTS.map(|(name, _)| number(&own, name));
    let living: Vec<_> = view.processes.iter().filter(|p| !p.is_zombie()).collect();
    let all = abreast::each(&living, abreast::PROCESSES, |process| {
        let differs = SORTS.iter().zip(&ours).filter(|((name, _), ours)| {
            let theirs = number(&process.dir, name);
            // A kernel without this sort has no such link.
            ours.is_some() && theirs.is_some() && theirs != **ours
        });
        differs.map(|((_, what), _)| *what).collect::<Vec<&str>>()
    });
    for (process, names) in living.into_iter().zip(all) {
        if !names.is_empty() {
            out.push(Blocker {
                pid: process.pid,
                comm: process.comm(),
                kind: "namespace",
                subject: "the process".into(),
                why: format!("it is in another namespace than ghost: {}", names.join(", ")),
                advice: "run ghost inside of the same namespaces (nsenter --target PID --all)".into(),
                passes: false,
            });
        }
    }
}
