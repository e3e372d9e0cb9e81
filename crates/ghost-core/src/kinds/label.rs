//! Labels of a security module (SELinux, AppArmor, Smack): `/proc/PID/attr/`, `proc_pid_attr(5)`.
//!
//! They do not travel. A process that comes back has the label of ghost, so nothing is lost where it is the same, as it is where no
//! such module is on. Another label is refused by name: without it the program would be held to other rules than those that somebody
//! has written for it. So is what it has chosen for its next program, file, key or socket.

use crate::error::Blocker;
use crate::view::{ProcessView, TreeView};
use ghost_sys::proc::ProcDir;

/// What a process has chosen for what it makes next, each empty by default.
const NEXT: [&str; 4] = ["exec", "fscreate", "keycreate", "sockcreate"];

fn read(dir: &ProcDir, name: &str) -> Option<Vec<u8>> {
    let text = dir.bytes(&format!("attr/{name}")).ok()?;
    let text = text.strip_suffix(b"\0").unwrap_or(&text);
    Some(text.trim_ascii_end().to_vec())
}

/// Names the labels that a process could not be given again.
pub fn check(view: &TreeView, out: &mut Vec<Blocker>) {
    let Some(own) = ProcDir::own().ok().and_then(|dir| read(&dir, "current")) else { return };
    for process in view.processes.iter().filter(|p| !p.is_zombie()) {
        out.extend(differs(process, &own, |name| read(&process.dir, name)));
    }
}

fn differs(process: &ProcessView, own: &[u8], read: impl Fn(&str) -> Option<Vec<u8>>) -> Option<Blocker> {
    let why = why(own, read)?;
    Some(Blocker {
        pid: process.pid,
        comm: process.comm(),
        kind: "label",
        subject: "security label".into(),
        why,
        advice:
            "run ghost under the same label (runcon, aa-exec), or --accept label to restart it under the restorer's"
                .into(),
        passes: false,
    })
}

fn why(own: &[u8], read: impl Fn(&str) -> Option<Vec<u8>>) -> Option<String> {
    let text = |label: &[u8]| String::from_utf8_lossy(label).into_owned();
    let label = read("current")?;
    if label != own {
        return Some(format!("it is {}, and ghost is {}", text(&label), text(own)));
    }
    NEXT.into_iter().find_map(|name| {
        let chosen = read(name).filter(|label| !label.is_empty())?;
        Some(format!("it has chosen {} for what it makes next ({name})", text(&chosen)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_label_and_a_choice_are_told() {
        let of = |current: &'static str, fscreate: &'static str| {
            why(b"unconfined_t", move |name| match name {
                "current" => Some(current.into()),
                "fscreate" => Some(fscreate.into()),
                // A module that has no such file.
                _ => None,
            })
        };
        assert_eq!(of("unconfined_t", ""), None);
        assert_eq!(of("httpd_t", "").unwrap(), "it is httpd_t, and ghost is unconfined_t");
        assert_eq!(of("unconfined_t", "tmp_t").unwrap(), "it has chosen tmp_t for what it makes next (fscreate)");
        assert_eq!(why(b"", |_| None), None, "no module is on");
    }
}
