//! Namespaces, `namespaces(7)`: a tree can only be rebuilt in those of the restorer.
//!
//! Read: `/proc/PID/ns`, or the same by a pidfd (Linux 6.11). A process that is in another namespace than ghost, or has made one for its children, is refused: what a
//! namespace holds (mounts, interfaces, host name, clocks) would not come along.

use crate::abreast;
use crate::error::Blocker;
use crate::view::TreeView;
use ghost_sys::Pid;
use ghost_sys::pidfd::{self, Namespace};
use ghost_sys::proc::ProcDir;
use std::os::fd::AsFd;

/// The namespaces of a process: the link in `/proc/PID/ns`, the same by a pidfd, and what each is a namespace of.
const SORTS: [(&str, Namespace, &str); 10] = [
    ("mnt", Namespace::Mount, "mounts"),
    ("net", Namespace::Net, "network"),
    ("pid", Namespace::Pid, "pids"),
    ("pid_for_children", Namespace::PidForChildren, "pids, for its children"),
    ("uts", Namespace::Uts, "host name"),
    ("ipc", Namespace::Ipc, "System V IPC"),
    ("user", Namespace::User, "users"),
    ("cgroup", Namespace::Cgroup, "cgroups"),
    ("time", Namespace::Time, "clocks"),
    ("time_for_children", Namespace::TimeForChildren, "clocks, for its children"),
];

/// Names the processes that are in other namespaces than ghost.
pub fn check(view: &TreeView, out: &mut Vec<Blocker>) {
    let Ok(own) = ProcDir::own() else { return };
    let own_pidfd = pidfd::open(std::process::id() as Pid).ok();
    // The text of the link, `mnt:[4026531841]`: to follow it the kernel would have to make the inode that it stands for.
    let link = |dir: &ProcDir, name: &str| dir.link(&format!("ns/{name}")).ok();
    // The kernel tells it by a pidfd, or each is read; one without this sort has no such link.
    let ours = SORTS.map(|(name, sort, _)| {
        let number = own_pidfd.as_ref().and_then(|own| pidfd::namespace(own.as_fd(), sort).ok());
        (number, link(&own, name))
    });
    let living: Vec<_> = view.processes.iter().filter(|p| !p.is_zombie()).collect();
    let all = abreast::each(&living, abreast::PROCESSES, |process| {
        let differs = SORTS.iter().zip(&ours).filter(|((name, sort, _), (number, text))| {
            let theirs = number.and_then(|_| pidfd::namespace(process.pidfd.as_fd(), *sort).ok());
            if theirs.is_some() {
                return theirs != *number;
            }
            let theirs = text.as_ref().and_then(|_| link(&process.dir, name));
            theirs.is_some() && theirs != *text
        });
        differs.map(|((.., what), _)| *what).collect::<Vec<&str>>()
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
