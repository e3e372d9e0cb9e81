//! Pids that are taken: who has them, and waiting for those that are going away.

use crate::error::KindError;
use ghost_sys::proc::{self, ProcDir};
use ghost_sys::remote::RemoteError;
use ghost_sys::{Errno, Pid};
use std::time::{Duration, Instant};

/// Makes a process or thread, again and again while its pid is taken and there is time left.
pub(crate) fn retry<T>(
    pid: Pid,
    deadline: Instant,
    mut make: impl FnMut() -> Result<T, RemoteError>,
) -> Result<T, KindError> {
    loop {
        let e = match make() {
            Ok(made) => return Ok(made),
            Err(e) => e,
        };
        match e.errno() {
            Some(Errno(libc::EEXIST)) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            Some(Errno(libc::EEXIST)) => {
                return Err(KindError::refusal("taking its pid", holder(pid)).on(pid, "").advise(
                    "end that process first (restart --replace does so when it is the program itself), or its parent where it has ended already; or use --pid new or --pid ns",
                ));
            }
            Some(Errno(libc::EPERM)) if pid != 0 => {
                return Err(KindError::new("taking its pid", e).on(pid, "").advise(
                    "choosing a pid needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN in the user namespace of the pid namespace; use --pid new or --pid ns",
                ));
            }
            _ => return Err(KindError::new("making the process", e).on(pid, "")),
        }
    }
}

/// Who stands in the way of a pid, in words.
fn holder(pid: Pid) -> String {
    if let Ok(dir) = ProcDir::open(pid) {
        let comm = proc::read_comm(&dir).map(|c| String::from_utf8_lossy(&c).into_owned()).unwrap_or_default();
        let status = proc::read_status(&dir).ok();
        return match status {
            Some(s) if s.tgid != pid => format!("pid {pid} is taken by a thread of process {} ({comm})", s.tgid),
            Some(s) if s.is_dead() => {
                format!("pid {pid} ({comm}) has ended, but its parent {} has not waited for it", s.ppid)
            }
            _ => format!("pid {pid} is taken by {comm}"),
        };
    }
    // No process has it, but a session or group that outlived its leader may.
    for id in proc::pids() {
        let Ok(stat) = ProcDir::open(id).and_then(|d| proc::read_stat(&d)) else { continue };
        let comm = String::from_utf8_lossy(&stat.comm).into_owned();
        if stat.sid == pid {
            return format!("the number {pid} is taken by the session of process {id} ({comm})");
        }
        if stat.pgid == pid {
            return format!("the number {pid} is taken by the process group of process {id} ({comm})");
        }
    }
    format!("pid {pid} is taken")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_named() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        // It has our name until it has called exec.
        while !holder(child.id() as Pid).contains("sleep") {
            std::thread::yield_now();
        }
        let said = holder(child.id() as Pid);
        child.kill().unwrap();
        let dead = {
            // Ended and not waited for.
            while !holder(child.id() as Pid).contains("has ended") {
                std::thread::yield_now();
            }
            holder(child.id() as Pid)
        };
        child.wait().unwrap();
        assert!(said.contains("taken by sleep"), "{said}");
        assert!(dead.contains("has not waited"), "{dead}");
    }

    #[test]
    fn waiting_ends_at_the_deadline_and_with_other_errors_at_once() {
        let eexist = || RemoteError::Step { step: "clone3", errno: Errno(libc::EEXIST) };
        let mut tries = 0;
        let made = retry(std::process::id() as Pid, Instant::now() + Duration::from_secs(5), || {
            tries += 1;
            if tries < 3 { Err(eexist()) } else { Ok(7) }
        });
        assert_eq!(made.unwrap(), 7);
        let e = retry::<()>(std::process::id() as Pid, Instant::now(), || Err(eexist())).unwrap_err();
        assert!(e.to_string().contains("is taken by"), "{e}");
        let e = retry::<()>(5, Instant::now(), || Err(RemoteError::Step { step: "clone3", errno: Errno(libc::EPERM) }));
        assert!(e.unwrap_err().advice.unwrap().contains("CAP_CHECKPOINT_RESTORE"));
    }
}
