//! Errors that answer five questions: what was being done, to which process and object, why it failed, what the user
//! can do, and in what state things were left.
//!
//! Rules: lower case, no final stop, the refused value is named, the source's text is not repeated. *Refused* (ghost does
//! not carry this) and *failed* (it should have worked) differ, also in the exit code. A kind returns [`KindError`]; the
//! engine, which knows action and aftermath, wraps it once into [`Error`].

use ghost_sys::{Errno, Pid};
use std::fmt;
use std::io::ErrorKind;

/// What a user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A process tree into a ghost.
    Checkpoint,
    /// A process tree out of a ghost.
    Restart,
    /// To another host.
    Migrate,
    /// A second one beside the first.
    Duplicate,
    /// Only asking what would be refused.
    Check,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checkpoint => "checkpoint",
            Self::Restart => "restart",
            Self::Migrate => "migrate",
            Self::Duplicate => "duplicate",
            Self::Check => "check",
        })
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// A system call of ghost.
    #[error("{0}")]
    Kernel(#[from] Errno),
    /// A system call inside the process.
    #[error("{0}")]
    Remote(#[from] ghost_sys::remote::RemoteError),
    /// The bytes of the ghost.
    #[error("{0}")]
    Image(#[from] ghost_image::Error),
    /// Where the ghost goes or comes from.
    #[error("{0}")]
    Resource(#[from] ghost_resource::Error),
    /// A text of procfs that could not be read or understood.
    #[error("{0}")]
    Proc(#[from] ghost_sys::proc::ProcError),
    /// Two things that do not go together, said in words.
    #[error("{0}")]
    Conflict(String),
    /// Something that cannot travel, found out while the tree was being frozen.
    #[error("{0}")]
    Refused(Box<Blocker>),
    /// Something that ghost will not do, said in words: a refusal, no failure.
    #[error("{0}")]
    Rule(String),
    /// A failure that a test asked for at a named point.
    #[error("failpoint {0} was told to fail")]
    Failpoint(String),
}

impl From<std::io::Error> for Cause {
    fn from(e: std::io::Error) -> Self {
        Self::Kernel(e.into())
    }
}
impl From<rustix::io::Errno> for Cause {
    fn from(e: rustix::io::Errno) -> Self {
        Self::Kernel(Errno(e.raw_os_error()))
    }
}

/// One step on one object that failed, as a kind reports it.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {cause}")]
pub struct KindError {
    /// The process, 0 when it is not about one.
    pub pid: Pid,
    /// The object: `fd 7, pipe 1234`.
    pub subject: String,
    /// What was being done.
    pub step: String,
    /// Why it failed.
    pub cause: Cause,
    /// What the user can do.
    pub advice: Option<String>,
}

impl KindError {
    /// A failed step; process and object are added by [`KindError::on`].
    pub fn new(step: impl Into<String>, cause: impl Into<Cause>) -> Self {
        Self { pid: 0, subject: String::new(), step: step.into(), cause: cause.into(), advice: None }
    }
    /// Says which process and which object it was about.
    pub fn on(mut self, pid: Pid, subject: impl Into<String>) -> Self {
        self.pid = pid;
        self.subject = subject.into();
        self
    }
    /// Says what the user can do.
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
    /// What the user can do: as the step says, or else what the cause suggests.
    pub fn what_to_do(&self) -> Option<String> {
        self.advice.clone().or_else(|| crate::advice::on(&self.cause))
    }
    /// A refusal in words.
    pub fn refusal(step: impl Into<String>, words: impl Into<String>) -> Self {
        Self::new(step, Cause::Rule(words.into()))
    }
    /// Whether ghost will not, rather than could not.
    pub fn is_refusal(&self) -> bool {
        match &self.cause {
            Cause::Rule(_) | Cause::Refused(_) => true,
            Cause::Resource(e) => matches!(e.cause(), ghost_resource::Cause::Exists),
            _ => false,
        }
    }
    /// Whether the same will work in a moment (see the puppet's notes on ghosts that were killed or too slow).
    pub fn is_transient(&self) -> bool {
        use ghost_sys::remote::RemoteError::Step;
        matches!(&self.cause, Cause::Remote(Step { errno: Errno(libc::EBUSY | libc::ETIME), .. }))
    }
    /// A failed writing of the ghost, with what the user can do.
    pub fn unwritten(step: &str, e: ghost_image::Error) -> Self {
        let advice = match &e {
            ghost_image::Error::Write { source, .. } => match source.kind() {
                ErrorKind::StorageFull => Some("make room there, or name another place"),
                ErrorKind::FileTooLarge => {
                    Some("raise the limit on the size of files (ulimit -f), or name another file system")
                }
                _ => None,
            },
            _ => None,
        };
        Self { advice: advice.map(str::to_owned), ..Self::new(step, e) }
    }
    /// A conflict in words.
    pub fn conflict(step: impl Into<String>, words: impl Into<String>) -> Self {
        Self::new(step, Cause::Conflict(words.into()))
    }
}

/// Adds the step to a result on its way up.
pub trait Context<T> {
    /// Names what was being done.
    fn step(self, step: impl Into<String>) -> Result<T, KindError>;
    /// Names what was being done, in words made only on failure, and the object.
    fn step_on(self, pid: Pid, subject: impl FnOnce() -> String, step: &str) -> Result<T, KindError>;
}
impl<T, E: Into<Cause>> Context<T> for Result<T, E> {
    fn step(self, step: impl Into<String>) -> Result<T, KindError> {
        self.map_err(|e| KindError::new(step, e))
    }
    fn step_on(self, pid: Pid, subject: impl FnOnce() -> String, step: &str) -> Result<T, KindError> {
        self.map_err(|e| KindError::new(step, e).on(pid, subject()))
    }
}

/// Something of a process that cannot travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// The process.
    pub pid: Pid,
    /// Its name.
    pub comm: String,
    /// The kind of object, as `--accept` and docs/support.md name it: `io_uring`.
    pub kind: &'static str,
    /// Which one: `fd 7`.
    pub subject: String,
    /// Why it can't travel.
    pub why: String,
    /// What the user can do about it.
    pub advice: String,
    /// It is likely to be gone in a moment, as soon as the program runs on: ghost looks again itself, before it refuses.
    pub passes: bool,
}

/// What to do about an obstacle that goes away by itself ([`Blocker::passes`]) when this has happened.
pub(crate) fn again_once(this: &str) -> String {
    format!("checkpoint again once {this}")
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (comm, subject, why) = (printable(&self.comm), printable(&self.subject), printable(&self.why));
        write!(f, "pid {} ({comm}), {subject}: {}: {why}", self.pid, self.kind)?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, "\n      try: {}", self.advice) }
    }
}

