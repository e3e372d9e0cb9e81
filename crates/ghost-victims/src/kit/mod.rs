//! Small safe helpers over libc for victims about files, pipes, sockets, terminals and refusals.
//!
//! Descriptors are plain numbers: a victim is *about* its numbers, and it never closes one behind its own
//! back. Every call answers with [`Errno`], which turns into the text of a `BAD` line by `?`; `row!` makes a
//! row of the table from a body in which `?` works, [`run`] does the same for a child.

pub mod fd;
pub mod mem;
pub mod outside;
pub mod sock;
pub mod task;

use std::fmt::Debug;

/// What a victim or one of its steps returns; the text is what goes behind `BAD`.
pub type Res<T = ()> = Result<T, String>;

/// A system call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno {
    /// The call's name.
    pub call: &'static str,
    /// The value of `errno`.
    pub code: i32,
}

impl Errno {
    /// The error of the last call of this thread.
    pub fn last(call: &'static str) -> Self {
        Self { call, code: std::io::Error::last_os_error().raw_os_error().unwrap_or(0) }
    }
}

impl From<Errno> for String {
    fn from(e: Errno) -> Self {
        format!("{}: expected success, found {}", e.call, std::io::Error::from_raw_os_error(e.code))
    }
}

/// Result of one call.
pub type Sys<T = ()> = Result<T, Errno>;

/// Turns the -1 of libc into an [`Errno`].
pub fn sys(call: &'static str, value: i64) -> Sys<i64> {
    if value == -1 { Err(Errno::last(call)) } else { Ok(value) }
}

/// Holds when both are equal.
pub fn same<T: PartialEq + Debug>(what: &str, expected: T, found: T) -> Res {
    if expected == found { Ok(()) } else { Err(format!("{what}: expected {expected:?}, found {found:?}")) }
}

/// Holds when `truth` does; the text says what should have been.
pub fn truth(what: &str, truth: bool) -> Res {
    if truth { Ok(()) } else { Err(format!("{what}: expected to hold, found that it does not")) }
}

/// Holds when two byte strings are equal; says where they part instead of printing them.
pub fn same_bytes(what: &str, expected: &[u8], found: &[u8]) -> Res {
    if expected == found {
        return Ok(());
    }
    let at = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
    Err(format!(
        "{what}: expected {} bytes ({:?} at {at}), found {} bytes ({:?} there)",
        expected.len(),
        expected.get(at),
        found.len(),
        found.get(at)
    ))
}

/// Holds when the call failed with this error.
pub fn fails<T: Debug>(what: &str, code: i32, found: Sys<T>) -> Res {
    match found {
        Err(e) if e.code == code => Ok(()),
        Err(e) => Err(format!("{what}: expected errno {code}, found errno {}", e.code)),
        Ok(v) => Err(format!("{what}: expected errno {code}, found success ({v:?})")),
    }
}

/// Bytes that follow from a seed and do not repeat soon.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// FNV-1a, to compare long streams.
pub fn digest(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start ^ 0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

/// The `CString` of a path or name without inner NUL.
pub fn cstr(bytes: impl AsRef<std::ffi::OsStr>) -> std::ffi::CString {
    use std::os::unix::ffi::OsStrExt as _;
    std::ffi::CString::new(bytes.as_ref().as_bytes()).unwrap_or_default()
}

/// Runs the body of a victim, a child or a thread; an error is a panic, which the context turns into a verdict.
pub fn run(c: &mut crate::Ctx, body: impl FnOnce(&mut crate::Ctx) -> Res) {
    if let Err(text) = body(c) {
        panic!("{text}");
    }
}

/// A row of the table whose body may use `?`: `row!("name", |s| { … })`, `row!("name", [flags], |s| { … })`.
macro_rules! row {
    ($name:expr, |$s:ident| $body:block) => {
        $crate::kit::row!($name, [], |$s| $body)
    };
    ($name:expr, [$($flag:expr),*], |$s:ident| $body:block) => {
        $crate::flagged($name, &[$($flag),*], |ctx| {
            $crate::kit::run(ctx, |$s| {
                $body
                Ok(())
            });
        })
    };
}
pub(crate) use row;
