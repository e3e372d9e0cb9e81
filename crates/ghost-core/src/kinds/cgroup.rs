//! Which cgroup a process or a thread is in, of version 2 and of each hierarchy of version 1; `cgroups(7)`.
//!
//! Read: `/proc/PID/task/TID/cgroup`. Rebuilt from outside: `cgroup.procs`, and for a single thread `cgroup.threads` (v2) or
//! `tasks` (v1). A cgroup that ghost itself is in at the checkpoint is nothing of the program's own: at the restart it is that
//! of the restorer. Any other is looked for by its path.
//!
//! Noted: a cgroup that is not there any more or takes nobody in. Its limits are not the program's to make, so it is not
//! made anew; the program runs in that of the restorer.

use crate::abreast;
use crate::error::{Context, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use ghost_image::record as rec;
use ghost_sys::Pid;
use ghost_sys::proc::{self, CgroupMembership, Mount, ProcDir};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Adds where each process is, and each thread that is elsewhere.
pub fn export(cx: &mut ExportCx<'_>) -> Result<(), KindError> {
    let own = ProcDir::own().and_then(|d| proc::read_cgroup(&d)).step("looking up ghost's own cgroups")?;
    let living: Vec<_> = cx.view.processes.iter().enumerate().filter(|(_, p)| !p.is_zombie()).collect();
    let all = abreast::each(&living, abreast::PROCESSES, |(_, p)| p.dir.bytes("cgroup"));
    for ((index, process), of_process) in living.into_iter().zip(all) {
        let pid = process.pid;
        let text = of_process.step_on(pid, String::new, "reading its cgroups")?;
        let of_process = proc::parse_cgroup(&text).map_err(proc::ProcError::from);
        let of_process = of_process.step_on(pid, String::new, "reading its cgroups")?;
        let tids = process.threads.iter().filter(|t| t.tid != process.live && !t.status.is_dead()).map(|t| t.tid);
        let tids: Vec<Pid> = tids.collect();
        // Nearly all say the very same.
        let theirs = abreast::each(&tids, abreast::TASKS, |tid| {
            let same = process.dir.with_bytes(&format!("task/{tid}/cgroup"), |theirs| {
                if theirs == text { Ok(None) } else { proc::parse_cgroup(theirs).map(Some) }
            });
            Ok(same??)
        });
        for (tid, theirs) in tids.iter().zip(theirs) {
            let theirs: Result<_, proc::ProcError> = theirs;
            let threads = &mut cx.model.processes[index].threads;
            // One without a record was ending as the tree was frozen, and may be gone by now.
            let Some(record) = threads.iter_mut().find(|t| t.tid == *tid) else { continue };
            if let Some(theirs) = theirs.step_on(pid, || format!("tid {tid}"), "reading its cgroups")? {
                record.cgroups = differing(&theirs, &of_process);
            }
        }
        cx.model.processes[index].cgroups = differing(&of_process, &own);
    }
    Ok(())
}

/// Those memberships that are not among the others.
fn differing(memberships: &[CgroupMembership], others: &[CgroupMembership]) -> Vec<rec::Cgroup> {
    let elsewhere = memberships.iter().filter(|m| !others.contains(m));
    elsewhere.map(|m| rec::Cgroup { controllers: m.controllers.clone(), path: m.path.clone() }).collect()
}

/// Puts each process back, before its memory comes.
pub fn import(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let model = cx.model;
    if model.processes.iter().all(|p| p.cgroups.is_empty()) {
        return Ok(());
    }
    let mounts = mounts()?;
    for (index, record) in model.processes.iter().enumerate().filter(|(_, p)| p.zombie.is_none()) {
        for cgroup in &record.cgroups {
            join(cx, &mounts, cgroup, "cgroup.procs", cx.building[index].pid, record.pid);
        }
    }
    Ok(())
}

/// Puts threads back that are elsewhere than their process.
pub fn finish(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let model = cx.model;
    if model.processes.iter().flat_map(|p| &p.threads).all(|t| t.cgroups.is_empty()) {
        return Ok(());
    }
    let mounts = mounts()?;
    for record in &model.processes {
        for thread in &record.threads {
            for cgroup in &thread.cgroups {
                let list = if cgroup.controllers.is_empty() { "cgroup.threads" } else { "tasks" };
                join(cx, &mounts, cgroup, list, cx.pid(thread.tid), thread.tid);
            }
        }
    }
    Ok(())
}

fn mounts() -> Result<Vec<Mount>, KindError> {
    ProcDir::own().and_then(|d| proc::read_mountinfo(&d)).step("looking for the cgroup file systems")
}

fn join(cx: &mut ImportCx<'_>, mounts: &[Mount], cgroup: &rec::Cgroup, list: &str, now: Pid, old: Pid) {
    let named = String::from_utf8_lossy(&cgroup.path).into_owned();
    let failed = match directory(mounts, cgroup) {
        None => "no such hierarchy is mounted here".to_owned(),
        Some(at) => match std::fs::write(at.join(list), now.to_string()) {
            Ok(()) => return,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => "it is not there any more".into(),
            Err(e) => e.to_string(),
        },
    };
    cx.notes.push(rec::Note {
        pid: old,
        kind: "cgroup".into(),
        subject: if cgroup.controllers.is_empty() {
            format!("cgroup {named}")
        } else {
            format!("cgroup {} of {}", named, String::from_utf8_lossy(&cgroup.controllers))
        },
        text: format!("runs in the cgroup of the restart now: {failed}"),
    });
}

/// Where this cgroup is, by the mount that shows it.
fn directory(mounts: &[Mount], cgroup: &rec::Cgroup) -> Option<PathBuf> {
    let shows = |m: &&Mount| {
        if cgroup.controllers.is_empty() {
            return m.fs_type == b"cgroup2";
        }
        let options: Vec<&[u8]> = m.super_options.split(|b| *b == b',').collect();
        m.fs_type == b"cgroup" && cgroup.controllers.split(|b| *b == b',').all(|c| options.contains(&c))
    };
    mounts.iter().filter(shows).find_map(|m| {
        let root: &[u8] = if m.root == b"/" { b"" } else { &m.root };
        let below = cgroup.path.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with(b"/"))?;
        // A path that leads out of the hierarchy is none of ours to follow.
        let leads_out = below.split(|b| *b == b'/').any(|part| part == b"..");
        let below = std::ffi::OsStr::from_bytes(below.strip_prefix(b"/").unwrap_or(below));
        (!leads_out).then(|| Path::new(std::ffi::OsStr::from_bytes(&m.mount_point)).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_found_below_its_own_hierarchy_only() {
        let text = b"30 1 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
31 1 0:26 /pod /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpuacct,cpu
32 1 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
";
        let mounts = proc::parse_mountinfo(text).unwrap();
        let at = |controllers: &[u8], path: &[u8]| {
            let cgroup = rec::Cgroup { controllers: controllers.to_vec(), path: path.to_vec() };
            directory(&mounts, &cgroup).map(|p| p.to_string_lossy().into_owned())
        };
        assert_eq!(at(b"", b"/a/b").unwrap(), "/sys/fs/cgroup/unified/a/b");
        assert_eq!(at(b"", b"/").unwrap(), "/sys/fs/cgroup/unified/");
        assert_eq!(at(b"cpu,cpuacct", b"/pod/x").unwrap(), "/sys/fs/cgroup/cpu/x");
        assert_eq!(at(b"cpu", b"/podium"), None, "another cgroup, which this mount does not show");
        assert_eq!(at(b"name=systemd", b"/s").unwrap(), "/sys/fs/cgroup/systemd/s");
        assert_eq!(at(b"memory", b"/s"), None);
        assert_eq!(at(b"", b"/../etc"), None);
    }

    #[test]
    fn what_ghost_is_in_itself_is_nobodys_own() {
        let own = proc::parse_cgroup(b"4:cpu:/\n0::/shell\n").unwrap();
        let theirs = proc::parse_cgroup(b"4:cpu:/\n0::/service\n").unwrap();
        assert!(differing(&own, &own).is_empty());
        assert_eq!(differing(&theirs, &own), [rec::Cgroup { controllers: Vec::new(), path: b"/service".to_vec() }]);
    }
}