/// What an action ended with instead of success.
#[derive(Debug)]
pub enum Error {
    /// Nothing was touched: these things cannot travel, all of them at once.
    Refused {
        /// The action.
        action: Action,
        /// Every blocker.
        blockers: Vec<Blocker>,
    },
    /// It should have worked.
    Failed {
        /// The action.
        action: Action,
        /// The process by name, when there is one.
        process: String,
        /// The step, its object, its cause.
        what: KindError,
        /// In what state things were left.
        aftermath: String,
    },
}

impl Error {
    /// Whether it was a refusal (exit code 3) and no failure (1).
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Refused { .. } => true,
            Self::Failed { what, .. } => what.is_refusal(),
        }
    }
}

impl std::error::Error for Error {}
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { action, blockers } => {
                write!(f, "{action} refused: {} cannot travel", count(blockers.len()))?;
                for b in blockers {
                    write!(f, "\n  {b}")?;
                }
                write!(f, "\n  state: nothing was touched")
            }
            Self::Failed { action, process, what, aftermath } => {
                write!(f, "{action} {}: ", if what.is_refusal() { "refused" } else { "failed" })?;
                if what.pid != 0 {
                    write!(f, "pid {}, ", what.pid)?;
                } else if !process.is_empty() {
                    write!(f, "{process}, ")?;
                }
                if !what.subject.is_empty() {
                    write!(f, "{}, ", printable(&what.subject))?;
                }
                write!(f, "{}\n  why:   {}", printable(&what.step), chain(&what.cause))?;
                if let Some(a) = what.what_to_do() {
                    write!(f, "\n  try:   {a}")?;
                }
                write!(f, "\n  state: {aftermath}")
            }
        }
    }
}

/// Text of somebody else's making, such as the name of a process, without what would drive a terminal or look like a line of ours.
pub fn printable(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains(char::is_control) {
        text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
    } else {
        text.into()
    }
}

/// An error with what caused it, as far as that says anything new.
fn chain(cause: &Cause) -> String {
    let mut text = cause.to_string();
    let mut next = std::error::Error::source(cause);
    while let Some(e) = next {
        let words = e.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = e.source();
    }
    text
}

fn count(n: usize) -> String {
    if n == 1 { "one thing".into() } else { format!("{n} things") }
}
