//! What a user can do about a cause, where the step that failed has nothing better to say.

use crate::error::Cause;
use ghost_sys::remote::RemoteError;

/// Advice by cause alone. None where nothing true for all cases can be said.
pub(crate) fn on(cause: &Cause) -> Option<String> {
    let (errno, label) = match cause {
        Cause::Resource(e) => return Some(e.advice()).filter(|words| !words.is_empty()),
        Cause::Image(e) => return e.advice().map(str::to_owned),
        Cause::Proc(e) if e.is_gone() => {
            let words = "see what runs by ps(1); in another pid namespace a process has another pid";
            return Some(words.to_owned());
        }
        Cause::Proc(e) => (e.errno()?, ""),
        Cause::Kernel(errno) => (*errno, ""),
        Cause::Remote(RemoteError::Call { errno, label, .. }) => (*errno, label.as_str()),
        Cause::Remote(RemoteError::Step { errno, step }) => (*errno, *step),
        _ => return None,
    };
    let words = match errno.0 {
        libc::EPERM | libc::EACCES => "run ghost as root; `ghost check` tells what else this host withholds",
        libc::EMFILE => "raise the limit on open files (ulimit -n)",
        libc::ENFILE => "raise the system's limit on open files (sysctl fs.file-max)",
        libc::ENOMEM => "make memory free, or raise the limit on it (ulimit -v, memory.max of the cgroup)",
        libc::ENOSPC => "make room there, or name another place",
        libc::EAGAIN if label.starts_with("clone") => {
            "raise the limit on processes (ulimit -u, pids.max of the cgroup, sysctl kernel.pid_max)"
        }
        _ => return None,
    };
    Some(words.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ghost_sys::Errno;

    #[test]
    fn known_causes_have_advice_and_others_none() {
        assert!(on(&Cause::Kernel(Errno(libc::EMFILE))).unwrap().contains("ulimit -n"));
        let clone = RemoteError::Call { index: 0, label: "clone3 of 7".into(), errno: Errno(libc::EAGAIN) };
        assert!(on(&Cause::Remote(clone)).unwrap().contains("pids.max"));
        assert_eq!(on(&Cause::Kernel(Errno(libc::EAGAIN))), None);
        assert_eq!(on(&Cause::Conflict("two".into())), None);
        assert!(
            on(&Cause::Image(ghost_image::Error::NotGhost { found: [0; 8] })).unwrap().contains("ghost checkpoint")
        );
    }
}
