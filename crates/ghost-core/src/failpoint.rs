//! Named places where a test can make a step fail or kill ghost: `GHOST_FAIL=NAME=error` or `NAME=kill`, or several with commas.
//!
//! Read once from the environment; without it a point costs one load. All names are listed by `ghost failpoints`. One that is passed
//! again and again (for each descriptor, each thread) is listed as `NAME#`: `NAME#3=kill` is the third time, `NAME=kill` the first.

use crate::error::{Cause, KindError};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    Error,
    Kill,
}

/// A wish: where, at which time of passing, how; and how often it was passed.
#[derive(Debug)]
struct Wish {
    name: String,
    nth: u64,
    how: How,
    passed: AtomicU64,
}

impl Wish {
    fn parse(text: &str) -> Option<Self> {
        let (place, how) = text.rsplit_once('=')?;
        let (name, nth) = match place.rsplit_once('#') {
            Some((name, nth)) => (name, nth.parse().ok()?),
            None => (place, 1),
        };
        let how = if how == "kill" { How::Kill } else { How::Error };
        Some(Self { name: name.to_owned(), nth, how, passed: AtomicU64::new(0) })
    }

    /// Whether this passing is the one.
    fn met(&self) -> bool {
        self.passed.fetch_add(1, Ordering::Relaxed) + 1 == self.nth
    }
}

fn wishes() -> &'static [Wish] {
    static WISHES: OnceLock<Vec<Wish>> = OnceLock::new();
    WISHES.get_or_init(|| {
        let text = std::env::var("GHOST_FAIL").unwrap_or_default();
        text.split(',').filter_map(Wish::parse).collect()
    })
}

/// Passes, unless a test asked for a failure here.
pub fn hit(name: &str) -> Result<(), KindError> {
    match wishes().iter().find(|w| w.name == name && w.met()) {
        None => Ok(()),
        Some(wish) => fire(wish),
    }
}

/// The same for a point of each kind: `export.kind.memory`.
pub fn hit_named(group: &str, name: &str) -> Result<(), KindError> {
    let is = |w: &&Wish| w.name.strip_prefix(group).and_then(|r| r.strip_prefix('.')) == Some(name);
    match wishes().iter().find(|w| is(w) && w.met()) {
        None => Ok(()),
        Some(wish) => fire(wish),
    }
}

/// Whether a test has a wish for this place: then what else is one batch is made call by call, so that there are instants between.
pub fn is_wanted(name: &str) -> bool {
    wishes().iter().any(|w| w.name == name)
}

fn fire(wish: &Wish) -> Result<(), KindError> {
    match wish.how {
        How::Kill => {
            let me = rustix::process::getpid();
            let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
            unreachable!("SIGKILL to oneself is delivered before kill(2) returns")
        }
        How::Error => Err(KindError::new("a test's wish", Cause::Failpoint(wish.name.clone()))),
    }
}

/// The names of all failpoints, in the order in which an export and an import pass them.
pub fn names() -> Vec<String> {
    let kinds = |group: &str| crate::kinds::KINDS.iter().map(|k| format!("{group}.{}", k.name)).collect::<Vec<_>>();
    let mut all: Vec<String> =
        ["export.frozen", "export.checked", "export.asked", "export.description#"].map(String::from).into();
    all.extend(kinds("export.kind"));
    all.extend(["export.records", "export.source#", "export.pages", "export.commit", "committed"].map(String::from));
    all.extend(["import.records", "import.description#", "import.bound#", "import.momentary#"].map(String::from));
    all.extend(kinds("import.kind"));
    all.push("import.pages".into());
    all.extend(["finish.handing#", "finish.placing#"].map(String::from));
    all.extend(kinds("finish.kind"));
    let settling = ["filters", "begin", "trap", "continue", "unmapped", "registers"];
    all.extend(settling.map(|s| format!("settle.{s}#")));
    all.extend(["import.settled", "import.prepared", "import.go"].map(String::from));
    all.extend(["go.stopping#", "go.stopped#", "go.thread#"].map(String::from));
    all.extend(["migrate.prepared", "migrate.committed", "migrate.taken"].map(String::from));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_met_at_its_time() {
        let wish = Wish::parse("go.thread#3=kill").unwrap();
        assert_eq!((wish.name.as_str(), wish.nth, wish.how), ("go.thread", 3, How::Kill));
        assert_eq!([wish.met(), wish.met(), wish.met(), wish.met()], [false, false, true, false]);
        let first = Wish::parse("import.go=error").unwrap();
        assert_eq!((first.nth, first.how, first.met()), (1, How::Error, true));
        assert!(Wish::parse("nothing").is_none());
    }
}
