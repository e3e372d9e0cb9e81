//! Named places where a test can make a step fail or kill ghost: `GHOST_FAIL=NAME=error` or `NAME=kill`.
//!
//! Read once from the environment; without it a point costs one load. All names are listed by `ghost failpoints`.

use crate::error::{Cause, KindError};
use std::sync::OnceLock;

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Error,
    Kill,
}

fn asked() -> Option<&'static (String, How)> {
    static ASKED: OnceLock<Option<(String, How)>> = OnceLock::new();
    ASKED
        .get_or_init(|| {
            let text = std::env::var("GHOST_FAIL").ok()?;
            let (name, how) = text.rsplit_once('=')?;
            let how = if how == "kill" { How::Kill } else { How::Error };
            Some((name.to_owned(), how))
        })
        .as_ref()
}

/// Passes, unless a test asked for a failure here.
pub fn hit(name: &str) -> Result<(), KindError> {
    match asked() {
        Some((asked, how)) if asked == name => fire(name, *how),
        _ => Ok(()),
    }
}

/// The same for a point of each kind: `export.kind.memory`.
pub fn hit_named(group: &str, name: &str) -> Result<(), KindError> {
    match asked() {
        Some((asked, how)) if asked.strip_prefix(group).and_then(|r| r.strip_prefix('.')) == Some(name) => {
            fire(asked, *how)
        }
        _ => Ok(()),
    }
}

fn fire(name: &str, how: How) -> Result<(), KindError> {
    match how {
        How::Kill => {
            let me = rustix::process::getpid();
            let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
            unreachable!("SIGKILL to oneself is delivered before kill(2) returns")
        }
        How::Error => Err(KindError::new("a test's wish", Cause::Failpoint(name.to_owned()))),
    }
}

/// The names of all failpoints, in the order in which an export and an import pass them.
pub fn names() -> Vec<String> {
    let kinds = |group: &str| crate::kinds::KINDS.iter().map(|k| format!("{group}.{}", k.name)).collect::<Vec<_>>();
    let mut all: Vec<String> = ["export.frozen", "export.checked", "export.asked"].map(String::from).into();
    all.extend(kinds("export.kind"));
    all.extend(["export.records", "export.pages", "export.commit", "committed"].map(String::from));
    all.push("import.records".into());
    all.extend(kinds("import.kind"));
    all.push("import.pages".into());
    all.extend(kinds("finish.kind"));
    all.extend(["import.settled", "import.prepared", "import.go"].map(String::from));
    all.extend(["migrate.prepared", "migrate.committed", "migrate.taken"].map(String::from));
    all
}
