//! What went wrong last in this thread: what kind of thing, the whole text, and the five answers of which it is made.

use std::cell::RefCell;
use std::ffi::{CStr, CString};

/// What ended a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It should have worked.
    Failed = 1,
    /// The call itself was wrong: a null pointer, an unknown class, nothing plugged.
    Usage = 2,
    /// Ghost does not carry this; nothing was touched.
    Refused = 3,
}

/// A failed call.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    text: CString,
    /// What was being done, to which process and object, why it failed, what the user can do, how things were left.
    answers: [CString; 5],
}

fn c(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}

impl Failure {
    fn new(kind: Kind, text: &str, answers: [&str; 5]) -> Self {
        Self { kind, text: c(text), answers: answers.map(c) }
    }

    /// A call that cannot be meant.
    pub fn usage(what: &str, why: &str, advice: &str) -> Self {
        const STATE: &str = "nothing was touched";
        let text = format!("{what} failed\n  why:   {why}\n  try:   {advice}\n  state: {STATE}");
        Self::new(Kind::Usage, &text, [what, "", why, advice, STATE])
    }

    /// A panic that was caught at the border.
    pub fn panicked(what: &str, payload: &(dyn std::any::Any + Send)) -> Self {
        let words = payload
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned());
        let why = format!("ghost itself is broken: {}", words.unwrap_or_else(|| "it gave no reason".to_owned()));
        let advice = "please report this; processes that were being exported run on";
        let state = "what was being made was given up";
        let text = format!("{what} failed\n  why:   {why}\n  try:   {advice}\n  state: {state}");
        Self::new(Kind::Failed, &text, [what, "", &why, advice, state])
    }

    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }
    /// The whole text.
    pub fn text(&self) -> &CStr {
        &self.text
    }
}

impl From<ghost::Error> for Failure {
    fn from(e: ghost::Error) -> Self {
        let text = e.to_string();
        let kind = if e.is_refusal() { Kind::Refused } else { Kind::Failed };
        match e {
            ghost::Error::Refused { action, blockers } => {
                let lines =
                    |of: &dyn Fn(&ghost::Blocker) -> String| blockers.iter().map(of).collect::<Vec<_>>().join("\n");
                let who = lines(&|b| format!("pid {} ({}), {}", b.pid, b.comm, b.subject));
                let why = lines(&|b| format!("{}: {}", b.kind, b.why));
                let advice = lines(&|b| b.advice.clone());
                Self::new(kind, &text, [&action.to_string(), &who, &why, &advice, "nothing was touched"])
            }
            ghost::Error::Failed { action, process, what, aftermath } => {
                let process = if process.is_empty() && what.pid != 0 { format!("pid {}", what.pid) } else { process };
                let who: Vec<&str> = [&*process, &*what.subject].into_iter().filter(|s| !s.is_empty()).collect();
                let doing = format!("{action}: {}", what.step);
                let advice = what.what_to_do().unwrap_or_default();
                Self::new(kind, &text, [&doing, &who.join(", "), &what.cause.to_string(), &advice, &aftermath])
            }
        }
    }
}

impl From<ghost::resource::Error> for Failure {
    fn from(e: ghost::resource::Error) -> Self {
        let (advice, state, why) = (e.advice(), e.aftermath().to_string(), e.cause().to_string());
        let text = format!("{} {} failed\n  why:   {why}\n  try:   {advice}\n  state: {state}", e.step(), e.resource());
        Self::new(Kind::Failed, &text, [e.step(), e.resource(), &why, &advice, &state])
    }
}

thread_local! {
    static LAST: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

/// Keeps a failure, or forgets the one before.
pub fn set(failure: Option<Failure>) {
    // During the end of a thread there is nobody left to ask.
    let _ = LAST.try_with(|last| *last.borrow_mut() = failure);
}

/// The kind of the last failure of this thread, 0 if its last call worked.
pub fn kind() -> i32 {
    LAST.try_with(|last| last.borrow().as_ref().map_or(0, |f| f.kind as i32)).unwrap_or(0)
}

/// The text of the last failure, or one of its five answers; empty if there is none. It lives until the next [`set`].
pub fn text(answer: Option<usize>) -> *const std::ffi::c_char {
    let find = |last: &RefCell<Option<Failure>>| {
        let last = last.borrow();
        match (last.as_ref(), answer) {
            (Some(f), None) => f.text.as_ptr(),
            (Some(f), Some(n)) => f.answers.get(n).map_or(c"".as_ptr(), |a| a.as_ptr()),
            (None, _) => c"".as_ptr(),
        }
    };
    LAST.try_with(find).unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_every_thing_in_every_answer() {
        let blocker = |subject: &str| ghost::Blocker {
            pid: 7,
            comm: "app".into(),
            kind: "io_uring",
            subject: subject.into(),
            why: "it is a ring".into(),
            advice: "close it".into(),
            passes: false,
        };
        let e = ghost::Error::Refused {
            action: ghost::Action::Checkpoint,
            blockers: vec![blocker("fd 3"), blocker("fd 4")],
        };
        let f = Failure::from(e);
        assert_eq!(f.kind(), Kind::Refused);
        let answers: Vec<_> = f.answers.iter().map(|a| a.to_str().unwrap()).collect();
        assert_eq!(answers[0], "checkpoint");
        assert_eq!(answers[1], "pid 7 (app), fd 3\npid 7 (app), fd 4");
        assert_eq!(answers[2], "io_uring: it is a ring\nio_uring: it is a ring");
        assert_eq!(answers[3], "close it\nclose it");
        assert_eq!(answers[4], "nothing was touched");
    }

    #[test]
    fn a_text_with_a_zero_byte_is_not_cut_short() {
        let f = Failure::usage("plugging a\0b", "no", "other");
        assert!(f.text().to_str().unwrap().contains("a\u{fffd}b failed"));
    }
}
